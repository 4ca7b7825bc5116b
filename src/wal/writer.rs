//! The group committer: everything that waits becomes one group, one sync, and then everyone is told.
//!
//! Takes changes from the queue in order, gives durable groups, the places of entries, and completions. It
//! does not own threads or waiting: [`driver`](super::driver) calls [`Writer::round`] and acts on what it
//! says. At most one group is ever unsynced, so a crash can tear only the last one.

use std::{
    any::Any,
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use tokio::time::Instant;

use super::{
    Completion, LogEntry, LogId, Sabotage, Shared,
    buffer::AlignedBuffer,
    files::{LogDir, LogFile, file_name, is_no_space, whole_blocks},
    format::{
        FLAG_CLOSING, FLAG_COPY, FLAG_OPENING, GROUP_HEADER_BYTES, GroupHeader, Kind, Record, Sum, VERSION,
        group_bytes, seal_group,
    },
    pool::FilePool,
    recover::LastGroup,
};
use crate::{
    config::WalConfig,
    env::{File, OpenMode},
};

/// Groups up to this size are gathered in memory and written with one call; larger ones go through the
/// same memory in pieces, so that a huge entry is never there twice.
const PIECE_BYTES: usize = 4 << 20;

/// The first file after a start is at most this large, so that filling it delays nobody.
const START_FILE_BYTES_MAX: u64 = 4 << 20;

/// One change of the log, in the queue.
pub(super) struct Work {
    pub(super) change: Change,
    /// Told when the change is durable, or cannot become so. The first part of a divided append has none.
    pub(super) done: Option<Completion>,
}

/// What a change does.
pub(super) enum Change {
    /// Adds entries; the number is the epoch in which they were queued.
    Append(Vec<LogEntry>, u64),
    Vote(Bytes),
    /// Cuts behind an id; the number is the epoch it begins.
    Truncate(Option<LogId>, u64),
    Purge(LogId),
    /// Ends the log with a closing group.
    Close,
}

impl Change {
    /// Bytes of its records.
    pub(super) fn bytes(&self) -> u64 {
        let mut bytes = 0;
        self.records(&mut |record| bytes += record.bytes());
        bytes
    }

    /// Its records, in order.
    fn records(&self, each: &mut dyn FnMut(Record<'_>)) {
        let bare = |kind, id| Record { kind, id, payload: &[] };
        match self {
            Self::Append(entries, _) => {
                entries
                    .iter()
                    .for_each(|e| each(Record { kind: Kind::Entry, id: Some(e.id), payload: &e.payload }));
            }
            Self::Vote(vote) => each(Record { kind: Kind::Vote, id: None, payload: vote }),
            Self::Truncate(last, _) => each(bare(Kind::Truncate, *last)),
            Self::Purge(id) => each(bare(Kind::Purge, Some(*id))),
            Self::Close => {}
        }
    }
}

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
enum Refusal {
    NoSpace,
    Failed(io::Error),
}

/// What the groups written so far add up to, but for the entries: what a new file begins with.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) last: Option<LogId>,
}

impl Written {
    fn add(&mut self, record: &Record<'_>) {
        match (record.kind, record.id) {
            (Kind::Entry, id) | (Kind::Truncate, id) => self.last = id,
            (Kind::Vote, _) => self.vote = Some(Bytes::copy_from_slice(record.payload)),
            (Kind::Purge, Some(id)) if self.purged.is_none_or(|purged| purged.index < id.index) => {
                self.purged = Some(id);
                self.last = self.last.filter(|last| last.index > id.index).or(Some(id));
            }
            (Kind::Committed, id) => self.committed = id,
            _ => {}
        }
    }

    fn records(&self, each: &mut dyn FnMut(Record<'_>)) {
        if let Some(vote) = &self.vote {
            each(Record { kind: Kind::Vote, id: None, payload: vote });
        }
        for (kind, id) in [(Kind::Purge, self.purged), (Kind::Committed, self.committed)] {
            if id.is_some() {
                each(Record { kind, id, payload: &[] });
            }
        }
        each(Record { kind: Kind::Last, id: self.last, payload: &[] });
    }
}

/// The file that groups go to.
struct Current {
    number: u32,
    generation: u64,
    file: Arc<dyn File>,
    path: PathBuf,
    offset: u64,
    bytes: u64,
}

/// Writes the log. See the head of this file.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Receiver<Work>,
    pub(super) dir: LogDir,
    pub(super) config: WalConfig,
    pub(super) sabotage: Sabotage,
    pub(super) pool: FilePool,
    /// Files of the log, oldest first; the last is the current one.
    pub(super) files: VecDeque<LogFile>,
    pub(super) file_number_next: u32,
    pub(super) sequence_next: u64,
    pub(super) written: Written,
    current: Option<Current>,
    buffer: AlignedBuffer,
    /// Taken from the queue, in no group yet.
    waiting: VecDeque<Work>,
    /// The group under way. It is here so that after a panic its changes can still be answered.
    group: VecDeque<Work>,
    /// Whether a group was written after the last closing one.
    owes_closing: bool,
    stopped: bool,
}

/// What a writer starts from.
pub(super) struct WriterSetup {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Receiver<Work>,
    pub(super) dir: LogDir,
    pub(super) config: WalConfig,
    pub(super) sabotage: Sabotage,
    pub(super) pool: FilePool,
    pub(super) files: VecDeque<LogFile>,
    pub(super) file_number_next: u32,
    pub(super) sequence_next: u64,
    pub(super) written: Written,
}

impl Writer {
    pub(super) fn new(setup: WriterSetup) -> Self {
        let WriterSetup {
            shared,
            queue,
            dir,
            config,
            sabotage,
            pool,
            files,
            file_number_next,
            sequence_next,
            written,
        } = setup;
        Self {
            shared,
            queue,
            dir,
            config,
            sabotage,
            pool,
            files,
            file_number_next,
            sequence_next,
            written,
            current: None,
            buffer: AlignedBuffer::default(),
            waiting: VecDeque::new(),
            group: VecDeque::new(),
            owes_closing: false,
            stopped: false,
        }
    }

    /// Begins the first file of this run: with the last group of the run before, then with the state.
    ///
    /// That group may have been read from the page cache of a system whose sync of it failed, or from a
    /// disk whose own cache was never flushed. Copied into the new file, under its old sequence, it is
    /// durable before anybody is told that it exists, and no durable block was written twice.
    pub(super) fn begin(&mut self, last: Option<&LastGroup>) -> io::Result<()> {
        let carried = last.map_or(0, |last| last.header.group_bytes().unwrap_or(0));
        let opening = whole_blocks(GROUP_HEADER_BYTES as u64 + self.opening_bytes());
        let small = START_FILE_BYTES_MAX.min(self.config.file_bytes);
        let taken = self.pool.take_small(small.max(carried + opening))?;
        self.activate(taken)?;
        if let Some(last) = last.filter(|_| !self.sabotage.skip_carry) {
            self.copy_group(last)?;
        }
        match self.write_group(None, true, FLAG_OPENING) {
            Ok(()) => {}
            Err(Refusal::Failed(error)) => return Err(error),
            Err(Refusal::NoSpace) => return Err(io::ErrorKind::StorageFull.into()),
        }
        self.owes_closing = true;
        self.pool.order();
        self.free_purged();
        self.trim_previous(last);
        Ok(())
    }

    /// Gives back what the run before left unused in its last file: nothing is ever written there again.
    fn trim_previous(&mut self, last: Option<&LastGroup>) {
        let Some(last) = last else { return };
        let Some(file) = self.files.iter_mut().find(|file| file.path == last.path) else { return };
        let used = last.offset + last.header.group_bytes().unwrap_or(file.bytes);
        if used >= file.bytes {
            return;
        }
        let trimmed =
            self.dir.env.io.open(&file.path, OpenMode::Buffered).and_then(|open| open.set_len(used));
        match trimmed {
            Ok(()) => file.bytes = used,
            // It only costs space.
            Err(error) => tracing::warn!(path = %file.path.display(), %error, "trimming a log file failed"),
        }
        self.note_disk();
    }

    /// Takes a change that the driver received.
    pub(super) fn push(&mut self, work: Work) {
        self.waiting.push_back(work);
    }

    /// Writes one group of what waits, if anything does.
    pub(super) fn round(&mut self) -> Round {
        self.guarded(Self::try_round)
    }

    /// Certifies the last group, because nothing has come for a while.
    pub(super) fn close_idle(&mut self) -> Round {
        self.guarded(Self::try_close_idle)
    }

    /// Takes a panic for a failed write: nobody knows what is on disk now, so nothing is written again.
    fn guarded(&mut self, work: impl Fn(&mut Self) -> Round) -> Round {
        loop {
            match catch_unwind(AssertUnwindSafe(|| work(self))) {
                Ok(round) => return round,
                // The next turn refuses what waits. A completion that panics there is one less, so this ends.
                Err(panic) => self.poison(&format!("the log's writer panicked: {}", panic_text(&*panic))),
            }
        }
    }

    fn try_round(&mut self) -> Round {
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
        self.commit(if closes { FLAG_CLOSING } else { 0 })
    }

    /// The planted bug: answers what waits and leaves its writing to the next round.
    fn acknowledge_early(&mut self) -> bool {
        let early: Vec<_> = self.waiting.iter_mut().filter_map(|work| work.done.take()).collect();
        let any = !early.is_empty();
        early.into_iter().for_each(|done| done(Ok(())));
        any
    }

    fn try_close_idle(&mut self) -> Round {
        if self.stopped || self.shared.is_poisoned() {
            return Round::Idle { owes_closing: false };
        }
        self.commit(FLAG_CLOSING)
    }

    /// Gives up on what waits for space, because the log is being closed.
    pub(super) fn give_up(&mut self) {
        self.shared.poison_with("the disk is full and the log was closed");
        self.stopped = true;
        self.refuse_all();
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
            let record = Record { kind: Kind::Entry, id: Some(entry.id), payload: &entry.payload }.bytes();
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
    fn commit(&mut self, flags: u16) -> Round {
        let committed = self.shared.log.lock().map.committed;
        let committed = committed.filter(|_| committed != self.written.committed);
        let started = Instant::now();
        match self.write_group(committed, false, flags) {
            Ok(()) => {}
            Err(Refusal::NoSpace) => {
                self.shared.set_full(true);
                self.put_back();
                return Round::NoSpace;
            }
            Err(Refusal::Failed(error)) => {
                let path = self.current.as_ref().map_or(Path::new("a new file"), |current| &current.path);
                self.poison(&format!("writing the log failed at {}: {error}", path.display()));
                return self.refuse_all();
            }
        }
        // From here on the group is durable: a crash no longer undoes any of it.
        self.shared.set_full(false);
        self.owes_closing = flags & FLAG_CLOSING == 0;
        self.stopped = self.group.iter().any(|work| matches!(work.change, Change::Close));
        let purges = self.group.iter().any(|work| matches!(work.change, Change::Purge(_)));
        self.shared.group_written(started.elapsed(), &self.group);
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

    /// Encodes, writes and syncs one group, in a new file if the current one has no room, and notes where
    /// its entries went.
    fn write_group(
        &mut self,
        committed: Option<LogId>,
        mut opens: bool,
        mut flags: u16,
    ) -> Result<(), Refusal> {
        let committed = committed.map(|id| Record { kind: Kind::Committed, id: Some(id), payload: &[] });
        let body: u64 = self.group.iter().map(|work| work.change.bytes()).sum::<u64>()
            + committed.map_or(0, |r| r.bytes());
        let size =
            |body| group_bytes(body).ok_or_else(|| Refusal::Failed(io::ErrorKind::FileTooLarge.into()));
        let room = self.current.as_ref().map_or(0, |current| current.bytes - current.offset);
        if size(body)? > room {
            self.next_file(size(body + self.opening_bytes())?)?;
            opens = true;
        }
        let opening = if opens && !self.sabotage.skip_opening { self.opening_bytes() } else { 0 };
        if opens {
            flags |= FLAG_OPENING;
        }
        let Some(current) = &self.current else {
            return Err(Refusal::Failed(io::ErrorKind::NotFound.into()));
        };
        let mut records = 0u32;
        let (written, group) = (&self.written, &self.group);
        let all = |each: &mut dyn FnMut(Record<'_>)| {
            if opening > 0 {
                written.records(each);
            }
            group.iter().for_each(|work| work.change.records(each));
            committed.into_iter().for_each(each);
        };
        all(&mut |_| records += 1);
        let header = GroupHeader {
            version: VERSION,
            flags,
            crc: 0,
            generation: current.generation,
            sequence: self.sequence_next,
            body_bytes: opening + body,
            records,
        };
        let total = size(opening + body)?;
        let place =
            Place { file: &*current.file, offset: current.offset, retries: self.sabotage.retry_after_error };
        let result = put_group(&mut self.buffer, &place, header, total, &all);
        result.map_err(Refusal::Failed)?;

        let mut at = current.offset + GROUP_HEADER_BYTES as u64 + opening;
        let number = current.number;
        let mut log = self.shared.log.lock();
        for work in group {
            match &work.change {
                Change::Append(entries, epoch) => {
                    let places = entries.iter().map(|entry| {
                        let offset = at;
                        at += Record { kind: Kind::Entry, id: None, payload: &entry.payload }.bytes();
                        (entry.id.index.0, offset)
                    });
                    log.map.written(*epoch, number, places);
                    if let (Some(last), Some(file)) = (entries.last(), self.files.back_mut()) {
                        file.last_index = file.last_index.max(Some(last.id.index.0));
                    }
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
        let written = &mut self.written;
        self.group.iter().for_each(|work| work.change.records(&mut |record| written.add(&record)));
        committed.iter().for_each(|record| written.add(record));
        self.sequence_next += 1;
        if let Some(current) = &mut self.current {
            current.offset += total;
        }
        self.shared.counters.groups.fetch_add(1, Relaxed);
        self.shared.counters.bytes_written.fetch_add(total, Relaxed);
        Ok(())
    }

    fn opening_bytes(&self) -> u64 {
        let mut bytes = 0;
        self.written.records(&mut |record| bytes += record.bytes());
        bytes
    }

    /// Takes the next file into use, large enough for a group of this size.
    fn next_file(&mut self, group_bytes: u64) -> Result<(), Refusal> {
        let refusal = |error| if is_no_space(&error) { Refusal::NoSpace } else { Refusal::Failed(error) };
        let taken = self.pool.take(group_bytes).map_err(refusal)?;
        if self.sabotage.free_early {
            self.written.purged = self.shared.log.lock().map.purged.or(self.written.purged);
            self.free_purged();
        }
        self.activate(taken).map_err(Refusal::Failed)?;
        self.pool.order();
        Ok(())
    }

    /// Gives a filled file a number and a generation, and makes it the current one.
    fn activate(&mut self, (spare, bytes): (PathBuf, u64)) -> io::Result<()> {
        let number = self.file_number_next;
        if number == u32::MAX {
            return Err(io::Error::other("the log has used up its file numbers"));
        }
        let generation = if self.sabotage.reuse_generation { 0 } else { self.dir.env.rng.next_u64() };
        let path = self.dir.path.join(file_name(number, generation));
        let io = self.dir.env.io.clone();
        io.rename(&spare, &path)?;
        if !self.sabotage.skip_dir_sync {
            io.sync_dir(&self.dir.path)?;
        }
        // From here on the name, and so the generation, survives a crash: groups may be written.
        let file = self.dir.open(&path)?;
        self.file_number_next += 1;
        self.shared.files.add(number, path.clone());
        self.files.push_back(LogFile { number, generation, path: path.clone(), bytes, last_index: None });
        self.current = Some(Current { number, generation, file, path, offset: 0, bytes });
        self.note_disk();
        Ok(())
    }

    /// Copies the last group of an older file to the start of the current one.
    fn copy_group(&mut self, last: &LastGroup) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let source = self.dir.env.io.open(&last.path, OpenMode::Read)?;
        let total = last.header.group_bytes().unwrap_or(0);
        let mut header = GroupHeader {
            flags: last.header.flags | FLAG_COPY,
            generation: current.generation,
            crc: 0,
            ..last.header
        };
        let mut piece = vec![0; PIECE_BYTES.min(total as usize)];
        let mut sum = Sum::of_header(&header);
        let mut copied = Sum::of_header(&last.header);
        for_pieces(total, |from, count| {
            source.read_at(&mut piece[..count], last.offset + from)?;
            let skip = if from == 0 { GROUP_HEADER_BYTES } else { 0 };
            sum.add(&piece[skip..count]);
            copied.add(&piece[skip..count]);
            Ok(())
        })?;
        if copied.finish() != last.header.crc && !self.sabotage.skip_sums {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the last group changed while it was copied",
            ));
        }
        header.crc = sum.finish();
        for_pieces(total, |from, count| {
            source.read_at(&mut piece[..count], last.offset + from)?;
            if from == 0 {
                piece[..GROUP_HEADER_BYTES].copy_from_slice(&header.encode());
            }
            self.buffer.reset(count);
            self.buffer.fill(&piece[..count]);
            current.file.write_at(self.buffer.bytes(), from)
        })?;
        current.file.sync()?;
        current.offset = total;
        Ok(())
    }

    /// Frees files whose entries are all purged, oldest first. The current file has opened with the state
    /// by now, durably, so nothing else in them is needed either.
    fn free_purged(&mut self) {
        let purged = self.written.purged.map(|purged| purged.index.0);
        // A file without entries (`None`) holds nothing that a later one does not restate.
        while self.files.len() > 1
            && let Some(file) = self.files.front()
            && file.last_index <= purged
        {
            self.shared.files.remove(file.number);
            let freed = if self.pool.wants(file.bytes) {
                let spare = self.dir.spare_path();
                self.dir.env.io.rename(&file.path, &spare).map(|()| self.pool.put(spare))
            } else {
                self.dir.env.io.remove(&file.path)
            };
            if let Err(error) = freed {
                // It stays until the next start, which finds it purged again.
                tracing::warn!(path = %file.path.display(), %error, "freeing a log file failed");
            }
            self.files.pop_front();
        }
        self.note_disk();
    }

    fn note_disk(&self) {
        let (spares, spare_bytes) = self.pool.ready();
        let bytes = self.files.iter().map(|file| file.bytes).sum::<u64>() + spare_bytes;
        self.shared.counters.files.store(self.files.len() as u64 + spares, Relaxed);
        self.shared.counters.disk_bytes.store(bytes, Relaxed);
    }

    /// Whether writes go past the page cache.
    pub(super) fn writes_through(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.file.writes_through())
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

/// Where a group goes.
struct Place<'a> {
    file: &'a dyn File,
    offset: u64,
    retries: bool,
}

impl Place<'_> {
    fn write(&self, bytes: &[u8], from: u64) -> io::Result<()> {
        let write = || self.file.write_at(bytes, self.offset + from);
        if self.retries { write().or_else(|_| write()) } else { write() }
    }

    fn sync(&self) -> io::Result<()> {
        if self.retries { self.file.sync().or_else(|_| self.file.sync()) } else { self.file.sync() }
    }
}

type Records<'a> = dyn Fn(&mut dyn FnMut(Record<'_>)) + 'a;

