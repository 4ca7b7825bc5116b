//! A member whose log ends before the leader's begins: how the two come to terms.
//!
//! ```text
//! leader                                            member that is behind
//! openraft: full_snapshot ─► CatchUp ─────────────► is the boundary in my log?
//!   goes on with the log ◄────────── Reached ────── yes
//!   asks again later     ◄────────── Working ────── no: `ahead` wakes whoever fetches segments
//!   steps down           ◄────────── HigherVote ─── you do not lead any more
//! ```
//!
//! Nothing of a segment passes here, and nothing is installed while openraft runs: segments come another way
//! (`cluster`), and the log is set to go on behind them when the node starts again. It owns neither.

use std::{io, sync::Arc};

use openraft::{
    async_runtime::watch::WatchReceiver,
    errors::{RPCError, StreamingError, Unreachable},
    raft::SnapshotResponse,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Boundaries, Boundary, TypeConfig, Vote, network::Metrics};
use crate::{
    types::{LogId, NodeId},
    wal::Wal,
};

/// A leader's word to a member that it cannot send the log to: take my segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// The leader's vote.
    pub vote: Vote,
    /// The end of a sealed segment, behind which the leader still has the log.
    pub boundary: LogId,
    /// Where the leader is reached.
    pub address: String,
}

/// The member's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its log goes on from the boundary.
    Reached,
    /// Not yet.
    Working,
    /// It knows of a newer leader or candidate.
    HigherVote(Vote),
}

/// A leader that is too far ahead to send its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Who leads.
    pub leader: NodeId,
    /// Where it is reached.
    pub address: String,
    /// What has to be reached.
    pub boundary: LogId,
}

/// The newest leader that has said so; each time it is told anew.
pub type TooFarAhead = watch::Receiver<Option<Ahead>>;

/// The side of the member that is behind.
#[derive(Debug)]
pub struct Behind {
    wal: Wal,
    ahead: watch::Sender<Option<Ahead>>,
}

impl Behind {
    /// For the member with this log.
    pub fn new(wal: Wal) -> (Self, TooFarAhead) {
        let (ahead, told) = watch::channel(None);
        (Self { wal, ahead }, told)
    }

    /// Answers a leader; `known` is the newest vote here.
    pub fn answer(&self, known: Vote, ask: CatchUp) -> Standing {
        let CatchUp { vote, boundary, address } = ask;
        if !matches!(vote.partial_cmp(&known), Some(order) if order.is_ge()) {
            return Standing::HigherVote(known);
        }
        // On disk: the leader will count on it.
        if self.wal.has_reached(boundary) {
            return Standing::Reached;
        }
        self.ahead.send_replace(Some(Ahead { leader: vote.leader_id.voted_for, address, boundary }));
        Standing::Working
    }
}

/// What openraft is told of a member's answer to a leader of this vote. All that is no answer makes it ask again
/// after its back-off, since nothing was lost.
pub fn to_response(
    vote: Vote,
    answer: Result<Standing, RPCError<TypeConfig>>,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let later = |why: &(dyn std::error::Error + 'static)| {
        Err(StreamingError::Unreachable(Unreachable::from_string(why.to_string())))
    };
    match answer {
        Ok(Standing::Reached) => Ok(SnapshotResponse::new(vote)),
        // Only a vote that is really newer: openraft would take any other for success.
        Ok(Standing::HigherVote(higher)) if higher > vote => Ok(SnapshotResponse::new(higher)),
        Ok(_) => later(&io::Error::new(io::ErrorKind::WouldBlock, "it is fetching segments")),
        Err(error) => later(&error),
    }
}

/// The boundary that a leader gives to members that are behind.
///
/// It stays the same for as long as the log behind it is there: a member that has come so far can be sent the log,
/// although more has been sealed meanwhile.
#[derive(Clone, Debug)]
pub struct Offer {
    newest: Boundaries,
    wal: Wal,
    offered: Arc<Mutex<Option<Boundary>>>,
}

impl Offer {
    /// Of the boundaries of the segments before this log.
    pub fn new(newest: Boundaries, wal: Wal) -> Self {
        Self { newest, wal, offered: Arc::default() }
    }

    /// The one to give.
    pub fn boundary(&self) -> Option<Boundary> {
        let purged = self.wal.state().purged;
        let mut offered = self.offered.lock();
        if offered.as_ref().is_none_or(|offered| Some(offered.log.index) < purged.map(|id| id.index)) {
            offered.clone_from(&self.newest.borrow());
        }
        offered.clone()
    }
}

/// This member's address, as the others know it.
pub fn address_of(metrics: &Metrics, me: NodeId) -> String {
    let metrics = metrics.borrow_watched();
    let member = metrics.membership_config.membership().get_node(&me);
    member.map(|member| member.raft_addr.clone()).unwrap_or_default()
}
