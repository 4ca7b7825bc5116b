//! What the node counts about requests, and how it is shown: JSON and Prometheus text.
//!
//! Takes observations from the server's hot path, gives renderings. Whatever is measured elsewhere (stages,
//! storage, Raft) comes in as [`Stat`]s at the moment of rendering; this module does not own it.
//!
//! Histograms are split into shards, one for each of a few threads, so that two cores recording at once do
//! not wait for each other: recording is a lock that is nearly always free and one addition.

use std::{
    cell::Cell,
    sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;

mod render;

use render::Summary;

/// A kind of request that is counted and timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Operation {
    /// One key read, in any spelling.
    Get,
    /// One key written.
    Put,
    /// One key deleted.
    Delete,
    /// A bulk request.
    Batch,
    /// A page of keys.
    Scan,
    /// The versions of a key.
    History,
    /// A record by position.
    Record,
    /// A checkpoint, a tile or a proof.
    Proof,
}

impl Operation {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Get,
        Self::Put,
        Self::Delete,
        Self::Batch,
        Self::Scan,
        Self::History,
        Self::Record,
        Self::Proof,
    ];

    /// Its name in JSON and in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Batch => "batch",
            Self::Scan => "scan",
            Self::History => "history",
            Self::Record => "record",
            Self::Proof => "proof",
        }
    }
}

/// A number measured elsewhere, shown here.
#[derive(Clone, Debug, PartialEq)]
pub struct Stat {
    /// Which part of the JSON it stands in: `storage`, `raft`, `stages`, …; a part of its Prometheus name.
    pub group: &'static str,
    /// Its name, ending in its unit. Counters end in `_total`.
    pub name: &'static str,
    /// One sentence for whoever reads the Prometheus text.
    pub help: &'static str,
    /// A label, where one name has several values: `("stage", "ingest")`.
    pub label: Option<(&'static str, String)>,
    /// The value now.
    pub value: f64,
}

/// Times measured elsewhere, shown here.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// Its Prometheus name after `scribe_`, ending in `_duration_seconds`.
    pub name: &'static str,
    /// One sentence for whoever reads the Prometheus text.
    pub help: &'static str,
    /// A label, where one name has several histograms. Those of one name follow each other.
    pub label: Option<(&'static str, String)>,
    /// Microseconds.
    pub histogram_us: Histogram<u64>,
}

/// What the node knows and the server does not, at the moment of rendering.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsSnapshot {
    /// Live keys, once they are counted.
    pub total_keys: Option<u64>,
    /// Records applied.
    pub total_records: u64,
    /// The leader, if one is known.
    pub current_leader: Option<u64>,
    /// Everything else.
    pub stats: Vec<Stat>,
    /// How long things take inside the node; only Prometheus text shows them whole.
    pub times: Vec<Times>,
}

const SHARDS: usize = 4;
/// Longest time that is told apart from longer ones: 2 minutes, in microseconds.
const TIME_US_MAX: u64 = 120_000_000;
/// Names of errors beyond this many are counted together; there are about 25.
const ERROR_NAMES_MAX: usize = 64;

struct Timing {
    histogram: Histogram<u64>,
    sum_us: u64,
}

type Shard = [Timing; Operation::ALL.len()];

/// Connections, as the accept loop counts them.
#[derive(Debug, Default)]
pub struct Connections {
    /// Open now.
    pub open: AtomicUsize,
    /// Accepted since start.
    pub accepted: AtomicU64,
    /// Turned away because too many were open.
    pub refused: AtomicU64,
    /// Ended because the client was too slow.
    pub timed_out: AtomicU64,
}

/// The server's own counters. Cheap to record into, from any thread.
pub struct Metrics {
    shards: [Mutex<Shard>; SHARDS],
    errors: Mutex<Vec<(&'static str, u64)>>,
    rate: Mutex<Rate>,
    in_flight: AtomicI64,
    /// Connections.
    pub connections: Connections,
}

struct Rate {
    since: Instant,
    count: u64,
    per_sec: f64,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn shard_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed) % SHARDS));
    MINE.with(Cell::get)
}

fn new_timing() -> Timing {
    let histogram = Histogram::new_with_bounds(1, TIME_US_MAX, 2);
    Timing { histogram: histogram.expect("constant bounds that the library takes"), sum_us: 0 }
}

impl Metrics {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(std::array::from_fn(|_| new_timing()))),
            errors: Mutex::new(Vec::new()),
            rate: Mutex::new(Rate { since: Instant::now(), count: 0, per_sec: 0.0 }),
            in_flight: AtomicI64::new(0),
            connections: Connections::default(),
        }
    }

    /// Counts one request and the time it took, however it ended.
    pub fn observe(&self, operation: Operation, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut shard = self.shards[shard_of_this_thread()].lock();
        let timing = &mut shard[operation as usize];
        timing.histogram.saturating_record(us.max(1));
        timing.sum_us = timing.sum_us.saturating_add(us);
    }

    /// Counts one answer that is a problem, by its slug.
    pub fn error(&self, slug: &'static str) {
        let mut errors = self.errors.lock();
        if let Some((_, count)) = errors.iter_mut().find(|(name, _)| *name == slug) {
            *count += 1;
        } else if errors.len() < ERROR_NAMES_MAX {
            errors.push((slug, 1));
        }
    }

    /// Counts a request as under way until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(self)
    }

    fn summaries(&self) -> Vec<Summary> {
        let mut summaries: Vec<Summary> =
            Operation::ALL.iter().map(|&operation| Summary { operation, timing: new_timing() }).collect();
        for shard in &self.shards {
            let shard = shard.lock();
            for (summary, timing) in summaries.iter_mut().zip(shard.iter()) {
                // All have the same bounds, so that adding cannot fail.
                let _ = summary.timing.histogram.add(&timing.histogram);
                summary.timing.sum_us = summary.timing.sum_us.saturating_add(timing.sum_us);
            }
        }
        summaries
    }

    /// Errors by slug, sorted; and their sum without the answers that merely say no: a key that is not
    /// there and a condition that does not hold are no failures.
    fn errors_by_slug(&self) -> (Vec<(&'static str, u64)>, u64) {
        let mut errors = self.errors.lock().clone();
        errors.sort_unstable();
        let failures = errors
            .iter()
            .filter(|(slug, _)| !matches!(*slug, "not-found" | "precondition-failed"))
            .map(|(_, count)| count)
            .sum();
        (errors, failures)
    }

    /// Requests a second since the last time someone asked, at least a second ago.
    fn per_sec(&self, count: u64) -> f64 {
        let mut rate = self.rate.lock();
        let elapsed = rate.since.elapsed().as_secs_f64();
        if elapsed >= 1.0 {
            let done = count.saturating_sub(rate.count);
            *rate = Rate { since: Instant::now(), count, per_sec: done as f64 / elapsed };
        } else if rate.per_sec == 0.0 && elapsed > 0.0 {
            return count.saturating_sub(rate.count) as f64 / elapsed;
        }
        rate.per_sec
    }
}

/// A request under way.
#[derive(Debug)]
pub struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
