//! Who has answered this leader, and when what they answered was sent: whether it led at a moment is for these to say.
//!
//! ```text
//!  begin ──► sent ──────► answered: this follower knew of no later leader at some time after `begin`
//!     a quorum of such answers: nobody else led when the read began, whatever has happened since
//! ```
//!
//! Takes what each append said and when it was handed to the network. openraft keeps such times, too, and reads are
//! asked of it first; but it takes an append without entries for answered with the one before it, as of when the later
//! one was made (read in its source): a leader that stood still meanwhile could read under a lease that is over. It does not
//! own which reads ask (`read_index`, `Consensus::read_barrier`).

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::types::NodeId;

/// A moment of this process. Two that the clock cannot tell apart still have an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    number: u64,
    at: Instant,
}

/// When the newest append that a follower has answered was sent, and in which term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answered {
    term: u64,
    sent: Moment,
}

/// What others have answered to this member.
#[derive(Debug)]
pub struct Heard {
    me: NodeId,
    moments: AtomicU64,
    newest: Mutex<BTreeMap<NodeId, Answered>>,
    news: Notify,
    /// Of each follower, the leader's term and the last entry that it has said to have on disk in that term.
    kept: Mutex<BTreeMap<NodeId, (u64, u64)>>,
    /// Those that were found to lack some of it.
    lost: Mutex<BTreeSet<NodeId>>,
    /// When a leader was last heard by this member, who follows it.
    leader: Mutex<Option<Instant>>,
}

