//! What members say to each other about segments and signatures, as bytes. Pure: no I/O.
//!
//! ```text
//! list    1 | first number u64                          those sealed from here on?
//! part    2 | number u64 | offset u64 | bytes u32       these bytes of a segment's file?
//! prints  3 | first number u64                          what tells those sealed from here on from any others?
//! vitals  4                                             how are you? answered in JSON, see `vitals`
//! sign    5 | size u64 | root 32 B                      will you sign for these records?
//! enrol   6 | incarnation u64 | verifier key            this is what I sign with: put it into the log, if you lead
//!
//! listed  1 | one each: file bytes u64 | digest 32 B    numbers follow each other from the first
//! bytes   2 | the bytes
//! prints  3 | one each: root 32 B | digest 32 B         numbers follow each other from the first
//! signed  5 | 1 | signature line, as in a note          over the checkpoint of this size and root
//!         5 | 2 | size u64                              not yet: this is how far I am
//!         5 | 3 | root 32 B                             never: this is my root of so many records
//! enrol   6 | 1 or 0                                    it is in the log; it is not
//! ```
//!
//! All numbers are little-endian. All but lists and parts are asked for in ledgers of feature level 2. Nothing here
//! vouches for a segment or a signature: whoever gets one verifies it.

use bytes::Bytes;

use crate::{
    error::{Code, Error, Result},
    proof::{Hash, key::VerifierKey, note::NoteSignature},
    state::{
        attestation::{ATTESTED_AT_ONCE_MAX, Fingerprint},
        signers::VERIFIER_KEY_BYTES_MAX,
    },
    types::{SegmentId, Seq},
};

/// The most segments of one list.
pub const LISTED_MAX: usize = 1_024;

/// The most bytes of one part.
pub const PART_BYTES_MAX: u32 = 4 << 20;

const LIST: u8 = 1;
const PART: u8 = 2;
const FINGERPRINTS: u8 = 3;
const VITALS: u8 = 4;
const SIGN: u8 = 5;
const ENROL: u8 = 6;

const SIGNED: u8 = 1;
const BEHIND: u8 = 2;
const DIFFERS: u8 = 3;

/// Bytes of one segment in a list.
const LISTED_BYTES: usize = 8 + 32;

/// Bytes of one fingerprint.
const FINGERPRINT_BYTES: usize = 32 + 32;

/// The longest signature line that is read: a key's name and little more.
const LINE_BYTES_MAX: usize = VERIFIER_KEY_BYTES_MAX + 256;

/// A question to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which segments are there from this one on?
    List(SegmentId),
    /// What are these bytes of one?
    Part {
        /// Which.
        id: SegmentId,
        /// Where in its file.
        offset: u64,
        /// How many, at most [`PART_BYTES_MAX`].
        bytes: u32,
    },
    /// What are the fingerprints of the segments from this one on?
    Fingerprints(SegmentId),
    /// How is the member?
    Vitals,
    /// Will you sign the checkpoint of the first `size` records?
    Sign {
        /// How many.
        size: Seq,
        /// The root of the tree over them, as whoever asks has it.
        root: Hash,
    },
    /// Put this key, with which I sign, into the log.
    Enrol {
        /// Which of the directories with my id holds it.
        incarnation: u64,
        /// The key.
        key: VerifierKey,
    },
}

/// The answer to [`Question::Sign`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// The line for the note.
    Signed(NoteSignature),
    /// Not so many records are proven yet, only these.
    Behind(Seq),
    /// The records are others here, or the tree is: its root of so many.
    Differs(Hash),
}

/// A segment that a member has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Size of its file.
    pub file_bytes: u64,
    /// See [`SegmentSummary::digest`](crate::segment::SegmentSummary::digest).
    pub digest: [u8; 32],
}

fn malformed(what: &str) -> Error {
    Error::new(Code::Malformed, format!("not a message about segments: {what}"))
}

fn word(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*word), rest))
}

