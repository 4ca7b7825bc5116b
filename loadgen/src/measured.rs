//! What a run has measured: plain data between the engine, which fills it in, and the reports, which show it.
//!
//! Times are microseconds unless a name says otherwise. Nothing here knows HTTP, files or terminals.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Map, Value as Json};

/// A finished run.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was run, in the order in which it is shown: workload, targets, pacing, keys, sizes, seed.
    pub plan: Map<String, Json>,
    /// The command line.
    pub command: Vec<String>,
    /// When measuring began, milliseconds since the Unix epoch.
    pub began_unix_ms: u64,
    /// From the end of the warm-up to the last answer.
    pub elapsed: Duration,
    /// Operations that write; `None` when the workload has none.
    pub writes: Option<Operations>,
    /// Operations that read.
    pub reads: Option<Operations>,
    /// Failed requests by kind: refused for certain, so that none of their records is in the ledger.
    pub refused: BTreeMap<String, u64>,
    /// Failed requests by kind whose outcome nobody knows: lost answers, timeouts, 504.
    pub unknown: BTreeMap<String, u64>,
    /// What the server said to the first failure of a kind, if it said something.
    pub details: BTreeMap<String, String>,
    /// Writes were begun, whatever has become of them.
    pub writes_begun: bool,
    /// Conditional writes that were answered 412: neither success nor error.
    pub precondition_failed: u64,
    /// Bytes of requests answered with success and of their answers, heads included.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Processor cores that this program used on average.
    pub client_cpu_cores: Option<f64>,
    /// What happened in each interval, in order, without holes.
    pub timeline: Vec<Tick>,
    /// What the servers cost, those on this machine.
    pub servers: Vec<ServerCost>,
    /// What reading every acknowledged write back has shown, or why that could not be done, if it was asked for.
    pub truth: Option<Result<Truth, String>>,
}

/// One kind of operation.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Requests answered with success.
    pub requests: u64,
    /// Records written, or keys read.
    pub records: u64,
    /// Time to the answer: from sending it in a closed loop, from when it should have been sent in an
    /// open one.
    pub latency_us: Histogram<u64>,
}

/// One interval of a run.
#[derive(Clone, Debug)]
pub struct Tick {
    /// Its end, since measuring began.
    pub at: Duration,
    /// Its length.
    pub length: Duration,
    /// Requests answered with success in it.
    pub requests: u64,
    /// Records written and keys read in it.
    pub records: u64,
    /// Requests that failed in it, refused or unknown.
    pub failed: u64,
    /// Percentiles of the requests answered in it; zero when there are none.
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// What one server cost over the run.
#[derive(Clone, Debug, Default)]
pub struct ServerCost {
    pub url: String,
    pub pid: Option<u32>,
    /// It ended during the run, whether or not another one took its place: what it cost is not known.
    pub ended: bool,
    /// Processor cores in use on average.
    pub cpu_cores: Option<f64>,
    pub rss_bytes: Option<u64>,
    pub peak_rss_bytes: Option<u64>,
    /// Bytes that the process sent to its disks.
    pub disk_bytes: Option<u64>,
    /// Bytes of its log, padding included, as it counts them itself: what its records cost. The bytes above
    /// include what the log's next files are filled with in advance.
    pub log_bytes: Option<u64>,
    /// Syncs of its log.
    pub syncs: Option<u64>,
    /// Records it applied.
    pub records: Option<u64>,
    /// `version` and `profile` of its status.
    pub version: Option<String>,
    pub profile: Option<String>,
    /// The file system that its data is on, such as `ext4 on /dev/vda`.
    pub file_system: Option<String>,
    /// How long things stayed in each stage during the run, in the order of the pipeline, and how long the
    /// log's syncs took, as `wal sync`.
    pub stages: Vec<StageTimes>,
}

/// A stage's histogram over the run.
#[derive(Clone, Debug, PartialEq)]
pub struct StageTimes {
    pub name: String,
    pub count: u64,
    pub sum_seconds: f64,
    /// Upper bounds in seconds, ascending, the last infinite, each with how many were at most that long.
    pub cumulative: Vec<(f64, u64)>,
}

/// Where in a histogram something lies: above `low` seconds, at most at `high`, which may be infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub low: f64,
    pub high: f64,
    /// How far into it, of its items.
    pub share: f64,
}

