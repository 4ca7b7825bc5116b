//! The types a setting can have: what each accepts, from which spelling, and how it is written.
//!
//! Takes a raw value as a layer found it ([`Raw`]), gives a [`Value`] within its bounds, or says what
//! would have been accepted. It does not know which key it serves.

use std::{borrow::Cow, time::Duration};

use super::value::{format_duration, format_size, parse_duration, parse_host, parse_host_port, parse_size};

/// What a setting may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// An integer within these bounds, both included.
    Int { min: u64, max: u64 },
    /// A size in bytes within these bounds and a multiple of `step`.
    Size { min: u64, max: u64, step: u64 },
    /// A span of time within these bounds.
    Duration { min: Duration, max: Duration },
    /// `true` or `false`.
    Bool,
    /// One of these names; `planned` ones are known, but not built yet.
    OneOf { names: &'static [&'static str], planned: &'static [&'static str] },
    /// A member's id: a positive integer, also as `"2"` or `"node2"`.
    NodeId,
    /// A path, not empty.
    Path,
    /// An address to bind, without a port, or with one, which then goes to the key `port`.
    Bind { port: &'static str },
    /// `HOST:PORT` or `HOST`, or empty.
    Address,
    /// A log level, or filter directives as `RUST_LOG` takes them.
    LogFilter,
    /// Any text.
    Text,
    /// A list of `HOST:PORT` that can be called; one text with commas outside TOML.
    Addresses,
}

/// A value before its key's type is known to fit.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// From the environment or a flag, where everything is text.
    Untyped(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Int(i128),
    /// A TOML boolean.
    Bool(bool),
    /// A TOML array of strings.
    List(Vec<String>),
    /// Any other TOML, as it is called in messages.
    Other(String),
}

/// A value that fits its key's type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer, or a size in bytes.
    Int(u64),
    /// A span of time.
    Duration(Duration),
    /// True or false.
    Bool(bool),
    /// Text, paths, names and addresses.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
}

impl Kind {
    /// Reads a raw value; `None` when it is not one that [`Kind::accepts`] describes.
    #[must_use]
    pub fn read(&self, raw: &Raw) -> Option<Value> {
        match *self {
            Self::Int { min, max } => integer(raw).filter(|n| (min..=max).contains(n)).map(Value::Int),
            Self::Size { min, max, step } => integer(raw)
                .or_else(|| parse_size(text(raw)?))
                .filter(|n| (min..=max).contains(n) && n.is_multiple_of(step))
                .map(Value::Int),
            Self::Duration { min, max } => match raw {
                Raw::Int(0) => Some(Duration::ZERO),
                _ => parse_duration(text(raw)?),
            }
            .filter(|d| (min..=max).contains(d))
            .map(Value::Duration),
            Self::Bool => match raw {
                Raw::Bool(value) => Some(Value::Bool(*value)),
                Raw::Untyped(text) => text.parse().ok().map(Value::Bool),
                _ => None,
            },
            Self::OneOf { names, .. } => {
                text(raw).filter(|name| names.contains(name)).map(|name| Value::Text(name.into()))
            }
            Self::NodeId => integer(raw)
                .or_else(|| {
                    let text = text(raw)?;
                    digits(text.strip_prefix("node").unwrap_or(text))
                })
                .filter(|id| (1..=INT_MAX).contains(id))
                .map(Value::Int),
            Self::Path => text(raw)
                .filter(|path| !path.is_empty() && !path.contains('\0'))
                .map(|path| Value::Text(path.into())),
            // Bind addresses are taken apart by the layer; what arrives here is the host alone.
            Self::Bind { .. } => parse_host(text(raw)?).map(|(host, _)| Value::Text(host)),
            Self::Address => {
                let text = text(raw)?;
                (text.is_empty() || parse_host(text).is_some()).then(|| Value::Text(text.into()))
            }
            Self::LogFilter => log_filter(text(raw)?).map(Value::Text),
            Self::Text => text(raw).map(|text| Value::Text(text.into())),
            Self::Addresses => match raw {
                Raw::List(items) => Some(items.clone()),
                Raw::Untyped(text) => {
                    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                    Some(items.map(str::to_owned).collect())
                }
                _ => None,
            }
            .filter(|items: &Vec<String>| {
                items.len() <= ADDRESSES_MAX && items.iter().all(|item| parse_host_port(item).is_some())
            })
            .map(Value::List),
        }
    }

