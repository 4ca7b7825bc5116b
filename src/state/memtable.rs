//! The records of one segment while they are in memory: those of the open segment, or of one that is closed
//! and on its way to its file.
//!
//! ```text
//! records   seq → record, sharing the entries' bytes; each points to its key's version before it
//! newest    key → its newest position in here (tombstones kept)
//! keys      keys written here for the first time, sorted when scanned
//! ```
//!
//! One caller at a time appends ([`Memtable::append`]); anyone reads. It knows nothing of older records: who
//! finds a key missing here looks on in the layer below ([`View`](super::view::View)).
//!
//! Locks are taken in the order records, shard of `newest`; whoever needs only one of them lets go of it
//! before asking for the next.

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{
    keys::{KeyOrder, Run},
    newest::Newest,
    record::{Record, Versions},
    records::{NO_SEQ, Records, Span},
};
use crate::types::{Op, Seq};

/// See the head of this file.
#[derive(Debug)]
pub struct Memtable {
    first_seq: Seq,
    records: RwLock<Records>,
    newest: Newest,
    keys: KeyOrder,
}

impl Memtable {
    /// Nothing yet; the first record will be at `first_seq`. `hash_seed` only spreads keys over buckets.
    pub fn new(first_seq: Seq, hash_seed: u64) -> Self {
        Self {
            first_seq,
            records: RwLock::new(Records::from(first_seq)),
            newest: Newest::new(hash_seed),
            keys: KeyOrder::default(),
        }
    }

    /// Position of its first record, if it has one.
    pub fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// At most `count_max` records from `from` on, sharing their entries' bytes: to go through without a lock.
    pub fn span(&self, from: Seq, count_max: usize) -> Span {
        self.records.read().span(from, count_max)
    }

    /// Its records, to look at.
    pub fn records(&self) -> RwLockReadGuard<'_, Records> {
        self.records.read()
    }

    /// Begins to append; readers wait meanwhile, except at [`Appending::let_readers_in`].
    pub fn append(&self) -> Appending<'_> {
        let records = self.records.write();
        Appending { table: self, first_seq: records.next_seq(), records, first_versions: Vec::new() }
    }

    /// Position of the newest version of a key below `position`, tombstones included.
    fn seq_below(&self, records: &Records, key: &[u8], candidates: &[u64], position: Seq) -> Option<u64> {
        let mut seq = candidates.iter().copied().find(|&seq| records.op(records.slot(seq)).key == key)?;
        while seq >= position.0 {
            seq = older(records, seq)?;
        }
        Some(seq)
    }

    /// The newest version of a key below `position`, tombstones included.
    pub fn version_below(&self, key: &[u8], position: Seq) -> Option<Record> {
        // Candidates first, records after: holding a shard while waiting for the records would lock out
        // who appends, which takes them in the other order.
        let candidates = self.newest.candidates(self.newest.hash(key));
        if candidates.is_empty() {
            return None;
        }
        let records = self.records.read();
        self.seq_below(&records, key, &candidates, position).map(|seq| records.record(seq))
    }

    /// Adds a key's versions below `position` to `versions`, newest first, until it is full.
    pub fn versions_below(&self, key: &[u8], position: Seq, versions: &mut Versions) {
        let candidates = self.newest.candidates(self.newest.hash(key));
        let mut next = {
            let records = self.records.read();
            self.seq_below(&records, key, &candidates, position)
        };
        while let Some(seq) = next
            && !versions.is_full()
        {
            // A lock each: a long history must not hold up who appends.
            let records = self.records.read();
            versions.push(records.record(seq));
            next = older(&records, seq);
        }
    }

    /// The record at a position that is here.
    pub fn record(&self, seq: Seq) -> Record {
        self.records.read().record(seq.0)
    }

    /// The key at a position that is here.
    pub fn key(&self, seq: u64) -> Bytes {
        self.records.read().record(seq).key
    }

    /// Positions in the order of their keys, in runs that together hold every key of this memtable once.
    pub fn key_runs(&self) -> Vec<Run> {
        self.keys.runs(|seq| self.key(seq))
    }
}

/// Position of the version before the one at `seq`.
fn older(records: &Records, seq: u64) -> Option<u64> {
    Some(records.slot(seq).prev).filter(|&prev| prev != NO_SEQ)
}

/// Records on their way into a memtable.
pub struct Appending<'a> {
    table: &'a Memtable,
    records: RwLockWriteGuard<'a, Records>,
    first_seq: u64,
    first_versions: Vec<u64>,
}

impl Appending<'_> {
    /// Its records, with those appended so far.
    pub fn records(&mut self) -> &mut Records {
        &mut self.records
    }

    /// The position the next record will get.
    pub fn next_seq(&self) -> u64 {
        self.records.next_seq()
    }

    /// Whether anything was appended.
    pub fn is_empty(&self) -> bool {
        self.next_seq() == self.first_seq
    }

    /// Lets waiting readers look at what is there, which is half of an entry.
    pub fn let_readers_in(&mut self) {
        RwLockWriteGuard::bump(&mut self.records);
    }

    /// The newest version of a key in here: its position, and what it did.
    pub fn newest(&self, key: &[u8]) -> Option<(Seq, Op)> {
        let candidates = self.table.newest.candidates(self.table.newest.hash(key));
        candidates.into_iter().find_map(|seq| {
            let op = self.records.op(self.records.slot(seq));
            (op.key == key).then_some((Seq(seq), op.op))
        })
    }

    /// Appends operation `op` of batch `batch`, which writes `key`.
    pub fn push(&mut self, batch: u32, op: u32, key: &[u8]) {
        let seq = self.records.next_seq();
        let records = &*self.records;
        let same_key = |other: u64| other < seq && records.op(records.slot(other)).key == key;
        let prev = self.table.newest.replace(self.table.newest.hash(key), seq, same_key);
        if prev.is_none() {
            self.first_versions.push(seq);
        }
        self.records.push(batch, op, prev.unwrap_or(NO_SEQ));
    }

    /// Ends it; gives the position the next record will get.
    pub fn finish(self) -> Seq {
        self.table.keys.note(&self.first_versions);
        Seq(self.records.next_seq())
    }
}
