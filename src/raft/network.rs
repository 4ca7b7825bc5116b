//! Raft's messages to other members, through the node's [`Network`] seam.
//!
//! Takes openraft's calls, gives bytes to the seam and answers back. It does not own connections, nor who
//! may talk to whom: a node's own seam today has no peers at all ([`NoPeers`](crate::env::real::NoPeers)),
//! a simulation's has.

use std::{
    future::Future,
    io,
    sync::{Arc, OnceLock},
};

use openraft::{
    OptionalSend, RaftMetrics, RaftNetworkFactory, RaftNetworkV2,
    alias::WatchReceiverOf,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};

use super::{
    Member, TypeConfig, Vote,
    behind::{self, CatchUp},
    rpc::{Reply, Request},
    state_machine::Boundary,
};
use crate::{env::Network, types::NodeId};

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Boundary>;

/// Makes the connection to a member.
pub struct Peers {
    /// The way to all of them.
    pub network: Arc<dyn Network>,
    /// This member.
    pub me: NodeId,
    /// What the running consensus says of itself, once it runs.
    pub metrics: Arc<OnceLock<Metrics>>,
}

/// See [`Peers::metrics`].
pub type Metrics = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// The connection to one member.
pub struct Peer {
    network: Arc<dyn Network>,
    me: NodeId,
    id: NodeId,
    address: String,
    metrics: Arc<OnceLock<Metrics>>,
}

impl Peer {
    async fn call(
        &self,
        request: Request,
        action: RPCTypes,
        option: RPCOption,
    ) -> Result<Reply, RPCError<TypeConfig>> {
        let lane = request.lane();
        let request = request.encode().map_err(|error| NetworkError::new(&error))?;
        let answer = self.network.call(self.id, &self.address, lane, request);
        match tokio::time::timeout(option.hard_ttl(), answer).await {
            Ok(Ok(reply)) => Ok(Reply::decode(&reply).map_err(|error| NetworkError::new(&error))?),
            // Not worth trying again at once: back off.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
                Err(Unreachable::new(&error).into())
            }
            Ok(Err(error)) => Err(NetworkError::new(&error).into()),
            Err(_) => {
                Err(Timeout { action, id: self.me, target: self.id, timeout: option.hard_ttl() }.into())
            }
        }
    }

    fn unexpected(&self) -> RPCError<TypeConfig> {
        let why = format!("member {} answered another question", self.id);
        NetworkError::new(&io::Error::new(io::ErrorKind::InvalidData, why)).into()
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> Peer {
        Peer {
            network: self.network.clone(),
            me: self.me,
            id: target,
            address: member.raft_addr.clone(),
            metrics: self.metrics.clone(),
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
        match self.call(Request::Append(rpc), RPCTypes::AppendEntries, option).await? {
            Reply::Append(reply) => Ok(reply),
            _ => Err(self.unexpected()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::Vote(rpc), RPCTypes::Vote, option).await? {
            Reply::Vote(reply) => Ok(reply),
            _ => Err(self.unexpected()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::PreVote(rpc), RPCTypes::Vote, option).await? {
            Reply::Vote(reply) => Ok(reply),
            _ => Err(self.unexpected()),
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
            answer = self.call(ask, RPCTypes::InstallSnapshot, option) => answer,
        };
        let standing = answer.and_then(|reply| match reply {
            Reply::CatchUp(standing) => Ok(standing),
            _ => Err(self.unexpected()),
        });
        behind::to_response(vote, standing)
    }
}
