//! Axes: from values to places between 0 and 1, and the round numbers to mark on the way. Pure.

use super::units;

/// How values are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    Linear {
        min: f64,
        max: f64,
    },
    /// Both ends are above zero.
    Log {
        min: f64,
        max: f64,
    },
}

/// A mark on an axis; one without a text is a fine line.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub value: f64,
    pub text: String,
}

/// A scale and its marks.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    pub scale: Scale,
    pub marks: Vec<Mark>,
}

/// Durations beyond these are drawn at these, in seconds.
const SECONDS_MIN: f64 = 1e-7;
const SECONDS_MAX: f64 = 1e6;

impl Scale {
    /// Where a value lies, 0 to 1; values beyond the ends are put there.
    pub fn place(self, value: f64) -> f64 {
        let (low, high, value) = match self {
            Self::Linear { min, max } => (min, max, value),
            Self::Log { min, max } => (min.ln(), max.ln(), value.max(min).ln()),
        };
        let place = (value - low) / (high - low);
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl Axis {
    /// From 0 to at least `max`, in steps of 1, 2 or 5.
    pub fn counts(max: f64) -> Self {
        const STEPS: f64 = 4.0;
        let max = if max > 1e-6 { max.min(1e18) } else { 1.0 };
        let step = round_up(max / STEPS);
        let steps = (max / step - 1e-9).ceil().max(1.0);
        let marks = (0..=steps as u32)
            .map(|n| Mark { value: f64::from(n) * step, text: units::short(f64::from(n) * step) })
            .collect();
        Self { scale: Scale::Linear { min: 0.0, max: step * steps }, marks }
    }

    /// From 0 to exactly `max` seconds, as a clock shows them.
    pub fn clock(max: f64) -> Self {
        const STEPS: f64 = 7.0;
        const ROUND: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];
        let max = if max > SECONDS_MIN { max.min(1e9) } else { 1.0 };
        let wanted = max / STEPS;
        let step = match ROUND.into_iter().find(|step| *step >= wanted) {
            _ if wanted < 1.0 => round_up(wanted),
            Some(step) => step,
            None => (wanted / 1_800.0).ceil() * 1_800.0,
        };
        let marks = (0..=(max / step + 1e-9) as u32)
            .map(|n| Mark { value: f64::from(n) * step, text: clock(f64::from(n) * step, max) })
            .collect();
        Self { scale: Scale::Linear { min: 0.0, max }, marks }
    }

    /// Logarithmic, over all of these seconds, from one round number to another.
    pub fn seconds(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|value| value.is_finite()) {
            let value = value.clamp(SECONDS_MIN, SECONDS_MAX);
            (low, high) = (low.min(value), high.max(value));
        }
        if high == 0.0 {
            (low, high) = (1e-3, 1e-2);
        }
        let min = round_down(low);
        let max = round_up(high).max(min * 10.0);
        // Over few decades every round number has room for its text.
        let texts_at: &[u32] = if max / min <= 300.0 { &[1, 2, 5] } else { &[1] };
        let mut marks = Vec::new();
        for power in min.log10().floor() as i32..=max.log10().ceil() as i32 {
            for digit in 1..10 {
                let value = f64::from(digit) * 10f64.powi(power);
                if value < min * 0.999 || value > max * 1.001 {
                    continue;
                }
                let text = if texts_at.contains(&digit) { round_seconds(value) } else { String::new() };
                marks.push(Mark { value, text });
            }
        }
        Self { scale: Scale::Log { min, max }, marks }
    }

    /// Percentiles up to one in `count`, each nine as wide as the one before. Values are
    /// [`nines`] of a quantile.
    pub fn percentiles(count: u64) -> Self {
        let max = (count.max(10) as f64).log10();
        let mut marks = vec![Mark { value: 0.0, text: "0%".to_owned() }];
        marks.push(Mark { value: nines(0.5), text: "50%".to_owned() });
        for power in 1..=max as usize {
            let text = match power {
                1 => "90%".to_owned(),
                2 => "99%".to_owned(),
                _ => format!("99.{}%", "9".repeat(power - 2)),
            };
            marks.push(Mark { value: power as f64, text });
        }
        Self { scale: Scale::Linear { min: 0.0, max }, marks }
    }
}

/// How many nines a quantile has: 0.9 has one, 0.99 two, 0.5 a third of one.
pub fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-18).log10()
}

/// The next 1, 2 or 5 times a power of ten, upwards.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= value * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

/// The next 1, 2 or 5 times a power of ten, downwards.
fn round_down(value: f64) -> f64 {
    let power = 10f64.powf((value.log10() + 1e-9).floor());
    let digit = [5.0, 2.0].into_iter().find(|digit| digit * power <= value * (1.0 + 1e-9));
    digit.unwrap_or(1.0) * power
}

/// One of the round numbers, without digits that it has not.
fn round_seconds(seconds: f64) -> String {
    let text = units::seconds(seconds);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// A time since the beginning: `5 s`, and `1:30` in runs that last longer than two minutes.
fn clock(seconds: f64, of: f64) -> String {
    if of < 120.0 {
        return format!("{} s", (seconds * 1e6).round() / 1e6);
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.marks.iter().map(|mark| mark.text.as_str()).filter(|text| !text.is_empty()).collect()
    }

    #[test]
    fn marks_are_round() {
        assert_eq!(texts(&Axis::counts(612_345.0)), ["0", "200k", "400k", "600k", "800k"]);
        assert_eq!(texts(&Axis::counts(1.0)), ["0", "0.5", "1"]);
        assert_eq!(texts(&Axis::clock(10.2)), ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]);
        assert_eq!(texts(&Axis::clock(0.9)), ["0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s"]);
        assert_eq!(texts(&Axis::clock(300.0)), ["0:00", "1:00", "2:00", "3:00", "4:00", "5:00"]);
        assert_eq!(texts(&Axis::clock(7_200.0)).last(), Some(&"2:00:00"));
        assert_eq!(
            texts(&Axis::seconds([0.000_45, 0.0033].into_iter())),
            ["200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]
        );
        assert_eq!(
            texts(&Axis::seconds([2e-6, 0.5].into_iter())),
            ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms"]
        );
        assert_eq!(texts(&Axis::percentiles(20_000)), ["0%", "50%", "90%", "99%", "99.9%", "99.99%"]);
    }

    proptest! {
        #[test]
        fn every_value_is_on_its_axis(values in prop::collection::vec(prop::num::f64::ANY, 0..20), count in any::<u64>()) {
            let top = values.iter().copied().fold(0.0, f64::max);
            let axes = [Axis::counts(top), Axis::clock(top), Axis::seconds(values.iter().copied()), Axis::percentiles(count)];
            for axis in axes {
                for value in &values {
                    prop_assert!((0.0..=1.0).contains(&axis.scale.place(*value)));
                }
                prop_assert!((2..200).contains(&axis.marks.len()), "{axis:?}");
                prop_assert!(axis.marks.is_sorted_by(|a, b| axis.scale.place(a.value) < axis.scale.place(b.value)), "{axis:?}");
            }
        }

        #[test]
        fn the_seconds_axis_holds_what_it_was_made_for(values in prop::collection::vec(1e-7f64..1e3, 1..20)) {
            let Scale::Log { min, max } = Axis::seconds(values.iter().copied()).scale else { panic!() };
            prop_assert!(values.iter().all(|value| (min * 0.999..=max * 1.001).contains(value)), "{min}..{max}");
            prop_assert!(max / min >= 9.99);
        }
    }
}
