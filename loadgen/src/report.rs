//! What a run has measured, as a table for people or one line of JSON for scripts.

use std::{collections::BTreeMap, fmt::Write};

use hdrhistogram::Histogram;
use serde_json::{Map, Value as Json, json};

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    pub requests: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Latency {
    /// The percentiles of a histogram; `None` when nothing was recorded.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            requests: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        })
    }

    fn json(self) -> Json {
        json!({
            "requests": self.requests, "p50": self.p50_us, "p90": self.p90_us, "p99": self.p99_us,
            "p99_9": self.p999_us, "max": self.max_us,
        })
    }
}

/// What the server cost, when it runs on this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServerCost {
    pub pid: u32,
    /// Processor cores in use on average.
    pub cpu_cores: Option<f64>,
    pub peak_rss_bytes: Option<u64>,
}

/// A finished run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// From the end of the warm-up to the last answer.
    pub seconds: f64,
    /// Records written or keys read, answered with success.
    pub records: u64,
    /// Requests answered with success.
    pub requests: u64,
    pub reads: Option<Latency>,
    pub writes: Option<Latency>,
    /// Failed requests by kind.
    pub errors: BTreeMap<String, u64>,
    /// In requests answered with success, heads included.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Processor cores this program used on average.
    pub client_cpu_cores: Option<f64>,
    pub server: Option<ServerCost>,
}

impl Report {
    fn per_sec(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<16}{value}");
        };
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        row("records", format!("{} in {:.2} s", self.records, self.seconds));
        row("records/s", format!("{:.0}", self.per_sec(self.records)));
        row("requests/s", format!("{:.0}", self.per_sec(self.requests)));
        for (name, latency) in [("reads", self.reads), ("writes", self.writes)] {
            if let Some(l) = latency {
                let value = format!(
                    "p50 {}  p90 {}  p99 {}  p99.9 {}  max {} µs",
                    l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.max_us
                );
                row(name, value);
            }
        }
        row(
            "sent",
            format!(
                "{:.1} MiB ({:.1} MiB/s)",
                mib(self.bytes_sent),
                mib(self.bytes_sent) / self.seconds.max(1e-9)
            ),
        );
        row("received", format!("{:.1} MiB", mib(self.bytes_received)));
        if let Some(cores) = self.client_cpu_cores {
            row("client cpu", format!("{cores:.2} cores"));
        }
        if let Some(server) = self.server {
            let cores = server.cpu_cores.map_or_else(|| "?".to_owned(), |cores| format!("{cores:.2}"));
            let rss = server.peak_rss_bytes.map_or_else(|| "?".to_owned(), |rss| format!("{:.1}", mib(rss)));
            row("server", format!("pid {}  cpu {cores} cores  peak rss {rss} MiB", server.pid));
        }
        if self.errors.is_empty() {
            row("errors", "none".to_owned());
        }
        for (kind, count) in &self.errors {
            row("errors", format!("{count} × {kind}"));
        }
        out
    }

    /// For scripts: numbers with their units in the names. `about` says what was run and comes first.
    pub fn json(&self, about: Map<String, Json>) -> Json {
        let mut out = about;
        let rest = json!({
            "seconds": self.seconds,
            "records": self.records,
            "requests": self.requests,
            "records_per_sec": self.per_sec(self.records),
            "requests_per_sec": self.per_sec(self.requests),
            "read_latency_us": self.reads.map(Latency::json),
            "write_latency_us": self.writes.map(Latency::json),
            "errors": self.errors,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "client_cpu_cores": self.client_cpu_cores,
            "server": self.server.map(|server| json!({
                "pid": server.pid, "cpu_cores": server.cpu_cores, "peak_rss_bytes": server.peak_rss_bytes,
            })),
        });
        if let Json::Object(rest) = rest {
            out.extend(rest);
        }
        Json::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_the_same_in_both_forms() {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        (1..=1000).for_each(|us| histogram.record(us).unwrap());
        let report = Report {
            seconds: 2.0,
            records: 4_000,
            requests: 1_000,
            writes: Latency::of(&histogram),
            errors: [("503 overloaded".to_owned(), 3)].into(),
            bytes_sent: 4 << 20,
            server: Some(ServerCost { pid: 9, cpu_cores: Some(0.5), peak_rss_bytes: None }),
            ..Report::default()
        };
        let table = report.table();
        for line in [
            "records/s       2000",
            "p99 990",
            "3 × 503 overloaded",
            "4.0 MiB (2.0 MiB/s)",
            "cpu 0.50 cores  peak rss ?",
        ] {
            assert!(table.contains(line), "{line} in {table}");
        }
        let json = report.json(Map::from_iter([("command".to_owned(), "bulk".into())]));
        assert_eq!((&json["command"], &json["records_per_sec"]), (&json!("bulk"), &json!(2000.0)));
        assert_eq!((&json["write_latency_us"]["p99"], &json["read_latency_us"]), (&json!(990), &Json::Null));
        assert_eq!(json["errors"]["503 overloaded"], 3);
    }

    #[test]
    fn a_run_without_answers_divides_by_nothing() {
        assert!(Report::default().table().contains("records/s       0"));
        assert_eq!(Latency::of(&Histogram::new_with_bounds(1, 10, 1).unwrap()), None);
    }
}
