//! Receipts: all that is needed to show, years later and offline, that a record is in the ledger
//! (C2SP tlog-proof, with the record's leaf as the extra data).
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <base64 of the leaf>
//! index <the leaf's index, decimal>
//! <base64 hash> …                         the inclusion proof, the leaf's sibling first
//! (an empty line)
//! <the signed checkpoint, as it was served>
//! ```
//!
//! Takes a leaf, its inclusion proof and a checkpoint, gives text and a verdict. It does not own the keys a
//! verifier believes. The extra data is hearsay by the format's own words; here it is the leaf itself, which
//! the inclusion proof vouches for.

use std::{fmt, str::FromStr};

use super::{
    checkpoint::Checkpoint,
    encoding::{from_base64, from_decimal, to_base64},
    error::ProofError,
    hash::Hash,
    inclusion::verify_inclusion,
    key::VerifierKey,
    leaf::{LEAF_BYTES, Leaf},
    note::Note,
};

const HEADER: &str = "c2sp.org/tlog-proof@v1";
const EXTRA: &str = "extra ";
const INDEX: &str = "index ";

/// Most hashes that prove a leaf: one for each level of the largest tree.
const HASHES_MAX: usize = 63;

/// A record's leaf, the proof of its place, and the checkpoint it leads to. Reading one proves nothing: see
/// [`Receipt::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The leaf's bytes.
    pub leaf: [u8; LEAF_BYTES],
    /// The leaf's index, which is the record's seq.
    pub index: u64,
    /// The inclusion proof in the checkpoint's tree.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: Note,
}

/// What a receipt proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What was written: to be compared with a key and a value by [`Leaf::commits_to`].
    pub leaf: Leaf,
    /// The checkpoint of the ledger that the record is in.
    pub checkpoint: Checkpoint,
}

