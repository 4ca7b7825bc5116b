//! What a run has measured, as a table for people or one line of JSON for scripts.

use std::{collections::BTreeMap, fmt::Write};

use hdrhistogram::Histogram;
use serde_json::{Value as Json, json};

use crate::measured::{Measured, Operations};

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

impl From<&Measured> for Report {
    fn from(measured: &Measured) -> Self {
        let of = |operations: &Option<Operations>| {
            operations.as_ref().and_then(|operations| Latency::of(&operations.latency_us))
        };
        let both = || measured.reads.iter().chain(&measured.writes);
        let mut errors = measured.refused.clone();
        for (kind, count) in &measured.unknown {
            *errors.entry(kind.clone()).or_default() += count;
        }
        Self {
            seconds: measured.elapsed.as_secs_f64(),
            records: both().map(|operations| operations.records).sum(),
            requests: both().map(|operations| operations.requests).sum(),
            reads: of(&measured.reads),
            writes: of(&measured.writes),
            errors,
            bytes_sent: measured.bytes_sent,
            bytes_received: measured.bytes_received,
            client_cpu_cores: measured.client_cpu_cores,
            server: measured.servers.first().and_then(|server| {
                Some(ServerCost {
                    pid: server.pid?,
                    cpu_cores: server.cpu_cores,
                    peak_rss_bytes: server.peak_rss_bytes,
                })
            }),
        }
    }
}

impl Report {
    fn per_sec(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }

    /// For people.
    pub fn table(&self, measured: &Measured) -> String {
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
        if let Some(late) = measured.plan.get("sent_late_us") {
            row("sent late", format!("p50 {}  p99 {}  max {} µs", late["p50"], late["p99"], late["max"]));
        }
        if measured.precondition_failed > 0 {
            row("412", format!("{} conditions did not hold", measured.precondition_failed));
        }
        if self.errors.is_empty() {
            row("errors", "none".to_owned());
        }
        for (name, kinds) in [("refused", &measured.refused), ("unknown", &measured.unknown)] {
            for (kind, count) in kinds {
                row(name, format!("{count} × {kind}"));
            }
        }
        if let Some(truth) = &measured.truth {
            row("truth", crate::truth::text(truth));
        }
        out
    }

    /// For scripts: numbers with their units in the names. What was run comes first.
    pub fn json(&self, measured: &Measured) -> Json {
        let mut out = measured.plan.clone();
        let rest = json!({
            "command_line": measured.command,
            "began_unix_ms": measured.began_unix_ms,
            "seconds": self.seconds,
            "records": self.records,
            "requests": self.requests,
            "records_per_sec": self.per_sec(self.records),
            "requests_per_sec": self.per_sec(self.requests),
            "read_latency_us": self.reads.map(Latency::json),
            "write_latency_us": self.writes.map(Latency::json),
            "errors": self.errors,
            "refused": measured.refused,
            "unknown": measured.unknown,
            "precondition_failed": measured.precondition_failed,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "client_cpu_cores": self.client_cpu_cores,
            "server": self.server.map(|server| json!({
                "pid": server.pid, "cpu_cores": server.cpu_cores, "peak_rss_bytes": server.peak_rss_bytes,
            })),
            "servers": measured.servers.iter().map(|server| json!({
                "url": server.url, "pid": server.pid, "cpu_cores": server.cpu_cores,
                "rss_bytes": server.rss_bytes, "peak_rss_bytes": server.peak_rss_bytes,
                "disk_bytes": server.disk_bytes, "syncs": server.syncs, "records": server.records,
                "version": server.version, "profile": server.profile, "stages": server.stages.len(),
            })).collect::<Vec<_>>(),
            "truth": measured.truth.as_ref().map(crate::truth::json),
            "timeline": measured.timeline.iter().map(|tick| json!({
                "at_secs": tick.at.as_secs_f64(), "length_secs": tick.length.as_secs_f64(),
                "requests": tick.requests, "records": tick.records, "failed": tick.failed,
                "p50_us": tick.p50_us, "p99_us": tick.p99_us, "max_us": tick.max_us,
            })).collect::<Vec<_>>(),
        });
        if let Json::Object(rest) = rest {
            out.extend(rest);
        }
        Json::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measured::Truth;

    fn measured() -> Measured {
        let mut latency_us = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        (1..=1000).for_each(|us| latency_us.record(us).unwrap());
        Measured {
            plan: [("command".to_owned(), "bulk".into())].into_iter().collect(),
            command: Vec::new(),
            began_unix_ms: 0,
            elapsed: Duration::from_secs(2),
            writes: Some(Operations { requests: 1_000, records: 4_000, latency_us }),
            reads: None,
            refused: [("503 overloaded".to_owned(), 3)].into(),
            unknown: [("timeout".to_owned(), 1)].into(),
            precondition_failed: 0,
            bytes_sent: 4 << 20,
            bytes_received: 0,
            client_cpu_cores: None,
            timeline: Vec::new(),
            servers: Vec::new(),
            truth: Some(Truth { acknowledged: 4_000, lost: 1, ..Truth::default() }),
        }
    }

    #[test]
    fn a_report_says_the_same_in_both_forms() {
        let measured = measured();
        let mut report = Report::from(&measured);
        report.server = Some(ServerCost { pid: 9, cpu_cores: Some(0.5), peak_rss_bytes: None });
        let table = report.table(&measured);
        for line in [
            "records/s       2000",
            "p99 990",
            "refused         3 × 503 overloaded",
            "unknown         1 × timeout",
            "4.0 MiB (2.0 MiB/s)",
            "cpu 0.50 cores  peak rss ?",
            "4000 acknowledged, 1 lost",
        ] {
            assert!(table.contains(line), "{line} in {table}");
        }
        let json = report.json(&measured);
        assert_eq!((&json["command"], &json["records_per_sec"]), (&json!("bulk"), &json!(2000.0)));
        assert_eq!((&json["write_latency_us"]["p99"], &json["read_latency_us"]), (&json!(990), &Json::Null));
        assert_eq!((&json["errors"]["503 overloaded"], &json["unknown"]["timeout"]), (&json!(3), &json!(1)));
        assert_eq!((&json["truth"]["lost"], &json["truth"]["good"]), (&json!(1), &json!(false)));
    }

    #[test]
    fn a_run_without_answers_divides_by_nothing() {
        let nothing = Measured { elapsed: Duration::ZERO, writes: None, ..measured() };
        assert!(Report::from(&nothing).table(&nothing).contains("records/s       0"));
        assert_eq!(Latency::of(&Histogram::new_with_bounds(1, 10, 1).unwrap()), None);
    }
}