impl Question {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(48);
        match self {
            Self::List(from) => {
                out.push(LIST);
                out.extend_from_slice(&from.0.to_le_bytes());
            }
            Self::Fingerprints(from) => {
                out.push(FINGERPRINTS);
                out.extend_from_slice(&from.0.to_le_bytes());
            }
            Self::Vitals => out.push(VITALS),
            Self::Part { id, offset, bytes } => {
                out.push(PART);
                out.extend_from_slice(&id.0.to_le_bytes());
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
            }
            Self::Sign { size, root } => {
                out.push(SIGN);
                out.extend_from_slice(&size.0.to_le_bytes());
                out.extend_from_slice(&root.0);
            }
            Self::Enrol { incarnation, key } => {
                out.push(ENROL);
                out.extend_from_slice(&incarnation.to_le_bytes());
                out.extend_from_slice(key.to_string().as_bytes());
            }
        }
        out.into()
    }

    /// Reads what [`Question::encode`] wrote.
    ///
    /// # Errors
    /// [`Code::Malformed`] for anything else.
    pub fn decode(message: &[u8]) -> Result<Self> {
        let read = || match message.split_first()? {
            (&LIST, rest) => {
                let (from, rest) = word(rest)?;
                rest.is_empty().then_some(Self::List(SegmentId(from)))
            }
            (&PART, rest) => {
                let (id, rest) = word(rest)?;
                let (offset, rest) = word(rest)?;
                let bytes = u32::from_le_bytes(rest.try_into().ok()?);
                (bytes <= PART_BYTES_MAX).then_some(Self::Part { id: SegmentId(id), offset, bytes })
            }
            (&FINGERPRINTS, rest) => {
                let (from, rest) = word(rest)?;
                rest.is_empty().then_some(Self::Fingerprints(SegmentId(from)))
            }
            (&VITALS, []) => Some(Self::Vitals),
            (&SIGN, rest) => {
                let (size, root) = word(rest)?;
                Some(Self::Sign { size: Seq(size), root: Hash(root.try_into().ok()?) })
            }
            (&ENROL, rest) => {
                let (incarnation, key) = word(rest)?;
                let key = Some(key).filter(|key| key.len() <= VERIFIER_KEY_BYTES_MAX)?;
                Some(Self::Enrol { incarnation, key: std::str::from_utf8(key).ok()?.parse().ok()? })
            }
            _ => None,
        };
        read().ok_or_else(|| malformed("a question of unknown form"))
    }
}

/// The answer to [`Question::List`].
#[must_use]
pub fn encode_list(listed: &[Listed]) -> Bytes {
    let mut out = Vec::with_capacity(1 + listed.len() * LISTED_BYTES);
    out.push(LIST);
    for Listed { file_bytes, digest } in listed {
        out.extend_from_slice(&file_bytes.to_le_bytes());
        out.extend_from_slice(digest);
    }
    out.into()
}

/// Reads what [`encode_list`] wrote.
///
/// # Errors
/// [`Code::Malformed`] for anything else.
pub fn decode_list(message: &[u8]) -> Result<Vec<Listed>> {
    let Some((&LIST, list)) = message.split_first() else { return Err(malformed("a list was asked for")) };
    let (listed, rest) = list.as_chunks::<LISTED_BYTES>();
    if !rest.is_empty() || listed.len() > LISTED_MAX {
        return Err(malformed("a list of odd size"));
    }
    let read = |listed: &[u8; LISTED_BYTES]| {
        let (file_bytes, digest) = word(listed)?;
        Some(Listed { file_bytes, digest: digest.try_into().ok()? })
    };
    listed.iter().map(|listed| read(listed).ok_or_else(|| malformed("a list of odd size"))).collect()
}

