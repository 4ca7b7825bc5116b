//! One visit to a server: from the checkpoint that is remembered to the one that it shows now. Pure: no I/O.
//!
//! Takes what the server answers, says what to ask next and whether to believe it. The order is that of the
//! methods: whose signature it is ([`Visit::open`]), that nothing was taken away or changed
//! ([`Visit::check_growth`]), that records are what the tree holds ([`Visit::check_sample`]), and then what to
//! remember ([`Visit::remember`]). Roots and sizes of the server's proofs are never used: only those that were
//! signed are.

use std::{collections::BTreeSet, fmt};

use super::{ConsistencyAnswer, InclusionAnswer, RecordAnswer, Remembered};
use crate::{
    env::Rng,
    proof::{
        ProofError, checkpoint::Checkpoint, consistency::verify_consistency, inclusion::verify_inclusion,
        key::VerifierKey, note::Note,
    },
};

/// Why a server is not to be believed; a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distrust(pub String);

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Distrust {}

impl From<ProofError> for Distrust {
    fn from(error: ProofError) -> Self {
        Self(error.to_string())
    }
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Visit {
    checkpoint: Checkpoint,
    note: String,
    keys: Vec<VerifierKey>,
    signers: Vec<String>,
    earlier: Option<Checkpoint>,
}

impl Visit {
    /// Reads the checkpoint that a server shows. One of `keys` has to have signed it, and it has to go on from
    /// the one that is remembered, as far as two notes alone can tell.
    ///
    /// # Errors
    /// [`Distrust`] when no key has signed it, it is of another log, smaller, or of the same size with another
    /// root.
    pub fn open(
        note: &[u8],
        keys: Vec<VerifierKey>,
        remembered: Option<&Remembered>,
    ) -> Result<Self, Distrust> {
        let parsed = Note::parse(note)?;
        let (checkpoint, signers) = Checkpoint::open(&parsed, &keys)?;
        let signers = signers.iter().map(|key| format!("{}+{}", key.name(), key.id())).collect();
        let earlier = remembered.map(|remembered| remembered.checkpoint().clone());
        if let Some(earlier) = &earlier {
            let (before, now) = (earlier.size(), checkpoint.size());
            if checkpoint.origin() != earlier.origin() {
                let (now, before) = (checkpoint.origin(), earlier.origin());
                return Err(Distrust(format!("it shows the log {now}, and {before} is remembered")));
            }
            if now < before {
                let what = format!("the log has shrunk: it had {before} records, and now it shows {now}");
                return Err(Distrust(what));
            }
            if now == before && checkpoint.root() != earlier.root() {
                let (now, was) = (checkpoint.root(), earlier.root());
                let what = format!(
                    "the log's history has changed: its root of {before} records was {was}, and now it is {now}"
                );
                return Err(Distrust(what));
            }
        }
        Ok(Self { checkpoint, note: parsed.to_string(), keys, signers, earlier })
    }

    /// Which log a note says that it is of: hearsay, and enough to look for what is remembered of it.
    ///
    /// # Errors
    /// [`Distrust`] when it is not a checkpoint.
    pub fn origin_of(note: &[u8]) -> Result<String, Distrust> {
        let checkpoint: Checkpoint = Note::parse(note)?.text().parse()?;
        Ok(checkpoint.origin().to_owned())
    }

    /// What the server shows.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The known keys that signed it, `name+id`.
    #[must_use]
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// What is remembered of the visit before.
    #[must_use]
    pub const fn earlier(&self) -> Option<&Checkpoint> {
        self.earlier.as_ref()
    }

    /// Between which sizes a consistency proof is needed; none when the notes alone have told.
    #[must_use]
    pub fn growth(&self) -> Option<(u64, u64)> {
        let (from, to) = (self.earlier.as_ref()?.size(), self.checkpoint.size());
        // Every tree goes on from the empty one.
        (from > 0 && from < to).then_some((from, to))
    }

    /// Checks that the log only grew.
    ///
    /// # Errors
    /// [`Distrust`] when the proof does not lead from the remembered root to the one that is signed now.
    pub fn check_growth(&self, answer: &ConsistencyAnswer) -> Result<(), Distrust> {
        let Some(earlier) = &self.earlier else { return Ok(()) };
        let (from, to) = (earlier.size(), self.checkpoint.size());
        let (from_root, to_root) = (earlier.root(), self.checkpoint.root());
        let changed = |why: &str| {
            Distrust(format!(
                "it cannot show that its {to} records begin with the {from} that are remembered: {why}; the log's \
                 history has changed"
            ))
        };
        if (answer.from, answer.to) != (from, to) {
            return Err(changed(&format!("its proof is from {} to {} records", answer.from, answer.to)));
        }
        if (&answer.from_root, &answer.to_root) != (from_root, to_root) {
            return Err(changed("its proof is between other roots than the signed ones"));
        }
        verify_consistency(from, to, from_root, to_root, &answer.hashes).map_err(|e| changed(&e.to_string()))
    }

