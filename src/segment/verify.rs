//! Checking all of a segment, for a verifier that trusts nothing but the format.
//!
//! Reads the file once from end to end, around the cache. Besides every block's hash it checks what no single
//! block can show: that positions, times and counts fit, that every large value belongs to one record, that the
//! leaf hashes are those of the records, that key table, index and filter are exactly those that a writer makes
//! of the records, that the tree grows by them from the frontier before to the root after, and that only zeros
//! lie between blocks. That this frontier is where the last segment ended is for the caller to say.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    LEAF_HASH_BYTES, Segment,
    contents::Kind,
    directory::Block,
    format::HEADER_BYTES,
    key_block::PackedVersion,
    key_table::KeyTable,
    record_block::{RecordBlockView, Row, ValuePlace},
};
use crate::{
    error::Result,
    proof::{
        Hash,
        frontier::Frontier,
        growth::Growth,
        leaf::{Leaf, NO_VALUE},
    },
    types::{Op, Seq},
};

/// More blocks of leaf hashes than the records of one block can fill.
const LEAF_BLOCKS_AHEAD_MAX: usize = 8;

impl Segment {
    /// Checks every byte of the file as it is now, and that what it holds belongs together. `on_leaf` gets the
    /// leaf hash of every record, made anew from it, in order. Memory is one block, and every record's key.
    ///
    /// # Errors
    /// [`Code::Corrupt`](crate::error::Code::Corrupt) with the first thing that is wrong;
    /// [`Code::Io`](crate::error::Code::Io).
    pub fn verify(&self, on_leaf: impl FnMut(&Hash)) -> Result<()> {
        if self.stub.is_some() {
            return self.verify_stub(on_leaf);
        }
        // The ends may have rotted since the segment was opened.
        let segment = Self::from_file(self.file.clone(), &self.path, self.cache.clone())?;
        let summary = segment.summary();
        let frontier = Frontier::decode(&summary.frontier_before)
            .ok()
            .filter(|frontier| frontier.size() == summary.head.first_seq.0)
            .ok_or_else(|| segment.corrupt(HEADER_BYTES as u64, "the tree before its records is not one"))?;
        let mut walk = Walk {
            segment: &segment,
            on_leaf,
            tree: Growth::from_frontier(&frontier),
            subtrees: Vec::new(),
            high_subtrees: Vec::new(),
            keys: KeyTable::default(),
            values: VecDeque::new(),
            hashes: Vec::new(),
            leaves: VecDeque::new(),
            records: 0,
            deletes: 0,
            raw_bytes: 0,
            first_timestamp_ms: 0,
            last_timestamp_ms: 0,
        };
        let mut end = HEADER_BYTES as u64;
        for (number, at) in (0..).zip(&segment.directory.blocks) {
            segment.check_zeros(end, at.offset)?;
            walk.block(number, at)?;
            end = at.offset + u64::from(at.stored_bytes);
        }
        segment.check_zeros(end, end.next_multiple_of(super::format::ALIGN_BYTES))?;
        walk.finish()
    }

