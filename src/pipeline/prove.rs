//! Stage 5, prove: hashes what is applied into the tree, and signs how far it has come.
//!
//! Takes applied records from the state, gives leaf hashes to the [`Tree`] and signed checkpoints to whoever
//! watches. Nobody's answer waits for it but those that asked for a receipt. It does not own the tree, the key,
//! nor segments: it wakes `seal` once a full segment is proven.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    gauge::Gauge,
    worker::{Bell, Next, Worker},
};
use crate::{
    error::{Code, Error, Result},
    proof::{Hash, checkpoint::Checkpoint, key::Signer, leaf::Leaf},
    segment::COMMITMENT_BYTES_MIN,
    state::State,
    tree::{ShowCheckpoint, Signed, Tree, Witness, Witnessed},
    types::Seq,
};

/// Records hashed at a time: about a millisecond.
const SPAN_RECORDS: usize = 4_096;

/// While records flow, the newest checkpoint is never much older than this.
const SIGN_EVERY: Duration = Duration::from_millis(50);

/// How often the witness is told while records flow: it costs a sync.
const WITNESS_EVERY: Duration = Duration::from_secs(1);

/// The stage.
pub struct Prove {
    state: Arc<State>,
    tree: Arc<Tree>,
    /// None in an embedded ledger, which shows its checkpoints to nobody.
    signer: Option<Signer>,
    /// The size from which on it signs: what was recovered. None until that is known.
    recovered: Arc<OnceLock<Seq>>,
    signed: ShowCheckpoint,
    last_signed: Instant,
    witness: Witness,
    /// What the witness said at the start, until it has been compared.
    expected: Option<Witnessed>,
    /// The size that it was told last, and when.
    witnessed: (Seq, Instant),
    seal: Bell,
    gauge: Arc<Gauge>,
}

impl Prove {
    /// Grows `tree` by what `state` has applied, signs with `signer` and wakes `seal`. Gives the place where it shows
    /// checkpoints.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        tree: Arc<Tree>,
        signer: Option<Signer>,
        recovered: Arc<OnceLock<Seq>>,
        (witness, expected): (Witness, Option<Witnessed>),
        seal: Bell,
        gauge: Arc<Gauge>,
    ) -> (Self, ShowCheckpoint) {
        let signed = watch::Sender::new(None);
        let shown = signed.clone();
        let last_signed = Instant::now();
        let witnessed = (Seq(0), last_signed);
        let prove = Self {
            state,
            tree,
            signer,
            recovered,
            signed,
            last_signed,
            witness,
            expected,
            witnessed,
            seal,
            gauge,
        };
        (prove, shown)
    }

    /// A segment may have ended with a record that was proven before.
    fn wake_seal(&self) {
        if self.state.oldest_closed().is_some_and(|(_, end)| end <= self.tree.size()) {
            self.seal.ring();
        }
    }

    /// Whether what has been recovered is proven: before, the tree is smaller than it was known to be.
    fn has_recovered(&self, size: Seq) -> bool {
        self.recovered.get().is_some_and(|recovered| size >= *recovered)
    }

    /// Compares the tree with what was known of it before the start, once it has come as far.
    fn compare(&mut self) -> Result<()> {
        let expected = self.expected.filter(|expected| expected.size <= self.tree.size());
        let Some(Witnessed { size, root, .. }) = expected else {
            return Ok(());
        };
        if self.tree.root_at(size)? == root {
            self.expected = None;
            return Ok(());
        }
        Err(Error::new(
            Code::Corrupt,
            format!(
                "the first {size} records are not those that were here before: the log or the segments are another \
                 ledger's; restore the right ones"
            ),
        ))
    }

    /// Tells the witness how far the tree has come, now and then; when to come back for the rest.
    fn tell_witness(&mut self) -> Next {
        let (size, root) = self.tree.head();
        let (told, when) = self.witnessed;
        if size == told || !self.has_recovered(size) {
            return Next::Rung;
        }
        if when.elapsed() < WITNESS_EVERY {
            return Next::In(WITNESS_EVERY);
        }
        self.witnessed = (size, Instant::now());
        if let Err(error) = self.witness.write(size, &root) {
            // It says less than it could: nothing else depends on it.
            tracing::debug!(%error, "how far the ledger has come could not be noted");
        }
        Next::Rung
    }

    fn sign(&mut self) -> Result<()> {
        let Some(signer) = &self.signer else { return Ok(()) };
        let (size, root) = self.tree.head();
        // A smaller one than was shown before a restart would look like a ledger that has shrunk.
        if !self.has_recovered(size) {
            return Ok(());
        }
        if self.signed.borrow().as_ref().is_some_and(|last| last.size == size) {
            return Ok(());
        }
        let note = Checkpoint::new(signer.name(), size.0, root)?.sign(signer)?.to_string();
        let cosigners = BTreeSet::new();
        self.signed.send_replace(Some(Arc::new(Signed { size, root, note, cosigners })));
        self.last_signed = Instant::now();
        Ok(())
    }
}

