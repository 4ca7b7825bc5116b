//! Requests: heads and bodies, appended to a buffer that is used again, because building into fresh memory
//! would cost the client more than sending it.

use std::io::Write;

use scribe_ledger::types::Op;

use super::Records;

/// How a bulk request's body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `application/vnd.scribe.batch`: frames of lengths and bytes.
    Binary,
    /// `application/x-ndjson`: a JSON object a line.
    Ndjson,
}

impl Format {
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Binary => "application/vnd.scribe.batch",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

pub const BATCH_PATH: &str = "/api/v1/batch";
const FRAME_HEAD_BYTES: usize = 8;
const LINE_PARTS: [&[u8]; 3] = [b"{\"key\":\"", b"\",\"value\":\"", b"\"}\n"];

/// What must hold of a key's newest version, or the write fails with 412.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    None,
    /// The key is not there.
    Absent,
    /// Its newest version is this one.
    At(u64),
}

impl Condition {
    /// The header that says so.
    pub fn header(self) -> Option<(&'static str, String)> {
        match self {
            Self::None => None,
            Self::Absent => Some(("if-none-match", "*".to_owned())),
            Self::At(seq) => Some(("if-match", format!("\"{seq}\""))),
        }
    }
}

fn number(number: usize, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = write!(out, "{number}");
}

fn end_of_head(authority: &str, body_bytes: Option<usize>, out: &mut Vec<u8>) {
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(authority.as_bytes());
    if let Some(bytes) = body_bytes {
        out.extend_from_slice(b"\r\nContent-Length: ");
        number(bytes, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `PUT /{key}` with the value of this write.
pub fn put(records: &Records, write: u64, condition: Condition, authority: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"PUT /");
    records.keys.append(records.keys.of_write(write), out);
    end_of_head(authority, Some(records.values.bytes_of(write)), out);
    if let Some((name, value)) = condition.header() {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    out.extend_from_slice(b"\r\n");
    records.values.append(write, out);
}

/// Appends `GET /{key}`. `query` is empty or begins with `?`.
pub fn get(records: &Records, key: u64, query: &str, authority: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"GET /");
    records.keys.append(key, out);
    out.extend_from_slice(query.as_bytes());
    end_of_head(authority, None, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a batch; its body follows.
pub fn batch_head(format: Format, body_bytes: usize, authority: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"POST ");
    out.extend_from_slice(BATCH_PATH.as_bytes());
    end_of_head(authority, Some(body_bytes), out);
    out.extend_from_slice(b"Content-Type: ");
    out.extend_from_slice(format.content_type().as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}

/// Bytes of the batch that carries `count` writes from `first` on.
pub fn batch_bytes(records: &Records, format: Format, first: u64, count: u64) -> usize {
    let sizes = records.values.sizes;
    let values: usize = if sizes.min == sizes.max {
        sizes.min.saturating_mul(count as usize)
    } else {
        (first..first + count).map(|write| records.values.bytes_of(write)).sum()
    };
    let around = match format {
        Format::Binary => FRAME_HEAD_BYTES,
        Format::Ndjson => LINE_PARTS.iter().map(|part| part.len()).sum(),
    };
    values.saturating_add((around + records.keys.key_bytes()).saturating_mul(count as usize))
}

/// Appends the batch that carries `count` writes from `first` on.
///
/// ```text
/// binary: frame …     frame = op u8 = 1 | 0 u8 | key_len u16 le | value_len u32 le | key | value
/// NDJSON: line …      line  = {"key":"…","value":"…"}
/// ```
pub fn batch(records: &Records, format: Format, first: u64, count: u64, out: &mut Vec<u8>) {
    let key_bytes = records.keys.key_bytes();
    for write in first..first + count {
        let key = records.keys.of_write(write);
        match format {
            Format::Binary => {
                let [key_low, key_high] = (key_bytes as u16).to_le_bytes();
                let [a, b, c, d] = (records.values.bytes_of(write) as u32).to_le_bytes();
                out.extend_from_slice(&[Op::Put as u8, 0, key_low, key_high, a, b, c, d]);
                records.keys.append(key, out);
                records.values.append(write, out);
            }
            Format::Ndjson => {
                out.extend_from_slice(LINE_PARTS[0]);
                records.keys.append(key, out);
                out.extend_from_slice(LINE_PARTS[1]);
                records.values.append(write, out);
                out.extend_from_slice(LINE_PARTS[2]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scribe_ledger::client::Frames;

    use super::*;
    use crate::workload::{
        keys::{Keys, Order},
        values::{Sizes, Values},
    };

    fn records(key_bytes: usize, sizes: Sizes, text: bool) -> Records {
        Records {
            keys: Keys::new(key_bytes, None, Order::Sequential, 1).unwrap(),
            values: Values::new(1, sizes, text),
        }
    }

    proptest! {
        #[test]
        fn a_binary_batch_is_what_the_client_library_builds(count in 1u64..20, key_bytes in 5usize..40, min in 0usize..60, more in 0usize..60, first in 0u64..1000) {
            let records = records(key_bytes, Sizes { min, max: min + more }, false);
            let mut bytes = Vec::new();
            batch(&records, Format::Binary, first, count, &mut bytes);
            prop_assert_eq!(bytes.len(), batch_bytes(&records, Format::Binary, first, count));
            let mut expected = Frames::new();
            for write in first..first + count {
                expected.put(&records.key(write), &records.value(write)).unwrap();
            }
            prop_assert_eq!(bytes, expected.into_bytes());
        }

        #[test]
        fn an_ndjson_batch_is_what_a_parser_reads(count in 1u64..20, min in 0usize..30, more in 0usize..30, first in 0u64..1000) {
            let records = records(9, Sizes { min, max: min + more }, true);
            let mut bytes = Vec::new();
            batch(&records, Format::Ndjson, first, count, &mut bytes);
            prop_assert_eq!(bytes.len(), batch_bytes(&records, Format::Ndjson, first, count));
            let text = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(text.lines().count() as u64, count);
            for (write, line) in (first..).zip(text.lines()) {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                prop_assert_eq!(line["key"].as_str().unwrap().as_bytes(), &records.key(write)[..]);
                prop_assert_eq!(line["value"].as_str().unwrap().as_bytes(), &records.value(write)[..]);
            }
        }
    }

    #[test]
    fn single_requests_are_whole() {
        let records = records(4, Sizes { min: 3, max: 3 }, true);
        let value = String::from_utf8(records.value(12)).unwrap();
        for (condition, line) in [
            (Condition::None, ""),
            (Condition::Absent, "if-none-match: *\r\n"),
            (Condition::At(7), "if-match: \"7\"\r\n"),
        ] {
            let mut out = b"before ".to_vec();
            put(&records, 12, condition, "h:1", &mut out);
            let expected =
                format!("before PUT /0012 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 3\r\n{line}\r\n{value}");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        let mut out = Vec::new();
        get(&records, 99_999, "?consistency=stale", "h:1", &mut out);
        assert_eq!(out, b"GET /9999?consistency=stale HTTP/1.1\r\nHost: h:1\r\n\r\n");
        out.clear();
        batch_head(Format::Ndjson, 5, "h:1", &mut out);
        assert_eq!(
            out,
            b"POST /api/v1/batch HTTP/1.1\r\nHost: h:1\r\nContent-Length: 5\r\nContent-Type: application/x-ndjson\r\n\r\n"
        );
    }
}