impl Receipt {
    /// Checks everything: a known key of the log has signed the checkpoint, the proof leads from the leaf to its
    /// root, and the leaf is that of the record at this index.
    ///
    /// # Errors
    /// [`ProofError::Refused`] when any of it does not hold; [`ProofError::Malformed`] or
    /// [`ProofError::OutOfRange`] when a part makes no sense.
    pub fn verify(&self, known: &[VerifierKey]) -> Result<Verified, ProofError> {
        let (checkpoint, _) = Checkpoint::open(&self.checkpoint, known)?;
        let leaf = Leaf::decode(&self.leaf)?;
        if leaf.seq.0 != self.index {
            let (seq, index) = (leaf.seq, self.index);
            return Err(ProofError::refused(format!("the leaf of record {seq} cannot be leaf {index}")));
        }
        verify_inclusion(&leaf.hash(), self.index, checkpoint.size(), &self.hashes, checkpoint.root())?;
        Ok(Verified { leaf, checkpoint })
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\n{EXTRA}{}\n{INDEX}{}", to_base64(&self.leaf), self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Receipt {
    type Err = ProofError;

    /// Reads what `Display` writes. A proof without extra data may be a good one, but it is not a receipt.
    fn from_str(text: &str) -> Result<Self, ProofError> {
        let malformed = |what: &str| ProofError::malformed(format!("not a receipt: {what}"));
        let (proof, checkpoint) =
            text.split_once("\n\n").ok_or_else(|| malformed("no empty line before the checkpoint"))?;
        let mut lines = proof.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(malformed(&format!("its first line is not {HEADER}")));
        }
        let mut labelled = |label: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(label));
            line.ok_or_else(|| malformed(&format!("no line {label:?} where it should be")))
        };
        let leaf = from_base64(labelled(EXTRA)?)?
            .try_into()
            .map_err(|_| malformed(&format!("the extra data is not a leaf of {LEAF_BYTES} bytes")))?;
        let index = from_decimal(labelled(INDEX)?)?;
        let hashes = lines.take(HASHES_MAX + 1).map(Hash::from_base64).collect::<Result<Vec<_>, _>>()?;
        if hashes.len() > HASHES_MAX {
            return Err(malformed("more hashes than any tree has levels"));
        }
        Ok(Self { leaf, index, hashes, checkpoint: Note::parse(checkpoint.as_bytes())? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        proof::{inclusion::inclusion_proof, key::Signer, memory::MemoryTree, tree::root},
        types::{Op, Seq},
    };

    fn leaf(seq: u64) -> Leaf {
        Leaf::of(Op::Put, Seq(seq), 1_000 + seq, format!("key {seq}").as_bytes(), b"value")
    }

    fn signer() -> Signer {
        Signer::from_seed("scribe/test/0", &[7; 32]).unwrap()
    }

    fn keys() -> [VerifierKey; 1] {
        [signer().verifier_key().clone()]
    }

    fn receipt(index: u64, size: u64) -> Receipt {
        let tree: MemoryTree = (0..size).map(|seq| leaf(seq).hash()).collect();
        let checkpoint = Checkpoint::new("scribe/test/0", size, root(&tree, size).unwrap()).unwrap();
        Receipt {
            leaf: leaf(index).encode(),
            index,
            hashes: inclusion_proof(&tree, index, size).unwrap(),
            checkpoint: checkpoint.sign(&signer()).unwrap(),
        }
    }

    fn parse(text: &str) -> Result<Receipt, ProofError> {
        text.parse()
    }

    #[test]
    fn a_receipt_proves_what_was_written() {
        for (index, size) in [(0, 1), (0, 2), (4, 5), (11, 29), (99, 100)] {
            let receipt = receipt(index, size);
            let read = parse(&receipt.to_string()).unwrap();
            assert_eq!(read, receipt);
            let verified = read.verify(&keys()).unwrap();
            assert_eq!((verified.leaf, verified.checkpoint.size()), (leaf(index), size));
            assert!(verified.leaf.commits_to(format!("key {index}").as_bytes(), Some(b"value")));
        }
    }

    #[test]
    fn a_receipt_with_any_bit_flipped_is_refused() {
        let bytes = receipt(5, 11).to_string().into_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let Ok(text) = std::str::from_utf8(&flipped) else { continue };
            assert!(parse(text).and_then(|receipt| receipt.verify(&keys())).is_err(), "bit {bit}: {text}");
        }
        let text = String::from_utf8(bytes).unwrap();
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            assert!(parse(&text[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn parts_of_different_receipts_do_not_go_together() {
        let (one, two) = (receipt(3, 11), receipt(5, 12));
        for mixed in [
            Receipt { leaf: two.leaf, ..one.clone() },
            Receipt { index: two.index, ..one.clone() },
            Receipt { hashes: two.hashes.clone(), ..one.clone() },
            Receipt { checkpoint: two.checkpoint.clone(), ..one.clone() },
            Receipt { leaf: two.leaf, index: two.index, ..one.clone() },
        ] {
            assert!(matches!(mixed.verify(&keys()), Err(ProofError::Refused(_))), "{mixed}");
        }
        assert!(matches!(one.verify(&[]), Err(ProofError::Refused(_))));
    }

    #[test]
    fn what_is_not_a_receipt_is_refused() {
        let good = receipt(5, 11).to_string();
        let extra = good.lines().nth(1).unwrap();
        let hash = good.lines().nth(3).unwrap();
        let texts = [
            String::new(),
            good.replacen("@v1", "@v2", 1),
            good.replacen("extra ", "extra  ", 1),
            good.replacen(&format!("{extra}\n"), "", 1),
            good.replacen(&format!("{extra}\n"), &format!("{extra}\n{extra}\n"), 1),
            good.replacen(extra, "extra ", 1),
            good.replacen(extra, "extra AAAA", 1),
            good.replacen("index 5", "index 05", 1),
            good.replacen("index 5", "index", 1),
            good.replacen("index 5", "Index 5", 1),
            good.replacen("index 5\n", "", 1),
            good.replacen(hash, &hash[..40], 1),
            good.replacen(hash, &format!("{hash}\n").repeat(64), 1),
            good.replacen("\n\n", "\n", 1),
            good.replacen("\n\n", "\n\n\n", 1),
            good.replace('\n', "\r\n"),
            format!("\n{good}"),
        ];
        for text in texts {
            let verdict = parse(&text).and_then(|receipt| receipt.verify(&keys()));
            assert!(verdict.is_err(), "{text}");
        }
    }

    #[test]
    fn a_receipt_is_that_of_the_golden_file() {
        let text = receipt(5, 11).to_string();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/receipt-v1.tlog-proof");
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            std::fs::write(golden, &text).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(golden).unwrap(),
            text,
            "receipts already given out would not be these"
        );
    }

    proptest! {
        #[test]
        fn receipts_read_back(
            leaf in any::<[u8; 32]>(), index in any::<u64>(), hashes in prop::collection::vec(any::<[u8; 32]>(), 0..=HASHES_MAX),
        ) {
            let mut receipt = receipt(0, 1);
            receipt.leaf[10..42].copy_from_slice(&leaf);
            receipt.index = index;
            receipt.hashes = hashes.into_iter().map(Hash).collect();
            prop_assert_eq!(parse(&receipt.to_string()).unwrap(), receipt.clone());
            prop_assert!(receipt.verify(&keys()).is_err());
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "(c2sp.org/tlog-proof@v1\n)?(extra [A-Za-z=]{0,9}\n)?(index [0-9]{0,9}\n)?(.{0,9}\n){0,4}") {
            std::hint::black_box(parse(&text).is_ok());
        }
    }
}
