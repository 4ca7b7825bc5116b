//! The replicated state: what every member holds in common after applying the same log.
//!
//! ```text
//! entry ─► State::apply ─► open memtable     records by position, newest by key, keys in order
//!                        └► writer           settings, time, idempotency answers
//!                        ─► applied          published last: readers see whole entries or nothing of them
//!
//! View { open, closed … }   what can be read in memory; a new one is published when a segment is full
//!        └► Sealed          all that is older, in files
//! ```
//!
//! Takes entries in log order, gives [`Outcome`]s and reads. Determinism is its law: no clock, no
//! randomness, no map order, no local configuration decides an outcome. It does not own durability
//! (the log does) nor waiting (the pipeline does).
//!
//! Locks are taken in the order writer, then a memtable's.

pub mod archived;
mod arrivals;
pub mod attestation;
mod attested;
pub mod batch;
pub mod boundary;
pub mod entry;
mod idempotency;
mod keys;
mod memtable;
mod newest;
pub mod outcome;
pub mod record;
mod records;
mod segment;
pub mod settings;
pub mod signers;
mod view;

pub use crate::proof::link;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

use self::{
    archived::Archived,
    arrivals::Arrivals,
    attestation::{Attestation, Fingerprint},
    attested::Attested,
    batch::{BatchView, Condition, OpCondition},
    boundary::Boundary,
    idempotency::{Lookup, Table},
    memtable::{Appending, Memtable},
    outcome::{Answer, Outcome, Skipped, Why},
    record::{Page, Record, Scan, Versions},
    segment::{Filling, RECORD_OVERHEAD_BYTES},
    settings::Settings,
    signers::{Enrolment, encode_rows, enrol},
    view::View,
};
pub use self::{records::Span, segment::ClosedSegment};
use crate::{
    error::Result,
    sealed::Sealed,
    types::{LogId, Op, SegmentId, Seq, TimestampMs},
};

/// The state of one replica. Applying is for one caller at a time; reading is for anyone.
#[derive(Debug)]
pub struct State {
    sealed: Arc<Sealed>,
    view: ArcSwap<View>,
    writer: Mutex<Writer>,
    /// One past the newest record that readers may see.
    applied: AtomicU64,
    arrivals: Arrivals,
    last_time_ms: AtomicU64,
    /// About the memory of all memtables.
    unsealed_bytes: AtomicU64,
    options: StateOptions,
}

/// What is a node's own to choose: it decides what a read costs, never what it returns.
#[derive(Clone, Copy, Debug, Default)]
pub struct StateOptions {
    /// Spreads keys over buckets.
    pub hash_seed: u64,
    /// Sealed segments stay in memory, too, as long as they take no more than this.
    pub recent_bytes_max: u64,
}

/// What only apply touches.
#[derive(Debug, Default)]
struct Writer {
    settings: Option<Settings>,
    idempotency: Table,
    last_time_ms: TimestampMs,
    filling: Filling,
    attested: Attested,
    archived: Archived,
    signers: Arc<Vec<Enrolment>>,
}

/// Sizes for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Records ever applied.
    pub records: u64,
    /// About the bytes of memory that hold what is not sealed yet.
    pub unsealed_bytes: u64,
    /// Idempotency answers remembered.
    pub idempotency_answers: u64,
}

impl State {
    /// The state at the end of the newest sealed segment; without segments, before the first entry.
    ///
    /// # Errors
    /// [`Code::Corrupt`](crate::error::Code::Corrupt) when a segment does not say what the state was.
    pub fn open(sealed: Arc<Sealed>, options: StateOptions) -> Result<Self> {
        let first_seq = sealed.end_seq();
        let mut writer = Writer { filling: Filling::new(sealed.next_id()), ..Writer::default() };
        if let Some(newest) = sealed.segments().last() {
            let Boundary { last_time_ms, settings, attested_end, archived, signers, .. } =
                Boundary::decode(&newest.summary().boundary)?;
            (writer.settings, writer.last_time_ms) = (settings, last_time_ms);
            writer.attested = Attested::before(SegmentId(attested_end));
            writer.archived = archived;
            writer.signers = Arc::new(signers);
            let settings = settings.unwrap_or(Settings::BUILT_IN);
            writer.idempotency = remembered(&sealed, last_time_ms, &settings)?;
        }
        let open = Arc::new(Memtable::new(first_seq, options.hash_seed));
        Ok(Self {
            sealed,
            view: ArcSwap::from_pointee(View { open, closed: Arc::new([]), recent: Arc::new([]) }),
            last_time_ms: AtomicU64::new(writer.last_time_ms),
            writer: Mutex::new(writer),
            applied: AtomicU64::new(first_seq.0),
            arrivals: Arrivals::default(),
            unsealed_bytes: AtomicU64::new(0),
            options,
        })
    }

