//! Signed notes: a text, and who vouches for it (C2SP signed-note).
//!
//! ```text
//! text, one or more lines                                        every line ends in a newline
//! (an empty line: the last one of the note)
//! — <key name> <base64 of key id[4] ‖ signature>                 one line for each signature
//! ```
//!
//! Takes bytes and known keys, gives the text and the keys that signed it. It does not own what the text says,
//! and nobody should read it before a known key has vouched for it.

use std::{fmt, str::FromStr};

use super::{
    encoding::{from_base64, shortened, to_base64},
    error::ProofError,
    key::{KeyId, Signer, VerifierKey, check_key_name},
};

/// Longest note that is read, in bytes: a few hundred lines, or dozens of post-quantum signatures of witnesses.
pub const NOTE_BYTES_MAX: usize = 1 << 20;

/// Most signatures that a note is read with. (The specification demands 16.)
pub const SIGNATURES_MAX: usize = 100;

/// Begins a signature line.
const SIGNATURE_MARK: &str = "— ";

/// Between text and signatures: the end of the text's last line, and an empty line.
const SEPARATOR: &str = "\n\n";

/// One signature line. The signature's length and meaning are its key's affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    pub(super) name: String,
    pub(super) key_id: KeyId,
    pub(super) signature: Vec<u8>,
}

impl NoteSignature {
    fn is_by(&self, key: &VerifierKey) -> bool {
        self.name == key.name() && self.key_id == key.id()
    }
}

impl fmt::Display for NoteSignature {
    /// The line, without its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id.0[..], &self.signature].concat();
        write!(f, "{SIGNATURE_MARK}{} {}", self.name, to_base64(&bytes))
    }
}

impl FromStr for NoteSignature {
    type Err = ProofError;

    /// Reads a line without its newline.
    fn from_str(line: &str) -> Result<Self, ProofError> {
        let malformed = || ProofError::malformed(format!("{:?} is not a signature line", shortened(line)));
        let (name, bytes) =
            line.strip_prefix(SIGNATURE_MARK).and_then(|rest| rest.split_once(' ')).ok_or_else(malformed)?;
        check_key_name(name)?;
        match from_base64(bytes)?.split_first_chunk() {
            Some((key_id, signature)) if !signature.is_empty() => {
                Ok(Self { name: name.to_owned(), key_id: KeyId(*key_id), signature: signature.to_vec() })
            }
            _ => Err(malformed()),
        }
    }
}

/// A text with at least one signature. Reading one proves nothing: see [`Note::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// Signs a text.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] unless the text ends in a newline and has no other control characters.
    pub fn sign(text: impl Into<String>, signer: &Signer) -> Result<Self, ProofError> {
        let text = text.into();
        if !text.ends_with('\n') {
            return Err(ProofError::malformed("the text of a note ends in a newline"));
        }
        check_characters(&text)?;
        let signatures = vec![signer.sign(&text)];
        Ok(Self { text, signatures })
    }

    /// Adds a signature over the same text; one by the same key makes way for it.
    pub fn add(&mut self, signature: NoteSignature) {
        self.signatures.retain(|old| (&old.name, old.key_id) != (&signature.name, signature.key_id));
        self.signatures.push(signature);
    }

    /// Adds a signature that one of these keys has made over this text, and says which.
    ///
    /// # Errors
    /// [`ProofError::Refused`] when none of them has: the note stays as it is.
    pub fn add_verified<'k>(
        &mut self,
        signature: NoteSignature,
        known: &'k [VerifierKey],
    ) -> Result<&'k VerifierKey, ProofError> {
        let signer = known
            .iter()
            .find(|key| signature.is_by(key) && key.accepts(&self.text, &signature.signature))
            .ok_or_else(|| {
                let (name, id) = (shortened(&signature.name), signature.key_id);
                ProofError::refused(format!("the signature of {name}+{id} is no known key's over this text"))
            })?;
        self.add(signature);
        Ok(signer)
    }

    /// The text, with its last newline. It is hearsay until the note is verified.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, known or not.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Reads a note, as strictly as it is written.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for anything that is not a note, is longer than [`NOTE_BYTES_MAX`] or has more
    /// than [`SIGNATURES_MAX`] signatures.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() > NOTE_BYTES_MAX {
            let length = bytes.len();
            return Err(ProofError::malformed(format!("a note of {length} bytes: most is {NOTE_BYTES_MAX}")));
        }
        let note =
            std::str::from_utf8(bytes).map_err(|e| ProofError::malformed(format!("a note is UTF-8: {e}")))?;
        check_characters(note)?;
        let (text, lines) = note
            .rfind(SEPARATOR)
            .map(|at| (&note[..=at], &note[at + SEPARATOR.len()..]))
            .ok_or_else(|| ProofError::malformed("a note has an empty line before its signatures"))?;
        let lines = lines
            .strip_suffix('\n')
            .ok_or_else(|| ProofError::malformed("a note ends in a signature line and its newline"))?;
        let signatures = lines
            .split('\n')
            .take(SIGNATURES_MAX + 1)
            .map(str::parse)
            .collect::<Result<Vec<NoteSignature>, _>>()?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(ProofError::malformed(format!("a note has at most {SIGNATURES_MAX} signatures")));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Which of the known keys signed the text: at least one. Signatures by unknown keys are ignored.
    ///
    /// # Errors
    /// [`ProofError::Refused`] when no known key signed, or when a signature that names a known key is not its.
    pub fn verify<'k>(&self, known: &'k [VerifierKey]) -> Result<Vec<&'k VerifierKey>, ProofError> {
        let mut signers: Vec<&VerifierKey> = Vec::new();
        for signature in &self.signatures {
            let mut named = known.iter().filter(|key| signature.is_by(key)).peekable();
            if named.peek().is_none() {
                continue;
            }
            // The id is short: two keys of one name may share it.
            let Some(signer) = named.find(|key| key.accepts(&self.text, &signature.signature)) else {
                let (name, id) = (&signature.name, signature.key_id);
                return Err(ProofError::refused(format!(
                    "the signature of {name}+{id} is not over this text"
                )));
            };
            if !signers.contains(&signer) {
                signers.push(signer);
            }
        }
        if signers.is_empty() {
            return Err(ProofError::refused("no known key has signed the note"));
        }
        Ok(signers)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

