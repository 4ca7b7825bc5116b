//! Finds the highest rate that the servers bear: raises it step by step until a step breaks, then halves the
//! distance between the last rate that was borne and the first that was not.
//!
//! A step is an open loop of a few seconds. It breaks when p99 is above the bound, or when less is answered
//! than was offered: a server that sheds load does not bear it. A rate is given up when it breaks twice in a row,
//! because one hiccup of a disk makes a step of any rate break.

use std::{fmt::Write, time::Duration};

use serde_json::{Map, Value as Json, json};

use crate::{
    args::Pacing,
    measured::{Measured, Operations},
    observe::Silent,
    plan::Task,
    run::{
        self,
        pacing::{Arrivals, Pace},
    },
    signals::Signal,
};

const P99_MAX_DEFAULT: Duration = Duration::from_millis(10);
const FROM_DEFAULT: f64 = 100.0;
const TO_DEFAULT: f64 = 1e6;
/// What of the offered rate has to be answered.
const ACHIEVED_MIN: f64 = 0.97;
/// Steps rise by this factor until one breaks.
const FACTOR: f64 = 2.0;
/// The search ends when what is borne and what is not are this close.
const CLOSE: f64 = 1.05;
/// Before each step, so that connections and caches are warm.
const WARMUP: Duration = Duration::from_millis(500);
/// A thread of ours that is busier than this is what is being measured.
const BUSY: f64 = 0.9;

/// What to search for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    from: f64,
    to: f64,
    p99_max: Duration,
    arrivals: Arrivals,
}

impl Search {
    pub fn new(pacing: &Pacing) -> Result<Self, String> {
        let from = pacing.from.unwrap_or(FROM_DEFAULT);
        let to = pacing.to.unwrap_or(TO_DEFAULT.max(from));
        if to < from {
            return Err(format!("--to {to} is below --from {from}"));
        }
        let p99_max = pacing.p99_max.unwrap_or(P99_MAX_DEFAULT);
        Ok(Self { from, to, p99_max, arrivals: pacing.arrivals.unwrap_or(Arrivals::Constant) })
    }
}

/// Where a search is. Pure: it is told how steps went and says which comes next.
#[derive(Clone, Copy, Debug)]
struct Position {
    search: Search,
    borne: Option<f64>,
    broken: Option<f64>,
    /// Broke once.
    doubtful: Option<f64>,
}

impl Position {
    const fn new(search: Search) -> Self {
        Self { search, borne: None, broken: None, doubtful: None }
    }

    /// The next rate to try, `None` when the knee is found.
    fn next(&self) -> Option<f64> {
        if self.doubtful.is_some() {
            return self.doubtful;
        }
        match (self.borne, self.broken) {
            (None, None) => Some(self.search.from),
            (Some(borne), None) if borne >= self.search.to => None,
            (Some(borne), None) => Some((borne * FACTOR).min(self.search.to)),
            // Not even the first was borne: the knee is below.
            (None, Some(broken)) => (broken > 1.0).then(|| (broken / FACTOR).max(1.0)),
            (Some(borne), Some(broken)) => (broken / borne > CLOSE).then(|| (borne * broken).sqrt()),
        }
    }

    fn told(&mut self, rate: f64, bears: bool) {
        match self.doubtful.take() {
            _ if bears => self.borne = Some(rate),
            Some(_) => self.broken = Some(rate),
            None => self.doubtful = Some(rate),
        }
    }
}

/// One step's result.
#[derive(Clone, Debug)]
struct Step {
    offered: f64,
    achieved: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    failed: u64,
    client_cpu_cores: Option<f64>,
    server_cpu_cores: Option<f64>,
    /// Why it broke.
    broke: Option<&'static str>,
}

impl Step {
    fn of(offered: f64, measured: &Measured, threads: usize, search: &Search) -> Self {
        let mut latency = run::tally::histogram();
        for Operations { latency_us, .. } in measured.reads.iter().chain(&measured.writes) {
            // All histograms have the same bounds, so that adding them cannot fail.
            let _ = latency.add(latency_us);
        }
        let achieved = latency.len() as f64 / measured.elapsed.as_secs_f64().max(1e-9);
        let p99_us = latency.value_at_quantile(0.99);
        let client = measured.client_cpu_cores;
        let broke = if latency.is_empty() {
            Some("nothing answered")
        } else if achieved < offered * ACHIEVED_MIN {
            Some(if client.is_some_and(|cores| cores > threads as f64 * BUSY) {
                "this program is too slow: more --threads"
            } else {
                "less answered than offered"
            })
        } else if u128::from(p99_us) > search.p99_max.as_micros() {
            Some("p99 above the bound")
        } else {
            None
        };
        let servers = measured.servers.iter().filter_map(|server| server.cpu_cores);
        let failed = measured.refused.values().chain(measured.unknown.values()).sum();
        Self {
            offered,
            achieved,
            p50_us: latency.value_at_quantile(0.5),
            p99_us,
            p999_us: latency.value_at_quantile(0.999),
            failed,
            client_cpu_cores: client,
            server_cpu_cores: servers.reduce(|sum, cores| sum + cores),
            broke,
        }
    }

