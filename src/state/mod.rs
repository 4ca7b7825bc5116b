//! The replicated state: what every member holds in common after applying the same log.
//!
//! ```text
//! entry ─► State::apply ─► records   seq → record, shared with the entry's bytes
//!                        ├► newest    key → newest seq (tombstones kept)
//!                        ├► keys      keys seen for the first time, sorted when scanned
//!                        └► writer    settings, time, idempotency answers
//!                        ─► applied   published last: readers see whole entries or nothing of them
//! ```
//!
//! Takes entries in log order, gives [`Outcome`]s and reads. Determinism is its law: no clock, no
//! randomness, no map order, no local configuration decides an outcome. It does not own durability
//! (the log does) nor waiting (the pipeline does).
//!
//! Locks are taken in the order writer, records, shard of `newest`; whoever needs only one of them lets
//! go of it before asking for the next.
//!
//! Until segments are sealed, everything applied stays in memory.

pub mod batch;
pub mod entry;
mod idempotency;
mod keys;
mod newest;
pub mod outcome;
pub mod record;
mod records;
pub mod settings;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use self::{
    batch::{BatchView, Condition, OpCondition},
    idempotency::{Lookup, Table},
    keys::KeyOrder,
    newest::Newest,
    outcome::{Answer, Outcome, Skipped, Why},
    record::{Page, Record, Scan},
    records::{NO_SEQ, Records, Slot},
    settings::Settings,
};
use crate::types::{Op, Seq, TimestampMs};

/// The state of one replica. Applying is for one caller at a time; reading is for anyone.
#[derive(Debug)]
pub struct State {
    records: RwLock<Records>,
    newest: Newest,
    keys: KeyOrder,
    writer: Mutex<Writer>,
    /// One past the newest record that readers may see.
    applied: AtomicU64,
    live_keys: AtomicI64,
    last_time_ms: AtomicU64,
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
    /// Keys that are not deleted.
    pub live_keys: u64,
    /// Keys ever written.
    pub keys: u64,
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
        Self {
            records: RwLock::default(),
            newest: Newest::new(hash_seed),
            keys: KeyOrder::default(),
            writer: Mutex::default(),
            applied: AtomicU64::new(0),
            live_keys: AtomicI64::new(0),
            last_time_ms: AtomicU64::new(0),
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

        let mut records = self.records.write();
        let mut run = Run {
            newest: &self.newest,
            first_seq: records.next_seq(),
            batch_number: records.push_batch(now, batch.clone()),
            records,
            batch,
            skipped: Vec::new(),
            first_versions: Vec::new(),
            live_change: 0,
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

        let Run { first_seq, mut records, skipped, first_versions, live_change, .. } = run;
        if records.next_seq() == first_seq {
            // Nobody will ever point at its bytes: failing conditions must not fill the memory.
            records.pop_batch();
        }
        self.keys.note(&first_versions);
        self.live_keys.fetch_add(live_change, Ordering::Relaxed);
        self.last_time_ms.store(now, Ordering::Relaxed);
        // From here on readers see the whole batch.
        self.applied.store(records.next_seq(), Ordering::Release);
        Outcome { first_seq: Seq(first_seq), skipped }
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
        let bytes = self.records.read().bytes();
        Sizes {
            live_keys: self.live_keys(),
            keys: self.newest.len() as u64,
            records: self.applied().0,
            bytes,
            idempotency_answers,
        }
    }

    /// The newest version of `key` below `position`, tombstones included.
    fn version_below(&self, key: &[u8], position: Seq) -> Option<Record> {
        // Candidates first, records after: holding a shard while waiting for the records would lock out
        // apply, which takes them in the other order.
        let candidates = self.newest.candidates(self.newest.hash(key));
        let records = self.records.read();
        let newest = candidates.into_iter().find(|&seq| records.op(records.slot(seq)).key == key)?;
        below(&records, newest, position).map(|seq| records.record(seq))
    }

    /// The newest version of a key, tombstones included.
    #[must_use]
    pub fn newest(&self, key: &[u8]) -> Option<Record> {
        self.version_below(key, self.applied())
    }

    /// The version of a key that was newest when `at` was the newest record.
    #[must_use]
    pub fn as_of(&self, key: &[u8], at: Seq) -> Option<Record> {
        self.version_below(key, at.plus(1).min(self.applied()))
    }

    /// Versions of a key below `before`, newest first.
    #[must_use]
    pub fn history(&self, key: &[u8], before: Option<Seq>, limit: usize) -> Vec<Record> {
        let position = before.unwrap_or(Seq(u64::MAX)).min(self.applied());
        let mut versions = Vec::new();
        let mut next = self.version_below(key, position).map(|record| record.seq.0);
        while let Some(seq) = next
            && versions.len() < limit
        {
            let records = self.records.read();
            versions.push(records.record(seq));
            next = Some(records.slot(seq).prev).filter(|&prev| prev != NO_SEQ);
        }
        versions
    }

    /// The record at a position.
    #[must_use]
    pub fn record(&self, seq: Seq) -> Option<Record> {
        (seq < self.applied()).then(|| self.records.read().record(seq.0))
    }

    /// A page of live keys in byte order, as of one position.
    #[must_use]
    pub fn scan(&self, scan: &Scan) -> Page {
        let position = scan.position.unwrap_or(Seq(u64::MAX)).min(self.applied());
        let key = |seq: u64| -> Bytes { self.records.read().record(seq).key };
        let starts_behind = |candidate: &[u8]| {
            candidate >= &scan.prefix[..]
                && scan.start.as_ref().is_none_or(|start| candidate >= &start[..])
                && scan.after.as_ref().is_none_or(|after| candidate > &after[..])
        };
        // One cursor a run, each at its first key of the range; the smallest is taken until the page is full.
        let runs = self.keys.runs(key);
        let mut cursors: Vec<(Bytes, usize, &[u64])> = Vec::new();
        for run in &runs {
            let from = run.partition_point(|&seq| !starts_behind(&key(seq)));
            cursors.extend(run.get(from).map(|&seq| (key(seq), from, &run[..])));
        }
        let mut page = Page { position, ..Page::default() };
        let (mut bytes, mut visited) = (0, 0);
        let mut last = Bytes::new();
        while let Some(smallest) = (0..cursors.len()).min_by(|&a, &b| cursors[a].0.cmp(&cursors[b].0)) {
            let (candidate, at, run) = cursors[smallest].clone();
            if !candidate.starts_with(&scan.prefix)
                || scan.end.as_ref().is_some_and(|end| candidate >= end[..])
            {
                break;
            }
            if page.records.len() >= scan.limit || bytes >= scan.bytes_max || visited >= SCAN_KEYS_MAX {
                page.next = Some(last);
                break;
            }
            match run.get(at + 1) {
                Some(&seq) => cursors[smallest] = (key(seq), at + 1, run),
                None => drop(cursors.swap_remove(smallest)),
            }
            let version = self.version_below(&candidate, position).filter(|record| record.op == Op::Put);
            if let Some(record) = version {
                bytes += record.key.len() + record.value.len();
                page.records.push(record);
            }
            last = candidate;
            visited += 1;
        }
        page
    }

    /// A digest of everything that replicas must hold in common: equal logs give equal digests.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let writer = self.writer.lock();
        let records = self.records.read();
        let mut hasher = blake3::Hasher::new();
        for seq in 0..records.next_seq() {
            let slot = records.slot(seq);
            let op = records.op(slot);
            hasher.update(&records.timestamp_ms(slot).to_le_bytes()).update(&slot.prev.to_le_bytes());
            hasher.update(&[op.op as u8]).update(&(op.key.len() as u64).to_le_bytes());
            hasher.update(op.key).update(&(op.value.len() as u64).to_le_bytes()).update(op.value);
        }
        hasher.update(format!("{:?} {}", writer.settings, writer.last_time_ms).as_bytes());
        hasher.update(&self.live_keys.load(Ordering::Relaxed).to_le_bytes());
        writer.idempotency.digest(&mut hasher);
        *hasher.finalize().as_bytes()
    }
}

