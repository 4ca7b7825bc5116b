//! Where a member stands: its role and its log's ends, who leads, and whether anybody follows.
//!
//! Takes what openraft's metrics and our own record of what was heard say, gives what others decide by. Nothing is asked
//! of anybody for it. It does not own what a read has to wait for ([`Consensus::read_barrier`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use openraft::{Instant as _, Raft, ServerState, async_runtime::watch::WatchReceiver};
use tokio::sync::watch;

use super::{Consensus, Member, TypeConfig, state_machine::StateMachine, types::LogId};
use crate::types::NodeId;

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

impl Consensus {
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
}

/// A member's term, and the configurations that each need a quorum.
pub(super) fn standing(raft: &Raft<TypeConfig, StateMachine>) -> (u64, Vec<BTreeSet<NodeId>>) {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    (metrics.current_term, metrics.membership_config.membership().get_joint_config().clone())
}

/// Where a member is reached, if it is one.
pub(super) fn member(raft: &Raft<TypeConfig, StateMachine>, id: NodeId) -> Option<Member> {
    raft.server_metrics().borrow_watched().membership_config.membership().get_node(&id).cloned()
}
