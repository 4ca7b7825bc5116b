//! From a key, any bytes, to the path that names it.
//!
//! Pure. Owns the one decision of which of the two doors a key goes through: `/{key}` for raw bytes, or
//! `/api/v1/kv/{key}` for keys whose first segment the server uses itself.

use std::fmt::Write;

use crate::types::is_reserved_segment;

/// Where a key is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPath {
    /// `/{key}`: bodies are the value's raw bytes.
    Raw(String),
    /// `/api/v1/kv/{key}`: bodies are JSON with the value in base64.
    Json(String),
}

impl KeyPath {
    /// The path of `key`, percent-encoded so that exactly these bytes come out at the other end.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        if is_reserved(key) {
            return Self::Json(kv_path(key));
        }
        // A slash stays a slash where that is safe to read. Empty and dot segments are not: whatever
        // stands between us and the server may merge them away, so such a key becomes one segment.
        let plain = key.split(|&b| b == b'/').all(|s| !matches!(s, b"" | b"." | b".."));
        let mut path = String::with_capacity(key.len() + 8);
        path.push('/');
        encode_into(&mut path, key, plain);
        Self::Raw(path)
    }

    /// The path, whichever door it is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Raw(path) | Self::Json(path) => path,
        }
    }
}

/// Whether the key's first segment is one of the server's own names.
#[must_use]
pub fn is_reserved(key: &[u8]) -> bool {
    let first = key.split(|&b| b == b'/').next().unwrap_or(key);
    is_reserved_segment(first)
}

/// `/api/v1/kv/{key}` with the key as ONE segment.
#[must_use]
pub fn kv_path(key: &[u8]) -> String {
    let mut path = String::with_capacity(key.len() + 24);
    path.push_str("/api/v1/kv/");
    encode_into(&mut path, key, false);
    path
}

/// Appends bytes as they may stand in a path or in a query's value.
pub(super) fn encode_into(out: &mut String, bytes: &[u8], keep_slashes: bool) {
    // A key that is only dots would be a dot segment in itself.
    let dots = matches!(bytes, b"." | b"..");
    for &byte in bytes {
        let unreserved =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || (byte == b'.' && !dots);
        if unreserved || (keep_slashes && byte == b'/') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn readable_keys_stay_readable() {
        assert_eq!(KeyPath::of(b"2013-01-01/UA1545/EWR-IAH").as_str(), "/2013-01-01/UA1545/EWR-IAH");
        assert_eq!(KeyPath::of(b"a b?c#d%").as_str(), "/a%20b%3Fc%23d%25");
        assert_eq!(KeyPath::of(&[0, 0xff]).as_str(), "/%00%FF");
    }

    #[test]
    fn segments_that_a_proxy_may_merge_are_hidden() {
        assert_eq!(KeyPath::of(b"a//b").as_str(), "/a%2F%2Fb");
        assert_eq!(KeyPath::of(b"/a").as_str(), "/%2Fa");
        assert_eq!(KeyPath::of(b"a/../b").as_str(), "/a%2F..%2Fb");
        assert_eq!(KeyPath::of(b"..").as_str(), "/%2E%2E");
    }

    #[test]
    fn the_servers_own_names_go_through_kv() {
        for key in ["api", "api/x", "docs", "openapi.json", "v1/x/y", "health"] {
            let expected = format!("/api/v1/kv/{}", key.replace('/', "%2F"));
            assert_eq!(KeyPath::of(key.as_bytes()), KeyPath::Json(expected));
        }
        for key in ["apis", "x/api", "/api", "Health"] {
            assert!(matches!(KeyPath::of(key.as_bytes()), KeyPath::Raw(_)), "{key}");
        }
    }

    proptest! {
        #[test]
        fn the_server_decodes_the_same_bytes(key in prop::collection::vec(any::<u8>(), 1..60)) {
            let path = KeyPath::of(&key);
            let encoded = match &path {
                KeyPath::Raw(p) => p.strip_prefix('/').unwrap(),
                KeyPath::Json(p) => p.strip_prefix("/api/v1/kv/").unwrap(),
            };
            let decoded: Vec<u8> = percent_encoding::percent_decode_str(encoded).collect();
            prop_assert_eq!(decoded, key);
            prop_assert!(path.as_str().bytes().all(|b| b.is_ascii_graphic()));
        }
    }
}
