//! Which plots a run is shown as: throughput and latency over time, and latency by percentile. Where the
//! time went inside the server is `stages`.

use std::time::Duration;

use super::{
    SHOWN,
    plot::Plot,
    scale::{Axis, nines},
    units,
};
use crate::measured::{Measured, Operations, Tick};

const LEFT: f64 = 52.0;
const HEIGHT: f64 = 250.0;
/// More points than this cannot be told apart on a page and only make it heavy.
const POINTS_MAX: usize = 400;
/// Points of a percentile curve.
const CURVE_POINTS: usize = 160;

/// A plot with its title, what it shows and the names of its colours.
pub struct Chart {
    pub title: String,
    pub note: String,
    pub legend: Vec<(&'static str, String)>,
    pub svg: String,
}

/// All plots for which there is something to show.
pub fn charts(measured: &Measured) -> Vec<Chart> {
    let points = thin(&measured.timeline, POINTS_MAX);
    let grouped = measured.timeline.len() > POINTS_MAX;
    let mut charts = Vec::new();
    if !points.is_empty() {
        charts.push(throughput(measured, &points));
        charts.push(latency_over_time(&points, grouped));
    }
    charts.extend(latency_by_percentile(measured));
    charts
}

fn starts(tick: &Tick) -> f64 {
    tick.at.saturating_sub(tick.length).as_secs_f64()
}

fn rate(count: u64, over: Duration) -> f64 {
    if over.is_zero() { 0.0 } else { count as f64 / over.as_secs_f64() }
}

fn throughput(measured: &Measured, points: &[Tick]) -> Chart {
    let end = points.last().map_or(0.0, |tick| tick.at.as_secs_f64());
    let mean = measured.per_sec(measured.records());
    let top = points.iter().map(|tick| rate(tick.records, tick.length)).fold(mean, f64::max);
    let x = Axis::clock(end);
    let mut plot = Plot::new("Throughput over time", LEFT, HEIGHT, x, Axis::counts(top));
    plot.steps(
        "c1",
        points.iter().map(|tick| (starts(tick), tick.at.as_secs_f64(), rate(tick.records, tick.length))),
    );
    plot.level(mean, &format!("mean {}/s", units::short(mean)));
    let mut legend = vec![("c1", "records/s".to_owned())];
    if points.iter().any(|tick| tick.failed > 0) {
        legend.push(("bad", "requests failed".to_owned()));
    }
    for tick in points {
        let (from, to) = (starts(tick), tick.at.as_secs_f64());
        let rate = units::rate(rate(tick.records, tick.length));
        let mut text =
            format!("{}: {rate} records/s, {} requests", span(from, to), units::count(tick.requests));
        if tick.failed > 0 {
            text.push_str(&format!(", {} failed", units::count(tick.failed)));
            plot.bar("bad", (from, to), (0.0, top * 0.02), &text);
        }
        plot.stretch(from, to, &text);
    }
    Chart { title: "Throughput over time".to_owned(), note: String::new(), legend, svg: plot.finish() }
}

fn latency_over_time(points: &[Tick], grouped: bool) -> Chart {
    let end = points.last().map_or(0.0, |tick| tick.at.as_secs_f64());
    let answered = || points.iter().filter(|tick| tick.requests > 0);
    let all = answered().flat_map(|tick| [tick.p50_us, tick.p99_us, tick.max_us]).map(|us| us as f64 / 1e6);
    let y = Axis::seconds(all);
    let mut plot = Plot::new("Latency over time", LEFT, HEIGHT, Axis::clock(end), y);
    // The highest first, so that the others lie over it.
    for (class, nth) in [("c3", 2), ("c2", 1), ("c1", 0)] {
        plot.line(
            class,
            points.iter().map(|tick| {
                let middle = (starts(tick) + tick.at.as_secs_f64()) / 2.0;
                let us = [tick.p50_us, tick.p99_us, tick.max_us][nth];
                (tick.requests > 0).then(|| (middle, us as f64 / 1e6))
            }),
        );
    }
    for tick in points {
        let (from, to) = (starts(tick), tick.at.as_secs_f64());
        let text = if tick.requests > 0 {
            let [p50, p99, max] = [tick.p50_us, tick.p99_us, tick.max_us].map(units::micros);
            format!("{}: p50 {p50}, p99 {p99}, max {max}", span(from, to))
        } else {
            format!("{}: nothing was answered", span(from, to))
        };
        plot.stretch(from, to, &text);
    }
    Chart {
        title: "Latency over time".to_owned(),
        note: if grouped { "Each point is the worst of its neighbours.".to_owned() } else { String::new() },
        legend: [("c1", "p50"), ("c2", "p99"), ("c3", "max")].map(|(c, name)| (c, name.to_owned())).into(),
        svg: plot.finish(),
    }
}

fn latency_by_percentile(measured: &Measured) -> Option<Chart> {
    let kinds: Vec<(&str, &str, &Operations)> = measured
        .kinds()
        .filter(|(_, operations)| !operations.latency_us.is_empty())
        .map(|(name, operations)| (if name == "writes" { "c1" } else { "c2" }, name, operations))
        .collect();
    let most = kinds.iter().map(|(_, _, operations)| operations.latency_us.len()).max()?;
    let ends = kinds
        .iter()
        .flat_map(|(_, _, operations)| [operations.latency_us.min(), operations.latency_us.max()]);
    let y = Axis::seconds(ends.map(|us| us as f64 / 1e6));
    let mut plot = Plot::new("Latency by percentile", LEFT, HEIGHT, Axis::percentiles(most), y);
    for (class, name, operations) in &kinds {
        let histogram = &operations.latency_us;
        let end = (histogram.len() as f64).log10();
        plot.line(
            class,
            (0..=CURVE_POINTS).map(|n| {
                let x = end * n as f64 / CURVE_POINTS as f64;
                Some((x, histogram.value_at_quantile(1.0 - 10f64.powf(-x)) as f64 / 1e6))
            }),
        );
        for (quantile, _, shown) in SHOWN {
            if nines(quantile) <= end {
                let us = histogram.value_at_quantile(quantile);
                plot.dot(
                    class,
                    nines(quantile),
                    us as f64 / 1e6,
                    &format!("{name} {shown}: {}", units::micros(us)),
                );
            }
        }
        let max = histogram.max();
        plot.dot(class, end, max as f64 / 1e6, &format!("{name} max: {}", units::micros(max)));
    }
    Some(Chart {
        title: "Latency by percentile".to_owned(),
        note: "Dots are p50, p90, p99, p99.9 and the maximum.".to_owned(),
        legend: kinds.iter().map(|(class, name, _)| (*class, (*name).to_owned())).collect(),
        svg: plot.finish(),
    })
}

fn span(from: f64, to: f64) -> String {
    format!("{} s to {} s", units::three_digits(from), units::three_digits(to))
}

/// At most `most` intervals: neighbours are put together. A last one that is much shorter than the others
/// says little by itself and goes with its neighbour.
fn thin(timeline: &[Tick], most: usize) -> Vec<Tick> {
    let group = timeline.len().div_ceil(most).max(1);
    let mut points: Vec<Tick> =
        timeline.chunks(group).filter_map(|ticks| ticks.iter().cloned().reduce(together)).collect();
    if let [.., before, last] = &points[..]
        && last.length * 4 < before.length
    {
        let short = points.pop();
        let before = points.pop();
        points.extend(before.zip(short).map(|(before, short)| together(before, short)));
    }
    points
}

/// Two intervals as one. Percentiles cannot be added: it keeps the higher ones, so that no peak is lost.
fn together(a: Tick, b: Tick) -> Tick {
    Tick {
        at: b.at,
        length: a.length + b.length,
        requests: a.requests + b.requests,
        records: a.records + b.records,
        failed: a.failed + b.failed,
        p50_us: a.p50_us.max(b.p50_us),
        p99_us: a.p99_us.max(b.p99_us),
        max_us: a.max_us.max(b.max_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{measured, tick};

    #[test]
    fn a_long_timeline_is_thinned_and_keeps_its_sums_and_peaks() {
        let mut ticks: Vec<Tick> = (0..1_000).map(|n| tick(n, 10)).collect();
        ticks[567].max_us = 77_777;
        let points = thin(&ticks, 400);
        assert!((300..=400).contains(&points.len()), "{}", points.len());
        let sum = |ticks: &[Tick]| ticks.iter().map(|tick| tick.records).sum::<u64>();
        assert_eq!(sum(&points), sum(&ticks));
        assert_eq!(points.iter().map(|point| point.max_us).max(), Some(77_777));
        assert_eq!(points.last().unwrap().at, ticks.last().unwrap().at);
        let lengths: Duration = points.iter().map(|point| point.length).sum();
        assert_eq!(lengths, Duration::from_secs(1_000));
        assert_eq!(thin(&ticks[..5], 400).len(), 5);
    }

    #[test]
    fn a_short_end_goes_with_its_neighbour() {
        let mut ticks: Vec<Tick> = (0..3).map(|n| tick(n, 10)).collect();
        ticks.push(Tick {
            at: Duration::from_millis(3_010),
            length: Duration::from_millis(10),
            ..tick(3, 1)
        });
        let points = thin(&ticks, 400);
        assert_eq!((points.len(), points[2].records), (3, 11));
        assert_eq!(points[2].length, Duration::from_millis(1_010));
    }

    #[test]
    fn there_is_a_chart_for_what_there_is() {
        let titles = |measured: &Measured| -> Vec<String> {
            charts(measured).into_iter().map(|chart| chart.title).collect()
        };
        let all = measured();
        assert_eq!(titles(&all), ["Throughput over time", "Latency over time", "Latency by percentile"]);
        let silent = Measured { timeline: Vec::new(), writes: None, reads: None, ..all.clone() };
        assert!(titles(&silent).is_empty());
        let nothing_answered = Measured { timeline: vec![Tick { requests: 0, ..tick(0, 0) }], ..silent };
        assert_eq!(titles(&nothing_answered).len(), 2);
        let svg = &charts(&nothing_answered)[1].svg;
        assert!(svg.contains("nothing was answered") && !svg.contains("class=\"line"), "{svg}");
    }

    #[test]
    fn failures_are_seen() {
        let mut measured = measured();
        measured.timeline[1].failed = 7;
        let chart = &charts(&measured)[0];
        assert!(chart.legend.iter().any(|(class, _)| *class == "bad"));
        assert!(chart.svg.contains("7 failed"));
    }
}
