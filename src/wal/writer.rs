//! The group committer: everything that waits becomes one group, one sync, and then everyone is told.
//!
//! Takes changes from the queue in order, gives durable groups, the places of entries, and completions. It
//! does not own threads or waiting: [`driver`](super::driver) calls [`Writer::round`] and acts on what it
//! says; nor how bytes reach the disk, which is the [`sink`](super::sink)'s. At most one group is ever
//! unsynced, so a crash can tear only the last one.

use std::{
    any::Any,
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use crossbeam_channel::Receiver;
use tokio::time::Instant;

use super::{
    Completion, LogEntry, LogId, Sabotage,
    change::{Change, OpeningState, Work, bare, entry_record},
    files::{is_no_space, whole_blocks},
    format::{FLAG_CLOSING, FLAG_OPENING, GROUP_HEADER_BYTES, GroupHeader, Kind, VERSION, group_bytes},
    group::Group,
    log_files::LogFiles,
    recover::LastGroup,
    shared::Shared,
    sink::GroupSink,
};
use crate::config::WalConfig;

/// The first file after a start is at most this large, so that filling it delays nobody.
const START_FILE_BYTES_MAX: u64 = 4 << 20;

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// A group was written, or the log is poisoned and the queue was refused; there may be more.
    Worked,
    /// Nothing waits. `owes_closing`: the last group is not certified yet.
    Idle { owes_closing: bool },
    /// There is no room for the next file; the queue keeps.
    NoSpace,
    /// The closing group is written; nothing comes after it.
    Stopped,
}

/// Why a group was not written.
enum WriteError {
    /// There is no room for it: it can be tried again.
    NoSpace,
    /// The disk failed: nobody knows what is there now.
    Failed(io::Error),
}

/// Writes the log. See the head of this file.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Receiver<Work>,
    pub(super) config: WalConfig,
    pub(super) sabotage: Sabotage,
    pub(super) files: LogFiles,
    sequence_next: u64,
    opening: OpeningState,
    /// Taken from the queue, in no group yet.
    waiting: VecDeque<Work>,
    /// The group under way. It is here so that after a panic its changes can still be answered.
    group: VecDeque<Work>,
    /// Whether a group was written after the last closing one.
    pub(super) owes_closing: bool,
    /// When the last group was begun, and how long it took to become durable.
    last_began: Instant,
    pub(super) last_took: Duration,
    stopped: bool,
}

impl Writer {
    /// Begins the first file of this run: with the last group of the run before, then with the state.
    ///
    /// That group may have been read from the page cache of a system whose sync of it failed, or from a
    /// disk whose own cache was never flushed. Copied into the new file, under its old sequence, it is
    /// durable before anybody is told that it exists, and no durable block was written twice.
    pub(super) fn begin(
        queue: Receiver<Work>,
        config: WalConfig,
        sabotage: Sabotage,
        files: LogFiles,
        opening: OpeningState,
        last: Option<&LastGroup>,
        sink: &mut dyn GroupSink,
    ) -> io::Result<Self> {
        let mut writer = Self {
            shared: files.shared.clone(),
            queue,
            config,
            sabotage,
            files,
            sequence_next: last.map_or(1, |last| last.header.sequence + 1),
            opening,
            waiting: VecDeque::new(),
            group: VecDeque::new(),
            owes_closing: true,
            last_began: Instant::now(),
            last_took: Duration::MAX,
            stopped: false,
        };
        let carried = last.map_or(0, |last| last.header.group_bytes().unwrap_or(0));
        let opening = whole_blocks(GROUP_HEADER_BYTES as u64 + writer.opening.bytes());
        let small = START_FILE_BYTES_MAX.min(writer.config.file_bytes);
        let taken = writer.files.pool.take_small(small.max(carried + opening))?;
        writer.files.take_into_use(taken)?;
        if let Some(last) = last.filter(|_| !sabotage.skip_carry) {
            writer.files.carry_over(last, !sabotage.skip_sums)?;
        }
        match writer.write_group(sink, None, FLAG_OPENING) {
            Ok(()) => {}
            Err(WriteError::Failed(error)) => return Err(error),
            Err(WriteError::NoSpace) => return Err(io::ErrorKind::StorageFull.into()),
        }
        writer.files.pool.order();
        writer.free_purged();
        if let Some(last) = last {
            writer.files.trim_previous(last);
        }
        Ok(writer)
    }

