//! Where the time went inside a server: a histogram for each stage on one common axis of time.

use super::{
    charts::Chart,
    plot::Plot,
    scale::{Axis, Scale},
    units,
};
use crate::measured::StageTimes;

const LEFT: f64 = 78.0;
const ROW_HEIGHT: f64 = 54.0;
/// Of a row, what its highest bar takes.
const BAR_SHARE: f64 = 0.74;

/// One histogram under the other, with p50, p90 and p99 marked; `None` when nothing passed any stage.
pub fn chart(stages: &[StageTimes]) -> Option<Chart> {
    let rows: Vec<(&StageTimes, Vec<Bucket>)> = stages
        .iter()
        .map(|stage| (stage, buckets(stage)))
        .filter(|(_, buckets)| !buckets.is_empty())
        .collect();
    let ends = rows.iter().flat_map(|(_, buckets)| buckets).flat_map(|bucket| [bucket.from, bucket.to]);
    let x = Axis::seconds(ends);
    let count = rows.len() as f64;
    let y = Axis { scale: Scale::Linear { min: 0.0, max: count.max(1.0) }, marks: Vec::new() };
    if rows.is_empty() {
        return None;
    }
    let mut plot = Plot::new("Time in each stage", LEFT, count * ROW_HEIGHT + 40.0, x, y);
    for (row, (stage, buckets)) in rows.iter().enumerate() {
        let floor = count - 1.0 - row as f64;
        let highest = buckets.iter().map(|bucket| bucket.share).fold(0.0, f64::max);
        for bucket in buckets {
            let top = floor + BAR_SHARE * bucket.share / highest;
            let text = format!(
                "{}: {} of {} ({}%) took {}",
                stage.name,
                units::count(bucket.items),
                units::count(stage.count),
                units::three_digits(bucket.share * 100.0),
                bucket.shown()
            );
            plot.bar("c4", (bucket.from, bucket.to), (floor, top), &text);
        }
        for (class, quantile, name) in [("q50", 0.5, "p50"), ("q90", 0.9, "p90"), ("q99", 0.99, "p99")] {
            let Some(at) = stage.quantile_seconds(quantile) else { continue };
            // Only the last one is named: near each other they would not be legible.
            let bounds = stage.quantile_bucket(quantile).filter(|_| name == "p99");
            let text = bounds.map_or_else(String::new, |bucket| format!("p99 {}", units::bounded(bucket)));
            plot.tick(class, at, (floor, floor + 0.86), &text);
        }
        plot.rule(floor);
        plot.label(floor, &stage.name);
    }
    Some(Chart {
        title: "Stage by stage".to_owned(),
        note: "How long items stayed in each stage of the server; heights are shares of that stage's items. \
               Times are counted in buckets: where the lines of percentiles stand is estimated."
            .to_owned(),
        legend: [("c4", "items"), ("q50", "p50"), ("q90", "p90"), ("q99", "p99")]
            .map(|(class, name)| (class, name.to_owned()))
            .into(),
        svg: plot.finish(),
    })
}

/// A bucket with something in it.
struct Bucket {
    /// Seconds; a bucket that has no end on one side gets one where it can be drawn.
    from: f64,
    to: f64,
    from_zero: bool,
    endless: bool,
    items: u64,
    share: f64,
}

impl Bucket {
    fn shown(&self) -> String {
        let (from, to) = (units::seconds(self.from), units::seconds(self.to));
        match (self.from_zero, self.endless) {
            (true, true) => "some time".to_owned(),
            (true, false) => format!("at most {to}"),
            (false, true) => format!("more than {from}"),
            (false, false) => format!("{from} to {to}"),
        }
    }
}

fn buckets(stage: &StageTimes) -> Vec<Bucket> {
    let total = stage.cumulative.last().map_or(0, |(_, count)| *count);
    let (mut low, mut below) = (0.0f64, 0);
    let mut buckets = Vec::new();
    for &(bound, count) in &stage.cumulative {
        let items = count.saturating_sub(below);
        if items > 0 {
            let (from_zero, endless) = (low <= 0.0, !bound.is_finite());
            let to = if endless { low.max(1e-6) * 2.0 } else { bound };
            let from = if from_zero { to / 2.0 } else { low };
            buckets.push(Bucket { from, to, from_zero, endless, items, share: items as f64 / total as f64 });
        }
        (low, below) = (if bound.is_finite() { bound } else { low }, count);
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, cumulative: &[(f64, u64)]) -> StageTimes {
        let count = cumulative.last().map_or(0, |(_, count)| *count);
        StageTimes { count, cumulative: cumulative.to_vec(), ..StageTimes::empty(name) }
    }

    #[test]
    fn every_bucket_with_items_is_a_bar() {
        let stages = [
            stage("in<gest", &[(0.001, 5), (0.002, 5), (0.004, 8), (f64::INFINITY, 10)]),
            stage("idle", &[(0.001, 0), (f64::INFINITY, 0)]),
        ];
        let chart = chart(&stages).unwrap();
        assert_eq!(chart.svg.matches("class=\"bar").count(), 3);
        for text in [
            "5 of 10 (50.0%) took at most 1.00 ms",
            "3 of 10 (30.0%) took 2.00 ms to 4.00 ms",
            "2 of 10 (20.0%) took more than 4.00 ms",
            "in&lt;gest",
            "p99 &gt; 4.00 ms",
        ] {
            assert!(chart.svg.contains(text), "{text} in {}", chart.svg);
        }
        assert!(!chart.svg.contains("idle"));
    }

    #[test]
    fn no_items_no_chart() {
        assert!(chart(&[]).is_none());
        assert!(chart(&[stage("idle", &[(f64::INFINITY, 0)])]).is_none());
        assert!(chart(&[stage("odd", &[(f64::INFINITY, 3)])]).unwrap().svg.contains("took some time"));
    }
}
