//! The footer at rest: what a segment holds (contents) and where its file keeps it (places). Pure: no I/O.
//!
//! Two rkyv archives, whose fields are here and nothing else: a reader believes them only after
//! [`directory`](super::directory) has checked them against each other.
//!
//! ```text
//! contents   facts | blocks[]: kind u8, first u32, bytes u32, BLAKE3 of the decoded block 32     (canonical)
//! places     [] offset u64, stored bytes u32, codec u8                                            (this file's)
//! ```
//!
//! The two are apart because only the contents are decided by the log: the digest of a segment is over header
//! and contents, and with them every block can be checked alone, from whichever copy it was read.

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    BLOCK_BYTES, IDEMPOTENCY_BYTES_MAX, INLINE_VALUE_BYTES_MAX, KEY_BLOCK_BYTES, LEAF_HASH_BYTES,
    LEAVES_PER_BLOCK, RECORDS_MAX, SUBTREE_LEAVES, SegmentHead, SegmentSummary,
};
use crate::types::{KEY_BYTES_MAX, LogId, LogIndex, VALUE_BYTES_MAX};

/// What a block holds. Blocks of one kind stand in the order of their records or keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Records, an rkyv archive.
    Records = 1,
    /// One value, raw, too large to stand among records. Before the block of its record.
    Value = 2,
    /// Leaf hashes, 32 bytes each.
    Leaves = 3,
    /// The idempotency outcomes that the caller gave, opaque.
    Idempotency = 4,
    /// Part of the key table, an rkyv archive.
    Keys = 5,
    /// The first key of each of those, an rkyv archive.
    KeyIndex = 6,
    /// The key filter.
    Filter = 7,
    /// Roots of the complete subtrees of 256 leaves whose last leaf is here, 32 bytes each.
    Subtrees = 8,
}

impl Kind {
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Records),
            2 => Some(Self::Value),
            3 => Some(Self::Leaves),
            4 => Some(Self::Idempotency),
            5 => Some(Self::Keys),
            6 => Some(Self::KeyIndex),
            7 => Some(Self::Filter),
            8 => Some(Self::Subtrees),
            _ => None,
        }
    }

    /// Whether it leaves this node with a segment's file: records and their values do, and nothing that proofs, keys
    /// or a start need.
    pub(super) const fn is_payload(self) -> bool {
        matches!(self, Self::Records | Self::Value)
    }

    /// The most decoded bytes a block of this kind can have.
    pub(super) const fn bytes_max(self) -> usize {
        match self {
            // The last record may bring it over by its key, its value and their rows.
            Self::Records => 2 * BLOCK_BYTES + KEY_BYTES_MAX + INLINE_VALUE_BYTES_MAX,
            Self::Value => VALUE_BYTES_MAX,
            Self::Leaves => LEAVES_PER_BLOCK * LEAF_HASH_BYTES,
            Self::Keys => 2 * KEY_BLOCK_BYTES + KEY_BYTES_MAX,
            Self::Idempotency => IDEMPOTENCY_BYTES_MAX,
            Self::Subtrees => (RECORDS_MAX as usize / SUBTREE_LEAVES as usize + 1) * LEAF_HASH_BYTES,
            // A filter of RECORDS_MAX keys, an index of 4 GiB of keys: both are below this.
            Self::KeyIndex | Self::Filter => 1 << 30,
        }
    }
}

/// What the log says about a segment besides its records.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) records: u32,
    pub(super) keys: u32,
    pub(super) deletes: u32,
    pub(super) raw_bytes: u64,
    pub(super) first_log: LogPlace,
    pub(super) last_log: LogPlace,
    pub(super) first_timestamp_ms: u64,
    pub(super) last_timestamp_ms: u64,
    pub(super) root_after: [u8; 32],
    pub(super) frontier_before: Vec<u8>,
    pub(super) high_subtrees: Vec<[u8; 32]>,
    pub(super) boundary: Vec<u8>,
}

impl Facts {
    /// What a caller sees of them.
    pub(super) fn summary(self, head: SegmentHead, digest: [u8; 32], file_bytes: u64) -> SegmentSummary {
        SegmentSummary {
            head,
            end_seq: head.first_seq.plus(u64::from(self.records)),
            first_log: self.first_log.into(),
            last_log: self.last_log.into(),
            first_timestamp_ms: self.first_timestamp_ms,
            last_timestamp_ms: self.last_timestamp_ms,
            keys: u64::from(self.keys),
            deletes: u64::from(self.deletes),
            raw_bytes: self.raw_bytes,
            file_bytes,
            frontier_before: self.frontier_before,
            high_subtrees: self.high_subtrees,
            boundary: self.boundary,
            root_after: self.root_after,
            digest,
        }
    }
}

/// A [`LogId`] at rest.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogPlace {
    term: u64,
    index: u64,
}

impl From<LogId> for LogPlace {
    fn from(id: LogId) -> Self {
        Self { term: id.term, index: id.index.0 }
    }
}

impl From<LogPlace> for LogId {
    fn from(place: LogPlace) -> Self {
        Self { term: place.term, index: LogIndex(place.index) }
    }
}

/// A block as the log decided it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockSum {
    pub(super) kind: u8,
    /// Of records and leaves: the first one's number within the segment. Else zero.
    pub(super) first: u32,
    /// Its size, decoded.
    pub(super) bytes: u32,
    /// BLAKE3 of its decoded bytes.
    pub(super) hash: [u8; 32],
}

impl BlockSum {
    /// What is to be remembered of these bytes, fewer than 4 GiB.
    pub(super) fn of(kind: Kind, first: u32, block: &[u8]) -> Self {
        Self { kind: kind as u8, first, bytes: block.len() as u32, hash: *blake3::hash(block).as_bytes() }
    }
}

/// A block as this file stores it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) stored_bytes: u32,
    pub(super) codec: u8,
}

/// The canonical half of the footer.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) facts: Facts,
    pub(super) blocks: Vec<BlockSum>,
}

/// The other half.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) blocks: Vec<Place>,
}
