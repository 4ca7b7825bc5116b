//! What binds a restored ledger to the one before it: the first record behind the restored ones.
//!
//! ```text
//! key      \0scribe\0epoch/0000000002      reserved: no client writes such a key
//! value    {"ledger":"32 hex digits","epoch":2,"origin":"scribe/…/1","size":1000,"root":"64 hex digits"}
//! ```
//!
//! It says which tree the records before it are: size and root of that tree, and the name under which it was signed. A
//! verifier who trusts a checkpoint of the old log finds the same root at that size of the new one. Pure: no I/O.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    proof::Hash,
    types::RESERVED_KEY_PREFIX,
};

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The ledger, by the id of the cluster that founded it: the same through all restores.
    pub ledger: String,
    /// Which life of it begins here; 2 with the first restore.
    pub epoch: u32,
    /// The name of the log that is gone on from.
    pub origin: String,
    /// How many records it had: the position of this one.
    pub size: u64,
    /// Root of the tree of all of them.
    pub root: Hash,
}

impl Link {
    /// What the keys of all links begin with.
    #[must_use]
    pub fn key_prefix() -> Vec<u8> {
        [RESERVED_KEY_PREFIX, b"epoch/"].concat()
    }

    /// The key of the record that begins an epoch.
    #[must_use]
    pub fn key(epoch: u32) -> Vec<u8> {
        [&Self::key_prefix(), format!("{epoch:010}").as_bytes()].concat()
    }

    /// The record's value.
    ///
    /// # Errors
    /// [`Code::Internal`] when memory is short.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::new(Code::Internal, format!("building a link: {error}")))
    }

    /// Reads what [`Link::encode`] wrote.
    ///
    /// # Errors
    /// [`Code::Corrupt`] for anything else.
    pub fn decode(value: &[u8]) -> Result<Self> {
        serde_json::from_slice(value)
            .map_err(|error| Error::new(Code::Corrupt, format!("not the link of an epoch: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It lies in ledgers for ever.
    #[test]
    fn a_link_is_the_golden_one() {
        let link = Link {
            ledger: "0f".repeat(16),
            epoch: 2,
            origin: "scribe/0f/1".into(),
            size: 1_000,
            root: Hash([0xab; 32]),
        };
        let golden = format!(
            "{{\"ledger\":\"{}\",\"epoch\":2,\"origin\":\"scribe/0f/1\",\"size\":1000,\"root\":\"{}\"}}",
            "0f".repeat(16),
            "ab".repeat(32)
        );
        assert_eq!(String::from_utf8(link.encode().unwrap()).unwrap(), golden);
        assert_eq!(Link::decode(golden.as_bytes()).unwrap(), link);
        assert_eq!(Link::key(2), b"\0scribe\0epoch/0000000002");
        assert_eq!(Link::decode(&golden.as_bytes()[1..]).unwrap_err().code(), Code::Corrupt);
    }
}
