//! Consensus: openraft over our log.
//!
//! ```text
//! propose ─► openraft core ─► log_store ─► wal          durable
//!                 │ commit
//!                 └─► state_machine ─► Replica::apply ─► OnAnswer   the proposer hears
//! ```
//!
//! Takes opaque proposals and gives outcomes, positions and read barriers. It does not own what a
//! proposal means (`pipeline::apply` behind [`Replica`]) nor admission (`pipeline::ingest`).
//!
//! openraft's own snapshot, purge and lag limits count entries, and one of our entries is anything from
//! a byte to a hundred megabytes: they are switched off, and bounds in bytes are ours.

mod anew;
mod answers;
mod behind;
mod codec;
mod heard;
pub mod log_store;
mod members;
mod network;
mod purge;
mod read_index;
mod replay;
mod responder;
mod rpc;
mod sabotage;
mod standing;
pub mod state_machine;
mod tell;
mod types;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{
    Config, Raft, SnapshotPolicy,
    async_runtime::watch::WatchReceiver,
    errors::ClientWriteError,
    raft::{
        ClientWriteResult, ReadPolicy,
        linearizable_read::{Linearizer, ReadLogId},
    },
};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use tokio::{sync::watch, time::Instant};

pub use self::{
    anew::begin_anew,
    behind::{Ahead, TooFarAhead},
    members::{Change, Member, members_in},
    replay::check_continues,
    sabotage::Sabotage,
    standing::Positions,
    state_machine::{Boundaries, Boundary, Replica},
    types::{Proposal, TypeConfig},
};
use self::{
    behind::{Behind, Offer},
    heard::Heard,
    log_store::LogStore,
    network::Peers,
    purge::{Keep, purge_what_is_sealed},
    read_index::ReadIndex,
    replay::replay,
    responder::OnAnswer,
    standing::{member, standing},
    state_machine::StateMachine,
    types::{Entry, LogId, Payload, Vote},
};
use crate::{
    config,
    env::{Env, Network},
    error::{Code, Error, Result},
    state::outcome::Outcome,
    types::NodeId,
    wal::Wal,
};

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was answered before the read began, on any node.
    #[default]
    Linearizable,
    /// The same as long as clocks run at the same speed: the leader's lease instead of a round trip.
    Lease,
    /// Whatever this node has applied.
    Stale,
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It provably never entered the log: this member does not lead. It may be proposed again.
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// It may be in the log, now or later.
    Unknown(String),
}

/// One member of the group. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    raft: Raft<TypeConfig, StateMachine>,
    me: NodeId,
    sole_voter: Arc<AtomicBool>,
    reads: ReadIndex,
    heard: Arc<Heard>,
    removed: watch::Receiver<BTreeSet<NodeId>>,
    patience: Duration,
    /// A leader that no quorum has answered for so long is on its own; before that no other is elected.
    silence_max: Duration,
    too_far_ahead: TooFarAhead,
    network: Arc<dyn Network>,
    sabotage: Sabotage,
}

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {}", self.me)
    }
}

