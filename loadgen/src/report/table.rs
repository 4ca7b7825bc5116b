//! A finished run as text for a terminal.

use std::{collections::BTreeMap, fmt::Write};

use super::{SHOWN, percentiles, units};
use crate::{
    machine::Machine,
    measured::{Measured, ServerCost, StageTimes, Truth},
};

/// Width of the first column, and of a column of numbers.
const NAME_WIDTH: usize = 13;
const NUMBER_WIDTH: usize = 10;

/// Everything that was measured, aligned, without a line for what is not known.
pub fn table(measured: &Measured, machine: &Machine) -> String {
    let mut out = Lines(String::new());
    throughput(&mut out, measured);
    latencies(&mut out, measured);
    failures(&mut out, measured);
    if let Some(cores) = measured.client_cpu_cores {
        out.row("client", &format!("CPU {}", share(cores, machine)));
    }
    for server in &measured.servers {
        cost(&mut out, server, machine);
        stages(&mut out, &server.stages);
    }
    if let Some(truth) = &measured.truth {
        told(&mut out, truth);
    }
    out.0
}

struct Lines(String);

impl Lines {
    fn row(&mut self, name: &str, text: &str) {
        // Writing into a String cannot fail; so below.
        let _ = writeln!(self.0, "{name:<NAME_WIDTH$}{text}");
    }

    fn columns(&mut self, name: &str, columns: impl IntoIterator<Item = String>, rest: &str) {
        let columns: String = columns.into_iter().map(|column| format!("{column:>NUMBER_WIDTH$}")).collect();
        self.row(name, format!("{columns}   {rest}").trim_end());
    }
}

fn throughput(out: &mut Lines, measured: &Measured) {
    let (records, requests) = (measured.records(), measured.requests());
    let mib = |bytes| units::rate(measured.per_sec(bytes) / f64::from(1 << 20));
    out.row(
        "throughput",
        &format!(
            "{} records/s   {} requests/s   {} MiB/s sent   {} MiB/s received",
            units::rate(measured.per_sec(records)),
            units::rate(measured.per_sec(requests)),
            mib(measured.bytes_sent),
            mib(measured.bytes_received)
        ),
    );
    let seconds = measured.elapsed.as_secs_f64();
    out.row("", &format!("{} records in {}", units::count(records), units::seconds(seconds)));
}

fn latencies(out: &mut Lines, measured: &Measured) {
    let mut headed = false;
    for (name, operations) in measured.kinds() {
        let Some(percentiles) = percentiles(&operations.latency_us) else { continue };
        if !headed {
            out.columns(
                "latency",
                SHOWN.map(|(.., name)| name).into_iter().chain(["max"]).map(str::to_owned),
                "",
            );
            headed = true;
        }
        let requests = format!("{} requests", units::count(operations.requests));
        out.columns(&format!("  {name}"), percentiles.map(units::micros), &requests);
    }
}

fn failures(out: &mut Lines, measured: &Measured) {
    let mut kinds = |name: &str, failed: &BTreeMap<String, u64>| {
        for (n, (kind, count)) in failed.iter().enumerate() {
            let name = if n == 0 { name } else { "" };
            out.row(name, &format!("{} × {kind}", units::count(*count)));
            if let Some(detail) = measured.details.get(kind) {
                out.row("", &format!("    the first: {detail}"));
            }
        }
    };
    kinds("refused", &measured.refused);
    kinds("unknown", &measured.unknown);
    if measured.nothing_written() {
        out.row("writes", "NONE was acknowledged");
    }
    if measured.failed() == 0 {
        out.row("failed", "none");
    }
    if measured.precondition_failed > 0 {
        out.row("conditions", &format!("{} not met (412)", units::count(measured.precondition_failed)));
    }
}

/// Cores in use, and which part of the machine that is.
fn share(cores: f64, machine: &Machine) -> String {
    let percent = cores / machine.cores.max(1) as f64 * 100.0;
    format!("{cores:.2} of {} cores ({percent:.0}%)", machine.cores)
}

fn cost(out: &mut Lines, server: &ServerCost, machine: &Machine) {
    let about = [
        Some(server.url.clone()),
        server.version.as_ref().map(|version| format!("version {version}")),
        server.profile.as_ref().map(|profile| format!("profile {profile}")),
        server.pid.map(|pid| format!("pid {pid}")),
    ];
    out.row("server", &about.into_iter().flatten().collect::<Vec<_>>().join("   "));
    if server.ended {
        out.row("", "it ended during the run: what it cost is not known");
    }
    if let Some(cores) = server.cpu_cores {
        out.row("  CPU", &share(cores, machine));
    }
    if let Some(rss) = server.rss_bytes {
        let peak = server
            .peak_rss_bytes
            .map_or_else(String::new, |peak| format!(", at most {}", units::bytes(peak)));
        out.row("  memory", &format!("{}{peak}", units::bytes(rss)));
    }
    if let Some(log) = server.log_bytes {
        let each = server
            .log_bytes_per_record()
            .map_or_else(String::new, |bytes| format!(", {} bytes a record", units::rate(bytes)));
        out.row("  log", &format!("{} written{each}", units::bytes(log)));
    }
    if let Some(disk) = server.disk_bytes {
        let all = "by the whole process, files filled ahead for the log included";
        out.row("  disk", &format!("{} written {all}", units::bytes(disk)));
    }
    if let Some(syncs) = server.syncs {
        let each = server
            .records_per_sync()
            .map_or_else(String::new, |records| format!(", {} records each", units::rate(records)));
        out.row("  fsyncs", &format!("{}{each}", units::count(syncs)));
    }
}