/// What reading everything back has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Records the server has acknowledged.
    pub acknowledged: u64,
    /// Acknowledged records that are not there.
    pub lost: u64,
    /// Acknowledged records that are there with other bytes.
    pub wrong: u64,
    /// Records whose outcome nobody knew, and how many of them are there.
    pub unknown: u64,
    pub unknown_present: u64,
    /// The first few differences, a line each.
    pub shown: Vec<String>,
}

impl Truth {
    /// Whether nothing acknowledged is lost or wrong.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.lost == 0 && self.wrong == 0
    }

    /// Whether that says anything: where nothing was acknowledged, nothing can be lost.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.holds() && self.acknowledged > 0
    }
}

impl Measured {
    /// Requests answered with success.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.kinds().map(|(_, operations)| operations.requests).sum()
    }

    /// Records written and keys read, answered with success.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.kinds().map(|(_, operations)| operations.records).sum()
    }

    /// Requests that failed, refused or unknown.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.refused.values().chain(self.unknown.values()).sum()
    }

    /// Whether writes were begun, and none was acknowledged.
    #[must_use]
    pub const fn nothing_written(&self) -> bool {
        self.writes_begun && self.writes.is_none()
    }

    /// The most frequent failure in words; `None` when nothing failed.
    #[must_use]
    pub fn most_frequent_failure(&self) -> Option<String> {
        let (kind, _) = self.refused.iter().chain(&self.unknown).max_by_key(|(_, count)| **count)?;
        Some(self.details.get(kind).map_or_else(|| kind.clone(), |detail| format!("{kind}: {detail}")))
    }

    /// What the run did, by name, in the order in which it is shown.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &Operations)> {
        [("writes", &self.writes), ("reads", &self.reads)]
            .into_iter()
            .filter_map(|(name, operations)| Some((name, operations.as_ref()?)))
    }

    /// So many a second, over the measured time; 0 when nothing was measured.
    #[must_use]
    pub fn per_sec(&self, count: u64) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }
}

impl ServerCost {
    /// Bytes sent to disk for each record applied.
    #[must_use]
    pub fn disk_bytes_per_record(&self) -> Option<f64> {
        ratio(self.disk_bytes?, self.records?)
    }

    /// Bytes of the log for each record applied.
    #[must_use]
    pub fn log_bytes_per_record(&self) -> Option<f64> {
        ratio(self.log_bytes?, self.records?)
    }

    /// Records that shared one sync.
    #[must_use]
    pub fn records_per_sync(&self) -> Option<f64> {
        ratio(self.records?, self.syncs?)
    }
}

fn ratio(of: u64, by: u64) -> Option<f64> {
    (by > 0).then(|| of as f64 / by as f64)
}

impl StageTimes {
    /// A stage that nothing has passed.
    #[must_use]
    pub fn empty(name: &str) -> Self {
        Self { name: name.to_owned(), count: 0, sum_seconds: 0.0, cumulative: Vec::new() }
    }

    /// What happened between two readings of one histogram. A server that has started anew in between
    /// counts from zero again: then it is what happened since that start.
    #[must_use]
    pub fn between(before: Option<&Self>, after: Self) -> Self {
        let Some(before) = before.filter(|before| before.count <= after.count) else { return after };
        let earlier = |bound: f64| before.cumulative.iter().find(|(b, _)| *b == bound).map_or(0, |(_, n)| *n);
        // The counters of one reading are not taken at one instant, so that differences may fall.
        let mut least = 0;
        let cumulative = after
            .cumulative
            .iter()
            .map(|&(bound, count)| {
                least = count.saturating_sub(earlier(bound)).max(least);
                (bound, least)
            })
            .collect();
        Self {
            name: after.name,
            count: after.count - before.count,
            sum_seconds: (after.sum_seconds - before.sum_seconds).max(0.0),
            cumulative,
        }
    }

