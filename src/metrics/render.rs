//! The two renderings of the counters: JSON for people and scripts, Prometheus text for scrapers.

use std::{fmt::Write as _, sync::atomic::Ordering::Relaxed};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::{Metrics, MetricsSnapshot, Operation, Stat, Timing};

const QUANTILES: [(f64, &str); 3] = [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")];

/// Upper bounds of Prometheus buckets in microseconds: two an octave, from 8 microseconds to 12.6 seconds.
const BUCKETS_US: [u64; 42] = {
    let mut bounds = [0; 42];
    let mut n = 0;
    while n < bounds.len() {
        bounds[n] = if n % 2 == 0 { 8 << (n / 2) } else { 12 << (n / 2) };
        n += 1;
    }
    bounds
};

/// Latencies of one operation, merged over the shards.
pub(super) struct Summary {
    pub operation: Operation,
    pub timing: Timing,
}

impl Metrics {
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
        const REQUEST: &str = "scribe_request_duration_seconds";
        text.head(REQUEST, "histogram", "Time from a request's head to its answer.");
        for summary in &summaries {
            let label = Some(("operation", summary.operation.name()));
            text.histogram(REQUEST, label, &summary.timing.histogram, summary.timing.sum_us as f64);
        }
        text.head("scribe_errors_total", "counter", "Problem answers, by type.");
        for (slug, count) in self.errors_by_slug().0 {
            text.sample("scribe_errors_total", &[("type", slug)], count as f64);
        }
        if let Some(keys) = node.total_keys {
            text.head("scribe_keys", "gauge", "Live keys.");
            text.sample("scribe_keys", &[], keys as f64);
        }
        let connections = &self.connections;
        for (name, kind, help, value) in [
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
        let mut last = "";
        for times in &node.times {
            let name = format!("scribe_{}", times.name);
            if last != times.name {
                text.head(&name, "histogram", times.help);
                last = times.name;
            }
            let label = times.label.as_ref().map(|(label, value)| (*label, &**value));
            let sum_us = times.histogram_us.mean() * times.histogram_us.len() as f64;
            text.histogram(&name, label, &times.histogram_us, sum_us);
        }
        text.0
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

    fn histogram(&mut self, name: &str, label: Option<(&str, &str)>, us: &Histogram<u64>, sum_us: f64) {
        let bucket = format!("{name}_bucket");
        let bounds = BUCKETS_US.iter().map(|&us| (us as f64 / 1e6).to_string());
        let counts = cumulative(us).into_iter().chain([us.len()]);
        for (le, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
            let labels: Vec<_> = label.into_iter().chain([("le", &*le)]).collect();
            self.sample(&bucket, &labels, count as f64);
        }
        let labels: Vec<_> = label.into_iter().collect();
        self.sample(&format!("{name}_sum"), &labels, sum_us / 1e6);
        self.sample(&format!("{name}_count"), &labels, us.len() as f64);
    }
}

/// How many of a histogram's values are at most each of the bounds.
fn cumulative(histogram: &Histogram<u64>) -> [u64; BUCKETS_US.len()] {
    let mut counts = [0; BUCKETS_US.len()];
    let mut bucket = 0;
    let mut sum = 0;
    for step in histogram.iter_recorded() {
        while bucket < counts.len() && step.value_iterated_to() > BUCKETS_US[bucket] {
            counts[bucket] = sum;
            bucket += 1;
        }
        sum += step.count_since_last_iteration();
    }
    counts[bucket..].fill(sum);
    counts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::Times, *};

    fn snapshot() -> MetricsSnapshot {
        let stat = |label: &str, value| Stat {
            group: "stages",
            name: "depth",
            help: "Requests waiting.",
            label: Some(("stage", label.to_owned())),
            value,
        };
        let times = |stage: &str, values: &[u64]| {
            let mut histogram_us = Histogram::new(3).unwrap();
            values.iter().for_each(|&us| histogram_us.record(us).unwrap());
            let label = Some(("stage", stage.to_owned()));
            Times { name: "stage_duration_seconds", help: "Time.", label, histogram_us }
        };
        let wal = Stat { group: "storage", name: "wal_bytes", help: "Bytes.", label: None, value: 5.0 };
        MetricsSnapshot {
            total_keys: Some(3),
            total_records: 4,
            current_leader: Some(1),
            stats: vec![stat("a\"b\\c\nd", 1.0), wal, stat("apply", 2.5)],
            times: vec![times("ingest", &[3]), times("apply", &[8, 9, 100_000_000])],
        }
    }

    /// A large ledger once had no keys until they were counted.
    #[test]
    fn keys_that_are_not_counted_yet_are_not_none() {
        let (metrics, node) = (Metrics::new(), MetricsSnapshot { total_keys: None, ..snapshot() });
        assert!(metrics.to_json(&node)["total_keys"].is_null());
        assert!(!metrics.to_prometheus(&node).contains("scribe_keys"));
        assert!(metrics.to_prometheus(&snapshot()).contains("\nscribe_keys 3\n"));
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
        assert!(
            text.contains("scribe_request_duration_seconds_bucket{operation=\"put\",le=\"0.001536\"} 0\n")
        );
        assert!(
            text.contains("scribe_request_duration_seconds_bucket{operation=\"put\",le=\"0.002048\"} 1\n")
        );
        assert!(text.contains("scribe_request_duration_seconds_sum{operation=\"put\"} 0.002\n"));
        for (le, count) in [("0.000008", 1), ("0.000012", 2), ("12.582912", 2), ("+Inf", 3)] {
            let row =
                format!("scribe_stage_duration_seconds_bucket{{stage=\"apply\",le=\"{le}\"}} {count}\n");
            assert!(text.contains(&row), "{row} in {text}");
        }
        assert_eq!(text.matches("# TYPE scribe_stage_duration_seconds histogram").count(), 1);
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