    /// Whether nothing waits and nothing was written for this long.
    pub(super) fn is_idle_for(&self, time: Duration) -> bool {
        self.waiting.is_empty() && self.last_began.elapsed() >= time
    }

    /// Takes a change that the driver received.
    pub(super) fn push(&mut self, work: Work) {
        self.waiting.push_back(work);
    }

    /// Writes one group of what waits, if anything does.
    pub(super) fn round(&mut self, sink: &mut dyn GroupSink) -> Round {
        self.guarded(|writer| writer.try_round(sink))
    }

    /// Certifies the last group, because nothing has come for a while.
    pub(super) fn close_idle(&mut self, sink: &mut dyn GroupSink) -> Round {
        self.guarded(|writer| writer.try_close_idle(sink))
    }

    /// Takes a panic for a failed write: nobody knows what is on disk now, so nothing is written again.
    fn guarded(&mut self, mut work: impl FnMut(&mut Self) -> Round) -> Round {
        loop {
            match catch_unwind(AssertUnwindSafe(|| work(self))) {
                Ok(round) => return round,
                // The next turn refuses what waits. A completion that panics there is one less, so this ends.
                Err(panic) => self.poison(&format!("the log's writer panicked: {}", panic_text(&*panic))),
            }
        }
    }

    fn try_round(&mut self, sink: &mut dyn GroupSink) -> Round {
        if self.stopped {
            return self.refuse_all();
        }
        let limit = self.config.group_bytes_max as u64;
        let mut bytes: u64 = self.waiting.iter().map(|work| work.change.bytes()).sum();
        while bytes < limit
            && let Ok(work) = self.queue.try_recv()
        {
            bytes += work.change.bytes();
            self.waiting.push_back(work);
        }
        if self.waiting.is_empty() {
            return Round::Idle { owes_closing: self.owes_closing && !self.shared.is_poisoned() };
        }
        if self.shared.is_poisoned() {
            return self.refuse_all();
        }
        if self.sabotage.reorder_votes {
            self.waiting.make_contiguous().sort_by_key(|work| matches!(work.change, Change::Vote(_)));
        }
        if self.sabotage.ack_before_sync && self.acknowledge_early() {
            return Round::Worked;
        }
        let closes = matches!(self.waiting.front(), Some(Work { change: Change::Close, .. }));
        if closes {
            self.group.extend(self.waiting.pop_front());
        } else {
            self.take_group(limit);
        }
        self.commit(sink, if closes { FLAG_CLOSING } else { 0 })
    }

    fn try_close_idle(&mut self, sink: &mut dyn GroupSink) -> Round {
        if self.stopped || self.shared.is_poisoned() {
            return Round::Idle { owes_closing: false };
        }
        self.commit(sink, FLAG_CLOSING)
    }

    /// The planted bug: answers what waits and leaves its writing to the next round.
    fn acknowledge_early(&mut self) -> bool {
        let early: Vec<_> = self.waiting.iter_mut().filter_map(|work| work.done.take()).collect();
        let any = !early.is_empty();
        early.into_iter().for_each(|done| done(Ok(())));
        any
    }

    /// Gives up on what waits for space, because the log is being closed.
    pub(super) fn give_up(&mut self) {
        self.poison("the disk is full and the log was closed");
        self.stopped = true;
        self.guarded(Self::refuse_all);
    }

    /// Whether `close` was called and its closing group is not written yet.
    pub(super) fn is_closing(&self) -> bool {
        self.shared.is_closed() && !self.stopped
    }

