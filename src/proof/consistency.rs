//! Consistency proofs: that a tree is an earlier one with leaves appended, and nothing else changed.
//!
//! RFC 6962, section 2.1.2, and the verifier of RFC 9162, section 2.1.4.2. The proof's length follows from the
//! two sizes, and no other is accepted. It does not own the signatures under the two roots.

use super::{
    error::ProofError,
    hash::{Hash, node_hash},
    tree::{HashSource, check_size, range_root, split},
};

/// The proof that the first `to` leaves begin with the first `from`. It is empty where nothing needs proof: from
/// the empty tree, and from a tree to itself. Asks for at most 2·log₂(`to`) subtrees.
///
/// # Errors
/// Those of the source; [`ProofError::OutOfRange`] unless `from` is at most `to`.
pub fn consistency_proof<S: HashSource>(source: &S, from: u64, to: u64) -> Result<Vec<Hash>, S::Error> {
    check_size(to)?;
    check_order(from, to)?;
    let mut hashes = Vec::new();
    if from == 0 {
        return Ok(hashes);
    }
    let (mut first, mut end) = (0, to);
    // Descend to the subtree that ends where the old tree ended, and note what branches off.
    while end != from {
        let middle = first + split(end - first);
        if from <= middle {
            hashes.push(range_root(source, middle, end)?);
            end = middle;
        } else {
            hashes.push(range_root(source, first, middle)?);
            first = middle;
        }
    }
    // A subtree that begins with the first leaf is the old tree itself: the verifier has its root.
    if first > 0 {
        hashes.push(range_root(source, first, end)?);
    }
    hashes.reverse();
    Ok(hashes)
}

/// Checks that the tree of `to` leaves with `to_root` begins with the tree of `from` leaves with `from_root`.
///
/// # Errors
/// [`ProofError::OutOfRange`] unless `from` is at most `to`; [`ProofError::Refused`] when the proof does not
/// lead to both roots.
pub fn verify_consistency(
    from: u64,
    to: u64,
    from_root: &Hash,
    to_root: &Hash,
    hashes: &[Hash],
) -> Result<(), ProofError> {
    check_order(from, to)?;
    let refused = |what: &str| Err(ProofError::refused(format!("from {from} to {to} leaves: {what}")));
    if from == 0 || from == to {
        // Nothing was appended to, or nothing was appended: the roots speak for themselves.
        let expected = if from == to { to_root } else { &Hash::EMPTY_ROOT };
        return match hashes.is_empty() && from_root == expected {
            true => Ok(()),
            false => refused("the roots contradict each other, or the proof is not empty"),
        };
    }
    // A complete old tree is a subtree of the new one, whose root the verifier has and the proof leaves out.
    let (start, path) = match hashes.split_first() {
        _ if from.is_power_of_two() => (from_root, hashes),
        Some((start, path)) => (start, path),
        None => return refused("the proof is too short"),
    };
    // The position of the old tree's last subtree and of the new tree's, at the level of `start`.
    let level = from.trailing_zeros();
    let (mut node, mut last) = ((from - 1) >> level, (to - 1) >> level);
    let (mut from_hash, mut to_hash) = (*start, *start);
    for sibling in path {
        if last == 0 {
            return refused("the proof is too long");
        }
        if node & 1 == 1 || node == last {
            from_hash = node_hash(sibling, &from_hash);
            to_hash = node_hash(sibling, &to_hash);
            // A last subtree without a sibling rises unchanged to the level where it has one.
            let rises = node.trailing_zeros();
            (node, last) = (node >> rises, last >> rises);
        } else {
            to_hash = node_hash(&to_hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return refused("the proof is too short");
    }
    if from_hash != *from_root {
        return refused("the proof does not lead to the root of the earlier tree");
    }
    if to_hash != *to_root {
        return refused("the proof does not lead to the root of the later tree");
    }
    Ok(())
}

fn check_order(from: u64, to: u64) -> Result<(), ProofError> {
    if from > to {
        return Err(ProofError::out_of_range(format!("a tree of {to} leaves has no earlier tree of {from}")));
    }
    Ok(())
}
