//! The records of one memtable by their position, sharing the bytes of the entries they came in.
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

/// Items a chunk holds.
const CHUNK_LEN: usize = 1 << 16;

/// A list that grows without moving what is in it: readers never wait for a copy.
#[derive(Debug)]
struct Chunks<T>(Vec<Vec<T>>);

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Chunks<T> {
    fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * CHUNK_LEN + last.len())
    }

    fn push(&mut self, item: T) {
        match self.0.last_mut() {
            Some(last) if last.len() < CHUNK_LEN => last.push(item),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_LEN);
                chunk.push(item);
                self.0.push(chunk);
            }
        }
    }

    fn pop(&mut self) -> Option<T> {
        let last = self.0.last_mut()?;
        let item = last.pop();
        if last.is_empty() {
            self.0.pop();
        }
        item
    }
}

impl<T> std::ops::Index<usize> for Chunks<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.0[at / CHUNK_LEN][at % CHUNK_LEN]
    }
}

/// Where one record is: 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    batch: u32,
    op: u32,
    /// Position of the key's version before this one in this memtable, or [`NO_SEQ`].
    pub prev: u64,
}

#[derive(Debug)]
struct Applied {
    timestamp_ms: TimestampMs,
    view: BatchView,
}

/// Records that follow each other, out of a memtable, sharing their entries' bytes.
#[derive(Clone, Debug, Default)]
pub struct Span {
    first_seq: Seq,
    batches: Vec<(TimestampMs, BatchView)>,
    /// Of every record, its batch in here and its operation in that.
    slots: Vec<(u32, u32)>,
}

impl Span {
    /// How many records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The whole record at a place below [`Span::len`], sharing its entry's bytes.
    #[must_use]
    pub fn record(&self, n: usize) -> Record {
        let (batch, op) = self.slots[n];
        let (timestamp_ms, view) = &self.batches[batch as usize];
        let op = view.op(op as usize);
        let (key, value) = (view.share(op.key), view.share(op.value));
        Record { seq: self.first_seq.plus(n as u64), op: op.op, timestamp_ms: *timestamp_ms, key, value }
    }

    /// The records: position, time, operation.
    pub fn iter(&self) -> impl Iterator<Item = (Seq, TimestampMs, OpView<'_>)> {
        (self.first_seq.0..).zip(&self.slots).map(|(seq, (batch, op))| {
            let (timestamp_ms, view) = &self.batches[*batch as usize];
            (Seq(seq), *timestamp_ms, view.op(*op as usize))
        })
    }
}

/// The records from some position on.
#[derive(Debug)]
pub struct Records {
    first_seq: u64,
    batches: Chunks<Applied>,
    slots: Chunks<Slot>,
    bytes: u64,
}

impl Records {
    /// None yet; the first will be at `first_seq`.
    pub fn from(first_seq: Seq) -> Self {
        Self { first_seq: first_seq.0, batches: Chunks::default(), slots: Chunks::default(), bytes: 0 }
    }

    /// The position the next record will get.
    pub fn next_seq(&self) -> u64 {
        self.first_seq + self.slots.len() as u64
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

    /// Takes the last batch back, of which nothing was appended.
    pub fn pop_batch(&mut self) {
        if let Some(applied) = self.batches.pop() {
            self.bytes -= applied.view.bytes() as u64;
        }
    }

    /// Appends operation `op` of batch `batch` as the next record.
    pub fn push(&mut self, batch: u32, op: u32, prev: u64) {
        self.slots.push(Slot { batch, op, prev });
    }

    /// The slot at a position that is here: from the first one, below [`Records::next_seq`].
    pub fn slot(&self, seq: u64) -> Slot {
        self.slots[(seq - self.first_seq) as usize]
    }

    /// The operation recorded in a slot.
    pub fn op(&self, slot: Slot) -> OpView<'_> {
        self.batches[slot.batch as usize].view.op(slot.op as usize)
    }

    /// At most `count_max` records from `from` on.
    pub fn span(&self, from: Seq, count_max: usize) -> Span {
        let end = self.next_seq().min(from.0.saturating_add(count_max as u64));
        let mut span = Span { first_seq: from, ..Span::default() };
        let mut last_batch = None;
        for seq in from.0..end {
            let slot = self.slot(seq);
            if last_batch != Some(slot.batch) {
                last_batch = Some(slot.batch);
                let Applied { timestamp_ms, view } = &self.batches[slot.batch as usize];
                span.batches.push((*timestamp_ms, view.clone()));
            }
            span.slots.push((span.batches.len() as u32 - 1, slot.op));
        }
        span
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
