//! Stage 3, replicate: proposes entries and answers those who wait for them.
//!
//! Takes closed batches, stamps them with the leader's time and gives them to Raft, which makes them
//! durable on a quorum and applies them. It has no queue of its own: what is in flight is bounded by
//! `batch`, in entries, and by `ingest`, in bytes. It does not own the log nor what applying means.

use std::{sync::Arc, time::Duration};

use super::{
    gauge::Gauge,
    message::{Closed, ToBatch, answer, refuse},
    stage::{Inbox, without_blocking_others},
};
use crate::{
    env::Clock,
    error::{Code, Error},
    raft::Consensus,
    state::State,
};

/// The handle that `batch` proposes through.
#[derive(Clone, Debug)]
pub struct Replicate {
    consensus: Consensus,
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    clock_skew_ms_max: u64,
    settled: Inbox<ToBatch>,
    gauge: Arc<Gauge>,
}

impl Replicate {
    /// Proposes through `consensus` and tells `settled` when an entry is answered.
    #[must_use]
    pub fn new(
        consensus: Consensus,
        state: Arc<State>,
        clock: Arc<dyn Clock>,
        clock_skew_ms_max: u64,
        settled: Inbox<ToBatch>,
        gauge: Arc<Gauge>,
    ) -> Self {
        Self { consensus, state, clock, clock_skew_ms_max, settled, gauge }
    }

    /// Proposes a batch. Every request in it will be answered exactly once.
    pub async fn propose(&self, closed: Closed) {
        let Closed { batch, waiting } = closed;
        let bytes = batch.bytes();
        let stay = self.gauge.enter(1, bytes as u64);
        let settled = self.settled.clone();
        let entry = self.entry_time().and_then(|time| without_blocking_others(bytes, || batch.encode(time)));
        match entry {
            Ok(entry) => {
                let answered = move |result| {
                    answer(waiting, result);
                    drop(stay);
                    // The stage may have stopped; then nobody counts what is in flight any more.
                    let _ = settled.send(ToBatch::Settled);
                };
                self.consensus.propose(entry, answered).await;
            }
            Err(error) => {
                refuse(waiting, &error);
                let _ = settled.send(ToBatch::Settled);
            }
        }
    }

    /// The time an entry gets now. Records' times never go back, so a leader whose clock is far behind
    /// would stamp everything with one frozen moment and keep idempotency keys for ever: it stops instead.
    fn entry_time(&self) -> Result<u64, Error> {
        let (now, last) = (self.clock.now_ms(), self.state.last_time_ms());
        if now.saturating_add(self.clock_skew_ms_max) < last {
            return Err(Error::new(
                Code::Unavailable,
                format!(
                    "this node's clock is {} ms behind the ledger's last record (limits.clock_skew_max_ms is {}): \
                     set the clock; nothing was written",
                    last - now,
                    self.clock_skew_ms_max
                ),
            )
            .retry_after(Duration::from_secs(5)));
        }
        Ok(now)
    }
}
