//! A block of records. Pure: no I/O.
//!
//! Takes records in order until the block is full, gives one rkyv archive; reads records in place from it. It
//! does not own large values, which lie raw in blocks of their own, nor records' positions: the directory knows
//! the first one's and they are dense.
//!
//! ```text
//! slot   at u32 | value bytes u32 | key bytes u16 | op u8 | 0       12 bytes a record, found by its number
//! time   first slot u32 | timestamp u64                             one a run of records of equal time
//! big    slot u32 | block u32 | SHA-256 of the value 32             one a value over 4 KiB
//! blob   key value key value …                                      `at` points at the key
//! ```
//!
//! An entry's records share a time, so times are runs. The commitment of a big value is kept so that its leaf
//! can be rebuilt without reading it; `block` says where it lies when it does not follow its key.

use rkyv::{Archive, Serialize, rancor};

use super::{COMMITMENT_BYTES_MIN, INLINE_VALUE_BYTES_MAX, RecordRef};
use crate::types::{KEY_BYTES_MAX, Op, TimestampMs, VALUE_BYTES_MAX};

/// In [`BigValue`]: the value follows its key.
const INLINE: u32 = u32::MAX;

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Slot {
    at: u32,
    value_bytes: u32,
    key_bytes: u16,
    op: u8,
    reserved: u8,
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct TimeRun {
    first_slot: u32,
    timestamp_ms: u64,
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct BigValue {
    slot: u32,
    block: u32,
    commitment: [u8; 32],
}

/// A block being filled, and its shape at rest.
#[derive(Archive, Serialize, Debug, Default)]
pub(super) struct RecordBlock {
    slots: Vec<Slot>,
    times: Vec<TimeRun>,
    big: Vec<BigValue>,
    blob: Vec<u8>,
}

impl RecordBlock {
    /// Appends a record; `value_block` is the number of the block that its value was written to, if it was.
    pub(super) fn push(&mut self, record: &RecordRef<'_>, value_block: Option<u32>) {
        let slot = self.slots.len() as u32;
        if self.times.last().is_none_or(|run| run.timestamp_ms != record.timestamp_ms) {
            self.times.push(TimeRun { first_slot: slot, timestamp_ms: record.timestamp_ms });
        }
        if let Some(commitment) = record.value_commitment {
            let block = value_block.unwrap_or(INLINE);
            self.big.push(BigValue { slot, block, commitment: *commitment });
        }
        self.slots.push(Slot {
            at: self.blob.len() as u32,
            value_bytes: record.value.len() as u32,
            key_bytes: record.key.len() as u16,
            op: record.op as u8,
            reserved: 0,
        });
        self.blob.extend_from_slice(record.key);
        if value_block.is_none() {
            self.blob.extend_from_slice(record.value);
        }
    }

    /// How many records it has.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// About its size as an archive, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.blob.len()
            + self.slots.len() * size_of::<ArchivedSlot>()
            + self.times.len() * size_of::<ArchivedTimeRun>()
            + self.big.len() * size_of::<ArchivedBigValue>()
    }

    /// Makes it empty; the memory stays.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.times.clear();
        self.big.clear();
        self.blob.clear();
    }
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValuePlace<'a> {
    /// Here.
    Inline(&'a [u8]),
    /// All of the block with this number, which has this many bytes.
    Block(u32, u32),
}

/// One record of a block, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub(super) op: Op,
    pub(super) timestamp_ms: TimestampMs,
    pub(super) key: &'a [u8],
    pub(super) value: ValuePlace<'a>,
    pub(super) value_commitment: Option<&'a [u8; 32]>,
}

/// A block read in place.
#[derive(Clone, Copy)]
pub(super) struct RecordBlockView<'a>(&'a ArchivedRecordBlock);

