//! How a batch gets to the leader from wherever its clients are connected, and back.
//!
//! ```text
//!  follower: batch ─► Forward ── Lane::Propose ──► Accept: leader's time ─► raft
//!            answer ◄────────── Reply ◄──────────────────────── outcome ◄──┘
//! ```
//!
//! Takes whole entries as `batch` closed them, gives their outcomes. A batch is sent again only while it provably
//! is in nobody's log; whatever else goes wrong is an outcome unknown. An entry of no bytes asks a member whether it
//! would have room for others. It does not own admission of clients (`ingest`) nor what an entry means (`apply`).

mod accept;
mod reply;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

pub use self::accept::Accept;
use self::reply::Reply;
use super::{
    entry_clock::EntryClock,
    full_disk::out_of_room,
    message::{waits_for_quorum, waits_for_room},
    no_quorum::{Lost, lost_quorum},
};
use crate::{
    env::{Lane, Network},
    error::{Code, Error, Result},
    raft::{Consensus, Proposal, Refusal},
    state::{State, batch::restamp, outcome::Outcome},
    types::NodeId,
    wal::Wal,
};

/// Between two looks for a leader.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a leader that was followed by another has for its answers. It may stand still, with its connections open.
const FORMER_LEADER_PATIENCE: Duration = Duration::from_secs(1);

/// How long a member has for saying whether its disk has room.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// The way to the leader, who may be this member. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Forward {
    consensus: Consensus,
    network: Arc<dyn Network>,
    proposer: Proposer,
    bounds: Bounds,
}

/// How long it waits.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For a leader to be found.
    pub leader_patience: Duration,
    /// For the outcome, from a leader that has the batch.
    pub outcome_patience: Duration,
}

/// What became of one try.
enum Fate {
    /// It is over, with the outcome or for good.
    Ended(Result<Outcome>),
    /// It is in nobody's log: whoever was asked does not lead.
    NotLed(String),
}

impl Forward {
    /// Sends through `network`, or proposes through `proposer` where this member leads.
    #[must_use]
    pub fn new(network: Arc<dyn Network>, proposer: Proposer, bounds: Bounds) -> Self {
        Self { consensus: proposer.consensus.clone(), network, proposer, bounds }
    }

