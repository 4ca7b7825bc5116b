//! Holds what was measured against what was to be reached. Pure.

use super::targets::{Bounds, Target};
use crate::{measured::Measured, report::units};

/// What became of a target.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was run, and these are its findings.
    Judged(Vec<Finding>),
    /// It was tried quickly, and every answer was right.
    Right,
    /// It cannot be run, for this reason, which is nobody's fault today.
    NotYet(String),
    /// It could not be judged, or answers were wrong: as bad as a target that is missed.
    Broken(String),
}

/// One bound and what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub what: What,
    pub measured: f64,
    pub bound: f64,
    /// What is to be reached next.
    pub then: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    RecordsPerSec,
    P99Ms,
}

impl Finding {
    /// Whether the bound is kept.
    pub fn reached(&self) -> bool {
        self.reaches(self.bound)
    }

    /// Whether what comes next is reached already.
    pub fn reaches(&self, bound: f64) -> bool {
        match self.what {
            What::RecordsPerSec => self.measured >= bound,
            What::P99Ms => self.measured < bound,
        }
    }

    /// How far on the good side of a bound it is, as a share of the bound; below zero on the bad side.
    pub fn margin(&self, bound: f64) -> f64 {
        match self.what {
            What::RecordsPerSec => self.measured / bound - 1.0,
            What::P99Ms => 1.0 - self.measured / bound,
        }
    }

    /// A value of this kind with its unit.
    pub fn shown(&self, value: f64) -> String {
        match self.what {
            What::RecordsPerSec => format!("{} records/s", units::rate(value)),
            What::P99Ms => format!("p99 {}", units::seconds(value / 1e3)),
        }
    }

    /// A bound of this kind.
    pub fn bound(&self, value: f64) -> String {
        match self.what {
            What::RecordsPerSec => format!("≥ {}", units::rate(value)),
            What::P99Ms => format!("< {}", units::seconds(value / 1e3)),
        }
    }
}

/// Judges a run in full length. Nothing is reached with answers that failed.
pub fn speed(target: &Target, measured: &Measured) -> Outcome {
    if let Err(why) = answers(measured) {
        return Outcome::Broken(why);
    }
    let p99_us = measured
        .kinds()
        .filter(|(_, operations)| !operations.latency_us.is_empty())
        .map(|(_, operations)| operations.latency_us.value_at_quantile(0.99))
        .max();
    let Some(p99_us) = p99_us else { return Outcome::Broken("nothing was answered".to_owned()) };
    let Bounds { records_per_sec_min, p99_ms_max } = target.bounds();
    let rate = measured.per_sec(measured.records());
    let finding =
        |what, measured, bound: Option<f64>, then| bound.map(|bound| Finding { what, measured, bound, then });
    let then = target.and_then;
    let findings = [
        finding(What::RecordsPerSec, rate, records_per_sec_min, then.records_per_sec_min),
        finding(What::P99Ms, p99_us as f64 / 1e3, p99_ms_max, then.p99_ms_max),
    ];
    Outcome::Judged(findings.into_iter().flatten().collect())
}

/// Judges a run that was only to show that answers are right.
pub fn correctness(target: &Target, measured: &Measured) -> Outcome {
    if let Err(why) = answers(measured) {
        return Outcome::Broken(why);
    }
    match &measured.truth {
        _ if measured.records() == 0 => Outcome::Broken("nothing was answered".to_owned()),
        None if target.writes() => Outcome::Broken("what was acknowledged was not read back".to_owned()),
        _ => Outcome::Right,
    }
}

fn answers(measured: &Measured) -> Result<(), String> {
    let failed = measured.failed();
    if failed > 0 {
        let most = measured.most_frequent_failure().unwrap_or_default();
        return Err(format!("{} requests failed, most with {most:?}", units::count(failed)));
    }
    match &measured.truth {
        Some(Ok(truth)) if !truth.holds() => {
            let (lost, wrong) = (units::count(truth.lost), units::count(truth.wrong));
            Err(format!("of what was acknowledged, {lost} records are lost and {wrong} are wrong"))
        }
        Some(Err(why)) => Err(format!("what was acknowledged was not read back: {why}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{measured::Truth, report::tests::measured};

    fn target(bounds: &str) -> Target {
        toml::from_str(&format!("name = \"a\"\nwhat = \"b\"\nkind = \"mixed\"\n{bounds}")).unwrap()
    }

    /// 3,000 records/s, p99 of reads 2.08 ms.
    fn flawless() -> Measured {
        let mut measured = measured();
        measured.refused.clear();
        measured.unknown.clear();
        measured
    }

    #[test]
    fn bounds_are_reached_or_missed() {
        let target =
            target("records_per_sec_min = 2400\np99_ms_max = 2\nand_then = { records_per_sec_min = 6000 }");
        let Outcome::Judged(findings) = speed(&target, &flawless()) else { panic!() };
        let [rate, p99] = &findings[..] else { panic!("{findings:?}") };
        assert!(rate.reached() && (rate.margin(rate.bound) - 0.25).abs() < 1e-9);
        assert!(!rate.reaches(6000.0) && (rate.margin(6000.0) + 0.5).abs() < 1e-9);
        assert_eq!((rate.then, p99.then), (Some(6000.0), None));
        assert!(!p99.reached() && p99.margin(p99.bound) < 0.0, "{p99:?}");
        assert_eq!(
            (rate.shown(rate.measured), rate.bound(2400.0)),
            ("3,000 records/s".to_owned(), "≥ 2,400".to_owned())
        );
        assert_eq!(
            (p99.shown(p99.measured), p99.bound(2.0)),
            ("p99 2.08 ms".to_owned(), "< 2.00 ms".to_owned())
        );
    }

    #[test]
    fn a_bound_itself_is_a_rate_reached_and_a_latency_missed() {
        let finding = |what| Finding { what, measured: 5.0, bound: 5.0, then: None };
        assert!(finding(What::RecordsPerSec).reached() && !finding(What::P99Ms).reached());
    }

    #[test]
    fn speed_does_not_excuse_failures() {
        let target = target("records_per_sec_min = 1");
        let Outcome::Broken(why) = speed(&target, &measured()) else { panic!() };
        assert_eq!(why, "4 requests failed, most with \"503 overloaded\"");
        let silent = Measured { writes: None, reads: None, ..flawless() };
        assert!(matches!(speed(&target, &silent), Outcome::Broken(_)));
    }

    #[test]
    fn answers_are_right_when_everything_is_read_back() {
        let target = target("records_per_sec_min = 1e12");
        assert!(matches!(correctness(&target, &flawless()), Outcome::Right));
        let lost = Truth { acknowledged: 9, lost: 1, ..Truth::default() };
        for broken in [
            Measured { truth: Some(Ok(lost)), ..flawless() },
            Measured { truth: Some(Err("nobody was there".to_owned())), ..flawless() },
            Measured { truth: None, ..flawless() },
            Measured { writes: None, reads: None, ..flawless() },
            measured(),
        ] {
            assert!(matches!(correctness(&target, &broken), Outcome::Broken(_)));
        }
    }
}
