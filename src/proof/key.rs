//! Keys that sign notes, and keys that verify them: Ed25519 (RFC 8032) under a name (C2SP signed-note).
//!
//! ```text
//! verifier key    <name>+<key id, 8 hex digits>+<base64 of 0x01 ‖ public key>
//! key id          first 4 bytes of SHA-256(name ‖ "\n" ‖ 0x01 ‖ public key)
//! ```
//!
//! Takes names and 32 bytes of seed or text, gives signatures and verdicts. It does not own where seeds come
//! from or are kept, nor which keys are to be believed.

use std::{fmt, str::FromStr};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::{
    encoding::{from_base64, shortened, to_base64},
    error::ProofError,
    hash::Hash,
    note::NoteSignature,
};

/// Signature type of Ed25519 over the note's text.
const ED25519: u8 = 1;

/// Bytes of a seed, and of a public key.
const KEY_BYTES: usize = 32;

/// Says which key signed, beside the name: short, for it only has to tell a log's few keys apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

impl KeyId {
    fn of(name: &str, public_key: &[u8; KEY_BYTES]) -> Self {
        let hash = Hash::of(&[name.as_bytes(), b"\n", &[ED25519], public_key].concat());
        Self([hash.0[0], hash.0[1], hash.0[2], hash.0[3]])
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// Refuses names that a signature line cannot hold.
///
/// # Errors
/// [`ProofError::Malformed`] for a name that is empty or has a space, a plus sign or a control character.
pub fn check_key_name(name: &str) -> Result<(), ProofError> {
    let is_bad = |c: char| c.is_whitespace() || c < ' ' || c == '+';
    if name.is_empty() || name.contains(is_bad) {
        return Err(ProofError::malformed(format!(
            "{:?} is not a key name: one or more characters, no space, control character or plus sign",
            shortened(name)
        )));
    }
    Ok(())
}

/// A public key that a verifier has been told to believe, and for which name.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: KeyId,
    key: VerifyingKey,
}

impl VerifierKey {
    /// The name it signs under: for a log, the log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its short identifier.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whether this key made `signature` (64 bytes) over `text`. Refuses what RFC 8032 leaves open (signatures
    /// that hold for several texts or keys), so that all verifiers agree.
    #[must_use]
    pub fn accepts(&self, text: &str, signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(text.as_bytes(), &signature).is_ok())
    }

    fn new(name: &str, key: VerifyingKey) -> Result<Self, ProofError> {
        check_key_name(name)?;
        Ok(Self { name: name.to_owned(), id: KeyId::of(name, key.as_bytes()), key })
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed: Vec<u8> = [ED25519].into_iter().chain(self.key.to_bytes()).collect();
        write!(f, "{}+{}+{}", self.name, self.id, to_base64(&typed))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = ProofError;

    /// Reads what `Display` writes, and no other spelling of it.
    fn from_str(text: &str) -> Result<Self, ProofError> {
        let malformed =
            |what: &str| ProofError::malformed(format!("verifier key {:?}: {what}", shortened(text)));
        // Base 64 has plus signs of its own; a name has none.
        let [name, id, key] = text
            .splitn(3, '+')
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|_| malformed("not of the form name+id+key"))?;
        let key = match from_base64(key)?.split_first() {
            Some((&ED25519, key)) => <[u8; KEY_BYTES]>::try_from(key).map_err(|_| malformed("not 32 bytes")),
            _ => Err(malformed("not an Ed25519 key")),
        }?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| malformed("not a point of the curve"))?;
        if key.is_weak() {
            return Err(malformed("a weak key, under which anyone can sign"));
        }
        let key = Self::new(name, key)?;
        if key.id.to_string() != id {
            return Err(malformed(&format!("its id should be {}", key.id)));
        }
        Ok(key)
    }
}

/// A private key and the name it signs under. Its `Debug` form shows the public half only.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    public: VerifierKey,
}

impl Signer {
    /// The signer with this secret. Nothing here is random: the same seed is the same key, and the same text gets
    /// the same signature.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for a name that [`check_key_name`] refuses.
    pub fn from_seed(name: &str, seed: &[u8; KEY_BYTES]) -> Result<Self, ProofError> {
        let key = SigningKey::from_bytes(seed);
        Ok(Self { public: VerifierKey::new(name, key.verifying_key())?, key })
    }

