//! Proof that a peer knows the cluster's secret, without saying it.
//!
//! Both ends prove by a keyed BLAKE3 hash over everything that the two have said so far: a nonce of each, both ids, both
//! cluster ids, the lane. The hash begins with the side it speaks for, so that neither side's proof is of any use for the
//! other, and a nonce of one's own is in it, so that no proof fits twice.
//!
//! A stranger who listens can try guesses against what was heard: a secret has to be long. What follows the handshake is
//! neither encrypted nor signed.

use std::fmt;

/// What BLAKE3 derives the key for: frozen, as the messages are.
const CONTEXT: &str = "scribe-ledger 2026 transport between members, handshake v1";

/// Bytes of a proof.
pub(super) const PROOF_BYTES: usize = 32;

/// Which end of a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that has connected.
    Dialer = 1,
    /// The one that was connected to.
    Answerer = 2,
}

/// The cluster's secret, or that there is none.
pub(super) struct Secret(Option<[u8; 32]>);

impl Secret {
    /// Keeps the key that follows from the secret. An empty one is none.
    pub fn new(secret: Option<&[u8]>) -> Self {
        let secret = secret.filter(|secret| !secret.is_empty());
        Self(secret.map(|secret| blake3::derive_key(CONTEXT, secret)))
    }

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// The proof of one side, given the two hellos as they were sent; empty without a secret.
    pub fn prove(&self, side: Side, dialer_hello: &[u8], answerer_hello: &[u8]) -> Vec<u8> {
        self.hash(side, dialer_hello, answerer_hello).map(|hash| hash.as_bytes().to_vec()).unwrap_or_default()
    }

    /// Whether this is what [`Secret::prove`] gives to one who knows the secret. Takes as long for every wrong one.
    pub fn is_proof(&self, proof: &[u8], side: Side, dialer_hello: &[u8], answerer_hello: &[u8]) -> bool {
        match (self.hash(side, dialer_hello, answerer_hello), <[u8; PROOF_BYTES]>::try_from(proof)) {
            (Some(hash), Ok(proof)) => hash == blake3::Hash::from_bytes(proof),
            (None, Err(_)) => proof.is_empty(),
            _ => false,
        }
    }

    fn hash(&self, side: Side, dialer_hello: &[u8], answerer_hello: &[u8]) -> Option<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(self.0.as_ref()?);
        hasher.update(&[side as u8]);
        for hello in [dialer_hello, answerer_hello] {
            hasher.update(&(hello.len() as u64).to_le_bytes());
            hasher.update(hello);
        }
        Some(hasher.finalize())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_some() { "Secret(set)" } else { "Secret(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_fits_one_secret_one_side_and_one_conversation() {
        let secret = Secret::new(Some(b"long and random"));
        let proof = secret.prove(Side::Dialer, b"ab", b"c");
        assert!(secret.is_proof(&proof, Side::Dialer, b"ab", b"c"));
        assert!(!secret.is_proof(&proof, Side::Answerer, b"ab", b"c"), "reflected");
        assert!(!secret.is_proof(&proof, Side::Dialer, b"a", b"bc"), "lengths are part of it");
        assert!(!secret.is_proof(&proof, Side::Dialer, b"ab", b"d"), "another nonce");
        assert!(!secret.is_proof(&proof[..31], Side::Dialer, b"ab", b"c"));
        assert!(!secret.is_proof(&[], Side::Dialer, b"ab", b"c"));
        assert!(!Secret::new(Some(b"other")).is_proof(&proof, Side::Dialer, b"ab", b"c"));
    }

    #[test]
    fn without_a_secret_there_is_nothing_to_prove() {
        for none in [Secret::new(None), Secret::new(Some(b""))] {
            assert!(!none.is_some());
            assert!(none.prove(Side::Dialer, b"a", b"b").is_empty());
            assert!(none.is_proof(&[], Side::Dialer, b"a", b"b"));
            assert!(!none.is_proof(&[0; 32], Side::Dialer, b"a", b"b"));
        }
        assert!(!format!("{:?}", Secret::new(Some(b"hush"))).contains("hush"));
    }
}
