//! The bytes of the index's rows.
//!
//! ```text
//!  a key's row        key as it is, 1..=1024 bytes
//!                     │ seq × 2 + tombstone, little-endian, without its zero bytes at the end (1..=8) │
//!
//!  the position row   1,025 bytes of 0xFF
//!                     │ magic "SLIX" │ version u16 │ zero u16 │ end_seq u64 │ segment u64 │ CRC-32C u32 │
//!                     0              4             6          8             16            24           28
//! ```
//!
//! Two million rows of random keys cost their bytes on disk and in caches, so a row says nothing twice: 20
//! million records need four bytes each, the length is kept by the table. The position's key is longer than
//! any key of the ledger, so the two can never be the same, and sorts behind all of them, so it is the last
//! row of the run that it describes. Whether stored bytes are still those that were written is for the
//! tables' own block checksums to say; the CRC stands where one wrong number would make the index skip
//! segments.
//!
//! Pure: takes and gives bytes, does no I/O.

use bytes::Bytes;

use crate::types::{KEY_BYTES_MAX, SegmentId, Seq};

/// The key of the position row.
pub(super) const POSITION_KEY: [u8; KEY_BYTES_MAX + 1] = [0xFF; KEY_BYTES_MAX + 1];

/// Bytes of the position row's value.
pub(super) const POSITION_BYTES: usize = 28;

/// Longest value of a key's row, in bytes.
const NEWEST_BYTES_MAX: usize = 8;

const MAGIC: [u8; 4] = *b"SLIX";
const VERSION: u16 = 1;

/// The largest seq that a row can say.
pub const SEQ_MAX: Seq = Seq((1 << 63) - 1);

/// The newest version of a key, by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Where the record is; at most [`SEQ_MAX`].
    pub seq: Seq,
    /// Whether it deleted the key.
    pub is_tombstone: bool,
}

/// A key and its newest version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// 1 to 1,024 bytes.
    pub key: Bytes,
    /// Its newest version.
    pub newest: Newest,
}

/// How far the index has come. Later positions are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// One past the last record that is covered.
    pub end_seq: Seq,
    /// The segment which that record is in, or a later one without records.
    pub segment: SegmentId,
}

/// The value of a key's row.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewestBytes {
    bytes: [u8; NEWEST_BYTES_MAX],
    len: usize,
}

impl AsRef<[u8]> for NewestBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Newest {
    pub(super) fn encode(self) -> NewestBytes {
        let word = self.seq.0 << 1 | u64::from(self.is_tombstone);
        let len = (u64::BITS - word.leading_zeros()).div_ceil(8).max(1);
        NewestBytes { bytes: word.to_le_bytes(), len: len as usize }
    }

    /// Reads a row's value; `None` when no row was ever written so.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (last, front) = bytes.split_last()?;
        if bytes.len() > NEWEST_BYTES_MAX || (*last == 0 && !front.is_empty()) {
            return None;
        }
        let mut word = [0; NEWEST_BYTES_MAX];
        word[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        Some(Self { seq: Seq(word >> 1), is_tombstone: word & 1 == 1 })
    }
}

impl Position {
    pub(super) fn encode(self) -> [u8; POSITION_BYTES] {
        let mut out = [0; POSITION_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&self.end_seq.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.segment.0.to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&out[..24]);
        out[24..28].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the position row's value; the error says what about it is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let row: &[u8; POSITION_BYTES] = bytes
            .try_into()
            .map_err(|_| format!("the position row has {} bytes, not {POSITION_BYTES}", bytes.len()))?;
        let version = u16::from_le_bytes(part(row, 4));
        if row[0..4] != MAGIC || version != VERSION || row[6..8] != [0; 2] {
            return Err(format!("the position row is of version {version}, this program reads {VERSION}"));
        }
        if crc_fast::crc32_iscsi(&row[..24]).to_le_bytes() != row[24..28] {
            return Err("the position row does not fit its checksum".into());
        }
        Ok(Self {
            end_seq: Seq(u64::from_le_bytes(part(row, 8))),
            segment: SegmentId(u64::from_le_bytes(part(row, 16))),
        })
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn newest_reads_back(seq in 0..=SEQ_MAX.0, shift in 0u32..63, is_tombstone: bool) {
            let newest = Newest { seq: Seq(seq >> shift), is_tombstone };
            let bytes = newest.encode();
            prop_assert!((1..=8).contains(&bytes.as_ref().len()));
            prop_assert_eq!(Newest::decode(bytes.as_ref()), Some(newest));
        }

        #[test]
        fn what_decodes_is_what_would_be_written(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Some(newest) = Newest::decode(&bytes) {
                let again = newest.encode();
                prop_assert_eq!(again.as_ref(), &bytes[..]);
            }
        }

        #[test]
        fn position_reads_back_and_any_flip_shows(end: u64, segment: u64, at in 0..POSITION_BYTES * 8) {
            let position = Position { end_seq: Seq(end), segment: SegmentId(segment) };
            let mut bytes = position.encode();
            prop_assert_eq!(Position::decode(&bytes), Ok(position));
            for cut in 0..POSITION_BYTES {
                prop_assert!(Position::decode(&bytes[..cut]).is_err());
            }
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(Position::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_position_sorts_behind_every_key() {
        assert!(POSITION_KEY[..] > [0xFF; KEY_BYTES_MAX][..]);
    }

    #[test]
    fn bytes_are_those_of_the_golden_file() {
        let mut bytes = Vec::new();
        for (seq, is_tombstone) in [(0, false), (0, true), (127, true), (128, false), (20_000_000, false)] {
            bytes.extend_from_slice(Newest { seq: Seq(seq), is_tombstone }.encode().as_ref());
        }
        bytes.extend_from_slice(Newest { seq: SEQ_MAX, is_tombstone: true }.encode().as_ref());
        let position = Position { end_seq: Seq(0x1122_3344_5566), segment: SegmentId(0x0708) };
        bytes.extend_from_slice(&position.encode());
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/index-rows-v1.bin");
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            std::fs::write(golden, &bytes).unwrap();
        }
        assert!(std::fs::read(golden).unwrap() == bytes, "the format of indexes already on disk has changed");
    }
}
