//! Stage 5, prove: hashes what is applied into the tree, and signs how far it has come.
//!
//! Takes applied records from the state, gives leaf hashes to the [`Tree`] and signed checkpoints to whoever
//! watches. Nobody's answer waits for it but those that asked for a receipt. It does not own the tree, the key,
//! nor segments: it wakes `seal` once a full segment is proven.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    gauge::Gauge,
    worker::{Bell, Next, Worker},
};
use crate::{
    error::Result,
    proof::{Hash, checkpoint::Checkpoint, key::Signer, leaf::Leaf},
    segment::COMMITMENT_BYTES_MIN,
    state::State,
    tree::{Checkpoints, Signed, Tree},
    types::Seq,
};

/// Records hashed at a time: about a millisecond.
const SPAN_RECORDS: usize = 4_096;

/// While records flow, the newest checkpoint is never much older than this.
const SIGN_EVERY: Duration = Duration::from_millis(50);

/// The stage.
pub struct Prove {
    state: Arc<State>,
    tree: Arc<Tree>,
    /// None in an embedded ledger, which shows its checkpoints to nobody.
    signer: Option<Signer>,
    /// The size from which on it signs: what was recovered. None until that is known.
    recovered: Arc<OnceLock<Seq>>,
    signed: watch::Sender<Option<Arc<Signed>>>,
    last_signed: Instant,
    seal: Bell,
    gauge: Arc<Gauge>,
}

impl Prove {
    /// Grows `tree` by what `state` has applied, signs with `signer` and wakes `seal`.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        tree: Arc<Tree>,
        signer: Option<Signer>,
        recovered: Arc<OnceLock<Seq>>,
        seal: Bell,
        gauge: Arc<Gauge>,
    ) -> (Self, Checkpoints) {
        let (signed, checkpoints) = watch::channel(None);
        let last_signed = Instant::now();
        (Self { state, tree, signer, recovered, signed, last_signed, seal, gauge }, checkpoints)
    }

    /// A segment may have ended with a record that was proven before.
    fn wake_seal(&self) {
        if self.state.oldest_closed().is_some_and(|(_, end)| end <= self.tree.size()) {
            self.seal.ring();
        }
    }

    fn sign(&mut self) -> Result<()> {
        let Some(signer) = &self.signer else { return Ok(()) };
        let (size, root) = self.tree.head();
        // A smaller one than was shown before a restart would look like a ledger that has shrunk.
        if self.recovered.get().is_none_or(|recovered| size < *recovered) {
            return Ok(());
        }
        if self.signed.borrow().as_ref().is_some_and(|last| last.size == size) {
            return Ok(());
        }
        let note = Checkpoint::new(signer.name(), size.0, root)?.sign(signer)?.to_string();
        self.signed.send_replace(Some(Arc::new(Signed { size, root, note })));
        self.last_signed = Instant::now();
        Ok(())
    }
}

impl Worker for Prove {
    const NAME: &'static str = "prove";
    // What is written one by one is hashed some at a time: waking for each costs more than hashing it.
    const LINGER: Duration = Duration::from_millis(3);

    fn work(&mut self) -> Result<Next> {
        let span = self.state.span(self.tree.size(), SPAN_RECORDS);
        if span.is_empty() {
            self.sign()?;
            self.wake_seal();
            return Ok(Next::Rung);
        }
        let _stay = self.gauge.enter(span.len() as u64, 0);
        let mut commitments = Vec::new();
        let leaves: Vec<Hash> = span
            .iter()
            .map(|(seq, timestamp_ms, op)| {
                let leaf = Leaf::of(op.op, seq, timestamp_ms, op.key, op.value);
                if op.value.len() >= COMMITMENT_BYTES_MIN {
                    commitments.push((seq, leaf.value_commit));
                }
                leaf.hash()
            })
            .collect();
        self.tree.extend(&leaves, commitments);
        self.wake_seal();
        if self.last_signed.elapsed() >= SIGN_EVERY {
            self.sign()?;
        }
        Ok(Next::Now)
    }
}