/// The answer to [`Question::Fingerprints`].
#[must_use]
pub fn encode_fingerprints(fingerprints: &[Fingerprint]) -> Bytes {
    let mut out = Vec::with_capacity(1 + fingerprints.len() * FINGERPRINT_BYTES);
    out.push(FINGERPRINTS);
    for Fingerprint { root, digest } in fingerprints {
        out.extend_from_slice(root);
        out.extend_from_slice(digest);
    }
    out.into()
}

/// Reads what [`encode_fingerprints`] wrote.
///
/// # Errors
/// [`Code::Malformed`] for anything else.
pub fn decode_fingerprints(message: &[u8]) -> Result<Vec<Fingerprint>> {
    let Some((&FINGERPRINTS, rows)) = message.split_first() else {
        return Err(malformed("fingerprints were asked for"));
    };
    let (rows, rest) = rows.as_chunks::<FINGERPRINT_BYTES>();
    if !rest.is_empty() || rows.len() > ATTESTED_AT_ONCE_MAX {
        return Err(malformed("fingerprints of odd size"));
    }
    let read = |row: &[u8; FINGERPRINT_BYTES]| {
        let (root, digest) = row.split_first_chunk()?;
        Some(Fingerprint { root: *root, digest: digest.try_into().ok()? })
    };
    rows.iter().map(|row| read(row).ok_or_else(|| malformed("fingerprints of odd size"))).collect()
}

impl Signature {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![SIGN];
        match self {
            Self::Signed(line) => {
                out.push(SIGNED);
                out.extend_from_slice(line.to_string().as_bytes());
            }
            Self::Behind(size) => {
                out.push(BEHIND);
                out.extend_from_slice(&size.0.to_le_bytes());
            }
            Self::Differs(root) => {
                out.push(DIFFERS);
                out.extend_from_slice(&root.0);
            }
        }
        out.into()
    }

    /// Reads what [`Signature::encode`] wrote.
    ///
    /// # Errors
    /// [`Code::Malformed`] for anything else.
    pub fn decode(message: &[u8]) -> Result<Self> {
        let read = || match message.strip_prefix(&[SIGN])?.split_first()? {
            (&SIGNED, line) => {
                let line = Some(line).filter(|line| line.len() <= LINE_BYTES_MAX)?;
                Some(Self::Signed(std::str::from_utf8(line).ok()?.parse().ok()?))
            }
            (&BEHIND, size) => Some(Self::Behind(Seq(u64::from_le_bytes(size.try_into().ok()?)))),
            (&DIFFERS, root) => Some(Self::Differs(Hash(root.try_into().ok()?))),
            _ => None,
        };
        read().ok_or_else(|| malformed("a signature was asked for"))
    }
}

/// The answer to [`Question::Enrol`].
#[must_use]
pub fn encode_enrolled(is_in_log: bool) -> Bytes {
    Bytes::copy_from_slice(&[ENROL, is_in_log.into()])
}

/// Reads what [`encode_enrolled`] wrote.
///
/// # Errors
/// [`Code::Malformed`] for anything else.
pub fn decode_enrolled(message: &[u8]) -> Result<bool> {
    match message {
        [ENROL, is_in_log @ (0 | 1)] => Ok(*is_in_log == 1),
        _ => Err(malformed("a key was to be enrolled")),
    }
}

/// The answer to [`Question::Part`]: `fill` writes the bytes in their place.
///
/// # Errors
/// What `fill` says.
pub fn encode_part<E>(
    bytes: u32,
    fill: impl FnOnce(&mut [u8]) -> std::result::Result<(), E>,
) -> std::result::Result<Bytes, E> {
    let mut out = vec![0; 1 + bytes as usize];
    out[0] = PART;
    fill(&mut out[1..])?;
    Ok(out.into())
}