/// Writes and syncs a group.
fn put_group(
    buffer: &mut AlignedBuffer,
    place: &Place<'_>,
    mut header: GroupHeader,
    total: u64,
    records: &Records<'_>,
) -> io::Result<()> {
    if total <= PIECE_BYTES as u64 {
        buffer.reset(total as usize);
        buffer.fill(&header.encode());
        records(&mut |record| {
            buffer.fill(&record.header());
            buffer.fill(record.payload);
        });
        buffer.pad_to(total as usize);
        seal_group(buffer.bytes_mut());
        place.write(buffer.bytes(), 0)?;
        return place.sync();
    }
    let mut sum = Sum::of_header(&header);
    records(&mut |record| {
        sum.add(&record.header());
        sum.add(record.payload);
    });
    let padding = total - GROUP_HEADER_BYTES as u64 - header.body_bytes;
    sum.add(&[0; crate::env::BLOCK_BYTES][..padding as usize]);
    header.crc = sum.finish();

    buffer.reset(PIECE_BYTES);
    let mut at = 0;
    let mut result = Ok(());
    let mut put = |buffer: &mut AlignedBuffer, mut bytes: &[u8]| {
        while !bytes.is_empty() && result.is_ok() {
            bytes = buffer.fill(bytes);
            if buffer.is_full() {
                result = place.write(buffer.bytes(), at);
                at += buffer.bytes().len() as u64;
                buffer.clear();
            }
        }
    };
    put(buffer, &header.encode());
    records(&mut |record| {
        put(buffer, &record.header());
        put(buffer, record.payload);
    });
    result?;
    buffer.pad_to((total - at) as usize);
    if !buffer.bytes().is_empty() {
        place.write(buffer.bytes(), at)?;
    }
    place.sync()
}

fn for_pieces(total: u64, mut each: impl FnMut(u64, usize) -> io::Result<()>) -> io::Result<()> {
    let mut from = 0;
    while from < total {
        let count = (total - from).min(PIECE_BYTES as u64);
        each(from, count as usize)?;
        from += count;
    }
    Ok(())
}