    /// Takes the front of what waits, up to a group's size; an append that is too large is divided.
    fn take_group(&mut self, limit: u64) {
        let mut room = limit;
        while let Some(work) = self.waiting.pop_front() {
            let bytes = work.change.bytes();
            // An end mark is a group of its own.
            let ends = matches!(work.change, Change::Close);
            if bytes <= room && !ends {
                room -= bytes;
                self.group.push_back(work);
                continue;
            }
            match work {
                Work { change: Change::Append(entries, epoch), done } => {
                    self.divide(entries, epoch, done, room);
                }
                small if self.group.is_empty() => self.group.push_back(small),
                small => self.waiting.push_front(small),
            }
            return;
        }
    }

    /// Takes as many entries as there is room for, but at least one into an empty group.
    fn divide(&mut self, mut entries: Vec<LogEntry>, epoch: u64, done: Option<Completion>, mut room: u64) {
        let mut count = 0;
        for entry in &entries {
            let record = entry_record(entry).bytes();
            if record > room && (count > 0 || !self.group.is_empty()) {
                break;
            }
            room = room.saturating_sub(record);
            count += 1;
        }
        let rest = entries.split_off(count);
        if rest.is_empty() {
            self.group.push_back(Work { change: Change::Append(entries, epoch), done });
            return;
        }
        if count > 0 {
            self.group.push_back(Work { change: Change::Append(entries, epoch), done: None });
        }
        self.waiting.push_front(Work { change: Change::Append(rest, epoch), done });
    }

    /// Writes the group under way and tells everyone.
    fn commit(&mut self, sink: &mut dyn GroupSink, flags: u16) -> Round {
        let committed = self.shared.log.lock().map.committed;
        let committed = committed.filter(|_| committed != self.opening.committed);
        let started = Instant::now();
        match self.write_group(sink, committed, flags) {
            Ok(()) => {}
            Err(WriteError::NoSpace) => {
                self.shared.set_full(true);
                self.put_back();
                return Round::NoSpace;
            }
            Err(WriteError::Failed(error)) => {
                let path = self.files.current_path().display();
                self.poison(&format!("writing the log failed at {path}: {error}"));
                return self.refuse_all();
            }
        }
        // From here on the group is durable: a crash no longer undoes any of it.
        self.shared.set_full(false);
        self.owes_closing = flags & FLAG_CLOSING == 0;
        self.stopped = self.group.iter().any(|work| matches!(work.change, Change::Close));
        let purges = self.group.iter().any(|work| matches!(work.change, Change::Purge(_)));
        (self.last_began, self.last_took) = (started, started.elapsed());
        self.shared.group_written(self.last_took, &self.group);
        while let Some(work) = self.group.pop_front() {
            if let Some(done) = work.done {
                done(Ok(()));
            }
        }
        if purges {
            self.free_purged();
        }
        if self.stopped { Round::Stopped } else { Round::Worked }
    }

    /// Nothing is written after this; the first reason is the one that is given.
    fn poison(&mut self, why: &str) {
        tracing::error!(%why, "the log takes no more writes; restart the node when the disk is sound");
        self.shared.poison_with(why);
        self.put_back();
    }

    fn put_back(&mut self) {
        while let Some(work) = self.group.pop_back() {
            self.waiting.push_front(work);
        }
    }

    /// Answers everything that waits with the reason.
    fn refuse_all(&mut self) -> Round {
        let why = self.shared.poison().unwrap_or_else(|| "the log is closed".into());
        while let Some(work) = self.waiting.pop_front().or_else(|| self.queue.try_recv().ok()) {
            self.shared.unqueue(&work);
            self.stopped |= matches!(work.change, Change::Close);
            if let Some(done) = work.done {
                done(Err(io::Error::other(why.clone())));
            }
        }
        if self.stopped { Round::Stopped } else { Round::Worked }
    }

