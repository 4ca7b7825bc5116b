//! What is known of segments that a quorum has sealed alike, and the comparison with this member's own.
//!
//! Segments are attested in order, so one number says which are. Of the newest the fingerprints are kept, for a
//! member that has not sealed them yet; a root covers all records before it, so a member that is further behind
//! misses nothing for good.

use std::{collections::VecDeque, ops::Range};

use super::attestation::{Attestation, Fingerprint};
use crate::{
    error::{Code, Error, Result},
    types::SegmentId,
};

/// Fingerprints that are kept: 64 bytes each.
const FINGERPRINTS_MAX: usize = 256;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Attested {
    /// One past the newest attested segment.
    end: u64,
    /// Of those right before `end`.
    newest: VecDeque<Fingerprint>,
}

impl Attested {
    /// All segments before `end`, whose fingerprints are not known any more.
    pub(super) fn before(end: SegmentId) -> Self {
        Self { end: end.0, newest: VecDeque::new() }
    }

    /// One past the newest attested segment.
    pub(super) fn end(&self) -> SegmentId {
        SegmentId(self.end)
    }

    /// Takes what it says of segments that are next, and gives their numbers. What is attested already stays as it
    /// is, and nothing is left out in between.
    pub(super) fn take(&mut self, attestation: &Attestation) -> Range<u64> {
        let before = self.end;
        for (id, fingerprint) in attestation.iter() {
            if id.0 == self.end {
                self.end = self.end.saturating_add(1);
                self.newest.push_back(fingerprint);
            }
        }
        let old = self.newest.len().saturating_sub(FINGERPRINTS_MAX);
        self.newest.drain(..old);
        before..self.end
    }

    /// Compares this member's segment with what the quorum has.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when it is another.
    pub(super) fn compare(&self, id: SegmentId, here: Fingerprint) -> Result<()> {
        let back = self.end.checked_sub(id.0).and_then(|back| usize::try_from(back).ok());
        let at = back.and_then(|back| self.newest.len().checked_sub(back));
        match at.and_then(|at| self.newest.get(at)) {
            Some(quorum) if *quorum != here => Err(diverged(id, here, *quorum)),
            _ => Ok(()),
        }
    }
}

fn diverged(id: SegmentId, here: Fingerprint, quorum: Fingerprint) -> Error {
    let hex = |hash: [u8; 32]| blake3::Hash::from_bytes(hash).to_hex();
    Error::new(
        Code::Corrupt,
        format!(
            "segment {id} here has root {} (digest {}), the quorum has {} (digest {}): this member's copy has diverged; \
             move its directory away and start it with --rejoin and a new --node-id",
            hex(here.root),
            hex(here.digest),
            hex(quorum.root),
            hex(quorum.digest),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(n: u64) -> Fingerprint {
        Fingerprint { root: *blake3::hash(&n.to_le_bytes()).as_bytes(), digest: [n as u8; 32] }
    }

    fn of(ids: Range<u64>) -> Attestation {
        Attestation::new(SegmentId(ids.start), ids.map(fingerprint).collect())
    }

    #[test]
    fn segments_are_attested_in_order_and_once() {
        let mut attested = Attested::default();
        assert_eq!(attested.take(&of(1..3)), 0..0, "segment 0 is not attested yet");
        assert_eq!(attested.take(&of(0..3)), 0..3);
        let other = Attestation::new(SegmentId(1), vec![fingerprint(7), fingerprint(8), fingerprint(3)]);
        assert_eq!(attested.take(&other), 3..4, "what is attested stays");
        for id in 0..4 {
            attested.compare(SegmentId(id), fingerprint(id)).unwrap();
            let error = attested.compare(SegmentId(id), fingerprint(9)).unwrap_err();
            assert!(error.message().contains("this member's copy has diverged"), "{error}");
        }
        attested.compare(SegmentId(4), fingerprint(9)).unwrap();
        attested.compare(SegmentId(u64::MAX), fingerprint(9)).unwrap();
        assert_eq!(attested.take(&of(u64::MAX..u64::MAX)), 4..4);
    }

    #[test]
    fn a_segment_of_the_same_records_and_another_body_differs_too() {
        let mut attested = Attested::default();
        attested.take(&of(0..1));
        let here = Fingerprint { digest: [9; 32], ..fingerprint(0) };
        assert_eq!(attested.compare(SegmentId(0), here).unwrap_err().code(), Code::Corrupt);
    }

    #[test]
    fn few_fingerprints_are_kept() {
        let mut attested = Attested::before(SegmentId(5));
        for first in (5..1_005).step_by(50) {
            assert_eq!(attested.take(&of(first..first + 50)), first..first + 50);
        }
        assert_eq!((attested.end(), attested.newest.len()), (SegmentId(1_005), FINGERPRINTS_MAX));
        let oldest = 1_005 - FINGERPRINTS_MAX as u64;
        assert!(attested.compare(SegmentId(oldest), fingerprint(0)).is_err());
        attested.compare(SegmentId(oldest - 1), fingerprint(0)).unwrap();
        attested.compare(SegmentId(2), fingerprint(0)).unwrap();
    }
}