    /// The name it signs under.
    #[must_use]
    pub fn name(&self) -> &str {
        self.public.name()
    }

    /// What verifiers need to know of it.
    #[must_use]
    pub const fn verifier_key(&self) -> &VerifierKey {
        &self.public
    }

    /// Signs a note's text, which ends in a newline.
    #[must_use]
    pub fn sign(&self, text: &str) -> NoteSignature {
        let signature = self.key.sign(text.as_bytes());
        NoteSignature {
            name: self.public.name.clone(),
            key_id: self.public.id,
            signature: signature.to_bytes().to_vec(),
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_those_of_other_implementations() {
        // The example keys in the documentation of Go's sumdb/note.
        let seed = from_base64("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz").unwrap();
        let signer = Signer::from_seed("PeterNeumann", seed[1..].try_into().unwrap()).unwrap();
        let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        assert_eq!(signer.verifier_key().to_string(), vkey);
        assert_eq!(vkey.parse::<VerifierKey>().unwrap(), *signer.verifier_key());
        assert_eq!(format!("{signer:?}"), format!("Signer({vkey})"), "the secret is not shown");
    }

    #[test]
    fn names_fit_a_signature_line() {
        for name in ["", " ", "a b", "a+b", "a\nb", "a\u{a0}b", "a\u{2003}", "\u{1}", "\t"] {
            assert!(check_key_name(name).is_err(), "{name:?}");
            assert!(Signer::from_seed(name, &[1; 32]).is_err(), "{name:?}");
        }
        for name in ["a", "example.com/log", "scribe/7f3a/1", "é—日本"] {
            check_key_name(name).unwrap();
        }
    }

    #[test]
    fn keys_under_which_anyone_can_sign_are_refused() {
        // The neutral element of the curve: every signature with R = sB holds under it, for any text.
        let neutral: [u8; 32] = std::array::from_fn(|n| u8::from(n == 0));
        let typed = [&[ED25519][..], &neutral].concat();
        let vkey = format!("log+{}+{}", KeyId::of("log", &neutral), to_base64(&typed));
        assert!(vkey.parse::<VerifierKey>().unwrap_err().to_string().contains("weak"));
    }

    proptest! {
        #[test]
        fn any_flip_in_a_key_is_another_key_or_none(
            seed in any::<[u8; 32]>(), name in "[a-z./0-9]{1,20}", at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let key = Signer::from_seed(&name, &seed).unwrap().verifier_key().clone();
            let text = key.to_string();
            prop_assert_eq!(text.parse::<VerifierKey>().unwrap(), key.clone());
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            // The id binds name and key: a flip is only missed once in four billion.
            prop_assert!(std::str::from_utf8(&bytes).map_or(true, |text| text.parse::<VerifierKey>().is_err()));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,80}", key in "[a-z+]{0,9}\\+[0-9a-f]{8}\\+[A-Za-z0-9+/=]{0,48}") {
            std::hint::black_box((text.parse::<VerifierKey>().is_ok(), key.parse::<VerifierKey>().is_ok()));
        }

        #[test]
        fn signatures_hold_for_one_text_under_one_key(
            seed in any::<[u8; 32]>(), other_seed in any::<[u8; 32]>(), text in ".{0,60}", bit in 0usize..512,
        ) {
            let signer = Signer::from_seed("log", &seed).unwrap();
            let mut signature = signer.sign(&text).signature;
            prop_assert_eq!(&signer.sign(&text).signature, &signature, "signing is not random");
            prop_assert!(signer.verifier_key().accepts(&text, &signature));
            let longer = text.clone() + " ";
            prop_assert!(!signer.verifier_key().accepts(&longer, &signature));
            prop_assert!(!signer.verifier_key().accepts(&text, &signature[..63]));
            let other = Signer::from_seed("log", &other_seed).unwrap();
            prop_assert!(seed == other_seed || !other.verifier_key().accepts(&text, &signature));
            signature[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!signer.verifier_key().accepts(&text, &signature));
        }
    }
}
