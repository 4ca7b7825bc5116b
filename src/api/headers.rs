//! Conditions, ranges and retries in request headers (RFC 9110, sections 13 and 14).
//!
//! Takes header values, gives plain decisions. It does not know records: a version is its seq, and the
//! entity tag of seq 7 is `"7"`.

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};

use super::query::parse_digits;
use crate::{
    error::{Code, Error, Result},
    state::batch::Condition,
    types::{IDEMPOTENCY_KEY_BYTES_MAX, Seq},
    wire::{IDEMPOTENCY_KEY, SCRIBE_RECEIPT},
};

fn malformed(message: impl Into<String>) -> Error {
    Error::new(Code::Malformed, message)
}

/// `"N"` for ETag and `N` for Scribe-Seq, sharing one buffer.
#[must_use]
pub fn seq_values(seq: Seq) -> (HeaderValue, HeaderValue) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(seq.0).as_bytes();
    let mut text = Vec::with_capacity(digits.len() + 2);
    text.push(b'"');
    text.extend_from_slice(digits);
    text.push(b'"');
    let quoted = Bytes::from(text);
    let plain = quoted.slice(1..quoted.len() - 1);
    let value = |bytes| HeaderValue::from_maybe_shared(bytes).unwrap_or(HeaderValue::from_static(""));
    (value(quoted), value(plain))
}

/// What a write's headers ask for beyond the write.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// What must hold when the write is applied.
    pub condition: Option<Condition>,
    /// The client's name for this write.
    pub idempotency_key: Option<String>,
    /// The answer waits for a checkpoint, and proves the write.
    pub wants_receipt: bool,
}

impl WriteOptions {
    /// Reads `If-Match`, `If-None-Match`, `Idempotency-Key` and `Scribe-Receipt`.
    ///
    /// # Errors
    /// `Malformed`, naming the header and what it takes.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self> {
        Ok(Self {
            condition: write_condition(headers)?,
            idempotency_key: idempotency_key(headers)?,
            wants_receipt: wants_receipt(headers)?,
        })
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(malformed(format!("header {name} is given twice")));
    }
    Ok(first.map(HeaderValue::as_bytes))
}

fn write_condition(headers: &HeaderMap) -> Result<Option<Condition>> {
    let none_match = single(headers, &IF_NONE_MATCH)?;
    let matches = single(headers, &IF_MATCH)?;
    match (matches, none_match) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(malformed("a write takes If-Match or If-None-Match, not both")),
        (None, Some(value)) if value.trim_ascii() == b"*" => Ok(Some(Condition::Absent)),
        (None, Some(_)) => Err(malformed("on a write, If-None-Match takes only * (create if absent)")),
        (Some(value), None) if value.trim_ascii() == b"*" => Ok(Some(Condition::Present)),
        (Some(value), None) => match value.trim_ascii() {
            [b'"', digits @ .., b'"'] => {
                parse_digits(digits).map(|seq| Some(Condition::At(seq))).ok_or_else(bad_if_match)
            }
            _ => Err(bad_if_match()),
        },
    }
}

fn bad_if_match() -> Error {
    malformed("on a write, If-Match takes * or one seq in double quotes, such as \"42\"")
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let length_ok = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&value.len());
    match std::str::from_utf8(value) {
        Ok(text) if length_ok && !text.chars().any(char::is_control) => Ok(Some(text.to_owned())),
        _ => Err(malformed(format!("Idempotency-Key is text of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes"))),
    }
}

fn wants_receipt(headers: &HeaderMap) -> Result<bool> {
    match single(headers, &SCRIBE_RECEIPT)? {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case(b"true") => Ok(true),
        Some(value) if value.eq_ignore_ascii_case(b"false") => Ok(false),
        Some(_) => Err(malformed("Scribe-Receipt is true or false")),
    }
}

/// An entity tag of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// Reads `"a", W/"b"`. Commas inside quotes belong to the tag.
///
/// # Errors
/// `Malformed` when it is not such a list.
fn tags<'a>(mut rest: &'a [u8], header: &HeaderName) -> Result<Vec<Tag<'a>>> {
    let bad = || malformed(format!("{header} is * or a list of entity tags in double quotes"));
    let mut tags = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        if let Some(tail) = rest.strip_prefix(b",") {
            rest = tail;
            continue;
        }
        if rest.is_empty() {
            return if tags.is_empty() { Err(bad()) } else { Ok(tags) };
        }
        let (weak, tail) = rest.strip_prefix(b"W/").map_or((false, rest), |tail| (true, tail));
        let tail = tail.strip_prefix(b"\"").ok_or_else(bad)?;
        let end = memchr::memchr(b'"', tail).ok_or_else(bad)?;
        tags.push(Tag { weak, opaque: &tail[..end] });
        rest = tail[end + 1..].trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return Err(bad());
        }
    }
}

