//! A Merkle tree over key–value pairs: what a map holds, as one hash, and proofs that it holds a pair.
//!
//! Takes pairs, gives an RFC 6962 tree (SHA-256) whose leaves are the pairs in the order of their keys. It is
//! the tree of one state, and has nothing to do with the tree over all records, which is the ledger's history.
//!
//! ```text
//! leaf data   u32 key length, big-endian | key | value
//! ```
//!
//! The length keeps key and value apart: no two pairs have the same leaf data.

use serde::{Deserialize, Serialize};

use super::{
    encoding::shortened,
    error::ProofError,
    hash::{Hash, leaf_hash},
    inclusion::{inclusion_proof, verify_inclusion},
    memory::MemoryTree,
    tree::root,
};

/// The tree over a set of pairs. Holds the keys and two hashes a pair, not the values.
#[derive(Clone, Debug)]
pub struct MerkleTree {
    /// In ascending order: a key's place is its leaf's index.
    keys: Vec<Vec<u8>>,
    hashes: MemoryTree,
    root: Hash,
}

/// That a pair is in a tree: its place, and the hashes beside the way from there to the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerkleProof {
    /// Place of the pair among the sorted keys, from 0.
    pub leaf_index: u64,
    /// How many pairs the tree has.
    pub tree_size: u64,
    /// The inclusion proof of RFC 6962, section 2.1.1.
    pub siblings: Vec<Hash>,
}

impl MerkleTree {
    /// The tree over these pairs, in whatever order they come.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] when a key comes twice, or is 4 GiB or longer.
    pub fn from_pairs<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ProofError> {
        let hashed =
            |(key, value): (K, V)| Ok((key.as_ref().to_vec(), pair_hash(key.as_ref(), value.as_ref())?));
        let mut pairs = pairs.into_iter().map(hashed).collect::<Result<Vec<_>, ProofError>>()?;
        pairs.sort_unstable();
        if let Some(twice) = pairs.array_windows().find(|[one, next]| one.0 == next.0) {
            let key = String::from_utf8_lossy(&twice[0].0);
            return Err(ProofError::malformed(format!("the key {:?} comes twice", shortened(&key))));
        }
        let (keys, leaves): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let hashes: MemoryTree = leaves.into_iter().collect();
        let root = root(&hashes, hashes.size())?;
        Ok(Self { keys, hashes, root })
    }

    /// Its root; of no pairs, the hash of nothing.
    #[must_use]
    pub const fn root_hash(&self) -> Hash {
        self.root
    }

    /// The proof that `key` is in the tree with its value; `None` when it is not in the tree.
    #[must_use]
    pub fn get_proof(&self, key: &[u8]) -> Option<MerkleProof> {
        let leaf_index = self.keys.binary_search_by(|other| other[..].cmp(key)).ok()? as u64;
        let tree_size = self.hashes.size();
        let siblings = inclusion_proof(&self.hashes, leaf_index, tree_size).ok()?;
        Some(MerkleProof { leaf_index, tree_size, siblings })
    }

    /// Whether `proof` shows that the tree with this root holds `key` with `value`.
    #[must_use]
    pub fn verify_proof(root: &Hash, key: &[u8], value: &[u8], proof: &MerkleProof) -> bool {
        pair_hash(key, value)
            .and_then(|hash| {
                verify_inclusion(&hash, proof.leaf_index, proof.tree_size, &proof.siblings, root)
            })
            .is_ok()
    }
}

fn pair_hash(key: &[u8], value: &[u8]) -> Result<Hash, ProofError> {
    let key_bytes = u32::try_from(key.len())
        .map_err(|_| ProofError::malformed(format!("a key of {} bytes: most is 4 GiB", key.len())))?;
    Ok(leaf_hash(&[&key_bytes.to_be_bytes()[..], key, value].concat()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

    fn any_pairs() -> impl Strategy<Value = Pairs> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..6);
        prop::collection::btree_map(bytes(), bytes(), 0..40)
    }

    #[test]
    fn leaves_are_as_drawn() {
        let tree = MerkleTree::from_pairs([("b", "2"), ("a", "1")]).unwrap();
        let (a, b) = (leaf_hash(b"\0\0\0\x01a1"), leaf_hash(b"\0\0\0\x01b2"));
        assert_eq!(tree.root_hash(), crate::proof::hash::node_hash(&a, &b));
        let proof = tree.get_proof(b"b").unwrap();
        assert_eq!(proof, MerkleProof { leaf_index: 1, tree_size: 2, siblings: vec![a] });
        let json = format!(r#"{{"leaf_index":1,"tree_size":2,"siblings":["{a}"]}}"#);
        assert_eq!(serde_json::to_string(&proof).unwrap(), json);
    }

    #[test]
    fn keys_come_once() {
        let twice = MerkleTree::from_pairs([("a", "1"), ("b", "2"), ("a", "1")]);
        assert!(matches!(twice, Err(ProofError::Malformed(message)) if message.contains("\"a\"")));
        let empty = MerkleTree::from_pairs::<&str, &str>([]).unwrap();
        assert_eq!(empty.root_hash(), Hash::EMPTY_ROOT);
        assert_eq!(empty.get_proof(b""), None);
    }

    #[test]
    fn a_boundary_between_key_and_value_is_part_of_the_pair() {
        let proof = MerkleTree::from_pairs([("ab", "c")]).unwrap();
        let other = MerkleTree::from_pairs([("a", "bc")]).unwrap();
        assert_ne!(proof.root_hash(), other.root_hash());
    }

    proptest! {
        #[test]
        fn every_pair_is_proved_and_no_other(pairs in any_pairs(), other in prop::collection::vec(any::<u8>(), 0..6)) {
            let tree = MerkleTree::from_pairs(&pairs).unwrap();
            let reversed = MerkleTree::from_pairs(pairs.iter().rev()).unwrap();
            let root = tree.root_hash();
            prop_assert_eq!(reversed.root_hash(), root);
            prop_assert_eq!(tree.get_proof(&other).is_some(), pairs.contains_key(&other));
            for (key, value) in &pairs {
                let proof = tree.get_proof(key).unwrap();
                prop_assert!(MerkleTree::verify_proof(&root, key, value, &proof));
                prop_assert_eq!(MerkleTree::verify_proof(&root, key, &other, &proof), other == *value);
                prop_assert_eq!(MerkleTree::verify_proof(&root, &other, value, &proof), other == *key);
                let json = serde_json::to_string(&proof).unwrap();
                prop_assert_eq!(serde_json::from_str::<MerkleProof>(&json).unwrap(), proof);
            }
        }
    }
}
