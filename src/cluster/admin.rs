//! Changes of the cluster: done here where this member leads, by the leader otherwise.
//!
//! ```text
//! HTTP, joining nodes ─► wish ─► Admin ── this member leads ──► checks ─► raft: membership, leadership
//!                                  └───── another does ─► Lane::Control ─► the same there
//! ```
//!
//! Every wish may be repeated: what holds already is done. A node that is added does not vote until it has caught up
//! ([`promote_who_caught_up`]). It does not own memberships (`raft`) nor how a node without a ledger finds its way
//! here (`form`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    control::{Ask, Told, Wish, ask},
    form::Report,
    transport::{is_of_another_cluster, is_refused},
};
use crate::{
    env::Network,
    error::{Code, Error, Result},
    raft::{Change, Consensus, Consistency, Member, Refusal},
    types::NodeId,
};

/// How long another node has for an answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks for a leader, or at how far a member has come.
const PAUSE: Duration = Duration::from_millis(50);

/// Entries that a member may lack and count as caught up: a fraction of a second of a busy ledger.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// Administers the cluster of this member. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin {
    consensus: Consensus,
    network: Arc<dyn Network>,
    cluster_id: Arc<str>,
    me: NodeId,
    patience: Duration,
}

impl Admin {
    /// For member `me` of this cluster; a leader is waited for as long as `patience`.
    #[must_use]
    pub fn new(
        consensus: Consensus,
        network: Arc<dyn Network>,
        cluster_id: &str,
        me: NodeId,
        patience: Duration,
    ) -> Self {
        Self { consensus, network, cluster_id: cluster_id.into(), me, patience }
    }

    /// Adds the node that answers at an address; `expected` is the id it is to have. Whether there was anything to do.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when nobody answers there; [`Code::Conflict`] when it is not the node expected, has a
    /// ledger of its own or another secret, or its id was used before; those of [`Admin::fulfil`].
    pub async fn add(&self, expected: NodeId, address: &str, is_replica: bool) -> Result<bool> {
        if self.consensus.was_removed(expected) {
            return Err(conflict(was_removed(expected)));
        }
        let known = self.consensus.member(expected);
        if known.is_some_and(|member| member.raft_addr == address || member.http_addr == address) {
            return Ok(false);
        }
        let who = ask(&*self.network, crate::env::ANYBODY, address, &Ask::Who, ANSWER_PATIENCE).await;
        let who = who.map_err(|error| match is_of_another_cluster(error.message()) {
            true => conflict(format!(
                "node {expected} has records of its own: start it on an empty data directory ({})",
                error.message()
            )),
            false if is_refused(error.message()) => {
                conflict(format!("node {expected} was not added: {}", error.message()))
            }
            false => error,
        })?;
        let Told::Me(mut node) = who else { return Err(unexpected(address)) };
        if node.id != expected {
            return Err(conflict(format!("the node at {address} is node {}, not {expected}", node.id)));
        }
        // What it is told to be reached at counts, not what it thinks.
        node.addresses.raft_addr = address.into();
        match node.cluster.as_ref() {
            Some(theirs) if *theirs.cluster_id == *self.cluster_id => {}
            Some(theirs) => {
                return Err(conflict(format!(
                    "node {expected} belongs to cluster {} and has its records: start it on an empty data directory",
                    theirs.cluster_id
                )));
            }
            None => {
                let adopt = Ask::Adopt { cluster_id: self.cluster_id.to_string() };
                match ask(&*self.network, expected, address, &adopt, ANSWER_PATIENCE).await? {
                    Told::Done => {}
                    Told::Refused { why, .. } => return Err(conflict(why)),
                    Told::Me(_) | Told::NotLed(_) => return Err(unexpected(address)),
                }
            }
        }
        self.fulfil(Wish::Add { node, is_replica }).await.map(|()| true)
    }

    /// Takes a member out. Whether there was anything to do: it may have left before.
    ///
    /// # Errors
    /// [`Code::NotFound`] when nobody ever had the id; those of [`Admin::fulfil`].
    pub async fn remove(&self, id: NodeId) -> Result<bool> {
        if !self.is_member(id) {
            // This member may have yet to hear of it.
            self.consensus.read_barrier(Consistency::Linearizable).await?;
        }
        match (self.is_member(id), self.consensus.was_removed(id)) {
            (true, _) => self.fulfil(Wish::Remove(vec![id])).await.map(|()| true),
            (false, true) => Ok(false),
            (false, false) => Err(Error::new(
                Code::NotFound,
                format!("node {id} is no member of this cluster, and never was"),
            )),
        }
    }

    /// Whether a node is a member that votes.
    #[must_use]
    pub fn votes(&self, id: NodeId) -> bool {
        self.consensus.positions().voters.contains(&id)
    }

    /// Whether a node is a member that never votes by itself.
    #[must_use]
    pub fn is_replica(&self, id: NodeId) -> bool {
        self.consensus.member(id).is_some_and(|member| member.is_replica) && !self.votes(id)
    }

