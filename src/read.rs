//! The way back out.

use bytes::Bytes;

use crate::{
    error::Result,
    types::{Op, Seq, TimestampMs},
};

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was answered before the read began, on any node.
    #[default]
    Linearizable,
    /// The same as long as clocks run at the same speed: the leader's lease instead of a round trip.
    Lease,
    /// Whatever this node has applied.
    Stale,
}

/// One record, sharing the bytes it was applied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub seq: Seq,
    pub op: Op,
    pub timestamp_ms: TimestampMs,
    pub key: Bytes,
    pub value: Bytes,
}

/// A page of keys in byte order, all as of one position.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Live records (tombstones are left out).
    pub records: Vec<Record>,
    /// The key to go on from (exclusive), when there is more.
    pub next: Option<Bytes>,
    /// The position the page, and all that follow it, are pinned to: records with seq < this count.
    pub position: Seq,
}

/// Which keys a scan visits.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// From this key on, inclusive.
    pub start: Option<Bytes>,
    /// Up to this key, exclusive.
    pub end: Option<Bytes>,
    /// Continue behind this key, exclusive.
    pub after: Option<Bytes>,
    /// As of this position (records with seq < this); now if absent.
    pub position: Option<Seq>,
    /// At most this many records.
    pub limit: usize,
    /// Stop once keys and values have this many bytes (at least one record is returned).
    pub bytes_max: usize,
}

/// Reads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {}

impl Reader {
    /// Waits until this node may answer a read of this consistency.
    ///
    /// # Errors
    /// `NoQuorum` or `Unavailable`.
    pub async fn barrier(&self, consistency: Consistency) -> Result<()> {
        let _ = consistency;
        todo!()
    }

    /// One past the newest applied record's position.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        todo!()
    }

    /// The newest version of a key; a tombstone is returned as such.
    #[must_use]
    pub fn newest(&self, key: &[u8]) -> Option<Record> {
        let _ = key;
        todo!()
    }

    /// The version of a key as of position `at`, inclusive.
    #[must_use]
    pub fn as_of(&self, key: &[u8], at: Seq) -> Option<Record> {
        let _ = (key, at);
        todo!()
    }

    /// Versions of a key, newest first, with seq < `before`.
    #[must_use]
    pub fn history(&self, key: &[u8], before: Option<Seq>, limit: usize) -> Vec<Record> {
        let _ = (key, before, limit);
        todo!()
    }

    /// The record at a position.
    #[must_use]
    pub fn record(&self, seq: Seq) -> Option<Record> {
        let _ = seq;
        todo!()
    }

    /// A page of live keys. May sort: call it where blocking is allowed.
    #[must_use]
    pub fn scan(&self, scan: &Scan) -> Page {
        let _ = scan;
        todo!()
    }
}
