//! An entry of the manifest at rest: what object a segment is. Pure: no I/O.
//!
//! All integers are little-endian.
//!
//! ```text
//! 0        8    10    12            16           24            32          40
//! | magic  | v  | 0 0 | epoch u32   | segment id | first seq   | end seq   | last log term |
//! 48               56             64             68           80
//! | last log index | object bytes | its epoch u32 | 0 … 0      | ledger id 16 |
//! 96          128             160            192           224        256
//! | digest 32 | the one before's 32 | root after 32 | object hash 32 | check 32 |
//! ```
//!
//! `digest` is the segment's own, whatever way its object stores it; `object hash` is BLAKE3 of the object's bytes
//! and makes its name, in the directory of `its epoch`, which is an earlier one for segments from before a restore.
//! `check` is BLAKE3 of all before it. Entries are chained by digests, not by their own bytes: two leaders that
//! packed one segment differently write entries that are as good as each other.

use super::{layout::Epoch, marker::LedgerId, object::ObjectRef};
use crate::types::{LogId, LogIndex, SegmentId, Seq};

/// Size of an entry, in bytes.
pub const ENTRY_BYTES: usize = 256;

/// The version this code writes, and the only one it reads.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"SCRIBARC";

const CHECKED_BYTES: usize = ENTRY_BYTES - 32;

/// What the archive has of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose segment it is.
    pub ledger: LedgerId,
    /// In which manifest the entry stands.
    pub epoch: Epoch,
    /// Its first record's position.
    pub first_seq: Seq,
    /// One past its last record's.
    pub end_seq: Seq,
    /// The last entry of the log that belongs to it.
    pub last_log: LogId,
    /// The segment's digest.
    pub digest: [u8; 32],
    /// That of the segment before it; zeros before the first.
    pub digest_before: [u8; 32],
    /// Root of the tree of all records up to `end_seq`.
    pub root_after: [u8; 32],
    /// Where its bytes are; its number is the segment's.
    pub object: ObjectRef,
}

impl Entry {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &self.epoch.0.to_le_bytes());
        put(16, &self.object.segment.0.to_le_bytes());
        put(24, &self.first_seq.0.to_le_bytes());
        put(32, &self.end_seq.0.to_le_bytes());
        put(40, &self.last_log.term.to_le_bytes());
        put(48, &self.last_log.index.0.to_le_bytes());
        put(56, &self.object.bytes.to_le_bytes());
        put(64, &self.object.epoch.0.to_le_bytes());
        put(80, &self.ledger.0);
        put(96, &self.digest);
        put(128, &self.digest_before);
        put(160, &self.root_after);
        put(192, &self.object.hash);
        let check = *blake3::hash(&out[..CHECKED_BYTES]).as_bytes();
        out[CHECKED_BYTES..].copy_from_slice(&check);
        out
    }

    /// Reads an entry and checks it against its own sum.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; ENTRY_BYTES] = bytes.try_into().map_err(|_| "it has another size than an entry")?;
        if bytes[..8] != MAGIC {
            return Err("it is no entry of a manifest");
        }
        if *blake3::hash(&bytes[..CHECKED_BYTES]).as_bytes() != bytes[CHECKED_BYTES..] {
            return Err("it does not match its checksum");
        }
        if bytes[8..10] != VERSION.to_le_bytes() {
            return Err("it has a version that this build does not read");
        }
        if bytes[10..12] != [0; 2] || bytes[68..80] != [0; 12] {
            return Err("its reserved bytes are not zero");
        }
        let word = |at| u64::from_le_bytes(part(bytes, at));
        let epoch = |at| Epoch(u32::from_le_bytes(part(bytes, at)));
        let entry = Self {
            ledger: LedgerId(part(bytes, 80)),
            epoch: epoch(12),
            first_seq: Seq(word(24)),
            end_seq: Seq(word(32)),
            last_log: LogId { term: word(40), index: LogIndex(word(48)) },
            digest: part(bytes, 96),
            digest_before: part(bytes, 128),
            root_after: part(bytes, 160),
            object: ObjectRef {
                epoch: epoch(64),
                segment: SegmentId(word(16)),
                bytes: word(56),
                hash: part(bytes, 192),
            },
        };
        if entry.end_seq < entry.first_seq || entry.object.epoch > entry.epoch {
            return Err("its numbers cannot be true");
        }
        Ok(entry)
    }
}

/// Part of an entry; all of them are within it.
fn part<const N: usize>(bytes: &[u8; ENTRY_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry {
        Entry {
            ledger: LedgerId([1; 16]),
            epoch: Epoch(2),
            first_seq: Seq(1_000),
            end_seq: Seq(2_000),
            last_log: LogId { term: 3, index: LogIndex(77) },
            digest: [4; 32],
            digest_before: [5; 32],
            root_after: [6; 32],
            object: ObjectRef { epoch: Epoch(1), segment: SegmentId(9), bytes: 123_456, hash: [7; 32] },
        }
    }

    #[test]
    fn an_entry_is_the_golden_one() {
        let golden = format!("{}/tests/golden/archive-entry-v1.bin", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            std::fs::write(&golden, entry().encode()).unwrap();
        }
        assert!(std::fs::read(&golden).unwrap() == entry().encode(), "the format of entries has changed");
    }

    #[test]
    fn a_flip_of_any_bit_is_refused() {
        let whole = entry().encode();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole;
                bytes[at] ^= 1 << bit;
                assert!(Entry::decode(&bytes).is_err(), "bit {bit} of byte {at}");
            }
            assert!(Entry::decode(&whole[..at]).is_err());
        }
    }

    proptest! {
        #[test]
        fn entries_read_back(
            ledger: [u8; 16], epochs in (0u32.., 0u32..), seqs in (0u64.., 0u64..), term: u64, index: u64,
            hashes: [[u8; 32]; 4], segment: u64, bytes: u64,
        ) {
            let entry = Entry {
                ledger: LedgerId(ledger),
                epoch: Epoch(epochs.0.max(epochs.1)),
                first_seq: Seq(seqs.0.min(seqs.1)),
                end_seq: Seq(seqs.0.max(seqs.1)),
                last_log: LogId { term, index: LogIndex(index) },
                digest: hashes[0],
                digest_before: hashes[1],
                root_after: hashes[2],
                object: ObjectRef {
                    epoch: Epoch(epochs.0.min(epochs.1)), segment: SegmentId(segment), bytes, hash: hashes[3],
                },
            };
            prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }

        #[test]
        fn a_forged_entry_is_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), ENTRY_BYTES)) {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..12].copy_from_slice(&[1, 0, 0, 0]);
            bytes[68..80].fill(0);
            let check = *blake3::hash(&bytes[..CHECKED_BYTES]).as_bytes();
            bytes[CHECKED_BYTES..].copy_from_slice(&check);
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(&entry.encode()[..], &bytes[..]);
            }
        }
    }
}