    fn row(&self) -> String {
        let cores = |cores: Option<f64>| cores.map_or_else(|| "?".to_owned(), |cores| format!("{cores:.2}"));
        let Self { offered, achieved, p50_us, p99_us, p999_us, failed, .. } = self;
        let mut row = format!(
            "{offered:>10.0} {achieved:>10.0} {p50_us:>9} {p99_us:>9} {p999_us:>9} {failed:>8} {:>7} {:>7}",
            cores(self.client_cpu_cores),
            cores(self.server_cpu_cores)
        );
        if let Some(why) = self.broke {
            let _ = write!(row, "  {why}");
        }
        row
    }

    fn json(&self) -> Json {
        json!({
            "offered_per_sec": self.offered, "achieved_per_sec": self.achieved, "p50_us": self.p50_us,
            "p99_us": self.p99_us, "p99_9_us": self.p999_us, "failed": self.failed,
            "client_cpu_cores": self.client_cpu_cores, "server_cpu_cores": self.server_cpu_cores,
            "borne": self.broke.is_none(), "broke": self.broke,
        })
    }
}

const HEADER: &str = "   offered   achieved    p50 µs    p99 µs  p99.9 µs   failed  client  server";

/// How a search ended.
pub struct Swept {
    /// For scripts.
    pub document: Json,
    /// Whether any rate was borne.
    pub borne: bool,
    pub interrupted: Option<Signal>,
}

/// Searches; `say` gets each line for people as soon as it is known.
///
/// # Errors
/// When the servers cannot be reached, or go away.
pub fn sweep(
    task: Task,
    search: Search,
    mut say: impl FnMut(&str) -> Result<(), String>,
) -> Result<Swept, String> {
    let mut position = Position::new(search);
    let mut plan = task.plan;
    plan.warmup = plan.warmup.max(WARMUP);
    let (mut steps, mut knee): (Vec<Json>, Option<Step>) = (Vec::new(), None);
    let mut interrupted = None;
    say(HEADER)?;
    while let Some(rate) = position.next() {
        plan.pace = Some(Pace { rate, arrivals: search.arrivals });
        let outcome = run::run(plan.clone(), &mut Silent)?;
        interrupted = outcome.interrupted;
        if interrupted.is_some() {
            break;
        }
        if let Some(why) = outcome.failure {
            return Err(why);
        }
        plan.first_write = outcome.writes_end;
        let step = Step::of(rate, &outcome.measured, plan.threads, &search);
        say(&step.row())?;
        steps.push(step.json());
        position.told(rate, step.broke.is_none());
        if step.broke.is_none() {
            knee = Some(step);
        }
    }
    let bound_ms = search.p99_max.as_secs_f64() * 1e3;
    match &knee {
        _ if interrupted.is_some() => say("interrupted: the knee was not found")?,
        Some(knee) if position.broken.is_some() => say(&format!(
            "knee: {:.0} requests/s at p99 {} µs (bound {bound_ms} ms)",
            knee.offered, knee.p99_us
        ))?,
        Some(knee) => say(&format!(
            "no knee up to {:.0} requests/s (p99 {} µs, bound {bound_ms} ms): --to is higher",
            knee.offered, knee.p99_us
        ))?,
        None => say(&format!("no rate was borne with p99 at most {bound_ms} ms"))?,
    }
    let mut document: Map<String, Json> = task.about;
    for key in ["loop", "rate"] {
        document.shift_remove(key);
    }
    document.insert("p99_max_us".to_owned(), (search.p99_max.as_micros() as u64).into());
    document.insert("steps".to_owned(), steps.into());
    document.insert("knee".to_owned(), knee.as_ref().map_or(Json::Null, Step::json));
    document.insert(
        "knee_found".to_owned(),
        (knee.is_some() && position.broken.is_some() && interrupted.is_none()).into(),
    );
    Ok(Swept { document: document.into(), borne: knee.is_some(), interrupted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(from: f64, to: f64, bears: impl Fn(f64) -> bool) -> (Position, Vec<f64>) {
        let p99_max = P99_MAX_DEFAULT;
        let mut position = Position::new(Search { from, to, p99_max, arrivals: Arrivals::Constant });
        let mut tried = Vec::new();
        while let Some(rate) = position.next() {
            tried.push(rate);
            position.told(rate, bears(rate));
            assert!(tried.len() < 60, "it does not end: {tried:?}");
        }
        (position, tried)
    }

    #[test]
    fn the_knee_is_found_from_below_and_from_above() {
        for from in [100.0, 20_000.0, 1_000_000.0] {
            let (position, tried) = search(from, 1e6, |rate| rate <= 12_345.0);
            let (borne, broken) = (position.borne.unwrap(), position.broken.unwrap());
            assert!(borne <= 12_345.0 && broken > 12_345.0 && broken / borne <= CLOSE, "{tried:?}");
            assert!(tried.len() <= 22, "{tried:?}");
        }
    }

    #[test]
    fn a_hiccup_is_not_the_knee() {
        let hiccup = std::cell::Cell::new(true);
        let (position, tried) =
            search(100.0, 1e6, |rate| rate <= 12_345.0 && !(rate == 800.0 && hiccup.take()));
        assert!(position.borne > Some(11_000.0), "{tried:?}");
        assert_eq!(tried[3..5], [800.0, 800.0]);
    }

    #[test]
    fn a_search_without_a_knee_ends() {
        let (position, tried) = search(100.0, 1000.0, |_| true);
        assert_eq!((position.borne, position.broken, tried.last()), (Some(1000.0), None, Some(&1000.0)));
        let (position, _) = search(100.0, 1000.0, |_| false);
        assert_eq!((position.borne, position.broken), (None, Some(1.0)));
    }
}
