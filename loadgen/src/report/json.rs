//! A finished run as one JSON document for scripts. Names carry their units and are kept: a script that
//! reads a report of today reads one of tomorrow.

use serde_json::{Map, Value as Json, json};

use super::{SHOWN, percentiles};
use crate::{
    machine::Machine,
    measured::{Measured, Operations, ServerCost, StageTimes, Tick},
    truth,
};

/// The plan's names first, then what was measured; where both have a name, the measured one stands.
pub fn json(measured: &Measured, machine: &Machine) -> Json {
    let mut out = measured.plan.clone();
    let errors: Map<String, Json> =
        measured.refused.iter().chain(&measured.unknown).fold(Map::new(), |mut errors, (kind, count)| {
            let sum = errors.get(kind).and_then(Json::as_u64).unwrap_or(0) + count;
            errors.insert(kind.clone(), sum.into());
            errors
        });
    let rest = json!({
        "seconds": measured.elapsed.as_secs_f64(),
        "records": measured.records(),
        "requests": measured.requests(),
        "records_per_sec": measured.per_sec(measured.records()),
        "requests_per_sec": measured.per_sec(measured.requests()),
        "read_latency_us": measured.reads.as_ref().and_then(latency),
        "write_latency_us": measured.writes.as_ref().and_then(latency),
        "errors": errors,
        "refused": measured.refused,
        "unknown": measured.unknown,
        "details": measured.details,
        "nothing_written": measured.nothing_written(),
        "precondition_failed": measured.precondition_failed,
        "bytes_sent": measured.bytes_sent,
        "bytes_received": measured.bytes_received,
        "client_cpu_cores": measured.client_cpu_cores,
        "server": measured.servers.first().map(server),
        "servers": measured.servers.iter().map(server).collect::<Vec<_>>(),
        "truth": measured.truth.as_ref().map(|truth| match truth {
            Ok(truth) => truth::json(truth),
            Err(why) => json!({"good": false, "not_checked": why}),
        }),
        "began_unix_ms": measured.began_unix_ms,
        "command_line": measured.command,
        "machine": {
            "cpu": machine.cpu, "cores": machine.cores, "memory_bytes": machine.memory_bytes,
            "os": machine.os, "kernel": machine.kernel,
        },
        "timeline": measured.timeline.iter().map(tick).collect::<Vec<_>>(),
    });
    if let Json::Object(rest) = rest {
        out.extend(rest);
    }
    Json::Object(out)
}

fn latency(operations: &Operations) -> Option<Json> {
    let values = percentiles(&operations.latency_us)?;
    let mut out = Map::new();
    out.insert("requests".to_owned(), operations.requests.into());
    let names = SHOWN.map(|(_, name, _)| name).into_iter().chain(["max"]);
    out.extend(names.zip(values).map(|(name, us)| (name.to_owned(), us.into())));
    Some(Json::Object(out))
}

fn server(server: &ServerCost) -> Json {
    json!({
        "url": server.url,
        "pid": server.pid,
        "ended_during_the_run": server.ended,
        "version": server.version,
        "profile": server.profile,
        "file_system": server.file_system,
        "cpu_cores": server.cpu_cores,
        "rss_bytes": server.rss_bytes,
        "peak_rss_bytes": server.peak_rss_bytes,
        "disk_bytes": server.disk_bytes,
        "disk_bytes_per_record": server.disk_bytes_per_record(),
        "log_bytes": server.log_bytes,
        "log_bytes_per_record": server.log_bytes_per_record(),
        "syncs": server.syncs,
        "records": server.records,
        "stages": server.stages.iter().map(stage).collect::<Vec<_>>(),
    })
}

fn stage(stage: &StageTimes) -> Json {
    // JSON has no infinity: what is beyond the last bound is null.
    let at_most = |quantile| stage.quantile_bucket(quantile).map(|bucket| bucket.high);
    json!({
        "name": stage.name,
        "count": stage.count,
        "mean_seconds": stage.mean_seconds(),
        // What is known, and then what is estimated from it.
        "p50_seconds_at_most": at_most(0.5),
        "p90_seconds_at_most": at_most(0.9),
        "p99_seconds_at_most": at_most(0.99),
        "p50_seconds": stage.quantile_seconds(0.5),
        "p90_seconds": stage.quantile_seconds(0.9),
        "p99_seconds": stage.quantile_seconds(0.99),
        "cumulative": stage.cumulative,
    })
}

fn tick(tick: &Tick) -> Json {
    json!({
        "at_seconds": tick.at.as_secs_f64(), "length_seconds": tick.length.as_secs_f64(),
        "requests": tick.requests, "records": tick.records, "failed": tick.failed,
        "p50_us": tick.p50_us, "p99_us": tick.p99_us, "max_us": tick.max_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::measured;

    #[test]
    fn names_that_scripts_read_are_there() {
        let mut measured = measured();
        measured.unknown.insert("503 overloaded".to_owned(), 2);
        let json = json(&measured, &Machine { cores: 2, ..Machine::default() });
        let first: Vec<&str> = json.as_object().unwrap().keys().take(5).map(String::as_str).collect();
        assert_eq!(first, ["command", "url", "connections", "read_ratio", "seconds"]);
        for (pointer, value) in [
            ("/command", json!("mixed")),
            ("/records", json!(6_000)),
            ("/records_per_sec", json!(3_000.0)),
            ("/requests_per_sec", json!(1_500.0)),
            ("/write_latency_us/requests", json!(1_000)),
            ("/write_latency_us/p99", json!(990)),
            ("/write_latency_us/p99_9", json!(999)),
            ("/read_latency_us/max", json!(measured.reads.as_ref().unwrap().latency_us.max())),
            ("/errors/503 overloaded", json!(5)),
            ("/errors/connection-broken", json!(1)),
            ("/refused/503 overloaded", json!(3)),
            ("/precondition_failed", json!(12)),
            ("/bytes_sent", json!(4 << 20)),
            ("/client_cpu_cores", json!(0.25)),
            ("/server/pid", json!(9)),
            ("/server/cpu_cores", json!(0.5)),
            ("/server/peak_rss_bytes", json!(288 << 20)),
            ("/servers/0/disk_bytes_per_record", json!(200.0)),
            ("/servers/0/stages/0/p50_seconds", json!(0.001)),
            ("/servers/0/stages/0/cumulative/2", json!([null, 10])),
            ("/truth/good", json!(true)),
            ("/machine/cores", json!(2)),
            ("/timeline/1/at_seconds", json!(2.0)),
        ] {
            assert_eq!(json.pointer(pointer), Some(&value), "{pointer}");
        }
        assert!(!json.to_string().contains('\n'));
    }

    #[test]
    fn what_is_not_there_is_null() {
        let mut measured = measured();
        (measured.writes, measured.truth, measured.client_cpu_cores) = (None, None, None);
        measured.servers.clear();
        let json = json(&measured, &Machine::default());
        for pointer in ["/write_latency_us", "/truth", "/client_cpu_cores", "/server", "/machine/cpu"] {
            assert_eq!(json.pointer(pointer), Some(&Json::Null), "{pointer}");
        }
    }

    #[test]
    fn a_plan_cannot_stand_in_for_what_was_measured() {
        let mut measured = measured();
        measured.plan.insert("records".to_owned(), json!("many"));
        assert_eq!(json(&measured, &Machine::default())["records"], 6_000);
    }
}
