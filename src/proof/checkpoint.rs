//! Checkpoints: what a log vouches for, its size and its root (C2SP tlog-checkpoint).
//!
//! ```text
//! <origin>                       the log's identity, and the name its members sign under
//! <size>                         decimal
//! <base64 root>
//! <extension> …                  none of ours; those of others are kept
//! ```
//!
//! Takes a size and a root, gives the text of a signed note, and back. It does not own when a checkpoint may be
//! signed: a log must never sign two that contradict each other.

use std::{fmt, str::FromStr};

use super::{
    encoding::{from_decimal, shortened},
    error::ProofError,
    hash::Hash,
    key::{Signer, VerifierKey, check_key_name},
    note::Note,
    tree::check_size,
};

/// A tree of `size` leaves with this root, as a log states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint of the log `origin`.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for an origin that is not a key name, since members sign under it;
    /// [`ProofError::OutOfRange`] for a size above [`SIZE_MAX`](super::tree::SIZE_MAX).
    pub fn new(origin: &str, size: u64, root: Hash) -> Result<Self, ProofError> {
        check_key_name(origin)?;
        check_size(size)?;
        Ok(Self { origin: origin.to_owned(), size, root, extensions: Vec::new() })
    }

    /// The log's identity.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    #[must_use]
    pub const fn root(&self) -> &Hash {
        &self.root
    }

    /// Lines that another log added, whose meaning is its own.
    #[must_use]
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }

    /// The note with this checkpoint as its text.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] when the signer's name is not the origin.
    pub fn sign(&self, signer: &Signer) -> Result<Note, ProofError> {
        if signer.name() != self.origin {
            let (origin, name) = (&self.origin, signer.name());
            return Err(ProofError::malformed(format!("a checkpoint of {origin} is not signed as {name}")));
        }
        Note::sign(self.to_string(), signer)
    }

    /// The checkpoint that a note vouches for, and which of the known keys signed it. One of them at least is the
    /// log's own, that is, has the checkpoint's origin as its name: a witness alone does not make a checkpoint.
    ///
    /// # Errors
    /// [`ProofError::Refused`] as [`Note::verify`], or when only other names signed; [`ProofError::Malformed`]
    /// when the signed text is no checkpoint.
    pub fn open<'k>(
        note: &Note,
        known: &'k [VerifierKey],
    ) -> Result<(Self, Vec<&'k VerifierKey>), ProofError> {
        let signers = note.verify(known)?;
        let checkpoint: Self = note.text().parse()?;
        if !signers.iter().any(|key| key.name() == checkpoint.origin) {
            let origin = shortened(&checkpoint.origin);
            return Err(ProofError::refused(format!("no known key of {origin} has signed its checkpoint")));
        }
        Ok((checkpoint, signers))
    }
}

impl fmt::Display for Checkpoint {
    /// The note's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root.to_base64())?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl FromStr for Checkpoint {
    type Err = ProofError;

    /// Reads a note's text. The origin may be any line: other logs' need not be key names.
    fn from_str(text: &str) -> Result<Self, ProofError> {
        let malformed = |what: &str| ProofError::malformed(format!("not a checkpoint: {what}"));
        let text = text.strip_suffix('\n').ok_or_else(|| malformed("its last line has no newline"))?;
        let mut lines = text.split('\n');
        let mut next = |what| lines.next().filter(|line| !line.is_empty()).ok_or_else(|| malformed(what));
        let origin = next("it has no origin")?.to_owned();
        let size = from_decimal(next("it has no size")?)?;
        let root = Hash::from_base64(next("it has no root")?)?;
        check_size(size)?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(malformed("it has an empty line"));
        }
        Ok(Self { origin, size, root, extensions })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proof::tree::SIZE_MAX;

    const ROOT: &str = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";

    fn signer(name: &str, seed: u8) -> Signer {
        Signer::from_seed(name, &[seed; 32]).unwrap()
    }

    fn parse(text: &str) -> Result<Checkpoint, ProofError> {
        text.parse()
    }

