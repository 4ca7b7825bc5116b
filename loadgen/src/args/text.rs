//! What single values of the command line look like. Each refusal says what was expected.

use std::time::Duration;

/// More than no time.
pub fn time(text: &str) -> Result<Duration, String> {
    time_or_none(text)
        .and_then(|time| if time.is_zero() { Err("expected more than no time".to_owned()) } else { Ok(time) })
}

/// A number of seconds, or a number with a unit.
pub fn time_or_none(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit_secs = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a time such as 5, 0.5s, 500ms, 2m or 1h".to_owned()),
    };
    let number: f64 =
        number.trim().parse().map_err(|_| "expected a time such as 5, 0.5s, 500ms, 2m or 1h".to_owned())?;
    match Duration::try_from_secs_f64(number * unit_secs) {
        Ok(time) if time.as_secs() <= 1_000_000 => Ok(time),
        _ => Err("expected at most 1000000 seconds".to_owned()),
    }
}

/// Requests a second.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e8).contains(rate));
    rate.ok_or_else(|| "expected requests a second, 0.001 to 100000000".to_owned())
}

/// A share of a whole.
pub fn ratio(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| "expected 0 to 1".to_owned())
}

/// The beginning of idempotency keys.
pub fn key_prefix(text: &str) -> Result<String, String> {
    // The chunk's number has to fit behind it.
    if text.is_empty() || text.len() > 100 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("expected 1 to 100 characters of printable ASCII without blanks".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, ms) in [
            ("10", 10_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("0.5", 500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(time_or_none("0"), Ok(Duration::ZERO));
        for bad in ["", "s", "0", "-1s", "10 parsecs", "1e9", "nan", "inf", "5S"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
