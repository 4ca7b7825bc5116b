//! What the node counts about requests, and how it is shown: JSON and Prometheus text.
//!
//! Takes observations from the server's hot path, gives renderings. Whatever is measured elsewhere (stages,
//! storage, Raft) comes in as [`Stat`]s at the moment of rendering; this module does not own it.
//!
//! Histograms are split into shards, one for each of a few threads, so that two cores recording at once do
//! not wait for each other: recording is a lock that is nearly always free and one addition.

use std::{
    cell::Cell,
    fmt::Write as _,
    sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

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
}

impl Operation {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Get, Self::Put, Self::Delete, Self::Batch, Self::Scan, Self::History, Self::Record];

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

/// What the node knows and the server does not, at the moment of rendering.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsSnapshot {
    /// Live keys, as of the last refresh in the background.
    pub total_keys: u64,
    /// Records applied.
    pub total_records: u64,
    /// The leader, if one is known.
    pub current_leader: Option<u64>,
    /// Everything else.
    pub stats: Vec<Stat>,
}

const SHARDS: usize = 4;
/// Longest time that is told apart from longer ones: 2 minutes, in microseconds.
const TIME_US_MAX: u64 = 120_000_000;
const QUANTILES: [(f64, &str); 3] = [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")];
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

/// Latencies of one operation, merged over the shards.
struct Summary {
    operation: Operation,
    timing: Timing,
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

    /// The JSON of `/metrics`.
    #[must_use]
    pub fn to_json(&self, node: &MetricsSnapshot) -> Value {
        let summaries = self.summaries();
        let count = |operation: Operation| summaries[operation as usize].timing.histogram.len();
        let (errors, failures) = self.errors_by_slug();
        let requests: u64 = Operation::ALL.into_iter().map(count).sum();
        let mut out = json!({
            "total_keys": node.total_keys,
            "total_records": node.total_records,
            "get_requests": count(Operation::Get),
            "put_requests": count(Operation::Put),
            "delete_requests": count(Operation::Delete),
            "batch_requests": count(Operation::Batch),
            "scan_requests": count(Operation::Scan),
            "errors": failures,
            "errors_by_type": errors.into_iter().map(|(slug, n)| (slug.to_owned(), n.into())).collect::<Map<_, _>>(),
            "ops_per_sec": self.per_sec(requests),
            "latency_ms": summaries.iter().map(|summary| (summary.operation.name().to_owned(), summary.json())).collect::<Map<_, _>>(),
            "network": {
                "connections_open": self.connections.open.load(Relaxed),
                "connections_accepted_total": self.connections.accepted.load(Relaxed),
                "connections_refused_total": self.connections.refused.load(Relaxed),
                "connections_timed_out_total": self.connections.timed_out.load(Relaxed),
                "requests_in_flight": self.in_flight.load(Relaxed),
            },
            "storage": {},
            "raft": {},
            "current_leader": node.current_leader,
        });
        for stat in &node.stats {
            let group = &mut out[stat.group];
            if group.is_null() {
                *group = json!({});
            }
            match &stat.label {
                None => group[stat.name] = number(stat.value),
                Some((_, label)) => {
                    let row = &mut group[label];
                    if row.is_null() {
                        *row = json!({});
                    }
                    row[stat.name] = number(stat.value);
                }
            }
        }
        out
    }

    /// The Prometheus text exposition format, version 0.0.4.
    #[must_use]
    pub fn to_prometheus(&self, node: &MetricsSnapshot) -> String {
        let mut text = Text::default();
        let summaries = self.summaries();
        text.head("scribe_requests_total", "counter", "Requests answered, by operation.");
        for summary in &summaries {
            let labels = [("operation", summary.operation.name())];
            text.sample("scribe_requests_total", &labels, summary.timing.histogram.len() as f64);
        }
        text.head("scribe_request_duration_seconds", "summary", "Time from a request's head to its answer.");
        for summary in &summaries {
            summary.prometheus(&mut text);
        }
        text.head("scribe_errors_total", "counter", "Problem answers, by type.");
        for (slug, count) in self.errors_by_slug().0 {
            text.sample("scribe_errors_total", &[("type", slug)], count as f64);
        }
        let connections = &self.connections;
        for (name, kind, help, value) in [
            ("scribe_keys", "gauge", "Live keys, refreshed in the background.", node.total_keys as f64),
            ("scribe_records_total", "counter", "Records applied.", node.total_records as f64),
            (
                "scribe_current_leader",
                "gauge",
                "Id of the leader, 0 if none is known.",
                node.current_leader.unwrap_or(0) as f64,
            ),
            (
                "scribe_requests_in_flight",
                "gauge",
                "Requests being answered.",
                self.in_flight.load(Relaxed) as f64,
            ),
            (
                "scribe_network_connections_open",
                "gauge",
                "Open client connections.",
                connections.open.load(Relaxed) as f64,
            ),
            (
                "scribe_network_connections_accepted_total",
                "counter",
                "Connections accepted.",
                connections.accepted.load(Relaxed) as f64,
            ),
            (
                "scribe_network_connections_refused_total",
                "counter",
                "Connections over the limit.",
                connections.refused.load(Relaxed) as f64,
            ),
            (
                "scribe_network_connections_timed_out_total",
                "counter",
                "Connections ended as too slow.",
                connections.timed_out.load(Relaxed) as f64,
            ),
        ] {
            text.head(name, kind, help);
            text.sample(name, &[], value);
        }
        // One name's samples stand together under one head, whatever order they came in.
        let mut stats: Vec<&Stat> = node.stats.iter().collect();
        stats.sort_by_key(|stat| (stat.group, stat.name));
        let mut last = None;
        for stat in stats {
            let name = format!("scribe_{}_{}", stat.group, stat.name);
            if last != Some((stat.group, stat.name)) {
                let kind = if stat.name.ends_with("_total") { "counter" } else { "gauge" };
                text.head(&name, kind, stat.help);
                last = Some((stat.group, stat.name));
            }
            match &stat.label {
                None => text.sample(&name, &[], stat.value),
                Some((label, value)) => text.sample(&name, &[(label, value)], stat.value),
            }
        }
        text.0
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

impl Summary {
    fn json(&self) -> Value {
        let ms = |us: u64| us as f64 / 1_000.0;
        let mut out = Map::new();
        for (quantile, name) in QUANTILES {
            let us = if self.timing.histogram.is_empty() {
                0
            } else {
                self.timing.histogram.value_at_quantile(quantile)
            };
            out.insert(name.to_owned(), ms(us).into());
        }
        out.insert("max".to_owned(), ms(self.timing.histogram.max()).into());
        out.insert("count".to_owned(), self.timing.histogram.len().into());
        Value::Object(out)
    }

    fn prometheus(&self, text: &mut Text) {
        const NAME: &str = "scribe_request_duration_seconds";
        let operation = self.operation.name();
        let secs = |us: u64| us as f64 / 1e6;
        for (quantile, _) in QUANTILES {
            let value = if self.timing.histogram.is_empty() {
                f64::NAN
            } else {
                secs(self.timing.histogram.value_at_quantile(quantile))
            };
            text.sample(NAME, &[("operation", operation), ("quantile", &quantile.to_string())], value);
        }
        text.sample(&format!("{NAME}_sum"), &[("operation", operation)], secs(self.timing.sum_us));
        text.sample(
            &format!("{NAME}_count"),
            &[("operation", operation)],
            self.timing.histogram.len() as f64,
        );
    }
}

/// Whole numbers stay whole in JSON.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && (0.0..9e15).contains(&value) { json!(value as u64) } else { json!(value) }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing into a String cannot fail; so below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if n == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = if value.is_nan() { writeln!(self.0, " NaN") } else { writeln!(self.0, " {value}") };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> MetricsSnapshot {
        let stat = |label: &str, value| Stat {
            group: "stages",
            name: "depth",
            help: "Requests waiting.",
            label: Some(("stage", label.to_owned())),
            value,
        };
        let wal = Stat { group: "storage", name: "wal_bytes", help: "Bytes.", label: None, value: 5.0 };
        MetricsSnapshot {
            total_keys: 3,
            total_records: 4,
            current_leader: Some(1),
            stats: vec![stat("a\"b\\c\nd", 1.0), wal, stat("apply", 2.5)],
        }
    }

    #[test]
    fn json_has_what_the_contract_names() {
        let metrics = Metrics::new();
        metrics.observe(Operation::Put, Duration::from_millis(2));
        metrics.observe(Operation::Get, Duration::from_micros(10));
        metrics.error("not-found");
        metrics.error("overloaded");
        let json = metrics.to_json(&snapshot());
        for name in [
            "total_keys",
            "total_records",
            "get_requests",
            "put_requests",
            "delete_requests",
            "errors",
            "ops_per_sec",
            "storage",
            "network",
            "raft",
            "current_leader",
        ] {
            assert!(!json[name].is_null(), "{name}");
        }
        assert_eq!((json["put_requests"].as_u64(), json["errors"].as_u64()), (Some(1), Some(1)));
        let p99 = json["latency_ms"]["put"]["p99"].as_f64().unwrap();
        assert!((1.9..2.1).contains(&p99), "{p99}");
        assert_eq!(json["latency_ms"]["delete"]["p50"], 0.0);
        assert_eq!(json["storage"]["wal_bytes"], 5);
        assert_eq!(json["stages"]["apply"]["depth"], 2.5);
    }

    #[test]
    fn prometheus_text_is_well_formed() {
        let metrics = Metrics::new();
        metrics.observe(Operation::Put, Duration::from_millis(2));
        metrics.error("overloaded");
        let text = metrics.to_prometheus(&snapshot());
        assert!(text.contains("scribe_requests_total{operation=\"put\"} 1\n"));
        assert!(text.contains("scribe_request_duration_seconds{operation=\"put\",quantile=\"0.5\"} 0.00"));
        assert!(text.contains("scribe_stages_depth{stage=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
        assert_eq!(text.matches("# TYPE scribe_stages_depth gauge").count(), 1);
        for line in text.lines() {
            assert!(
                line.starts_with("# ") || line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}
