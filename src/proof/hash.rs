//! The hashes of the tree: 32 bytes of SHA-256, in the two domains of RFC 6962, section 2.1.
//!
//! Takes leaf bytes and pairs of hashes, gives hashes; and their spellings as hex and base64, each of which is
//! read back at exactly 32 bytes. It does not own the shape of the tree, nor what a leaf's bytes mean.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use super::{
    encoding::{from_base64, shortened, to_base64},
    error::ProofError,
    sha256::sha256_two_blocks,
};

/// Size of a hash, in bytes.
pub const HASH_BYTES: usize = 32;

/// Leaves and nodes are hashed in different domains, so that no node can be passed off as a leaf.
pub(super) const LEAF_PREFIX: u8 = 0;
const NODE_PREFIX: u8 = 1;

/// A hash of a leaf, a node or a whole tree. Its text form is lower-case hex.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; HASH_BYTES]);

impl Hash {
    /// The root of the tree without leaves: SHA-256 of nothing.
    pub const EMPTY_ROOT: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
        0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ]);

    /// SHA-256 of `message`, in neither domain of the tree.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        Self(Sha256::digest(message).into())
    }

    /// The spelling of the C2SP formats.
    #[must_use]
    pub fn to_base64(&self) -> String {
        to_base64(&self.0)
    }

    /// Reads what [`Hash::to_base64`] writes.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for anything else.
    pub fn from_base64(text: &str) -> Result<Self, ProofError> {
        Self::from_slice(&from_base64(text)?)
    }

    /// The hash whose bytes these are.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] unless there are exactly [`HASH_BYTES`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ProofError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| ProofError::malformed(format!("a hash has {HASH_BYTES} bytes, not {}", bytes.len())))
    }
}

/// The hash of a leaf of any length: SHA-256(0x00 ‖ data).
#[must_use]
pub fn leaf_hash(data: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([LEAF_PREFIX]).chain_update(data).finalize().into())
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut message = [NODE_PREFIX; 1 + 2 * HASH_BYTES];
    message[1..=HASH_BYTES].copy_from_slice(&left.0);
    message[1 + HASH_BYTES..].copy_from_slice(&right.0);
    Hash(sha256_two_blocks(&message))
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = ProofError;

    /// Reads lower-case hex only: a hash has one spelling.
    fn from_str(text: &str) -> Result<Self, ProofError> {
        let malformed = || {
            ProofError::malformed(format!("{:?} is not a hash: 64 lower-case hex digits", shortened(text)))
        };
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(malformed()),
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(malformed()) };
        if pairs.len() != HASH_BYTES {
            return Err(malformed());
        }
        let mut bytes = [0; HASH_BYTES];
        for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_spelling_reads_back_and_no_other_does(
            bytes in any::<[u8; 32]>(), at in 0usize..64, replaced in any::<u8>(),
        ) {
            let hash = Hash(bytes);
            prop_assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
            prop_assert_eq!(Hash::from_base64(&hash.to_base64()).unwrap(), hash);
            let json = serde_json::to_string(&hash).unwrap();
            prop_assert_eq!(serde_json::from_str::<Hash>(&json).unwrap(), hash);
            let mut hex = hash.to_string().into_bytes();
            let changed = hex[at] != replaced;
            hex[at] = replaced;
            if let Ok(Ok(read)) = std::str::from_utf8(&hex).map(str::parse::<Hash>) {
                prop_assert_eq!(read != hash, changed);
            }
        }

        #[test]
        fn domains_are_those_of_rfc_6962(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let prefixed = |prefix: &[u8], data: &[u8]| Hash(Sha256::digest([prefix, data].concat()).into());
            prop_assert_eq!(leaf_hash(&data), prefixed(&[0], &data));
            let (left, right) = (Hash::of(&data), leaf_hash(&data));
            prop_assert_eq!(node_hash(&left, &right), prefixed(&[1], &[left.0, right.0].concat()));
        }
    }

    #[test]
    fn only_32_bytes_are_a_hash() {
        for bytes in [0, 31, 33] {
            assert!(Hash::from_slice(&vec![0; bytes]).is_err());
            assert!(Hash::from_base64(&to_base64(&vec![0; bytes])).is_err());
            assert!("00".repeat(bytes).parse::<Hash>().is_err());
        }
        assert!("AB".repeat(32).parse::<Hash>().is_err(), "upper case is another spelling");
        assert!(format!("{}0", "ab".repeat(32)).parse::<Hash>().is_err());
    }

    #[test]
    fn empty_root_is_the_hash_of_nothing() {
        assert_eq!(Hash::of(b""), Hash::EMPTY_ROOT);
    }
}
