//! Stage 3, replicate: proposes entries and answers those who wait for them.
//!
//! Takes closed batches, stamps them with the leader's time and gives them to Raft, which makes them
//! durable on a quorum and applies them; where another member leads, it sends them there (`forward`). It has no
//! queue of its own: what is in flight is bounded by `batch`, in entries, and by `ingest`, in bytes. It does not
//! own the log nor what applying means.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use bytes::Bytes;

use super::{
    entry_clock::EntryClock,
    forward::{Forward, outcome_unknown},
    gauge::{Gauge, Stay},
    message::{Closed, InFlight, ToBatch, refuse},
    stage::Inbox,
};
use crate::{
    error::{Error, Result},
    raft::{Consensus, Proposal, Refusal},
    runtime::without_blocking_others,
    state::{State, outcome::Outcome},
};

/// The handle that `batch` proposes through. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Replicate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    consensus: Consensus,
    state: Arc<State>,
    clock: Arc<EntryClock>,
    forward: Forward,
    settled: Inbox<ToBatch>,
    /// Those that were proposed here and are not answered yet, and perhaps some that are.
    in_flight: Mutex<Vec<Weak<Mutex<InFlight>>>>,
    gauge: Arc<Gauge>,
}

impl Replicate {
    /// Proposes through `consensus`, or sends to the leader by `forward`, and tells `settled` when an entry is
    /// answered.
    #[must_use]
    pub fn new(
        consensus: Consensus,
        state: Arc<State>,
        clock: Arc<EntryClock>,
        forward: Forward,
        settled: Inbox<ToBatch>,
        gauge: Arc<Gauge>,
    ) -> Self {
        let in_flight = Mutex::default();
        Self(Arc::new(Inner { consensus, state, clock, forward, settled, in_flight, gauge }))
    }

    /// Proposes a batch. Every request in it will be answered exactly once.
    pub async fn propose(&self, closed: Closed) {
        let Closed { batch, waiting, alone } = closed;
        let Inner { consensus, state, clock, settled, gauge, .. } = &*self.0;
        let bytes = batch.bytes();
        let stay = gauge.enter(1, bytes as u64);
        let leads = consensus.can_commit();
        // Whoever leads sets the time.
        let time = if leads { clock.stamp(state.last_time_ms()) } else { Ok(0) };
        let entry = match time.and_then(|time| without_blocking_others(bytes, || batch.encode(time))) {
            Ok(entry) => entry,
            Err(error) => {
                refuse(waiting, &error);
                let _ = settled.send(ToBatch::Settled);
                return;
            }
        };
        let waiting = Arc::new(Mutex::new(InFlight::new(waiting)));
        if !leads {
            tokio::spawn(self.clone().forward(entry, waiting, stay));
            return;
        }
        self.note_in_flight(&waiting);
        let (this, again) = (self.clone(), entry.clone());
        let answered = move |result| match result {
            // It lost the lead between the question and the proposal.
            Err(Refusal::NotLeader { .. }) => drop(tokio::spawn(this.forward(again, waiting, stay))),
            Err(Refusal::Unknown(why)) => this.settle(&waiting, Err(outcome_unknown(&why)), stay),
            Ok(outcome) => this.settle(&waiting, Ok(outcome), stay),
        };
        consensus.propose(Proposal { bytes: entry, alone }, answered).await;
    }

    fn note_in_flight(&self, waiting: &Arc<Mutex<InFlight>>) {
        let mut in_flight = self.0.in_flight.lock();
        in_flight.retain(|other| other.strong_count() > 0);
        in_flight.push(Arc::downgrade(waiting));
    }

    async fn forward(self, entry: Bytes, waiting: Arc<Mutex<InFlight>>, stay: Stay) {
        let result = self.0.forward.deliver(entry).await;
        self.settle(&waiting, result, stay);
    }

    fn settle(&self, waiting: &Mutex<InFlight>, result: Result<Outcome>, stay: Stay) {
        waiting.lock().answer(result);
        drop(stay);
        // The stage may have stopped; then nobody counts what is in flight any more.
        let _ = self.0.settled.send(ToBatch::Settled);
    }

    /// Answers those whose entries were proposed here and are in flight, because that may last: `why` says so. What
    /// becomes of the entries is settled all the same.
    pub fn answer_unknown(&self, why: &Error) {
        let in_flight = std::mem::take(&mut *self.0.in_flight.lock());
        for waiting in in_flight.into_iter().filter_map(|waiting| waiting.upgrade()) {
            waiting.lock().give_up(why);
        }
    }
}
