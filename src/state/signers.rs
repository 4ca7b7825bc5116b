//! The keys that members sign checkpoints with: replicated, so that every member names the same to verifiers.
//!
//! Takes a member's word for its key, gives the bytes of the entry that adds it and of the rows that boundaries keep.
//! A key stays when its member leaves: what it has signed stays verifiable. It does not own who asks for an enrolment
//! ([`crate::cluster`]) nor what a key is for ([`crate::proof`]).
//!
//! ```text
//! entry        = kind u8 = 6 | rkyv archive of Form (root at the end)
//! Form         = member u64 | incarnation u64 | verifier key, text
//! row          = member u64 | incarnation u64 | bytes u16 | verifier key, text          little-endian
//! ```

use bytes::Bytes;
use rkyv::{Archive, Serialize, rancor};

use super::entry::{self, KIND_SIGNER};
use crate::{
    error::{Code, Error, Result},
    proof::key::VerifierKey,
    types::NodeId,
};

/// The most keys of a ledger; verifiers believe no more. Whoever would be the next signs, and is not known.
pub const SIGNERS_MAX: usize = 1_000;

/// The longest key, as text: its name is the log's origin.
pub const VERIFIER_KEY_BYTES_MAX: usize = 4 << 10;

/// A member's key, from the entry on that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Whose it is.
    pub member: NodeId,
    /// Which of the directories with the member's id holds it.
    pub incarnation: u64,
    /// What verifiers need to know.
    pub key: VerifierKey,
}

/// As it lies in an entry.
#[derive(Archive, Serialize)]
struct Form {
    member: u64,
    incarnation: u64,
    key: String,
}

impl Enrolment {
    /// The bytes of its entry.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for a key whose name is too long; [`Code::Internal`] when memory is short.
    pub fn encode(&self) -> Result<Bytes> {
        let Self { member, incarnation, key } = self;
        let form = Form { member: *member, incarnation: *incarnation, key: key.to_string() };
        if form.key.len() > VERIFIER_KEY_BYTES_MAX {
            let bytes = form.key.len();
            return Err(Error::new(
                Code::InvalidConfig,
                format!("a verifier key of {bytes} bytes cannot be kept: choose a shorter ledger.origin"),
            ));
        }
        entry::encode(KIND_SIGNER, &form, 64 + form.key.len())
    }

    /// Reads an entry written by [`Enrolment::encode`].
    ///
    /// # Errors
    /// [`Code::Corrupt`] for other bytes.
    pub fn decode(entry: &[u8]) -> Result<Self> {
        let corrupt =
            |what: String| Error::new(Code::Corrupt, format!("not an entry of a signer's key: {what}"));
        let Some((&KIND_SIGNER, archive)) = entry.split_first() else {
            return Err(corrupt("the kind byte is another".into()));
        };
        let read = rkyv::access::<ArchivedForm, rancor::Error>(archive)
            .map_err(|error| corrupt(error.to_string()))?;
        let key = read_key(&read.key).ok_or_else(|| corrupt("its key is none".into()))?;
        Ok(Self { member: read.member.into(), incarnation: read.incarnation.into(), key })
    }
}

fn read_key(text: &str) -> Option<VerifierKey> {
    Some(text).filter(|text| text.len() <= VERIFIER_KEY_BYTES_MAX)?.parse().ok()
}

/// The rows of a boundary.
#[must_use]
pub fn encode_rows(signers: &[Enrolment]) -> Vec<u8> {
    let mut out = Vec::new();
    for Enrolment { member, incarnation, key } in signers {
        let key = key.to_string();
        out.extend_from_slice(&member.to_le_bytes());
        out.extend_from_slice(&incarnation.to_le_bytes());
        // An entry with a longer one is not applied.
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
    }
    out
}

