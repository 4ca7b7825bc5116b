//! The stages behind the answer, wired and running: prove, seal, index.
//!
//! They are started before the log is replayed, which closes segments as it did the first time.

use std::sync::{Arc, OnceLock, atomic::AtomicBool};

use tokio::sync::watch;

use super::{
    Gauges,
    index::FeedIndex,
    prove::Prove,
    seal::Seal,
    worker::{self, Bell, Mend, Running},
};
use crate::{
    error::Result,
    proof::key::Signer,
    raft::{Boundaries, Boundary},
    state::{State, boundary},
    tree::{ShowCheckpoint, Tree, Witness, Witnessed},
    types::Seq,
    wal::{Driver, Wal},
};

/// The running stages.
#[derive(Debug)]
pub struct Background {
    state: Arc<State>,
    prove: Running,
    seal: Running,
    index: Running,
    /// Wakes `prove`.
    pub bell: Bell,
    recovered: Arc<OnceLock<Seq>>,
    /// Shows the newest signed checkpoint.
    pub checkpoint: ShowCheckpoint,
    /// The newest sealed segment's end.
    pub boundaries: Boundaries,
    /// Whether the next segment has no room on the disk.
    pub disk_is_full: Arc<AtomicBool>,
}

impl Background {
    /// Starts them.
    ///
    /// # Errors
    /// [`Code::Corrupt`](crate::error::Code::Corrupt) when the newest segment has no boundary.
    pub fn start(
        state: Arc<State>,
        tree: Arc<Tree>,
        signer: Option<Signer>,
        witness: (Witness, Option<Witnessed>),
        (wal, driver): (Wal, Driver),
        gauges: &Gauges,
    ) -> Result<Self> {
        let (bell, to_seal, to_index) = (Bell::default(), Bell::default(), Bell::default());
        let newest = match state.sealed().segments().last().map(|segment| segment.summary()) {
            None => None,
            Some(newest) => {
                let membership = boundary::Boundary::decode(&newest.boundary)?.membership;
                Some(Boundary { log: newest.last_log, membership })
            }
        };
        let (tell_boundaries, boundaries) = watch::channel(newest);
        let index = FeedIndex::new(Arc::clone(state.sealed()), to_seal.clone(), gauges.index.clone());
        // An embedded ledger has nobody to take a segment from.
        let (sealed, is_alone) = (state.sealed().clone(), signer.is_none());
        let mend: Mend = Arc::new(move |error| !is_alone && sealed.mend(error));
        let index = worker::spawn(index, to_index.clone(), driver, mend.clone());
        let (seal_gauge, prove_gauge) = (gauges.seal.clone(), gauges.prove.clone());
        let disk_is_full = Arc::<AtomicBool>::default();
        let seal = Seal::new(
            state.clone(),
            tree.clone(),
            wal,
            tell_boundaries,
            to_index.clone(),
            seal_gauge,
            disk_is_full.clone(),
        );
        let seal = worker::spawn(seal, to_seal.clone(), driver, mend.clone());
        let recovered = Arc::<OnceLock<Seq>>::default();
        let (prove, checkpoint) =
            Prove::new(state.clone(), tree, signer, recovered.clone(), witness, to_seal, prove_gauge);
        let prove = worker::spawn(prove, bell.clone(), driver, mend);
        // A restart may have left some of it to do, and a checkpoint is wanted of what there is.
        bell.ring();
        to_index.ring();
        Ok(Self { state, prove, seal, index, bell, recovered, checkpoint, boundaries, disk_is_full })
    }

    /// Where it is noted that the start is over.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        Recovery { recovered: self.recovered.clone(), state: self.state.clone(), bell: self.bell.clone() }
    }

    /// Waits until one of them has stopped and says why, if there is a why.
    pub async fn stopped(&self) -> Option<String> {
        tokio::select! {
            biased;
            why = self.prove.stopped() => why,
            why = self.seal.stopped() => why,
            why = self.index.stopped() => why,
        }
    }

    /// Stops them where they are: what is not sealed is in the log.
    pub async fn stop(mut self) -> Option<String> {
        // A run may wait for the index to merge earlier ones.
        self.state.sealed().close();
        let (prove, seal) = (self.prove.stop().await, self.seal.stop().await);
        let index = self.index.stop().await;
        prove.or(seal).or(index)
    }
}

/// Where it is noted that everything is applied that was committed before the start.
#[derive(Debug)]
pub struct Recovery {
    recovered: Arc<OnceLock<Seq>>,
    state: Arc<State>,
    bell: Bell,
}

impl Recovery {
    /// It is: checkpoints may be signed from what is applied now on.
    pub fn note(&self) {
        // The first time counts.
        let _ = self.recovered.set(self.state.applied());
        self.bell.ring();
    }
}