fn check_characters(text: &str) -> Result<(), ProofError> {
    match text.bytes().position(|byte| byte < b' ' && byte != b'\n') {
        Some(at) => Err(ProofError::malformed(format!("a note has no control characters: byte {at}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n";
    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
    const BY_PETER: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    const BY_ENOCH: &str = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

    fn keys(vkeys: &[&str]) -> Vec<VerifierKey> {
        vkeys.iter().map(|vkey| vkey.parse().unwrap()).collect()
    }

    fn signer(name: &str, seed: u8) -> Signer {
        Signer::from_seed(name, &[seed; 32]).unwrap()
    }

    fn parse(note: &str) -> Result<Note, ProofError> {
        Note::parse(note.as_bytes())
    }

    /// The notes in the documentation of Go's sumdb/note, which the specification was written from.
    #[test]
    fn notes_are_those_of_other_implementations() {
        let note = parse(&format!("{TEXT}\n{BY_PETER}{BY_ENOCH}")).unwrap();
        assert_eq!(note.text(), TEXT);
        let both = keys(&[ENOCH, PETER]);
        assert_eq!(note.verify(&both).unwrap(), [&both[1], &both[0]], "in the order of the signatures");
        assert_eq!(note.verify(&both[..1]).unwrap(), [&both[0]], "the unknown one is ignored");
        assert!(matches!(note.verify(&[]), Err(ProofError::Refused(_))));
        let mixed_up = parse(&format!("{}\n{BY_PETER}{BY_ENOCH}", TEXT.to_uppercase())).unwrap();
        assert!(matches!(mixed_up.verify(&both), Err(ProofError::Refused(_))));

        let seed = from_base64("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz").unwrap();
        let peter = Signer::from_seed("PeterNeumann", seed[1..].try_into().unwrap()).unwrap();
        assert_eq!(Note::sign(TEXT, &peter).unwrap().to_string(), format!("{TEXT}\n{BY_PETER}"));
    }

    #[test]
    fn a_wrong_signature_by_a_known_key_spoils_the_note() {
        let (one, two) = (signer("log", 1), signer("log", 2));
        let mut note = Note::sign("text\n", &one).unwrap();
        note.add(two.sign("other text\n"));
        let known = [one.verifier_key().clone(), two.verifier_key().clone()];
        assert!(matches!(note.verify(&known), Err(ProofError::Refused(_))));
        assert_eq!(note.verify(&known[..1]).unwrap().len(), 1, "whoever does not know it ignores it");
        note.add(two.sign("text\n"));
        assert_eq!(note.signatures().len(), 2, "the right one takes its place");
        assert_eq!(note.verify(&known).unwrap().len(), 2);
        let twice = parse(&format!("{note}{}\n", one.sign("text\n"))).unwrap();
        assert_eq!(twice.verify(&known).unwrap().len(), 2, "nobody counts twice");
    }

    #[test]
    fn only_a_right_signature_by_a_known_key_is_added() {
        let (one, two) = (signer("log", 1), signer("log", 2));
        let known = [two.verifier_key().clone()];
        let mut note = Note::sign("text\n", &one).unwrap();
        let before = note.clone();
        for wrong in [two.sign("other text\n"), one.sign("text\n"), signer("other", 2).sign("text\n")] {
            assert!(matches!(note.add_verified(wrong, &known), Err(ProofError::Refused(_))));
            assert_eq!(note, before);
        }
        assert_eq!(note.add_verified(two.sign("text\n"), &known).unwrap(), &known[0]);
        note.add_verified(two.sign("text\n"), &known).unwrap();
        assert_eq!(note.signatures().len(), 2);
    }

    #[test]
    fn a_name_alone_or_an_id_alone_is_not_a_key() {
        let note = Note::sign("text\n", &signer("log", 1)).unwrap();
        let same_name = signer("log", 2).verifier_key().clone();
        assert!(matches!(note.verify(&[same_name]), Err(ProofError::Refused(_))));
        let same_key = signer("other", 1).verifier_key().clone();
        assert!(matches!(note.verify(&[same_key]), Err(ProofError::Refused(_))));
    }

    #[test]
    fn texts_may_have_empty_lines() {
        let signer = signer("log", 1);
        for text in ["\n", "\n\n", "a\n\nb\n\n\n", "— log AAAAAAAA\n", "a\n\n— log AAAAAAAA\n"] {
            let note = Note::sign(text, &signer).unwrap();
            let read = parse(&note.to_string()).unwrap();
            assert_eq!((read.text(), &read), (text, &note));
            read.verify(&[signer.verifier_key().clone()]).unwrap();
        }
        for text in ["", "a", "a\r\n", "a\tb\n", "\0\n"] {
            assert!(Note::sign(text, &signer).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_a_note_is_refused() {
        let line = BY_PETER.trim_end();
        let notes = [
            String::new(),
            "\n\n".into(),
            TEXT.into(),
            format!("{TEXT}\n"),
            format!("{TEXT}{BY_PETER}"),
            format!("\n{BY_PETER}"),
            format!("{TEXT}\n{line}"),
            format!("{TEXT}\n{BY_PETER}\n"),
            format!("{TEXT}\n{BY_PETER}{BY_ENOCH}x"),
            format!("{TEXT}\n{BY_PETER}").replace('—', "-"),
            format!("{TEXT}\n{BY_PETER}").replace("— ", "—"),
            format!("{TEXT}\n{BY_PETER}").replace("Neumann ", "Neumann  "),
            format!("{TEXT}\n{line} \n"),
            format!("{TEXT}\n{BY_PETER}").replace("PeterNeumann", ""),
            format!("{TEXT}\n{BY_PETER}").replace("PeterNeumann", "Peter+Neumann"),
            format!("{TEXT}\n{BY_PETER}").replace("nAM=", "nAM"),
            format!("{TEXT}\n{BY_PETER}").replace("nAM=", "nAN="),
            format!("{TEXT}\n— PeterNeumann \n"),
            format!("{TEXT}\n— PeterNeumann x08gow==\n"),
            format!("{TEXT}\n— PeterNeumann x08=\n"),
            format!("{TEXT}\r\n{BY_PETER}"),
        ];
        for note in notes {
            assert!(matches!(parse(&note), Err(ProofError::Malformed(_))), "{note:?}");
        }
        assert!(Note::parse(b"\xff\n\n").is_err());
    }

    #[test]
    fn notes_are_read_within_bounds() {
        let with = |signatures: usize| format!("{TEXT}\n{}", BY_PETER.repeat(signatures));
        assert_eq!(parse(&with(SIGNATURES_MAX)).unwrap().signatures().len(), SIGNATURES_MAX);
        assert!(parse(&with(SIGNATURES_MAX + 1)).is_err());
        let long = |bytes: usize| format!("{}\n\n{BY_PETER}", "x".repeat(bytes - BY_PETER.len() - 2));
        assert!(parse(&long(NOTE_BYTES_MAX)).is_ok());
        assert!(parse(&long(NOTE_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn a_note_with_any_bit_flipped_is_refused() {
        let known = keys(&[PETER]);
        let bytes = format!("{TEXT}\n{BY_PETER}").into_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Note::parse(&flipped).and_then(|note| note.verify(&known).map(drop)).is_err(),
                "bit {bit}"
            );
        }
        for end in 0..bytes.len() {
            assert!(Note::parse(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn notes_read_back(text in "([ -~é—]{0,20}\n){1,5}", names in prop::collection::vec("[a-z./]{1,12}", 1..6)) {
            let signers: Vec<Signer> = names.iter().zip(1..).map(|(name, seed)| signer(name, seed)).collect();
            let mut note = Note::sign(text.clone(), &signers[0]).unwrap();
            signers[1..].iter().for_each(|signer| note.add(signer.sign(&text)));
            let read = parse(&note.to_string()).unwrap();
            prop_assert_eq!(&read, &note);
            let known: Vec<VerifierKey> = signers.iter().map(|s| s.verifier_key().clone()).collect();
            prop_assert_eq!(read.verify(&known).unwrap().len(), signers.len());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[a\n— A=]{0,60}") {
            for bytes in [&bytes, text.as_bytes()] {
                if let Ok(note) = Note::parse(bytes) {
                    prop_assert_eq!(note.to_string().into_bytes(), bytes);
                }
            }
        }
    }
}