/// Keys that one page looks at, deleted ones included: a page ends after some milliseconds, also where
/// nothing is left but tombstones.
const SCAN_KEYS_MAX: usize = 1 << 15;

/// Follows older versions from `seq` to the newest one below `position`.
fn below(records: &Records, mut seq: u64, position: Seq) -> Option<u64> {
    while seq >= position.0 {
        seq = records.slot(seq).prev;
        if seq == NO_SEQ {
            return None;
        }
    }
    Some(seq)
}

/// Operations after which apply lets waiting readers in: about 200 microseconds.
const OPS_BETWEEN_READERS: u32 = 1 << 10;

/// One batch on its way into the state.
struct Run<'a> {
    newest: &'a Newest,
    records: RwLockWriteGuard<'a, Records>,
    batch: &'a BatchView,
    batch_number: u32,
    first_seq: u64,
    skipped: Vec<Skipped>,
    first_versions: Vec<u64>,
    live_change: i64,
}

impl Run<'_> {
    /// Appends a range of operations, each unless its condition fails; says what happened to them as one
    /// request.
    fn append(
        &mut self,
        ops: std::ops::Range<u32>,
        conditions: &mut std::iter::Peekable<impl Iterator<Item = OpCondition>>,
    ) -> Answer {
        let first_seq = self.records.next_seq();
        let mut failed = None;
        for number in ops {
            if number % OPS_BETWEEN_READERS == OPS_BETWEEN_READERS - 1 {
                // What they see of this batch is behind `applied`, so it is not there for them yet.
                RwLockWriteGuard::bump(&mut self.records);
            }
            let op = self.batch.op(number as usize);
            let hash = self.newest.hash(op.key);
            if let Some(OpCondition { condition, .. }) = conditions.next_if(|c| c.op == number) {
                let newest = self.live_version(hash, op.key);
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
            let seq = self.records.next_seq();
            let records = &*self.records;
            let same_key = |other: u64| other < seq && records.op(records.slot(other)).key == op.key;
            let prev = self.newest.replace(hash, seq, same_key);
            let was_live = prev.is_some_and(|prev| records.op(records.slot(prev)).op == Op::Put);
            self.live_change += i64::from(op.op == Op::Put) - i64::from(was_live);
            if prev.is_none() {
                self.first_versions.push(seq);
            }
            self.records.push(self.batch_number, number, prev.unwrap_or(NO_SEQ));
        }
        let count = self.records.next_seq() - first_seq;
        match failed {
            Some(newest) if count == 0 => Answer::PreconditionFailed { newest },
            _ => Answer::Written { first_seq: Seq(first_seq), count },
        }
    }

    /// Position of the key's newest version unless that is a tombstone.
    fn live_version(&self, hash: u64, key: &[u8]) -> Option<Seq> {
        let slot = |seq: u64| -> Slot { self.records.slot(seq) };
        let newest =
            self.newest.candidates(hash).into_iter().find(|&seq| self.records.op(slot(seq)).key == key)?;
        (self.records.op(slot(newest)).op == Op::Put).then_some(Seq(newest))
    }
}

#[cfg(test)]
mod tests;
