//! What a run has measured, shown: a table for people, one line of JSON for scripts, a page for a browser.
//!
//! Every form takes the same [`Measured`](crate::measured::Measured) and says the same. Nothing here
//! measures, and only [`write_page`] touches a file.

mod charts;
mod escape;
mod html;
mod json;
mod plot;
mod scale;
mod sections;
mod stages;
mod table;
pub mod units;

use std::path::Path;

use hdrhistogram::Histogram;

pub use self::{
    html::{Page, Verdict},
    json::json,
    table::table,
};

/// The percentiles that every form shows, by the names that they have in JSON and in tables.
const SHOWN: [(f64, &str, &str); 4] =
    [(0.5, "p50", "p50"), (0.9, "p90", "p90"), (0.99, "p99", "p99"), (0.999, "p99_9", "p99.9")];

/// The percentiles of [`SHOWN`] and the maximum; `None` when nothing was recorded.
fn percentiles(histogram: &Histogram<u64>) -> Option<[u64; 5]> {
    (!histogram.is_empty()).then(|| {
        let [a, b, c, d] = SHOWN.map(|(quantile, ..)| histogram.value_at_quantile(quantile));
        [a, b, c, d, histogram.max()]
    })
}

/// Writes a page to a file.
///
/// # Errors
/// When the file cannot be written; the message names it.
pub fn write_page(path: &Path, page: &str) -> Result<(), String> {
    std::fs::write(path, page).map_err(|error| format!("writing {}: {error}", path.display()))
}

/// Whether a page can be written there, before a run that would have been for nothing.
pub fn try_page(path: &Path) -> Result<(), String> {
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened.map(drop).map_err(|error| format!("--report {}: {error}", path.display()))
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use serde_json::{Map, json};

    use super::*;
    use crate::measured::{Measured, Operations, ServerCost, StageTimes, Tick, Truth};

    /// The `n`-th second of a run, in which so many records were written.
    pub fn tick(n: u64, records: u64) -> Tick {
        Tick {
            at: Duration::from_secs(n + 1),
            length: Duration::from_secs(1),
            requests: records,
            records,
            failed: 0,
            p50_us: 500,
            p99_us: 4_000 + n,
            max_us: 9_000,
        }
    }

    /// A run with something in every field.
    pub fn measured() -> Measured {
        let histogram = |from: u64, to: u64| {
            let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
            (from..to).for_each(|us| histogram.record(us).unwrap());
            histogram
        };
        let operations = |requests, records, latency_us| Operations { requests, records, latency_us };
        let plan =
            json!({"command": "mixed", "url": "http://127.0.0.1:8001", "connections": 64, "read_ratio": 0.5});
        Measured {
            plan: plan.as_object().cloned().unwrap_or_else(Map::new),
            command: ["scribe-loadgen", "mixed", "--note", "it's <here>"].map(str::to_owned).into(),
            began_unix_ms: 1_000_000_000_000,
            elapsed: Duration::from_secs(2),
            writes: Some(operations(1_000, 4_000, histogram(1, 1_001))),
            reads: Some(operations(2_000, 2_000, histogram(100, 2_100))),
            refused: [("503 overloaded".to_owned(), 3)].into(),
            unknown: [("connection-broken".to_owned(), 1)].into(),
            details: [].into(),
            writes_begun: true,
            precondition_failed: 12,
            bytes_sent: 4 << 20,
            bytes_received: 1 << 20,
            client_cpu_cores: Some(0.25),
            timeline: vec![tick(0, 3_000), tick(1, 3_000)],
            servers: vec![ServerCost {
                ended: false,
                url: "http://127.0.0.1:8001".to_owned(),
                pid: Some(9),
                cpu_cores: Some(0.5),
                rss_bytes: Some(200 << 20),
                peak_rss_bytes: Some(288 << 20),
                disk_bytes: Some(800_000),
                log_bytes: Some(600_000),
                syncs: Some(50),
                records: Some(4_000),
                version: Some("0.1.0".to_owned()),
                profile: Some("balanced".to_owned()),
                file_system: Some("ext4 on /dev/vda".to_owned()),
                stages: vec![StageTimes {
                    name: "apply".to_owned(),
                    count: 10,
                    sum_seconds: 0.02,
                    cumulative: vec![(0.001, 5), (0.004, 10), (f64::INFINITY, 10)],
                }],
            }],
            truth: Some(Ok(Truth { acknowledged: 4_000, ..Truth::default() })),
        }
    }
}
