//! Segments: what the ledger keeps for ever, in immutable files that are the same on every node.
//!
//! ```text
//!  records in order,                                     ┌► record  records  leaf_hashes   by position
//!  leaf hashes ─► SegmentWriter ─► segment file ─► Segment ─► versions  may_contain  keys  by key
//!                 holds one block     │               └► idempotency  verify
//!                 and the keys        │ pread            │
//!                                     └─► hash checked ──┴─► BlockCache (bytes_max, shared by all segments)
//!
//!  header │ records  records  leaves  value  records … │ idempotency │ keys keys … │ key index │ filter │
//!         subtrees │ contents │ places │ trailer
//! ```
//!
//! Takes records by borrowed views and writes them under a temporary name; after sync and rename the file never
//! changes. Gives records by position (the address of everything) and positions by key, sharing the bytes of
//! cached blocks. It does not own when a segment is cut, which segments there are, nor the tree: frontier, root
//! and idempotency outcomes are bytes to it.
//!
//! Only what the log decided goes in, so equal logs give equal files. Every byte is under a hash that is checked
//! before the byte is believed: the trailer's own, the digest over header and contents, and in the contents a
//! BLAKE3 for each block; the few zeros that align blocks carry nothing and are checked by [`Segment::verify`].
//! A block is checked once, when it is loaded, both as bytes and as what it claims to be. Leaf blocks stand
//! among the record blocks they belong to, and a large value before the block of its record, so that a writer
//! never holds more than one block of each.
//!
//! A segment whose file has gone to the archive leaves a `stub`: all of it but records and values.
//!
//! The ends of the file are drawn in [`format`](mod@format), the footer in `contents` and `directory`, records in
//! `record_block`, keys in `key_block`, the filter in [`filter`].

use crate::types::{LogId, Op, SegmentId, Seq, TimestampMs};

mod cache;
mod codec;
mod contents;
mod directory;
pub mod filter;
pub mod format;
mod key_block;
mod key_table;
mod names;
mod pack;
mod reader;
mod record_block;
mod scan;
mod sink;
pub mod stored;
mod stub;
#[cfg(test)]
mod tests;
mod verify;
mod whole_file;
mod writer;

pub use cache::{BlockCache, ColdBlocks};
pub use codec::Packing;
pub use filter::KeyHash;
pub use format::SegmentHead;
pub use names::{
    file_name, is_unfinished, parse_name, parse_stub_name, partial_name, remove, remove_unfinished,
    stub_name, unfinished,
};
pub use reader::{Segment, StoredRecord};
pub use scan::{KeyEntry, Keys, Records, Versions};
pub use stub::StubObject;
pub use writer::{FinishInfo, SegmentWriter};

/// A block of records closes once it has this many bytes: as few as BLAKE3 takes at full speed, because a read of
/// one record loads, hashes and keeps a whole block.
pub const BLOCK_BYTES: usize = 16 << 10;

/// A block of the key table closes once it has this many bytes: small, because a lookup reads one whole.
pub const KEY_BLOCK_BYTES: usize = 16 << 10;

/// A longer value lies in a block of its own, so that its neighbours can be read without it.
pub const INLINE_VALUE_BYTES_MAX: usize = 16 << 10;

/// From this length on a value's commitment is kept beside it: hashing it again would cost more than reading it.
pub const COMMITMENT_BYTES_MIN: usize = (4 << 10) + 1;

/// Leaf hashes in a full leaf block: eight level-0 tiles.
pub const LEAVES_PER_BLOCK: usize = 2_048;

/// Size of a leaf hash.
pub const LEAF_HASH_BYTES: usize = 32;

/// Leaves of a subtree whose root is kept beside the leaf hashes: a level-0 tile.
pub const SUBTREE_LEAVES: u64 = 1 << 8;

/// Leaves of a subtree whose root is kept in the footer, so that an open segment has it at hand: a level-1 tile.
pub const HIGH_SUBTREE_LEAVES: u64 = 1 << 16;

/// The most bytes of idempotency outcomes that one segment carries.
pub const IDEMPOTENCY_BYTES_MAX: usize = 1 << 30;

/// The most records of one segment. Settings close a segment long before it.
pub const RECORDS_MAX: u32 = 1 << 29;

/// A record to be written, borrowed from wherever it lies.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Its position: the one after the last record's.
    pub seq: Seq,
    /// What it did.
    pub op: Op,
    /// Its entry's time; never less than an earlier record's.
    pub timestamp_ms: TimestampMs,
    /// To which key, 1 to 1,024 bytes.
    pub key: &'a [u8],
    /// With which value, at most 64 MiB; empty for a tombstone.
    pub value: &'a [u8],
    /// SHA-256 of a value of at least [`COMMITMENT_BYTES_MIN`] bytes, which its leaf hash needed anyway; `None`
    /// for a shorter one.
    pub value_commitment: Option<&'a [u8; 32]>,
}

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Where its record is.
    pub seq: Seq,
    /// What it did.
    pub op: Op,
}

/// What a segment is and holds, as its footer says: the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its number, first position and the settings that shaped it.
    pub head: SegmentHead,
    /// One past its last record's position; the first position when it holds none.
    pub end_seq: Seq,
    /// The first entry of the log that belongs to it.
    pub first_log: LogId,
    /// The last one: what it covers of the log.
    pub last_log: LogId,
    /// Time of its first record; 0 when it holds none.
    pub first_timestamp_ms: TimestampMs,
    /// Time of its last record; 0 when it holds none.
    pub last_timestamp_ms: TimestampMs,
    /// Distinct keys.
    pub keys: u64,
    /// Tombstones among its records.
    pub deletes: u64,
    /// Bytes of keys and values.
    pub raw_bytes: u64,
    /// Size of this file.
    pub file_bytes: u64,
    /// The tree's frontier before its first record, as the caller encoded it.
    pub frontier_before: Vec<u8>,
    /// Root of the tree of all records up to `end_seq`.
    pub root_after: [u8; 32],
    /// Roots of the complete subtrees of [`HIGH_SUBTREE_LEAVES`] leaves whose last leaf is here, in order.
    pub high_subtrees: Vec<[u8; 32]>,
    /// What the caller wants to find again at the end of the newest segment.
    pub boundary: Vec<u8>,
    /// BLAKE3(header ‖ contents): the identity of all this, whatever way the blocks are stored.
    pub digest: [u8; 32],
}

impl SegmentSummary {
    /// Its number.
    #[must_use]
    pub const fn id(&self) -> SegmentId {
        self.head.id
    }

    /// How many records it holds.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.end_seq.0 - self.head.first_seq.0
    }
}
