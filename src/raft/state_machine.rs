//! The state machine as Raft wants it: hands committed entries to the pipeline's apply stage and the
//! outcomes to whoever proposed them.
//!
//! It owns the applied position and the membership; it does not own what an entry means ([`Replica`]).

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, StoredMembership,
    storage::{EntryResponder, RaftStateMachine},
};

use super::{Entry, LogId, Member, Proposal, TypeConfig};
use crate::{error::Result, state::outcome::Outcome, types::NodeId};

/// What applies committed entries, in order, each exactly once a process.
pub trait Replica: Send + Sync + 'static {
    /// Applies a proposal's bytes.
    ///
    /// # Errors
    /// Bytes that no proposer could have written, or an entry of a newer feature level. Either stops
    /// this member: applying on would make it another ledger.
    fn apply(&self, proposal: Bytes) -> Result<Outcome>;
}

type Membership = StoredMembership<openraft::alias::CommittedLeaderIdOf<TypeConfig>, NodeId, Member>;
type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Boundary>;

/// What a snapshot carries and a restart begins from: the state at a segment boundary. There are no
/// segments yet, so the only boundary is the empty ledger and the log is never purged behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Boundary {}

/// One member's state machine.
pub struct StateMachine {
    replica: Arc<dyn Replica>,
    applied: Option<LogId>,
    membership: Membership,
}

impl StateMachine {
    /// Starts from the newest boundary.
    pub fn from_boundary(replica: Arc<dyn Replica>, _boundary: Boundary) -> Self {
        Self { replica, applied: None, membership: Membership::default() }
    }

    /// Position of the last applied entry.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The membership as of that entry.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Applies one entry: the same road for replay, for followers and for the leader.
    ///
    /// # Errors
    /// As [`Replica::apply`].
    pub fn apply_entry(&mut self, entry: Entry) -> Result<Outcome> {
        let outcome = match entry.payload {
            EntryPayload::Blank => Outcome::default(),
            EntryPayload::Normal(Proposal { bytes, .. }) => self.replica.apply(bytes)?,
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
                Outcome::default()
            }
        };
        self.applied = Some(entry.log_id);
        Ok(outcome)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Boundary;
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let outcome = self.apply_entry(entry).map_err(io::Error::other)?;
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshots> {
        Some(NoSnapshots)
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, _boundary: Boundary) -> io::Result<()> {
        Err(no_boundary())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(None)
    }
}

/// The builder of snapshots before there are boundaries to build them from. Nothing asks for one: the
/// policy is "never" and the log keeps every entry.
pub struct NoSnapshots;

impl RaftSnapshotBuilder<TypeConfig> for NoSnapshots {
    type SnapshotData = Boundary;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Err(no_boundary())
    }
}

fn no_boundary() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this version has no segment boundaries to take a snapshot at")
}
