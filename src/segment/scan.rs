//! Walking a segment: records in order, versions of a key backwards, keys in order.
//!
//! Each walk holds one block at a time and ends after its first error.

use std::ops::Range;

use bytes::Bytes;

use super::{
    Segment, StoredRecord, Version,
    key_block::{KeyBlockView, PackedVersion},
};
use crate::{
    error::{Error, Result},
    types::{ColdBlock, Seq},
};

/// Stored bytes of cold blocks that are asked for together.
const AHEAD_BYTES_MAX: u32 = 512 << 10;

/// Who has so many records still to come goes through the segment.
const WALK_RECORDS: usize = 64;

/// Records in order; [`Segment::records`].
#[derive(Debug)]
pub struct Records<'a> {
    segment: &'a Segment,
    /// Numbers still to come.
    left: Range<u32>,
    /// The block of the next one, if it was that of the last: its number, its bytes, the next record's slot.
    block: Option<(u32, Bytes, usize)>,
}

impl<'a> Records<'a> {
    pub(super) fn new(segment: &'a Segment, left: Range<u32>) -> Self {
        Self { segment, left, block: None }
    }

    fn read(&mut self, number: u32) -> Result<StoredRecord> {
        let segment = self.segment;
        let (block_number, block, slot) = match self.block.take() {
            Some(block) => block,
            None => {
                let found = segment.directory.record_block(number);
                let (block_number, slot) =
                    found.ok_or_else(|| segment.corrupt(0, "a record has no block"))?;
                let block = segment.block(block_number).map_err(|error| self.ahead(number, error))?;
                (block_number, block, slot)
            }
        };
        let seq = segment.summary().head.first_seq.plus(u64::from(number));
        let record = segment.stored(seq, block_number, &block, slot)?;
        if slot + 1 < segment.directory.records_in(block_number) as usize {
            self.block = Some((block_number, block, slot + 1));
        }
        Ok(record)
    }
}

impl Records<'_> {
    /// Where a block is cold, those behind it that are wanted next are, too: all are asked for at once.
    fn ahead(&self, number: u32, error: Error) -> Error {
        let Some(cold) = error.cold_blocks().first().copied() else { return error };
        let directory = &self.segment.directory;
        // Whoever goes through many will want those behind them soon.
        let end = if self.left.len() < WALK_RECORDS { self.left.end } else { u32::MAX };
        let mut bytes = 0;
        let blocks =
            directory.records.iter().copied().skip_while(|block| *block < cold.block).take_while(|block| {
                let at = directory.block(*block);
                bytes += at.stored_bytes;
                *block == cold.block || (at.first >= number && at.first < end && bytes <= AHEAD_BYTES_MAX)
            });
        Error::cold(blocks.map(|block| ColdBlock { block, ..cold }).collect())
    }
}

impl Iterator for Records<'_> {
    type Item = Result<StoredRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let number = self.left.next()?;
        let record = self.read(number);
        if record.is_err() {
            self.left = 0..0;
        }
        Some(record)
    }
}

/// Versions of a key, newest first; [`Segment::versions`].
#[derive(Debug)]
pub struct Versions<'a> {
    segment: &'a Segment,
    key: &'a [u8],
    /// Versions below this are still to come; `None` when none is.
    before: Option<PackedVersion>,
    /// The block of the last one.
    block: Option<(usize, Bytes)>,
}

impl<'a> Versions<'a> {
    pub(super) fn new(segment: &'a Segment, key: &'a [u8], before: u32) -> Self {
        Self { segment, key, before: Some(PackedVersion(before << 1)), block: None }
    }

    /// The newest version below `before`: in the block that the index names, or nowhere.
    fn find(&mut self, before: PackedVersion) -> Result<Option<PackedVersion>> {
        let segment = self.segment;
        let Some(at) = segment.key_index()?.block_of(self.key, before) else { return Ok(None) };
        let number = segment.directory.keys.get(at).copied();
        let number =
            number.ok_or_else(|| segment.corrupt(0, "the key index names a block that is not there"))?;
        let block = match self.block.take() {
            Some((held, block)) if held == at => block,
            _ => segment.block(number)?,
        };
        let view = KeyBlockView::open(&block)
            .map_err(|what| segment.corrupt(segment.directory.block(number).offset, what))?;
        let found = view.find(self.key).and_then(|row| view.newest(row, before));
        self.block = Some((at, block));
        Ok(found)
    }
}

