//! Following the ledger: the events of `/api/v1/watch`, as records.
//!
//! Takes a position, gives one record after another. It knows where it would go on, so that a watch which broke off
//! can be resumed without a gap; whether and when, its owner decides. Silence is a break: the server says something
//! every 5 s.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{HeaderMap, Method, body::Incoming, header::HeaderValue};
use tokio::time::timeout;

use super::{
    Client, PathWithQuery, answers,
    error::{BAD_ANSWER, BROKEN, ClientError, TIMED_OUT},
};
use crate::types::{Record, Seq, VALUE_BYTES_MAX};

/// Longer silence is a break.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Most bytes of one event: in JSON, a byte takes six at most.
const EVENT_BYTES_MAX: usize = 7 * VALUE_BYTES_MAX;

/// A watch of the ledger, begun by [`Client::watch`].
#[derive(Debug)]
pub struct Watch {
    client: Client,
    prefix: Vec<u8>,
    /// Where it would go on, once that is known.
    next: Option<Seq>,
    stream: Option<Incoming>,
    events: Events,
}

impl Client {
    /// Begins to follow the records whose keys begin with `prefix`, from `from` on; without it, those that are
    /// written from now on.
    ///
    /// # Errors
    /// 400 when `from` is beyond the end of the ledger; no connection.
    pub async fn watch(&self, from: Option<Seq>, prefix: &[u8]) -> Result<Watch, ClientError> {
        let mut watch = Watch {
            client: self.clone(),
            prefix: prefix.to_vec(),
            next: from,
            stream: None,
            events: Events::default(),
        };
        watch.resume().await?;
        Ok(watch)
    }
}

impl Watch {
    /// Connects again, behind the last record.
    ///
    /// # Errors
    /// As [`Client::watch`].
    pub async fn resume(&mut self) -> Result<(), ClientError> {
        (self.stream, self.events) = (None, Events::default());
        let mut path = PathWithQuery::new("/api/v1/watch");
        if let Some(next) = self.next {
            path.add("from", next.to_string().as_bytes());
        }
        if !self.prefix.is_empty() {
            path.add("prefix", &self.prefix);
        }
        let mut headers = HeaderMap::new();
        headers.insert(hyper::header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        let request = self.client.request(Method::GET, &path.text, headers, Bytes::new())?;
        let answer = self.client.exchange(self.client.http.request(request)).await?;
        let answer = answer.map_err(|error| self.client.no_answer(&error))?;
        if answer.status().is_success() {
            self.stream = Some(answer.into_body());
            return Ok(());
        }
        let (parts, body) = answer.into_parts();
        let body = self.client.exchange(self.client.whole(body)).await??;
        Err(ClientError::from_answer(parts.status.as_u16(), None, &body))
    }

    /// Whether records have come that were not taken yet.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.events.has_more()
    }

    /// Waits for the next record. May be dropped and called again.
    ///
    /// # Errors
    /// When the stream has broken off or ended with its server: [`Watch::resume`] goes on.
    pub async fn next(&mut self) -> Result<Record, ClientError> {
        loop {
            while let Some(event) = self.events.next() {
                match read_event(&event)? {
                    Event::Record(record) => {
                        self.next = Some(record.seq.plus(1));
                        return Ok(record);
                    }
                    Event::Next(seq) => self.next = Some(seq),
                    Event::Other => {}
                }
            }
            let chunk = self.chunk().await.inspect_err(|_| self.stream = None)?;
            self.events.feed(&chunk)?;
        }
    }

    async fn chunk(&mut self) -> Result<Bytes, ClientError> {
        let server = &self.client.authority;
        let broken =
            |why: &str| ClientError::local(BROKEN, format!("the watch of {server} broke off: {why}"));
        let stream = self.stream.as_mut().ok_or_else(|| broken("it is not connected"))?;
        match timeout(SILENCE_MAX, stream.frame()).await {
            Err(_) => {
                let message = format!("nothing came from {server} for {} s", SILENCE_MAX.as_secs());
                Err(ClientError::local(TIMED_OUT, message))
            }
            Ok(None) => Err(broken("the server ended it")),
            Ok(Some(Err(error))) => Err(broken(&error.to_string())),
            Ok(Some(Ok(frame))) => Ok(frame.into_data().unwrap_or_default()),
        }
    }
}