    /// Writes and syncs the group under way, in a new file if the current one has no room, and notes where
    /// its entries went.
    fn write_group(
        &mut self,
        sink: &mut dyn GroupSink,
        committed: Option<LogId>,
        mut flags: u16,
    ) -> Result<(), WriteError> {
        let committed = committed.map(|id| bare(Kind::Committed, Some(id)));
        let body = self.group.iter().map(|work| work.change.bytes()).sum::<u64>()
            + committed.map_or(0, |record| record.bytes());
        let too_large = || WriteError::Failed(io::ErrorKind::FileTooLarge.into());
        let size = |body| group_bytes(body).ok_or_else(too_large);
        if size(body)? > self.files.room() {
            self.next_file(size(body + self.opening.bytes())?)?;
            flags |= FLAG_OPENING;
        }
        let opens = flags & FLAG_OPENING != 0 && !self.sabotage.skip_opening;
        let opening_bytes = if opens { self.opening.bytes() } else { 0 };
        let bytes = size(opening_bytes + body)?;

        let current = self.files.current().map_err(WriteError::Failed)?;
        let opening = opens.then(|| self.opening.records()).into_iter().flatten();
        let changes = self.group.iter().flat_map(|work| work.change.records());
        let count = |records: usize| u32::try_from(records).map_err(|_| too_large());
        let header = GroupHeader {
            version: VERSION,
            flags,
            crc: 0,
            generation: current.generation,
            sequence: self.sequence_next,
            body_bytes: opening_bytes + body,
            records: count(self.record_count(opens) + usize::from(committed.is_some()))?,
        };
        let group = Group::new(header, bytes, opening.chain(changes).chain(committed));
        sink.write(current, group).map_err(WriteError::Failed)?;

        let (file, first) = (current.number, current.offset + GROUP_HEADER_BYTES as u64 + opening_bytes);
        self.note_places(file, first);
        let opening = &mut self.opening;
        self.group.iter().flat_map(|work| work.change.records()).for_each(|record| opening.add(&record));
        committed.iter().for_each(|record| opening.add(record));
        self.sequence_next += 1;
        self.files.advance(bytes);
        self.shared.counters.groups.fetch_add(1, Relaxed);
        self.shared.counters.bytes_written.fetch_add(bytes, Relaxed);
        Ok(())
    }

    fn record_count(&self, opens: bool) -> usize {
        let opening = if opens { self.opening.records().count() } else { 0 };
        opening + self.group.iter().map(|work| work.change.records().count()).sum::<usize>()
    }

    /// Tells the map where the entries of the group are; its first record stands at `at`.
    fn note_places(&mut self, file: u32, mut at: u64) {
        let mut last_index = None;
        let mut log = self.shared.log.lock();
        for work in &self.group {
            match &work.change {
                Change::Append(entries, epoch) => {
                    let places = entries.iter().map(|entry| {
                        let offset = at;
                        at += entry_record(entry).bytes();
                        (entry.id.index.0, offset)
                    });
                    log.map.written(*epoch, file, places);
                    last_index = last_index.max(entries.last().map(|entry| entry.id.index.0));
                }
                Change::Truncate(_, epoch) => {
                    at += work.change.bytes();
                    log.map.truncation_written(*epoch);
                }
                _ => at += work.change.bytes(),
            }
        }
        log.map.trim_tail();
        drop(log);
        if let Some(index) = last_index {
            self.files.holds_entry(index);
        }
    }

    /// Takes the next file into use, large enough for a group of this size.
    fn next_file(&mut self, group_bytes: u64) -> Result<(), WriteError> {
        let judged =
            |error| if is_no_space(&error) { WriteError::NoSpace } else { WriteError::Failed(error) };
        let taken = self.files.pool.take(group_bytes).map_err(judged)?;
        if self.sabotage.free_early {
            self.opening.purged = self.shared.log.lock().map.purged.or(self.opening.purged);
            self.free_purged();
        }
        self.files.take_into_use(taken).map_err(WriteError::Failed)?;
        self.files.pool.order();
        Ok(())
    }

    fn free_purged(&mut self) {
        self.files.free_purged(self.opening.purged.map(|purged| purged.index.0));
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}
