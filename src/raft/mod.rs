//! Consensus: openraft over our log, for one voter now and shaped for many.
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
mod responder;
mod rpc;
mod sabotage;
pub mod state_machine;
mod tell;
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

use bytes::Bytes;
use openraft::{
    Config, EntryPayload, Instant as _, Raft, RaftTypeConfig, ServerState, SnapshotPolicy,
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
    members::{Change, Member},
    sabotage::Sabotage,
    state_machine::{Boundaries, Boundary, Replica},
};
use self::{
    behind::{Behind, Offer},
    heard::Heard,
    log_store::LogStore,
    network::Peers,
    purge::{Keep, purge_what_is_sealed},
    read_index::ReadIndex,
    responder::OnAnswer,
    state_machine::StateMachine,
};
use crate::{
    config,
    env::{Env, Network},
    error::{Code, Error, Result},
    state::outcome::Outcome,
    types::NodeId,
    wal::{self, Wal, WalState},
};

/// An entry on its way through Raft.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal {
    /// A kind byte and an archive, see `state::entry`.
    pub bytes: Bytes,
    /// Nobody else waits where it was proposed. A hint to the log there, not a part of the entry: see
    /// [`Wal::append_here`].
    pub alone: bool,
}

impl From<Bytes> for Proposal {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, alone: false }
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from seq {}, {} skips", self.first_seq, self.skipped.len())
    }
}

/// The types openraft is generic over.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct TypeConfig {}

impl RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Outcome;
    type NodeId = NodeId;
    type Node = Member;
    type Term = u64;
    // Textbook Raft: at most one leader a term, so a log id is (term, index).
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Proposal, NodeId, Member>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    // Seeded from our own `Rng`, so that a simulated run can be played again.
    type AsyncRuntime = DeterministicRng<TokioRuntime>;
    type Responder<T>
        = OnAnswer<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

type Entry = <TypeConfig as RaftTypeConfig>::Entry;
type Payload = <TypeConfig as RaftTypeConfig>::Payload;
type Vote = <TypeConfig as RaftTypeConfig>::Vote;
type LogId = openraft::alias::LogIdOf<TypeConfig>;

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

