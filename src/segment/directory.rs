//! The footer once it has been read: every block, and the ways to the one that is wanted. Pure: no I/O.
//!
//! Takes the two archives of [`contents`](super::contents), gives a [`Directory`] in which every number has been
//! checked against the others, so that whoever follows it stays within the file and within bounded memory.

use rkyv::rancor;

use super::{
    LEAF_HASH_BYTES, LEAVES_PER_BLOCK, RECORDS_MAX,
    codec::Codec,
    contents::{BlockSum, Contents, Facts, Kind, Place, Places},
    format::{HEADER_BYTES, align},
};

/// One block, ready to be loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) kind: Kind,
    pub(super) codec: Codec,
    pub(super) first: u32,
    pub(super) bytes: u32,
    pub(super) stored_bytes: u32,
    pub(super) offset: u64,
    pub(super) hash: [u8; 32],
}

/// The block directory, in file order, and the ways into it.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) facts: Facts,
    pub(super) blocks: Vec<Block>,
    /// Block numbers by kind.
    pub(super) records: Vec<u32>,
    pub(super) leaves: Vec<u32>,
    pub(super) keys: Vec<u32>,
    pub(super) idempotency: u32,
    pub(super) key_index: u32,
    pub(super) filter: u32,
    pub(super) subtrees: u32,
}

impl Directory {
    /// Joins both halves of a footer whose contents begin at `contents_offset`.
    ///
    /// # Errors
    /// What does not fit together.
    pub(super) fn decode(contents: &[u8], places: &[u8], contents_offset: u64) -> Result<Self, &'static str> {
        let contents = rkyv::from_bytes::<Contents, rancor::Error>(contents)
            .map_err(|_| "the contents are not an archive of this version")?;
        let places = rkyv::from_bytes::<Places, rancor::Error>(places)
            .map_err(|_| "the places are not an archive of this version")?;
        if contents.blocks.len() != places.blocks.len() {
            return Err("contents and places count different blocks");
        }
        let mut end = HEADER_BYTES as u64;
        let mut blocks = Vec::with_capacity(contents.blocks.len());
        for (sum, place) in contents.blocks.iter().zip(&places.blocks) {
            let block = join(sum, place)?;
            if block.offset != align(end) || block.offset > contents_offset {
                return Err("blocks do not follow each other");
            }
            end = block.offset + u64::from(block.stored_bytes);
            blocks.push(block);
        }
        if align(end) != contents_offset {
            return Err("the contents do not follow the last block");
        }
        Self::sort_out(contents.facts, blocks)
    }

    /// Finds the blocks of each kind and checks that they cover the records.
    fn sort_out(facts: Facts, blocks: Vec<Block>) -> Result<Self, &'static str> {
        let numbers = |kind| -> Vec<u32> {
            let of_kind = (0..).zip(&blocks).filter(|(_, block)| block.kind == kind);
            of_kind.map(|(number, _)| number).collect()
        };
        let only = |kind| match numbers(kind)[..] {
            [number] => Ok(number),
            _ => Err("a block that a segment has once is missing, or there twice"),
        };
        if facts.records > RECORDS_MAX || facts.keys > facts.records || facts.deletes > facts.records {
            return Err("the counts of records and keys cannot be true");
        }
        let records = numbers(Kind::Records);
        let firsts: Vec<u32> = records.iter().map(|number| blocks[*number as usize].first).collect();
        let starts_well = firsts.first().is_none_or(|first| *first == 0);
        let ends_well = firsts.last().map_or(facts.records == 0, |last| *last < facts.records);
        if !starts_well || !ends_well || !firsts.is_sorted_by(|a, b| a < b) {
            return Err("the record blocks do not cover the records");
        }
        let leaves = numbers(Kind::Leaves);
        let mut leaf = 0;
        for number in &leaves {
            let block = &blocks[*number as usize];
            let count = (facts.records.saturating_sub(leaf)).min(LEAVES_PER_BLOCK as u32);
            if count == 0 || block.first != leaf || block.bytes as usize != count as usize * LEAF_HASH_BYTES {
                return Err("the leaf blocks do not cover the records");
            }
            leaf += count;
        }
        if leaf != facts.records {
            return Err("the leaf blocks do not cover the records");
        }
        Ok(Self {
            records,
            leaves,
            keys: numbers(Kind::Keys),
            idempotency: only(Kind::Idempotency)?,
            key_index: only(Kind::KeyIndex)?,
            filter: only(Kind::Filter)?,
            subtrees: only(Kind::Subtrees)?,
            facts,
            blocks,
        })
    }

    /// A block that this directory has named.
    pub(super) fn block(&self, number: u32) -> &Block {
        &self.blocks[number as usize]
    }

    /// The block that holds a record, the record's place in it and how many records it has; `None` beyond the
    /// last record.
    pub(super) fn record_block(&self, number: u32) -> Option<(u32, usize)> {
        if number >= self.facts.records {
            return None;
        }
        let at = self.records.partition_point(|block| self.block(*block).first <= number);
        let block = *self.records.get(at.checked_sub(1)?)?;
        Some((block, (number - self.block(block).first) as usize))
    }

    /// How many records a block of records has.
    pub(super) fn records_in(&self, block: u32) -> u32 {
        let first = self.block(block).first;
        let next = self.records.partition_point(|other| self.block(*other).first <= first);
        let end = self.records.get(next).map_or(self.facts.records, |next| self.block(*next).first);
        end - first
    }
}

