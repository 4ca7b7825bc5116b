//! A growing tree that says which of its complete subtrees close, at the heights of tiles.
//!
//! ```text
//! tile level 2                                  closed: roots of 65,536 leaves
//! tile level 1      256 of these make one ▲     closed: roots of 256 leaves
//! tile level 0      256 leaves make one ▲
//! ```
//!
//! Takes leaf hashes, gives the frontier and every closed root once. Whoever keeps those roots can build any
//! hash of the tree from one short run of them at each level. It does not own where they are kept.

use super::{frontier::Frontier, hash::Hash, tile::TILE_HEIGHT, tree::fold_peaks};

/// Entries of a full tile.
const WIDTH: u64 = 1 << TILE_HEIGHT;

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    /// The right edge within the last tile of each level: fewer than 256 entries, lowest level first.
    edges: Vec<Frontier>,
}

impl Growth {
    /// Goes on from a frontier.
    #[must_use]
    pub fn from_frontier(frontier: &Frontier) -> Self {
        let mut peaks = frontier.peaks();
        let levels = (u64::BITS - frontier.size().leading_zeros()).div_ceil(u32::from(TILE_HEIGHT));
        // Peaks come largest first, so the lowest level's are the last.
        let edges = (0..levels).map(|level| {
            let entries = (frontier.size() >> (level * u32::from(TILE_HEIGHT))) % WIDTH;
            let (higher, here) = peaks.split_at(peaks.len() - entries.count_ones() as usize);
            peaks = higher;
            Frontier::from_peaks(entries, here.to_vec())
        });
        Self { edges: edges.collect() }
    }

    /// The number of leaves so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        (0..).step_by(usize::from(TILE_HEIGHT)).zip(&self.edges).map(|(bits, edge)| edge.size() << bits).sum()
    }

    /// The frontier of all leaves so far.
    #[must_use]
    pub fn frontier(&self) -> Frontier {
        Frontier::from_peaks(self.size(), self.peaks())
    }

    /// The root of the tree of all leaves so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        fold_peaks(&self.peaks())
    }

    fn peaks(&self) -> Vec<Hash> {
        self.edges.iter().rev().flat_map(Frontier::peaks).copied().collect()
    }

    /// Adds one leaf, by its hash. `closed` gets the tile level and the hash of every entry that a full tile
    /// makes in the level above it, the lowest first.
    pub fn append(&mut self, leaf_hash: Hash, mut closed: impl FnMut(u8, Hash)) {
        let mut entry = leaf_hash;
        for level in 0.. {
            if level == self.edges.len() {
                self.edges.push(Frontier::default());
            }
            let edge = &mut self.edges[level];
            edge.append(entry);
            if edge.size() < WIDTH {
                return;
            }
            entry = edge.root();
            *edge = Frontier::default();
            closed(level as u8 + 1, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proof::{frontier::complete_root, hash::leaf_hash};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn it_grows_as_a_frontier_does_and_names_what_closes(start in 0u64..140_000, more in 0u64..70_000) {
            let leaves: Vec<Hash> = (0..start + more).map(|n| leaf_hash(&n.to_be_bytes())).collect();
            let mut frontier = Frontier::default();
            frontier.extend(&leaves[..start as usize]);
            let mut growth = Growth::from_frontier(&frontier);
            let mut closed = [Vec::new(), Vec::new(), Vec::new()];
            for leaf in &leaves[start as usize..] {
                growth.append(*leaf, |level, hash| closed[usize::from(level)].push(hash));
            }
            frontier.extend(&leaves[start as usize..]);
            prop_assert_eq!(growth.size(), start + more);
            prop_assert_eq!(growth.root(), frontier.root());
            prop_assert_eq!(growth.frontier().encode(), frontier.encode());
            for (level, closed) in (0..).zip(&closed).skip(1) {
                let width = 1usize << (8 * level);
                let roots = leaves.chunks_exact(width).skip(start as usize / width).map(complete_root);
                prop_assert!(closed.iter().copied().eq(roots), "level {level}");
            }
        }
    }
}
