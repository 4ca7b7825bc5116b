//! The entry that says how far the ledger is in the archive, so that every member knows.
//!
//! Takes what a leader has uploaded, read back and entered into the manifest of its store, gives the entry's bytes.
//! It does not own the upload ([`crate::archive`], the archive stage), nor where a position in it leads to: objects
//! are named by the store's manifest alone.
//!
//! ```text
//! entry     = kind u8 = 7 | rkyv archive of Archived (root at the end)
//! Archived  = epoch u32 | end u64, one past the newest archived segment | end seq u64, one past its last record
//! ```

use bytes::Bytes;
use rkyv::{Archive, Serialize, rancor};

use super::entry::{self, KIND_ARCHIVED};
use crate::{
    error::{Code, Error, Result},
    types::{SegmentId, Seq},
};

/// See the head of this file. Nothing is archived by default.
#[derive(Archive, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// Which life of the ledger has archived it, from 1; 0 where nothing is.
    pub epoch: u32,
    /// One past the newest archived segment.
    pub end: u64,
    /// One past its last record.
    pub end_seq: u64,
}

/// Size of its bytes beside other state.
pub(super) const ARCHIVED_BYTES: usize = 20;

impl Archived {
    /// Everything before this segment and this record.
    #[must_use]
    pub const fn before(epoch: u32, end: SegmentId, end_seq: Seq) -> Self {
        Self { epoch, end: end.0, end_seq: end_seq.0 }
    }

    /// Takes a newer word for this one. What is archived stays so: a word that says less changes nothing, and neither
    /// does one of segments that the log has not ended (below `closed`) or records that it does not have.
    pub(super) fn follow(&mut self, newer: Self, closed: SegmentId, applied: Seq) {
        let goes_on = (newer.epoch, newer.end) > (self.epoch, self.end) && newer.end_seq >= self.end_seq;
        if goes_on && newer.end <= closed.0 && newer.end_seq <= applied.0 {
            *self = newer;
        }
    }

    /// The bytes of its entry.
    ///
    /// # Errors
    /// [`Code::Internal`] when memory is short.
    pub fn encode(&self) -> Result<Bytes> {
        entry::encode(KIND_ARCHIVED, self, 64)
    }

    /// Reads an entry written by [`Archived::encode`].
    ///
    /// # Errors
    /// [`Code::Corrupt`] for other bytes.
    pub fn decode(entry: &[u8]) -> Result<Self> {
        let corrupt = |what: String| Error::new(Code::Corrupt, format!("not an archive entry: {what}"));
        let Some((&KIND_ARCHIVED, archive)) = entry.split_first() else {
            return Err(corrupt("the kind byte is another".into()));
        };
        let read = rkyv::access::<ArchivedArchived, rancor::Error>(archive)
            .map_err(|error| corrupt(error.to_string()))?;
        Ok(Self { epoch: read.epoch.into(), end: read.end.into(), end_seq: read.end_seq.into() })
    }

    /// Little-endian, in the order of its fields.
    pub(super) fn to_bytes(self) -> [u8; ARCHIVED_BYTES] {
        let mut bytes = [0; ARCHIVED_BYTES];
        bytes[..4].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.end.to_le_bytes());
        bytes[12..].copy_from_slice(&self.end_seq.to_le_bytes());
        bytes
    }

    /// Reads what [`Archived::to_bytes`] writes.
    pub(super) fn from_bytes(bytes: &[u8; ARCHIVED_BYTES]) -> Option<Self> {
        let (epoch, rest) = bytes.split_first_chunk()?;
        let (end, rest) = rest.split_first_chunk()?;
        let end_seq = u64::from_le_bytes(*rest.first_chunk()?);
        Some(Self { epoch: u32::from_le_bytes(*epoch), end: u64::from_le_bytes(*end), end_seq })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(epoch: u32, end: u64, end_seq: u64) -> Archived {
        Archived { epoch, end, end_seq }
    }

    #[test]
    fn the_archive_never_shrinks_and_never_has_what_the_log_does_not_end() {
        let mut archived = Archived::default();
        for (newer, then) in [
            (of(1, 3, 30), of(1, 3, 30)),
            (of(1, 2, 20), of(1, 3, 30)),
            (of(1, 3, 31), of(1, 3, 30)),
            (of(1, 6, 60), of(1, 3, 30)),
            (of(1, 5, 51), of(1, 3, 30)),
            (of(1, 5, 29), of(1, 3, 30)),
            (of(1, 5, 50), of(1, 5, 50)),
            (of(2, 5, 50), of(2, 5, 50)),
            (of(1, 5, 50), of(2, 5, 50)),
        ] {
            archived.follow(newer, SegmentId(5), Seq(50));
            assert_eq!(archived, then, "after {newer:?}");
        }
    }

    proptest! {
        #[test]
        fn entries_read_back_and_damage_does_not_panic(
            epoch: u32, end: u64, end_seq: u64, at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let archived = of(epoch, end, end_seq);
            prop_assert_eq!(Archived::from_bytes(&archived.to_bytes()), Some(archived));
            let mut bytes = archived.encode().unwrap().to_vec();
            prop_assert_eq!(Archived::decode(&bytes).unwrap(), archived);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = Archived::decode(&bytes);
            prop_assert!(Archived::decode(&bytes[..at]).is_err());
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Archived::decode(&bytes);
        }
    }
}