fn join(sum: &BlockSum, place: &Place) -> Result<Block, &'static str> {
    let kind = Kind::from_byte(sum.kind).ok_or("a block has an unknown kind")?;
    let codec = Codec::from_byte(place.codec).ok_or("a block has a codec that this build does not read")?;
    if !codec.fits(sum.bytes, place.stored_bytes) || sum.bytes as usize > kind.bytes_max() {
        return Err("a block has a size that it cannot have");
    }
    Ok(Block {
        kind,
        codec,
        first: sum.first,
        bytes: sum.bytes,
        stored_bytes: place.stored_bytes,
        offset: place.offset,
        hash: sum.hash,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{LogId, LogIndex};

    fn facts(records: u32) -> Facts {
        let place = LogId { term: 1, index: LogIndex(2) }.into();
        Facts {
            records,
            keys: records.min(1),
            deletes: 0,
            raw_bytes: 9,
            first_log: place,
            last_log: place,
            first_timestamp_ms: 1,
            last_timestamp_ms: 2,
            root_after: [7; 32],
            frontier_before: vec![1, 2, 3],
            high_subtrees: Vec::new(),
            boundary: vec![4],
        }
    }

    /// A footer whose blocks have these kinds, firsts and sizes, one behind the other.
    fn footer(records: u32, blocks: &[(Kind, u32, u32)]) -> (Vec<u8>, Vec<u8>, u64) {
        let mut end = HEADER_BYTES as u64;
        let (mut sums, mut places) = (Vec::new(), Vec::new());
        for (kind, first, bytes) in blocks {
            sums.push(BlockSum { kind: *kind as u8, first: *first, bytes: *bytes, hash: [9; 32] });
            places.push(Place { offset: align(end), stored_bytes: *bytes, codec: 0 });
            end = align(end) + u64::from(*bytes);
        }
        let contents = Contents { facts: facts(records), blocks: sums };
        let contents = rkyv::to_bytes::<rancor::Error>(&contents).unwrap().to_vec();
        (contents, rkyv::to_bytes::<rancor::Error>(&Places { blocks: places }).unwrap().to_vec(), align(end))
    }

    const ENDS: [(Kind, u32, u32); 4] =
        [(Kind::Idempotency, 0, 5), (Kind::KeyIndex, 0, 8), (Kind::Filter, 0, 32), (Kind::Subtrees, 0, 0)];

    fn decode(records: u32, blocks: &[(Kind, u32, u32)]) -> Result<Directory, &'static str> {
        let (contents, places, offset) = footer(records, blocks);
        Directory::decode(&contents, &places, offset)
    }

    #[test]
    fn records_are_found_in_their_blocks() {
        let blocks = [&[(Kind::Records, 0, 100), (Kind::Records, 3, 50), (Kind::Leaves, 0, 160)], &ENDS[..]];
        let directory = decode(5, &blocks.concat()).unwrap();
        let found: Vec<_> = (0..6).map(|number| directory.record_block(number)).collect();
        let expected = [Some((0, 0)), Some((0, 1)), Some((0, 2)), Some((1, 0)), Some((1, 1)), None];
        assert_eq!(found, expected);
        assert_eq!([0, 1].map(|block| directory.records_in(block)), [3, 2]);
        assert!(decode(0, &ENDS).unwrap().record_block(0).is_none());
    }

    #[test]
    fn blocks_that_do_not_cover_the_records_are_refused() {
        for (records, blocks) in [
            (1, vec![(Kind::Leaves, 0, 32)]),
            (1, vec![(Kind::Records, 0, 9)]),
            (1, vec![(Kind::Records, 1, 9), (Kind::Leaves, 0, 32)]),
            (1, vec![(Kind::Records, 0, 9), (Kind::Leaves, 0, 64)]),
            (1, vec![(Kind::Records, 0, 9), (Kind::Records, 1, 9), (Kind::Leaves, 0, 32)]),
            (0, vec![(Kind::Leaves, 0, 0)]),
            (0, vec![(Kind::Filter, 0, 0)]),
            (0, vec![(Kind::Value, 0, u32::MAX)]),
        ] {
            assert!(decode(records, &[&blocks, &ENDS[..]].concat()).is_err(), "{records} {blocks:?}");
        }
        let (contents, places, offset) = footer(0, &ENDS);
        assert!(Directory::decode(&contents, &places, offset + 16).is_err());
        assert!(Directory::decode(&contents, &footer(0, &ENDS[..2]).1, offset).is_err());
    }

    proptest! {
        #[test]
        fn damaged_footers_never_panic(
            at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>(),
        ) {
            let blocks = [&[(Kind::Records, 0, 100), (Kind::Leaves, 0, 160)], &ENDS[..]].concat();
            let (contents, places, offset) = footer(5, &blocks);
            let flip = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
                bytes
            };
            let _ = Directory::decode(&flip(&contents), &places, offset);
            let _ = Directory::decode(&contents, &flip(&places), offset);
            let _ = Directory::decode(&contents[..cut.index(contents.len())], &places, offset);
            let _ = Directory::decode(&contents, &places[..cut.index(places.len())], offset);
        }
    }
}
