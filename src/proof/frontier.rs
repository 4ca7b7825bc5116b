//! The frontier of a tree: the roots of the complete subtrees that cover its leaves from the left.
//!
//! It is all that appending needs, and all that the root needs: at most 63 hashes, whatever the tree holds.
//! Takes leaf hashes (or the roots of aligned complete subtrees), gives root and bytes. It does not own the
//! hashes below it: proofs are built from a [`HashSource`](super::tree::HashSource).
//!
//! ```text
//! 11 leaves = 0b1011:   peaks of 8, 2 and 1 leaves, left to right
//!
//! bytes     0      8            40           72
//!           size   peak 8       peak 2       peak 1          u64 big-endian, then 32 bytes for each set bit
//! ```
//!
//! The number of peaks is the number of set bits in the size, so it is not written: a frontier has one spelling.

use super::{
    error::ProofError,
    hash::{HASH_BYTES, Hash, node_hash},
    tree::{SIZE_MAX, fold_peaks},
};

/// Bytes of the size before the peaks.
const SIZE_BYTES: usize = 8;

/// The right edge of a growing tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Largest subtree first: one for each set bit of `size`.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The number of leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree of all leaves so far: RFC 6962, section 2.1.
    #[must_use]
    pub fn root(&self) -> Hash {
        fold_peaks(&self.peaks)
    }

    /// Adds one leaf, by its leaf hash.
    pub fn append(&mut self, leaf_hash: Hash) {
        self.append_subtree(0, leaf_hash);
    }

    /// Adds many leaves, in order.
    pub fn extend(&mut self, leaf_hashes: &[Hash]) {
        leaf_hashes.iter().for_each(|hash| self.append(*hash));
    }

    /// Adds the 2^`level` leaves of a complete subtree, by its root. Whoever has folded a full tile with
    /// [`complete_root`] need not hash its nodes again.
    ///
    /// # Panics
    /// Unless the size is a multiple of 2^`level`: such a subtree has no place in the tree.
    pub fn append_subtree(&mut self, level: u8, root: Hash) {
        assert!(
            self.size.trailing_zeros() >= u32::from(level),
            "a subtree of 2^{level} leaves begins at a multiple of its size, not at {}",
            self.size
        );
        let mut hash = root;
        // As in binary addition: each set bit from here up is a left sibling of what is carried into it.
        for _ in 0..(self.size >> level).trailing_ones() {
            let left = self.peaks.pop().expect("every set bit of the size has a peak");
            hash = node_hash(&left, &hash);
        }
        self.peaks.push(hash);
        self.size += 1 << level;
    }

    /// Its bytes, as drawn above.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SIZE_BYTES + self.peaks.len() * HASH_BYTES);
        out.extend_from_slice(&self.size.to_be_bytes());
        self.peaks.iter().for_each(|peak| out.extend_from_slice(&peak.0));
        out
    }

    /// Reads what [`Frontier::encode`] writes.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for another length than the size implies, or a size above [`SIZE_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ProofError> {
        let Some((size, peaks)) = bytes.split_first_chunk::<SIZE_BYTES>() else {
            return Err(ProofError::malformed(format!("a frontier of {} bytes has no size", bytes.len())));
        };
        let size = u64::from_be_bytes(*size);
        let (peaks, rest) = peaks.as_chunks::<HASH_BYTES>();
        if size > SIZE_MAX || peaks.len() != size.count_ones() as usize || !rest.is_empty() {
            return Err(ProofError::malformed(format!(
                "a frontier of {size} leaves does not have {} bytes",
                bytes.len()
            )));
        }
        Ok(Self { size, peaks: peaks.iter().copied().map(Hash).collect() })
    }

    /// The peaks, largest first.
    pub(super) fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The frontier of `size` leaves with these peaks, largest first.
    pub(super) fn from_peaks(size: u64, peaks: Vec<Hash>) -> Self {
        debug_assert_eq!(peaks.len(), size.count_ones() as usize);
        Self { size, peaks }
    }
}

/// The root of a complete subtree, from the hashes of one of its levels (its leaves, or a full tile).
///
/// # Panics
/// Unless their number is a power of two.
#[must_use]
pub fn complete_root(hashes: &[Hash]) -> Hash {
    assert!(hashes.len().is_power_of_two(), "{} hashes are no complete subtree", hashes.len());
    let mut level = hashes.to_vec();
    let mut width = level.len();
    while width > 1 {
        width /= 2;
        for n in 0..width {
            level[n] = node_hash(&level[2 * n], &level[2 * n + 1]);
        }
    }
    level[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proof::hash::leaf_hash;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    #[test]
    fn a_subtree_has_its_place() {
        let misplaced = std::panic::catch_unwind(|| {
            let mut frontier = Frontier::default();
            frontier.extend(&leaves(3));
            frontier.append_subtree(1, Hash::default());
        });
        assert!(misplaced.is_err(), "two leaves as a subtree begin at an even index");
    }

    #[test]
    fn frontiers_are_those_of_the_golden_file() {
        let mut frontier = Frontier::default();
        frontier.extend(&leaves(11));
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/frontier-v1.bin");
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            std::fs::write(golden, frontier.encode()).unwrap();
        }
        assert!(
            std::fs::read(golden).unwrap() == frontier.encode(),
            "the format of stored frontiers has changed"
        );
    }

    proptest! {
        #[test]
        fn frontiers_have_one_spelling(
            size in 0u64..5_000, cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut frontier = Frontier::default();
            frontier.extend(&leaves(size));
            let mut bytes = frontier.encode();
            prop_assert!(Frontier::decode(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert!(Frontier::decode(&[&bytes[..], &[0]].concat()).is_err());
            let at = flip.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(flipped) = Frontier::decode(&bytes) {
                prop_assert_ne!(flipped.root(), frontier.root());
                prop_assert_eq!(flipped.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_read_as_a_frontier_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(frontier) = Frontier::decode(&bytes) {
                prop_assert_eq!(frontier.encode(), bytes);
            }
        }
    }
}
