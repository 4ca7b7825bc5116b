//! The shape of the tree: RFC 6962, section 2.1, over any store of hashes.
//!
//! A tree of n leaves splits at the largest power of two below n. So every left subtree is complete and
//! aligned, never changes again, and can be named by level and index; only the right edge moves.
//!
//! ```text
//! level 3          (3,0)
//! level 2    (2,0)       (2,1)
//! level 1  (1,0) (1,1) (1,2) (1,3) (1,4)
//! level 0   0 1   2 3   4 5   6 7   8 9   10          a tree of 11 leaves
//! ```
//!
//! Takes a [`HashSource`], gives roots and frontiers. It does not own where hashes are kept.

use super::{
    error::ProofError,
    frontier::Frontier,
    hash::{Hash, node_hash},
};

/// Most leaves a tree may have: existing clients of the formats count in signed 64-bit integers.
pub const SIZE_MAX: u64 = i64::MAX as u64;

/// Hashes of complete subtrees, wherever they come from.
pub trait HashSource {
    /// Why a hash could not be had. Questions beyond the tree are answered with a [`ProofError`].
    type Error: From<ProofError>;

    /// The root of leaves `index << level` up to, but not including, `(index + 1) << level`. It is only
    /// asked for subtrees that lie wholly within the size a caller named.
    ///
    /// # Errors
    /// When the hash is not there, or cannot be read.
    fn subtree(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// The root of the tree of the first `size` leaves. Asks for as many subtrees as `size` has set bits.
///
/// # Errors
/// Those of the source; [`ProofError::OutOfRange`] above [`SIZE_MAX`].
pub fn root<S: HashSource>(source: &S, size: u64) -> Result<Hash, S::Error> {
    Ok(frontier(source, size)?.root())
}

/// The frontier of the tree of the first `size` leaves: appending may go on from there.
///
/// # Errors
/// Those of the source; [`ProofError::OutOfRange`] above [`SIZE_MAX`].
pub fn frontier<S: HashSource>(source: &S, size: u64) -> Result<Frontier, S::Error> {
    check_size(size)?;
    Ok(Frontier::from_peaks(size, peaks(source, 0, size)?))
}

/// A tree of this size can exist.
pub(super) fn check_size(size: u64) -> Result<(), ProofError> {
    if size > SIZE_MAX {
        return Err(ProofError::out_of_range(format!("a tree has at most {SIZE_MAX} leaves, not {size}")));
    }
    Ok(())
}

/// Where a tree of `width` leaves (two or more) splits: the largest power of two below `width`.
pub(super) const fn split(width: u64) -> u64 {
    1 << (width - 1).ilog2()
}

/// The hash of leaves `from..to` as a subtree that begins at `from`, which is a multiple of a power of two
/// no smaller than their number.
pub(super) fn range_root<S: HashSource>(source: &S, from: u64, to: u64) -> Result<Hash, S::Error> {
    Ok(fold_peaks(&peaks(source, from, to)?))
}

/// The complete subtrees that cover leaves `from..to`, largest first.
fn peaks<S: HashSource>(source: &S, from: u64, to: u64) -> Result<Vec<Hash>, S::Error> {
    let (mut at, mut peaks) = (from, Vec::with_capacity((to - from).count_ones() as usize));
    while at < to {
        let level = (to - at).ilog2();
        peaks.push(source.subtree(level as u8, at >> level)?);
        at += 1 << level;
    }
    Ok(peaks)
}

/// The root over peaks, largest first: each is the left sibling of everything to its right.
pub(super) fn fold_peaks(peaks: &[Hash]) -> Hash {
    peaks.iter().rev().copied().reduce(|right, left| node_hash(&left, &right)).unwrap_or(Hash::EMPTY_ROOT)
}
