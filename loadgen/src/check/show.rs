//! What a check has found: a line for each bound on a terminal, one document for scripts, a table on a page.

use std::fmt::Write;

use serde_json::{Map, Value as Json, json};

use super::{
    Checked,
    judge::{Finding, Outcome, What},
};
use crate::{
    machine::Machine,
    report::{self, Verdict},
};

/// Over the lines of [`lines`].
pub fn heading() -> String {
    format!(
        "{:<9}{:<20}{:<24}{:<16}{:>8}   {}",
        "verdict", "target", "measured", "bound", "margin", "and then"
    )
}

/// A target's lines: one for each bound, or one that says why there is none.
pub fn lines(checked: &Checked) -> String {
    let name = &checked.target.name;
    let mut out = String::new();
    let mut plain = |verdict: &str, text: &str| {
        let _ = writeln!(out, "{verdict:<9}{name:<20}{text}");
    };
    match &checked.outcome {
        Outcome::NotYet(why) => plain("not yet", why),
        Outcome::Broken(why) => plain("BROKEN", why),
        Outcome::Right => {
            let records = checked.measured.as_ref().map_or(0, |measured| measured.records());
            let kept = if checked.target.writes() { ", all read back" } else { "" };
            plain("right", &format!("{} records{kept}", report::units::count(records)));
        }
        Outcome::Judged(findings) => {
            for (n, finding) in findings.iter().enumerate() {
                let name = if n == 0 { name } else { "" };
                let then = finding.then.map_or_else(String::new, |then| {
                    let value = finding.bound(then);
                    if finding.reaches(then) {
                        format!("{value} reached")
                    } else {
                        format!("{value} {}", percent(finding.margin(then)))
                    }
                });
                let line = format!(
                    "{:<9}{name:<20}{:<24}{:<16}{:>8}   {then}",
                    if finding.reached() { "reached" } else { "MISSED" },
                    finding.shown(finding.measured),
                    finding.bound(finding.bound),
                    percent(finding.margin(finding.bound)),
                );
                let _ = writeln!(out, "{}", line.trim_end());
            }
        }
    }
    out
}

fn percent(share: f64) -> String {
    format!("{:+.0}%", (share * 100.0).clamp(-999_999.0, 999_999.0))
}

/// How many of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub good: usize,
    pub missed: usize,
    pub broken: usize,
    pub not_yet: usize,
}

impl Summary {
    pub fn of(all: &[Checked]) -> Self {
        let mut summary = Self::default();
        for checked in all {
            *match &checked.outcome {
                Outcome::Right => &mut summary.good,
                Outcome::Judged(findings) if findings.iter().all(Finding::reached) => &mut summary.good,
                Outcome::Judged(_) => &mut summary.missed,
                Outcome::Broken(_) => &mut summary.broken,
                Outcome::NotYet(_) => &mut summary.not_yet,
            } += 1;
        }
        summary
    }

    /// Whether nothing that was run is missed or broken.
    pub const fn holds(self) -> bool {
        self.missed == 0 && self.broken == 0
    }

    pub fn text(self, quick: bool) -> String {
        let Self { good, missed, broken, not_yet } = self;
        let mut parts = vec![format!("{good} {}", if quick { "right" } else { "reached" })];
        for (count, name) in [(missed, "missed"), (broken, "broken"), (not_yet, "not yet")] {
            if count > 0 {
                parts.push(format!("{count} {name}"));
            }
        }
        parts.join(", ")
    }
}

/// Everything for scripts; a target that was run has its whole report under `run`.
pub fn json(all: &[Checked], machine: &Machine) -> Json {
    let Summary { good, missed, broken, not_yet } = Summary::of(all);
    let targets: Vec<Json> = all.iter().map(|checked| target(checked, machine)).collect();
    json!({
        "command": "check", "reached": good, "missed": missed, "broken": broken, "not_yet": not_yet,
        "targets": targets,
    })
}

fn target(checked: &Checked, machine: &Machine) -> Json {
    let mut out = Map::new();
    let mut put = |name: &str, value: Json| _ = out.insert(name.to_owned(), value);
    put("name", checked.target.name.clone().into());
    put("what", checked.target.what.clone().into());
    let (verdict, why, findings) = match &checked.outcome {
        Outcome::Right => ("right", None, &[][..]),
        Outcome::NotYet(why) => ("not yet", Some(why), &[][..]),
        Outcome::Broken(why) => ("broken", Some(why), &[][..]),
        Outcome::Judged(findings) if findings.iter().all(Finding::reached) => {
            ("reached", None, &findings[..])
        }
        Outcome::Judged(findings) => ("missed", None, &findings[..]),
    };
    put("verdict", verdict.into());
    put("why", why.cloned().into());
    for finding in findings {
        let (name, bound) = match finding.what {
            What::RecordsPerSec => ("records_per_sec", "min"),
            What::P99Ms => ("p99_ms", "max"),
        };
        let value = json!({
            "measured": finding.measured, bound: finding.bound, "reached": finding.reached(),
            "margin": finding.margin(finding.bound), "and_then": finding.then,
        });
        put(name, value);
    }
    put("run", checked.measured.as_ref().map(|measured| report::json(measured, machine)).into());
    Json::Object(out)
}

