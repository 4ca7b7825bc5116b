//! The tree against the definitions of RFC 6962, written down naively, and against damage.

use std::cell::Cell;

use proptest::prelude::*;

use super::{
    consistency::{consistency_proof, verify_consistency},
    error::ProofError,
    frontier::{Frontier, complete_root},
    hash::{Hash, leaf_hash, node_hash},
    inclusion::{inclusion_proof, verify_inclusion},
    memory::MemoryTree,
    tile::Tile,
    tiled::{TileSource, TiledTree},
    tree::{HashSource, SIZE_MAX, frontier, root},
};

/// Sizes around every kind of right edge, for tests that are too slow for all sizes.
const SIZES: [u64; 14] = [1, 2, 3, 5, 6, 7, 8, 9, 31, 33, 64, 65, 100, 127];

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn tree(count: u64) -> MemoryTree {
    leaves(count).into_iter().collect()
}

fn naive_split(width: usize) -> usize {
    (0..).map(|k| 1 << k).take_while(|k| *k < width).last().unwrap()
}

/// MTH of RFC 6962, section 2.1.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of(b""),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(naive_split(leaves.len()));
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// PATH of section 2.1.1.
fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(naive_split(leaves.len()));
    let (mut path, sibling) = match index < left.len() {
        true => (naive_path(index, left), right),
        false => (naive_path(index - left.len(), right), left),
    };
    path.push(naive_root(sibling));
    path
}

/// SUBPROOF of section 2.1.2.
fn naive_subproof(from: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if from == leaves.len() {
        return if whole { Vec::new() } else { vec![naive_root(leaves)] };
    }
    let k = naive_split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, other) = match from <= k {
        true => (naive_subproof(from, left, whole), right),
        false => (naive_subproof(from - k, right, false), left),
    };
    proof.push(naive_root(other));
    proof
}

/// Counts what is asked of a source.
struct Counted<'a>(&'a MemoryTree, Cell<u32>);

impl HashSource for Counted<'_> {
    type Error = ProofError;

    fn subtree(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        self.1.set(self.1.get() + 1);
        self.0.subtree(level, index)
    }
}

/// Every way to flip one bit of one of these hashes.
fn flips(hashes: &[Hash]) -> impl Iterator<Item = Vec<Hash>> {
    (0..hashes.len() * 256).map(|bit| {
        let mut flipped = hashes.to_vec();
        flipped[bit / 256].0[bit % 256 / 8] ^= 1 << (bit % 8);
        flipped
    })
}

/// Proofs of every wrong length that is near the right one.
fn other_lengths(hashes: &[Hash]) -> Vec<Vec<Hash>> {
    let mut others: Vec<Vec<Hash>> = (0..hashes.len()).map(|length| hashes[..length].to_vec()).collect();
    others.extend((0..hashes.len()).map(|n| [&hashes[..n], &hashes[n + 1..]].concat()));
    for extra in hashes.iter().chain([&Hash::default()]) {
        others.extend([[hashes, &[*extra]].concat(), [&[*extra], hashes].concat()]);
    }
    others.retain(|other| other.len() != hashes.len());
    others
}

#[test]
fn vectors_of_rfc_6962_hold() {
    let inputs: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let tree: MemoryTree = inputs.into_iter().map(leaf_hash).collect();
    let expected = [
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ];
    for (size, hex) in expected {
        assert_eq!(root(&tree, size).unwrap().to_string(), hex, "{size} leaves");
    }
}

#[test]
fn every_root_is_the_naive_one() {
    let leaves = leaves(600);
    let tree: MemoryTree = leaves.iter().copied().collect();
    let mut appended = Frontier::default();
    for size in 0..=leaves.len() {
        let expected = naive_root(&leaves[..size]);
        assert_eq!(appended.root(), expected, "{size} leaves");
        assert_eq!(frontier(&tree, size as u64).unwrap(), appended, "{size} leaves");
        if size > 0 && size.is_power_of_two() {
            assert_eq!(complete_root(&leaves[..size]), expected, "{size} leaves");
        }
        if let Some(leaf) = leaves.get(size) {
            appended.append(*leaf);
        }
    }
}

#[test]
fn every_inclusion_proof_is_the_naive_one_and_no_other_length_holds() {
    for size in 1..=130u64 {
        let leaves = leaves(size);
        let (tree, root) = (tree(size), naive_root(&leaves));
        for (index, leaf) in leaves.iter().enumerate() {
            let source = Counted(&tree, Cell::new(0));
            let proof = inclusion_proof(&source, index as u64, size).unwrap();
            assert_eq!(proof, naive_path(index, &leaves), "leaf {index} of {size}");
            assert!(source.1.get() <= 2 * size.ilog2() + 2, "leaf {index} of {size}: {}", source.1.get());
            verify_inclusion(leaf, index as u64, size, &proof, &root).unwrap();
            for other in other_lengths(&proof) {
                assert!(verify_inclusion(leaf, index as u64, size, &other, &root).is_err());
            }
        }
    }
}

