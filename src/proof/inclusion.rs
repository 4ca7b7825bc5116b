//! Inclusion proofs: that a leaf is the one at its index in the tree with a given root.
//!
//! RFC 6962, section 2.1.1; what is accepted is what RFC 9162, section 2.1.3.2, accepts. A proof is the siblings on the way
//! from the leaf to the root, the leaf's own first; its length follows from index and size, and no other is
//! accepted. It does not own the signature under the root, nor what the leaf's bytes mean.

use super::{
    error::ProofError,
    hash::{Hash, node_hash},
    tree::{HashSource, check_size, range_root, split},
};

/// The proof for leaf `index` in the tree of the first `size` leaves. Asks for at most 2·log₂(`size`) subtrees.
///
/// # Errors
/// Those of the source; [`ProofError::OutOfRange`] unless `index` is below `size`.
pub fn inclusion_proof<S: HashSource>(source: &S, index: u64, size: u64) -> Result<Vec<Hash>, S::Error> {
    check_size(size)?;
    check_index(index, size)?;
    let (mut from, mut to) = (0, size);
    let mut siblings = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            siblings.push(range_root(source, middle, to)?);
            to = middle;
        } else {
            siblings.push(range_root(source, from, middle)?);
            from = middle;
        }
    }
    siblings.reverse();
    Ok(siblings)
}

/// Checks that `leaf_hash` is leaf `index` of the tree of `size` leaves with this root.
///
/// # Errors
/// [`ProofError::OutOfRange`] unless `index` is below `size`; [`ProofError::Refused`] when the proof does not
/// lead from the leaf to the root.
pub fn verify_inclusion(
    leaf_hash: &Hash,
    index: u64,
    size: u64,
    siblings: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    check_index(index, size)?;
    let (inner, border) = proof_shape(index, size);
    if siblings.len() != inner + border {
        return Err(ProofError::refused(format!(
            "leaf {index} of {size} has a proof of {} hashes, not {}",
            inner + border,
            siblings.len()
        )));
    }
    let mut hash = *leaf_hash;
    for (level, sibling) in siblings.iter().enumerate() {
        let is_right = level >= inner || index >> level & 1 == 1;
        hash = if is_right { node_hash(sibling, &hash) } else { node_hash(&hash, sibling) };
    }
    if hash != *root {
        return Err(ProofError::refused(format!(
            "the proof of leaf {index} leads to root {hash}, not to {root} of the tree of {size} leaves"
        )));
    }
    Ok(())
}

/// How many hashes prove leaf `index` of a tree of `size` leaves, in two parts.
///
/// Below the level at which the paths of this leaf and of the last leaf meet there is a sibling at every
/// level, on the side that the index says. Above, the path is the tree's right edge: its siblings are all on
/// the left, and only where the last leaf's path turns right.
fn proof_shape(index: u64, size: u64) -> (usize, usize) {
    let last = size - 1;
    let inner = u64::BITS - (index ^ last).leading_zeros();
    let border = last.checked_shr(inner).unwrap_or(0).count_ones();
    (inner as usize, border as usize)
}

fn check_index(index: u64, size: u64) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::out_of_range(format!("a tree of {size} leaves has no leaf {index}")));
    }
    Ok(())
}
