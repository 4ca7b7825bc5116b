//! Stage 2, batch: gathers requests into entries.
//!
//! Takes admitted requests, gives closed batches to `replicate`. Natural batching: with nothing in flight
//! a request is proposed at once, alone; while entries are in flight, arrivals gather into the next one,
//! so that batches grow exactly as fast as the disk makes them wait. It does not own the entry's bytes
//! (`state::batch`) nor its fate (`replicate`).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    budget::Room,
    gauge::{Gauge, Stay},
    message::{Closed, ToBatch, Waiting, Write, Written},
    replicate::Replicate,
    stage::Stage,
};
use crate::{
    config::PipelineConfig,
    error::{Error, Result},
    state::batch::{Batch, Draft},
};

/// When an entry closes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    ops_max: usize,
    bytes_max: usize,
    linger: Duration,
    inflight_max: usize,
}

impl From<&PipelineConfig> for Bounds {
    fn from(config: &PipelineConfig) -> Self {
        Self {
            ops_max: config.batch_ops_max,
            bytes_max: config.batch_bytes_max,
            linger: config.batch_linger,
            inflight_max: config.inflight_entries_max,
        }
    }
}

/// A request that waits for its entry to close.
#[derive(Debug)]
struct Gathered {
    draft: Draft,
    reply: oneshot::Sender<Result<Written>>,
    room: Room,
    since: Instant,
    /// Its stay in this stage.
    _stay: Stay,
}

/// The decisions of the stage: what gathers, and when it closes. Knows no channel.
#[derive(Debug)]
pub struct Gathering {
    bounds: Bounds,
    backlog: VecDeque<Gathered>,
    backlog_ops: usize,
    backlog_bytes: usize,
    inflight: usize,
}

impl Gathering {
    fn new(bounds: Bounds) -> Self {
        Self { bounds, backlog: VecDeque::new(), backlog_ops: 0, backlog_bytes: 0, inflight: 0 }
    }

    fn add(&mut self, write: Write, gauge: &Arc<Gauge>, now: Instant) {
        // Its stay in `ingest` ends here.
        let Write { draft, reply, room, stay: _ } = write;
        let (ops, bytes) = (draft.len(), draft.bytes());
        self.backlog_ops += ops;
        self.backlog_bytes += bytes;
        let stay = gauge.enter(ops as u64, bytes as u64);
        self.backlog.push_back(Gathered { draft, reply, room, since: now, _stay: stay });
    }

    /// Takes the next entry out if it is time for it.
    fn close(&mut self, now: Instant) -> Option<Closed> {
        let since = self.backlog.front()?.since;
        let full = self.backlog_ops >= self.bounds.ops_max || self.backlog_bytes >= self.bounds.bytes_max;
        let waited = match self.bounds.linger {
            Duration::ZERO => self.inflight == 0,
            linger => now >= since + linger,
        };
        if self.inflight >= self.bounds.inflight_max || !(full || waited) {
            return None;
        }
        let mut batch = Batch::default();
        let mut waiting = Vec::new();
        while let Some(first) = self.backlog.front() {
            let (ops, bytes) = (first.draft.len(), first.draft.bytes());
            // A first request always goes in, however large: one request is never split.
            let over =
                batch.len() + ops > self.bounds.ops_max || batch.bytes() + bytes > self.bounds.bytes_max;
            if !batch.is_empty() && (over || !batch.has_room(bytes)) {
                break;
            }
            if let Some(Gathered { draft, reply, room, .. }) = self.backlog.pop_front() {
                self.backlog_ops -= ops;
                self.backlog_bytes -= bytes;
                let op_count = u32::try_from(ops).unwrap_or(u32::MAX);
                let first_op = batch.append(draft);
                waiting.push(Waiting { first_op, op_count, reply, room });
            }
        }
        let alone = waiting.len() == 1 && self.inflight == 0 && self.backlog.is_empty();
        self.inflight += 1;
        Some(Closed { batch, waiting, alone })
    }

    /// Answers everybody who is in no entry yet.
    fn refuse_all(&mut self, why: &Error) {
        for Gathered { reply, .. } in self.backlog.drain(..) {
            // A caller that stopped waiting is not told.
            let _ = reply.send(Err(why.clone()));
        }
        (self.backlog_ops, self.backlog_bytes) = (0, 0);
    }

    /// When the oldest request has lingered long enough.
    fn wake_at(&self) -> Option<Instant> {
        let since = self.backlog.front()?.since;
        (!self.bounds.linger.is_zero() && self.inflight < self.bounds.inflight_max)
            .then(|| since + self.bounds.linger)
    }
}

