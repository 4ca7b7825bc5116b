//! Keys: which key the n-th write goes to, and how numbers become keys.

use std::{fmt, str::FromStr};

use super::{
    random::{Permutation, Random},
    zipf::Zipf,
};

/// Zipf's exponent where none is given: what YCSB has made customary.
const THETA_DEFAULT: f64 = 0.99;

/// How keys are chosen from the key space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Ascending, then from the start again.
    Sequential,
    /// Every key equally often. Writes take every key once in a random order, then again; reads draw.
    Uniform,
    /// By Zipf's law with this exponent; the frequent keys are spread over the key space.
    Zipfian(f64),
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let theta = text.strip_prefix("zipfian:");
        match (text, theta) {
            ("sequential", _) => Ok(Self::Sequential),
            ("uniform", _) => Ok(Self::Uniform),
            ("zipfian", _) => Ok(Self::Zipfian(THETA_DEFAULT)),
            (_, Some(theta)) => match theta.parse() {
                Ok(theta) if (0.01..=10.0).contains(&theta) => Ok(Self::Zipfian(theta)),
                _ => Err(format!("the exponent of zipfian is 0.01 to 10, not {theta:?}")),
            },
            _ => Err("expected sequential, uniform, zipfian or zipfian:EXPONENT".to_owned()),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequential => f.write_str("sequential"),
            Self::Uniform => f.write_str("uniform"),
            Self::Zipfian(theta) => write!(f, "zipfian:{theta}"),
        }
    }
}

/// Numbers as keys: decimal, filled with zeros to a fixed length, so that they need no percent-encoding.
#[derive(Clone, Debug)]
pub struct Keys {
    key_bytes: usize,
    space: u64,
    order: Order,
    seed: u64,
    permutation: Permutation,
    zipf: Option<Zipf>,
}

impl Keys {
    /// `space` distinct keys of `key_bytes` bytes; `None` means as many as fit.
    pub fn new(key_bytes: usize, space: Option<u64>, order: Order, seed: u64) -> Result<Self, String> {
        if !(1..=scribe_ledger::types::KEY_BYTES_MAX).contains(&key_bytes) {
            return Err(format!("--key-bytes is 1 to 1024, not {key_bytes}"));
        }
        // Below 2^63, so that the permutation has room.
        let fits = u32::try_from(key_bytes).ok().and_then(|digits| 10u64.checked_pow(digits));
        let fits = fits.unwrap_or(u64::MAX).min(1 << 62);
        let space = space.unwrap_or(fits);
        if !(1..=fits).contains(&space) {
            return Err(format!("--key-space is 1 to {fits} for keys of {key_bytes} bytes, not {space}"));
        }
        let zipf = match order {
            Order::Zipfian(theta) => Some(Zipf::new(space, theta)),
            Order::Sequential | Order::Uniform => None,
        };
        Ok(Self { key_bytes, space, order, seed, permutation: Permutation::new(space, seed), zipf })
    }

    /// The same keys, one after the other.
    pub fn in_sequence(&self) -> Self {
        Self { order: Order::Sequential, zipf: None, ..self.clone() }
    }

    /// How many keys there are.
    pub const fn space(&self) -> u64 {
        self.space
    }

    /// Length of every key.
    pub const fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// How they are chosen.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// The number of the key that the `index`-th write goes to.
    pub fn of_write(&self, index: u64) -> u64 {
        match (self.order, &self.zipf) {
            (Order::Sequential, _) => self.wrap(index),
            (_, None) => self.permutation.apply(self.wrap(index)),
            (_, Some(zipf)) => self.permutation.apply(zipf.draw(&mut Random::new(self.seed, index))),
        }
    }

    /// The number of the key that a read goes to, the `index`-th of all.
    pub fn of_read(&self, index: u64, rng: &mut Random) -> u64 {
        match (self.order, &self.zipf) {
            (Order::Sequential, _) => self.wrap(index),
            (_, None) => rng.below(self.space),
            (_, Some(zipf)) => self.permutation.apply(zipf.draw(rng)),
        }
    }

    const fn wrap(&self, index: u64) -> u64 {
        if index < self.space { index } else { index % self.space }
    }

    /// Appends the key of this number.
    pub fn append(&self, number: u64, out: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + self.key_bytes, 0);
        write_key(number, &mut out[at..]);
    }
}

/// Writes `number` as decimal digits, filled with zeros on the left; digits that do not fit are cut.
fn write_key(mut number: u64, out: &mut [u8]) {
    let mut at = out.len();
    while at > 0 && number > 0 {
        at -= 1;
        out[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out[..at].fill(b'0');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_is_its_number_in_digits(number in 0u64..1 << 62, width in 1usize..40) {
            let mut key = vec![b'x'; width];
            write_key(number, &mut key);
            let padded = format!("{number:0width$}");
            prop_assert_eq!(&key[..], &padded.as_bytes()[padded.len() - width..]);
        }
    }

    #[test]
    fn uniform_writes_go_through_the_whole_space_again_and_again() {
        let keys = Keys::new(4, Some(50), Order::Uniform, 9).unwrap();
        let mut seen: Vec<u64> = (0..100).map(|index| keys.of_write(index)).collect();
        assert_ne!(seen[..50], (0..50).collect::<Vec<_>>());
        assert_eq!(seen[..50], seen[50..]);
        seen.truncate(50);
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..50));
    }

    #[test]
    fn the_frequent_keys_of_reads_and_writes_are_the_same_and_spread() {
        let keys = Keys::new(8, Some(100_000), Order::Zipfian(1.2), 5).unwrap();
        let most_frequent = |numbers: Vec<u64>| {
            let mut counts = std::collections::BTreeMap::new();
            numbers.into_iter().for_each(|number| *counts.entry(number).or_insert(0) += 1);
            let mut counts: Vec<_> = counts.into_iter().map(|(number, count)| (count, number)).collect();
            counts.sort_unstable_by(|a, b| b.cmp(a));
            counts.into_iter().take(3).map(|(_, number)| number).collect::<Vec<_>>()
        };
        let mut rng = Random::new(77, 0);
        let written = most_frequent((0..20_000).map(|index| keys.of_write(index)).collect());
        let read = most_frequent((0..20_000).map(|index| keys.of_read(index, &mut rng)).collect());
        assert_eq!(written, read);
        assert!(written.iter().any(|&number| number > 1_000), "{written:?} are the first keys");
    }

    #[test]
    fn a_key_space_has_to_fit_its_keys() {
        assert!(Keys::new(2, Some(100), Order::Uniform, 0).is_ok());
        assert!(Keys::new(2, Some(101), Order::Uniform, 0).unwrap_err().contains("1 to 100"));
        assert!(Keys::new(0, None, Order::Sequential, 0).is_err());
        assert!(Keys::new(16, Some(0), Order::Sequential, 0).is_err());
        assert_eq!(Keys::new(1024, None, Order::Uniform, 0).unwrap().space(), 1 << 62);
        assert!(Keys::new(20, None, Order::Uniform, 0).unwrap().of_write(u64::MAX) < 1 << 62);
    }

    #[test]
    fn an_order_is_what_it_says() {
        for text in ["sequential", "uniform", "zipfian:0.5"] {
            assert_eq!(text.parse::<Order>().unwrap().to_string(), text);
        }
        assert_eq!("zipfian".parse(), Ok(Order::Zipfian(0.99)));
        for bad in ["random", "zipfian:", "zipfian:0", "zipfian:x", "zipfian:nan", "uniform:1"] {
            assert!(bad.parse::<Order>().is_err(), "{bad}");
        }
    }
}