    #[test]
    fn texts_are_those_of_the_specification() {
        let text = format!("example.com/behind-the-sofa\n20852163\n{ROOT}\n");
        let checkpoint = parse(&text).unwrap();
        assert_eq!((checkpoint.origin(), checkpoint.size()), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(checkpoint.root().to_base64(), ROOT);
        assert_eq!(checkpoint.to_string(), text);
        assert_eq!(checkpoint, Checkpoint::new(checkpoint.origin(), 20_852_163, *checkpoint.root()).unwrap());
        let extended = format!("{text}one\ntwo\n");
        assert_eq!(parse(&extended).unwrap().extensions(), ["one", "two"]);
        assert_eq!(parse(&extended).unwrap().to_string(), extended);
    }

    #[test]
    fn what_is_not_a_checkpoint_is_refused() {
        let good = format!("log\n7\n{ROOT}\n");
        let texts = [
            String::new(),
            "\n\n\n".into(),
            good.trim_end().into(),
            format!("\n7\n{ROOT}\n"),
            format!("log\n\n{ROOT}\n"),
            "log\n7\n".into(),
            "log\n7\n\n".into(),
            format!("{good}\n"),
            format!("{good}one\n\ntwo\n"),
            format!("log\n07\n{ROOT}\n"),
            format!("log\n+7\n{ROOT}\n"),
            format!("log\n-7\n{ROOT}\n"),
            format!("log\n7 \n{ROOT}\n"),
            format!("log\n0x7\n{ROOT}\n"),
            format!("log\n18446744073709551616\n{ROOT}\n"),
            format!("log\n{}\n{ROOT}\n", SIZE_MAX + 1),
            format!("log\n7\n{}\n", &ROOT[..43]),
            format!("log\n7\n{ROOT}AAAA\n"),
            format!("log\n7\n{}\n", ROOT.replace("2I=", "2J=")),
        ];
        for text in texts {
            assert!(parse(&text).is_err(), "{text:?}");
        }
        assert!(Checkpoint::new("", 7, Hash::default()).is_err());
        assert!(Checkpoint::new("a\nb", 7, Hash::default()).is_err());
        assert!(Checkpoint::new("log", SIZE_MAX + 1, Hash::default()).is_err());
    }

    #[test]
    fn only_the_log_itself_makes_a_checkpoint() {
        let (member, other_member, witness) = (signer("log", 1), signer("log", 2), signer("witness", 3));
        let keys = [&member, &other_member, &witness].map(|signer| signer.verifier_key().clone());
        let checkpoint = Checkpoint::new("log", 7, Hash::of(b"root")).unwrap();
        let mut note = checkpoint.sign(&member).unwrap();
        note.add(witness.sign(note.text()));
        let (opened, signers) = Checkpoint::open(&note, &keys).unwrap();
        assert_eq!((opened, signers), (checkpoint.clone(), vec![&keys[0], &keys[2]]));
        assert!(
            matches!(Checkpoint::open(&note, &keys[2..]), Err(ProofError::Refused(_))),
            "a witness alone"
        );
        assert!(
            matches!(Checkpoint::open(&note, &keys[1..2]), Err(ProofError::Refused(_))),
            "no signer known"
        );
        assert!(checkpoint.sign(&witness).is_err());
        let text_of_another = Note::sign(checkpoint.to_string(), &witness).unwrap();
        assert!(matches!(Checkpoint::open(&text_of_another, &keys), Err(ProofError::Refused(_))));
        let no_checkpoint = Note::sign("log\nseven\n", &member).unwrap();
        assert!(matches!(Checkpoint::open(&no_checkpoint, &keys), Err(ProofError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn checkpoints_read_back(
            origin in "[a-z0-9./]{1,30}", size in 0..=SIZE_MAX, root in any::<[u8; 32]>(), cut in any::<prop::sample::Index>(),
        ) {
            let checkpoint = Checkpoint::new(&origin, size, Hash(root)).unwrap();
            let text = checkpoint.to_string();
            prop_assert_eq!(parse(&text).unwrap(), checkpoint);
            prop_assert!(parse(&text[..cut.index(text.len())]).is_err());
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "(.{0,30}\n){0,5}") {
            if let Ok(checkpoint) = parse(&text) {
                prop_assert_eq!(checkpoint.to_string(), text);
            }
        }
    }
}
