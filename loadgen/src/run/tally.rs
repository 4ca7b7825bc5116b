//! What has been seen since the collector last looked: counts by kind, and latencies.
//!
//! Each load thread and the journal's writer fill a tally of their own, behind a lock that nobody else wants
//! but the collector, once a second.

use std::{collections::BTreeMap, time::Instant};

use hdrhistogram::Histogram;

use crate::measured::Operations;

/// The longest latency that is told apart: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Of what a server says, so much is kept.
const DETAIL_CHARS_MAX: usize = 300;

/// An empty histogram of microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("these bounds are valid")
}

/// Requests answered with success.
#[derive(Clone, Debug)]
pub struct Answered {
    pub records: u64,
    pub latency_us: Histogram<u64>,
}

impl Answered {
    fn new() -> Self {
        Self { records: 0, latency_us: histogram() }
    }

    fn absorb(&mut self, other: &Self) {
        self.records += other.records;
        // All histograms have the same bounds, so that adding them cannot fail.
        let _ = self.latency_us.add(&other.latency_us);
    }

    fn clear(&mut self) {
        self.records = 0;
        self.latency_us.reset();
    }

    /// As the report wants it; `None` when there was nothing.
    pub fn operations(self) -> Option<Operations> {
        let requests = self.latency_us.len();
        (requests > 0).then_some(Operations { requests, records: self.records, latency_us: self.latency_us })
    }
}

/// A request answered with success.
#[derive(Clone, Copy, Debug)]
pub struct Success {
    pub read: bool,
    pub records: u64,
    pub latency_us: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub done: Instant,
}

/// Counts of an interval, or of a run.
#[derive(Clone, Debug)]
pub struct Tally {
    pub reads: Answered,
    pub writes: Answered,
    pub refused: BTreeMap<String, u64>,
    pub unknown: BTreeMap<String, u64>,
    /// What the server said to the first failure of a kind.
    pub details: BTreeMap<String, String>,
    pub precondition_failed: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Requests that failed, in either way.
    pub failed: u64,
    pub last_done: Option<Instant>,
    /// In an open loop, how late requests were sent of which only this program was the cause.
    pub late_us: Histogram<u64>,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            reads: Answered::new(),
            writes: Answered::new(),
            refused: BTreeMap::new(),
            unknown: BTreeMap::new(),
            details: BTreeMap::new(),
            precondition_failed: 0,
            bytes_sent: 0,
            bytes_received: 0,
            failed: 0,
            last_done: None,
            late_us: histogram(),
        }
    }

    pub fn success(&mut self, success: &Success) {
        let answered = if success.read { &mut self.reads } else { &mut self.writes };
        answered.records += success.records;
        answered.latency_us.saturating_record(success.latency_us);
        self.bytes_sent += success.bytes_sent;
        self.bytes_received += success.bytes_received;
        self.last_done = self.last_done.max(Some(success.done));
    }

    pub fn refused(&mut self, kind: String, count: u64) {
        *self.refused.entry(kind).or_default() += count;
        self.failed += count;
    }

    pub fn unknown(&mut self, kind: String) {
        *self.unknown.entry(kind).or_default() += 1;
        self.failed += 1;
    }

    /// What the server said to a failure of this kind: the first one stays.
    pub fn explain(&mut self, kind: &str, detail: &str) {
        if !self.details.contains_key(kind) {
            let plain = detail.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect();
            self.details.insert(kind.to_owned(), plain);
        }
    }

    pub fn absorb(&mut self, other: &Self) {
        self.reads.absorb(&other.reads);
        self.writes.absorb(&other.writes);
        for (total, kinds) in [(&mut self.refused, &other.refused), (&mut self.unknown, &other.unknown)] {
            for (kind, count) in kinds {
                *total.entry(kind.clone()).or_default() += count;
            }
        }
        for (kind, detail) in &other.details {
            self.explain(kind, detail);
        }
        self.precondition_failed += other.precondition_failed;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.failed += other.failed;
        self.last_done = self.last_done.max(other.last_done);
        let _ = self.late_us.add(&other.late_us);
    }

    /// Empties it without giving its memory back.
    pub fn clear(&mut self) {
        self.reads.clear();
        self.writes.clear();
        self.refused.clear();
        self.unknown.clear();
        self.details.clear();
        self.precondition_failed = 0;
        self.bytes_sent = 0;
        self.bytes_received = 0;
        self.failed = 0;
        self.last_done = None;
        self.late_us.reset();
    }

    /// Requests answered with success, and their records.
    pub fn answered(&self) -> (u64, u64) {
        (self.reads.latency_us.len() + self.writes.latency_us.len(), self.reads.records + self.writes.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absorbed_is_there_and_what_is_cleared_is_gone() {
        let success = |read, records, latency_us| Success {
            read,
            records,
            latency_us,
            bytes_sent: 10,
            bytes_received: 3,
            done: Instant::now(),
        };
        let mut interval = Tally::new();
        interval.success(&success(true, 1, 50));
        interval.success(&success(false, 7, 1_000_000_000_000));
        interval.refused("503 overloaded".to_owned(), 2);
        interval.unknown("timeout".to_owned());
        interval.explain("503 overloaded", "the first\x1b[2J");
        interval.explain("503 overloaded", "the second");
        let mut total = Tally::new();
        total.absorb(&interval);
        total.absorb(&interval);
        assert_eq!((total.answered(), total.failed, total.bytes_sent), ((4, 16), 6, 40));
        assert_eq!((total.refused["503 overloaded"], total.unknown["timeout"]), (4, 2));
        assert_eq!(total.details["503 overloaded"], "the first[2J");
        assert!(total.writes.latency_us.max() >= LATENCY_US_MAX, "what is off the scale is kept at its end");
        total.clear();
        assert_eq!(
            (total.answered(), total.failed, total.refused.len(), total.last_done),
            ((0, 0), 0, 0, None)
        );
        assert!(total.reads.operations().is_none());
    }
}