/// What a member is to its cluster right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// `leader`, `follower`, `candidate`, `learner`; `shutdown` after it has stopped.
    pub role: &'static str,
    /// The leader, if known.
    pub leader_id: Option<NodeId>,
    /// Current term.
    pub term: u64,
    /// One past the last log index in this member's log.
    pub proposed: u64,
    /// One past the last log index known to be on a quorum's disks.
    pub committed: u64,
    /// One past the last log index applied here.
    pub applied: u64,
    /// The voters of the newest membership.
    pub voters: Vec<NodeId>,
    /// Everyone in it.
    pub members: BTreeMap<NodeId, Member>,
    /// Where others stand in the log: one past the last entry that each is known to have. Only of a leader.
    pub replicated: BTreeMap<NodeId, u64>,
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

    /// Where it stands.
    #[must_use]
    pub fn positions(&self) -> Positions {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let one_past = |id: &Option<LogId>| id.as_ref().map_or(0, |id| id.index + 1);
        Positions {
            role: match metrics.state {
                ServerState::Leader => "leader",
                ServerState::Follower => "follower",
                ServerState::Candidate => "candidate",
                ServerState::Learner => "learner",
                ServerState::Shutdown => "shutdown",
            },
            leader_id: metrics.current_leader,
            term: metrics.current_term,
            proposed: metrics.last_log_index.map_or(0, |index| index + 1),
            committed: one_past(&metrics.local_committed),
            applied: one_past(&metrics.last_applied),
            voters: membership.voter_ids().collect(),
            members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
            replicated: metrics
                .replication
                .iter()
                .flatten()
                .map(|(id, matching)| (*id, matching.as_ref().map_or(0, |id| id.index + 1)))
                .collect(),
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

    /// Whether it leads, by what this member knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// Whether it leads and a quorum has answered lately, as far as that is known. A leader that is cut off goes on to
    /// lead until it hears of another; what it proposes then is of unknown outcome for as long.
    #[must_use]
    pub fn can_commit(&self) -> bool {
        if !self.raft.is_leader() || self.sole_voter.load(Ordering::Acquire) {
            return self.raft.is_leader();
        }
        let answered = self.raft.metrics().borrow_watched().last_quorum_acked;
        answered.is_none_or(|answered| answered.elapsed() < self.silence_max)
    }

    /// Whether somebody leads who can: this member with a quorum that answers it, or another that was heard no longer ago
    /// than members wait before they stand for election.
    #[must_use]
    pub fn is_led(&self) -> bool {
        match self.raft.server_metrics().borrow_watched().current_leader {
            None => false,
            Some(leader) if leader == self.me => self.can_commit(),
            Some(_) => self.heard.leader_within(self.silence_max),
        }
    }

    /// Whether a member answers this leader: it has, to what was sent no longer ago than others wait before they elect
    /// somebody.
    #[must_use]
    pub fn is_answered_by(&self, id: NodeId) -> bool {
        id == self.me || self.heard.has_answered_within(self.silence_max, id)
    }

    /// Whether a member had this id and has left: then nobody has it any more.
    #[must_use]
    pub fn was_removed(&self, id: NodeId) -> bool {
        self.removed.borrow().contains(&id)
    }

    /// The ids of all that have left, as this member has applied them.
    #[must_use]
    pub fn removed(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.removed.clone()
    }

    /// Who leads, by what this member knows, and where that member is reached.
    #[must_use]
    pub fn leader(&self) -> Option<(NodeId, Member)> {
        let leader = self.raft.server_metrics().borrow_watched().current_leader?;
        Some((leader, member(&self.raft, leader)?))
    }

    /// Waits until another member than `old` leads, by what this one knows.
    pub async fn led_by_other_than(&self, old: NodeId) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let leader = metrics.borrow_watched().current_leader;
            if leader.is_some_and(|leader| leader != old) {
                return;
            }
            if metrics.changed().await.is_err() {
                // Consensus has stopped: nobody will.
                std::future::pending::<()>().await;
            }
        }
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

/// A member's term, and the configurations that each need a quorum.
fn standing(raft: &Raft<TypeConfig, StateMachine>) -> (u64, Vec<BTreeSet<NodeId>>) {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    (metrics.current_term, metrics.membership_config.membership().get_joint_config().clone())
}

/// Where a member is reached, if it is one.
fn member(raft: &Raft<TypeConfig, StateMachine>, id: NodeId) -> Option<Member> {
    raft.server_metrics().borrow_watched().membership_config.membership().get_node(&id).cloned()
}

/// Checks that a log goes on where the newest sealed segment ends, whose last entry is `newest`.
///
/// # Errors
/// [`Code::Corrupt`] when entries are missing between them.
pub fn check_continues(log: &WalState, newest: Option<wal::LogId>) -> Result<()> {
    let WalState { first, last, .. } = *log;
    let lost = |what: String| {
        Err(Error::new(
            Code::Corrupt,
            format!(
                "{what}: files of the write-ahead log or of segments are missing; restore them from a backup; nothing \
                 was changed"
            ),
        ))
    };
    match newest {
        None if first.0 > 0 => {
            lost(format!("the log begins at entry {first}, and no segment holds what was before"))
        }
        Some(log) if first.0 > log.index.0 + 1 => lost(format!(
            "the log begins at entry {first}, and the newest segment ends with entry {}",
            log.index
        )),
        Some(log) if last.is_none_or(|last| last < log) => {
            lost(format!("the log ends before entry {}, with which the newest segment ends", log.index))
        }
        _ => Ok(()),
    }
}

/// Applies what the log knows to be committed, a few megabytes at a time: openraft's own replay reads 64
/// entries whatever their size.
fn replay(wal: &Wal, log: &LogStore, state_machine: &mut StateMachine, sabotage: Sabotage) -> Result<()> {
    const CHUNK_BYTES: usize = 8 << 20;
    let WalState { committed, last, .. } = wal.state();
    // A member may know that more is committed than it has on disk itself: the rest comes from its peers.
    let end = committed.min(last).map_or(0, |id| id.index.0 + 1);
    let mut next = state_machine.applied().map_or(0, |id| id.index + 1);

    while next < end {
        let entries =
            log.entries(next, end, CHUNK_BYTES).map_err(|e| Error::io("reading the log for replay", &e))?;
        if entries.is_empty() {
            return Err(Error::new(
                Code::Corrupt,
                format!("the log is known to be committed up to index {end} but entry {next} is not in it"),
            ));
        }
        for entry in entries {
            next = entry.log_id.index + 1;
            if sabotage.replay_twice && next == end {
                state_machine.apply_entry(entry.clone())?;
            }
            state_machine.apply_entry(entry)?;
        }
    }
    Ok(())
}
