//! The two ends of a segment file. Pure: no I/O.
//!
//! All integers are little-endian.
//!
//! ```text
//! header    0        8    10    12              16   24          32              40        64
//!           | magic  | v  | 0 0 | feature level | id | first seq | segment bytes | 0 … 0   |
//! trailer   0        8    10    16                24               28             32          64
//!           | magic  | v  | 0 0 | contents offset | contents bytes | places bytes | digest 32 |
//!           64          96         112
//!           | places 32 | check 16 |
//! ```
//!
//! The header has no sum of its own because the digest covers it: digest = BLAKE3(header ‖ contents), where
//! `contents` has every block's hash. It is therefore the digest of all that the log decided
//! and of nothing else: how blocks are stored (`places`, whose BLAKE3 is beside it) may differ between a local
//! file and an archived object. `check` is BLAKE3 of the trailer before it, cut to 128 bits; a reader believes
//! nothing else before it.

use crate::types::{SegmentId, Seq};

/// Size of the header, in bytes.
pub const HEADER_BYTES: usize = 64;

/// Size of the trailer, in bytes.
pub const TRAILER_BYTES: usize = 112;

/// Every block begins at a multiple of this, with zeros before it.
pub const ALIGN_BYTES: u64 = 16;

/// The version this code writes, and the only one it reads.
pub const VERSION: u16 = 1;

const HEADER_MAGIC: [u8; 8] = *b"SCRIBSEG";
const TRAILER_MAGIC: [u8; 8] = *b"SCRIBEND";

/// Which segment it is, and the cluster settings that shaped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// Its number.
    pub id: SegmentId,
    /// Its first record's position, or the next one to be given when it holds none.
    pub first_seq: Seq,
    /// The feature level in force when it was opened.
    pub feature_level: u32,
    /// The record bytes after which it closes.
    pub segment_bytes: u64,
}

impl SegmentHead {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&HEADER_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.feature_level.to_le_bytes());
        out[16..24].copy_from_slice(&self.id.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_seq.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.segment_bytes.to_le_bytes());
        out
    }

    /// Reads what claims to be a header. To be believed once the digest covers it.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, &'static str> {
        if bytes[0..8] != HEADER_MAGIC {
            return Err("this is not the header of a segment");
        }
        if part(bytes, 8).map(u16::from_le_bytes) != Some(VERSION) {
            return Err(OTHER_VERSION);
        }
        if bytes[10..12] != [0; 2] || bytes[40..] != [0; 24] {
            return Err("the header's reserved bytes are not zero");
        }
        let word = |at| part(bytes, at).map(u64::from_le_bytes).unwrap_or_default();
        Ok(Self {
            id: SegmentId(word(16)),
            first_seq: Seq(word(24)),
            feature_level: part(bytes, 12).map(u32::from_le_bytes).unwrap_or_default(),
            segment_bytes: word(32),
        })
    }
}

const OTHER_VERSION: &str = "the file has a version that this build does not read";

/// Where the footer is and what it must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the contents begin; places follow, then the trailer.
    pub contents_offset: u64,
    /// Size of the contents.
    pub contents_bytes: u32,
    /// Size of the places.
    pub places_bytes: u32,
    /// BLAKE3(header ‖ contents).
    pub digest: [u8; 32],
    /// BLAKE3(places).
    pub places_hash: [u8; 32],
}

impl Trailer {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        out[0..8].copy_from_slice(&TRAILER_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.contents_offset.to_le_bytes());
        out[24..28].copy_from_slice(&self.contents_bytes.to_le_bytes());
        out[28..32].copy_from_slice(&self.places_bytes.to_le_bytes());
        out[32..64].copy_from_slice(&self.digest);
        out[64..96].copy_from_slice(&self.places_hash);
        let check = check(&out);
        out[96..].copy_from_slice(&check);
        out
    }

    /// Reads a trailer and checks it against its own sum and the size of its file.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8; TRAILER_BYTES], file_bytes: u64) -> Result<Self, &'static str> {
        if bytes[0..8] != TRAILER_MAGIC {
            return Err("the file does not end as a segment does: it was cut short or overwritten");
        }
        if bytes[96..] != check(bytes) {
            return Err("the trailer does not match its checksum");
        }
        if part(bytes, 8).map(u16::from_le_bytes) != Some(VERSION) {
            return Err(OTHER_VERSION);
        }
        if bytes[10..16] != [0; 6] {
            return Err("the trailer's reserved bytes are not zero");
        }
        let trailer = Self {
            contents_offset: part(bytes, 16).map(u64::from_le_bytes).unwrap_or_default(),
            contents_bytes: part(bytes, 24).map(u32::from_le_bytes).unwrap_or_default(),
            places_bytes: part(bytes, 28).map(u32::from_le_bytes).unwrap_or_default(),
            digest: part(bytes, 32).unwrap_or_default(),
            places_hash: part(bytes, 64).unwrap_or_default(),
        };
        let footer = u64::from(trailer.contents_bytes) + u64::from(trailer.places_bytes);
        let end = trailer.contents_offset.checked_add(footer + TRAILER_BYTES as u64);
        if trailer.contents_offset < HEADER_BYTES as u64 || end != Some(file_bytes) {
            return Err("the trailer describes a file of another size");
        }
        Ok(trailer)
    }
}

fn check(trailer: &[u8; TRAILER_BYTES]) -> [u8; 16] {
    part(blake3::hash(&trailer[..96]).as_bytes(), 0).unwrap_or_default()
}

/// The digest of a segment: BLAKE3(header ‖ contents).
#[must_use]
pub fn digest(header: &[u8; HEADER_BYTES], contents: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(header).update(contents).finalize().as_bytes()
}

/// The next offset at which a block may begin.
#[must_use]
pub const fn align(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN_BYTES)
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_read_back(id: u64, first_seq: u64, feature_level: u32, segment_bytes: u64) {
            let head = SegmentHead { id: SegmentId(id), first_seq: Seq(first_seq), feature_level, segment_bytes };
            prop_assert_eq!(SegmentHead::decode(&head.encode()), Ok(head));
        }

        #[test]
        fn trailers_read_back_and_any_flip_shows(
            contents_offset in HEADER_BYTES as u64..1 << 50, contents_bytes: u32, places_bytes: u32,
            digest: [u8; 32], places_hash: [u8; 32], at in 0..TRAILER_BYTES, bit in 0u8..8,
        ) {
            let trailer = Trailer { contents_offset, contents_bytes, places_bytes, digest, places_hash };
            let size = contents_offset + u64::from(contents_bytes) + u64::from(places_bytes) + TRAILER_BYTES as u64;
            let mut bytes = trailer.encode();
            prop_assert_eq!(Trailer::decode(&bytes, size), Ok(trailer));
            prop_assert!(Trailer::decode(&bytes, size + 1).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(Trailer::decode(&bytes, size).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(head: [u8; 32], tail: [u8; 32], size: u64) {
            let mut header = [0; HEADER_BYTES];
            header[..8].copy_from_slice(&HEADER_MAGIC);
            header[8..40].copy_from_slice(&head);
            let _ = SegmentHead::decode(&header);
            let mut trailer = [0; TRAILER_BYTES];
            trailer[..8].copy_from_slice(&TRAILER_MAGIC);
            trailer[8..40].copy_from_slice(&tail);
            let check = check(&trailer);
            trailer[96..].copy_from_slice(&check);
            let _ = Trailer::decode(&trailer, size);
        }
    }

    #[test]
    fn blocks_begin_at_multiples_of_sixteen() {
        assert_eq!([0, 1, 16, 17].map(align), [0, 16, 16, 32]);
    }
}