/// The lines of the page's table.
pub fn verdicts(checked: &Checked) -> Vec<Verdict> {
    let target = &checked.target;
    let plain = |class, verdict: &str, measured: &str| Verdict {
        class,
        verdict: verdict.to_owned(),
        name: target.name.clone(),
        about: target.what.clone(),
        measured: measured.to_owned(),
        bound: String::new(),
        margin: String::new(),
    };
    match &checked.outcome {
        Outcome::Right => vec![plain("good", "right", "")],
        Outcome::NotYet(why) => vec![plain("idle", "not yet", why)],
        Outcome::Broken(why) => vec![plain("bad", "broken", why)],
        Outcome::Judged(findings) => findings
            .iter()
            .map(|finding| Verdict {
                bound: finding.bound(finding.bound),
                margin: percent(finding.margin(finding.bound)),
                ..if finding.reached() {
                    plain("good", "reached", &finding.shown(finding.measured))
                } else {
                    plain("bad", "missed", &finding.shown(finding.measured))
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::measured;

    fn checked(name: &str, outcome: Outcome) -> Checked {
        let text = format!("name = \"{name}\"\nwhat = \"x\"\nkind = \"put\"\nrecords_per_sec_min = 1");
        Checked { target: toml::from_str(&text).unwrap(), outcome, measured: Some(measured()) }
    }

    fn all() -> Vec<Checked> {
        let rate = |measured, bound, then| Finding { what: What::RecordsPerSec, measured, bound, then };
        let p99 = |measured, bound| Finding { what: What::P99Ms, measured, bound, then: None };
        vec![
            checked("bulk", Outcome::Judged(vec![rate(812_345.0, 600_000.0, Some(1e6))])),
            checked(
                "put-64",
                Outcome::Judged(vec![rate(52_000.0, 50_000.0, Some(51_000.0)), p99(12.5, 10.0)]),
            ),
            checked("bulk-on-3", Outcome::NotYet("needs cluster".to_owned())),
            checked("put-1", Outcome::Broken("3 requests failed".to_owned())),
            checked("get-64", Outcome::Right),
        ]
    }

    #[test]
    fn every_target_has_its_lines() {
        let mut text = format!("{}\n", heading());
        text.extend(all().iter().map(lines));
        let expected = "\
verdict  target              measured                bound             margin   and then
reached  bulk                812,345 records/s       ≥ 600,000           +35%   ≥ 1,000,000 -19%
reached  put-64              52,000 records/s        ≥ 50,000             +4%   ≥ 51,000 reached
MISSED                       p99 12.5 ms             < 10.0 ms           -25%
not yet  bulk-on-3           needs cluster
BROKEN   put-1               3 requests failed
right    get-64              6,000 records, all read back
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_yet_there_is_neither_reached_nor_missed() {
        let summary = Summary::of(&all());
        assert_eq!(summary, Summary { good: 2, missed: 1, broken: 1, not_yet: 1 });
        assert_eq!(summary.text(false), "2 reached, 1 missed, 1 broken, 1 not yet");
        assert!(!summary.holds());
        assert!(Summary { good: 1, not_yet: 7, ..Summary::default() }.holds());
        assert!(!Summary { broken: 1, ..Summary::default() }.holds());
    }

    #[test]
    fn scripts_and_pages_are_told_the_same() {
        let json = json(&all(), &Machine::default());
        for (pointer, value) in [
            ("/reached", json!(2)),
            ("/not_yet", json!(1)),
            ("/targets/0/verdict", json!("reached")),
            ("/targets/0/records_per_sec/min", json!(600_000.0)),
            ("/targets/0/run/records", json!(6_000)),
            ("/targets/1/verdict", json!("missed")),
            ("/targets/1/p99_ms/reached", json!(false)),
            ("/targets/2/why", json!("needs cluster")),
            ("/targets/4/verdict", json!("right")),
        ] {
            assert_eq!(json.pointer(pointer), Some(&value), "{pointer}");
        }
        let classes: Vec<&str> = all().iter().flat_map(verdicts).map(|verdict| verdict.class).collect();
        assert_eq!(classes, ["good", "good", "bad", "idle", "bad", "good"]);
    }
}