    /// What is accepted, as the end of a sentence that begins with "accepted is".
    #[must_use]
    pub fn accepts(&self) -> Cow<'static, str> {
        match *self {
            Self::Int { min, max } => format!("an integer from {min} to {max}").into(),
            Self::Size { min, max, step } => {
                let multiple = if step > 1 { format!(", a multiple of {step}") } else { String::new() };
                let (min, max) = (format_size(min), format_size(max));
                format!("a size from {min} to {max}{multiple}: bytes, or a string such as \"64MiB\"").into()
            }
            Self::Duration { min, max } => {
                let (min, max) = (format_duration(min), format_duration(max));
                format!("a duration from {min} to {max} such as \"200us\", \"3ms\" or \"3s\"").into()
            }
            Self::Bool => "true or false".into(),
            Self::OneOf { names, .. } => format!("one of {}", names.join(", ")).into(),
            Self::NodeId => "a positive integer, also as \"2\" or \"node2\"".into(),
            Self::Path => "a path".into(),
            Self::Bind { .. } => "HOST or HOST:PORT, as in 127.0.0.1, [::1]:8001 or 0.0.0.0".into(),
            Self::Address => "HOST:PORT, HOST, or an empty text".into(),
            Self::LogFilter => {
                "off, error, warn, info, debug, trace, or directives such as info,scribe_ledger=debug".into()
            }
            Self::Text => "a text".into(),
            Self::Addresses => format!(
                "a list of at most {ADDRESSES_MAX} HOST:PORT, as in [\"127.0.0.1:9001\", \"[::1]:9002\"]; with commas \
                 between them in a flag or the environment"
            )
            .into(),
        }
    }

    /// A value of this type as TOML that [`Kind::read`] takes back.
    #[must_use]
    pub fn write(&self, value: &Value) -> String {
        match value {
            Value::Int(bytes) if matches!(self, Self::Size { .. }) => match format_size(*bytes) {
                plain if plain.bytes().all(|b| b.is_ascii_digit()) => plain,
                with_unit => quote(&with_unit),
            },
            Value::Int(number) => number.to_string(),
            Value::Duration(duration) => quote(&format_duration(*duration)),
            Value::Bool(value) => value.to_string(),
            Value::Text(text) => quote(text),
            Value::List(items) => {
                format!("[{}]", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Most addresses in one list; far more than a cluster has members.
const ADDRESSES_MAX: usize = 1_024;

/// The largest integer that TOML can hold.
pub const INT_MAX: u64 = i64::MAX as u64;

impl Raw {
    /// The value as a message shows it: short, on one line.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut shown = match self {
            Self::Untyped(text) | Self::Text(text) => quote(text),
            Self::Int(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::List(items) => format!("{items:?}"),
            Self::Other(what) => what.clone(),
        };
        if let Some((cut, _)) = shown.char_indices().nth(100) {
            shown.truncate(cut);
            shown.push('…');
        }
        shown
    }
}

/// A text as a TOML basic string, on one line.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn text(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::Untyped(text) | Raw::Text(text) => Some(text),
        _ => None,
    }
}

fn integer(raw: &Raw) -> Option<u64> {
    match raw {
        Raw::Int(number) => u64::try_from(*number).ok(),
        Raw::Untyped(text) => digits(text),
        _ => None,
    }
}

/// Digits only: `parse` alone would take a plus sign.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A log filter without spaces around its directives: the filter's own parser (tracing-subscriber
/// 0.3.23) cuts a directive that begins with a space at the wrong place, and may panic.
///
/// A lone word has to be a level: that parser would take a mistyped `inof` for the name of a module
/// and log nothing.
fn log_filter(text: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let filter = text.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    if filter.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return LEVELS.iter().any(|level| level.eq_ignore_ascii_case(&filter)).then_some(filter);
    }
    tracing_subscriber::EnvFilter::builder().parse(&filter).is_ok().then_some(filter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: Kind = Kind::Size { min: 4096, max: 1 << 30, step: 4096 };

    #[test]
    fn the_same_value_is_read_from_every_layer() {
        for raw in [Raw::Untyped("8192".into()), Raw::Text("8KiB".into()), Raw::Int(8192)] {
            assert_eq!(SIZE.read(&raw), Some(Value::Int(8192)), "{raw:?}");
        }
        for raw in [Raw::Untyped("2".into()), Raw::Text("node2".into()), Raw::Int(2)] {
            assert_eq!(Kind::NodeId.read(&raw), Some(Value::Int(2)), "{raw:?}");
        }
        let peers = Value::List(vec!["a:1".into(), "b:2".into()]);
        for raw in [Raw::Untyped("a:1, b:2".into()), Raw::List(vec!["a:1".into(), "b:2".into()])] {
            assert_eq!(Kind::Addresses.read(&raw), Some(peers.clone()), "{raw:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_read() {
        for (kind, raw) in [
            (SIZE, Raw::Int(4097)),
            (SIZE, Raw::Int(0)),
            (SIZE, Raw::Text("2GiB".into())),
            (Kind::Int { min: 0, max: 9 }, Raw::Text("3".into())),
            (Kind::Int { min: 0, max: 9 }, Raw::Untyped("+3".into())),
            (Kind::NodeId, Raw::Text("node0".into())),
            (Kind::NodeId, Raw::Text("node".into())),
            (Kind::NodeId, Raw::Untyped("alice".into())),
            (Kind::Bool, Raw::Text("true".into())),
            (Kind::Bool, Raw::Untyped("yes".into())),
            (Kind::Path, Raw::Text(String::new())),
            (Kind::Addresses, Raw::Text("a:1".into())),
            (Kind::Addresses, Raw::List(vec!["a".into()])),
            (Kind::Addresses, Raw::Untyped("a:1,b:0".into())),
            (Kind::Addresses, Raw::List(vec!["a:1".into(); ADDRESSES_MAX + 1])),
            (Kind::LogFilter, Raw::Text("inof".into())),
            (Kind::LogFilter, Raw::Text("info,=,=".into())),
            (Kind::LogFilter, Raw::Text(String::new())),
        ] {
            assert_eq!(kind.read(&raw), None, "{raw:?}");
        }
    }

    /// The filter's parser panicked on the first of these, and took the second for another module.
    #[test]
    fn spaces_in_a_log_filter_change_nothing() {
        for (text, filter) in [(" 𝒻=", "𝒻="), ("info, scribe_ledger=debug ", "info,scribe_ledger=debug")]
        {
            let read = Kind::LogFilter.read(&Raw::Untyped(text.into()));
            assert_eq!(read, Some(Value::Text(filter.into())));
        }
    }

    #[test]
    fn a_message_stays_short_and_on_one_line() {
        let shown = Raw::Text(format!("a\nb{}", "é".repeat(500))).shown();
        assert!(shown.chars().count() <= 101 && !shown.contains('\n'), "{shown}");
    }

    proptest! {
        #[test]
        fn quoted_text_is_toml(text in any::<String>()) {
            let table: toml::Table = toml::from_str(&format!("k = {}", quote(&text))).unwrap();
            prop_assert_eq!(table["k"].as_str(), Some(&text[..]));
        }

        #[test]
        fn no_text_panics_in_any_kind(any in any::<String>(), filter in "[ a-z𝒻=,\\[\\]{}\"\u{2003}/(*]{0,12}", filters in any::<bool>()) {
            let text = if filters { filter } else { any };
            let kinds = [
                SIZE, Kind::NodeId, Kind::Path, Kind::Address, Kind::LogFilter, Kind::Addresses,
                Kind::Bool,
                Kind::Bind { port: "network.client_port" }, Kind::Int { min: 1, max: 2 },
                Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(1) },
            ];
            for kind in kinds {
                std::hint::black_box(kind.read(&Raw::Text(text.clone())));
                std::hint::black_box(kind.read(&Raw::Untyped(text.clone())));
            }
        }
    }
}
