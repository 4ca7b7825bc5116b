//! Which keys a segment certainly does not hold. Pure: no I/O.
//!
//! A split block Bloom filter, as Apache Parquet specifies it (`BloomFilter.md`; Putze, Sanders and Singler,
//! "Cache-, Hash- and Space-Efficient Bloom Filters", 2007): a key touches one block of 32 bytes, one cache
//! line, and sets one bit in each of its eight words. The hash is XXH3-64, whose values are frozen. At
//! [`BITS_PER_KEY`] about one lookup in a hundred for a key that is not there says that it may be.
//!
//! ```text
//! block   0      4      8            28     32
//!         | word | word | … 8 words … | word |     u32 little-endian; blocks = ⌈keys · 10 / 256⌉
//! ```
//!
//! It decides nothing by itself: "may hold" sends the reader to the key table.

use xxhash_rust::xxh3::xxh3_64;

/// Bits of filter for every distinct key.
pub const BITS_PER_KEY: u64 = 10;

const BLOCK_BYTES: usize = 32;

/// One odd multiplier a word, as the specification has them.
const SALTS: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// A key's hash: computed once, then asked of many segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(u64);

impl KeyHash {
    /// The hash of this key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(xxh3_64(key))
    }

    /// The number of its block among `blocks`, which is less than 2^32.
    fn block(self, blocks: usize) -> usize {
        (((self.0 >> 32) * blocks as u64) >> 32) as usize
    }

    /// Its bit in each word of the block.
    fn bits(self) -> [u32; 8] {
        SALTS.map(|salt| 1 << ((self.0 as u32).wrapping_mul(salt) >> 27))
    }
}

/// The filter of these distinct keys, as bytes; no bytes for no keys.
#[must_use]
pub fn build(keys: &[KeyHash]) -> Vec<u8> {
    let blocks = (keys.len() as u64 * BITS_PER_KEY).div_ceil(8 * BLOCK_BYTES as u64) as usize;
    let mut filter = vec![0; blocks * BLOCK_BYTES];
    let (words, _) = filter.as_chunks_mut::<4>();
    for key in keys {
        let at = key.block(blocks) * 8;
        for (word, bit) in words[at..at + 8].iter_mut().zip(key.bits()) {
            *word = (u32::from_le_bytes(*word) | bit).to_le_bytes();
        }
    }
    filter
}

/// Whether a filter's bytes have a size that [`build`] gives for this many keys.
#[must_use]
pub fn fits(filter: &[u8], keys: u64) -> bool {
    let bits = filter.len() as u64 * 8;
    let block_bits = 8 * BLOCK_BYTES as u64;
    keys.checked_mul(BITS_PER_KEY).map(|wanted| wanted.div_ceil(block_bits) * block_bits) == Some(bits)
}

/// Whether the key may be one of those the filter was built from. `false` is certain.
#[must_use]
pub fn may_contain(filter: &[u8], key: KeyHash) -> bool {
    let (words, _) = filter.as_chunks::<4>();
    let at = key.block(words.len() / 8) * 8;
    let Some(block) = words.get(at..at + 8) else { return false };
    block.iter().zip(key.bits()).all(|(word, bit)| u32::from_le_bytes(*word) & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(from: u64, count: u64) -> Vec<KeyHash> {
        (from..from + count).map(|n| KeyHash::of(format!("key-{n:012}").as_bytes())).collect()
    }

    #[test]
    fn holds_every_key_and_about_one_in_a_hundred_others() {
        for count in [1, 2, 25, 26, 1_000, 100_000] {
            let present = keys(0, count);
            let filter = build(&present);
            assert!(fits(&filter, count) && !fits(&filter, count + 1_000));
            assert!(present.iter().all(|key| may_contain(&filter, *key)));
        }
        let filter = build(&keys(0, 100_000));
        let wrong = keys(1 << 40, 100_000).iter().filter(|key| may_contain(&filter, **key)).count();
        assert!((500..1_800).contains(&wrong), "{wrong} of 100,000");
    }

    #[test]
    fn an_empty_filter_holds_nothing() {
        assert!(build(&[]).is_empty() && fits(&[], 0));
        assert!(!may_contain(&[], KeyHash::of(b"key")));
    }

    /// Values of the XXH3 reference implementation: a hash that changed would lose keys.
    #[test]
    fn the_hash_is_xxh3() {
        assert_eq!(KeyHash::of(b"").0, 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn filters_of_any_size_are_asked_without_a_panic() {
        for bytes in 0..100 {
            let _ = may_contain(&vec![0xff; bytes], KeyHash::of(b"key"));
        }
    }
}
