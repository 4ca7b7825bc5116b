//! Values: what the n-th write writes.
//!
//! A value follows from the seed and the write's number alone, so that whoever reads it back later can
//! compute it instead of having kept it.

use std::{fmt, str::FromStr};

use scribe_ledger::{config::value::parse_size, types::VALUE_BYTES_MAX};

use super::random::Random;

/// Sets the stream of values apart from that of keys.
const SALT: u64 = 0x7661_6c75_6573_2121;

/// Bytes of a value: a fixed length, or a range out of which every length is as likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub min: usize,
    pub max: usize,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let bytes = parse_size(text).and_then(|bytes| usize::try_from(bytes).ok());
            bytes.ok_or_else(|| "expected BYTES or MIN..MAX, such as 100, 1MiB or 50..4KiB".to_owned())
        };
        let (min, max) = match text.split_once("..") {
            None => (number(text)?, number(text)?),
            Some((min, max)) => (number(min)?, number(max.strip_prefix('=').unwrap_or(max))?),
        };
        if max > VALUE_BYTES_MAX {
            return Err(format!("a value is at most 64 MiB, not {max} bytes"));
        }
        if min > max {
            return Err(format!("the range {text} is empty"));
        }
        Ok(Self { min, max })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{}..{}", self.min, self.max) }
    }
}

/// The values of all writes.
#[derive(Clone, Debug)]
pub struct Values {
    seed: u64,
    pub sizes: Sizes,
    /// Characters instead of any bytes: NDJSON carries text.
    pub text: bool,
}

impl Values {
    pub const fn new(seed: u64, sizes: Sizes, text: bool) -> Self {
        Self { seed: seed ^ SALT, sizes, text }
    }

    /// Bytes of the value of this write.
    pub fn bytes_of(&self, write: u64) -> usize {
        self.begin(write).1
    }

    /// Appends the value of this write.
    pub fn append(&self, write: u64, out: &mut Vec<u8>) {
        let (mut rng, bytes) = self.begin(write);
        let at = out.len();
        out.resize(at + bytes, 0);
        if self.text {
            rng.fill_text(&mut out[at..]);
        } else {
            rng.fill(&mut out[at..]);
        }
    }

    fn begin(&self, write: u64) -> (Random, usize) {
        let mut rng = Random::new(self.seed, write);
        let Sizes { min, max } = self.sizes;
        let bytes = if min == max { min } else { min + rng.below((max - min) as u64 + 1) as usize };
        (rng, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sizes_are_a_number_or_a_range() {
        for (text, sizes) in [
            ("100", (100, 100)),
            ("50..4096", (50, 4096)),
            ("0..=7", (0, 7)),
            ("64MiB", (64 << 20, 64 << 20)),
            ("1KB..4 KiB", (1_000, 4_096)),
        ] {
            let parsed: Sizes = text.parse().unwrap();
            assert_eq!((parsed.min, parsed.max), sizes);
        }
        assert_eq!(Sizes { min: 1, max: 2 }.to_string(), "1..2");
        for bad in
            ["", "x", "5..", "9..5", "-1", "67108865", "1..67108865", "65MiB", "1 parsec", "99999999999TiB"]
        {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_length_of_a_range_comes_and_values_can_be_made_again() {
        for text in [false, true] {
            let values = Values::new(3, Sizes { min: 2, max: 9 }, text);
            let mut lengths = BTreeSet::new();
            for write in 0..300 {
                let mut value = b"before".to_vec();
                values.append(write, &mut value);
                assert_eq!(value.len(), 6 + values.bytes_of(write));
                lengths.insert(values.bytes_of(write));
                let mut again = b"before".to_vec();
                values.append(write, &mut again);
                assert_eq!(value, again);
            }
            assert!(lengths.into_iter().eq(2..=9));
        }
    }

    #[test]
    fn no_two_writes_have_the_same_value() {
        let values = Values::new(1, Sizes { min: 8, max: 8 }, false);
        let mut seen = BTreeSet::new();
        for write in 0..20_000 {
            let mut value = Vec::new();
            values.append(write, &mut value);
            assert!(seen.insert(value), "write {write}");
        }
    }
}
