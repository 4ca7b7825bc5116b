//! The segment that is being filled, and those that are full and in memory.
//!
//! Where a segment ends is decided here, by the log and the cluster's settings alone, so that every member cuts
//! the same ones. It does not own their records ([`Memtable`]) nor their files.

use std::sync::Arc;

use super::{memtable::Memtable, records::Span, settings::Settings};
use crate::types::{LogId, SegmentId, Seq};

/// Record bytes for every record that a segment may hold: tiny records fill it by their number.
const BYTES_PER_RECORD_MIN: u64 = 64;

/// Bytes of the log that a segment may cover, by its record bytes: failing conditions leave no records, and
/// must not fill the log for ever.
const LOG_BYTES_FACTOR: u64 = 4;

/// What an entry costs the log beside its bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

/// What a record in a memtable takes beside its entry's bytes: its slot, its row, its leaf hash, the order of keys.
pub(super) const RECORD_OVERHEAD_BYTES: u64 = 96;

/// What the segment that is being filled has come to.
#[derive(Clone, Debug, Default)]
pub(super) struct Filling {
    pub(super) id: SegmentId,
    pub(super) first_log: Option<LogId>,
    /// Bytes of keys and values.
    pub(super) record_bytes: u64,
    pub(super) log_bytes: u64,
    /// Answers to requests with idempotency keys, encoded.
    pub(super) answers: Vec<u8>,
    /// Whether the entry that is being applied asks for its end.
    pub(super) end_asked: bool,
}

impl Filling {
    /// The segment with this number, empty.
    pub(super) fn new(id: SegmentId) -> Self {
        Self { id, ..Self::default() }
    }

    /// Counts an entry.
    pub(super) fn note_entry(&mut self, log: LogId, bytes: u64) {
        self.first_log.get_or_insert(log);
        self.log_bytes += bytes + ENTRY_OVERHEAD_BYTES;
    }

    /// Whether it ends with the entry that was noted last.
    pub(super) fn is_full(&self, records: u64, settings: &Settings) -> bool {
        self.end_asked && records > 0
            || self.record_bytes >= settings.segment_bytes
            || records >= (settings.segment_bytes / BYTES_PER_RECORD_MIN).max(1)
            || self.log_bytes >= settings.segment_bytes.saturating_mul(LOG_BYTES_FACTOR)
    }
}

/// A segment that is full, and in memory as long as it has no file, and some time after.
#[derive(Debug)]
pub struct ClosedSegment {
    /// Its number.
    pub id: SegmentId,
    /// The first entry of the log that belongs to it.
    pub first_log: LogId,
    /// The last one.
    pub last_log: LogId,
    /// The settings in force at its end.
    pub settings: Settings,
    /// The state at its end, encoded.
    pub boundary: Vec<u8>,
    /// Answers to requests with idempotency keys that were given in it, encoded.
    pub answers: Vec<u8>,
    /// Its records.
    pub(super) table: Arc<Memtable>,
}

impl ClosedSegment {
    /// Position of its first record, or of the next one if it has none.
    #[must_use]
    pub fn first_seq(&self) -> Seq {
        self.table.first_seq()
    }

    /// About the memory it takes.
    pub(super) fn bytes(&self) -> u64 {
        let records = self.table.records();
        records.bytes() + (records.next_seq() - self.table.first_seq().0) * RECORD_OVERHEAD_BYTES
    }

    /// At most `count_max` of its records from `from` on.
    #[must_use]
    pub fn span(&self, from: Seq, count_max: usize) -> Span {
        self.table.span(from, count_max)
    }
}