    /// Checks all that is here of a segment whose records are in the archive: that the tree grows by its leaf hashes
    /// from the frontier before to the root after. That they are those of its records, whoever has these can say.
    fn verify_stub(&self, mut on_leaf: impl FnMut(&Hash)) -> Result<()> {
        let segment = Self::from_stub(self.file.clone(), &self.path, self.cache.clone())?;
        let (summary, facts) = (segment.summary(), &segment.directory.facts);
        let frontier = Frontier::decode(&summary.frontier_before)
            .ok()
            .filter(|frontier| frontier.size() == summary.head.first_seq.0)
            .ok_or_else(|| segment.corrupt(HEADER_BYTES as u64, "the tree before its records is not one"))?;
        let mut tree = Growth::from_frontier(&frontier);
        let (mut subtrees, mut high_subtrees) = (Vec::new(), Vec::new());
        let mut end = HEADER_BYTES as u64;
        for (number, at) in (0..).zip(&segment.directory.blocks).filter(|(_, at)| !at.kind.is_payload()) {
            segment.check_zeros(end, at.offset)?;
            end = at.offset + u64::from(at.stored_bytes);
            let block = segment.load(number)?;
            if at.kind != Kind::Leaves {
                continue;
            }
            for leaf in block.as_chunks::<LEAF_HASH_BYTES>().0.iter().copied().map(Hash) {
                on_leaf(&leaf);
                tree.append(leaf, |level, root| match level {
                    1 => subtrees.push(root.0),
                    2 => high_subtrees.push(root.0),
                    _ => {}
                });
            }
        }
        segment.check_zeros(end, end.next_multiple_of(super::format::ALIGN_BYTES))?;
        if segment.load(segment.directory.subtrees)? != subtrees.as_flattened()
            || facts.high_subtrees != high_subtrees
        {
            let offset = segment.directory.block(segment.directory.subtrees).offset;
            return Err(segment.corrupt(offset, "the subtrees are not those of the leaf hashes"));
        }
        if tree.root().0 != facts.root_after {
            return Err(segment.corrupt(HEADER_BYTES as u64, "the root is not that of the leaf hashes"));
        }
        Ok(())
    }

    /// Checks the bytes between two blocks.
    fn check_zeros(&self, from: u64, to: u64) -> Result<()> {
        let gap = self.source().read(from, (to - from) as usize)?;
        if gap.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        Err(self.corrupt(from, "the bytes between two blocks are not zero"))
    }
}

/// What has been seen of a file so far.
struct Walk<'a, F> {
    segment: &'a Segment,
    on_leaf: F,
    tree: Growth,
    subtrees: Vec<[u8; LEAF_HASH_BYTES]>,
    high_subtrees: Vec<[u8; LEAF_HASH_BYTES]>,
    keys: KeyTable,
    /// Numbers and commitments of large values whose records are still to come.
    values: VecDeque<(u32, Hash)>,
    /// Leaf hashes of records, still to be compared.
    hashes: Vec<u8>,
    /// Blocks of leaf hashes, with their offsets, whose last records are still to come: the writer closes one when it
    /// is full, which need not be where a block of records ends.
    leaves: VecDeque<(u64, Bytes)>,
    records: u32,
    deletes: u32,
    raw_bytes: u64,
    first_timestamp_ms: u64,
    last_timestamp_ms: u64,
}

