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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::WalConfig,
        sim::{SimIo, sim_env},
        types::LogIndex,
        wal::{Driver, LogEntry, WalOptions},
    };

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index: LogIndex(index) }
    }

    /// A log of these entries of term 1, which `Wal::step` writes.
    fn log(count: u64) -> Wal {
        let config = WalConfig { file_bytes: 64 << 10, disk_free_bytes_min: 0, ..WalConfig::default() };
        let options = WalOptions::new(config, Driver::Step);
        let wal = Wal::open(&sim_env(&SimIo::new(1), 1), Path::new("/wal"), options).unwrap();
        let entries = (0..count).map(|index| LogEntry { id: id(1, index), payload: "entry".into() });
        wal.append(entries.collect(), Box::new(drop)).unwrap();
        wal
    }

    fn ask(vote: Vote, boundary: LogId) -> CatchUp {
        CatchUp { vote, boundary, address: "there".into() }
    }

    #[test]
    fn only_what_is_on_disk_is_reached_and_only_a_leader_is_heard() {
        let (wal, leader) = (log(10), Vote::new_committed(3, 7));
        let (behind, told) = Behind::new(wal.clone());
        let standing = |boundary| behind.answer(leader, ask(leader, boundary));
        // A leader that counted on it would once have met a log that lacked it after a power cut.
        assert_eq!(standing(id(1, 5)), Standing::Working);
        assert!(wal.step());
        assert_eq!(standing(id(1, 5)), Standing::Reached);
        for elsewhere in [id(2, 5), id(2, 10), id(2, 40)] {
            assert_eq!(standing(elsewhere), Standing::Working);
            let ahead = Ahead { leader: 7, address: "there".into(), boundary: elsewhere };
            assert_eq!(*told.borrow(), Some(ahead));
        }
        let mut told = told;
        told.mark_unchanged();
        for (known, vote) in
            [(leader, Vote::new_committed(2, 9)), (Vote::new(4, 1), leader), (leader, Vote::new(3, 8))]
        {
            assert_eq!(behind.answer(known, ask(vote, id(1, 5))), Standing::HigherVote(known));
        }
        assert!(!told.has_changed().unwrap());
        wal.purge(id(1, 8), Box::new(drop)).unwrap();
        assert_eq!(standing(id(1, 5)), Standing::Reached);
    }

    #[test]
    fn openraft_hears_of_success_only_when_it_is_one() {
        let vote = Vote::new_committed(3, 7);
        let response = |answer| to_response(vote, Ok(answer)).map(|response| response.vote);
        assert_eq!(response(Standing::Reached).unwrap(), vote);
        assert_eq!(response(Standing::HigherVote(Vote::new(4, 1))).unwrap(), Vote::new(4, 1));
        for not_yet in [Standing::Working, Standing::HigherVote(vote), Standing::HigherVote(Vote::new(3, 8))]
        {
            assert!(matches!(response(not_yet), Err(StreamingError::Unreachable(_))));
        }
    }

    #[test]
    fn an_offer_stays_while_the_log_behind_it_is_there() {
        let wal = log(10);
        let boundary = |index| Boundary { log: id(1, index), membership: Vec::new() };
        let (tell, newest) = watch::channel(None);
        let offer = Offer::new(newest, wal.clone());
        assert_eq!(offer.boundary(), None);
        for (seals, purges, offers) in
            [(3, None, 3), (5, Some(2), 3), (7, Some(3), 3), (9, Some(4), 9), (9, Some(8), 9)]
        {
            tell.send_replace(Some(boundary(seals)));
            purges.iter().for_each(|index| wal.purge(id(1, *index), Box::new(drop)).unwrap());
            assert_eq!(offer.boundary(), Some(boundary(offers)));
        }
    }
}