    /// The bucket that this share of the items ends in; `None` when there were none.
    #[must_use]
    pub fn quantile_bucket(&self, quantile: f64) -> Option<Bucket> {
        let total = self.cumulative.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
        let wanted = quantile.clamp(0.0, 1.0) * total as f64;
        let (mut low, mut below) = (0.0, 0);
        for &(bound, count) in &self.cumulative {
            if count > below && count as f64 >= wanted {
                let share = (wanted - below as f64) / (count - below) as f64;
                return Some(Bucket { low, high: bound, share: share.clamp(0.0, 1.0) });
            }
            (low, below) = (if bound.is_finite() { bound } else { low }, count);
        }
        None
    }

    /// The time that this share of the items did not exceed, estimated: items are taken to lie evenly
    /// within their bucket, and those beyond the last finite bound at it. `None` when there were none.
    #[must_use]
    pub fn quantile_seconds(&self, quantile: f64) -> Option<f64> {
        let Bucket { low, high, share } = self.quantile_bucket(quantile)?;
        Some(if high.is_finite() { low + (high - low) * share } else { low })
    }

    /// The mean; `None` when there were no items.
    #[must_use]
    pub fn mean_seconds(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_seconds / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(count: u64, sum_seconds: f64, cumulative: &[(f64, u64)]) -> StageTimes {
        StageTimes { name: "apply".to_owned(), count, sum_seconds, cumulative: cumulative.to_vec() }
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let stage = times(100, 1.0, &[(0.1, 0), (0.2, 50), (0.4, 90), (f64::INFINITY, 100)]);
        let near = |quantile: f64, seconds: f64| {
            let found = stage.quantile_seconds(quantile).unwrap();
            assert!((found - seconds).abs() < 1e-9, "{quantile}: {found}, expected {seconds}");
        };
        near(0.25, 0.15);
        near(0.5, 0.2);
        near(0.7, 0.3);
        near(0.99, 0.4);
        near(1.0, 0.4);
        near(0.0, 0.1);
        assert_eq!(times(0, 0.0, &[(1.0, 0), (f64::INFINITY, 0)]).quantile_seconds(0.5), None);
        assert_eq!(times(0, 0.0, &[]).quantile_seconds(0.5), None);
        assert_eq!(times(3, 9.0, &[(f64::INFINITY, 3)]).quantile_seconds(0.5), Some(0.0));
        assert_eq!(stage.mean_seconds(), Some(0.01));
    }

    #[test]
    fn a_difference_is_what_happened_in_between() {
        let before = times(10, 1.0, &[(0.1, 4), (f64::INFINITY, 10)]);
        let after = times(25, 3.0, &[(0.1, 9), (0.2, 11), (f64::INFINITY, 25)]);
        let between = StageTimes::between(Some(&before), after.clone());
        assert_eq!(between, times(15, 2.0, &[(0.1, 5), (0.2, 11), (f64::INFINITY, 15)]));
        // A restart in between, and a server that was not there before.
        assert_eq!(StageTimes::between(Some(&after), before.clone()), before);
        assert_eq!(StageTimes::between(None, before.clone()), before);
    }

    #[test]
    fn a_difference_never_falls() {
        let before = times(10, 1.0, &[(0.1, 4), (0.2, 9), (f64::INFINITY, 10)]);
        let after = times(12, 2.0, &[(0.1, 9), (0.2, 10), (f64::INFINITY, 12)]);
        let counts: Vec<u64> =
            StageTimes::between(Some(&before), after).cumulative.into_iter().map(|(_, n)| n).collect();
        assert_eq!(counts, [5, 5, 5]);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        let idle = ServerCost { disk_bytes: Some(5), records: Some(0), syncs: Some(0), ..Default::default() };
        assert_eq!((idle.disk_bytes_per_record(), idle.records_per_sync()), (None, None));
    }
}
