//! Read barriers: how far this member must have applied before a linearizable read may be answered here.
//!
//! ```text
//! reader ─┐                        leader: a round of heartbeats says that it still leads
//! reader ─┼─► one round at a time ─►
//! reader ─┘                        follower: asks the leader, which does the same
//!                                        │ index
//!         wait until it is applied here ◄┘
//! ```
//!
//! A round serves all readers that came before it began; who comes while one is on its way waits for the next,
//! because its answer may be older than a write that the reader has heard of (Ongaro's thesis, section 6.4).

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use openraft::{
    Raft,
    async_runtime::watch::WatchReceiver,
    errors::{LinearizableReadError, RaftError},
    raft::ReadPolicy,
};
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{
    LogId, Sabotage, TypeConfig,
    heard::Heard,
    rpc::{Reply, Request},
    standing,
    state_machine::StateMachine,
    words,
};
use crate::{
    env::{Lane, Network},
    types::NodeId,
};

/// How long a round that failed waits for the next try.
const PAUSE: Duration = Duration::from_millis(20);

/// What a round gives: the entry to be applied first, or why there is none.
type Round = Result<LogId, String>;

/// Rounds of one member. Cheap to clone.
#[derive(Clone)]
pub struct ReadIndex(Arc<Inner>);

struct Inner {
    raft: Raft<TypeConfig, StateMachine>,
    network: Arc<dyn Network>,
    rounds: Mutex<Rounds>,
    heard: Arc<Heard>,
    /// For how long readers are kept waiting for a leader.
    patience: Duration,
    sabotage: Sabotage,
}

#[derive(Default)]
struct Rounds {
    is_running: bool,
    /// Those whom the next round will serve.
    waiting: Vec<oneshot::Sender<Round>>,
}

impl ReadIndex {
    /// Rounds that are given up after `patience`.
    pub fn new(
        raft: Raft<TypeConfig, StateMachine>,
        network: Arc<dyn Network>,
        heard: Arc<Heard>,
        patience: Duration,
        sabotage: Sabotage,
    ) -> Self {
        Self(Arc::new(Inner { raft, network, rounds: Mutex::default(), heard, patience, sabotage }))
    }

    /// The entry that has to be applied before a read that begins now is answered.
    ///
    /// # Errors
    /// Why nobody could say, after the patience.
    pub async fn get(&self) -> Round {
        let (tell, round) = oneshot::channel();
        let begin = {
            let mut rounds = self.0.rounds.lock();
            rounds.waiting.push(tell);
            !std::mem::replace(&mut rounds.is_running, true)
        };
        if begin {
            tokio::spawn(run(self.0.clone()));
        }
        round.await.unwrap_or_else(|_| Err("the node is stopping".into()))
    }

    /// As [`ReadIndex::get`], for another member's readers: only if this one leads, and once.
    pub async fn get_as_leader(&self) -> Result<LogId, Option<NodeId>> {
        self.0.ask_here().await.map_err(|(leader, _)| leader)
    }
}

/// Plays rounds as long as somebody waits.
async fn run(inner: Arc<Inner>) {
    loop {
        let mut waiting = {
            let mut rounds = inner.rounds.lock();
            rounds.is_running = !rounds.waiting.is_empty();
            std::mem::take(&mut rounds.waiting)
        };
        if waiting.is_empty() {
            return;
        }
        let round = inner.round().await;
        if inner.sabotage.join_running_round {
            waiting.append(&mut inner.rounds.lock().waiting);
        }
        for reader in waiting {
            // Nobody waits any more where a client has gone away.
            let _ = reader.send(round.clone());
        }
    }
}

impl Inner {
    async fn round(&self) -> Round {
        let give_up = Instant::now() + self.patience;
        loop {
            let why = match self.ask_here().await {
                Ok(index) => return Ok(index),
                Err((Some(leader), _)) => match self.ask(leader).await {
                    Ok(index) => return Ok(index),
                    Err(why) => why,
                },
                Err((None, why)) => why,
            };
            if Instant::now() >= give_up {
                return Err(why);
            }
            sleep(PAUSE).await;
        }
    }

    /// A round of this member as leader; else who leads, if that is another and known.
    fn ask_here(&self) -> BoxFuture<'_, Result<LogId, (Option<NodeId>, String)>> {
        Box::pin(async {
            if self.sabotage.skip_read_round && self.raft.is_leader() {
                let known = self.raft.metrics().borrow_watched().local_committed;
                return known.ok_or((None, "nothing is committed".into()));
            }
            // Before the index is looked up: it has to be this term's, or a later one's.
            let (begin, (term, configs)) = (self.heard.now(), standing(&self.raft));
            match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
                Ok((index, _)) => match self.heard.wait_since(begin, term, &configs, self.patience / 4).await
                {
                    true => Ok(*index.log_id()),
                    false => Err((None, "no quorum has answered since the read began".into())),
                },
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                    Err((forward.leader_id, "no leader is known".into()))
                }
                Err(error) => Err((None, words::of_read(&error))),
            }
        })
    }

    async fn ask(&self, leader: NodeId) -> Round {
        let member = super::member(&self.raft, leader);
        let address = member.ok_or("the leader's address is not known")?.raft_addr;
        let request = Request::ReadIndex.encode().map_err(|error| error.to_string())?;
        let call = self.network.call(leader, &address, Lane::Urgent, request);
        // A leader that was cut off never answers; another one may be elected meanwhile.
        let reply = tokio::time::timeout(self.patience / 4, call).await;
        let reply = reply.map_err(|_| format!("member {leader} leads and does not answer"))?;
        let reply = reply.map_err(|error| format!("member {leader} leads: {error}"))?;
        match Reply::decode(&reply).map_err(|error| error.to_string())? {
            Reply::ReadIndex(Some(index)) => Ok(index),
            _ => Err(format!("member {leader} does not lead any more")),
        }
    }
}
