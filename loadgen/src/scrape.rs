//! Reads the text that a server gives to Prometheus. Pure, and tolerant: what is not understood is passed
//! over, what is not there is not found.

use crate::measured::StageTimes;

/// One line: a name, its labels and a number.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// A reading of all counters.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    samples: Vec<Sample>,
}

impl Scrape {
    /// Reads the text exposition format, version 0.0.4.
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(sample).collect() }
    }

    /// A counter without labels.
    pub fn counter(&self, name: &str) -> Option<u64> {
        let sample = self.samples.iter().find(|sample| sample.name == name && sample.labels.is_empty())?;
        count(sample.value)
    }

    /// The histograms of this name, one for each value of `label`, in the server's order.
    pub fn histograms_by(&self, name: &str, label: &str) -> Vec<StageTimes> {
        self.histograms(name, |sample| sample.label(label))
    }

    /// The histogram of this name, whose only label is `le`; it will be called `shown_as`.
    pub fn histogram(&self, name: &str, shown_as: &str) -> Option<StageTimes> {
        let alone = |sample: &Sample| sample.labels.iter().all(|(label, _)| label == "le");
        self.histograms(name, |sample| alone(sample).then_some(shown_as)).pop()
    }

    fn histograms<'a>(&'a self, name: &str, of: impl Fn(&'a Sample) -> Option<&'a str>) -> Vec<StageTimes> {
        let mut found: Vec<StageTimes> = Vec::new();
        for sample in &self.samples {
            let Some(part) = sample.name.strip_prefix(name) else { continue };
            let Some(of) = of(sample) else { continue };
            let at = found.iter().position(|times| times.name == of).unwrap_or_else(|| {
                found.push(StageTimes::empty(of));
                found.len() - 1
            });
            let times = &mut found[at];
            match part {
                "_sum" if sample.value.is_finite() => times.sum_seconds = sample.value,
                "_count" => times.count = count(sample.value).unwrap_or(0),
                "_bucket" => {
                    let bound = sample.label("le").and_then(|bound| bound.parse::<f64>().ok());
                    if let (Some(bound), Some(count)) =
                        (bound.filter(|bound| !bound.is_nan()), count(sample.value))
                    {
                        times.cumulative.push((bound, count));
                    }
                }
                _ => {}
            }
        }
        for times in &mut found {
            times.cumulative.sort_by(|a, b| a.0.total_cmp(&b.0));
            times.cumulative.dedup_by(|later, earlier| later.0 == earlier.0);
        }
        found.retain(|times| !times.cumulative.is_empty());
        found
    }
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

fn count(value: f64) -> Option<u64> {
    (value >= 0.0 && value < 2f64.powi(63)).then_some(value as u64)
}

fn sample(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The labels behind a brace, and what follows the closing one.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, behind) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = behind.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, c) => value.push(c),
            }
        };
        labels.push((name.trim().to_owned(), value));
        rest = &behind[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# HELP scribe_stage_duration_seconds How long.\n\
        # TYPE scribe_stage_duration_seconds histogram\n\
        scribe_stage_duration_seconds_bucket{stage=\"ingest\",le=\"0.000125\"} 3\n\
        scribe_stage_duration_seconds_bucket{stage=\"ingest\",le=\"+Inf\"} 5\n\
        scribe_stage_duration_seconds_bucket{stage=\"ingest\",le=\"0.00025\"} 4\n\
        scribe_stage_duration_seconds_sum{stage=\"ingest\"} 0.5\n\
        scribe_stage_duration_seconds_count{stage=\"ingest\"} 5\n\
        scribe_stage_duration_seconds_bucket{stage=\"a\\\"\\\\\\nb\",le=\"+Inf\"} 0 1700000000000\n\
        scribe_stage_duration_seconds_sum{stage=\"no buckets\"} 1\n\
        scribe_wal_sync_duration_seconds_bucket{le=\"0.001\"} 1\n\
        scribe_wal_sync_duration_seconds_bucket{le=\"what\"} 1\n\
        scribe_wal_syncs_total 77\n\
        scribe_records_total 1e6\n\
        scribe_labelled{a=\"b\"} 1\n\
        scribe_broken{a=\"b 1\n\
        scribe_negative -1\n\
        scribe_nothing NaN\n\
        alone\n";

    #[test]
    fn histograms_are_put_together() {
        let scrape = Scrape::parse(TEXT);
        let stages = scrape.histograms_by("scribe_stage_duration_seconds", "stage");
        let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["ingest", "a\"\\\nb"]);
        let ingest = StageTimes {
            name: "ingest".to_owned(),
            count: 5,
            sum_seconds: 0.5,
            cumulative: vec![(0.000_125, 3), (0.000_25, 4), (f64::INFINITY, 5)],
        };
        assert_eq!(stages[0], ingest);
        let syncs = scrape.histogram("scribe_wal_sync_duration_seconds", "wal sync").unwrap();
        assert_eq!((&syncs.name[..], &syncs.cumulative[..]), ("wal sync", &[(0.001, 1)][..]));
        assert!(scrape.histograms_by("scribe_wal", "stage").is_empty());
        assert_eq!(scrape.histogram("scribe_stage_duration_seconds", "all"), None);
    }

    #[test]
    fn counters_are_found_or_not() {
        let scrape = Scrape::parse(TEXT);
        assert_eq!(scrape.counter("scribe_wal_syncs_total"), Some(77));
        assert_eq!(scrape.counter("scribe_records_total"), Some(1_000_000));
        for name in ["scribe_labelled", "scribe_negative", "scribe_nothing", "alone", "scribe_wal"] {
            assert_eq!(scrape.counter(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_server_says_panics(text in "(scribe_x(_bucket|_sum)?[{](le|s)=\"[a-z\\\\\"0-9.+]{0,9}\"?,?[}]? ?[-0-9.eE+NaIf]{0,9}\n?|.{0,30}){0,8}") {
            let scrape = Scrape::parse(&text);
            for times in scrape.histograms_by("scribe_x", "s").into_iter().chain(scrape.histogram("scribe_x", "x")) {
                prop_assert!(times.cumulative.is_sorted_by(|a, b| a.0 < b.0));
                let _ = StageTimes::between(None, times).quantile_seconds(0.5);
            }
            prop_assert!(scrape.counter("scribe_x").is_none_or(|count| count < 1 << 63));
        }
    }
}
