//! Stage 3, replicate: proposes entries and answers those who wait for them.
//!
//! Takes closed batches, stamps them with the leader's time and gives them to Raft, which makes them
//! durable on a quorum and applies them. It has no queue of its own: what is in flight is bounded by
//! `batch`, in entries, and by `ingest`, in bytes. It does not own the log nor what applying means.

use std::sync::Arc;

use super::{
    entry_clock::EntryClock,
    gauge::Gauge,
    message::{Closed, ToBatch, answer, refuse},
    stage::Inbox,
};
use crate::{
    raft::{Consensus, Proposal},
    runtime::without_blocking_others,
    state::State,
};

/// The handle that `batch` proposes through.
#[derive(Clone, Debug)]
pub struct Replicate {
    consensus: Consensus,
    state: Arc<State>,
    clock: Arc<EntryClock>,
    settled: Inbox<ToBatch>,
    gauge: Arc<Gauge>,
}

impl Replicate {
    /// Proposes through `consensus` and tells `settled` when an entry is answered.
    #[must_use]
    pub fn new(
        consensus: Consensus,
        state: Arc<State>,
        clock: EntryClock,
        settled: Inbox<ToBatch>,
        gauge: Arc<Gauge>,
    ) -> Self {
        Self { consensus, state, clock: Arc::new(clock), settled, gauge }
    }

    /// Proposes a batch. Every request in it will be answered exactly once.
    pub async fn propose(&self, closed: Closed) {
        let Closed { batch, waiting, alone } = closed;
        let bytes = batch.bytes();
        let stay = self.gauge.enter(1, bytes as u64);
        let settled = self.settled.clone();
        let time = self.clock.stamp(self.state.last_time_ms());
        let entry = time.and_then(|time| without_blocking_others(bytes, || batch.encode(time)));
        match entry {
            Ok(entry) => {
                let answered = move |result| {
                    answer(waiting, result);
                    drop(stay);
                    // The stage may have stopped; then nobody counts what is in flight any more.
                    let _ = settled.send(ToBatch::Settled);
                };
                self.consensus.propose(Proposal { bytes: entry, alone }, answered).await;
            }
            Err(error) => {
                refuse(waiting, &error);
                let _ = settled.send(ToBatch::Settled);
            }
        }
    }
}