#[test]
fn an_inclusion_proof_with_any_bit_flipped_is_refused() {
    for size in SIZES {
        let (tree, leaves) = (tree(size), leaves(size));
        let root = root(&tree, size).unwrap();
        for index in 0..size {
            let leaf = leaves[index as usize];
            let proof = inclusion_proof(&tree, index, size).unwrap();
            for other in (0..size).filter(|other| *other != index) {
                assert!(verify_inclusion(&leaf, other, size, &proof, &root).is_err());
            }
            // The rest costs thousands of hashes a leaf: at both ends and in the middle.
            if ![0, size / 2, size - 1].contains(&index) {
                continue;
            }
            for flipped in flips(&proof) {
                assert!(verify_inclusion(&leaf, index, size, &flipped, &root).is_err());
            }
            for flipped in flips(&[leaf]) {
                assert!(verify_inclusion(&flipped[0], index, size, &proof, &root).is_err());
            }
            for flipped in flips(&[root]) {
                assert!(verify_inclusion(&leaf, index, size, &proof, &flipped[0]).is_err());
            }
        }
    }
}

#[test]
fn every_consistency_proof_is_the_naive_one_and_no_other_length_holds() {
    let size_max = 70;
    let (leaves, tree) = (leaves(size_max), tree(size_max));
    let roots: Vec<Hash> = (0..=leaves.len()).map(|size| naive_root(&leaves[..size])).collect();
    for to in 0..=size_max {
        for from in 0..=to {
            let source = Counted(&tree, Cell::new(0));
            let proof = consistency_proof(&source, from, to).unwrap();
            if from > 0 {
                assert_eq!(proof, naive_subproof(from as usize, &leaves[..to as usize], true), "{from} {to}");
            }
            assert!(source.1.get() <= 2 * to.max(1).ilog2() + 2, "{from} to {to}: {}", source.1.get());
            let (from_root, to_root) = (&roots[from as usize], &roots[to as usize]);
            verify_consistency(from, to, from_root, to_root, &proof).unwrap();
            for other in other_lengths(&proof) {
                assert!(verify_consistency(from, to, from_root, to_root, &other).is_err(), "{from} {to}");
            }
        }
    }
}

#[test]
fn a_consistency_proof_with_any_bit_flipped_is_refused() {
    let tree = tree(127);
    for (n, to) in SIZES.into_iter().enumerate() {
        for from in SIZES.into_iter().take(n + 1).chain([0, to - 1]) {
            let (from_root, to_root) = (root(&tree, from).unwrap(), root(&tree, to).unwrap());
            let proof = consistency_proof(&tree, from, to).unwrap();
            for flipped in flips(&proof) {
                assert!(verify_consistency(from, to, &from_root, &to_root, &flipped).is_err());
            }
            for flipped in flips(&[from_root]) {
                assert!(verify_consistency(from, to, &flipped[0], &to_root, &proof).is_err());
            }
            // From nothing, anything may follow.
            for flipped in flips(&[to_root]).filter(|_| from > 0) {
                assert!(verify_consistency(from, to, &from_root, &flipped[0], &proof).is_err());
            }
        }
    }
}

#[test]
fn questions_beyond_the_tree_are_answered_with_errors() {
    let tree = tree(5);
    assert!(matches!(inclusion_proof(&tree, 5, 5), Err(ProofError::OutOfRange(_))));
    assert!(matches!(inclusion_proof(&tree, 0, 0), Err(ProofError::OutOfRange(_))));
    assert!(matches!(inclusion_proof(&tree, 0, 6), Err(ProofError::OutOfRange(_))));
    assert!(matches!(inclusion_proof(&tree, 0, SIZE_MAX + 1), Err(ProofError::OutOfRange(_))));
    assert!(matches!(consistency_proof(&tree, 4, 3), Err(ProofError::OutOfRange(_))));
    assert!(matches!(consistency_proof(&tree, 4, 9), Err(ProofError::OutOfRange(_))));
    assert!(matches!(root(&tree, 8), Err(ProofError::OutOfRange(_))));
    let hash = Hash::default();
    assert!(matches!(verify_inclusion(&hash, 3, 3, &[], &hash), Err(ProofError::OutOfRange(_))));
    assert!(matches!(verify_consistency(4, 3, &hash, &hash, &[]), Err(ProofError::OutOfRange(_))));
    for size in [u64::MAX, SIZE_MAX] {
        assert!(verify_inclusion(&hash, size - 1, size, &[hash; 64], &hash).is_err());
        assert!(verify_inclusion(&hash, 0, size, &[hash; 64], &hash).is_err());
        assert!(verify_consistency(size - 1, size, &hash, &hash, &[hash; 64]).is_err());
    }
}

