//! The entry that says what a quorum has sealed: how a member finds out that its copy differs.
//!
//! Takes fingerprints that a quorum of the voters was found to agree on, gives the entry's bytes. It does not own
//! who asks members ([`crate::cluster`]) nor what becomes of one that differs (the state).
//!
//! ```text
//! entry        = kind u8 = 5 | rkyv archive of Attestation (root at the end)
//! Attestation  = first u64 | segments[]          of consecutive segments, the first one's number
//! fingerprint  = root 32 B | digest 32 B
//! ```

use bytes::Bytes;
use rkyv::{Archive, Serialize, rancor};

use super::entry::{self, KIND_SEALED};
use crate::{
    error::{Code, Error, Result},
    segment::SegmentSummary,
    types::SegmentId,
};

/// The feature level from which on ledgers have these entries.
pub const ATTESTATION_LEVEL: u32 = 2;

/// The most segments of one entry.
pub const ATTESTED_AT_ONCE_MAX: usize = 64;

/// What tells a sealed segment from any other.
#[derive(Archive, Serialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint {
    /// Root of the tree after its last record: of all records before, too.
    pub root: [u8; 32],
    /// BLAKE3 of the file's canonical body.
    pub digest: [u8; 32],
}

impl From<&SegmentSummary> for Fingerprint {
    fn from(summary: &SegmentSummary) -> Self {
        Self { root: summary.root_after, digest: summary.digest }
    }
}

/// See the head of this file.
#[derive(Archive, Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    first: u64,
    segments: Vec<Fingerprint>,
}

impl Attestation {
    /// Of consecutive segments from `first` on, at most [`ATTESTED_AT_ONCE_MAX`] of them.
    #[must_use]
    pub fn new(first: SegmentId, mut segments: Vec<Fingerprint>) -> Self {
        segments.truncate(ATTESTED_AT_ONCE_MAX);
        Self { first: first.0, segments }
    }

    /// The segments and their numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (SegmentId, Fingerprint)> + '_ {
        let number = |at| SegmentId(self.first.saturating_add(at as u64));
        self.segments.iter().enumerate().map(move |(at, fingerprint)| (number(at), *fingerprint))
    }

    /// The bytes of its entry.
    ///
    /// # Errors
    /// [`Code::Internal`] when memory is short.
    pub fn encode(&self) -> Result<Bytes> {
        entry::encode(KIND_SEALED, self, 64 + size_of_val(&self.segments[..]))
    }

    /// Reads an entry written by [`Attestation::encode`].
    ///
    /// # Errors
    /// [`Code::Corrupt`] for other bytes.
    pub fn decode(entry: &[u8]) -> Result<Self> {
        let corrupt = |what: String| Error::new(Code::Corrupt, format!("not an attestation entry: {what}"));
        let Some((&KIND_SEALED, archive)) = entry.split_first() else {
            return Err(corrupt("the kind byte is another".into()));
        };
        let read = rkyv::access::<ArchivedAttestation, rancor::Error>(archive)
            .map_err(|error| corrupt(error.to_string()))?;
        if read.segments.len() > ATTESTED_AT_ONCE_MAX {
            return Err(corrupt(format!("it tells of {} segments", read.segments.len())));
        }
        let segments = read.segments.iter().map(|of| Fingerprint { root: of.root, digest: of.digest });
        Ok(Self { first: read.first.into(), segments: segments.collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn attestations_read_back_and_damage_does_not_panic(
            first: u64,
            segments in prop::collection::vec((any::<[u8; 32]>(), any::<[u8; 32]>()), 0..ATTESTED_AT_ONCE_MAX + 3),
            at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let segments = segments.into_iter().map(|(root, digest)| Fingerprint { root, digest }).collect();
            let attestation = Attestation::new(SegmentId(first), segments);
            prop_assert!(attestation.iter().count() <= ATTESTED_AT_ONCE_MAX);
            let mut bytes = attestation.encode().unwrap().to_vec();
            prop_assert_eq!(Attestation::decode(&bytes).unwrap(), attestation);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = Attestation::decode(&bytes);
            let _ = Attestation::decode(&bytes[..at]);
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Attestation::decode(&bytes);
        }
    }

    #[test]
    fn an_entry_of_too_many_segments_is_refused() {
        let segments = vec![Fingerprint { root: [1; 32], digest: [2; 32] }; ATTESTED_AT_ONCE_MAX + 1];
        let bytes = Attestation { first: 3, segments }.encode().unwrap();
        assert_eq!(Attestation::decode(&bytes).unwrap_err().code(), Code::Corrupt);
    }
}
