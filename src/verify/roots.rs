//! The root of the tree at sizes in the middle of a segment, for checkpoints that were signed there.
//!
//! Takes a segment's leaf hashes as they are made anew from its records. A segment without such a size costs
//! nothing, so that few checkpoints slow few segments down.

use crate::proof::{Hash, frontier::Frontier};

/// Collects roots on the way through one segment.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// Sizes still to come, the next one last.
    wanted: Vec<u64>,
    frontier: Frontier,
    found: Vec<(u64, Hash)>,
}

impl Roots {
    /// The roots at those of the `sizes` that lie behind the tree that `before` encodes and up to `end`.
    pub(super) fn new(before: &[u8], end: u64, sizes: &[u64]) -> Self {
        // A frontier that is none has been refused before, and `Segment::verify` refuses it again.
        let frontier = Frontier::decode(before).unwrap_or_default();
        let mut wanted: Vec<u64> =
            sizes.iter().copied().filter(|size| (frontier.size() + 1..=end).contains(size)).collect();
        wanted.sort_unstable_by(|a, b| b.cmp(a));
        wanted.dedup();
        Self { wanted, frontier, found: Vec::new() }
    }

    /// The next leaf.
    pub(super) fn leaf(&mut self, leaf_hash: &Hash) {
        let Some(next) = self.wanted.last() else { return };
        self.frontier.append(*leaf_hash);
        if self.frontier.size() == *next {
            self.found.push((*next, self.frontier.root()));
            self.wanted.pop();
        }
    }

    /// Sizes and their roots.
    pub(super) fn found(self) -> Vec<(u64, Hash)> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::hash::leaf_hash;

    #[test]
    fn roots_are_found_where_they_are_asked_for() {
        let leaves: Vec<Hash> = (0..40u64).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let tree = |size: usize| {
            let mut frontier = Frontier::default();
            frontier.extend(&leaves[..size]);
            frontier
        };
        let mut roots = Roots::new(&tree(10).encode(), 30, &[30, 3, 10, 11, 17, 17, 31]);
        leaves[10..30].iter().for_each(|leaf| roots.leaf(leaf));
        assert_eq!(roots.found(), [11, 17, 30].map(|size| (size as u64, tree(size).root())));
    }
}