/// The bytes of an answer to [`Question::Part`] that asked for so many.
///
/// # Errors
/// [`Code::Malformed`] for anything else.
pub fn decode_part(message: &Bytes, bytes: u32) -> Result<Bytes> {
    match message.first() {
        Some(&PART) if message.len() == 1 + bytes as usize => Ok(message.slice(1..)),
        _ => Err(malformed("another part was asked for")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proof::key::Signer;

    proptest! {
        #[test]
        fn messages_read_back(
            id: u64, offset: u64, bytes in 0..=PART_BYTES_MAX,
            listed in prop::collection::vec((any::<u64>(), any::<[u8; 32]>()), 0..20),
            part in prop::collection::vec(any::<u8>(), 0..50),
            prints in prop::collection::vec((any::<[u8; 32]>(), any::<[u8; 32]>()), 0..ATTESTED_AT_ONCE_MAX),
            seed: [u8; 32],
        ) {
            let signer = Signer::from_seed("log", &seed).unwrap();
            let (size, root, key) = (Seq(offset), Hash(seed), signer.verifier_key().clone());
            for signature in
                [Signature::Signed(signer.sign("text\n")), Signature::Behind(size), Signature::Differs(root)]
            {
                prop_assert_eq!(Signature::decode(&signature.encode()).unwrap(), signature);
            }
            let id = SegmentId(id);
            for question in [
                Question::List(id),
                Question::Part { id, offset, bytes },
                Question::Fingerprints(id),
                Question::Vitals,
                Question::Sign { size, root },
                Question::Enrol { incarnation: offset, key },
            ] {
                prop_assert_eq!(Question::decode(&question.encode()).unwrap(), question);
            }
            let listed: Vec<_> =
                listed.into_iter().map(|(file_bytes, digest)| Listed { file_bytes, digest }).collect();
            prop_assert_eq!(decode_list(&encode_list(&listed)).unwrap(), listed);
            let prints: Vec<_> =
                prints.into_iter().map(|(root, digest)| Fingerprint { root, digest }).collect();
            prop_assert_eq!(decode_fingerprints(&encode_fingerprints(&prints)).unwrap(), prints);
            let count = part.len() as u32;
            let answer = encode_part(count, |out| {
                out.copy_from_slice(&part);
                Ok::<_, ()>(())
            }).unwrap();
            prop_assert_eq!(&decode_part(&answer, count).unwrap()[..], &part[..]);
            prop_assert!(decode_part(&answer, count + 1).is_err());
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(question) = Question::decode(&bytes) {
                prop_assert_eq!(&question.encode()[..], &bytes[..]);
            }
            if let Ok(listed) = decode_list(&bytes) {
                prop_assert_eq!(&encode_list(&listed)[..], &bytes[..]);
            }
            if let Ok(prints) = decode_fingerprints(&bytes) {
                prop_assert_eq!(&encode_fingerprints(&prints)[..], &bytes[..]);
            }
            if let Ok(signature) = Signature::decode(&bytes) {
                prop_assert_eq!(&signature.encode()[..], &bytes[..]);
            }
            if let Ok(is_in_log) = decode_enrolled(&bytes) {
                prop_assert_eq!(&encode_enrolled(is_in_log)[..], &bytes[..]);
            }
            let _ = decode_part(&Bytes::from(bytes), 7);
        }
    }

    #[test]
    fn bounds_are_kept() {
        let part = |bytes| Question::Part { id: SegmentId(1), offset: 2, bytes };
        assert!(Question::decode(&part(PART_BYTES_MAX + 1).encode()).is_err());
        let listed = vec![Listed { file_bytes: 1, digest: [2; 32] }; LISTED_MAX + 1];
        assert!(decode_list(&encode_list(&listed)).is_err());
        assert_eq!(decode_list(&encode_list(&listed[1..])).unwrap().len(), LISTED_MAX);
        let prints = vec![Fingerprint { root: [1; 32], digest: [2; 32] }; ATTESTED_AT_ONCE_MAX + 1];
        assert!(decode_fingerprints(&encode_fingerprints(&prints)).is_err());
        assert_eq!(
            decode_fingerprints(&encode_fingerprints(&prints[1..])).unwrap().len(),
            ATTESTED_AT_ONCE_MAX
        );
    }
}
