//! What is asked of the server: keys, values, and the request bytes that carry them.
//!
//! Pure. A request is built once and patched in place for every use, because building it anew would cost
//! the client more than sending it. The n-th key and every value follow from the seed alone.

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
        let word = self.next().to_le_bytes();
        rest.copy_from_slice(&word[..rest.len()]);
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

/// The order in which writes go through the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Ascending.
    Sequential,
    /// Every key once in a seeded random order, then again.
    Uniform,
}

/// Numbers as keys: decimal, filled with zeros to a fixed length, so that they need no percent-encoding.
#[derive(Clone, Debug)]
pub struct Keys {
    key_bytes: usize,
    space: u64,
    permutation: Option<Permutation>,
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
        let permutation = (order == Order::Uniform).then(|| Permutation::new(space, seed));
        Ok(Self { key_bytes, space, permutation })
    }

    /// How many keys there are.
    pub const fn space(&self) -> u64 {
        self.space
    }

    /// Length of every key.
    pub const fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// The number of the key that the `index`-th write goes to.
    pub fn of_write(&self, index: u64) -> u64 {
        let number = if index < self.space { index } else { index % self.space };
        self.permutation.as_ref().map_or(number, |permutation| permutation.apply(number))
    }
}

/// Writes `number` as decimal digits, filled with zeros on the left; digits that do not fit are cut.
pub fn write_key(mut number: u64, out: &mut [u8]) {
    let mut at = out.len();
    while at > 0 && number > 0 {
        at -= 1;
        out[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out[..at].fill(b'0');
}

/// `PUT /{key}` with a value of fixed length.
#[derive(Debug)]
pub struct PutRequest {
    bytes: Vec<u8>,
    key_bytes: usize,
    value_at: usize,
}

const PUT_LINE: &[u8] = b"PUT /";
const GET_LINE: &[u8] = b"GET /";

impl PutRequest {
    /// The request, still without a key and a value.
    pub fn new(authority: &str, key_bytes: usize, value_bytes: usize) -> Self {
        let mut bytes = PUT_LINE.to_vec();
        bytes.resize(PUT_LINE.len() + key_bytes, b'0');
        bytes.extend_from_slice(
            format!(" HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {value_bytes}\r\n\r\n").as_bytes(),
        );
        let value_at = bytes.len();
        bytes.resize(value_at + value_bytes, 0);
        Self { bytes, key_bytes, value_at }
    }

    /// The request for this key and a fresh value.
    pub fn patch(&mut self, key: u64, rng: &mut Random) -> &[u8] {
        write_key(key, &mut self.bytes[PUT_LINE.len()..][..self.key_bytes]);
        rng.fill(&mut self.bytes[self.value_at..]);
        &self.bytes
    }
}

/// `GET /{key}`.
#[derive(Debug)]
pub struct GetRequest {
    bytes: Vec<u8>,
    key_bytes: usize,
}

impl GetRequest {
    /// The request, still without a key. `query` is empty or begins with `?`.
    pub fn new(authority: &str, key_bytes: usize, query: &str) -> Self {
        let mut bytes = GET_LINE.to_vec();
        bytes.resize(GET_LINE.len() + key_bytes, b'0');
        bytes.extend_from_slice(format!("{query} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes());
        Self { bytes, key_bytes }
    }

    /// The request for this key.
    pub fn patch(&mut self, key: u64) -> &[u8] {
        write_key(key, &mut self.bytes[GET_LINE.len()..][..self.key_bytes]);
        &self.bytes
    }
}

/// `POST /api/v1/batch` with a fixed number of equal binary frames.
///
/// ```text
/// head | frame …      frame = op u8 = 1 | 0 u8 | key_len u16 le | value_len u32 le | key | value
/// ```
#[derive(Debug)]
pub struct BulkRequest {
    bytes: Vec<u8>,
    frames_at: usize,
    records: usize,
    key_bytes: usize,
    frame_bytes: usize,
}

const FRAME_HEAD_BYTES: usize = 8;

impl BulkRequest {
    /// The request, still without keys and values.
    pub fn new(authority: &str, records: usize, key_bytes: usize, value_bytes: usize) -> Self {
        let frame_bytes = FRAME_HEAD_BYTES + key_bytes + value_bytes;
        let mut bytes = format!(
            "POST /api/v1/batch HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/vnd.scribe.batch\r\n\
             Content-Length: {}\r\n\r\n",
            records * frame_bytes
        )
        .into_bytes();
        let frames_at = bytes.len();
        bytes.resize(frames_at + records * frame_bytes, 0);
        for frame in bytes[frames_at..].chunks_exact_mut(frame_bytes) {
            frame[0] = scribe_ledger::types::Op::Put as u8;
            frame[2..4].copy_from_slice(&(key_bytes as u16).to_le_bytes());
            frame[4..8].copy_from_slice(&(value_bytes as u32).to_le_bytes());
        }
        Self { bytes, frames_at, records, key_bytes, frame_bytes }
    }

    /// How many records it carries.
    pub const fn records(&self) -> usize {
        self.records
    }

    /// The request for the writes from `first_index` on, with fresh values.
    pub fn patch(&mut self, keys: &Keys, first_index: u64, rng: &mut Random) -> &[u8] {
        let frames = self.bytes[self.frames_at..].chunks_exact_mut(self.frame_bytes);
        for (frame, index) in frames.zip(first_index..) {
            let (key, value) = frame[FRAME_HEAD_BYTES..].split_at_mut(self.key_bytes);
            write_key(keys.of_write(index), key);
            rng.fill(value);
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scribe_ledger::client::Frames;

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
        fn a_key_is_its_number_in_digits(number in 0u64..1 << 62, width in 1usize..40) {
            let mut key = vec![b'x'; width];
            write_key(number, &mut key);
            let padded = format!("{number:0width$}");
            prop_assert_eq!(&key[..], &padded.as_bytes()[padded.len() - width..]);
        }

        #[test]
        fn bulk_frames_are_what_the_client_library_builds(records in 1usize..20, key_bytes in 5usize..40, value_bytes in 0usize..120, first in 0u64..1000) {
            let keys = Keys::new(key_bytes, None, Order::Sequential, 1).unwrap();
            let mut request = BulkRequest::new("h:1", records, key_bytes, value_bytes);
            request.patch(&keys, 7, &mut Random::new(2, 0));
            let bytes = request.patch(&keys, first, &mut Random::new(1, 0)).to_vec();
            let mut expected = Frames::new();
            let mut rng = Random::new(1, 0);
            for index in first..first + records as u64 {
                let mut value = vec![0; value_bytes];
                rng.fill(&mut value);
                expected.put(format!("{index:0key_bytes$}").as_bytes(), &value).unwrap();
            }
            let expected = expected.into_bytes();
            prop_assert!(bytes.ends_with(&expected));
            let head = String::from_utf8(bytes[..bytes.len() - expected.len()].to_vec()).unwrap();
            let length = format!("Content-Length: {}\r\n\r\n", expected.len());
            prop_assert!(head.ends_with(&length));
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
    fn a_key_space_has_to_fit_its_keys() {
        assert!(Keys::new(2, Some(100), Order::Uniform, 0).is_ok());
        assert!(Keys::new(2, Some(101), Order::Uniform, 0).unwrap_err().contains("1 to 100"));
        assert!(Keys::new(0, None, Order::Sequential, 0).is_err());
        assert!(Keys::new(16, Some(0), Order::Sequential, 0).is_err());
        assert_eq!(Keys::new(1024, None, Order::Uniform, 0).unwrap().space(), 1 << 62);
        assert!(Keys::new(20, None, Order::Uniform, 0).unwrap().of_write(u64::MAX) < 1 << 62);
    }

    #[test]
    fn single_requests_are_patched_in_place() {
        let mut put = PutRequest::new("h:1", 4, 3);
        let first = put.patch(12, &mut Random::new(0, 0)).to_vec();
        assert!(first.starts_with(b"PUT /0012 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 3\r\n\r\n"));
        assert_ne!(first, put.patch(12, &mut Random::new(1, 0)));
        let mut get = GetRequest::new("h:1", 4, "?consistency=stale");
        assert_eq!(get.patch(99_999), b"GET /9999?consistency=stale HTTP/1.1\r\nHost: h:1\r\n\r\n");
    }
}