impl Consensus {
    /// Replays what the log knows to be committed, then takes part.
    ///
    /// A member without a log founds the group of `founders`, unless that is empty: then it waits to hear
    /// from a leader.
    ///
    /// # Errors
    /// A log that cannot be read or applied, and a consensus configuration that openraft refuses.
    pub async fn start(
        env: &Env,
        config: &config::Config,
        founders: BTreeMap<NodeId, Member>,
        wal: Wal,
        replica: Arc<dyn Replica>,
        boundaries: Boundaries,
        sabotage: Sabotage,
    ) -> Result<Self> {
        let (me, keep, config) = (config.node.id, Keep::from(&config.wal), &config.consensus);
        let log = LogStore::new(wal.clone(), me, sabotage);
        let offer = Offer::new(boundaries.clone(), wal.clone());
        let mut state_machine = StateMachine::from_boundary(replica.clone(), boundaries.clone(), offer)?;
        replay(&wal, &log, &mut state_machine, sabotage)?;
        log.note_voters(state_machine.membership().voter_ids());
        let removed = state_machine.removed();

        let patience = config.leader_patience;
        let longest_lease = Duration::from_millis(config.election_timeout_ms * 2);
        let waits_for_lease = wal.state().last.is_some() && !sabotage.vote_in_lease;
        let config = Config {
            cluster_name: "scribe".into(),
            election_timeout_min: config.election_timeout_ms,
            election_timeout_max: config.election_timeout_ms * 2,
            heartbeat_interval: config.heartbeat_interval_ms,
            max_payload_entries: config.max_payload_entries,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: u64::MAX,
            enable_pre_vote: Some(true),
            // A leader sends entries while it syncs them: one that lost its own to a power cut and led on in the same
            // term would write others in their place, and members would hold different ledgers.
            enable_leader_restore: Some(sabotage.lead_on),
            // Not before the lease that it may have granted is over, see below.
            enable_elect: !waits_for_lease,
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(|e| Error::new(Code::InvalidConfig, e.to_string()))?);
        let sole_voter = log.sole_voter();
        let stopped = |e: &dyn fmt::Display| Error::new(Code::Internal, format!("consensus stopped: {e}"));
        let metrics = Arc::<OnceLock<_>>::default();
        let heard = Arc::new(Heard::new(me));
        let peers =
            Peers { network: env.network.clone(), me, metrics: metrics.clone(), heard: heard.clone() };
        let start = Raft::new(me, config, peers, log, state_machine);
        let raft = DeterministicRng::<TokioRuntime>::scope(env.rng.next_u64(), start)
            .await
            .map_err(|e| stopped(&e))?;
        // Set once, here.
        let _ = metrics.set(raft.metrics());
        let (behind, too_far_ahead) = Behind::new(wal.clone());
        let reads = ReadIndex::new(raft.clone(), env.network.clone(), heard.clone(), patience, sabotage);
        let lease_end = waits_for_lease.then(|| Instant::now() + longest_lease);
        answers::serve(&*env.network, &raft, &reads, behind, (replica, heard.clone()), lease_end);
        if let Some(end) = lease_end {
            tokio::spawn(stand_for_election_from(raft.clone(), end));
        }
        if raft.is_initialized().await.map_err(|e| stopped(&e))? {
            // Nobody else can win, so there is no reason to wait for a timeout.
            if sole_voter.load(Ordering::Acquire) {
                raft.trigger().elect(false).await.map_err(|e| stopped(&e))?;
            }
        } else if !founders.is_empty() {
            raft.initialize(founders).await.map_err(|e| stopped(&e))?;
        }
        tokio::spawn(purge_what_is_sealed(raft.clone(), wal, boundaries, keep));
        Ok(Self {
            raft,
            me,
            sole_voter,
            reads,
            heard,
            removed,
            patience,
            too_far_ahead,
            network: env.network.clone(),
            silence_max: longest_lease,
            sabotage,
        })
    }

    /// Waits until everything that was committed before the start is applied here.
    ///
    /// # Errors
    /// When consensus has stopped.
    pub async fn recovered(&self) -> Result<()> {
        if self.raft.wait_for_recovery(None).await.is_ok() {
            return Ok(());
        }
        let why = self.stopped().await.unwrap_or_else(|| "it was asked to".into());
        Err(Error::new(Code::Internal, format!("consensus stopped: {why}")))
    }

    /// Proposes an entry; `answer` is called once, on the task that completes it.
    pub async fn propose(
        &self,
        proposal: Proposal,
        answer: impl FnOnce(std::result::Result<Outcome, Refusal>) + Send + 'static,
    ) {
        let responder = OnAnswer::new(|result: Option<ClientWriteResult<TypeConfig>>| {
            answer(match result {
                Some(Ok(response)) => Ok(response.data),
                Some(Err(ClientWriteError::ForwardToLeader(leader))) => {
                    Err(Refusal::NotLeader { leader: leader.leader_id })
                }
                Some(Err(other)) => Err(Refusal::Unknown(words::of_write(&other))),
                None => Err(Refusal::Unknown("consensus stopped while the entry was on its way".into())),
            });
        });
        // An error means that the core has stopped; the responder was dropped with the message and has
        // answered already.
        let _ = self.raft.client_write_ff(proposal, Some(responder)).await;
    }

