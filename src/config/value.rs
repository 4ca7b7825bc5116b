//! Sizes, durations and hosts as people write them, and back.
//!
//! Pure text in, plain values out; nothing here knows a key. Any text is safe to give: what is not
//! understood is `None`.

use std::time::Duration;

/// Units of a size, largest first within a family; powers of 1,024 come first so that they are
/// preferred when a size is written out.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of a duration in microseconds, largest first.
const DURATION_UNITS: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// A size in bytes: `4096`, `512KiB`, `64 MiB`, `10MB`. Units are taken in any case.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*bytes)
}

/// The shortest exact way to write a size that [`parse_size`] reads back.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    match SIZE_UNITS[..4].iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A duration: `200us`, `3ms`, `3s`, `5m`, `1h`. Only zero may stand without a unit.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_number(text)?;
    if unit.is_empty() {
        return (number == 0).then_some(Duration::ZERO);
    }
    let unit = if unit == "µs" { "us" } else { unit };
    let (_, micros) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*micros).map(Duration::from_micros)
}

/// The shortest exact way to write a duration that [`parse_duration`] reads back; what is finer than a
/// microsecond is cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 {
        return "0s".into();
    }
    let (name, unit) =
        DURATION_UNITS.iter().find(|(_, unit)| micros.is_multiple_of(*unit)).unwrap_or(&("us", 1));
    format!("{}{name}", micros / unit)
}

/// Digits, then perhaps spaces, then the rest.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// A host with or without a port: `127.0.0.1`, `example.org:8001`, `::1`, `[::1]:8001`.
///
/// The host comes back without brackets, as `std::net` takes it.
#[must_use]
pub fn parse_host(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        match after {
            "" => (host, None),
            _ => (host, Some(after.strip_prefix(':')?)),
        }
    } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        match text.rsplit_once(':') {
            // Without brackets one cannot tell where an IPv6 address ends.
            Some((host, _)) if host.contains(':') => return None,
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        // `parse` would take a plus sign.
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
        None => None,
    };
    is_host(host).then(|| (host.to_owned(), port))
}

/// An address that can be called: a host and a port other than 0.
#[must_use]
pub fn parse_host_port(text: &str) -> Option<(String, u16)> {
    match parse_host(text)? {
        (host, Some(port)) if port > 0 => Some((host, port)),
        _ => None,
    }
}

/// Whether what is sent to this host provably stays on this machine: a loopback address, or a name that
/// RFC 6761, section 6.3, keeps for one. Any other name may be anywhere.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => {
            let name = host.to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// The one way to write a host and a port, with brackets around IPv6.
#[must_use]
pub fn format_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An IP address, or a DNS name by its alphabet (the resolver judges the rest). A name made of digits
/// and dots only is a mistyped IPv4 address.
fn is_host(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
        || (1..=253).contains(&host.len())
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            && host.split('.').all(|label| !label.is_empty() && !label.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512KiB", 512 << 10),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1GiB", 1 << 30),
            ("10MB", 10_000_000),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "12k", "64M", "99999999999999999999", "9999999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit_unless_they_are_zero() {
        for (text, micros) in
            [("0", 0), ("200us", 200), ("200µs", 200), ("3ms", 3_000), ("3s", 3_000_000), ("5m", 300_000_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "3", "3 sec", "-3s", "1.5s", "3S", "99999999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn hosts_may_be_names_and_both_kinds_of_address() {
        for (text, host, port) in [
            ("127.0.0.1", "127.0.0.1", None),
            ("0.0.0.0:8001", "0.0.0.0", Some(8001)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:8001", "::1", Some(8001)),
            ("node-1.example.org:0", "node-1.example.org", Some(0)),
            ("localhost", "localhost", None),
        ] {
            assert_eq!(parse_host(text), Some((host.to_owned(), port)), "{text}");
            if let Some(port) = port {
                assert_eq!(parse_host(&format_host_port(host, port)), Some((host.to_owned(), Some(port))));
            }
        }
        for text in [
            "",
            ":8001",
            "*:80",
            "a:b",
            "a:+1",
            "a:70000",
            "[::1",
            "[::1]8001",
            "256.0.0.1",
            "http://a",
            "::1:18003",
            "fe80::1:2:3:4:5:6:8001",
        ] {
            assert_eq!(parse_host(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_provably_stays_on_the_machine_is_loopback() {
        for host in ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "localhost", "a.LocalHost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["0.0.0.0", "::", "10.0.0.1", "255.255.255.255", "node1", "localhost.example.org", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    proptest! {
        #[test]
        fn sizes_come_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
            let round = bytes >> 24 << 24;
            prop_assert_eq!(parse_size(&format_size(round)), Some(round));
        }

        #[test]
        fn durations_come_back(micros in any::<u64>()) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
            let round = Duration::from_secs(micros / 1_000_000);
            prop_assert_eq!(parse_duration(&format_duration(round)), Some(round));
        }

        #[test]
        fn no_text_panics(text in any::<String>(), near in "[0-9]{0,22} ?[a-zA-Zµ\\[\\]:.]{0,4}") {
            for text in [text, near] {
                std::hint::black_box((parse_size(&text), parse_duration(&text), parse_host(&text), is_loopback(&text)));
            }
        }
    }
}
