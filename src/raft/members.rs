//! Who belongs to the group: its members, and the ways to change them.
//!
//! Takes changes on the member that leads and makes them entries of the log; openraft takes a group through a joint
//! membership where voters change (Ongaro's thesis, section 4.3). It does not own who wants a change
//! (`crate::cluster`) nor connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers,
    errors::{ClientWriteError, RaftError},
};
use tokio::time::{Instant, sleep};

use super::{Consensus, Refusal, codec, words};
use crate::{
    error::{Code, Error, Result},
    state::boundary::Boundary,
    types::NodeId,
};

/// One member: where it is reached, and what it is there for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Node traffic.
    pub raft_addr: String,
    /// Clients.
    pub http_addr: String,
    /// Which of the directories with its id it is, so that another one that claims the id is known; 0 = not known.
    pub incarnation: u64,
    /// Whether it never becomes a voter: it serves reads.
    pub is_replica: bool,
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a member that does not vote, or writes down that one is reached elsewhere.
    Add(NodeId, Member),
    /// Makes these members voters, beside those that are.
    Promote(BTreeSet<NodeId>),
    /// Makes these members the voters, and no others; who does not vote any more leaves.
    Replace(BTreeSet<NodeId>),
    /// Takes members out.
    Remove(BTreeSet<NodeId>),
}

/// The members that a segment's boundary names, for whoever needs them before consensus runs.
///
/// # Errors
/// [`Code::Corrupt`] when it names none.
pub fn members_in(boundary: &Boundary) -> Result<BTreeMap<NodeId, Member>> {
    let (membership, _) = codec::decode_stored_membership(&boundary.membership)?;
    Ok(membership.membership().nodes().map(|(id, member)| (*id, member.clone())).collect())
}

/// Between two looks whether leadership has passed.
const PAUSE: Duration = Duration::from_millis(5);

impl Consensus {
    /// Makes a change and waits until it is in force.
    ///
    /// # Errors
    /// Who leads, where this member does not; what the outcome is unknown for.
    pub async fn change(&self, change: Change) -> std::result::Result<(), Refusal> {
        // A leader that has been taken out leads until it has told the others. openraft's core does not survive a change
        // that is given to it then.
        if self.raft.is_leader() && !self.raft.voter_ids().any(|voter| voter == self.me) {
            return Err(Refusal::NotLeader { leader: None });
        }
        let result = match change {
            Change::Add(id, member) if self.member(id).is_some() => {
                let nodes = BTreeMap::from([(id, member)]);
                self.raft.change_membership(ChangeMembers::SetNodes(nodes), true).await
            }
            Change::Add(id, member) => self.raft.add_learner(id, member, false).await,
            Change::Promote(ids) => self.raft.change_membership(ChangeMembers::AddVoterIds(ids), true).await,
            Change::Replace(ids) => {
                self.raft.change_membership(ChangeMembers::ReplaceAllVoters(ids), false).await
            }
            Change::Remove(ids) => {
                let voters: BTreeSet<NodeId> =
                    self.raft.voter_ids().filter(|voter| ids.contains(voter)).collect();
                let removed = match voters.is_empty() {
                    true => ChangeMembers::RemoveNodes(ids),
                    false => ChangeMembers::RemoveVoters(voters),
                };
                self.raft.change_membership(removed, false).await
            }
        };
        result.map(drop).map_err(|error| match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                Refusal::NotLeader { leader: forward.leader_id }
            }
            other => Refusal::Unknown(words::of_change(&other)),
        })
    }

    /// A member by its id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<Member> {
        super::member(&self.raft, id)
    }

    /// Whether a member answers what this leader sends from now on, heartbeats at least.
    pub async fn answers(&self, id: NodeId) -> bool {
        id == self.me || self.heard.wait_for(id, self.silence_max).await
    }

    /// Hands leadership to another voter and waits until it leads.
    ///
    /// # Errors
    /// [`Code::Conflict`] when it does not answer this leader: nothing is changed then. [`Code::NoQuorum`] when it has
    /// not taken leadership within `patience`; then this one may still lead, or yet another.
    pub async fn transfer_leadership(&self, to: NodeId, patience: Duration) -> Result<()> {
        let refused = |why: String| Error::new(Code::NoQuorum, why).retry_after(Duration::from_millis(500));
        if self.raft.is_leader() && !self.answers(to).await {
            let why = format!("member {to} does not answer, so it cannot lead: leadership stays where it is");
            return Err(Error::new(Code::Conflict, why));
        }
        let give_up = Instant::now() + patience;
        while self.raft.is_leader() {
            let stopped = |_| refused("consensus has stopped".into());
            self.raft.trigger().transfer_leader(to).await.map_err(stopped)?;
            let next_try = Instant::now() + patience / 4;
            while self.raft.is_leader() && Instant::now() < next_try {
                sleep(PAUSE).await;
            }
            if self.raft.is_leader() && Instant::now() >= give_up {
                return Err(refused(format!("member {to} did not take leadership over")));
            }
        }
        loop {
            match self.leader() {
                Some((leader, _)) if leader == to => return Ok(()),
                Some((leader, _)) if leader != self.me => {
                    return Err(refused(format!("member {leader} leads now, not member {to}")));
                }
                _ if Instant::now() >= give_up => {
                    return Err(refused(format!(
                        "member {to} did not take leadership over, and nobody leads"
                    )));
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Leaves leadership, if it is this member's, to the voter that has most of the log; returns at once where
    /// nobody else votes.
    pub async fn hand_over(&self, patience: Duration) {
        if !self.raft.is_leader() {
            return;
        }
        let positions = self.positions();
        let others = positions
            .replicated
            .into_iter()
            .filter(|(id, _)| *id != self.me && positions.voters.contains(id));
        let fitness = |(id, has): &(NodeId, u64)| (self.is_answered_by(*id), *has);
        let Some((heir, _)) = others.max_by_key(fitness) else { return };
        if let Err(error) = self.transfer_leadership(heir, patience).await {
            tracing::warn!(%error, heir, "leadership was not handed over; the others will elect a leader");
        }
    }
}