    /// Positions to look at: the newest record, and `count` others by chance.
    #[must_use]
    pub fn samples(&self, count: u64, rng: &dyn Rng) -> Vec<u64> {
        let Some(newest) = self.checkpoint.size().checked_sub(1) else { return Vec::new() };
        if count >= newest {
            return (0..=newest).collect();
        }
        let mut others = BTreeSet::new();
        while (others.len() as u64) < count {
            others.insert(rng.next_u64() % newest);
        }
        others.into_iter().chain([newest]).collect()
    }

    /// Checks that a record is the one that the signed tree holds at its position.
    ///
    /// # Errors
    /// [`Distrust`] when the leaf is not in the tree, or says something else than the record.
    pub fn check_sample(
        &self,
        seq: u64,
        proof: &InclusionAnswer,
        record: &RecordAnswer,
    ) -> Result<(), Distrust> {
        let wrong = |what: String| Err(Distrust(format!("record {seq}: {what}")));
        let (size, root) = (self.checkpoint.size(), self.checkpoint.root());
        if (proof.leaf_index, proof.tree_size) != (seq, size) || proof.leaf.seq.0 != seq {
            return wrong(format!(
                "its proof is of another leaf, or of another tree than that of {size} records"
            ));
        }
        if proof.leaf.hash() != proof.leaf_hash || proof.root_hash != *root {
            return wrong(
                "its proof names a leaf hash or a root that is not the leaf's or the signed one".into(),
            );
        }
        if let Err(error) = verify_inclusion(&proof.leaf.hash(), seq, size, &proof.siblings, root) {
            return wrong(error.to_string());
        }
        let same = record.seq.0 == seq
            && record.op == proof.leaf.op
            && record.timestamp_ms == proof.leaf.timestamp_ms
            && proof.leaf.commits_to(&record.key, record.value.as_deref());
        if same {
            Ok(())
        } else {
            wrong("what the server gives for it is not what its leaf commits to".into())
        }
    }

