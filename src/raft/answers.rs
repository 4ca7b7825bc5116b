//! What this member answers to the others' Raft messages.
//!
//! Takes requests from the [`Network`] seam's lanes `Urgent` and `Append`, gives them to
//! openraft, and its answers back. It does not own connections, nor what is forwarded or fetched.

use std::{fmt, io, sync::Arc};

use openraft::{Raft, async_runtime::watch::WatchReceiver};
use tokio::time::Instant;

use super::{
    TypeConfig,
    behind::Behind,
    read_index::ReadIndex,
    rpc::{Reply, Request},
    state_machine::StateMachine,
};
use crate::env::{Lane, Network, PeerHandler};

/// Answers from now on.
///
/// Until `lease_end` it votes for nobody: before a restart this member may have granted a leader its lease,
/// which its own clock has forgotten, and a vote now could end a lease that the leader still reads under.
pub fn serve(
    network: &dyn Network,
    raft: &Raft<TypeConfig, StateMachine>,
    reads: &ReadIndex,
    behind: Behind,
    lease_end: Option<Instant>,
) {
    let handler = handler(raft.clone(), reads.clone(), behind, lease_end);
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

fn handler(
    raft: Raft<TypeConfig, StateMachine>,
    reads: ReadIndex,
    behind: Behind,
    lease_end: Option<Instant>,
) -> PeerHandler {
    let behind = Arc::new(behind);
    Arc::new(move |_from, request| {
        let (raft, reads, behind) = (raft.clone(), reads.clone(), behind.clone());
        Box::pin(async move {
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
                    Reply::Append(raft.append_entries(append).await.map_err(|e| failed(&e))?)
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
