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
    /// What reading every acknowledged write back has shown, if that was asked for.
    pub truth: Option<Truth>,
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
    /// Processor cores in use on average.
    pub cpu_cores: Option<f64>,
    pub rss_bytes: Option<u64>,
    pub peak_rss_bytes: Option<u64>,
    /// Bytes that the process sent to its disks.
    pub disk_bytes: Option<u64>,
    /// Syncs of its log.
    pub syncs: Option<u64>,
    /// Records it applied.
    pub records: Option<u64>,
    /// `version` and `profile` of its status.
    pub version: Option<String>,
    pub profile: Option<String>,
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
}
