//! SHA-256 (FIPS 180-4) of short messages, straight on the block function.
//!
//! A record costs seven blocks: its key's, its value's two, its leaf's two and its node's two. The general
//! digest interface buffers, counts and copies around each message, which costs half as much again as the
//! blocks themselves; here a message's padding is laid out once and the blocks are hashed where they lie.
//! The block function is that of the `sha2` crate, which uses the processor's SHA instructions where it
//! finds them.
//!
//! ```text
//! last block or two   | rest of the message | 0x80 | 0 … 0 | message bits, u64 big-endian |
//! ```

use sha2::block_api::compress256;

const BLOCK_BYTES: usize = 64;

/// The chaining value before the first block: FIPS 180-4, section 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// SHA-256(message).
pub fn sha256(message: &[u8]) -> [u8; 32] {
    rest_of(INITIAL, message, message.len())
}

/// SHA-256(prefix ‖ message).
pub fn sha256_prefixed(prefix: u8, message: &[u8]) -> [u8; 32] {
    let mut first = [prefix; BLOCK_BYTES];
    let total_bytes = message.len() + 1;
    match message.split_at_checked(BLOCK_BYTES - 1) {
        Some((head, rest)) => {
            first[1..].copy_from_slice(head);
            let mut state = INITIAL;
            compress256(&mut state, &[first]);
            rest_of(state, rest, total_bytes)
        }
        None => {
            first[1..total_bytes].copy_from_slice(message);
            rest_of(INITIAL, &first[..total_bytes], total_bytes)
        }
    }
}

/// SHA-256(prefix ‖ left ‖ right): 65 bytes, so that all but one byte of the second block is padding.
pub fn sha256_prefixed_pair(prefix: u8, left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    const BITS: [u8; 8] = (65 * 8u64).to_be_bytes();
    let mut blocks = [[0; BLOCK_BYTES]; 2];
    blocks[0][0] = prefix;
    blocks[0][1..33].copy_from_slice(left);
    blocks[0][33..].copy_from_slice(&right[..31]);
    blocks[1][0] = right[31];
    blocks[1][1] = 0x80;
    blocks[1][BLOCK_BYTES - 8..].copy_from_slice(&BITS);
    let mut state = INITIAL;
    compress256(&mut state, &blocks);
    to_bytes(state)
}

/// Hashes the end of a message of `total_bytes` whose earlier blocks are in `state`.
fn rest_of(mut state: [u32; 8], rest: &[u8], total_bytes: usize) -> [u8; 32] {
    let (blocks, tail) = rest.as_chunks::<BLOCK_BYTES>();
    compress256(&mut state, blocks);
    let mut last = [[0; BLOCK_BYTES]; 2];
    // The mark and the length need nine bytes behind the tail: they may take a block of their own.
    let used = (tail.len() + 9).div_ceil(BLOCK_BYTES);
    let padded = last[..used].as_flattened_mut();
    padded[..tail.len()].copy_from_slice(tail);
    padded[tail.len()] = 0x80;
    let bits = (total_bytes as u64 * 8).to_be_bytes();
    padded[used * BLOCK_BYTES - 8..].copy_from_slice(&bits);
    compress256(&mut state, &last[..used]);
    to_bytes(state)
}

fn to_bytes(state: [u32; 8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (bytes, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    out
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn every_length_around_the_block_boundaries_is_hashed_as_the_digest_does() {
        let bytes: Vec<u8> = (0..400u32).map(|n| (n * 7) as u8).collect();
        for length in 0..bytes.len() {
            let message = &bytes[..length];
            assert_eq!(sha256(message)[..], Sha256::digest(message)[..], "{length} bytes");
            let prefixed = [&[9], message].concat();
            assert_eq!(sha256_prefixed(9, message)[..], Sha256::digest(prefixed)[..], "{length} bytes");
        }
        let (left, right) = ([3; 32], std::array::from_fn(|n| n as u8));
        let pair = [&[1][..], &left, &right].concat();
        assert_eq!(sha256_prefixed_pair(1, &left, &right)[..], Sha256::digest(pair)[..]);
    }

    #[test]
    fn a_million_letters_are_those_of_the_standard() {
        // The long test vector of FIPS 180-2, appendix B.3.
        let expected = [0xcd, 0xc7, 0x6e, 0x5c, 0x99, 0x14, 0xfb, 0x92];
        assert_eq!(sha256(&vec![b'a'; 1_000_000])[..8], expected);
    }
}