impl Worker for Prove {
    const NAME: &'static str = "prove";
    // What is written one by one is hashed some at a time: waking for each costs more than hashing it.
    const LINGER: Duration = Duration::from_millis(3);
    // A few milliseconds: what was answered is then under the last checkpoint, and the witness knows all of it.
    const FINISHES: bool = true;

    fn work(&mut self) -> Result<Next> {
        let span = self.state.span(self.tree.size(), SPAN_RECORDS);
        if span.is_empty() {
            self.compare()?;
            self.sign()?;
            self.wake_seal();
            return Ok(self.tell_witness());
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
            self.compare()?;
            self.sign()?;
            // The next piece of work comes back for the rest.
            let _ = self.tell_witness();
        }
        Ok(Next::Now)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::WalConfig,
        index::IndexOptions,
        sealed::{Sealed, SealedOptions},
        sim::{SimIo, sim_env},
        state::batch::{Batch, BatchView, Draft},
        wal::{Driver, Wal, WalOptions},
    };

    fn put(state: &State, count: usize) {
        let mut draft = Draft::new();
        (0..count).for_each(|n| draft.put(&n.to_be_bytes(), b"value").unwrap());
        let mut batch = Batch::default();
        batch.append(draft);
        state.apply(&BatchView::open(batch.encode(1).unwrap()).unwrap()).unwrap();
    }

    /// A node that had shown a checkpoint once showed a smaller one after a restart, until it had hashed as far.
    #[test]
    fn nothing_is_signed_before_all_that_was_recovered_is_proven() {
        let index = IndexOptions { cache_bytes: 0, hash_seed: 1 };
        let options =
            SealedOptions { block_cache_bytes: 0, hot_cache_bytes: 0, index, cold: Default::default() };
        let sealed = Sealed::open(Arc::new(SimIo::new(1)), Path::new("/data"), options).unwrap();
        let sealed = Arc::new(sealed);
        let tree = Arc::new(Tree::open(sealed.clone()).unwrap());
        let state = Arc::new(State::open(sealed, crate::state::StateOptions::default()).unwrap());
        let signer = Some(Signer::from_seed("log", &[7; 32]).unwrap());
        let recovered = Arc::<OnceLock<Seq>>::default();
        let env = sim_env(&SimIo::new(2), 2);
        let options = WalOptions::new(WalConfig::default(), Driver::Step);
        let wal = Wal::open(&env, Path::new("/data/wal"), options).unwrap();
        let witness = (Witness::new(env.io, "/data".into(), wal), None);
        let (mut prove, shown) = Prove::new(
            state.clone(),
            tree,
            signer,
            recovered.clone(),
            witness,
            Bell::default(),
            Gauge::new("prove"),
        );
        let mut prove_all = || while prove.work().unwrap() == Next::Now {};
        let shown = || shown.borrow().as_ref().map(|signed| signed.size);
        put(&state, 10);
        prove_all();
        assert_eq!(shown(), None, "nobody has said how far it has to come");
        recovered.set(Seq(30)).unwrap();
        put(&state, 10);
        prove_all();
        assert_eq!(shown(), None);
        put(&state, 10);
        prove_all();
        assert_eq!(shown(), Some(Seq(30)));
        put(&state, 1);
        prove_all();
        assert_eq!(shown(), Some(Seq(31)));
    }
}
