//! The replicated state: what every member holds in common after applying the same log.
//!
//! ```text
//! entry ─► State::apply ─► open memtable     records by position, newest by key, keys in order
//!                        └► writer           settings, time, idempotency answers
//!                        ─► applied          published last: readers see whole entries or nothing of them
//!
//! View { open, closed … }   what can be read; a new one is published when a memtable is closed
//! ```
//!
//! Takes entries in log order, gives [`Outcome`]s and reads. Determinism is its law: no clock, no
//! randomness, no map order, no local configuration decides an outcome. It does not own durability
//! (the log does) nor waiting (the pipeline does).
//!
//! Locks are taken in the order writer, then a memtable's.

pub mod batch;
pub mod entry;
mod idempotency;
mod keys;
mod memtable;
mod newest;
pub mod outcome;
pub mod record;
mod records;
pub mod settings;
mod view;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::{
    batch::{BatchView, Condition, OpCondition},
    idempotency::{Lookup, Table},
    memtable::{Appending, Memtable},
    outcome::{Answer, Outcome, Skipped, Why},
    record::{Page, Record, Scan},
    settings::Settings,
    view::View,
};
use crate::types::{Op, Seq, TimestampMs};

/// The state of one replica. Applying is for one caller at a time; reading is for anyone.
#[derive(Debug)]
pub struct State {
    view: ArcSwap<View>,
    writer: Mutex<Writer>,
    /// One past the newest record that readers may see.
    applied: AtomicU64,
    last_time_ms: AtomicU64,
    hash_seed: u64,
}

/// What only apply touches.
#[derive(Debug, Default)]
struct Writer {
    settings: Option<Settings>,
    idempotency: Table,
    last_time_ms: TimestampMs,
}

/// Sizes for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Records ever applied.
    pub records: u64,
    /// Bytes of entries held in memory.
    pub bytes: u64,
    /// Idempotency answers remembered.
    pub idempotency_answers: u64,
}

impl State {
    /// The empty state, before the first entry. `hash_seed` only spreads keys over buckets.
    #[must_use]
    pub fn new(hash_seed: u64) -> Self {
        let open = Arc::new(Memtable::new(Seq(0), hash_seed));
        Self {
            view: ArcSwap::from_pointee(View { open, closed: Arc::new([]) }),
            writer: Mutex::default(),
            applied: AtomicU64::new(0),
            last_time_ms: AtomicU64::new(0),
            hash_seed,
        }
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

    /// Applies a batch: numbers its records, decides its conditions and retries, makes it readable.
    pub fn apply(&self, batch: &BatchView) -> Outcome {
        let mut writer = self.writer.lock();
        let Writer { settings, idempotency, last_time_ms } = &mut *writer;
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
            batch,
            skipped: Vec::new(),
        };
        let mut conditions = batch.conditions().peekable();
        let mut next_op = 0;
        for group in batch.groups() {
            run.append(next_op..group.first_op, &mut conditions);
            next_op = group.first_op + group.op_count;
            let skip = |why| Skipped { first_op: group.first_op, op_count: group.op_count, why };
            match idempotency.look_up(&group, &settings) {
                Lookup::New => {
                    let answer = run.append(group.first_op..next_op, &mut conditions);
                    idempotency.remember(&group, answer, now);
                    continue;
                }
                Lookup::Seen(answer) => run.skipped.push(skip(Why::Replayed(answer))),
                Lookup::Mismatch => run.skipped.push(skip(Why::IdempotencyMismatch)),
                Lookup::Full => run.skipped.push(skip(Why::IdempotencyFull)),
            }
            while conditions.next_if(|c| c.op < next_op).is_some() {}
        }
        run.append(next_op..batch.len() as u32, &mut conditions);

        let Run { first_seq, mut into, skipped, .. } = run;
        if into.is_empty() {
            // Nobody will ever point at its bytes: failing conditions must not fill the memory.
            into.records().pop_batch();
        }
        self.last_time_ms.store(now, Ordering::Relaxed);
        // From here on readers see the whole batch.
        self.applied.store(into.finish().0, Ordering::Release);
        Outcome { first_seq: Seq(first_seq), skipped }
    }

    /// Closes the open memtable, between two entries; what comes goes into a new one.
    pub fn close_memtable(&self) {
        let _nobody_applies = self.writer.lock();
        let View { open, closed } = &**self.view.load();
        let closed = std::iter::once(open).chain(&**closed).cloned().collect();
        let open = Arc::new(Memtable::new(self.applied(), self.hash_seed));
        self.view.store(Arc::new(View { open, closed }));
    }