    /// Whether a node leads, by what is known here.
    #[must_use]
    pub fn leads(&self, id: NodeId) -> bool {
        self.consensus.leader().is_some_and(|(leader, _)| leader == id)
    }

    /// Whether these are the voters, in any order.
    #[must_use]
    pub fn are_the_voters(&self, ids: &[NodeId]) -> bool {
        BTreeSet::from_iter(ids) == BTreeSet::from_iter(&self.consensus.positions().voters)
    }

    /// Where other members reach one.
    #[must_use]
    pub fn address(&self, id: NodeId) -> Option<String> {
        self.consensus.member(id).map(|member| member.raft_addr)
    }

    /// Whether a node is a member.
    #[must_use]
    pub fn is_member(&self, id: NodeId) -> bool {
        self.consensus.member(id).is_some()
    }

    /// Waits until a member votes, or for so long; whether it does.
    pub async fn votes_within(&self, id: NodeId, patience: Duration) -> bool {
        let give_up = Instant::now() + patience;
        loop {
            if self.votes(id) {
                return true;
            }
            if Instant::now() >= give_up {
                return false;
            }
            sleep(PAUSE).await;
        }
    }

    /// Fulfils a wish, here or by the leader.
    ///
    /// # Errors
    /// [`Code::NoQuorum`] when no leader is found; [`Code::Conflict`] when it cannot be fulfilled as things are;
    /// [`Code::NotFound`] for a member that there is not.
    pub async fn fulfil(&self, wish: Wish) -> Result<()> {
        let give_up = Instant::now() + self.patience;
        loop {
            let told = match self.consensus.leader() {
                None => Told::NotLed(None),
                Some((leader, _)) if leader == self.me => self.answer(wish.clone()).await,
                Some((leader, member)) => {
                    let question = Ask::Change(wish.clone());
                    ask(&*self.network, leader, &member.raft_addr, &question, self.patience)
                        .await
                        .unwrap_or_else(|error| Told::refused(&error))
                }
            };
            match told {
                Told::Done => return Ok(()),
                Told::Refused { retry: false, why } => return Err(conflict(why)),
                Told::Refused { why, .. } if Instant::now() >= give_up => {
                    return Err(no_leader(&why));
                }
                Told::NotLed(_) if Instant::now() >= give_up => return Err(no_leader("no leader is known")),
                Told::NotLed(_) | Told::Refused { .. } => sleep(PAUSE).await,
                Told::Me(_) => return Err(unexpected("the leader's address")),
            }
        }
    }

    /// Fulfils a wish if this member leads.
    pub async fn answer(&self, wish: Wish) -> Told {
        if !self.consensus.is_leader() {
            return Told::NotLed(self.consensus.positions().leader_id);
        }
        match self.lead(wish).await {
            Ok(()) => Told::Done,
            Err(Ok(Refusal::NotLeader { leader })) => Told::NotLed(leader),
            Err(Ok(Refusal::Unknown(why))) => Told::Refused { retry: true, why },
            Err(Err(error)) => Told::refused(&error),
        }
    }

    async fn lead(&self, wish: Wish) -> std::result::Result<(), Result<Refusal>> {
        let refused = |error| Err(Err(error));
        match wish {
            Wish::Add { node, is_replica } => self.lead_add(node, is_replica).await,
            Wish::Remove(ids) => {
                let positions = self.consensus.positions();
                let members: BTreeSet<NodeId> =
                    ids.into_iter().filter(|id| positions.members.contains_key(id)).collect();
                if members.is_empty() {
                    return Ok(());
                }
                if positions.voters.iter().all(|voter| members.contains(voter)) {
                    return refused(conflict(
                        "the last voter cannot leave: nobody would have the ledger".into(),
                    ));
                }
                if members.contains(&self.me) {
                    // Whoever leads then does it.
                    let stay = positions.voters.iter().filter(|voter| !members.contains(voter));
                    let stays = stay.max_by_key(|voter| self.consensus.is_answered_by(**voter));
                    let Some(heir) = stays else { return Ok(()) };
                    self.consensus.transfer_leadership(*heir, self.patience).await.map_err(Err)?;
                    return Err(Ok(Refusal::NotLeader { leader: Some(*heir) }));
                }
                let stay = positions.voters.into_iter().filter(|voter| !members.contains(voter));
                self.check_quorum(&stay.collect()).await.map_err(Err)?;
                self.consensus.change(Change::Remove(members)).await.map_err(Ok)
            }
            Wish::Voters(ids) => {
                let (ids, positions) = (BTreeSet::from_iter(ids), self.consensus.positions());
                if ids.iter().eq(positions.voters.iter()) {
                    return Ok(());
                }
                if let Some(stranger) = ids.iter().find(|id| !positions.members.contains_key(id)) {
                    return refused(conflict(format!("node {stranger} is no member: add it first")));
                }
                if ids.is_empty() {
                    return refused(conflict("a cluster needs a voter".into()));
                }
                self.check_quorum(&ids).await.map_err(Err)?;
                self.consensus.change(Change::Replace(ids)).await.map_err(Ok)
            }
            Wish::Lead(id) if id == self.me => Ok(()),
            Wish::Lead(id) if !self.consensus.positions().voters.contains(&id) => {
                refused(conflict(format!("node {id} does not vote, so it cannot lead")))
            }
            Wish::Lead(id) => self.consensus.transfer_leadership(id, self.patience).await.map_err(Err),
        }
    }

