//! What the client gives back, and how it is read from the server's JSON. No I/O.
//!
//! Under `/api/v1/kv` a `value` is base64, elsewhere it is text; `key_b64` and `value_b64` stand where
//! bytes are not UTF-8 and win over the plain field.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value as Json;

use super::error::{BAD_ANSWER, ClientError};
use crate::{
    types::{Op, Record, Seq, TimestampMs},
    wire,
};

/// An accepted write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Position of the record.
    pub seq: Seq,
    /// The server had seen this `Idempotency-Key` before and gave the first answer again.
    pub replayed: bool,
}

/// A value as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its bytes.
    pub bytes: Bytes,
    /// Position of the record that holds it.
    pub seq: Seq,
}

/// What `HEAD` tells of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Position of the record that holds it.
    pub seq: Seq,
    /// Its length in bytes, when the server says it.
    pub value_bytes: Option<u64>,
}

/// One live key of a scan, or one record read as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// The value; `None` when only keys were asked for.
    pub value: Option<Bytes>,
    /// Position of the record.
    pub seq: Seq,
    /// The leader's time when it was proposed.
    pub timestamp_ms: Option<TimestampMs>,
}

/// One page of a scan, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The live keys of the page.
    pub items: Vec<Item>,
    /// Where to go on, when there is more.
    pub next_cursor: Option<String>,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Position of the record.
    pub seq: Seq,
    /// What it did.
    pub op: Op,
    /// The leader's time when it was proposed.
    pub timestamp_ms: Option<TimestampMs>,
    /// The value; `None` for a delete.
    pub value: Option<Bytes>,
}

/// What became of a batch: all of it committed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchWritten {
    /// Position of its first record.
    pub first_seq: Seq,
    /// Position of its last record.
    pub last_seq: Seq,
    /// How many records it made.
    pub count: u64,
    /// The server had seen this `Idempotency-Key` before and gave the first answer again.
    pub replayed: bool,
}

#[derive(Deserialize)]
struct RawItem {
    key: Option<String>,
    key_b64: Option<String>,
    value: Option<String>,
    value_b64: Option<String>,
    seq: u64,
    op: Option<String>,
    timestamp_ms: Option<u64>,
}

#[derive(Deserialize)]
struct RawPage {
    items: Vec<RawItem>,
    next_cursor: Option<Json>,
}

#[derive(Deserialize)]
struct RawHistory {
    versions: Vec<RawItem>,
}

#[derive(Deserialize)]
struct RawBatch {
    first_seq: u64,
    last_seq: u64,
    count: u64,
}

#[derive(Deserialize)]
struct RawSeq {
    seq: u64,
}

fn parse<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| {
        ClientError::local(BAD_ANSWER, format!("the answer to {what} is not what was expected: {error}"))
    })
}

fn base64(what: &str, text: &str) -> Result<Bytes, ClientError> {
    STANDARD.decode(text).map(Bytes::from).map_err(|error| {
        ClientError::local(BAD_ANSWER, format!("the answer holds a {what} that is not base64: {error}"))
    })
}

impl RawItem {
    fn value(&self) -> Result<Option<Bytes>, ClientError> {
        self.value_b64.as_ref().or(self.value.as_ref()).map(|text| base64("value", text)).transpose()
    }

    fn key(&self) -> Result<Bytes, ClientError> {
        match (&self.key_b64, &self.key) {
            (Some(text), _) => base64("key", text),
            (None, Some(text)) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, None) => Err(ClientError::local(BAD_ANSWER, "the answer holds a record without its key")),
        }
    }

    fn into_item(self) -> Result<Item, ClientError> {
        let (key, value) = (self.key()?, self.value()?);
        Ok(Item { key, value, seq: Seq(self.seq), timestamp_ms: self.timestamp_ms })
    }

    fn version(&self) -> Result<Version, ClientError> {
        let op = match self.op.as_deref() {
            None | Some("put") => Op::Put,
            Some("delete") => Op::Delete,
            Some(other) => {
                let message = format!("the answer holds an operation this client does not know: {other}");
                return Err(ClientError::local(BAD_ANSWER, message));
            }
        };
        let value = if op == Op::Delete { None } else { self.value()? };
        Ok(Version { seq: Seq(self.seq), op, timestamp_ms: self.timestamp_ms, value })
    }
}

/// A record of a watch: a `value` is text there.
pub(super) fn read_record(body: &[u8]) -> Result<Record, ClientError> {
    let mut raw = parse::<RawItem>("a watch", body)?;
    let text = raw.value.take().map(Bytes::from);
    let Version { seq, op, timestamp_ms, value } = raw.version()?;
    let value = value.or(text).unwrap_or_default();
    Ok(Record { seq, op, timestamp_ms: timestamp_ms.unwrap_or_default(), key: raw.key()?, value })
}

