//! JSON as the API writes it: keys and values that may not be text, base64, and small answers by hand.
//!
//! It does not own the shape of any one answer; a call's own file does.

use axum::body::Body;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;

use super::problem::Problem;
use crate::error::Code;

/// Padding may be left out; nothing else is forgiven.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// For parts that are not the last.
const UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// As `LENIENT`, with the alphabet of URLs.
const LENIENT_URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Standard base64, with or without padding.
#[must_use]
pub fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    LENIENT.decode(text).ok()
}

/// Base64 characters decoded at a time, a multiple of 4.
const DECODED_CHARS: usize = 16 << 10;

/// Decodes as [`from_base64`], a part at a time; false when it is not base64. Parts before the wrong character
/// may have been given by then.
///
/// # Errors
/// What `part` says.
pub fn decode_base64<E>(text: &[u8], mut part: impl FnMut(&[u8]) -> Result<(), E>) -> Result<bool, E> {
    let mut out = [0; DECODED_CHARS / 4 * 3];
    let last = text.len().saturating_sub(1) / DECODED_CHARS;
    for (n, chars) in text.chunks(DECODED_CHARS).enumerate() {
        // Padding stands at the end of all of it only.
        let engine = if n == last { &LENIENT } else { &UNPADDED };
        match engine.decode_slice(chars, &mut out) {
            Ok(len) => part(&out[..len])?,
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// Either alphabet: for query parameters, where the standard one's `+` and `/` need escaping. A `+` that
/// was not escaped has become a space on the way.
#[must_use]
pub fn from_base64_any(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.iter().map(|&byte| if byte == b' ' { b'+' } else { byte }).collect();
    LENIENT.decode(&text).or_else(|_| LENIENT_URL.decode(&text)).ok()
}

/// Lower-case hex.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| DIGITS[digit as usize] as char).collect()
}

/// Writes `"key":…` or `"key_b64":…`.
pub fn write_key(out: &mut Vec<u8>, key: &[u8]) {
    match std::str::from_utf8(key) {
        Ok(text) => {
            out.extend_from_slice(b"\"key\":");
            // Writing into memory cannot fail, and a string always has a JSON form.
            let _ = serde_json::to_writer(&mut *out, text);
        }
        Err(_) => {
            out.extend_from_slice(b"\"key_b64\":\"");
            write_base64(out, key);
            out.push(b'"');
        }
    }
}

/// Appends base64 without a string in between: a page of values is megabytes of it.
pub fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = BASE64_STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// Appends a number.
pub fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A JSON answer.
#[must_use]
pub fn reply(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// 200 with a value as JSON.
///
/// # Errors
/// `Internal` when it has no JSON form, which the API's own types always have.
pub fn ok(value: &impl Serialize) -> Result<Response<Body>, Problem> {
    let body = serde_json::to_vec(value)
        .map_err(|error| Problem::new(Code::Internal, format!("building the answer failed: {error}")))?;
    Ok(reply(StatusCode::OK, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn keys_are_text_or_base64() {
        let mut out = Vec::new();
        write_key(&mut out, "a\"\n\u{e9}".as_bytes());
        out.push(b',');
        write_key(&mut out, b"\xff");
        assert_eq!(String::from_utf8(out).unwrap(), "\"key\":\"a\\\"\\n\u{e9}\",\"key_b64\":\"/w==\"");
    }

    #[test]
    fn decoding_in_parts_is_decoding() {
        let decode = |text: &[u8]| {
            let mut out = Vec::new();
            let whole = decode_base64(text, |part| {
                out.extend_from_slice(part);
                Ok::<_, Error>(())
            });
            whole.unwrap().then_some(out)
        };
        for len in [0, 1, 2, 3, 100, DECODED_CHARS / 4 * 3 - 1, DECODED_CHARS / 4 * 3, DECODED_CHARS, 100_000]
        {
            let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let text = BASE64_STANDARD.encode(&bytes);
            assert_eq!(decode(text.as_bytes()).as_ref(), Some(&bytes), "{len}");
            assert_eq!(decode(text.trim_end_matches('=').as_bytes()), Some(bytes), "{len}");
        }
        // Padding inside, at the very end of a part.
        let mut text = vec![b'A'; 2 * DECODED_CHARS];
        assert!(decode(&text).is_some());
        text[DECODED_CHARS - 1] = b'=';
        assert_eq!((decode(&text), from_base64(&text)), (None, None));
    }

    #[test]
    fn base64_is_strict_but_for_padding() {
        assert_eq!(from_base64(b"/w=="), Some(vec![0xff]));
        assert_eq!(from_base64(b"/w"), Some(vec![0xff]));
        for bad in ["_w==", "/w =", "/", "/x==", "====", "aGk=\n"] {
            assert_eq!(from_base64(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(from_base64_any(b"_w"), Some(vec![0xff]));
        let mut out = b"x".to_vec();
        write_base64(&mut out, b"hello");
        assert_eq!(out, b"xaGVsbG8=");
        assert_eq!(to_hex(&[0, 0xab]), "00ab");
    }
}