    /// The planted bug of a start that remembers no answers.
    #[doc(hidden)]
    pub fn forget_answers(&self) {
        self.writer.lock().idempotency = Table::default();
    }

    /// Applies a settings entry.
    pub fn apply_settings(&self, settings: Settings) {
        self.writer.lock().settings = Some(settings);
    }

    /// The settings in force; `None` before the first entry.
    #[must_use]
    pub fn settings(&self) -> Option<Settings> {
        self.writer.lock().settings
    }

    /// Applies what a quorum has sealed. This member's own segments are compared with it, here those that are sealed
    /// and in [`State::check_sealed`] the others.
    ///
    /// # Errors
    /// [`Code::Corrupt`](crate::error::Code::Corrupt) when this member's copy has diverged.
    pub fn apply_attestation(&self, attestation: &Attestation) -> Result<()> {
        let mut writer = self.writer.lock();
        let attested = writer.attested.take(attestation);
        // With the lock held, a segment that is being sealed meanwhile is in this list, or is compared behind it.
        let segments = self.sealed.segments();
        for segment in segments.iter().skip(usize::try_from(attested.start).unwrap_or(usize::MAX)) {
            let summary = segment.summary();
            writer.attested.compare(summary.id(), summary.into())?;
        }
        Ok(())
    }

    /// Compares a segment that has just become one of the sealed with what a quorum has, where that is known already.
    ///
    /// # Errors
    /// As [`State::apply_attestation`].
    pub fn check_sealed(&self, id: SegmentId, here: Fingerprint) -> Result<()> {
        self.writer.lock().attested.compare(id, here)
    }

    /// The segments that are full, sealed here or not, and that no quorum is known to hold alike.
    #[must_use]
    pub fn unattested(&self) -> Range<SegmentId> {
        let writer = self.writer.lock();
        writer.attested.end()..writer.filling.id
    }

    /// Applies how far a leader has archived the ledger.
    pub fn apply_archived(&self, archived: Archived) {
        let mut writer = self.writer.lock();
        let (closed, applied) = (writer.filling.id, self.applied());
        writer.archived.follow(archived, closed, applied);
    }

    /// How far the ledger is in the archive, by what leaders have said in the log.
    #[must_use]
    pub fn archived(&self) -> Archived {
        self.writer.lock().archived
    }

    /// Applies an entry that names a key that a member signs with.
    pub fn apply_enrolment(&self, enrolment: Enrolment) {
        enrol(Arc::make_mut(&mut self.writer.lock().signers), enrolment);
    }

    /// The keys that members sign with and have signed with, in the order they were enrolled.
    #[must_use]
    pub fn signers(&self) -> Arc<Vec<Enrolment>> {
        Arc::clone(&self.writer.lock().signers)
    }

    /// Applies an entry that asks for the end of the open segment.
    pub fn apply_seal(&self) {
        self.writer.lock().filling.end_asked = true;
    }

    /// When the first record of the open segment was written, by the leader's clock; none while it is empty.
    #[must_use]
    pub fn open_since_ms(&self) -> Option<TimestampMs> {
        let open = Arc::clone(&self.view.load().open);
        (open.first_seq() < self.applied()).then(|| open.record(open.first_seq()).timestamp_ms)
    }

