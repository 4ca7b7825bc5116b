//! The parts of a page about one run: figures, tables, plots, servers, plan.
//!
//! Takes what was measured, appends markup. `html` puts the parts into a document.

use std::fmt::Write;

use serde_json::Value as Json;

use super::{
    SHOWN,
    charts::{Chart, charts},
    escape::escape,
    percentiles, stages, units,
};
use crate::{
    machine::Machine,
    measured::{Measured, Operations, ServerCost, StageTimes},
};

/// One run: its figures, its plots, and what its servers cost.
pub fn run(out: &mut String, measured: &Measured, machine: &Machine) {
    cards(out, measured, machine);
    results(out, measured);
    out.push_str("<section class=\"charts\">\n");
    for chart in charts(measured) {
        figure(out, &chart);
    }
    for server in &measured.servers {
        if let Some(mut chart) = stages::chart(&server.stages) {
            if measured.servers.len() > 1 {
                chart.title = format!("{} of {}", chart.title, server.url);
            }
            figure(out, &chart);
        }
    }
    out.push_str("</section>\n");
    for server in &measured.servers {
        server_section(out, server, machine);
    }
}

/// What was to be done.
pub fn plan(out: &mut String, measured: &Measured) {
    let set = measured.plan.iter().filter(|(_, value)| !value.is_null());
    let rows: Vec<(String, String)> =
        set.map(|(name, value)| (name.replace('_', " "), shown(value))).collect();
    facts(out, "Plan", &rows);
}

/// A word of a plan.
pub fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(parts) => parts.iter().map(shown).collect::<Vec<_>>().join(", "),
        Json::Object(parts) => parts
            .iter()
            .map(|(name, value)| format!("{name} {}", shown(value)))
            .collect::<Vec<_>>()
            .join(", "),
        // A rate of 2000 that came as a fraction is shown as it was asked for.
        Json::Number(number) if number.is_f64() => number.as_f64().unwrap_or_default().to_string(),
        other => other.to_string(),
    }
}

fn cards(out: &mut String, measured: &Measured, machine: &Machine) {
    out.push_str("<section class=\"cards\">");
    let mut card = |class: &str, value: &str, name: &str| {
        let (value, name) = (escape(value), escape(name));
        let _ = write!(out, "<div class=\"card {class}\"><b>{value}</b><span>{name}</span></div>");
    };
    card("", &units::short(measured.per_sec(measured.records())), "records/s");
    for (name, operations) in measured.kinds() {
        if let Some([p50, _, p99, ..]) = percentiles(&operations.latency_us) {
            card("", &units::micros(p50), &format!("{name} p50"));
            card("", &units::micros(p99), &format!("{name} p99"));
        }
    }
    let failed = measured.failed();
    card(if failed > 0 { "bad" } else { "" }, &units::count(failed), "failed requests");
    let cores: Option<f64> = measured.servers.iter().map(|server| server.cpu_cores).sum();
    if let Some(cores) = cores.filter(|_| !measured.servers.is_empty()) {
        let name = if measured.servers.len() > 1 { "servers'" } else { "server's" };
        card("", &format!("{cores:.2}"), &format!("{name} cores of {}", machine.cores));
    }
    if measured.nothing_written() {
        card("bad", "0", "writes acknowledged");
    }
    match &measured.truth {
        Some(Ok(truth)) => {
            let (class, text) = match (truth.holds(), truth.is_good()) {
                (true, true) => ("good", "all there"),
                (true, false) => ("bad", "nothing was acknowledged"),
                (false, _) => ("bad", "LOST OR WRONG"),
            };
            card(class, &units::short(truth.acknowledged as f64), &format!("read back: {text}"));
        }
        Some(Err(_)) => card("bad", "?", "read back: not checked"),
        None => {}
    }
    out.push_str("</section>\n");
}

fn results(out: &mut String, measured: &Measured) {
    out.push_str("<section><h2>Results</h2><div class=\"wide\"><table><thead><tr><th><th class=\"n\">requests<th class=\"n\">records");
    for (.., name) in SHOWN {
        let _ = write!(out, "<th class=\"n\">{name}");
    }
    out.push_str("<th class=\"n\">max</tr></thead><tbody>\n");
    for (name, operations) in measured.kinds() {
        result(out, name, operations);
    }
    out.push_str("</tbody></table></div>\n");
    let per_sec = |count| units::rate(measured.per_sec(count));
    let mib = |bytes| units::rate(measured.per_sec(bytes) / f64::from(1 << 20));
    let mut rows = vec![
        (
            "throughput".to_owned(),
            format!("{} records/s, {} requests/s", per_sec(measured.records()), per_sec(measured.requests())),
        ),
        (
            "traffic".to_owned(),
            format!(
                "{} MiB/s sent, {} MiB/s received",
                mib(measured.bytes_sent),
                mib(measured.bytes_received)
            ),
        ),
        ("measured for".to_owned(), units::seconds(measured.elapsed.as_secs_f64())),
    ];
    for (name, kinds) in [("refused", &measured.refused), ("outcome unknown", &measured.unknown)] {
        for (kind, count) in kinds {
            let detail = measured.details.get(kind);
            let detail = detail.map_or_else(String::new, |detail| format!(" (the first: {detail})"));
            rows.push((name.to_owned(), format!("{} × {kind}{detail}", units::count(*count))));
        }
    }
    if measured.precondition_failed > 0 {
        rows.push(("conditions not met".to_owned(), units::count(measured.precondition_failed)));
    }
    if let Some(cores) = measured.client_cpu_cores {
        rows.push(("load generator CPU".to_owned(), format!("{cores:.2} cores")));
    }
    if let Some(Err(why)) = &measured.truth {
        rows.push(("read back".to_owned(), format!("not checked: {why}")));
    }
    if let Some(Ok(truth)) = &measured.truth {
        let of = units::count(truth.acknowledged);
        rows.push((
            "read back".to_owned(),
            format!("{of} acknowledged records: {} lost, {} wrong", truth.lost, truth.wrong),
        ));
        rows.extend(truth.shown.iter().map(|line| ("difference".to_owned(), line.clone())));
    }
    facts(out, "", &rows);
    out.push_str("</section>\n");
}