    /// Whether this member alone decides, so that what it has applied is all that was ever answered.
    fn decides_alone(&self) -> bool {
        self.sole_voter.load(Ordering::Acquire) && self.raft.is_leader()
    }

    /// Waits until a read of this consistency may be answered from what this member has applied.
    ///
    /// # Errors
    /// [`Code::NoQuorum`] when leadership cannot be confirmed.
    pub async fn read_barrier(&self, consistency: Consistency) -> Result<()> {
        let unconfirmed = |why: &dyn fmt::Display| {
            Error::new(Code::NoQuorum, format!("the read cannot be confirmed: {why}"))
                .retry_after(Duration::from_millis(200))
        };
        let index = match consistency {
            Consistency::Stale => return Ok(()),
            _ if self.decides_alone() => return Ok(()),
            _ if self.sabotage.read_anywhere && !self.raft.is_leader() => return Ok(()),
            Consistency::Lease if self.sabotage.skip_lease && self.raft.is_leader() => return Ok(()),
            Consistency::Lease if self.raft.is_leader() => {
                let (term, configs) = standing(&self.raft);
                match self.raft.get_read_log_id(ReadPolicy::LeaseRead).await {
                    Ok((index, _)) if self.heard.within(self.silence_max, term, &configs) => *index.log_id(),
                    // The lease has run out, or never began: a round of heartbeats says the same.
                    _ => self.reads.get().await.map_err(|why| unconfirmed(&why))?,
                }
            }
            Consistency::Lease | Consistency::Linearizable => {
                self.reads.get().await.map_err(|why| unconfirmed(&why))?
            }
        };
        let applied = self.raft.metrics().borrow_watched().last_applied;
        if applied >= Some(index) || self.sabotage.skip_apply_wait {
            return Ok(());
        }
        let barrier = Linearizer::new(self.me, ReadLogId::from_log_id(index), applied);
        match barrier.try_await_ready(&self.raft, Some(self.patience)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(unconfirmed(&format!(
                "entry {} is not applied here yet: this member is behind",
                index.index
            ))),
            Err(_) => Err(unconfirmed(&words::STOPPED)),
        }
    }

    /// The leader whose log begins behind this member's end, each time it says so.
    #[must_use]
    pub fn too_far_ahead(&self) -> TooFarAhead {
        self.too_far_ahead.clone()
    }

    /// What was planted here.
    #[doc(hidden)]
    #[must_use]
    pub fn sabotage(&self) -> Sabotage {
        self.sabotage
    }

    /// The member that this is.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.me
    }

    /// Waits until consensus has stopped and says why; `None` after [`Consensus::stop`].
    pub async fn stopped(&self) -> Option<String> {
        // Role changes are rare and their channel ends with the core; the channel of all metrics would wake
        // this task at every entry.
        let mut roles = self.raft.server_metrics();
        while roles.changed().await.is_ok() {}
        match &self.raft.metrics().borrow_watched().running_state {
            Err(openraft::errors::Fatal::Stopped) | Ok(()) => None,
            Err(fatal) => Some(words::of_fatal(fatal)),
        }
    }

    /// Stops taking part; entries on their way are answered as unknown.
    pub async fn stop(&self) {
        answers::stop(&*self.network);
        // The only error is a panic of the core, which `stopped` reports.
        let _ = self.raft.shutdown().await;
    }
}

/// A member that was just started votes for nobody, itself included, while a leader may still read under the lease that
/// it granted before: its own vote and that of one who was cut off would elect another.
async fn stand_for_election_from(raft: Raft<TypeConfig, StateMachine>, lease_end: Instant) {
    tokio::time::sleep_until(lease_end).await;
    raft.runtime_config().elect(true);
}