    /// Applies a batch: numbers its records, decides its conditions and retries, makes it readable.
    ///
    /// # Errors
    /// When a condition's key has to be looked up among sealed records and cannot be. The state is then of no
    /// more use: whoever guessed would build another ledger.
    pub fn apply(&self, batch: &BatchView) -> Result<Outcome> {
        let mut writer = self.writer.lock();
        let Writer { settings, idempotency, last_time_ms, filling, .. } = &mut *writer;
        // A log whose first entry is not its settings was not written by a node; its batches still have
        // one meaning on every replica, so the built-in values stand in.
        let settings = settings.unwrap_or(Settings::BUILT_IN);
        *last_time_ms = batch.timestamp_ms().max(*last_time_ms);
        let now = *last_time_ms;
        idempotency.expire(now, &settings);

        let view = self.view.load();
        let mut into = view.open.append();
        let mut run = Run {
            first_seq: into.next_seq(),
            batch_number: into.records().push_batch(now, batch.clone()),
            into,
            view: &view,
            sealed: &self.sealed,
            batch,
            skipped: Vec::new(),
            record_bytes: 0,
        };
        let mut conditions = batch.conditions().peekable();
        let mut next_op = 0;
        for group in batch.groups() {
            run.append(next_op..group.first_op, &mut conditions)?;
            next_op = group.first_op + group.op_count;
            let skip = |why| Skipped { first_op: group.first_op, op_count: group.op_count, why };
            match idempotency.look_up(&group, &settings) {
                Lookup::New => {
                    let answer = run.append(group.first_op..next_op, &mut conditions)?;
                    idempotency.remember(&group, answer, now, &mut filling.answers);
                    continue;
                }
                Lookup::Seen(answer) => run.skipped.push(skip(Why::Replayed(answer))),
                Lookup::Mismatch => run.skipped.push(skip(Why::IdempotencyMismatch)),
                Lookup::Full => run.skipped.push(skip(Why::IdempotencyFull)),
            }
            while conditions.next_if(|c| c.op < next_op).is_some() {}
        }
        run.append(next_op..batch.len() as u32, &mut conditions)?;

        let Run { first_seq, mut into, skipped, record_bytes, .. } = run;
        let mut bytes = 0;
        if into.is_empty() {
            // Nobody will ever point at its bytes: failing conditions must not fill the memory.
            into.records().pop_batch();
        } else {
            bytes = batch.bytes() as u64 + (into.next_seq() - first_seq) * RECORD_OVERHEAD_BYTES;
        }
        filling.record_bytes += record_bytes;
        self.unsealed_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.last_time_ms.store(now, Ordering::Relaxed);
        // From here on readers see the whole batch.
        self.applied.store(into.finish().0, Ordering::Release);
        self.arrivals.tell();
        Ok(Outcome { first_seq: Seq(first_seq), skipped })
    }

    /// Ends an entry of the log of this many bytes, after what it says has been applied. Where the open segment
    /// is full it is closed, and what comes goes into the next one; `membership` gives the one in force.
    /// Whether it was.
    ///
    /// # Errors
    /// [`Code::Internal`](crate::error::Code::Internal) when memory is short.
    pub fn end_entry(
        &self,
        log: LogId,
        bytes: u64,
        membership: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<bool> {
        let mut writer = self.writer.lock();
        writer.filling.note_entry(log, bytes);
        let View { open, closed, recent } = &**self.view.load();
        let records = self.applied().0 - open.first_seq().0;
        let settings = writer.settings.unwrap_or(Settings::BUILT_IN);
        if !writer.filling.is_full(records, &settings) {
            writer.filling.end_asked = false;
            return Ok(false);
        }
        let boundary = Boundary {
            last_time_ms: writer.last_time_ms,
            settings: writer.settings,
            membership: membership()?,
            attested_end: writer.attested.end().0,
            archived: writer.archived,
            signers: writer.signers.to_vec(),
        };
        let next = Filling::new(SegmentId(writer.filling.id.0 + 1));
        let Filling { id, first_log, answers, .. } = std::mem::replace(&mut writer.filling, next);
        let full = ClosedSegment {
            id,
            first_log: first_log.unwrap_or(log),
            last_log: log,
            settings,
            boundary: boundary.encode()?,
            answers,
            table: Arc::clone(open),
        };
        let closed = std::iter::once(Arc::new(full)).chain(closed.iter().cloned()).collect();
        let open = Arc::new(Memtable::new(self.applied(), self.options.hash_seed));
        self.view.store(Arc::new(View { open, closed, recent: Arc::clone(recent) }));
        Ok(true)
    }

    /// The segment that has to become a file next, and one past its last record.
    #[must_use]
    pub fn oldest_closed(&self) -> Option<(Arc<ClosedSegment>, Seq)> {
        let View { open, closed, .. } = &**self.view.load();
        let oldest = closed.last()?;
        let next = closed.len().checked_sub(2).map_or(open, |next| &closed[next].table);
        Some((Arc::clone(oldest), next.first_seq()))
    }

    /// Lets go of the oldest closed segment: its records are sealed. It may stay readable for a while, until newer
    /// ones need its memory.
    pub fn release_oldest_closed(&self) {
        let _nobody_applies = self.writer.lock();
        let View { open, closed, recent } = &**self.view.load();
        let Some((sealed, closed)) = closed.split_last() else { return };
        self.unsealed_bytes.fetch_sub(sealed.bytes(), Ordering::Relaxed);
        let mut room = self.options.recent_bytes_max;
        let newest_first = std::iter::once(sealed).chain(recent.iter());
        let fits = newest_first.take_while(|segment| {
            let left = room.checked_sub(segment.bytes());
            room = left.unwrap_or(room);
            left.is_some()
        });
        let recent = fits.cloned().collect();
        self.view.store(Arc::new(View { open: Arc::clone(open), closed: closed.into(), recent }));
    }

    /// At most `count_max` records from `from` on that are applied and in memory; none when they are sealed.
    #[must_use]
    pub fn span(&self, from: Seq, count_max: usize) -> Span {
        let left = self.applied().0.saturating_sub(from.0);
        let count_max = count_max.min(usize::try_from(left).unwrap_or(usize::MAX));
        let view = self.view.load();
        let table = view.memtables().find(|table| table.first_seq() <= from);
        table.map_or_else(Span::default, |table| table.span(from, count_max))
    }

    /// One past the newest record that readers see.
    #[must_use]
    pub fn applied(&self) -> Seq {
        Seq(self.applied.load(Ordering::Acquire))
    }

    /// Waits until readers see a record at `position`.
    pub async fn applied_beyond(&self, position: Seq) {
        self.arrivals.until(|| self.applied() > position).await;
    }

    /// What is sealed.
    #[must_use]
    pub fn sealed(&self) -> &Arc<Sealed> {
        &self.sealed
    }

    /// Time of the last applied batch.
    #[must_use]
    pub fn last_time_ms(&self) -> TimestampMs {
        self.last_time_ms.load(Ordering::Relaxed)
    }

    /// About the bytes of memory that hold what is not sealed yet.
    #[must_use]
    pub fn unsealed_bytes(&self) -> u64 {
        self.unsealed_bytes.load(Ordering::Relaxed)
    }

    /// Sizes, gathered without stopping anyone for long.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let idempotency_answers = self.writer.lock().idempotency.len() as u64;
        Sizes { records: self.applied().0, unsealed_bytes: self.unsealed_bytes(), idempotency_answers }
    }

