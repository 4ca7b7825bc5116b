//! Numbers as people read them: three digits and a unit that fits.

use crate::measured::Bucket;

/// A time given in microseconds.
pub fn micros(us: u64) -> String {
    seconds(us as f64 / 1e6)
}

/// A time given in seconds: `350 ns`, `12.4 ms`, `3.20 s`.
pub fn seconds(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if !s.is_finite() => return "?".to_owned(),
        s if s <= 0.0 => return "0 µs".to_owned(),
        s if s < 0.999_5e-6 => (s * 1e9, "ns"),
        s if s < 0.999_5e-3 => (s * 1e6, "µs"),
        s if s < 0.999_5 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// What is known of a time that was only counted in a bucket: `≤ 12.0 ms`, `> 12.6 s`.
pub fn bounded(bucket: Bucket) -> String {
    if bucket.high.is_finite() {
        format!("≤ {}", seconds(bucket.high))
    } else {
        format!("> {}", seconds(bucket.low))
    }
}

/// A size: `512 B`, `1.50 KiB`, `288 MiB`.
pub fn bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{} {unit}", three_digits(value)) }
}

/// A whole number with its thousands apart: `1,234,567`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How many a second: `970,395`, and below a hundred `7.25`.
pub fn rate(per_sec: f64) -> String {
    if per_sec < 99.95 { three_digits(per_sec.max(0.0)) } else { count(per_sec.round() as u64) }
}

/// A number in few characters: `612k`, `1.25M`, as an axis or a narrow column wants it.
pub fn short(value: f64) -> String {
    let (mut value, mut unit) = (value, "");
    for larger in ["k", "M", "G", "T"] {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1e3, larger);
    }
    let digits = three_digits(value);
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{unit}")
}

/// Three digits, more where there are more before the point.
pub fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_fits() {
        for (us, text) in [
            (0, "0 µs"),
            (1, "1.00 µs"),
            (812, "812 µs"),
            (999, "999 µs"),
            (1_000, "1.00 ms"),
            (12_399, "12.4 ms"),
            (999_499, "999 ms"),
            (999_600, "1.00 s"),
            (75_000_000, "75.0 s"),
        ] {
            assert_eq!(micros(us), text);
        }
        assert_eq!((seconds(3.5e-7), seconds(f64::NAN)), ("350 ns".to_owned(), "?".to_owned()));
    }

    #[test]
    fn sizes_and_counts_are_short() {
        for (size, text) in
            [(0, "0 B"), (999, "999 B"), (1_000, "0.98 KiB"), (1_536, "1.50 KiB"), (302_000_000, "288 MiB")]
        {
            assert_eq!(bytes(size), text);
        }
        for (number, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (u64::MAX, "18,446,744,073,709,551,615")]
        {
            assert_eq!(count(number), text);
        }
        for (number, text) in
            [(0.0, "0"), (7.5, "7.5"), (999.6, "1k"), (612_345.0, "612k"), (1.25e6, "1.25M")]
        {
            assert_eq!(short(number), text);
        }
        assert_eq!((rate(7.25), rate(970_395.07)), ("7.25".to_owned(), "970,395".to_owned()));
    }
}