impl Heard {
    /// Of this member; nothing so far.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            moments: AtomicU64::default(),
            newest: Mutex::default(),
            news: Notify::new(),
            kept: Mutex::default(),
            lost: Mutex::default(),
            leader: Mutex::default(),
        }
    }

    /// Now, after every moment before.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment { number: self.moments.fetch_add(1, SeqCst), at: Instant::now() }
    }

    /// A follower has answered what was sent to it at `sent` and knew of no leader after `term`.
    pub fn note(&self, follower: NodeId, term: u64, sent: Moment) {
        let answered = Answered { term, sent };
        let mut newest = self.newest.lock();
        let known = newest.entry(follower).or_insert(answered);
        *known = answered.max(*known);
        drop(newest);
        self.news.notify_waiters();
    }

    /// A follower has said in `term` that it has the entries up to `index` on disk.
    pub fn note_kept(&self, follower: NodeId, term: u64, index: u64) {
        let mut kept = self.kept.lock();
        let known = kept.entry(follower).or_default();
        *known = (term, index).max(*known);
    }

    /// Whether a follower has said in `term` that it has the entry at `index`.
    #[must_use]
    pub fn has_kept(&self, follower: NodeId, term: u64, index: u64) -> bool {
        self.kept.lock().get(&follower).is_some_and(|(of, last)| *of == term && *last >= index)
    }

    /// A follower lacks what it had said to have; whether that is news.
    pub fn is_first_loss(&self, follower: NodeId) -> bool {
        self.lost.lock().insert(follower)
    }

    /// This member has heard the leader that it follows.
    pub fn note_leader(&self) {
        *self.leader.lock() = Some(Instant::now());
    }

    /// Whether it has in the last `patience`.
    #[must_use]
    pub fn leader_within(&self, patience: Duration) -> bool {
        self.leader.lock().is_some_and(|heard| heard.elapsed() < patience)
    }

    /// Whether a quorum of each of these configurations has answered in `term` what was sent in the last `lease`.
    #[must_use]
    pub fn within(&self, lease: Duration, term: u64, configs: &[BTreeSet<NodeId>]) -> bool {
        self.has_quorum(configs, |answered| answered.term == term && answered.sent.at.elapsed() < lease)
    }

    /// Waits until a quorum of each of these configurations has answered in `term` what was sent after `begin`; whether
    /// it has within `patience`.
    pub async fn wait_since(
        &self,
        begin: Moment,
        term: u64,
        configs: &[BTreeSet<NodeId>],
        patience: Duration,
    ) -> bool {
        let counts = |answered: &Answered| answered.term == term && answered.sent > begin;
        self.wait_until(patience, || self.has_quorum(configs, counts)).await
    }

    /// Waits until a member has answered what was sent from now on; whether it has within `patience`.
    pub async fn wait_for(&self, id: NodeId, patience: Duration) -> bool {
        let begin = self.now();
        let answers = || self.newest.lock().get(&id).is_some_and(|answered| answered.sent > begin);
        self.wait_until(patience, answers).await
    }

    async fn wait_until(&self, patience: Duration, holds: impl Fn() -> bool) -> bool {
        let give_up = Instant::now() + patience;
        loop {
            let mut news = pin!(self.news.notified());
            // What comes between the look and the wait is news, too.
            news.as_mut().enable();
            if holds() {
                return true;
            }
            if timeout_at(give_up, news).await.is_err() {
                return false;
            }
        }
    }

    /// Whether a member has answered what was sent to it in the last `patience`.
    #[must_use]
    pub fn has_answered_within(&self, patience: Duration, id: NodeId) -> bool {
        self.newest.lock().get(&id).is_some_and(|answered| answered.sent.at.elapsed() < patience)
    }

    fn has_quorum(&self, configs: &[BTreeSet<NodeId>], counts: impl Fn(&Answered) -> bool) -> bool {
        let newest = self.newest.lock();
        let vouches = |voter: &&NodeId| **voter == self.me || newest.get(*voter).is_some_and(&counts);
        configs.iter().all(|voters| voters.iter().filter(vouches).count() * 2 > voters.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    fn configs<const N: usize>(configs: [&[NodeId]; N]) -> Vec<BTreeSet<NodeId>> {
        configs.iter().map(|voters| voters.iter().copied().collect()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_counts_from_what_was_sent_and_is_of_its_term() {
        let (heard, three) = (Heard::new(1), configs([&[1, 2, 3]]));
        assert!(!heard.within(LEASE, 5, &three), "alone");
        assert!(!heard.leader_within(LEASE), "never");
        heard.note_leader();
        assert!(heard.leader_within(LEASE));
        assert!(heard.within(LEASE, 5, &configs([&[1]])), "it is the quorum");
        let sent = heard.now();
        tokio::time::advance(LEASE / 2).await;
        heard.note(2, 5, sent);
        assert!(heard.within(LEASE, 5, &three) && !heard.within(LEASE, 6, &three));
        assert!(!heard.within(LEASE, 5, &configs([&[1, 2, 3, 4, 5]])));
        assert!(!heard.within(LEASE, 5, &configs([&[1, 2, 3], &[1, 3, 4]])), "one of two configurations");
        tokio::time::advance(LEASE / 2).await;
        assert!(!heard.within(LEASE, 5, &three), "not from when the answer came");
        assert!(!heard.leader_within(LEASE));
        assert!(!heard.has_answered_within(LEASE, 2) && heard.has_answered_within(LEASE * 2, 2));
        assert!(!heard.has_answered_within(LEASE * 2, 3), "never");
        heard.note_kept(2, 5, 7);
        heard.note_kept(2, 5, 6);
        assert!(heard.has_kept(2, 5, 7) && !heard.has_kept(2, 5, 8) && !heard.has_kept(2, 6, 1));
        assert!(!heard.has_kept(3, 5, 0));
        // An older answer that comes late changes nothing.
        let (older, newer) = (heard.now(), heard.now());
        heard.note(3, 5, newer);
        heard.note(3, 5, older);
        assert_eq!(heard.newest.lock()[&3].sent, newer);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_is_confirmed_by_what_was_sent_after_it_began() {
        let (heard, three) = (Heard::new(1), configs([&[1, 2, 3]]));
        let before = heard.now();
        let begin = heard.now();
        // The clock has not moved in between.
        heard.note(2, 5, before);
        assert!(!heard.wait_since(begin, 5, &three, LEASE).await);
        let after = heard.now();
        let answer = async {
            tokio::time::sleep(LEASE / 2).await;
            heard.note(3, 5, after);
        };
        let (confirmed, ()) = tokio::join!(heard.wait_since(begin, 5, &three, LEASE), answer);
        assert!(confirmed);
        assert!(!heard.wait_since(begin, 6, &three, LEASE).await, "of another term");
        assert!(!heard.wait_for(3, LEASE).await, "what was sent before does not count");
        let answer = async {
            tokio::task::yield_now().await;
            heard.note(3, 5, heard.now());
        };
        assert!(tokio::join!(heard.wait_for(3, LEASE), answer).0);
    }
}