fn names(tag: Tag<'_>, seq: Seq) -> bool {
    itoa::Buffer::new().format(seq.0).as_bytes() == tag.opaque
}

/// What the conditions of a read say about the version that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadVerdict {
    /// Send it.
    Send,
    /// 304: the client has it.
    NotModified,
    /// 412: the client wanted another one.
    Failed,
}

/// Applies `If-Match` (strong) and `If-None-Match` (weak) of a read. Several lines are one list.
///
/// # Errors
/// `Malformed`, naming the header.
pub fn read_conditions(headers: &HeaderMap, seq: Seq) -> Result<ReadVerdict> {
    if headers.contains_key(IF_MATCH) && !any_tag(headers, &IF_MATCH, |tag| !tag.weak && names(tag, seq))? {
        return Ok(ReadVerdict::Failed);
    }
    if headers.contains_key(IF_NONE_MATCH) && any_tag(headers, &IF_NONE_MATCH, |tag| names(tag, seq))? {
        return Ok(ReadVerdict::NotModified);
    }
    Ok(ReadVerdict::Send)
}

fn any_tag(headers: &HeaderMap, name: &HeaderName, holds: impl Fn(Tag<'_>) -> bool) -> Result<bool> {
    for value in headers.get_all(name) {
        let value = value.as_bytes().trim_ascii();
        if value == b"*" || tags(value, name)?.into_iter().any(&holds) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Which part of a value to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it: no range, or one that is to be ignored.
    Whole,
    /// `start..end`, never empty.
    Range(usize, usize),
    /// 416.
    Unsatisfiable,
}

/// Reads `Range` against a value of `len` bytes. Several ranges, other units and bad syntax are ignored,
/// as RFC 9110, section 14.2 allows or demands; so is a range whose `If-Range` names another version.
#[must_use]
pub fn range(headers: &HeaderMap, seq: Seq, len: usize) -> Part {
    range_if(headers, |tag| names(tag, seq), len)
}

/// As [`range`], of bytes whose entity tag is this text in quotes.
#[must_use]
pub fn range_of(headers: &HeaderMap, opaque: &str, len: usize) -> Part {
    range_if(headers, |tag| tag.opaque == opaque.as_bytes(), len)
}

fn range_if(headers: &HeaderMap, is_named: impl Fn(Tag<'_>) -> bool, len: usize) -> Part {
    let Some(range) = headers.get(RANGE) else { return Part::Whole };
    if let Some(only_if) = headers.get(IF_RANGE) {
        let same = tags(only_if.as_bytes(), &IF_RANGE)
            .is_ok_and(|tags| matches!(tags[..], [tag] if !tag.weak && is_named(tag)));
        if !same {
            return Part::Whole;
        }
    }
    parse_range(range.as_bytes(), len)
}

fn parse_range(range: &[u8], len: usize) -> Part {
    let Some((unit, spec)) = split_at_byte(range, b'=') else { return Part::Whole };
    if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") || spec.contains(&b',') {
        return Part::Whole;
    }
    let Some((first, last)) = split_at_byte(spec.trim_ascii(), b'-') else { return Part::Whole };
    let to_usize = |digits: &[u8]| {
        // A number too long for 64 bits is a position far behind every value, not a syntax error.
        (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
            .then(|| parse_digits(digits).map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)))
    };
    let (start, end) = match (first, last) {
        (b"", suffix) => match to_usize(suffix) {
            Some(suffix) => (len.saturating_sub(suffix), len),
            None => return Part::Whole,
        },
        (first, b"") => match to_usize(first) {
            Some(first) => (first, len),
            None => return Part::Whole,
        },
        (first, last) => match (to_usize(first), to_usize(last)) {
            (Some(first), Some(last)) if first <= last => (first, len.min(last.saturating_add(1))),
            _ => return Part::Whole,
        },
    };
    if start < end { Part::Range(start, end) } else { Part::Unsatisfiable }
}

fn split_at_byte(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(byte, text)?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn write_conditions() {
        let condition = |pairs: &[(&HeaderName, &str)]| {
            WriteOptions::from_headers(&headers(pairs)).map(|options| options.condition)
        };
        assert_eq!(condition(&[]).unwrap(), None);
        assert_eq!(condition(&[(&IF_NONE_MATCH, "*")]).unwrap(), Some(Condition::Absent));
        assert_eq!(condition(&[(&IF_MATCH, "*")]).unwrap(), Some(Condition::Present));
        assert_eq!(condition(&[(&IF_MATCH, "\"42\"")]).unwrap(), Some(Condition::At(42)));
        for bad in [
            "42",
            "W/\"42\"",
            "\"x\"",
            "\"1\", \"2\"",
            "",
            "\"",
            "\"\"",
            "\"-1\"",
            "\"99999999999999999999\"",
        ] {
            assert!(condition(&[(&IF_MATCH, bad)]).is_err(), "{bad}");
        }
        for bad in ["\"1\"", "", "**"] {
            assert!(condition(&[(&IF_NONE_MATCH, bad)]).is_err(), "{bad}");
        }
        assert!(condition(&[(&IF_MATCH, "*"), (&IF_NONE_MATCH, "*")]).is_err());
        assert!(condition(&[(&IF_MATCH, "*"), (&IF_MATCH, "*")]).is_err());
    }

    #[test]
    fn idempotency_keys_are_bounded_text() {
        let key = |text: &str| idempotency_key(&headers(&[(&IDEMPOTENCY_KEY, text)]));
        assert_eq!(key("a b").unwrap().as_deref(), Some("a b"));
        assert!(key(&"x".repeat(128)).is_ok());
        assert!(key(&"x".repeat(129)).is_err());
        assert!(key("").is_err());
        assert!(key("a\tb").is_err());
    }

    #[test]
    fn receipts_are_asked_for_or_not() {
        let wants = |text: &str| wants_receipt(&headers(&[(&SCRIBE_RECEIPT, text)]));
        assert!(wants("true").unwrap() && wants("True").unwrap());
        assert!(!wants("false").unwrap() && !wants_receipt(&HeaderMap::new()).unwrap());
        assert!(wants("yes").is_err() && wants("").is_err());
    }

    #[test]
    fn if_none_match_takes_lists_and_weak_tags() {
        let verdict = |text: &str| read_conditions(&headers(&[(&IF_NONE_MATCH, text)]), Seq(7));
        for same in ["\"7\"", "W/\"7\"", "\"1\", \"7\"", "*", ",, \"7\" ,", "\"a,b\",\"7\""] {
            assert_eq!(verdict(same).unwrap(), ReadVerdict::NotModified, "{same}");
        }
        for other in ["\"8\"", "\"07\"", "\"1\",\"2\""] {
            assert_eq!(verdict(other).unwrap(), ReadVerdict::Send, "{other}");
        }
        for bad in ["7", "\"7", "", "\"7\" \"8\"", "w/\"7\""] {
            assert!(verdict(bad).is_err(), "{bad}");
        }
        let if_match = |text: &str| read_conditions(&headers(&[(&IF_MATCH, text)]), Seq(7)).unwrap();
        assert_eq!(if_match("\"7\""), ReadVerdict::Send);
        assert_eq!(if_match("W/\"7\""), ReadVerdict::Failed);
    }

    #[test]
    fn ranges() {
        for (text, part) in [
            ("bytes=0-3", Part::Range(0, 4)),
            ("bytes=8-", Part::Range(8, 10)),
            ("bytes=8-100", Part::Range(8, 10)),
            ("bytes=-3", Part::Range(7, 10)),
            ("bytes=-30", Part::Range(0, 10)),
            ("BYTES=9-9", Part::Range(9, 10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=3-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("lines=0-1", Part::Whole),
        ] {
            assert_eq!(parse_range(text.as_bytes(), 10), part, "{text}");
        }
        assert_eq!(parse_range(b"bytes=0-", 0), Part::Unsatisfiable);
        let with = |if_range| range(&headers(&[(&RANGE, "bytes=1-2"), (&IF_RANGE, if_range)]), Seq(7), 10);
        assert_eq!(with("\"7\""), Part::Range(1, 3));
        assert_eq!(with("\"8\""), Part::Whole);
        assert_eq!(with("Wed, 21 Oct 2015 07:28:00 GMT"), Part::Whole);
    }

    proptest! {
        #[test]
        fn any_range_stays_inside(text in "[ -~]{0,30}", first in any::<u64>(), last in any::<u64>(), len in 0usize..100) {
            for range in [text, format!("bytes={first}-{last}"), format!("bytes={}-{}", first % 120, last % 120), format!("bytes=-{}", last % 120)] {
                if let Part::Range(start, end) = parse_range(range.as_bytes(), len) {
                    prop_assert!(start < end && end <= len);
                }
            }
        }

        #[test]
        fn any_tag_list_is_read_or_refused(text in "[W/\", 0-9*a]{0,30}") {
            let _ = read_conditions(&headers(&[(&IF_NONE_MATCH, &text)]), Seq(0));
        }
    }

    #[test]
    fn seq_headers_share_their_digits() {
        let (quoted, plain) = seq_values(Seq(42));
        assert_eq!((quoted.as_bytes(), plain.as_bytes()), (&b"\"42\""[..], &b"42"[..]));
    }
}