    /// The newest version of a key, tombstones included.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io) and [`Code::Corrupt`](crate::error::Code::Corrupt) of a segment that
    /// has to be read, as all reads here.
    pub fn newest(&self, key: &[u8]) -> Result<Option<Record>> {
        let position = self.applied();
        self.view.load().version_below(&self.sealed, key, position)
    }

    /// The version of a key that was newest when `at` was the newest record.
    ///
    /// # Errors
    /// As [`State::newest`].
    pub fn as_of(&self, key: &[u8], at: Seq) -> Result<Option<Record>> {
        let position = at.plus(1).min(self.applied());
        self.view.load().version_below(&self.sealed, key, position)
    }

    /// Versions of a key below `before`, newest first: at most `limit`, and no more behind the one that brings
    /// their values to `bytes_max` bytes.
    ///
    /// # Errors
    /// As [`State::newest`].
    pub fn history(
        &self,
        key: &[u8],
        before: Option<Seq>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>> {
        let position = before.unwrap_or(Seq(u64::MAX)).min(self.applied());
        let mut versions = Versions::at_most(limit, bytes_max);
        self.view.load().versions_below(&self.sealed, key, position, &mut versions)?;
        Ok(versions.into_records())
    }

    /// How many of the next keys behind `after` are live at `position`, and where to go on.
    ///
    /// # Errors
    /// As [`State::newest`].
    pub fn count_live(&self, after: Option<&[u8]>, position: Seq) -> Result<(u64, Option<Bytes>)> {
        self.view.load().count_live(&self.sealed, after, position)
    }

    /// The record at a position.
    ///
    /// # Errors
    /// As [`State::newest`].
    pub fn record(&self, seq: Seq) -> Result<Option<Record>> {
        if seq >= self.applied() {
            return Ok(None);
        }
        match self.view.load().record(seq) {
            Some(record) => Ok(Some(record)),
            None => self.sealed.record(seq),
        }
    }

    /// A page of live keys in byte order, as of one position.
    ///
    /// # Errors
    /// As [`State::newest`].
    pub fn scan(&self, scan: &Scan) -> Result<Page> {
        let position = scan.position.unwrap_or(Seq(u64::MAX)).min(self.applied());
        self.view.load().scan(&self.sealed, scan, position)
    }

    /// A digest of everything that replicas must hold in common: equal logs give equal digests.
    ///
    /// # Errors
    /// As [`State::newest`].
    pub fn digest(&self) -> Result<[u8; 32]> {
        let writer = self.writer.lock();
        let mut hasher = blake3::Hasher::new();
        for seq in 0..self.applied().0 {
            let Some(record) = self.record(Seq(seq))? else { break };
            hasher.update(&record.timestamp_ms.to_le_bytes()).update(&[record.op as u8]);
            hasher.update(&(record.key.len() as u64).to_le_bytes()).update(&record.key);
            hasher.update(&(record.value.len() as u64).to_le_bytes()).update(&record.value);
        }
        hasher.update(format!("{:?} {}", writer.settings, writer.last_time_ms).as_bytes());
        hasher.update(&writer.attested.end().0.to_le_bytes());
        hasher.update(&writer.archived.to_bytes());
        hasher.update(&encode_rows(&writer.signers));
        writer.idempotency.digest(&mut hasher);
        Ok(*hasher.finalize().as_bytes())
    }
}

/// The answers that are still remembered at the end of the newest segment.
fn remembered(sealed: &Sealed, now: TimestampMs, settings: &Settings) -> Result<Table> {
    let segments = sealed.segments();
    let oldest = now.saturating_sub(settings.idempotency_window_ms);
    let mut from = segments.len();
    // A segment's answers are no younger than its end.
    while from > 0 && Boundary::decode(&segments[from - 1].summary().boundary)?.last_time_ms >= oldest {
        from -= 1;
    }
    let mut table = Table::default();
    for segment in &segments[from..] {
        table.restore(&segment.idempotency()?, settings)?;
    }
    table.expire(now, settings);
    Ok(table)
}

/// Operations after which apply lets waiting readers in: about 200 microseconds.
const OPS_BETWEEN_READERS: u32 = 1 << 10;

/// One batch on its way into the state.
struct Run<'a> {
    into: Appending<'a>,
    view: &'a View,
    sealed: &'a Sealed,
    batch: &'a BatchView,
    batch_number: u32,
    first_seq: u64,
    skipped: Vec<Skipped>,
    /// Bytes of the keys and values it appended.
    record_bytes: u64,
}

