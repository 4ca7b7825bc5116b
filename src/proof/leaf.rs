//! A record's leaf in the Merkle tree: its bytes and their hash.
//!
//! Takes a record's parts, gives the 91 bytes that the tree commits to and their RFC 6962 leaf hash.
//! It does not own the tree, nor where leaf hashes are kept.
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

use sha2::{Digest, Sha256};

use crate::types::{Op, Seq, TimestampMs};

/// Size of a leaf, in bytes.
pub const LEAF_BYTES: usize = 91;

/// Version of the leaf format.
const VERSION: u8 = 1;

/// RFC 6962, section 2.1: leaves and nodes are hashed in different domains.
const LEAF_PREFIX: [u8; 1] = [0];
const NODE_PREFIX: [u8; 1] = [1];

/// The leaf of one record. `value` is ignored for a delete.
#[must_use]
pub fn leaf(op: Op, seq: Seq, timestamp_ms: TimestampMs, key: &[u8], value: &[u8]) -> [u8; LEAF_BYTES] {
    let value_commitment = if op == Op::Put { Sha256::digest(value).into() } else { [0; 32] };
    leaf_of_commitments(op, seq, timestamp_ms, &Sha256::digest(key).into(), &value_commitment)
}

/// The leaf of a record of which only the commitments are at hand. That of a delete's value is all zero.
#[must_use]
pub fn leaf_of_commitments(
    op: Op,
    seq: Seq,
    timestamp_ms: TimestampMs,
    key_commitment: &[u8; 32],
    value_commitment: &[u8; 32],
) -> [u8; LEAF_BYTES] {
    let mut out = [0; LEAF_BYTES];
    out[0] = VERSION;
    out[1] = op as u8;
    out[3..11].copy_from_slice(&seq.0.to_be_bytes());
    out[11..19].copy_from_slice(&timestamp_ms.to_be_bytes());
    out[27..59].copy_from_slice(key_commitment);
    out[59..91].copy_from_slice(value_commitment);
    out
}

/// The RFC 6962 hash of a leaf: SHA-256(0x00 ‖ leaf).
#[must_use]
pub fn leaf_hash(leaf: &[u8; LEAF_BYTES]) -> [u8; 32] {
    Sha256::new().chain_update(LEAF_PREFIX).chain_update(leaf).finalize().into()
}

/// The RFC 6962 hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(NODE_PREFIX).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn leaf_hash_is_in_the_leaf_domain() {
        let bytes = leaf(Op::Put, Seq(1), 2, b"key", b"value");
        let mut prefixed = vec![0];
        prefixed.extend_from_slice(&bytes);
        assert_eq!(leaf_hash(&bytes)[..], Sha256::digest(&prefixed)[..]);
        assert_ne!(leaf_hash(&bytes)[..], Sha256::digest(bytes)[..]);
    }

    #[test]
    fn node_hash_is_in_the_node_domain() {
        let (left, right) = ([2; 32], [3; 32]);
        let expected = Sha256::digest([&[1][..], &left, &right].concat());
        assert_eq!(node_hash(&left, &right)[..], expected[..]);
        assert_ne!(node_hash(&left, &right), node_hash(&right, &left));
    }
}
