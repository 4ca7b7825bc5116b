//! What a restart begins from: the replicated state at the end of a segment, beside the segment's records.
//!
//! It lies in the footer of that segment, so that the newest segment *is* the newest boundary, and the two can
//! never disagree. The log's position is there already, as the segment's last entry; the answers to requests
//! with idempotency keys lie in the block that is named after them, each in the segment that first gave it.
//!
//! ```text
//! level 1    rkyv archive
//! level 2    rkyv archive | attested_end u64 | archived 20 B | signers | their bytes u32 | 0xffff_ffff   little-endian
//! ```
//!
//! Signers are the rows of [`signers`](super::signers); what is archived has the fields of [`Archived`] in their order. An archive ends with the length of the membership, which is never that long, so the end tells them apart.

use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::{
    archived::{ARCHIVED_BYTES, Archived},
    attestation::ATTESTATION_LEVEL,
    settings::Settings,
    signers::{Enrolment, decode_rows, encode_rows},
};
use crate::{
    error::{Code, Error, Result},
    types::TimestampMs,
};

/// See the head of this file.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Boundary {
    /// Time of the last entry.
    pub last_time_ms: TimestampMs,
    /// The settings in force.
    pub settings: Option<Settings>,
    /// The membership in force, as consensus encodes it.
    pub membership: Vec<u8>,
    /// One past the newest segment that a quorum is known to hold alike; 0 in a ledger of feature level 1.
    #[rkyv(with = rkyv::with::Skip)]
    pub attested_end: u64,
    /// How far the ledger is in the archive; nothing is in a ledger of feature level 1.
    #[rkyv(with = rkyv::with::Skip)]
    pub archived: Archived,
    /// The keys that members sign with, in the order they were enrolled; none in a ledger of feature level 1.
    #[rkyv(with = rkyv::with::Skip)]
    pub signers: Vec<Enrolment>,
}

/// Ends a boundary of level 2.
const LEVEL_2: [u8; 4] = [0xff; 4];

impl Boundary {
    /// Its bytes.
    ///
    /// # Errors
    /// [`Code::Internal`] when memory is short.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = rkyv::to_bytes::<rancor::Error>(self)
            .map_err(|error| Error::new(Code::Internal, format!("building a boundary failed: {error}")))?;
        let mut bytes = bytes.to_vec();
        if self.settings.is_some_and(|settings| settings.feature_level >= ATTESTATION_LEVEL) {
            bytes.extend_from_slice(&self.attested_end.to_le_bytes());
            bytes.extend_from_slice(&self.archived.to_bytes());
            let signers = encode_rows(&self.signers);
            bytes.extend_from_slice(&signers);
            // There are a thousand at most, of a few kilobytes.
            bytes.extend_from_slice(&(signers.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&LEVEL_2);
        }
        Ok(bytes)
    }

    /// Reads what [`Boundary::encode`] writes.
    ///
    /// # Errors
    /// [`Code::Corrupt`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| Error::new(Code::Corrupt, format!("not a segment's boundary: {what}"));
        let (archive, level_2) = match bytes.strip_suffix(&LEVEL_2) {
            Some(level_2) => split(level_2).ok_or_else(|| corrupt("its end is none"))?,
            None => (bytes, Level2::default()),
        };
        let boundary =
            rkyv::from_bytes::<Self, rancor::Error>(archive).map_err(|error| corrupt(&error.to_string()))?;
        let Level2 { attested_end, archived, signers } = level_2;
        Ok(Self { attested_end, archived, signers, ..boundary })
    }
}

/// What follows the archive from level 2 on.
#[derive(Default)]
struct Level2 {
    attested_end: u64,
    archived: Archived,
    signers: Vec<Enrolment>,
}

fn split(bytes: &[u8]) -> Option<(&[u8], Level2)> {
    let (bytes, signers_bytes) = bytes.split_last_chunk()?;
    let signers_bytes = usize::try_from(u32::from_le_bytes(*signers_bytes)).ok()?;
    let (bytes, signers) = bytes.split_at_checked(bytes.len().checked_sub(signers_bytes)?)?;
    let (bytes, archived) = bytes.split_last_chunk::<ARCHIVED_BYTES>()?;
    let (archive, attested_end) = bytes.split_last_chunk()?;
    let attested_end = u64::from_le_bytes(*attested_end);
    Some((
        archive,
        Level2 { attested_end, archived: Archived::from_bytes(archived)?, signers: decode_rows(signers)? },
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proof::key::Signer;

    fn signers(count: u8) -> Vec<Enrolment> {
        let key =
            |n| Signer::from_seed("scribe/0123456789abcdef/1", &[n; 32]).unwrap().verifier_key().clone();
        (1..=count)
            .map(|n| Enrolment { member: n.into(), incarnation: 1_000 + u64::from(n), key: key(n) })
            .collect()
    }

    proptest! {
        #[test]
        fn boundaries_read_back_and_damage_does_not_panic(
            last_time_ms: u64, level in 0u32..3, membership in prop::collection::vec(any::<u8>(), 0..100), attested: u64,
            archived: (u32, u64, u64), signer_count in 0u8..4,
            at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let settings = (level > 0).then_some(Settings { feature_level: level, ..Settings::BUILT_IN });
            let attested_end = if level > 1 { attested } else { 0 };
            let signers = if level > 1 { signers(signer_count) } else { Vec::new() };
            let (epoch, end, end_seq) = if level > 1 { archived } else { (0, 0, 0) };
            let archived = Archived { epoch, end, end_seq };
            let boundary = Boundary { last_time_ms, settings, membership, attested_end, archived, signers };
            let mut bytes = boundary.encode().unwrap();
            prop_assert_eq!(Boundary::decode(&bytes).unwrap(), boundary);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = Boundary::decode(&bytes);
            let _ = Boundary::decode(&bytes[..at]);
        }
    }

    /// They lie in segments for ever.
    #[test]
    fn boundaries_are_those_of_the_golden_files() {
        for level in [1, 2] {
            let settings = Settings { feature_level: level, segment_bytes: 1 << 26, ..Settings::BUILT_IN };
            let boundary = Boundary {
                last_time_ms: 1_700_000_000_123,
                settings: Some(settings),
                membership: b"membership".to_vec(),
                attested_end: u64::from(level - 1) * 77,
                archived: if level > 1 {
                    Archived { epoch: 1, end: 76, end_seq: 4_711 }
                } else {
                    Archived::default()
                },
                signers: if level > 1 { signers(3) } else { Vec::new() },
            };
            let bytes = boundary.encode().unwrap();
            let golden = format!("{}/tests/golden/boundary-v{level}.bin", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("GOLDEN_WRITE").is_some() {
                std::fs::write(&golden, &bytes).unwrap();
            }
            let golden = std::fs::read(&golden).unwrap();
            assert!(golden == bytes, "the format of boundaries of level {level} has changed");
            assert_eq!(Boundary::decode(&golden).unwrap(), boundary);
        }
    }
}