impl<F: FnMut(&Hash)> Walk<'_, F> {
    fn block(&mut self, number: u32, at: &Block) -> Result<()> {
        let segment = self.segment;
        match at.kind {
            Kind::Value => self.values.push_back((number, Hash::of(&segment.load(number)?))),
            Kind::Records => {
                let block = segment.load(number)?;
                let view = RecordBlockView::open(&block).map_err(|what| segment.corrupt(at.offset, what))?;
                for slot in 0..segment.directory.records_in(number) as usize {
                    let row = view.row(slot).ok_or("a record points outside its block");
                    row.and_then(|row| self.record(&row)).map_err(|what| segment.corrupt(at.offset, what))?;
                }
                if !self.values.is_empty() {
                    return Err(segment.corrupt(at.offset, "a large value before this block has no record"));
                }
                self.compare_leaves()?;
            }
            Kind::Leaves => {
                if self.leaves.len() == LEAF_BLOCKS_AHEAD_MAX {
                    return Err(segment.corrupt(at.offset, "leaf hashes come long before their records"));
                }
                self.leaves.push_back((at.offset, segment.load(number)?));
                self.compare_leaves()?;
            }
            Kind::Idempotency => drop(segment.load(number)?),
            // Compared when all records have been seen.
            Kind::Keys | Kind::KeyIndex | Kind::Filter | Kind::Subtrees => {}
        }
        Ok(())
    }

    /// Compares leaf hashes of which all records have been seen.
    fn compare_leaves(&mut self) -> Result<()> {
        while let Some((offset, leaves)) = self.leaves.front() {
            match self.hashes.get(..leaves.len()) {
                None => break,
                Some(hashes) if *hashes == leaves[..] => drop(self.hashes.drain(..leaves.len())),
                Some(_) => {
                    return Err(self.segment.corrupt(*offset, "leaf hashes are not those of the records"));
                }
            }
            self.leaves.pop_front();
        }
        Ok(())
    }

    fn record(&mut self, row: &Row<'_>) -> Result<(), &'static str> {
        let (value_commit, value_bytes) = match row.value {
            ValuePlace::Inline(_) if row.op == Op::Delete => (NO_VALUE, 0),
            ValuePlace::Inline(value) => (Hash::of(value), value.len() as u32),
            ValuePlace::Block(number, bytes) => match self.values.pop_front() {
                Some((next, commitment)) if next == number => (commitment, bytes),
                _ => return Err("large values are not in the order of their records"),
            },
        };
        if row.value_commitment.is_some_and(|stored| *stored != value_commit.0) {
            return Err("a value is not the one that its commitment stands for");
        }
        if row.timestamp_ms < self.last_timestamp_ms {
            return Err("a record's time is before that of the one before it");
        }
        if !self.keys.has_room(row.key.len()) {
            return Err("a segment holds more keys than its format can");
        }
        let seq = Seq(self.segment.summary().head.first_seq.0 + u64::from(self.records));
        let Row { op, timestamp_ms, .. } = *row;
        let leaf = Leaf { op, seq, timestamp_ms, key_commit: Hash::of(row.key), value_commit };
        let hash = leaf.hash();
        (self.on_leaf)(&hash);
        let Self { tree, subtrees, high_subtrees, .. } = self;
        tree.append(hash, |level, root| match level {
            1 => subtrees.push(root.0),
            2 => high_subtrees.push(root.0),
            _ => {}
        });
        self.hashes.extend_from_slice(&hash.0);
        self.keys.push(row.key, PackedVersion::new(self.records, row.op));
        if self.records == 0 {
            self.first_timestamp_ms = row.timestamp_ms;
        }
        self.last_timestamp_ms = row.timestamp_ms;
        self.records += 1;
        self.deletes += u32::from(row.op == Op::Delete);
        self.raw_bytes += row.key.len() as u64 + u64::from(value_bytes);
        Ok(())
    }

    /// Compares what only the end of the file can tell.
    fn finish(self) -> Result<()> {
        let segment = self.segment;
        let directory = &segment.directory;
        let mut numbers = directory.keys.iter();
        let table = self.keys.write(|expected| match numbers.next() {
            Some(number) if segment.load(*number)? == expected => Ok(()),
            number => {
                let offset = number.map_or(0, |number| directory.block(*number).offset);
                Err(segment.corrupt(offset, "the key table is not that of the records"))
            }
        })?;
        for (number, expected) in [(directory.key_index, table.index), (directory.filter, table.filter)] {
            if segment.load(number)? != expected {
                let offset = directory.block(number).offset;
                return Err(segment.corrupt(offset, "key index or filter are not those of the records"));
            }
        }
        let facts = &directory.facts;
        if !self.leaves.is_empty() || !self.hashes.is_empty() {
            return Err(segment.corrupt(HEADER_BYTES as u64, "there is not one leaf hash for each record"));
        }
        let subtrees = segment.load(directory.subtrees)?;
        if subtrees != self.subtrees.as_flattened() || facts.high_subtrees != self.high_subtrees {
            let offset = directory.block(directory.subtrees).offset;
            return Err(segment.corrupt(offset, "the subtrees are not those of the records"));
        }
        if self.tree.root().0 != facts.root_after {
            return Err(segment.corrupt(HEADER_BYTES as u64, "the root is not that of the records"));
        }
        let counts_fit = (facts.records, facts.keys, facts.deletes, facts.raw_bytes)
            == (self.records, table.keys, self.deletes, self.raw_bytes);
        let times_fit = (facts.first_timestamp_ms, facts.last_timestamp_ms)
            == (self.first_timestamp_ms, self.last_timestamp_ms);
        if !counts_fit || !times_fit || numbers.next().is_some() || !self.values.is_empty() {
            return Err(segment.corrupt(HEADER_BYTES as u64, "the footer does not describe these records"));
        }
        Ok(())
    }
}
