//! The part of the tree that is not in segments yet, in memory.

use std::collections::VecDeque;

use crate::{
    proof::{Hash, growth::Growth},
    segment::{HIGH_SUBTREE_LEAVES, SUBTREE_LEAVES},
    types::Seq,
};

/// Leaf hashes of a chunk: freed together.
const CHUNK_LEAVES: u64 = 1 << 14;

/// The commitment of the value at a position.
pub type ValueCommitment = (Seq, Hash);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) growth: Growth,
    /// Chunk number `n` has the leaves from `n` times [`CHUNK_LEAVES`] on; the first may be without those that
    /// are in segments.
    chunks: VecDeque<Vec<Hash>>,
    first_chunk: u64,
    /// The first leaf that is here.
    first_leaf: u64,
    subtrees: VecDeque<Hash>,
    /// Number of the first of those.
    first_subtree: u64,
    commitments: VecDeque<ValueCommitment>,
    /// Roots of all complete subtrees of [`HIGH_SUBTREE_LEAVES`] leaves, from the first on.
    pub(super) high: Vec<Hash>,
}

impl Edge {
    /// Nothing behind `first`, with the high subtrees of what is before it.
    pub(super) fn new(first: Seq, growth: Growth, high: Vec<Hash>) -> Self {
        Self {
            growth,
            chunks: VecDeque::new(),
            first_chunk: first.0 / CHUNK_LEAVES,
            first_leaf: first.0,
            subtrees: VecDeque::new(),
            first_subtree: first.0 / SUBTREE_LEAVES,
            commitments: VecDeque::new(),
            high,
        }
    }

    pub(super) const fn first_leaf(&self) -> u64 {
        self.first_leaf
    }

    pub(super) const fn first_subtree(&self) -> u64 {
        self.first_subtree
    }

    pub(super) fn extend(&mut self, leaves: &[Hash], commitments: Vec<ValueCommitment>) {
        for leaf in leaves {
            let within = (self.growth.size() % CHUNK_LEAVES) as usize;
            match self.chunks.back_mut() {
                Some(chunk) if within > 0 => chunk.push(*leaf),
                _ => {
                    let mut chunk = Vec::with_capacity(CHUNK_LEAVES as usize);
                    // Those before the first leaf are in segments: nobody asks for them here.
                    chunk.resize(within, Hash::default());
                    chunk.push(*leaf);
                    self.chunks.push_back(chunk);
                }
            }
            let Self { growth, subtrees, high, .. } = self;
            growth.append(*leaf, |level, root| match level {
                1 => subtrees.push_back(root),
                2 => high.push(root),
                _ => {}
            });
        }
        self.commitments.extend(commitments);
    }

    /// Leaf hashes of a range that is here.
    pub(super) fn leaves(&self, from: Seq, to: Seq) -> Vec<Hash> {
        let mut hashes = Vec::with_capacity((to.0 - from.0) as usize);
        let mut at = from.0;
        while at < to.0 {
            let chunk = &self.chunks[(at / CHUNK_LEAVES - self.first_chunk) as usize];
            let end = to.0.min((at / CHUNK_LEAVES + 1) * CHUNK_LEAVES);
            let within = (at % CHUNK_LEAVES) as usize;
            hashes.extend_from_slice(&chunk[within..within + (end - at) as usize]);
            at = end;
        }
        hashes
    }

    /// Roots of complete subtrees, by their numbers, that are here.
    pub(super) fn subtrees(&self, from: u64, to: u64) -> Vec<Hash> {
        let at = |number: u64| (number - self.first_subtree) as usize;
        self.subtrees.range(at(from)..at(to)).copied().collect()
    }

    pub(super) fn subtrees_ending(&self, first: Seq, end: Seq) -> Vec<Hash> {
        self.subtrees(first.0 / SUBTREE_LEAVES, end.0 / SUBTREE_LEAVES)
    }

    pub(super) fn high_subtrees_ending(&self, first: Seq, end: Seq) -> Vec<Hash> {
        let number = |seq: Seq| (seq.0 / HIGH_SUBTREE_LEAVES) as usize;
        self.high[number(first)..number(end)].to_vec()
    }

    pub(super) fn commitments(&self, first: Seq, end: Seq) -> Vec<ValueCommitment> {
        let here = self.commitments.iter().filter(|(seq, _)| (first..end).contains(seq));
        here.copied().collect()
    }

    pub(super) fn release(&mut self, end: Seq) {
        self.first_leaf = self.first_leaf.max(end.0);
        while self.first_chunk < end.0 / CHUNK_LEAVES && self.chunks.pop_front().is_some() {
            self.first_chunk += 1;
        }
        while self.first_subtree < end.0 / SUBTREE_LEAVES && self.subtrees.pop_front().is_some() {
            self.first_subtree += 1;
        }
        while self.commitments.front().is_some_and(|(seq, _)| *seq < end) {
            self.commitments.pop_front();
        }
    }
}