/// The stage.
pub struct BatchStage {
    gathering: Gathering,
    next: Replicate,
    /// Whether those who wait for the entries in flight were told not to, and none was settled since.
    given_up: bool,
    gauge: Arc<Gauge>,
}

impl BatchStage {
    /// A stage that gives its entries to `next`.
    pub fn new(bounds: Bounds, next: Replicate, gauge: Arc<Gauge>) -> Self {
        Self { gathering: Gathering::new(bounds), next, given_up: false, gauge }
    }
}

impl Stage for BatchStage {
    type Message = ToBatch;
    const NAME: &'static str = "batch";

    fn take(&mut self, message: ToBatch) {
        match message {
            ToBatch::Settled => {
                self.gathering.inflight -= 1;
                self.given_up = false;
            }
            ToBatch::GiveUp { refused, unknown } => {
                self.gathering.refuse_all(&refused);
                self.next.answer_unknown(&unknown);
                self.given_up = true;
            }
            ToBatch::Write(write) => self.gathering.add(write, &self.gauge, Instant::now()),
        }
    }

    async fn act(&mut self, now: Instant) {
        while let Some(closed) = self.gathering.close(now) {
            self.next.propose(closed).await;
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.gathering.wake_at()
    }

    fn is_empty(&self) -> bool {
        self.gathering.backlog.is_empty() && (self.gathering.inflight == 0 || self.given_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::budget::Budget;

    const BOUNDS: Bounds = Bounds { ops_max: 4, bytes_max: 1 << 20, linger: Duration::ZERO, inflight_max: 2 };

    fn write(ops: usize) -> Write {
        let mut draft = Draft::new();
        for _ in 0..ops {
            draft.put(b"key", b"value").unwrap();
        }
        let (reply, _) = oneshot::channel();
        Write { draft, reply, room: Budget::new(1).room(1).unwrap(), stay: Gauge::new("ingest").enter(1, 1) }
    }

    fn closed_ops(closed: Option<Closed>) -> Option<Vec<(u32, u32)>> {
        closed.map(|c| c.waiting.iter().map(|w| (w.first_op, w.op_count)).collect())
    }

    #[test]
    fn alone_at_once_then_together_while_the_disk_works() {
        let now = Instant::now();
        let (mut gathering, gauge) = (Gathering::new(BOUNDS), Gauge::new("batch"));
        assert_eq!(closed_ops(gathering.close(now)), None, "nothing to propose");
        gathering.add(write(1), &gauge, now);
        assert_eq!(closed_ops(gathering.close(now)), Some(vec![(0, 1)]), "nothing in flight: at once");
        gathering.add(write(1), &gauge, now);
        gathering.add(write(2), &gauge, now);
        assert_eq!(closed_ops(gathering.close(now)), None, "one in flight, not full: gathers");
        gathering.add(write(1), &gauge, now);
        assert_eq!(
            closed_ops(gathering.close(now)),
            Some(vec![(0, 1), (1, 2), (3, 1)]),
            "full: goes beside it"
        );
        gathering.add(write(9), &gauge, now);
        assert_eq!(closed_ops(gathering.close(now)), None, "two in flight: waits although full");
        gathering.inflight -= 1;
        assert_eq!(closed_ops(gathering.close(now)), Some(vec![(0, 9)]), "one request is never split");
        assert_eq!((gathering.backlog_ops, gathering.backlog_bytes), (0, 0));
        assert_eq!((gauge.read().depth, gauge.read().passed), (0, 14));
    }

    #[test]
    fn alone_is_who_has_no_company() {
        let (mut gathering, gauge) = (Gathering::new(BOUNDS), Gauge::new("batch"));
        let now = Instant::now();
        let mut close = |requests: usize, inflight| {
            (0..requests).for_each(|_| gathering.add(write(4), &gauge, now));
            gathering.inflight = inflight;
            gathering.close(now).expect("full").alone
        };
        assert!(close(1, 0));
        assert!(!close(1, 1), "another is in flight");
        assert!(!close(2, 0), "another waits");
    }

    #[test]
    fn linger_holds_the_first_back_for_company() {
        let start = Instant::now();
        let gauge = Gauge::new("batch");
        let mut gathering = Gathering::new(Bounds { linger: Duration::from_millis(2), ..BOUNDS });
        gathering.add(write(1), &gauge, start);
        assert_eq!(closed_ops(gathering.close(start)), None);
        assert_eq!(gathering.wake_at(), Some(start + Duration::from_millis(2)));
        gathering.add(write(1), &gauge, start + Duration::from_millis(1));
        assert_eq!(closed_ops(gathering.close(start + Duration::from_millis(2))), Some(vec![(0, 1), (1, 1)]));
    }
}
