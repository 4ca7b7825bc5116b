//! The words everything else is said in: positions, identifiers and the bounds of a record.
//!
//! An index is not a count is not a size, so each has a type of its own. This module imports nothing
//! from the rest of the crate.

use std::fmt;

use bytes::Bytes;

/// Longest key, in bytes. A key has at least one byte.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Longest value, in bytes (64 MiB). A value may be empty.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// Longest `Idempotency-Key`, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// Keys that begin with these bytes belong to the ledger itself; clients may not write them.
pub const RESERVED_KEY_PREFIX: &[u8] = b"\0scribe\0";

/// Whether a key's first path segment, decoded, is a name that the HTTP server itself uses. Such keys are
/// reached under `/api/v1/kv/`.
#[must_use]
pub const fn is_reserved_segment(name: &[u8]) -> bool {
    matches!(
        name,
        b"api"
            | b"put"
            | b"get"
            | b"write"
            | b"read"
            | b"init"
            | b"health"
            | b"livez"
            | b"readyz"
            | b"metrics"
            | b"cluster"
            | b"verify"
            | b"checkpoint"
            | b"tile"
            | b"ui"
            | b"openapi.json"
            | b"leader"
            | b"is-leader"
            | b"add-learner"
            | b"change-membership"
            | b"v1"
            | b"v3"
            | b"admin"
            | b"debug"
            | b"internal"
            | b"docs"
    )
}

/// A cluster member's identity: positive, never used twice.
pub type NodeId = u64;

/// A block of a sealed segment that this node's disk does not hold: its bytes are in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColdBlock {
    /// Of which segment.
    pub segment: SegmentId,
    /// Which one, in the order of the block directory.
    pub block: u32,
}

/// Milliseconds since the Unix epoch, as the leader that proposed an entry saw it.
pub type TimestampMs = u64;

/// The position of a record in the ledger: dense, from 0, the same on every node.
///
/// It is also the index of the record's leaf in the Merkle tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The position `count` records further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a segment, from 0: segments follow each other without gaps, the same on every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of an entry in the Raft log, from 0. One entry carries many records, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a log entry: the term of the leader that proposed it, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// Raft term.
    pub term: u64,
    /// Place in the log, from 0.
    pub index: LogIndex,
}

/// What a record did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// The key has this value from here on.
    Put = 1,
    /// A tombstone: the key is absent from here on. Its older versions stay readable.
    Delete = 2,
}

impl Op {
    /// The operation a byte of a wire or disk format stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Put),
            2 => Some(Self::Delete),
            _ => None,
        }
    }

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

/// One record, sharing the bytes it was applied or read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position.
    pub seq: Seq,
    /// What it did.
    pub op: Op,
    /// When its entry was proposed, by the leader's clock; never less than an earlier record's.
    pub timestamp_ms: TimestampMs,
    /// To which key.
    pub key: Bytes,
    /// With which value; empty for a tombstone.
    pub value: Bytes,
}

/// Versions of a key that are gathered, newest first, until there are enough.
#[derive(Clone, Debug)]
pub struct Versions {
    records: Vec<Record>,
    limit: usize,
    /// Bytes of values that may still come.
    bytes_left: usize,
}

impl Versions {
    /// None yet; at most `limit`, and none behind the one that brings their values to `bytes_max` bytes.
    #[must_use]
    pub fn at_most(limit: usize, bytes_max: usize) -> Self {
        Self { records: Vec::new(), limit, bytes_left: bytes_max }
    }

    /// Whether there are enough.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.records.len() >= self.limit || self.bytes_left == 0
    }

    /// Adds an older one.
    pub fn push(&mut self, record: Record) {
        self.bytes_left = self.bytes_left.saturating_sub(record.value.len());
        self.records.push(record);
    }

    /// What there is.
    #[must_use]
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }
}
