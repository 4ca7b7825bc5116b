//! A tree whose hashes are all in memory: two for each leaf.
//!
//! For small trees, tests and measurements. The ledger's own hashes are in segments and tiles.

use super::{
    error::ProofError,
    hash::{Hash, node_hash},
    tree::HashSource,
};

/// Every hash of every complete subtree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTree {
    /// `levels[l][n]` is the root of the n-th complete subtree of 2^l leaves.
    levels: Vec<Vec<Hash>>,
}

impl MemoryTree {
    /// The number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// Adds a leaf, by its leaf hash.
    pub fn push(&mut self, leaf_hash: Hash) {
        let mut hash = leaf_hash;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let row = &mut self.levels[level];
            row.push(hash);
            // A row of even length has just had a pair completed.
            match row.as_slice() {
                [.., left, right] if row.len().is_multiple_of(2) => hash = node_hash(left, right),
                _ => return,
            }
        }
    }
}

impl FromIterator<Hash> for MemoryTree {
    fn from_iter<I: IntoIterator<Item = Hash>>(leaf_hashes: I) -> Self {
        let mut tree = Self::default();
        leaf_hashes.into_iter().for_each(|hash| tree.push(hash));
        tree
    }
}

impl HashSource for MemoryTree {
    type Error = ProofError;

    fn subtree(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let row = self.levels.get(usize::from(level));
        row.and_then(|row| row.get(usize::try_from(index).ok()?)).copied().ok_or_else(|| {
            ProofError::out_of_range(format!(
                "subtree {index} of 2^{level} leaves is not complete in a tree of {} leaves",
                self.size()
            ))
        })
    }
}
