//! Every applied record by its position, sharing the bytes of the entry it came in.
//!
//! Takes batches in log order and gives records by [`Seq`]. It does not own keys' newest versions
//! (`newest`) nor key order (`keys`). Nothing is ever removed or changed here: older versions are
//! reached by following [`Slot::prev`] from a newer one.

use crate::{
    state::{
        batch::{BatchView, OpView},
        record::Record,
    },
    types::{Seq, TimestampMs},
};

/// "No older version" in a slot.
pub const NO_SEQ: u64 = u64::MAX;

/// Slots a chunk holds. Chunks never move, so that growing never copies what is there.
const CHUNK_SLOTS: usize = 1 << 16;

/// Where one record is: 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    batch: u32,
    op: u32,
    /// Position of the key's version before this one, or [`NO_SEQ`].
    pub prev: u64,
}

#[derive(Debug)]
struct Applied {
    timestamp_ms: TimestampMs,
    view: BatchView,
}

/// The records from position 0 on.
#[derive(Debug, Default)]
pub struct Records {
    batches: Vec<Applied>,
    chunks: Vec<Vec<Slot>>,
    len: u64,
    bytes: u64,
}

impl Records {
    /// The position the next record will get.
    pub fn next_seq(&self) -> u64 {
        self.len
    }

    /// Bytes of the entries held in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a batch whose operations will be appended with [`Records::push`].
    ///
    /// # Panics
    /// After 2^32 batches in memory.
    pub fn push_batch(&mut self, timestamp_ms: TimestampMs, view: BatchView) -> u32 {
        self.bytes += view.bytes() as u64;
        let number = u32::try_from(self.batches.len()).expect("fewer than 2^32 batches fit into memory");
        self.batches.push(Applied { timestamp_ms, view });
        number
    }

    /// Appends operation `op` of batch `batch` as the next record.
    pub fn push(&mut self, batch: u32, op: u32, prev: u64) -> u64 {
        if self.len.is_multiple_of(CHUNK_SLOTS as u64) {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(Slot { batch, op, prev });
        }
        self.len += 1;
        self.len - 1
    }

    /// The slot at a position below [`Records::next_seq`].
    pub fn slot(&self, seq: u64) -> Slot {
        let seq = seq as usize;
        self.chunks[seq / CHUNK_SLOTS][seq % CHUNK_SLOTS]
    }

    /// The operation recorded in a slot.
    pub fn op(&self, slot: Slot) -> OpView<'_> {
        self.batches[slot.batch as usize].view.op(slot.op as usize)
    }

    /// Its time.
    pub fn timestamp_ms(&self, slot: Slot) -> TimestampMs {
        self.batches[slot.batch as usize].timestamp_ms
    }

    /// The whole record at a position, sharing its entry's bytes.
    pub fn record(&self, seq: u64) -> Record {
        let slot = self.slot(seq);
        let applied = &self.batches[slot.batch as usize];
        let op = applied.view.op(slot.op as usize);
        Record {
            seq: Seq(seq),
            op: op.op,
            timestamp_ms: applied.timestamp_ms,
            key: applied.view.share(op.key),
            value: applied.view.share(op.value),
        }
    }
}
