//! Chance that can be played again: a small generator, and permutations that follow from a seed.

/// A small, fast generator (wyrand). Its output only has to look random to a compressor.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed and stream.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed ^ mix(stream)))
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        (product >> 64) as u64 ^ product as u64
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 up to but not 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Overwrites all of `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let mut words = bytes.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = words.into_remainder();
        if !rest.is_empty() {
            let word = self.next().to_le_bytes();
            rest.copy_from_slice(&word[..rest.len()]);
        }
    }

    /// Overwrites all of `bytes` with characters that need no escape in JSON, ten from each word.
    pub fn fill_text(&mut self, bytes: &mut [u8]) {
        const ALPHABET: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
        for part in bytes.chunks_mut(10) {
            let mut word = self.next();
            for byte in part {
                *byte = ALPHABET[(word & 63) as usize];
                word >>= 6;
            }
        }
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A permutation of `0..size` that follows from a seed: every number once, in an order that looks random.
///
/// A four-round Feistel network over the next even number of bits, walked until it lands inside.
#[derive(Clone, Debug)]
pub struct Permutation {
    size: u64,
    half_bits: u32,
    keys: [u64; 4],
}

impl Permutation {
    /// The permutation of this seed; `size` is at least 1.
    pub fn new(size: u64, seed: u64) -> Self {
        let bits = (u64::BITS - (size - 1).leading_zeros()).max(2);
        let mut rng = Random::new(seed, u64::MAX);
        Self { size, half_bits: bits.div_ceil(2), keys: std::array::from_fn(|_| rng.next()) }
    }

    /// Where `number`, which is below the size, goes.
    pub fn apply(&self, number: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = number;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            x = left << self.half_bits | right;
            if x < self.size {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_permutation_hits_every_number_once(size in 1u64..3_000, seed in any::<u64>()) {
            let permutation = Permutation::new(size, seed);
            let mut seen: Vec<u64> = (0..size).map(|n| permutation.apply(n)).collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..size));
        }

        #[test]
        fn text_needs_no_escape(seed in any::<u64>(), length in 0usize..50) {
            let mut text = vec![0; length];
            Random::new(seed, 0).fill_text(&mut text);
            prop_assert!(text.iter().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b)));
        }
    }

    #[test]
    fn every_byte_is_overwritten_whatever_the_length() {
        for length in 0..40 {
            let mut seen = vec![false; length];
            for seed in 0..200 {
                let mut bytes = vec![0; length];
                Random::new(seed, 7).fill(&mut bytes);
                seen.iter_mut().zip(bytes).for_each(|(seen, byte)| *seen |= byte != 0);
            }
            assert!(seen.into_iter().all(|seen| seen), "{length} bytes");
        }
    }
}
