//! The bytes of the log at rest. Pure: no I/O, no state.
//!
//! A file is a run of groups, each padded to 4 KiB. All numbers are little-endian.
//!
//! ```text
//! group    0        8    10   12       16          24        32            40        44          64
//!          | magic  | v  | fl | crc32c | generation | sequence | body bytes | records | 0 … 0   | body …
//! record   0    1    2      4        8               16     24      32
//!          | k  | id | 0 0  | crc32c | payload bytes | term | index | payload …
//! ```
//!
//! The group's sum covers header (its own field as zero), body and padding, so that a flip of any bit of
//! a group shows. It says which file it belongs to (`generation`, which the file's name repeats and no
//! client can guess) and where it stands (`sequence`, which counts groups across files): old bytes of a
//! recycled file, and bytes that a client wrote to look like a group, are never taken for one.
//! Each record has a sum of its own so that one entry can be read later without its group.

use crc_fast::{CrcAlgorithm, Digest};

use super::LogId;
use crate::{env::BLOCK_BYTES, types::LogIndex};

/// Size of a group's header.
pub const GROUP_HEADER_BYTES: usize = 64;

/// Size of a record's header.
pub const RECORD_HEADER_BYTES: usize = 32;

/// The version this code writes, and the only one it reads.
pub const VERSION: u16 = 1;

/// The group restates vote, purge point, committed id and last id: a reader may begin here.
pub const FLAG_OPENING: u16 = 1;

/// The group only certifies the one before it.
pub const FLAG_CLOSING: u16 = 2;

/// The group is the last one of an older file, carried over with its sequence.
pub const FLAG_COPY: u16 = 4;

const MAGIC: [u8; 8] = *b"SCRIBWAL";

/// The head of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// Version of the format.
    pub version: u16,
    /// `FLAG_…` bits.
    pub flags: u16,
    /// CRC-32C of the padded group, with this field as zero.
    pub crc: u32,
    /// The incarnation of the file it was written to.
    pub generation: u64,
    /// Its number, counted from 1 across all files.
    pub sequence: u64,
    /// Bytes of its records.
    pub body_bytes: u64,
    /// How many records it holds.
    pub records: u32,
}

impl GroupHeader {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; GROUP_HEADER_BYTES] {
        let mut out = [0; GROUP_HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&self.version.to_le_bytes());
        out[10..12].copy_from_slice(&self.flags.to_le_bytes());
        out[12..16].copy_from_slice(&self.crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[40..44].copy_from_slice(&self.records.to_le_bytes());
        out
    }

    /// Reads what claims to be a header; `None` when the bytes cannot be one. Nothing in it is to be
    /// believed before the group's sum is checked.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; GROUP_HEADER_BYTES] = bytes.first_chunk()?;
        if head[0..8] != MAGIC || head[44..] != [0; 20] {
            return None;
        }
        Some(Self {
            version: u16::from_le_bytes(part(head, 8)),
            flags: u16::from_le_bytes(part(head, 10)),
            crc: u32::from_le_bytes(part(head, 12)),
            generation: u64::from_le_bytes(part(head, 16)),
            sequence: u64::from_le_bytes(part(head, 24)),
            body_bytes: u64::from_le_bytes(part(head, 32)),
            records: u32::from_le_bytes(part(head, 40)),
        })
    }

    /// Size of the whole group with its padding; `None` when no file could hold it.
    #[must_use]
    pub fn group_bytes(&self) -> Option<u64> {
        group_bytes(self.body_bytes)
    }
}

/// Size of a group with a body of this size, padded; `None` when no file could hold it.
#[must_use]
pub fn group_bytes(body_bytes: u64) -> Option<u64> {
    body_bytes.checked_add(GROUP_HEADER_BYTES as u64)?.checked_next_multiple_of(BLOCK_BYTES as u64)
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// A CRC-32C (Castagnoli) that takes its bytes in pieces.
#[derive(Debug)]
pub struct Sum(Digest);

impl Sum {
    /// The sum of a group whose header is this one; body and padding are still to be added.
    #[must_use]
    pub fn of_header(header: &GroupHeader) -> Self {
        let mut sum = Self(Digest::new(CrcAlgorithm::Crc32Iscsi));
        sum.add(&GroupHeader { crc: 0, ..*header }.encode());
        sum
    }

    /// Adds the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The sum of all bytes added.
    #[must_use]
    pub fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// Writes the sum into a whole group, padded, whose header has zero in its place.
pub fn seal_group(group: &mut [u8]) {
    let crc = crc_fast::crc32_iscsi(group);
    if let Some(field) = group.get_mut(12..16) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The next entry of the log, with its payload.
    Entry = 1,
    /// The payload is the vote from here on.
    Vote = 2,
    /// Entries behind this id are gone; without an id all are.
    Truncate = 3,
    /// Entries up to this id are no longer needed.
    Purge = 4,
    /// The log is known to be committed up to this id.
    Committed = 5,
    /// In an opening group: the last id of the log before this group; without an id it is empty.
    Last = 6,
}

impl Kind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Entry),
            2 => Some(Self::Vote),
            3 => Some(Self::Truncate),
            4 => Some(Self::Purge),
            5 => Some(Self::Committed),
            6 => Some(Self::Last),
            _ => None,
        }
    }
}