fn stages(out: &mut Lines, stages: &[StageTimes]) {
    let passed: Vec<&StageTimes> = stages.iter().filter(|stage| stage.count > 0).collect();
    if passed.is_empty() {
        return;
    }
    out.columns("  stages", ["p50", "p90", "p99", "mean"].map(str::to_owned), "");
    for stage in passed {
        let at = |quantile| stage.quantile_bucket(quantile).map(units::bounded);
        let times = [at(0.5), at(0.9), at(0.99), stage.mean_seconds().map(units::seconds)]
            .map(|time| time.unwrap_or_else(|| "?".to_owned()));
        out.columns(&format!("    {}", stage.name), times, &format!("{} times", units::count(stage.count)));
    }
}

fn told(out: &mut Lines, truth: &Result<Truth, String>) {
    let truth = match truth {
        Ok(truth) => truth,
        Err(why) => return out.row("truth", &format!("not checked: {why}")),
    };
    let acknowledged = units::count(truth.acknowledged);
    let verdict = if truth.holds() && !truth.is_good() {
        "nothing was acknowledged, nothing could be looked for".to_owned()
    } else if truth.holds() {
        format!("all {acknowledged} acknowledged records are there, byte for byte")
    } else {
        format!(
            "BROKEN: {acknowledged} acknowledged, {} lost, {} wrong",
            units::count(truth.lost),
            units::count(truth.wrong)
        )
    };
    out.row("truth", &verdict);
    if truth.unknown > 0 {
        let (unknown, present) = (units::count(truth.unknown), units::count(truth.unknown_present));
        out.row("", &format!("of {unknown} records with unknown outcome {present} are there"));
    }
    for line in &truth.shown {
        out.row("", line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::measured;

    fn machine() -> Machine {
        Machine { cores: 2, ..Machine::default() }
    }

    #[test]
    fn a_table_is_calm_and_aligned() {
        let expected = "\
throughput   3,000 records/s   1,500 requests/s   2.00 MiB/s sent   0.50 MiB/s received
             6,000 records in 2.00 s
latency             p50       p90       p99     p99.9       max
  writes         500 µs    900 µs    990 µs    999 µs   1.00 ms   1,000 requests
  reads         1.10 ms   1.90 ms   2.08 ms   2.10 ms   2.10 ms   2,000 requests
refused      3 × 503 overloaded
unknown      1 × connection-broken
conditions   12 not met (412)
client       CPU 0.25 of 2 cores (12%)
server       http://127.0.0.1:8001   version 0.1.0   profile balanced   pid 9
  CPU        0.50 of 2 cores (25%)
  memory     200 MiB, at most 288 MiB
  log        586 KiB written, 150 bytes a record
  disk       781 KiB written by the whole process, files filled ahead for the log included
  fsyncs     50, 80.0 records each
  stages            p50       p90       p99      mean
    apply     ≤ 1.00 ms ≤ 4.00 ms ≤ 4.00 ms   2.00 ms   10 times
truth        all 4,000 acknowledged records are there, byte for byte
";
        assert_eq!(table(&measured(), &machine()), expected);
    }

    #[test]
    fn a_broken_promise_is_said_loudly() {
        let mut measured = measured();
        let shown = vec!["seq 7: missing".to_owned()];
        measured.truth =
            Some(Ok(Truth { acknowledged: 10, lost: 1, wrong: 2, unknown: 5, unknown_present: 3, shown }));
        let table = table(&measured, &machine());
        for line in [
            "truth        BROKEN: 10 acknowledged, 1 lost, 2 wrong\n",
            "of 5 records with unknown outcome 3 are there\n",
            "seq 7: missing\n",
        ] {
            assert!(table.contains(line), "{line} in {table}");
        }
    }

    #[test]
    fn what_was_not_done_is_said() {
        let mut measured = measured();
        measured.truth = Some(Err("nobody was there".to_owned()));
        measured.details.insert("503 overloaded".to_owned(), "come back later".to_owned());
        measured.writes = None;
        let text = table(&measured, &machine());
        for line in [
            "refused      3 × 503 overloaded\n                 the first: come back later\n",
            "writes       NONE was acknowledged\n",
            "truth        not checked: nobody was there\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        measured.truth = Some(Ok(Truth::default()));
        assert!(table(&measured, &machine()).contains("truth        nothing was acknowledged"));
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let mut measured = measured();
        measured.servers = vec![ServerCost { url: "http://far".to_owned(), ..ServerCost::default() }];
        (measured.writes, measured.reads, measured.truth) = (None, None, None);
        measured.writes_begun = false;
        (measured.client_cpu_cores, measured.precondition_failed) = (None, 0);
        measured.refused.clear();
        measured.unknown.clear();
        measured.elapsed = std::time::Duration::ZERO;
        let expected = "\
throughput   0.00 records/s   0.00 requests/s   0.00 MiB/s sent   0.00 MiB/s received
             0 records in 0 µs
failed       none
server       http://far
";
        assert_eq!(table(&measured, &machine()), expected);
    }
}