impl Iterator for Versions<'_> {
    type Item = Result<Version>;

    fn next(&mut self) -> Option<Self::Item> {
        let before = self.before.take()?;
        let found = self.find(before).transpose()?;
        Some(found.map(|version| {
            self.before = Some(version);
            self.segment.version(version)
        }))
    }
}

/// One key of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// The key, a slice of a block.
    pub key: Bytes,
    /// Its newest version in the segment; a tombstone is one.
    pub newest: Version,
}

/// Keys in order; [`Segment::keys`], [`Segment::keys_from`].
#[derive(Debug)]
pub struct Keys<'a> {
    segment: &'a Segment,
    /// Whether its blocks stay in the cache.
    cached: bool,
    /// The place of the next block among key blocks, and the rows of this one that are still to come.
    next_block: usize,
    block: Bytes,
    rows: Range<usize>,
    /// A key that may go on in the next block.
    pending: Option<KeyEntry>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        Self { segment, cached: false, next_block: 0, block: Bytes::new(), rows: 0..0, pending: None }
    }

    /// Goes on at the first key that is not less than `start`.
    pub(super) fn from(segment: &'a Segment, start: &[u8]) -> Result<Self> {
        let mut keys = Self { cached: true, ..Self::new(segment) };
        keys.next_block = segment.key_index()?.block_of(start, PackedVersion(0)).unwrap_or(0);
        while let Some(row) = keys.row()? {
            if row.key[..] >= *start {
                keys.pending = Some(row);
                break;
            }
        }
        Ok(keys)
    }

    /// The next row, from the next block if it must be.
    fn row(&mut self) -> Result<Option<KeyEntry>> {
        let segment = self.segment;
        if self.rows.is_empty() {
            let Some(number) = segment.directory.keys.get(self.next_block) else { return Ok(None) };
            self.block = if self.cached { segment.block(*number)? } else { segment.load(*number)? };
            self.next_block += 1;
            self.rows = 0..self.view(*number)?.len();
        }
        let Some(row) = self.rows.next() else { return Ok(None) };
        let number = segment.directory.keys[self.next_block - 1];
        let view = self.view(number)?;
        let (Some(key), Some(newest)) = (view.key(row), view.newest(row, PackedVersion(u32::MAX))) else {
            let offset = segment.directory.block(number).offset;
            return Err(segment.corrupt(offset, "a key row points outside its block"));
        };
        Ok(Some(KeyEntry { key: self.block.slice_ref(key), newest: segment.version(newest) }))
    }

    fn view(&self, number: u32) -> Result<KeyBlockView<'_>> {
        let offset = self.segment.directory.block(number).offset;
        KeyBlockView::open(&self.block).map_err(|what| self.segment.corrupt(offset, what))
    }

    fn advance(&mut self) -> Result<Option<KeyEntry>> {
        loop {
            let row = self.row()?;
            match (self.pending.take(), row) {
                (None, None) => return Ok(None),
                (None, row) => self.pending = row,
                (Some(entry), Some(row)) if entry.key == row.key => self.pending = Some(row),
                (entry, row) => {
                    self.pending = row;
                    return Ok(entry);
                }
            }
        }
    }
}

impl Iterator for Keys<'_> {
    type Item = Result<KeyEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.advance();
        if entry.is_err() {
            (self.next_block, self.rows, self.pending) = (usize::MAX, 0..0, None);
        }
        entry.transpose()
    }
}

impl Segment {
    fn version(&self, version: PackedVersion) -> Version {
        let seq: Seq = self.summary().head.first_seq.plus(u64::from(version.number()));
        Version { seq, op: version.op() }
    }
}
