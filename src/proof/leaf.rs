//! A record's leaf in the Merkle tree: its bytes and their hash.
//!
//! Takes a record's parts, gives the 91 bytes that the tree commits to and their RFC 6962 leaf hash; and reads
//! such bytes back for a verifier. It does not own the tree, nor where leaf hashes are kept.
//!
//! ```text
//! offset  0        1     2        3    11            19            27               59
//!         version  op    flags=0  seq  timestamp_ms  0 (reserved)  key_commit[32]   value_commit[32]
//!         u8 = 1   u8    u8       u64  u64           u64           SHA-256(key)     SHA-256(value)
//! ```
//!
//! Integers are big-endian, as everywhere in the proof formats (and unlike the bulk body's frames).
//! Key and value enter as commitments so that a leaf has one size, and so that a proof of a record can
//! be given to someone who may not see its value. The value commitment of a delete is all zero, which is
//! the hash of nothing anyone can find.

use super::{
    error::ProofError,
    hash::{HASH_BYTES, Hash, LEAF_PREFIX},
    sha256::sha256_two_blocks,
};
use crate::types::{Op, Seq, TimestampMs};

/// Size of a leaf, in bytes.
pub const LEAF_BYTES: usize = 91;

/// Version of the leaf format.
const VERSION: u8 = 1;

/// What the value commitment of a delete is.
pub const NO_VALUE: Hash = Hash([0; HASH_BYTES]);

/// What a leaf says about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// What the record did to its key.
    pub op: Op,
    /// The record's position, which is the leaf's index.
    pub seq: Seq,
    /// The leader's clock when the record was proposed, in milliseconds since the Unix epoch.
    pub timestamp_ms: TimestampMs,
    /// SHA-256 of the key.
    pub key_commit: Hash,
    /// SHA-256 of the value; all zero for a delete.
    pub value_commit: Hash,
}

impl Leaf {
    /// The leaf of one record. `value` is ignored for a delete.
    #[must_use]
    pub fn of(op: Op, seq: Seq, timestamp_ms: TimestampMs, key: &[u8], value: &[u8]) -> Self {
        let value_commit = if op == Op::Put { Hash::of(value) } else { NO_VALUE };
        Self { op, seq, timestamp_ms, key_commit: Hash::of(key), value_commit }
    }

    /// Whether this is what a record did to `key`: put this value, or, for none, delete it.
    #[must_use]
    pub fn commits_to(&self, key: &[u8], value: Option<&[u8]>) -> bool {
        let op = if value.is_some() { Op::Put } else { Op::Delete };
        *self == Self::of(op, self.seq, self.timestamp_ms, key, value.unwrap_or_default())
    }

    /// Its bytes, as drawn above.
    #[must_use]
    pub fn encode(&self) -> [u8; LEAF_BYTES] {
        let mut out = [0; LEAF_BYTES];
        out[0] = VERSION;
        out[1] = self.op as u8;
        out[3..11].copy_from_slice(&self.seq.0.to_be_bytes());
        out[11..19].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        out[27..59].copy_from_slice(&self.key_commit.0);
        out[59..91].copy_from_slice(&self.value_commit.0);
        out
    }

    /// Reads what [`Leaf::encode`] writes.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for another length or version, an unknown op, or reserved bytes that are not
    /// zero.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProofError> {
        let malformed = |what: String| ProofError::malformed(format!("not a leaf: {what}"));
        let bytes: &[u8; LEAF_BYTES] =
            bytes.try_into().map_err(|_| malformed(format!("{} bytes, not {LEAF_BYTES}", bytes.len())))?;
        if bytes[0] != VERSION {
            return Err(malformed(format!("version {}, not {VERSION}", bytes[0])));
        }
        let op = Op::from_byte(bytes[1]).ok_or_else(|| malformed(format!("op {}", bytes[1])))?;
        if bytes[2] != 0 || bytes[19..27] != [0; 8] {
            return Err(malformed("its reserved bytes are not zero".into()));
        }
        let number_at = |at: usize| u64::from_be_bytes(std::array::from_fn(|n| bytes[at + n]));
        let hash_at = |at: usize| Hash(std::array::from_fn(|n| bytes[at + n]));
        let leaf = Self {
            op,
            seq: Seq(number_at(3)),
            timestamp_ms: number_at(11),
            key_commit: hash_at(27),
            value_commit: hash_at(59),
        };
        if op == Op::Delete && leaf.value_commit != NO_VALUE {
            return Err(malformed("a delete that commits to a value".into()));
        }
        Ok(leaf)
    }

    /// The RFC 6962 hash of its bytes.
    #[must_use]
    pub fn hash(&self) -> Hash {
        leaf_hash(&self.encode())
    }
}