    /// One past the newest record that readers see.
    #[must_use]
    pub fn applied(&self) -> Seq {
        Seq(self.applied.load(Ordering::Acquire))
    }

    /// Time of the last applied batch.
    #[must_use]
    pub fn last_time_ms(&self) -> TimestampMs {
        self.last_time_ms.load(Ordering::Relaxed)
    }

    /// Keys that are not deleted, as of the last applied batch: one load, however many there are.
    #[must_use]
    pub fn live_keys(&self) -> u64 {
        // Published before the end of the ledger that readers see, so it is never older than that.
        u64::try_from(self.live_keys.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Sizes, gathered without stopping anyone for long.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        // One lock after the other: apply holds the writer's while it waits for the records.
        let idempotency_answers = self.writer.lock().idempotency.len() as u64;
        let bytes = self.view.load().memtables().map(|table| table.records().bytes()).sum();
        Sizes { records: self.applied().0, bytes, idempotency_answers }
    }

    /// The newest version of a key, tombstones included.
    #[must_use]
    pub fn newest(&self, key: &[u8]) -> Option<Record> {
        let position = self.applied();
        self.view.load().version_below(key, position)
    }

    /// The version of a key that was newest when `at` was the newest record.
    #[must_use]
    pub fn as_of(&self, key: &[u8], at: Seq) -> Option<Record> {
        let position = at.plus(1).min(self.applied());
        self.view.load().version_below(key, position)
    }

    /// Versions of a key below `before`, newest first.
    #[must_use]
    pub fn history(&self, key: &[u8], before: Option<Seq>, limit: usize) -> Vec<Record> {
        let position = before.unwrap_or(Seq(u64::MAX)).min(self.applied());
        self.view.load().versions_below(key, position, limit)
    }

    /// The record at a position.
    #[must_use]
    pub fn record(&self, seq: Seq) -> Option<Record> {
        (seq < self.applied()).then(|| self.view.load().record(seq)).flatten()
    }

    /// A page of live keys in byte order, as of one position.
    #[must_use]
    pub fn scan(&self, scan: &Scan) -> Page {
        let position = scan.position.unwrap_or(Seq(u64::MAX)).min(self.applied());
        self.view.load().scan(scan, position)
    }

    /// A digest of everything that replicas must hold in common: equal logs give equal digests.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let writer = self.writer.lock();
        let mut hasher = blake3::Hasher::new();
        for seq in 0..self.applied().0 {
            let Some(record) = self.record(Seq(seq)) else { break };
            hasher.update(&record.timestamp_ms.to_le_bytes()).update(&[record.op as u8]);
            hasher.update(&(record.key.len() as u64).to_le_bytes()).update(&record.key);
            hasher.update(&(record.value.len() as u64).to_le_bytes()).update(&record.value);
        }
        hasher.update(format!("{:?} {}", writer.settings, writer.last_time_ms).as_bytes());
        writer.idempotency.digest(&mut hasher);
        *hasher.finalize().as_bytes()
    }
}

/// Operations after which apply lets waiting readers in: about 200 microseconds.
const OPS_BETWEEN_READERS: u32 = 1 << 10;

/// One batch on its way into the state.
struct Run<'a> {
    into: Appending<'a>,
    view: &'a View,
    batch: &'a BatchView,
    batch_number: u32,
    first_seq: u64,
    skipped: Vec<Skipped>,
}

impl Run<'_> {
    /// Appends a range of operations, each unless its condition fails; says what happened to them as one
    /// request.
    fn append(
        &mut self,
        ops: Range<u32>,
        conditions: &mut std::iter::Peekable<impl Iterator<Item = OpCondition>>,
    ) -> Answer {
        let first_seq = self.into.next_seq();
        let mut failed = None;
        for number in ops {
            if number % OPS_BETWEEN_READERS == OPS_BETWEEN_READERS - 1 {
                // What they see of this batch is behind `applied`, so it is not there for them yet.
                self.into.let_readers_in();
            }
            let op = self.batch.op(number as usize);
            if let Some(OpCondition { condition, .. }) = conditions.next_if(|c| c.op == number) {
                let newest = self.live_version(op.key);
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
        }
        let count = self.into.next_seq() - first_seq;
        match failed {
            Some(newest) if count == 0 => Answer::PreconditionFailed { newest },
            _ => Answer::Written { first_seq: Seq(first_seq), count },
        }
    }

    /// Position of the key's newest version unless that is a tombstone.
    fn live_version(&self, key: &[u8]) -> Option<Seq> {
        let (seq, op) = self.into.newest(key).or_else(|| self.view.closed_newest(key))?;
        (op == Op::Put).then_some(seq)
    }
}

#[cfg(test)]
mod tests;