enum Event {
    Record(Record),
    /// Where the server goes on.
    Next(Seq),
    Other,
}

/// What an event, or a comment, says.
fn read_event(event: &[u8]) -> Result<Event, ClientError> {
    let text = std::str::from_utf8(event)
        .map_err(|_| ClientError::local(BAD_ANSWER, "the watch holds an event that is not UTF-8"))?;
    let (mut name, mut data) = ("", None);
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => {
                if let Some(next) = value.strip_prefix("next ").and_then(|seq| seq.parse().ok()) {
                    return Ok(Event::Next(Seq(next)));
                }
            }
            "event" => name = value,
            "data" => data = Some(value),
            _ => {}
        }
    }
    match (name, data) {
        ("put" | "delete", Some(data)) => answers::read_record(data.as_bytes()).map(Event::Record),
        ("error", Some(data)) => Err(ClientError::from_answer(500, None, data.as_bytes())),
        _ => Ok(Event::Other),
    }
}

/// Bytes of the stream, cut where events end: at empty lines.
#[derive(Debug, Default)]
struct Events {
    bytes: BytesMut,
    /// Of these, so many hold no end.
    looked_at: usize,
}

impl Events {
    fn feed(&mut self, chunk: &[u8]) -> Result<(), ClientError> {
        if self.bytes.len() + chunk.len() > EVENT_BYTES_MAX + chunk.len().min(1 << 20) {
            return Err(ClientError::local(BAD_ANSWER, "the watch holds an event that does not end"));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    fn end(&self) -> Option<usize> {
        let from = self.looked_at.min(self.bytes.len());
        memchr::memmem::find(&self.bytes[from..], b"\n\n").map(|at| from + at + 2)
    }

    fn has_more(&self) -> bool {
        self.end().is_some()
    }

    fn next(&mut self) -> Option<BytesMut> {
        match self.end() {
            Some(end) => {
                self.looked_at = 0;
                Some(self.bytes.split_to(end))
            }
            None => {
                // The last byte may be the first of an end.
                self.looked_at = self.bytes.len().saturating_sub(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Op;

    const STREAM: &str = ": next 4\n\nid: 4\nevent: put\ndata: {\"key\":\"k\",\"value\":\"v\",\"op\":\"put\",\"seq\":4,\"timestamp_ms\":1}\n\nid: 6\nevent: delete\ndata: {\"key_b64\":\"/w==\",\"value\":null,\"op\":\"delete\",\"seq\":6,\"timestamp_ms\":2}\n\n";

    proptest! {
        #[test]
        fn events_come_out_however_the_stream_is_cut(cuts in prop::collection::vec(1usize..40, 1..60)) {
            let (mut events, mut rest, mut records) = (Events::default(), STREAM.as_bytes(), Vec::new());
            for cut in cuts.into_iter().chain([STREAM.len()]) {
                let (chunk, later) = rest.split_at(cut.min(rest.len()));
                events.feed(chunk).unwrap();
                rest = later;
                while let Some(event) = events.next() {
                    if let Event::Record(record) = read_event(&event).unwrap() {
                        records.push((record.seq.0, record.op, record.key.to_vec(), record.value.to_vec()));
                    }
                }
            }
            prop_assert_eq!(records, vec![(4, Op::Put, b"k".to_vec(), b"v".to_vec()), (6, Op::Delete, vec![0xff], vec![])]);
        }

        #[test]
        fn any_event_is_read_or_refused(text in "([a-z]{0,5}:? ?[ -~]{0,20}\n){0,5}") {
            let _ = read_event(text.as_bytes()).is_ok();
        }
    }

    #[test]
    fn a_server_that_fails_says_why() {
        let event = b"event: error\ndata: {\"type\":\"corrupt\",\"status\":500,\"detail\":\"damaged\"}\n\n";
        assert_eq!(read_event(event).err().unwrap().slug(), "corrupt");
        assert!(read_event(b"event: put\ndata: {}\n\n").is_err());
    }
}
