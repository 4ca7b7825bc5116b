//! What a ledger holds now, as one hash, and proofs that it holds a pair.
//!
//! The tree is over the live pairs (`proof::merkle_map`) and is built when it is asked for. It is not the tree
//! over all records that servers sign: that one tells what was ever written, this one what is there.

use super::Ledger;
use crate::{
    error::{Error, Result},
    proof::{
        Hash,
        merkle_map::{MerkleProof, MerkleTree},
    },
};

impl Ledger {
    /// The Merkle tree over the live pairs, all as of one position. It costs a scan, about a microsecond and 64
    /// bytes beside the key for each of them: whoever wants many proofs keeps it.
    ///
    /// # Errors
    /// As [`Ledger::get`].
    pub fn merkle_tree(&self) -> Result<MerkleTree> {
        let mut failed: Option<Error> = None;
        let pairs = self.scan(..).map_while(|record| {
            record.map_err(|error| failed = Some(error)).ok().map(|record| (record.key, record.value))
        });
        let tree = MerkleTree::from_pairs(pairs)?;
        failed.map_or(Ok(tree), Err)
    }

    /// Root of the tree over the live pairs: equal contents have equal roots, however they came about. It costs
    /// what [`Ledger::merkle_tree`] costs.
    ///
    /// # Errors
    /// As [`Ledger::get`].
    pub fn compute_merkle_root(&self) -> Result<Hash> {
        Ok(self.merkle_tree()?.root_hash())
    }

    /// The proof that a key is live with its value, to be checked with [`MerkleTree::verify_proof`] against a root
    /// of the same contents; `None` when it is not live. It costs what [`Ledger::merkle_tree`] costs.
    ///
    /// # Errors
    /// As [`Ledger::get`].
    pub fn generate_merkle_proof(&self, key: impl AsRef<[u8]>) -> Result<Option<MerkleProof>> {
        Ok(self.merkle_tree()?.get_proof(key.as_ref()))
    }
}