/// One record, with its payload in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it does.
    pub kind: Kind,
    /// To which id.
    pub id: Option<LogId>,
    /// An entry's or a vote's bytes, else empty.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Its size in a group.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + self.payload.len() as u64
    }

    /// The bytes that stand before its payload.
    #[must_use]
    pub fn header(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        out[0] = self.kind as u8;
        out[8..16].copy_from_slice(&(self.payload.len() as u64).to_le_bytes());
        if let Some(id) = self.id {
            out[1] = 1;
            out[16..24].copy_from_slice(&id.term.to_le_bytes());
            out[24..32].copy_from_slice(&id.index.0.to_le_bytes());
        }
        let crc = record_crc(&out, self.payload);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// What a record's header says; to be believed after its group's sum, or [`RecordHeader::fits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it does.
    pub kind: Kind,
    /// To which id.
    pub id: Option<LogId>,
    /// Size of the payload that follows.
    pub payload_bytes: u64,
    crc: u32,
}

impl RecordHeader {
    /// Reads a header; `None` when the bytes cannot be one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk()?;
        let has_id = head[1] == 1;
        if head[1] > 1 || head[2..4] != [0; 2] || (!has_id && head[16..] != [0; 16]) {
            return None;
        }
        let id = LogId {
            term: u64::from_le_bytes(part(head, 16)),
            index: LogIndex(u64::from_le_bytes(part(head, 24))),
        };
        Some(Self {
            kind: Kind::from_byte(head[0])?,
            id: has_id.then_some(id),
            payload_bytes: u64::from_le_bytes(part(head, 8)),
            crc: u32::from_le_bytes(part(head, 4)),
        })
    }

    /// Whether header and payload are what was written together.
    #[must_use]
    pub fn fits(&self, payload: &[u8]) -> bool {
        self.payload_bytes == payload.len() as u64
            && Record { kind: self.kind, id: self.id, payload }.header()[4..8] == self.crc.to_le_bytes()
    }
}

/// The sum over a record's header, with the sum's field as zero, and its payload.
fn record_crc(header: &[u8; RECORD_HEADER_BYTES], payload: &[u8]) -> u32 {
    if payload.is_empty() {
        return crc_fast::crc32_iscsi(header);
    }
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(header);
    digest.update(payload);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_id() -> impl Strategy<Value = Option<LogId>> {
        prop::option::of(
            (any::<u64>(), any::<u64>()).prop_map(|(term, index)| LogId { term, index: LogIndex(index) }),
        )
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        (1u8..=6).prop_map(|byte| Kind::from_byte(byte).unwrap())
    }

    /// A sealed group of one record.
    fn group(record: Record<'_>, generation: u64, sequence: u64, flags: u16) -> Vec<u8> {
        let header = GroupHeader {
            version: VERSION,
            flags,
            crc: 0,
            generation,
            sequence,
            body_bytes: record.bytes(),
            records: 1,
        };
        let mut out = header.encode().to_vec();
        out.extend_from_slice(&record.header());
        out.extend_from_slice(record.payload);
        out.resize(header.group_bytes().unwrap() as usize, 0);
        seal_group(&mut out);
        out
    }

    fn is_whole(group: &[u8]) -> bool {
        let Some(header) = GroupHeader::decode(group) else { return false };
        if header.group_bytes() != Some(group.len() as u64) {
            return false;
        }
        let mut sum = Sum::of_header(&header);
        sum.add(&group[GROUP_HEADER_BYTES..]);
        sum.finish() == header.crc
    }

    proptest! {
        #[test]
        fn groups_read_back_and_any_flip_shows(
            kind in any_kind(), id in any_id(), payload in prop::collection::vec(any::<u8>(), 0..9000),
            generation in any::<u64>(), sequence in any::<u64>(), flags in 0u16..8,
            at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let record = Record { kind, id, payload: &payload };
            let mut bytes = group(record, generation, sequence, flags);
            prop_assert!(is_whole(&bytes));
            let header = GroupHeader::decode(&bytes).unwrap();
            prop_assert_eq!((header.generation, header.sequence, header.flags), (generation, sequence, flags));
            let seen = RecordHeader::decode(&bytes[GROUP_HEADER_BYTES..]).unwrap();
            prop_assert_eq!((seen.kind, seen.id, seen.payload_bytes), (kind, id, payload.len() as u64));
            prop_assert!(seen.fits(&payload));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(!is_whole(&bytes));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut forged = MAGIC.to_vec();
            forged.extend_from_slice(&bytes);
            for bytes in [&bytes, &forged] {
                if let Some(header) = GroupHeader::decode(bytes) {
                    std::hint::black_box(header.group_bytes());
                }
                if let Some(header) = RecordHeader::decode(bytes) {
                    std::hint::black_box(header.fits(&[]));
                }
            }
        }
    }

    #[test]
    fn sum_is_castagnolis() {
        // The check value of CRC-32/ISCSI in the RevEng catalogue.
        assert_eq!(crc_fast::crc32_iscsi(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn bytes_are_those_of_the_golden_file() {
        let payload: Vec<u8> = (0..=255).collect();
        let entry = LogId { term: 3, index: LogIndex(7) };
        let mut bytes = group(
            Record { kind: Kind::Entry, id: Some(entry), payload: &payload },
            0x1122_3344_5566_7788,
            9,
            0,
        );
        bytes.extend(group(
            Record { kind: Kind::Truncate, id: None, payload: &[] },
            0x1122_3344_5566_7788,
            10,
            FLAG_OPENING,
        ));
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/wal-groups-v1.bin");
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            std::fs::write(golden, &bytes).unwrap();
        }
        assert!(std::fs::read(golden).unwrap() == bytes, "the format of logs already on disk has changed");
    }
}
