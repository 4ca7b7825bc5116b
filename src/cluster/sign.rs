//! Signs other members' checkpoints: the answering end of [`Question::Sign`] and [`Question::Enrol`].
//!
//! Takes a size and a root, gives a signature line if this member has signed as many records itself and its own tree
//! has the same root. It never takes the other's word for anything, and it may be asked for what it has not reached: it
//! waits a moment then. It does not own who asks (`cosign`, `enrol`), nor when this member signs for itself
//! (`pipeline::prove`), which is only what was recovered, applied and proven.
//!
//! [`Question::Sign`]: super::message::Question::Sign
//! [`Question::Enrol`]: super::message::Question::Enrol

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::timeout;

use super::{enrol::propose, message::Signature};
use crate::{
    error::{Code, Error, Result},
    proof::{Hash, checkpoint::Checkpoint, key::Signer, key::VerifierKey},
    raft::Consensus,
    runtime::{HEAVY_BYTES, without_blocking_others},
    state::{
        State,
        attestation::ATTESTATION_LEVEL,
        signers::{Enrolment, is_enrolled},
    },
    tree::{Checkpoints, Tree},
    types::{NodeId, Seq},
};

/// How long whoever asks for more than is proven here is kept waiting.
const CATCH_UP_PATIENCE: Duration = Duration::from_millis(100);

/// What a member signs with, and what it looks at before.
#[derive(Debug)]
pub struct Desk {
    /// Its key.
    pub signer: Signer,
    /// Its own tree.
    pub tree: Arc<Tree>,
    /// What it has signed for itself.
    pub checkpoints: Checkpoints,
    /// The replicated state.
    pub state: Arc<State>,
    /// The way into the log.
    pub consensus: Consensus,
    /// How often another member's root was found to differ from this one's.
    pub disputes: Arc<AtomicU64>,
    /// Of whom it has been said.
    pub disputed: Mutex<BTreeSet<NodeId>>,
}

impl Desk {
    /// Answers whether it signs, after waiting a moment for what it has not reached. Keeps nothing in use meanwhile.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when it is stopping; [`Code::Io`], [`Code::Corrupt`] of a segment that has to be read.
    pub async fn sign(desk: &Weak<Self>, from: NodeId, size: Seq, root: Hash) -> Result<Signature> {
        let stopping = || Error::new(Code::Unavailable, "this member is stopping");
        let mut checkpoints = desk.upgrade().ok_or_else(stopping)?.checkpoints.clone();
        // What it has signed itself is recovered, applied and proven.
        let reached = timeout(CATCH_UP_PATIENCE, async {
            let reached =
                checkpoints.wait_for(|signed| signed.as_ref().is_some_and(|signed| signed.size >= size));
            reached.await.is_ok()
        });
        if !reached.await.unwrap_or(false) {
            let signed = checkpoints.borrow().as_ref().map_or(Seq(0), |signed| signed.size);
            return Ok(Signature::Behind(signed));
        }
        let desk = desk.upgrade().ok_or_else(stopping)?;
        let here = without_blocking_others(HEAVY_BYTES, || desk.tree.root_at(size)).inspect_err(|error| {
            // Whoever asks comes again.
            let _ = desk.state.sealed().mend(error);
        })?;
        if here == root {
            desk.disputed.lock().remove(&from);
            let note = Checkpoint::new(desk.signer.name(), size.0, root)?.to_string();
            return Ok(Signature::Signed(desk.signer.sign(&note)));
        }
        desk.disputes.fetch_add(1, Relaxed);
        if desk.disputed.lock().insert(from) {
            tracing::error!(
                member = from,
                %size,
                here = %here,
                there = %root,
                "another member's tree differs: its checkpoint is not signed; one of the two copies has diverged"
            );
        }
        Ok(Signature::Differs(here))
    }

    /// Puts the key of a member into the log, if this one leads; whether it is there.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for a key that cannot be kept.
    pub async fn enrol(desk: &Weak<Self>, from: NodeId, incarnation: u64, key: VerifierKey) -> Result<bool> {
        let Some(here) = desk.upgrade() else { return Ok(false) };
        let has_level =
            here.state.settings().is_some_and(|settings| settings.feature_level >= ATTESTATION_LEVEL);
        let consensus = here.consensus.clone();
        if !has_level || !consensus.is_leader() || consensus.member(from).is_none() {
            return Ok(false);
        }
        if is_enrolled(&here.state.signers(), from, &key) {
            return Ok(true);
        }
        if key.name() != here.signer.name() {
            tracing::warn!(
                member = from,
                theirs = key.name(),
                ours = here.signer.name(),
                "members sign under different names: give all of them the same ledger.origin"
            );
        }
        drop(here);
        propose(&consensus, &Enrolment { member: from, incarnation, key }).await
    }
}