/// Reads what [`encode_rows`] wrote; none for anything else.
#[must_use]
pub fn decode_rows(mut rows: &[u8]) -> Option<Vec<Enrolment>> {
    let mut signers = Vec::new();
    while !rows.is_empty() {
        let (member, rest) = rows.split_first_chunk()?;
        let (incarnation, rest) = rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u16::from_le_bytes(*bytes).into())?;
        if signers.len() == SIGNERS_MAX {
            return None;
        }
        signers.push(Enrolment {
            member: NodeId::from_le_bytes(*member),
            incarnation: u64::from_le_bytes(*incarnation),
            key: read_key(std::str::from_utf8(key).ok()?)?,
        });
        rows = rest;
    }
    Some(signers)
}

/// Whether it is known that this member signs with this key.
#[must_use]
pub fn is_enrolled(signers: &[Enrolment], member: NodeId, key: &VerifierKey) -> bool {
    signers.iter().any(|known| known.member == member && known.key == *key)
}

/// Adds a key to those that are known, once for each member: one that comes back under a new id may bring its key.
pub fn enrol(signers: &mut Vec<Enrolment>, enrolment: Enrolment) {
    if !is_enrolled(signers, enrolment.member, &enrolment.key) && signers.len() < SIGNERS_MAX {
        signers.push(enrolment);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proof::key::Signer;

    fn key(name: &str, seed: [u8; 32]) -> VerifierKey {
        Signer::from_seed(name, &seed).unwrap().verifier_key().clone()
    }

    fn any_enrolment() -> impl Strategy<Value = Enrolment> {
        (any::<u64>(), any::<u64>(), "[a-z0-9./]{1,40}", any::<[u8; 32]>()).prop_map(
            |(member, incarnation, name, seed)| Enrolment { member, incarnation, key: key(&name, seed) },
        )
    }

    proptest! {
        #[test]
        fn enrolments_read_back_and_damage_does_not_panic(
            signers in prop::collection::vec(any_enrolment(), 1..4), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut entry = signers[0].encode().unwrap().to_vec();
            prop_assert_eq!(&Enrolment::decode(&entry).unwrap(), &signers[0]);
            let place = at.index(entry.len());
            entry[place] ^= 1 << bit;
            let _ = Enrolment::decode(&entry);
            let _ = Enrolment::decode(&entry[..place]);
            let mut rows = encode_rows(&signers);
            prop_assert_eq!(decode_rows(&rows), Some(signers.clone()));
            let place = at.index(rows.len());
            let cut = decode_rows(&rows[..place]);
            prop_assert!(cut.is_none_or(|cut| cut == signers[..cut.len()] && cut.len() < signers.len()));
            rows[place] ^= 1 << bit;
            prop_assert_ne!(decode_rows(&rows), Some(signers));
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Enrolment::decode(&bytes);
            if let Some(signers) = decode_rows(&bytes) {
                prop_assert_eq!(encode_rows(&signers), bytes);
            }
        }
    }

    #[test]
    fn a_key_is_known_once_and_no_more_than_verifiers_believe() {
        let enrolment = |n: u64| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&n.to_le_bytes());
            Enrolment { member: n, incarnation: 7, key: key("log", seed) }
        };
        let mut signers = Vec::new();
        enrol(&mut signers, enrolment(1));
        enrol(&mut signers, Enrolment { incarnation: 9, ..enrolment(1) });
        assert_eq!(signers, [enrolment(1)]);
        enrol(&mut signers, Enrolment { member: 9_999, ..enrolment(1) });
        assert_eq!(signers.len(), 2, "another member has it, too");
        (0..SIGNERS_MAX as u64 + 5).for_each(|n| enrol(&mut signers, enrolment(n)));
        assert_eq!(signers.len(), SIGNERS_MAX);
        assert_eq!(decode_rows(&encode_rows(&signers)).as_ref(), Some(&signers));
        signers.push(enrolment(5_000));
        assert_eq!(decode_rows(&encode_rows(&signers)), None);
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let enrolment = Enrolment { member: 1, incarnation: 1, key: key(&"x".repeat(5_000), [1; 32]) };
        assert_eq!(enrolment.encode().unwrap_err().code(), Code::InvalidConfig);
    }
}