/// The bytes of one record's leaf. `value` is ignored for a delete.
#[must_use]
pub fn leaf(op: Op, seq: Seq, timestamp_ms: TimestampMs, key: &[u8], value: &[u8]) -> [u8; LEAF_BYTES] {
    Leaf::of(op, seq, timestamp_ms, key, value).encode()
}

/// The RFC 6962 hash of a leaf: SHA-256(0x00 ‖ leaf).
#[must_use]
pub fn leaf_hash(leaf: &[u8; LEAF_BYTES]) -> Hash {
    let mut message = [LEAF_PREFIX; 1 + LEAF_BYTES];
    message[1..].copy_from_slice(leaf);
    Hash(sha256_two_blocks(&message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![Just(Op::Put), Just(Op::Delete)]
    }

    proptest! {
        #[test]
        fn leaves_read_back_and_any_flip_is_another_leaf(
            op in any_op(), seq in any::<u64>(), timestamp_ms in any::<u64>(),
            key in prop::collection::vec(any::<u8>(), 1..40), value in prop::collection::vec(any::<u8>(), 0..200),
            at in 0..LEAF_BYTES, bit in 0u8..8,
        ) {
            let leaf = Leaf::of(op, Seq(seq), timestamp_ms, &key, &value);
            let mut bytes = leaf.encode();
            prop_assert_eq!(Leaf::decode(&bytes).unwrap(), leaf);
            prop_assert_eq!(leaf.hash(), crate::proof::hash::leaf_hash(&bytes));
            bytes[at] ^= 1 << bit;
            if let Ok(flipped) = Leaf::decode(&bytes) {
                prop_assert_ne!(flipped, leaf);
                prop_assert_eq!(flipped.encode(), bytes);
            }
            prop_assert!(Leaf::decode(&bytes[..at]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            std::hint::black_box(Leaf::decode(&bytes).is_ok());
            bytes.resize(LEAF_BYTES, 0);
            bytes[..3].copy_from_slice(&[VERSION, 1, 0]);
            std::hint::black_box(Leaf::decode(&bytes).is_ok());
        }
    }

    #[test]
    fn leaf_is_laid_out_as_drawn() {
        let bytes = leaf(Op::Put, Seq(0x0102_0304), 0x0a0b, b"k", b"");
        assert_eq!(bytes[..3], [1, 1, 0]);
        assert_eq!(bytes[3..11], [0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(bytes[11..19], [0, 0, 0, 0, 0, 0, 0x0a, 0x0b]);
        assert_eq!(bytes[19..27], [0; 8]);
        assert_eq!(bytes[27..59], Sha256::digest(b"k")[..]);
        // The hash of the empty string, known by heart: an empty value still has a commitment.
        assert_eq!(bytes[59..63], [0xe3, 0xb0, 0xc4, 0x42]);
    }

    #[test]
    fn delete_commits_to_no_value() {
        let bytes = leaf(Op::Delete, Seq(7), 1, b"k", b"ignored");
        assert_eq!(bytes[1], 2);
        assert_eq!(bytes[59..], [0; 32]);
        let mut with_value = bytes;
        with_value[60] = 1;
        assert!(Leaf::decode(&with_value).is_err());
    }

    #[test]
    fn a_leaf_commits_to_one_key_and_value() {
        let put = Leaf::of(Op::Put, Seq(3), 9, b"key", b"");
        assert!(put.commits_to(b"key", Some(b"")));
        assert!(!put.commits_to(b"key", None), "an empty value is a value");
        assert!(!put.commits_to(b"other", Some(b"")) && !put.commits_to(b"key", Some(b"x")));
        let delete = Leaf::of(Op::Delete, Seq(3), 9, b"key", b"");
        assert!(delete.commits_to(b"key", None) && !delete.commits_to(b"key", Some(b"")));
    }
}