impl<'a> RecordBlockView<'a> {
    /// Looks at a block. rkyv's checks cost a few nanoseconds: no part of the archive but its pointers can be
    /// out of bounds.
    pub(super) fn open(block: &'a [u8]) -> Result<Self, &'static str> {
        rkyv::access::<ArchivedRecordBlock, rancor::Error>(block)
            .map(Self)
            .map_err(|_| "a block is not an archive of records")
    }

    /// Looks at a block for the first time and checks that it could have been written, with this many records.
    pub(super) fn check(block: &'a [u8], records: u32) -> Result<Self, &'static str> {
        let view = Self::open(block)?;
        let RecordBlockView(archive) = view;
        if archive.slots.len() != records as usize || records == 0 {
            return Err("a block has another number of records than the directory says");
        }
        let firsts = archive.times.iter().map(|run| run.first_slot.to_native());
        if archive.times.first().is_none_or(|run| run.first_slot != 0) || !firsts.is_sorted_by(|a, b| a < b) {
            return Err("the times of a block are out of order");
        }
        if !archive.big.is_sorted_by(|a, b| a.slot.to_native() < b.slot.to_native()) {
            return Err("the large values of a block are out of order");
        }
        let (mut end, mut big) = (0, 0);
        for slot in 0..records as usize {
            let row = view.row(slot).ok_or("a record points outside its block")?;
            let start = u64::from(archive.slots[slot].at.to_native());
            let value_bytes = archive.slots[slot].value_bytes.to_native() as usize;
            let inline = matches!(row.value, ValuePlace::Inline(_));
            if start != end || archive.slots[slot].reserved != 0 {
                return Err("the records of a block do not follow each other");
            }
            if row.key.is_empty() || row.key.len() > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
                return Err("a record has a key or value of an impossible size");
            }
            if inline != (value_bytes <= INLINE_VALUE_BYTES_MAX)
                || row.value_commitment.is_some() != (value_bytes >= COMMITMENT_BYTES_MIN)
                || (row.op == Op::Delete && value_bytes > 0)
            {
                return Err("a record's value is not where it belongs");
            }
            end = start + row.key.len() as u64 + if inline { value_bytes as u64 } else { 0 };
            big += usize::from(row.value_commitment.is_some());
        }
        if end != archive.blob.len() as u64 || big != archive.big.len() {
            return Err("a block holds more than its records");
        }
        Ok(view)
    }

    /// The record with this number in the block; `None` when there is none.
    pub(super) fn row(&self, slot: usize) -> Option<Row<'a>> {
        let archive = self.0;
        let head = archive.slots.get(slot)?;
        let key_at = head.at.to_native() as usize;
        let value_at = key_at.checked_add(head.key_bytes.to_native() as usize)?;
        let value_bytes = head.value_bytes.to_native();
        let big = (value_bytes as usize >= COMMITMENT_BYTES_MIN).then(|| self.big(slot)).flatten();
        let value = match big.map(|big| big.block.to_native()) {
            Some(block) if block != INLINE => ValuePlace::Block(block, value_bytes),
            _ => ValuePlace::Inline(archive.blob.get(value_at..value_at.checked_add(value_bytes as usize)?)?),
        };
        let run = archive.times.partition_point(|run| run.first_slot.to_native() as usize <= slot);
        Some(Row {
            op: Op::from_byte(head.op)?,
            timestamp_ms: archive.times.get(run.checked_sub(1)?)?.timestamp_ms.to_native(),
            key: archive.blob.get(key_at..value_at)?,
            value,
            value_commitment: big.map(|big| &big.commitment),
        })
    }

    fn big(&self, slot: usize) -> Option<&'a ArchivedBigValue> {
        let big = &self.0.big;
        big.binary_search_by_key(&slot, |big| big.slot.to_native() as usize).ok().map(|at| &big[at])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Seq;

    type Model = Vec<(bool, u64, Vec<u8>, Vec<u8>)>;

    fn any_records() -> impl Strategy<Value = Model> {
        let value = prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..200),
            1 => (0..3 * INLINE_VALUE_BYTES_MAX / 2).prop_map(|bytes| vec![7; bytes]),
        ];
        let record = (any::<bool>(), 0u64..3, prop::collection::vec(any::<u8>(), 1..40), value);
        prop::collection::vec(record, 1..30)
    }

    fn build(model: &Model) -> Vec<u8> {
        let mut block = RecordBlock::default();
        for (number, (put, timestamp_ms, key, value)) in model.iter().enumerate() {
            let value = if *put { &value[..] } else { &[] };
            let record = RecordRef {
                seq: Seq(number as u64),
                op: if *put { Op::Put } else { Op::Delete },
                timestamp_ms: *timestamp_ms,
                key,
                value,
                value_commitment: (value.len() >= COMMITMENT_BYTES_MIN).then_some(&[5; 32]),
            };
            block.push(&record, (value.len() > INLINE_VALUE_BYTES_MAX).then_some(number as u32));
        }
        let bytes = block.bytes();
        let archive = rkyv::to_bytes::<rancor::Error>(&block).unwrap().to_vec();
        assert!((bytes..bytes + 64).contains(&archive.len()));
        archive
    }

    proptest! {
        #[test]
        fn records_read_back(model in any_records()) {
            let archive = build(&model);
            let view = RecordBlockView::check(&archive, model.len() as u32).unwrap();
            prop_assert!(RecordBlockView::check(&archive, model.len() as u32 + 1).is_err());
            for (number, (put, timestamp_ms, key, value)) in model.iter().enumerate() {
                let value = if *put { &value[..] } else { &[] };
                let row = view.row(number).unwrap();
                prop_assert_eq!((row.op == Op::Put, row.timestamp_ms, row.key), (*put, *timestamp_ms, &key[..]));
                let expected = if value.len() > INLINE_VALUE_BYTES_MAX {
                    ValuePlace::Block(number as u32, value.len() as u32)
                } else {
                    ValuePlace::Inline(value)
                };
                prop_assert_eq!(row.value, expected);
                prop_assert_eq!(row.value_commitment.is_some(), value.len() >= COMMITMENT_BYTES_MIN);
            }
            prop_assert_eq!(view.row(model.len()), None);
        }

        #[test]
        fn damaged_blocks_never_panic(
            model in any_records(), at in any::<prop::sample::Index>(), bit in 0u8..8,
            cut in any::<prop::sample::Index>(),
        ) {
            let archive = build(&model);
            let mut flipped = archive.clone();
            let at = at.index(flipped.len());
            flipped[at] ^= 1 << bit;
            for bytes in [&flipped[..], &archive[..cut.index(archive.len())]] {
                let _ = RecordBlockView::check(bytes, model.len() as u32);
                if let Ok(view) = RecordBlockView::open(bytes) {
                    std::hint::black_box((0..model.len() + 1).filter_map(|slot| view.row(slot)).count());
                }
            }
        }
    }
}