/// Serves tiles of a tree in memory, and counts them.
struct Tiles<'a>(&'a MemoryTree, Cell<usize>);

impl TileSource for Tiles<'_> {
    type Error = ProofError;

    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, ProofError> {
        self.1.set(self.1.get() + 1);
        tile.hashes(self.0)
    }
}

#[test]
fn a_tree_over_tiles_is_the_tree() {
    let whole = tree(70_000);
    for size in [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000] {
        for index in [0, 1, size / 3, size / 2, size - 1].into_iter().filter(|index| *index < size) {
            let tiles = Tiles(&whole, Cell::new(0));
            let tiled = TiledTree::new(&tiles, size);
            let proof = inclusion_proof(&tiled, index, size).unwrap();
            assert_eq!(proof, inclusion_proof(&whole, index, size).unwrap(), "leaf {index} of {size}");
            let from = index + 1;
            let proof = consistency_proof(&tiled, from, size).unwrap();
            assert_eq!(proof, consistency_proof(&whole, from, size).unwrap(), "{from} to {size}");
            assert!(tiles.1.get() <= 7, "{} tiles for {index} of {size}", tiles.1.get());
        }
        let tiles = Tiles(&whole, Cell::new(0));
        let tiled = TiledTree::new(&tiles, size);
        assert_eq!(root(&tiled, size).unwrap(), root(&whole, size).unwrap(), "{size} leaves");
        assert!(root(&tiled, size + 1).is_err(), "the tree has {size} leaves, whatever its tiles hold");
    }
}

#[test]
fn tiles_that_are_not_what_was_asked_for_are_refused() {
    struct Short;
    impl TileSource for Short {
        type Error = ProofError;
        fn tile(&self, tile: Tile) -> Result<Vec<Hash>, ProofError> {
            Ok(vec![Hash::default(); usize::from(tile.width()) - 1])
        }
    }
    assert!(matches!(root(&TiledTree::new(Short, 300), 300), Err(ProofError::Malformed(_))));
    let tiled = TiledTree::new(Short, SIZE_MAX);
    for (level, index) in [(0, u64::MAX), (63, 1), (255, 0), (62, u64::MAX)] {
        assert!(tiled.subtree(level, index).is_err());
    }
}

proptest! {
    #[test]
    fn leaves_may_come_in_any_portions(portions in prop::collection::vec(0u64..700, 0..8)) {
        let total = portions.iter().sum();
        let all = leaves(total);
        let (mut grown, mut rest) = (Frontier::default(), &all[..]);
        for portion in portions {
            let (now, later) = rest.split_at(portion as usize);
            grown.extend(now);
            // A restart in between makes no difference.
            grown = Frontier::decode(&grown.encode()).unwrap();
            rest = later;
        }
        prop_assert_eq!(grown.size(), total);
        prop_assert_eq!(grown.root(), naive_root(&all));
    }

    #[test]
    fn proofs_hold_in_random_trees(size in 1u64..3_000, index in any::<prop::sample::Index>()) {
        let tree = tree(size);
        let index = index.index(size as usize) as u64;
        let root_hash = root(&tree, size).unwrap();
        let proof = inclusion_proof(&tree, index, size).unwrap();
        verify_inclusion(&leaves(size)[index as usize], index, size, &proof, &root_hash).unwrap();
        let proof = consistency_proof(&tree, index, size).unwrap();
        verify_consistency(index, size, &root(&tree, index).unwrap(), &root_hash, &proof).unwrap();
    }

    #[test]
    fn any_proof_is_judged_without_a_panic(
        index in any::<u64>(), size in any::<u64>(), count in 0usize..70, small in any::<bool>(),
    ) {
        let (index, size) = if small { (index % 9, size % 9) } else { (index, size) };
        let hash = Hash::default();
        let proof = vec![hash; count];
        prop_assert!(verify_inclusion(&hash, index, size, &proof, &hash).is_err() || size == 1);
        let consistent = verify_consistency(index, size, &hash, &hash, &proof).is_ok();
        prop_assert!(!consistent || index == size);
    }
}
