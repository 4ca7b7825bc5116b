//! The state machine as Raft wants it: hands committed entries to the pipeline's apply stage and the
//! outcomes to whoever proposed them.
//!
//! It owns the applied position and the membership; it does not own what an entry means ([`Replica`]).

use std::{collections::BTreeSet, io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, StoredMembership,
    storage::{EntryResponder, RaftStateMachine},
};

use tokio::sync::watch;

use super::{Entry, LogId, Member, Proposal, TypeConfig, behind::Offer, codec};
use crate::{error::Result, state::outcome::Outcome, types::NodeId, wal};

/// What applies committed entries, in order, each exactly once a process.
pub trait Replica: Send + Sync + 'static {
    /// Applies a proposal's bytes.
    ///
    /// # Errors
    /// Bytes that no proposer could have written, an entry of a newer feature level, a disk that does not give
    /// what the entry's conditions ask for. Each stops this member: applying on would make it another ledger.
    fn apply(&self, proposal: Bytes) -> Result<Outcome>;

    /// Every entry ends here, those that are not proposals too: its place, its bytes, and a way to the membership
    /// in force, encoded.
    ///
    /// # Errors
    /// As [`Replica::apply`].
    fn end_entry(&self, id: wal::LogId, bytes: u64, membership: &dyn Fn() -> Result<Vec<u8>>) -> Result<()>;

    /// Whether it holds as much in memory as it may until some of that is on disk elsewhere. A member that is full
    /// takes no entries of its leader; what it has taken it still applies.
    fn is_full(&self) -> bool;
}

pub type Membership = StoredMembership<openraft::alias::CommittedLeaderIdOf<TypeConfig>, NodeId, Member>;
type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Boundary>;

/// What a snapshot carries and a restart begins from: the end of a sealed segment. The state itself is in that
/// segment and those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// The segment's last entry.
    pub log: wal::LogId,
    /// The membership as of that entry, encoded.
    pub membership: Vec<u8>,
}

/// The newest boundary; none before the first segment is sealed.
pub type Boundaries = watch::Receiver<Option<Boundary>>;

/// One member's state machine.
pub struct StateMachine {
    replica: Arc<dyn Replica>,
    applied: Option<LogId>,
    membership: Membership,
    /// Members that have left. Their ids are never used again.
    removed: watch::Sender<BTreeSet<NodeId>>,
    boundaries: Boundaries,
    offer: Offer,
}

impl StateMachine {
    /// Starts from the newest boundary. Members that are behind `wal` are given `offer`'s.
    ///
    /// # Errors
    /// [`Code::Corrupt`](crate::error::Code::Corrupt) when its membership cannot be read.
    pub fn from_boundary(replica: Arc<dyn Replica>, boundaries: Boundaries, offer: Offer) -> Result<Self> {
        let newest = boundaries.borrow().clone();
        let (applied, (membership, removed)) = match newest {
            None => (None, Default::default()),
            Some(Boundary { log, membership }) => {
                (Some(codec::to_raft_id(log)), codec::decode_stored_membership(&membership)?)
            }
        };
        Ok(Self { replica, applied, membership, removed: watch::Sender::new(removed), boundaries, offer })
    }

    /// Position of the last applied entry.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The membership as of that entry.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The ids of members that have left, as of the entry that is applied last at any time.
    pub fn removed(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.removed.subscribe()
    }

    /// Applies one entry: the same road for replay, for followers and for the leader.
    ///
    /// # Errors
    /// As [`Replica::apply`].
    pub fn apply_entry(&mut self, entry: Entry) -> Result<Outcome> {
        let mut entry_bytes = 0;
        let outcome = match entry.payload {
            EntryPayload::Blank => Outcome::default(),
            EntryPayload::Normal(Proposal { bytes, .. }) => {
                entry_bytes = bytes.len() as u64;
                self.replica.apply(bytes)?
            }
            EntryPayload::Membership(membership) => {
                let left = |id: &NodeId| membership.get_node(id).is_none();
                let left: Vec<NodeId> =
                    self.membership.membership().nodes().map(|(id, _)| *id).filter(left).collect();
                if !left.is_empty() {
                    self.removed.send_modify(|removed| removed.extend(left));
                }
                self.membership = Membership::new(Some(entry.log_id), membership);
                Outcome::default()
            }
        };
        let membership = || codec::encode_stored_membership(&self.membership, &self.removed.borrow());
        self.replica.end_entry(codec::to_wal_id(entry.log_id), entry_bytes, &membership)?;
        self.applied = Some(entry.log_id);
        Ok(outcome)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Boundary;
    type SnapshotBuilder = Newest;

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

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Newest> {
        Some(Newest(self.boundaries.clone()))
    }

    async fn get_snapshot_builder(&mut self) -> Newest {
        Newest(self.boundaries.clone())
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, _boundary: Boundary) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "segments are taken from other members before the node starts, never while it runs",
        ))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.offer.boundary().map(to_snapshot).transpose()
    }
}

/// The builder of snapshots. There is nothing to build: the newest sealed segment is one.
pub struct Newest(Boundaries);

impl RaftSnapshotBuilder<TypeConfig> for Newest {
    type SnapshotData = Boundary;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let newest = self.0.borrow().clone();
        let none = || io::Error::new(io::ErrorKind::Unsupported, "no segment is sealed yet");
        newest.ok_or_else(none).and_then(to_snapshot)
    }
}

fn to_snapshot(boundary: Boundary) -> io::Result<Snapshot> {
    let (last_membership, _) =
        codec::decode_stored_membership(&boundary.membership).map_err(io::Error::other)?;
    let meta = SnapshotMeta { last_log_id: Some(codec::to_raft_id(boundary.log)), last_membership };
    Ok(Snapshot { meta, snapshot: boundary })
}