impl Run<'_> {
    /// Appends a range of operations, each unless its condition fails; says what happened to them as one
    /// request.
    fn append(
        &mut self,
        ops: Range<u32>,
        conditions: &mut std::iter::Peekable<impl Iterator<Item = OpCondition>>,
    ) -> Result<Answer> {
        let first_seq = self.into.next_seq();
        let mut failed = None;
        for number in ops {
            if number % OPS_BETWEEN_READERS == OPS_BETWEEN_READERS - 1 {
                // What they see of this batch is behind `applied`, so it is not there for them yet.
                self.into.let_readers_in();
            }
            let op = self.batch.op(number as usize);
            if let Some(OpCondition { condition, .. }) = conditions.next_if(|c| c.op == number) {
                let newest = self.live_version(op.key)?;
                let holds = match condition {
                    Condition::Absent => newest.is_none(),
                    Condition::Present => newest.is_some(),
                    Condition::At(seq) => newest == Some(Seq(seq)),
                };
                if !holds {
                    failed = Some(newest);
                    let why = Why::PreconditionFailed { newest };
                    self.skipped.push(Skipped { first_op: number, op_count: 1, why });
                    continue;
                }
            }
            self.into.push(self.batch_number, number, op.key);
            self.record_bytes += (op.key.len() + op.value.len()) as u64;
        }
        let count = self.into.next_seq() - first_seq;
        Ok(match failed {
            Some(newest) if count == 0 => Answer::PreconditionFailed { newest },
            _ => Answer::Written { first_seq: Seq(first_seq), count },
        })
    }

    /// Position of the key's newest version unless that is a tombstone.
    fn live_version(&self, key: &[u8]) -> Result<Option<Seq>> {
        let newest = match self.into.newest(key).or_else(|| self.view.closed_newest(key)) {
            None => self.sealed.newest(key)?,
            newest => newest,
        };
        Ok(newest.filter(|(_, op)| *op == Op::Put).map(|(seq, _)| seq))
    }
}

#[cfg(test)]
mod tests;