    /// Brings a batch's entry to the leader and its outcome back; the entry's time is the leader's to set.
    ///
    /// # Errors
    /// [`Code::NoQuorum`] and the leader's own refusals, when it is provably in no log;
    /// [`Code::OutcomeUnknown`] when it may be.
    pub async fn deliver(&self, entry: Bytes) -> Result<Outcome> {
        let give_up = Instant::now() + self.bounds.leader_patience;
        loop {
            let why = match self.try_once(entry.clone()).await {
                Fate::Ended(result) => return result,
                Fate::NotLed(why) => why,
            };
            if let Some(why) = self.network.expulsion() {
                let why = format!("nothing was written: this node is refused: {why}; ask a member");
                return Err(Error::new(Code::Unavailable, why));
            }
            if Instant::now() >= give_up {
                return Err(Error::new(Code::NoQuorum, format!("{why}; nothing was written"))
                    .retry_after(Duration::from_millis(200)));
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether another member says that it would take batches if it led. One of an older version says no.
    pub async fn has_room(&self, id: NodeId) -> bool {
        let Some(member) = self.consensus.member(id) else { return false };
        let call = self.network.call(id, &member.raft_addr, Lane::Propose, Bytes::new());
        let reply = timeout(ROOM_PATIENCE, call).await;
        reply.is_ok_and(|reply| reply.is_ok_and(|reply| Reply::decode(&reply) == Ok(Reply::HasRoom)))
    }

    /// Waits until another leads, and for what `old` may still have to say.
    async fn is_followed(&self, old: NodeId) {
        self.consensus.led_by_other_than(old).await;
        sleep(FORMER_LEADER_PATIENCE).await;
    }

    async fn try_once(&self, entry: Bytes) -> Fate {
        if self.consensus.is_leader() {
            if !self.consensus.can_commit() {
                return Fate::NotLed("this member leads, and no quorum answers it".into());
            }
            return match self.proposer.propose(&entry).await {
                Ok(result) => Fate::Ended(result),
                Err(why) => Fate::NotLed(why),
            };
        }
        let Some((leader, member)) = self.consensus.leader() else {
            return Fate::NotLed("no leader is known".into());
        };
        let call = self.network.call(leader, &member.raft_addr, Lane::Propose, entry);
        let reply = tokio::select! {
            biased;
            reply = timeout(self.bounds.outcome_patience, call) => reply,
            () = self.is_followed(leader) => {
                return unknown(&format!("member {leader} leads no more and does not answer"));
            }
        };
        let reply = match reply {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) if provably_unsent(error.kind()) => {
                return Fate::NotLed(format!("member {leader} leads and is not reached: {error}"));
            }
            Ok(Err(error)) if self.consensus.sabotage().retry_unknown => {
                return Fate::NotLed(error.to_string());
            }
            Ok(Err(error)) => return unknown(&format!("member {leader} did not answer: {error}")),
            Err(_) => return unknown(&format!("member {leader} did not answer in time")),
        };
        match Reply::decode(&reply) {
            Ok(Reply::Outcome(outcome)) => Fate::Ended(Ok(outcome)),
            Ok(Reply::Refused(error)) => Fate::Ended(Err(error)),
            Ok(Reply::NotLed) => Fate::NotLed(format!("member {leader} does not lead any more")),
            Ok(Reply::HasRoom) => unknown(&format!("member {leader} answered another question")),
            Err(error) => unknown(&format!("member {leader} answered something else: {error}")),
        }
    }
}

/// The kinds of errors that a [`Network`] gives only for what the other has not seen.
fn provably_unsent(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotConnected | io::ErrorKind::WouldBlock)
}

fn unknown(why: &str) -> Fate {
    Fate::Ended(Err(outcome_unknown(why)))
}

/// What whoever waits for a write is told when nobody can know whether it happened.
pub(super) fn outcome_unknown(why: &str) -> Error {
    Error::new(
        Code::OutcomeUnknown,
        format!("the write may or may not be in the ledger ({why}): retry it with the same Idempotency-Key"),
    )
}

/// Proposes entries that were encoded elsewhere or earlier, with this member's time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proposer {
    consensus: Consensus,
    state: Arc<State>,
    clock: Arc<EntryClock>,
    wal: Wal,
    lost: Lost,
}

impl Proposer {
    /// Proposes through `consensus` at `clock`'s time, and waits no longer than `wal` can be expected to have room, nor
    /// once a quorum is lost.
    #[must_use]
    pub fn new(
        consensus: Consensus,
        state: Arc<State>,
        clock: Arc<EntryClock>,
        wal: Wal,
        lost: Lost,
    ) -> Self {
        Self { consensus, state, clock, wal, lost }
    }

    /// What became of the entry; or why it provably is in no log because this member does not lead.
    async fn propose(&self, entry: &Bytes) -> std::result::Result<Result<Outcome>, String> {
        let time = self.clock.stamp(self.state.last_time_ms());
        let late = u64::from(self.consensus.sabotage().stamp_wrong_time) * 3_600_000;
        let time = time.map(|time| time + late);
        let entry = match time.and_then(|time| restamp(entry, time)) {
            Ok(entry) => entry,
            Err(error) => return Ok(Err(error)),
        };
        let (told, result) = oneshot::channel();
        let answer = move |result| drop(told.send(result));
        self.consensus.propose(Proposal { bytes: entry, alone: false }, answer).await;
        let result = tokio::select! {
            biased;
            result = result => result,
            _ = out_of_room(&self.wal) => return Ok(Err(waits_for_room())),
            () = lost_quorum(self.lost.clone()) => return Ok(Err(waits_for_quorum())),
        };
        match result {
            Ok(Ok(outcome)) => Ok(Ok(outcome)),
            Ok(Err(Refusal::NotLeader { .. })) => Err("this member does not lead any more".into()),
            Ok(Err(Refusal::Unknown(why))) => Ok(Err(outcome_unknown(&why))),
            Err(_) => Ok(Err(outcome_unknown("the node stopped before it could answer"))),
        }
    }
}
