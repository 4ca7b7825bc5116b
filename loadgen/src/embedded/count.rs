//! What a caller has counted since it was last asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde_json::Map;

use crate::{
    measured::{Measured, Operations, Tick},
    run::tally,
};

/// A caller's counter; nobody else wants its lock but the one who gathers, once a second.
pub type Handle = Arc<Mutex<Count>>;

/// Counts of an interval, or of a run.
#[derive(Clone, Debug)]
pub struct Count {
    writes: Operations,
    reads: Operations,
    /// Failed calls by kind: keys that were not there, and the ledger's own errors.
    failed: BTreeMap<String, u64>,
}

impl Default for Count {
    fn default() -> Self {
        let none = || Operations { requests: 0, records: 0, latency_us: tally::histogram() };
        Self { writes: none(), reads: none(), failed: BTreeMap::new() }
    }
}

/// Empties a counter.
pub fn take(count: &Handle) -> Count {
    // Made before the lock is taken: the caller should not wait for an allocation.
    let empty = Count::default();
    std::mem::replace(&mut *count.lock().unwrap_or_else(PoisonError::into_inner), empty)
}

impl Count {
    /// A batch that was acknowledged.
    pub fn wrote(&mut self, records: u64, took: Duration) {
        self.writes.requests += 1;
        self.writes.records += records;
        self.writes.latency_us.saturating_record(micros(took));
    }

    /// So many reads that found their keys.
    pub fn read(&mut self, records: u64) {
        self.reads.requests += records;
        self.reads.records += records;
    }

    /// How long one of the reads took. Looking at the clock takes as long as a read: only some are timed.
    pub fn timed_read(&mut self, took: Duration) {
        self.reads.latency_us.saturating_record(micros(took));
    }

    /// A call that failed.
    pub fn fail(&mut self, kind: &str) {
        *self.failed.entry(kind.to_owned()).or_default() += 1;
    }

    pub fn absorb(&mut self, other: &Self) {
        for (sum, more) in [(&mut self.writes, &other.writes), (&mut self.reads, &other.reads)] {
            sum.requests += more.requests;
            sum.records += more.records;
            // All histograms have the same bounds, so that adding them cannot fail.
            let _ = sum.latency_us.add(&more.latency_us);
        }
        for (kind, count) in &other.failed {
            *self.failed.entry(kind.clone()).or_default() += count;
        }
    }

    /// Records written and keys read.
    pub const fn records(&self) -> u64 {
        self.writes.records + self.reads.records
    }

    /// Calls that failed.
    pub fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    /// It as one interval of a run.
    pub fn tick(self, at: Duration, length: Duration) -> Tick {
        let (requests, records) = (self.writes.requests + self.reads.requests, self.records());
        let failed = self.failed();
        let mut latency = self.reads.latency_us;
        let _ = latency.add(&self.writes.latency_us);
        let quantile =
            |latency: &Histogram<u64>, q| if latency.is_empty() { 0 } else { latency.value_at_quantile(q) };
        Tick {
            at,
            length,
            requests,
            records,
            failed,
            p50_us: quantile(&latency, 0.5),
            p99_us: quantile(&latency, 0.99),
            max_us: quantile(&latency, 1.0),
        }
    }

    /// It as a whole run; what is not counted here is left empty.
    pub fn measured(self) -> Measured {
        let writes_begun = self.writes.requests > 0;
        let some = |operations: Operations| (operations.requests > 0).then_some(operations);
        Measured {
            plan: Map::new(),
            command: Vec::new(),
            began_unix_ms: 0,
            elapsed: Duration::ZERO,
            writes: some(self.writes),
            reads: some(self.reads),
            refused: self.failed,
            unknown: BTreeMap::new(),
            details: BTreeMap::new(),
            writes_begun,
            precondition_failed: 0,
            bytes_sent: 0,
            bytes_received: 0,
            client_cpu_cores: None,
            timeline: Vec::new(),
            servers: Vec::new(),
            truth: None,
        }
    }
}

/// Whole microseconds, at least one: what is faster is not told apart.
fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1)
}
