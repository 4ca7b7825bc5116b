//! Blocks of the key table, and the index over them. Pure: no I/O.
//!
//! The table is all pairs (key, version) of a segment, ascending, cut into blocks of about 16 KiB. A key that
//! has very many versions goes on in the next block. The index has the first pair of every block.
//!
//! ```text
//! block   rows[]: key end u16, version end u16 | versions[]: u32 | keys one behind the other
//! index   rows[]: key end u32, first version u32                 | keys one behind the other
//! version (seq − first seq of the segment) · 2 + (1 for a delete)
//! ```
//!
//! Ends rather than starts and lengths: a key is the bytes between two neighbours, at four bytes a row.

use rkyv::{Archive, Serialize, rancor};

use super::{KEY_BLOCK_BYTES, RECORDS_MAX};
use crate::types::{KEY_BYTES_MAX, Op};

/// A record's number in its segment and what it did, so that versions sort as positions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PackedVersion(pub(super) u32);

impl PackedVersion {
    pub(super) const fn new(number: u32, op: Op) -> Self {
        Self(number << 1 | matches!(op, Op::Delete) as u32)
    }

    /// The record's number in its segment.
    pub(super) const fn number(self) -> u32 {
        self.0 >> 1
    }

    pub(super) const fn op(self) -> Op {
        if self.0 & 1 == 0 { Op::Put } else { Op::Delete }
    }
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct KeyRow {
    key_end: u16,
    version_end: u16,
}

/// A block being filled, and its shape at rest.
#[derive(Archive, Serialize, Debug, Default)]
pub(super) struct KeyBlock {
    rows: Vec<KeyRow>,
    versions: Vec<u32>,
    keys: Vec<u8>,
}

impl KeyBlock {
    /// Appends the next pair of the table.
    pub(super) fn push(&mut self, key: &[u8], is_same_key: bool, version: PackedVersion) {
        self.versions.push(version.0);
        let version_end = self.versions.len() as u16;
        match self.rows.last_mut() {
            Some(row) if is_same_key => row.version_end = version_end,
            _ => {
                self.keys.extend_from_slice(key);
                self.rows.push(KeyRow { key_end: self.keys.len() as u16, version_end });
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether it has its size.
    pub(super) fn is_full(&self) -> bool {
        self.keys.len() + 4 * (self.rows.len() + self.versions.len()) >= KEY_BLOCK_BYTES
    }

    /// Makes it empty; the memory stays.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.versions.clear();
        self.keys.clear();
    }
}

/// A block read in place.
#[derive(Clone, Copy)]
pub(super) struct KeyBlockView<'a>(&'a ArchivedKeyBlock);

impl<'a> KeyBlockView<'a> {
    /// Looks at a block.
    pub(super) fn open(block: &'a [u8]) -> Result<Self, &'static str> {
        rkyv::access::<ArchivedKeyBlock, rancor::Error>(block)
            .map(Self)
            .map_err(|_| "a block is not an archive of keys")
    }

    /// Looks at a block for the first time and checks that it could have been written.
    pub(super) fn check(block: &'a [u8]) -> Result<Self, &'static str> {
        let view = Self::open(block)?;
        let (mut key_end, mut version_end, mut last_key) = (0, 0, &[][..]);
        for row in 0..view.len() {
            let (key, versions) = view.row(row).ok_or("a key row points outside its block")?;
            let size_fits = (1..=KEY_BYTES_MAX).contains(&key.len()) && !versions.is_empty();
            if !size_fits || key <= last_key || !versions.is_sorted_by(|a, b| a.to_native() < b.to_native()) {
                return Err("the keys of a block are out of order");
            }
            key_end += key.len();
            version_end += versions.len();
            last_key = key;
        }
        if view.len() == 0 || key_end != view.0.keys.len() || version_end != view.0.versions.len() {
            return Err("a block holds more than its keys");
        }
        if view.0.versions.iter().any(|version| version.to_native() >> 1 >= RECORDS_MAX) {
            return Err("a key has a version beyond every segment");
        }
        Ok(view)
    }

    /// How many keys it has.
    pub(super) fn len(&self) -> usize {
        self.0.rows.len()
    }

    fn row(&self, row: usize) -> Option<(&'a [u8], &'a [rkyv::rend::unaligned::u32_ule])> {
        let archive = self.0;
        let (key_from, version_from) = match row.checked_sub(1) {
            None => (0, 0),
            Some(before) => ends(archive.rows.get(before)?),
        };
        let (key_end, version_end) = ends(archive.rows.get(row)?);
        Some((archive.keys.get(key_from..key_end)?, archive.versions.get(version_from..version_end)?))
    }

    /// The key of a row.
    pub(super) fn key(&self, row: usize) -> Option<&'a [u8]> {
        Some(self.row(row)?.0)
    }

    /// The row of this key.
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle)?.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// The newest version of a row that is less than `before`.
    pub(super) fn newest(&self, row: usize, before: PackedVersion) -> Option<PackedVersion> {
        let versions = self.row(row)?.1;
        let at = versions.partition_point(|version| version.to_native() < before.0);
        Some(PackedVersion(versions.get(at.checked_sub(1)?)?.to_native()))
    }
}

fn ends(row: &ArchivedKeyRow) -> (usize, usize) {
    (row.key_end.to_native() as usize, row.version_end.to_native() as usize)
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct IndexRow {
    key_end: u32,
    first_version: u32,
}

/// The index being built, and its shape at rest.
#[derive(Archive, Serialize, Debug, Default)]
pub(super) struct KeyIndex {
    rows: Vec<IndexRow>,
    keys: Vec<u8>,
}

impl KeyIndex {
    /// Appends the first pair of the next block.
    pub(super) fn push(&mut self, key: &[u8], version: PackedVersion) {
        self.keys.extend_from_slice(key);
        self.rows.push(IndexRow { key_end: self.keys.len() as u32, first_version: version.0 });
    }
}

/// The index read in place.
#[derive(Clone, Copy)]
pub(super) struct KeyIndexView<'a>(&'a ArchivedKeyIndex);

impl<'a> KeyIndexView<'a> {
    /// Looks at an index.
    pub(super) fn open(block: &'a [u8]) -> Result<Self, &'static str> {
        rkyv::access::<ArchivedKeyIndex, rancor::Error>(block)
            .map(Self)
            .map_err(|_| "a block is not an archive of a key index")
    }

    /// Looks at an index for the first time and checks that it could have been written over this many blocks.
    pub(super) fn check(block: &'a [u8], blocks: usize) -> Result<Self, &'static str> {
        let view = Self::open(block)?;
        let mut last: Option<(&[u8], PackedVersion)> = None;
        let mut end = 0;
        for row in 0..view.0.rows.len() {
            let pair = view.row(row).ok_or("the key index points outside itself")?;
            if last.is_some_and(|last| last >= pair) || !(1..=KEY_BYTES_MAX).contains(&pair.0.len()) {
                return Err("the key index is out of order");
            }
            end += pair.0.len();
            last = Some(pair);
        }
        if view.0.rows.len() != blocks || end != view.0.keys.len() {
            return Err("the key index covers other blocks than there are");
        }
        Ok(view)
    }

    fn row(&self, row: usize) -> Option<(&'a [u8], PackedVersion)> {
        let archive = self.0;
        let from = row.checked_sub(1).map_or(Some(0), |before| end_of(archive, before))?;
        let key = archive.keys.get(from..end_of(archive, row)?)?;
        Some((key, PackedVersion(archive.rows.get(row)?.first_version.to_native())))
    }

    /// The only block that can hold the newest version of `key` below `before`, by its place among key blocks.
    pub(super) fn block_of(&self, key: &[u8], before: PackedVersion) -> Option<usize> {
        let (mut low, mut high) = (0, self.0.rows.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.row(middle)? < (key, before) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}

fn end_of(index: &ArchivedKeyIndex, row: usize) -> Option<usize> {
    Some(index.rows.get(row)?.key_end.to_native() as usize)
}
