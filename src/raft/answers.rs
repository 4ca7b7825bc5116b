//! What this member answers to the others' Raft messages.
//!
//! Takes requests from the [`Network`] seam's lanes `Urgent` and `Append`, gives them to
//! openraft, and its answers back. It does not own connections, nor what is forwarded or fetched.
//!
//! A member that is full lets its leader wait with entries, and only with those: it still votes, still hears
//! heartbeats, and the leader's quorum goes on without it.

use std::{fmt, io, sync::Arc, time::Duration};

use openraft::{Raft, async_runtime::watch::WatchReceiver, raft::AppendEntriesResponse};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    TypeConfig,
    behind::Behind,
    heard::Heard,
    read_index::ReadIndex,
    rpc::{Reply, Request},
    state_machine::{Replica, StateMachine},
};
use crate::env::{Lane, Network, PeerHandler};

/// How long a leader waits for a member that is full before it is told so, and how often that member looks.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// What every answer may ask.
struct Ground {
    raft: Raft<TypeConfig, StateMachine>,
    reads: ReadIndex,
    behind: Behind,
    replica: Arc<dyn Replica>,
    heard: Arc<Heard>,
    /// Held by whoever waits for room, so that entries go on in the order they came.
    room: Mutex<()>,
    lease_end: Option<Instant>,
}

/// Answers from now on.
///
/// Until `lease_end` it votes for nobody: before a restart this member may have granted a leader its lease,
/// which its own clock has forgotten, and a vote now could end a lease that the leader still reads under.
pub fn serve(
    network: &dyn Network,
    raft: &Raft<TypeConfig, StateMachine>,
    reads: &ReadIndex,
    behind: Behind,
    (replica, heard): (Arc<dyn Replica>, Arc<Heard>),
    lease_end: Option<Instant>,
) {
    let (raft, reads) = (raft.clone(), reads.clone());
    let ground = Ground { raft, reads, behind, replica, heard, room: Mutex::new(()), lease_end };
    let handler = handler(Arc::new(ground));
    network.serve(Lane::Urgent, handler.clone());
    network.serve(Lane::Append, handler);
}

/// From now on whoever asks is told to ask again later: consensus is about to stop.
pub fn stop(network: &dyn Network) {
    let stopping: PeerHandler = Arc::new(|_, _| {
        let why = io::Error::new(io::ErrorKind::NotConnected, "this member is stopping");
        Box::pin(std::future::ready(Err(why)))
    });
    network.serve(Lane::Urgent, stopping.clone());
    network.serve(Lane::Append, stopping);
}

fn handler(ground: Arc<Ground>) -> PeerHandler {
    Arc::new(move |_from, request| {
        let ground = ground.clone();
        Box::pin(async move {
            let Ground { raft, reads, behind, lease_end, .. } = &*ground;
            let may_vote = lease_end.is_none_or(|end| Instant::now() >= end);
            let not_yet = || io::Error::new(io::ErrorKind::NotConnected, "this member has just restarted");
            let failed = |error: &dyn fmt::Display| io::Error::other(error.to_string());
            let reply = match Request::decode(&request).map_err(io::Error::other)? {
                // A leader that hands over has given its own lease up.
                Request::Vote(ask) if !may_vote && !ask.leadership_transfer => return Err(not_yet()),
                Request::PreVote(_) if !may_vote => return Err(not_yet()),
                Request::Vote(ask) => Reply::Vote(raft.vote(ask).await.map_err(|e| failed(&e))?),
                Request::PreVote(ask) => Reply::Vote(raft.pre_vote(ask).await.map_err(|e| failed(&e))?),
                Request::Append(append) => {
                    if !append.entries.is_empty() {
                        ground.wait_for_room().await?;
                    }
                    let answer = raft.append_entries(append).await.map_err(|e| failed(&e))?;
                    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                        ground.heard.note_leader();
                    }
                    Reply::Append(answer)
                }
                Request::TransferLeader(ask) => {
                    let taken = raft.handle_transfer_leader(ask).await.map_err(|e| failed(&e))?;
                    Reply::TransferLeader(taken.map_err(|why| why.to_string()))
                }
                Request::CatchUp(ask) => {
                    let known = raft.metrics().borrow_watched().vote;
                    Reply::CatchUp(behind.answer(known, ask))
                }
                Request::ReadIndex => Reply::ReadIndex(reads.get_as_leader().await.ok()),
            };
            reply.encode().map_err(io::Error::other)
        })
    })
}

impl Ground {
    /// # Errors
    /// `WouldBlock` when there is none for a while: the leader tries again after a pause.
    async fn wait_for_room(&self) -> io::Result<()> {
        let _in_order = self.room.lock().await;
        let deadline = Instant::now() + ROOM_PATIENCE;
        while self.replica.is_full() {
            if Instant::now() >= deadline {
                let why = "this member's segments are written more slowly than records come";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
            sleep(ROOM_PAUSE).await;
        }
        Ok(())
    }
}