fn result(out: &mut String, name: &str, operations: &Operations) {
    let mut row = |cells: Vec<String>| {
        let _ = write!(out, "<tr><td><b>{}</b>", escape(name));
        for cell in cells {
            let _ = write!(out, "<td class=\"n\">{}", escape(&cell));
        }
        out.push_str("</tr>\n");
    };
    let mut cells = vec![units::count(operations.requests), units::count(operations.records)];
    match percentiles(&operations.latency_us) {
        Some(values) => cells.extend(values.map(units::micros)),
        None => cells.extend(std::iter::repeat_n("–".to_owned(), SHOWN.len() + 1)),
    }
    row(cells);
}

fn figure(out: &mut String, chart: &Chart) {
    let _ = write!(out, "<figure><figcaption><b>{}</b>", escape(&chart.title));
    for (class, name) in &chart.legend {
        let _ = write!(out, "<span class=\"key {class}\">{}</span>", escape(name));
    }
    let _ = write!(out, "</figcaption><div class=\"wide\">{}</div>", chart.svg);
    if !chart.note.is_empty() {
        let _ = write!(out, "<p>{}</p>", escape(&chart.note));
    }
    out.push_str("</figure>\n");
}

fn server_section(out: &mut String, server: &ServerCost, machine: &Machine) {
    let mut rows = Vec::new();
    let mut known =
        |name: &str, value: Option<String>| rows.extend(value.map(|value| (name.to_owned(), value)));
    known("version", server.version.clone());
    known("profile", server.profile.clone());
    known("process", server.pid.map(|pid| pid.to_string()));
    known("CPU", server.cpu_cores.map(|cores| format!("{cores:.2} of {} cores", machine.cores)));
    known("memory at the end", server.rss_bytes.map(units::bytes));
    known("most memory since its start", server.peak_rss_bytes.map(units::bytes));
    known("written to its log", server.log_bytes.map(units::bytes));
    known("log bytes a record", server.log_bytes_per_record().map(units::rate));
    known("written to disk, the log's files filled ahead included", server.disk_bytes.map(units::bytes));
    known("fsyncs", server.syncs.map(units::count));
    known("records a fsync", server.records_per_sync().map(units::rate));
    known("data on", server.file_system.clone());
    out.push_str("<section class=\"pair\">\n");
    facts(out, &format!("Server {}", server.url), &rows);
    stage_table(out, &server.stages);
    out.push_str("</section>\n");
}

fn stage_table(out: &mut String, stages: &[StageTimes]) {
    if stages.iter().all(|stage| stage.count == 0) {
        return;
    }
    out.push_str(
        "<div><h2>Stages</h2><div class=\"wide\"><table><thead><tr><th>stage<th class=\"n\">items<th class=\"n\">mean\
         <th class=\"n\">p50<th class=\"n\">p90<th class=\"n\">p99</tr></thead><tbody>\n",
    );
    for stage in stages {
        let at = |quantile| stage.quantile_bucket(quantile).map(units::bounded);
        let times = [stage.mean_seconds().map(units::seconds), at(0.5), at(0.9), at(0.99)];
        let _ = write!(
            out,
            "<tr><td><b>{}</b><td class=\"n\">{}",
            escape(&stage.name),
            units::count(stage.count)
        );
        for time in times {
            let _ = write!(out, "<td class=\"n\">{}", time.unwrap_or_else(|| "–".to_owned()));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div></div>\n");
}

/// Names and values, two columns.
pub fn facts(out: &mut String, title: &str, rows: &[(String, String)]) {
    out.push_str("<div>");
    if !title.is_empty() {
        let _ = write!(out, "<h2>{}</h2>", escape(title));
    }
    out.push_str("<dl>");
    for (name, value) in rows {
        let _ = write!(out, "<dt>{}<dd>{}", escape(name), escape(value));
    }
    out.push_str("</dl></div>\n");
}
