//! Query strings and keys in paths: percent-decoding, and refusing what is not known.
//!
//! Takes what stands in a URI, gives bytes. It does not know which parameters a call has: the call names
//! them, and everything else is an error, because a misspelt `?consistancy=stale` that is silently
//! ignored answers another question than the one asked.

use std::borrow::Cow;

use hyper::http::request::Parts;

use crate::{
    error::{Code, Error, Result},
    read::Consistency,
    state::batch::check_key,
    types::Seq,
};

/// Decodes `%XX`. Everything else, `+` included, stands for itself.
///
/// # Errors
/// `Malformed` when a `%` is not followed by two hex digits.
pub fn percent_decode(text: &[u8]) -> Result<Cow<'_, [u8]>> {
    let Some(first) = memchr::memchr(b'%', text) else { return Ok(Cow::Borrowed(text)) };
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            out.push(byte);
            rest = tail;
            continue;
        }
        match (tail.first().copied().and_then(hex_digit), tail.get(1).copied().and_then(hex_digit)) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => return Err(malformed("a percent sign in the URI is not followed by two hex digits")),
        }
        rest = &tail[2..];
    }
    Ok(Cow::Owned(out))
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The key that a part of a path stands for, checked.
///
/// # Errors
/// `Malformed` for bad percent-encoding, `InvalidKey` as [`check_key`].
pub fn key_in_path(part: &str) -> Result<Cow<'_, [u8]>> {
    let key = percent_decode(part.as_bytes())?;
    check_key(&key)?;
    Ok(key)
}

/// The parameters of one request, decoded; each name at most once.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<Pair<'a>>);

/// Name and value.
type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

impl<'a> Query<'a> {
    /// Parses a query string. Here `+` is a space, as forms and HTTP libraries write it.
    ///
    /// # Errors
    /// `Malformed`, naming a parameter that is not in `known` or comes twice.
    pub fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self> {
        let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(Self::default()) };
        let mut pairs: Vec<Pair<'a>> = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (form_decode(name)?, form_decode(value)?);
            let shown = String::from_utf8_lossy(&name);
            if !known.iter().any(|known| known.as_bytes() == &*name) {
                let accepted = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(malformed(format!(
                    "unknown query parameter {shown:?}; accepted here: {accepted}"
                )));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(malformed(format!("query parameter {shown:?} is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// A parameter's bytes.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| &**other == name.as_bytes()).map(|(_, value)| &**value)
    }

    /// A parameter that is a number without sign.
    ///
    /// # Errors
    /// `Malformed`, naming it.
    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        self.bytes(name)
            .map(|value| {
                parse_digits(value).ok_or_else(|| {
                    let shown = String::from_utf8_lossy(value);
                    malformed(format!("query parameter {name:?} is a whole number, not {shown:?}"))
                })
            })
            .transpose()
    }

    /// A parameter that is a switch: `?name`, `=true`, `=1`, or `=false`, `=0`.
    ///
    /// # Errors
    /// `Malformed`, naming it.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.bytes(name) {
            None | Some(b"false" | b"0") => Ok(false),
            Some(b"" | b"true" | b"1") => Ok(true),
            Some(other) => {
                let shown = String::from_utf8_lossy(other);
                Err(malformed(format!("query parameter {name:?} is true or false, not {shown:?}")))
            }
        }
    }

    /// Bytes given as text (`name`) or as base64 (`name_b64`), but not both.
    ///
    /// # Errors
    /// `Malformed`, naming the parameter.
    pub fn text_or_b64(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let name_b64 = format!("{name}_b64");
        match (self.bytes(name), self.bytes(&name_b64)) {
            (Some(_), Some(_)) => Err(malformed(format!("give {name:?} or {name_b64:?}, not both"))),
            (Some(text), None) => Ok(Some(text.to_vec())),
            (None, Some(b64)) => super::json::from_base64_any(b64)
                .map(Some)
                .ok_or_else(|| malformed(format!("query parameter {name_b64:?} is not base64"))),
            (None, None) => Ok(None),
        }
    }

    /// `?consistency=`.
    ///
    /// # Errors
    /// `Malformed` for another word than the three.
    pub fn consistency(&self) -> Result<Consistency> {
        match self.bytes("consistency") {
            None | Some(b"linearizable") => Ok(Consistency::Linearizable),
            Some(b"lease") => Ok(Consistency::Lease),
            Some(b"stale") => Ok(Consistency::Stale),
            Some(other) => Err(malformed(format!(
                "consistency is linearizable, lease or stale, not {:?}",
                String::from_utf8_lossy(other)
            ))),
        }
    }

    /// `?at=`.
    ///
    /// # Errors
    /// `Malformed` when it is not a position.
    pub fn at(&self) -> Result<Option<Seq>> {
        Ok(self.number("at")?.map(Seq))
    }
}

/// For calls without parameters.
///
/// # Errors
/// `Malformed`, naming the one that is there.
pub fn no_query(parts: &Parts) -> Result<()> {
    Query::parse(parts.uri.query(), &[]).map(drop)
}

/// Decimal digits and nothing else; no sign, no more than 64 bits.
#[must_use]
pub fn parse_digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn form_decode(text: &str) -> Result<Cow<'_, [u8]>> {
    if !text.contains('+') {
        return percent_decode(text.as_bytes());
    }
    Ok(Cow::Owned(percent_decode(text.replace('+', " ").as_bytes())?.into_owned()))
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(Code::Malformed, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_decoded_and_nothing_else() {
        assert_eq!(&*percent_decode(b"a+b//..%2F%00%ff").unwrap(), b"a+b//../\0\xff");
        for bad in ["%", "a%4", "%zz", "%+1", "%%41"] {
            assert!(percent_decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_and_repeated_parameters_are_named() {
        let unknown = Query::parse(Some("at=1&consistancy=stale"), &["at", "consistency"]).unwrap_err();
        assert!(unknown.message().contains("\"consistancy\""), "{unknown}");
        assert!(Query::parse(Some("at=1&at=1"), &["at"]).unwrap_err().message().contains("twice"));
        assert!(Query::parse(Some("&&"), &[]).is_ok());
    }

    #[test]
    fn parameters_are_decoded_as_forms() {
        let query = Query::parse(
            Some("prefix=a+b%2B&keys_only&n=18446744073709551615"),
            &["prefix", "keys_only", "n"],
        )
        .unwrap();
        assert_eq!(query.bytes("prefix"), Some(&b"a b+"[..]));
        assert!(query.flag("keys_only").unwrap());
        assert_eq!(query.number("n").unwrap(), Some(u64::MAX));
        for bad in ["", "-1", "+1", "1.0", "18446744073709551616", "0x1"] {
            assert_eq!(parse_digits(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_key_survives_encoding(key in prop::collection::vec(any::<u8>(), 1..64)) {
            let encoded = percent_encoding::percent_encode(&key, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(&*percent_decode(encoded.as_bytes()).unwrap(), &key[..]);
        }

        #[test]
        fn decoding_never_panics(text in ".{0,40}") {
            let _ = percent_decode(text.as_bytes());
            let _ = Query::parse(Some(&text), &["a"]);
        }
    }
}