pub(super) fn read_item(body: &[u8]) -> Result<Item, ClientError> {
    parse::<RawItem>("a read", body)?.into_item()
}

pub(super) fn read_page(body: &[u8]) -> Result<Page, ClientError> {
    let raw: RawPage = parse("a scan", body)?;
    let next_cursor = match raw.next_cursor {
        None | Some(Json::Null) => None,
        Some(Json::String(cursor)) => Some(cursor),
        Some(other) => Some(other.to_string()),
    };
    let items = raw.items.into_iter().map(RawItem::into_item).collect::<Result<_, _>>()?;
    Ok(Page { items, next_cursor })
}

pub(super) fn read_history(body: &[u8]) -> Result<Vec<Version>, ClientError> {
    parse::<RawHistory>("a history call", body)?.versions.into_iter().map(|item| item.version()).collect()
}

pub(super) fn read_batch(body: &[u8], replayed: bool) -> Result<BatchWritten, ClientError> {
    let raw: RawBatch = parse("a batch", body)?;
    let (first_seq, last_seq) = (Seq(raw.first_seq), Seq(raw.last_seq));
    Ok(BatchWritten { first_seq, last_seq, count: raw.count, replayed })
}

pub(super) fn read_seq(body: &[u8]) -> Result<Seq, ClientError> {
    parse::<RawSeq>("a write", body).map(|raw| Seq(raw.seq))
}

pub(super) fn read_json(body: &[u8]) -> Result<Json, ClientError> {
    parse("the call", body)
}

pub(super) fn put_body(value: &[u8]) -> Bytes {
    let mut body = String::with_capacity(value.len().div_ceil(3) * 4 + 16);
    body.push_str(r#"{"value":""#);
    STANDARD.encode_string(value, &mut body);
    body.push_str(r#""}"#);
    Bytes::from(body)
}

/// A body of `application/vnd.scribe.batch` while it is being filled; see [`crate::wire`].
#[derive(Clone, Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// An empty body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a put.
    ///
    /// # Errors
    /// [`BAD_CALL`](super::error::BAD_CALL) for a key or value that is longer than a frame can say.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), ClientError> {
        self.push(Op::Put, key, value)
    }

    /// Appends a delete.
    ///
    /// # Errors
    /// As [`Frames::put`].
    pub fn delete(&mut self, key: &[u8]) -> Result<(), ClientError> {
        self.push(Op::Delete, key, &[])
    }

    fn push(&mut self, op: Op, key: &[u8], value: &[u8]) -> Result<(), ClientError> {
        wire::push_frame(&mut self.bytes, op, key, value).map_err(|_| {
            ClientError::local(super::error::BAD_CALL, "the key or the value is too long for a frame")
        })
    }

    /// The body's bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_bytes_that_are_not_text() {
        let page = read_page(
            br#"{"items":[{"key":"a","value":"/wA=","seq":3,"timestamp_ms":9},{"key":"?","key_b64":"/w==","seq":4}],"next_cursor":"x"}"#,
        )
        .unwrap();
        assert_eq!(page.items[0].value.as_deref(), Some(&[0xff, 0][..]));
        assert_eq!(page.items[1].key, &[0xff][..]);
        assert_eq!(page.items[1].value, None);
        assert_eq!(page.next_cursor.as_deref(), Some("x"));
        assert_eq!(read_page(br#"{"items":[],"next_cursor":null}"#).unwrap(), Page::default());
    }

    #[test]
    fn a_history_tells_puts_from_deletes() {
        let versions = read_history(
            br#"{"key":"k","versions":[{"seq":5,"op":"delete","timestamp_ms":2},{"seq":1,"op":"put","timestamp_ms":1,"value":"dg=="}]}"#,
        )
        .unwrap();
        assert_eq!((versions[0].op, versions[0].value.as_deref()), (Op::Delete, None));
        assert_eq!((versions[1].seq, versions[1].value.as_deref()), (Seq(1), Some(&b"v"[..])));
    }

    #[test]
    fn answers_that_break_the_contract_are_errors() {
        for body in
            [&b""[..], b"[]", br#"{"items":[{"seq":1}]}"#, br#"{"items":[{"key":"k","value":"%","seq":1}]}"#]
        {
            assert_eq!(read_page(body).unwrap_err().slug(), BAD_ANSWER);
        }
        assert_eq!(read_history(br#"{"versions":[{"seq":1,"op":"merge"}]}"#).unwrap_err().slug(), BAD_ANSWER);
    }

    #[test]
    fn what_no_frame_can_say_is_a_bad_call() {
        assert_eq!(Frames::new().put(&[0; 70_000], b"").unwrap_err().slug(), "bad-call");
    }
}
