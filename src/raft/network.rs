//! Raft's messages to other members, through the node's [`Network`] seam.
//!
//! Takes openraft's calls, gives bytes to the seam and answers back. It does not own connections, nor who
//! may talk to whom: a node's own seam today has no peers at all ([`NoPeers`](crate::env::real::NoPeers)),
//! a simulation's has.

use std::{
    future::Future,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use openraft::{
    EntryPayload, OptionalSend, RaftMetrics, RaftNetworkFactory, RaftNetworkV2,
    alias::WatchReceiverOf,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use super::{
    LogId, Member, Payload, TypeConfig, Vote,
    behind::{self, CatchUp},
    heard::Heard,
    rpc::{Reply, Request},
    state_machine::Boundary,
};
use crate::{
    env::{Lane, Network},
    types::NodeId,
};

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Boundary>;

type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// Appends to one member that are on their way at once: what fills a cable and a disk queue, and no more, since
/// each holds its entries in memory.
const APPENDS_OUT_MAX: usize = 8;

/// An append with entries is not given up sooner: the other's disk may have a slow moment, and sending the same
/// again would not help it.
const APPEND_PATIENCE_MIN: Duration = Duration::from_secs(5);

/// Slower than any cable or disk that is worth waiting for.
const BYTES_PER_SECOND_MIN: u64 = 4 << 20;

fn time_of(bytes: u64) -> Duration {
    Duration::from_millis(bytes * 1_000 / BYTES_PER_SECOND_MIN)
}

fn payload_bytes(append: &AppendEntriesRequest<TypeConfig>) -> u64 {
    let bytes = |payload: &Payload| match payload {
        EntryPayload::Normal(proposal) => proposal.bytes.len() as u64,
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    append.entries.iter().map(|entry| bytes(&entry.payload)).sum()
}

/// Makes the connection to a member.
pub struct Peers {
    /// The way to all of them.
    pub network: Arc<dyn Network>,
    /// This member.
    pub me: NodeId,
    /// What the running consensus says of itself, once it runs.
    pub metrics: Arc<OnceLock<Metrics>>,
    /// Where it is noted who has answered.
    pub heard: Arc<Heard>,
}

/// See [`Peers::metrics`].
pub type Metrics = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// The connection to one member.
pub struct Peer {
    network: Arc<dyn Network>,
    me: NodeId,
    id: NodeId,
    address: String,
    /// Whether it has sent entries. Openraft makes one of these to replicate and one to send heartbeats; what the
    /// first says without entries is about those before it, and must not overtake them.
    sends_entries: bool,
    metrics: Arc<OnceLock<Metrics>>,
    heard: Arc<Heard>,
}

impl Peer {
    /// Puts a request on its way at once, behind those before it on its lane; what is returned waits for the
    /// answer, for so long.
    fn send(
        &self,
        lane: Lane,
        request: Request,
        action: RPCTypes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Reply, RPCError<TypeConfig>>> {
        let answer = match request.encode() {
            Ok(bytes) => self.network.call(self.id, &self.address, lane, bytes),
            Err(error) => Box::pin(async { Err(io::Error::other(error)) }),
        };
        let (me, target) = (self.me, self.id);
        Box::pin(async move {
            match tokio::time::timeout(patience, answer).await {
                Ok(Ok(reply)) => Ok(Reply::decode(&reply).map_err(|error| NetworkError::new(&error))?),
                // Not worth trying again at once: back off.
                Ok(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
                    Err(Unreachable::new(&error).into())
                }
                Ok(Err(error)) => Err(NetworkError::new(&error).into()),
                Err(_) => Err(Timeout { action, id: me, target, timeout: patience }.into()),
            }
        })
    }

    /// An append on its way, and what its answer means to openraft.
    fn send_append(
        &mut self,
        append: AppendEntriesRequest<TypeConfig>,
        patience: Duration,
    ) -> BoxFuture<'static, Appended> {
        let (previous, last) = (append.prev_log_id, append.entries.last().map(|entry| entry.log_id));
        self.sends_entries |= !append.entries.is_empty();
        let lane = if self.sends_entries { Lane::Append } else { Lane::Urgent };
        let (id, term, heard) = (self.id, append.vote.leader_id.term, self.heard.clone());
        // Before anybody can answer it.
        let sent = heard.now();
        let answer = self.send(lane, Request::Append(append), RPCTypes::AppendEntries, patience);
        Box::pin(async move {
            match answer.await? {
                Reply::Append(reply) => {
                    if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
                        heard.note(id, term, sent);
                    }
                    let is_whole = match &reply {
                        AppendEntriesResponse::PartialSuccess(up_to) => *up_to == last,
                        _ => true,
                    };
                    check_kept(&heard, id, term, &reply, (previous, last))?;
                    Ok((reply.into_stream_result(previous, last.or(previous)), is_whole))
                }
                _ => Err(unexpected(id)),
            }
        })
    }
}

/// Notes what a follower has taken, and takes for no answer that it lacks what it had: openraft counts on followers that
/// forget nothing, and a leader must not come to harm by one whose directory was taken back to an older state. What that
/// follower says it has counts no more while this leader leads.
fn check_kept(
    heard: &Heard,
    id: NodeId,
    term: u64,
    reply: &AppendEntriesResponse<TypeConfig>,
    (previous, last): (Option<LogId>, Option<LogId>),
) -> Result<(), RPCError<TypeConfig>> {
    let kept = match reply {
        AppendEntriesResponse::Success => last.or(previous),
        AppendEntriesResponse::PartialSuccess(up_to) => *up_to,
        AppendEntriesResponse::HigherVote(_) => None,
        AppendEntriesResponse::Conflict => {
            let lost = previous.filter(|previous| heard.has_kept(id, term, previous.index));
            let Some(lost) = lost else { return Ok(()) };
            let why = format!(
                "member {id} lacks entry {}, which it had said to have: its directory was taken back to an older state; \
                 remove it, and let it come back with --rejoin and a new --node-id",
                lost.index
            );
            if heard.is_first_loss(id) {
                tracing::error!("{why}");
            }
            return Err(Unreachable::from_string(why).into());
        }
    };
    if let Some(kept) = kept {
        heard.note_kept(id, term, kept.index);
    }
    Ok(())
}

/// The answer to one append, and whether all of it was taken.
type Appended = Result<(StreamAppendResult<TypeConfig>, bool), RPCError<TypeConfig>>;

fn unexpected(id: NodeId) -> RPCError<TypeConfig> {
    let why = format!("member {id} answered another question");
    NetworkError::new(&io::Error::new(io::ErrorKind::InvalidData, why)).into()
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> Peer {
        Peer {
            network: self.network.clone(),
            me: self.me,
            id: target,
            address: member.raft_addr.clone(),
            sends_entries: false,
            metrics: self.metrics.clone(),
            heard: self.heard.clone(),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Boundary;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let patience = option.hard_ttl();
        let (term, ends) = (rpc.vote.leader_id.term, (rpc.prev_log_id, rpc.entries.last().map(|e| e.log_id)));
        match self.send(Lane::Append, Request::Append(rpc), RPCTypes::AppendEntries, patience).await? {
            Reply::Append(reply) => {
                check_kept(&self.heard, self.id, term, &reply, ends)?;
                Ok(reply)
            }
            _ => Err(unexpected(self.id)),
        }
    }

    /// Sends appends as they come, many on their way at once, and gives their answers in the same order.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Answers<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let appends = input.map(move |append| {
            // A heartbeat that is late is of no use; entries take what the cable and the other's disk need.
            let patience = match append.entries.is_empty() {
                true => option.hard_ttl(),
                false => option.hard_ttl().max(APPEND_PATIENCE_MIN) + time_of(payload_bytes(&append)),
            };
            self.send_append(append, patience)
        });
        let answers = appends.buffered(APPENDS_OUT_MAX);
        // Behind a conflict, an error or half an append nothing else is of use.
        let answers = answers.scan(true, |goes_on, answer| {
            let before = std::mem::replace(goes_on, matches!(answer, Ok((Ok(_), true))));
            std::future::ready(before.then(|| answer.map(|(result, _)| result)))
        });
        Box::pin(std::future::ready(Ok(Box::pin(answers) as Answers<'s>)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.send(Lane::Urgent, Request::Vote(rpc), RPCTypes::Vote, option.hard_ttl()).await? {
            Reply::Vote(reply) => Ok(reply),
            _ => Err(unexpected(self.id)),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.send(Lane::Urgent, Request::PreVote(rpc), RPCTypes::Vote, option.hard_ttl()).await? {
            Reply::Vote(reply) => Ok(reply),
            _ => Err(unexpected(self.id)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = Request::TransferLeader(request);
        match self.send(Lane::Urgent, request, RPCTypes::TransferLeader, option.hard_ttl()).await? {
            Reply::TransferLeader(Ok(())) => Ok(Ok(())),
            Reply::TransferLeader(Err(why)) => Err(NetworkError::new(&io::Error::other(why)).into()),
            _ => Err(unexpected(self.id)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let address =
            self.metrics.get().map(|metrics| behind::address_of(metrics, self.me)).unwrap_or_default();
        let ask = Request::CatchUp(CatchUp { vote, boundary: snapshot.snapshot.log, address });
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            answer = self.send(Lane::Urgent, ask, RPCTypes::InstallSnapshot, option.hard_ttl()) => answer,
        };
        let standing = answer.and_then(|reply| match reply {
            Reply::CatchUp(standing) => Ok(standing),
            _ => Err(unexpected(self.id)),
        });
        behind::to_response(vote, standing)
    }
}
