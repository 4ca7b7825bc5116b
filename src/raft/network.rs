//! Raft's messages to other members.
//!
//! A ledger has one voter until clusters exist, so there is nobody to talk to: every call says so, and
//! openraft's core never makes one.

use std::{future::Future, io};

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};

use super::{Member, TypeConfig, Vote, state_machine::Boundary};
use crate::types::NodeId;

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Boundary>;

/// Makes the connection to a member.
pub struct Peers;

/// The connection to one member.
pub struct Peer {
    id: NodeId,
}

impl Peer {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        let why = format!("member {} cannot be reached: this version has no node transport", self.id);
        Unreachable::new(&io::Error::new(io::ErrorKind::NotConnected, why))
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, _member: &Member) -> Peer {
        Peer { id: target }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Boundary;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.unreachable().into())
    }
}