    /// Refuses voters most of whom do not answer: the change could not be committed, nor could anything after it.
    async fn check_quorum(&self, voters: &BTreeSet<NodeId>) -> Result<()> {
        let mut silent = BTreeSet::new();
        for voter in voters {
            if !self.consensus.answers(*voter).await {
                silent.insert(*voter);
            }
        }
        if silent.len() * 2 < voters.len() {
            return Ok(());
        }
        Err(conflict(format!(
            "there would be no quorum: of the voters that would be left, {voters:?}, these do not answer: {silent:?}; \
             start them, or remove them first"
        )))
    }

    async fn lead_add(&self, node: Report, is_replica: bool) -> std::result::Result<(), Result<Refusal>> {
        let Report { id, incarnation, addresses, .. } = node;
        let member = Member {
            raft_addr: addresses.raft_addr,
            http_addr: addresses.http_addr,
            incarnation,
            is_replica,
        };
        if self.consensus.was_removed(id) {
            return Err(Err(conflict(was_removed(id))));
        }
        match self.consensus.member(id) {
            Some(known) if known.incarnation != 0 && known.incarnation != incarnation => {
                Err(Err(conflict(format!(
                    "node id {id} is taken by the member at {}: start this one under a new --node-id",
                    known.raft_addr
                ))))
            }
            // A replica stays one; who votes does not become one by asking again.
            Some(known)
                if (&known.raft_addr, &known.http_addr, known.incarnation)
                    == (&member.raft_addr, &member.http_addr, incarnation) =>
            {
                Ok(())
            }
            Some(known) => {
                let member = Member { is_replica: known.is_replica, ..member };
                self.consensus.change(Change::Add(id, member)).await.map_err(Ok)
            }
            None => {
                self.make_room_at(&member.raft_addr, id).await?;
                self.consensus.change(Change::Add(id, member)).await.map_err(Ok)
            }
        }
    }

    /// A member that the new node `id` answers in place of is not there any more: it leaves first, so that the cluster
    /// does not wait for both. That is what becomes of a node whose disk was lost.
    async fn make_room_at(&self, address: &str, id: NodeId) -> std::result::Result<(), Result<Refusal>> {
        let members = self.consensus.positions().members;
        let Some(old) = members.iter().find(|(_, member)| member.raft_addr == address).map(|(old, _)| *old)
        else {
            return Ok(());
        };
        if self.consensus.answers(old).await {
            return Err(Err(conflict(format!(
                "node {id} says that it is reached at {address}, where member {old} answers: give it another \
                 address (network.raft_tcp_port, network.advertise_raft_addr)"
            ))));
        }
        tracing::info!(
            old,
            new = id,
            address,
            "another node answers in place of a member: the member leaves"
        );
        self.consensus.change(Change::Remove(BTreeSet::from([old]))).await.map_err(Ok)
    }
}

/// Makes voters of those who have caught up and are no replicas, while this member leads, until its task is ended.
pub async fn promote_who_caught_up(consensus: Consensus) {
    loop {
        sleep(PAUSE * 4).await;
        if !consensus.is_leader() {
            continue;
        }
        let positions = consensus.positions();
        let waits = |(id, member): (&NodeId, &Member)| {
            let has = positions.replicated.get(id).copied().unwrap_or(0);
            let is_close = has > 0 && positions.proposed.saturating_sub(has) <= CAUGHT_UP_ENTRIES;
            (!member.is_replica && !positions.voters.contains(id) && is_close).then_some(*id)
        };
        let ready: BTreeSet<NodeId> = positions.members.iter().filter_map(waits).collect();
        if ready.is_empty() {
            continue;
        }
        match consensus.change(Change::Promote(ready.clone())).await {
            Ok(()) => tracing::debug!(?ready, "members that have caught up vote from now on"),
            Err(why) => tracing::debug!(?why, ?ready, "members were not made voters, it is tried again"),
        }
    }
}

/// What a node that has left is told wherever it asks.
#[must_use]
pub fn was_removed(id: NodeId) -> String {
    format!(
        "node {id} was removed from this cluster, and its id is never used again: start it with --rejoin and a new \
         --node-id to come back"
    )
}

fn conflict(why: String) -> Error {
    Error::new(Code::Conflict, why)
}

fn no_leader(why: &str) -> Error {
    Error::new(Code::NoQuorum, format!("the cluster was not changed: {why}"))
        .retry_after(Duration::from_millis(500))
}

fn unexpected(address: &str) -> Error {
    Error::new(
        Code::Unavailable,
        format!("the node at {address} answered something else: it may be of another version"),
    )
}