    /// What the next visit begins with.
    #[must_use]
    pub fn remember(self) -> Remembered {
        Remembered::new(self.keys, self.note, self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        env::real::OsRng,
        proof::{
            Hash, consistency::consistency_proof, inclusion::inclusion_proof, key::Signer, leaf::Leaf,
            memory::MemoryTree, tree::root,
        },
        types::{Op, Seq},
    };

    const ORIGIN: &str = "log";

    fn signer() -> Signer {
        Signer::from_seed(ORIGIN, &[1; 32]).unwrap()
    }

    fn keys() -> Vec<VerifierKey> {
        vec![signer().verifier_key().clone()]
    }

    fn leaf_at(seq: u64) -> Leaf {
        let op = if seq % 3 == 2 { Op::Delete } else { Op::Put };
        Leaf::of(op, Seq(seq), 100 + seq, format!("k{seq}").as_bytes(), b"value")
    }

    fn record(seq: u64) -> RecordAnswer {
        let leaf = leaf_at(seq);
        let value = (leaf.op == Op::Put).then(|| b"value".to_vec());
        let key = format!("k{seq}").into_bytes();
        RecordAnswer { seq: Seq(seq), op: leaf.op, timestamp_ms: leaf.timestamp_ms, key, value }
    }

    fn tree() -> MemoryTree {
        (0..50).map(|seq| leaf_at(seq).hash()).collect()
    }

    fn note(size: u64, root: Hash) -> Vec<u8> {
        Checkpoint::new(ORIGIN, size, root).unwrap().sign(&signer()).unwrap().to_string().into_bytes()
    }

    fn visit(size: u64, remembered: Option<&Remembered>) -> Result<Visit, Distrust> {
        Visit::open(&note(size, root(&tree(), size).unwrap()), keys(), remembered)
    }

    fn inclusion(seq: u64, size: u64) -> InclusionAnswer {
        let leaf = leaf_at(seq);
        InclusionAnswer {
            leaf_index: seq,
            tree_size: size,
            leaf,
            leaf_hash: leaf.hash(),
            root_hash: root(&tree(), size).unwrap(),
            siblings: inclusion_proof(&tree(), seq, size).unwrap(),
        }
    }

    fn consistency(from: u64, to: u64) -> ConsistencyAnswer {
        let root = |size| root(&tree(), size).unwrap();
        let hashes = consistency_proof(&tree(), from, to).unwrap();
        ConsistencyAnswer { from, to, from_root: root(from), to_root: root(to), hashes }
    }

    #[test]
    fn an_honest_log_is_believed_from_visit_to_visit() {
        let mut remembered = None;
        for size in [0, 0, 1, 20, 20, 50] {
            let visit = visit(size, remembered.as_ref()).unwrap();
            if let Some((from, to)) = visit.growth() {
                visit.check_growth(&consistency(from, to)).unwrap();
            }
            let samples = visit.samples(4, &OsRng);
            assert_eq!(samples.len() as u64, size.min(5));
            assert_eq!(samples.last().copied(), size.checked_sub(1));
            for seq in samples {
                visit.check_sample(seq, &inclusion(seq, size), &record(seq)).unwrap();
            }
            assert_eq!(visit.signers(), [format!("log+{}", keys()[0].id())]);
            remembered = Some(visit.remember());
        }
        assert_eq!(remembered.unwrap().checkpoint().size(), 50);
    }

    #[test]
    fn a_note_that_does_not_go_on_is_refused() {
        let before = visit(20, None).unwrap().remember();
        let says = |note: &[u8], keys: Vec<VerifierKey>| {
            Visit::open(note, keys, Some(&before)).unwrap_err().to_string()
        };
        assert!(visit(19, Some(&before)).unwrap_err().0.contains("has shrunk"));
        assert!(says(&note(20, Hash::of(b"x")), keys()).contains("history has changed"));
        let stranger = Signer::from_seed(ORIGIN, &[2; 32]).unwrap();
        assert!(
            says(&note(21, Hash::of(b"x")), vec![stranger.verifier_key().clone()]).contains("no known key")
        );
        let other = Signer::from_seed("other", &[1; 32]).unwrap();
        let theirs = Checkpoint::new("other", 30, Hash::of(b"x")).unwrap().sign(&other).unwrap().to_string();
        assert!(says(theirs.as_bytes(), vec![other.verifier_key().clone()]).contains("the log other"));
        assert!(says(b"<html>\n", keys()).contains("a note"));
    }

    #[test]
    fn growth_that_is_not_shown_is_refused() {
        let before = visit(20, None).unwrap().remember();
        let visit = visit(50, Some(&before)).unwrap();
        assert_eq!(visit.growth(), Some((20, 50)));
        let changes: [fn(&mut ConsistencyAnswer); 5] = [
            |answer| answer.from = 19,
            |answer| answer.to = 49,
            |answer| answer.from_root = Hash::of(b"x"),
            |answer| answer.hashes[0].0[3] ^= 1,
            |answer| answer.hashes.truncate(1),
        ];
        for change in changes {
            let mut answer = consistency(20, 50);
            change(&mut answer);
            assert!(visit.check_growth(&answer).unwrap_err().0.contains("history has changed"));
        }
    }

    #[test]
    fn a_record_that_is_not_the_leafs_is_refused() {
        let visit = visit(50, None).unwrap();
        let proofs: [fn(&mut InclusionAnswer); 6] = [
            |proof| proof.leaf_index = 8,
            |proof| proof.tree_size = 49,
            |proof| proof.leaf = leaf_at(8),
            |proof| proof.leaf_hash = Hash::of(b"x"),
            |proof| proof.root_hash = Hash::of(b"x"),
            |proof| proof.siblings[2].0[0] ^= 1,
        ];
        for change in proofs {
            let mut proof = inclusion(7, 50);
            change(&mut proof);
            assert!(visit.check_sample(7, &proof, &record(7)).is_err());
        }
        let records: [fn(&mut RecordAnswer); 6] = [
            |record| record.seq = Seq(8),
            |record| record.timestamp_ms += 1,
            |record| record.key.push(b'x'),
            |record| record.value = Some(b"other".to_vec()),
            |record| (record.op, record.value) = (Op::Delete, None),
            |record| record.op = Op::Delete,
        ];
        for change in records {
            let mut record = record(7);
            change(&mut record);
            assert!(visit.check_sample(7, &inclusion(7, 50), &record).is_err());
        }
    }
}
