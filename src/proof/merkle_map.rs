//! A Merkle tree over key–value pairs: what a map holds, as one hash, and proofs that it holds a pair.
//!
//! Takes pairs, gives an RFC 6962 tree (SHA-256) whose leaves are the pairs in the order of their keys. It is
//! the tree of a state, and has nothing to do with the tree over all records, which is the ledger's history.
//!
//! ```text
//! leaf data   key_len u32 (big-endian) │ key │ value
//! ```

use std::cmp::Ordering;

use sha2::{Digest, Sha256};

use super::leaf::node_hash;
use crate::error::{Code, Error, Result};

/// The tree over a set of pairs.
#[derive(Clone, Debug)]
pub struct MerkleTree {
    /// Leaves in the order of their keys.
    keys: Vec<Vec<u8>>,
    leaves: Vec<[u8; 32]>,
}

/// That a pair is in a tree: its place and the hashes beside the way to the root, from the leaf up.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MerkleProof {
    /// Place of the pair among the sorted keys, from 0.
    pub leaf_index: u64,
    /// How many pairs the tree has.
    pub tree_size: u64,
    /// The audit path of RFC 6962, section 2.1.1.
    pub siblings: Vec<[u8; 32]>,
}

impl MerkleTree {
    /// The tree over these pairs, in whatever order they come.
    ///
    /// # Errors
    /// [`Code::Malformed`] when a key comes twice or is longer than 4 GiB.
    pub fn from_pairs<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let mut hashed = Vec::new();
        for (key, value) in pairs {
            let leaf = pair_hash(key.as_ref(), value.as_ref())?;
            hashed.push((key.as_ref().to_vec(), leaf));
        }
        hashed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some([twice, _]) = hashed.array_windows().find(|[a, b]| a.0.cmp(&b.0) == Ordering::Equal) {
            let key = String::from_utf8_lossy(&twice.0).into_owned();
            return Err(Error::new(
                Code::Malformed,
                format!("the key {key:?} comes twice: give each key once"),
            ));
        }
        let (keys, leaves) = hashed.into_iter().unzip();
        Ok(Self { keys, leaves })
    }

    /// Its root; of no pairs, the hash of nothing (RFC 6962, section 2.1).
    #[must_use]
    pub fn root_hash(&self) -> [u8; 32] {
        root(&self.leaves)
    }

    /// The proof that `key` is in the tree with its value; `None` when it is not.
    #[must_use]
    pub fn get_proof(&self, key: &[u8]) -> Option<MerkleProof> {
        let index = self.keys.binary_search_by(|other| other[..].cmp(key)).ok()?;
        let mut siblings = Vec::new();
        path(index, &self.leaves, &mut siblings);
        Some(MerkleProof { leaf_index: index as u64, tree_size: self.leaves.len() as u64, siblings })
    }

    /// Whether `proof` shows that the tree with this root holds `key` with `value` (RFC 9162, section 2.1.3.2).
    #[must_use]
    pub fn verify_proof(root: &[u8; 32], key: &[u8], value: &[u8], proof: &MerkleProof) -> bool {
        let Ok(mut hash) = pair_hash(key, value) else { return false };
        if proof.leaf_index >= proof.tree_size {
            return false;
        }
        let (mut index, mut last) = (proof.leaf_index, proof.tree_size - 1);
        for sibling in &proof.siblings {
            if last == 0 {
                return false;
            }
            if index & 1 == 1 || index == last {
                hash = node_hash(sibling, &hash);
                while index & 1 == 0 && index != 0 {
                    (index, last) = (index >> 1, last >> 1);
                }
            } else {
                hash = node_hash(&hash, sibling);
            }
            (index, last) = (index >> 1, last >> 1);
        }
        last == 0 && hash == *root
    }
}

fn pair_hash(key: &[u8], value: &[u8]) -> Result<[u8; 32]> {
    let key_len = u32::try_from(key.len())
        .map_err(|_| Error::new(Code::Malformed, "a key of a Merkle tree has less than 4 GiB"))?;
    let hasher = Sha256::new().chain_update([0]).chain_update(key_len.to_be_bytes());
    Ok(hasher.chain_update(key).chain_update(value).finalize().into())
}

/// Where a tree of `len` leaves, at least two, is parted: the largest power of two below it.
const fn split(len: usize) -> usize {
    len.next_power_of_two() / 2
}

fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

fn path(index: usize, leaves: &[[u8; 32]], siblings: &mut Vec<[u8; 32]>) {
    if leaves.len() < 2 {
        return;
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if index < left.len() {
        path(index, left, siblings);
        siblings.push(root(right));
    } else {
        path(index - left.len(), right, siblings);
        siblings.push(root(left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_every_small_tree_is_proved_and_no_other() {
        for size in 0..40u32 {
            let pair = |n: u32| (format!("key-{n:02}"), format!("value-{n}"));
            let tree = MerkleTree::from_pairs((0..size).rev().map(pair)).unwrap();
            let root = tree.root_hash();
            for n in 0..size {
                let (key, value) = pair(n);
                let proof = tree.get_proof(key.as_bytes()).unwrap();
                assert!(MerkleTree::verify_proof(&root, key.as_bytes(), value.as_bytes(), &proof));
                assert!(!MerkleTree::verify_proof(&root, key.as_bytes(), b"other", &proof));
                for place in 0..proof.siblings.len() {
                    let mut bent = proof.clone();
                    bent.siblings[place][7] ^= 1;
                    assert!(!MerkleTree::verify_proof(&root, key.as_bytes(), value.as_bytes(), &bent));
                }
            }
            assert_eq!(tree.get_proof(b"absent"), None);
        }
    }

    #[test]
    fn no_pairs_have_the_hash_of_nothing_and_no_key_comes_twice() {
        let none: [(&str, &str); 0] = [];
        assert_eq!(MerkleTree::from_pairs(none).unwrap().root_hash()[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        let error = MerkleTree::from_pairs([("a", "1"), ("b", "2"), ("a", "1")]).unwrap_err();
        assert!(error.message().contains("\"a\" comes twice"), "{error}");
    }
}
