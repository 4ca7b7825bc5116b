//! `/api/v1/watch`: records as they are written, from any of them on, as server-sent events.
//!
//! ```text
//! id: <seq>                         where a client goes on after this event: `Last-Event-ID`
//! event: put                        or delete
//! data: {"key":…,"value":…,"op":…,"seq":…,"timestamp_ms":…}
//! (an empty line)
//!
//! : next <seq>                      every 5 s at least: everything before it has been sent
//! ```
//!
//! Takes a position, gives an answer that has no end of its own. It is pulled: the next stretch of the ledger is
//! read when the client has taken the last one, so that a slow client costs one stretch, whatever is written
//! meanwhile. Between stretches it waits, and it waits nowhere else. It is marked [`Endless`]: when the node stops, the
//! connection ends it behind a whole event, or anywhere if the client does not take it. Whether a client is too slow,
//! the connection decides.

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use axum::{body::Body, extract::State};
use bytes::Bytes;
use hyper::{
    HeaderMap, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue},
    http::request::Parts,
};
use tokio::time::{Instant, sleep_until};

use super::{
    App, Reply,
    backend::Backend,
    blocking::blocking,
    document::{self, Document, Next, Pieces, is_utf8},
    json,
    mended::mended,
    problem::Problem,
    query::{Query, parse_digits},
};
use crate::{
    error::Code,
    read::{Record, Stretch},
    runtime::without_blocking_others,
    types::{Op, Seq},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A comment comes this often: the contract says every 5 s at least, and clocks differ.
const COMMENT_EVERY: Duration = Duration::from_secs(4);

/// The mark of an answer that has no end of its own, and whose client goes on with another where this one breaks off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endless;

/// What an event ends with, and nothing else: their data has no line ends.
pub(super) const EVENT_END: &[u8] = b"\n\n";

/// `GET /api/v1/watch`
///
/// # Errors
/// 400 for a position beyond the end, and the barrier's refusals.
pub async fn get<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let query = Query::parse(parts.uri.query(), &["from", "prefix", "prefix_b64", "consistency"])?;
    let prefix = query.text_or_b64("prefix")?.unwrap_or_default();
    let from = match last_event(&parts.headers)? {
        Some(last) => Some(last),
        None => query.number("from")?.map(Seq),
    };
    app.backend.barrier(query.consistency()?).await?;
    let end = app.backend.next_seq();
    let from = from.unwrap_or(end);
    if from > end {
        let detail = format!("there is nothing at {from} to go on from: the next record will be {end}");
        return Err(Problem::new(Code::Malformed, detail));
    }
    let watch = Watch { app, prefix: prefix.into(), next: from, events: None, comment_at: Instant::now() };
    let mut response = Response::new(Body::from_stream(futures_util::stream::unfold(Some(watch), piece)));
    response.extensions_mut().insert(Endless);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Where to go on behind the last event that the client has seen.
fn last_event(headers: &HeaderMap) -> Result<Option<Seq>, Problem> {
    let Some(id) = headers.get(LAST_EVENT_ID).map(|id| id.as_bytes()).filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    match parse_digits(id).and_then(|seq| seq.checked_add(1)) {
        Some(next) => Ok(Some(Seq(next))),
        None => Err(Problem::new(Code::Malformed, "Last-Event-ID is the seq of the last event")),
    }
}

/// One watcher.
struct Watch<B> {
    app: Arc<App<B>>,
    prefix: Bytes,
    /// The first record that is not read yet.
    next: Seq,
    /// Those that are read, while they are being sent.
    events: Option<Pieces<Events>>,
    /// When the next comment is due.
    comment_at: Instant,
}

/// The next bytes, and the watcher behind them; none behind the last.
async fn piece<B: Backend>(watch: Option<Watch<B>>) -> Option<(Result<Bytes, Infallible>, Option<Watch<B>>)> {
    let mut watch = watch?;
    loop {
        if let Some(piece) = watch.events.as_mut().and_then(Pieces::piece) {
            return Some((Ok(piece.into()), Some(watch)));
        }
        watch.events = None;
        if Instant::now() >= watch.comment_at {
            watch.comment_at = Instant::now() + COMMENT_EVERY;
            let comment = format!(": next {}\n\n", watch.next);
            return Some((Ok(comment.into()), Some(watch)));
        }
        tokio::select! {
            biased;
            () = sleep_until(watch.comment_at) => continue,
            () = watch.app.backend.written_beyond(watch.next) => {}
        }
        match watch.read().await {
            // Much may be passed over: others have their turn.
            Ok(Stretch { records, .. }) if records.is_empty() => tokio::task::yield_now().await,
            Ok(Stretch { records, .. }) => watch.events = Some(Pieces::new(Events::of(records))),
            Err(problem) => {
                tracing::warn!(
                    next = watch.next.0,
                    why = problem.detail(),
                    "a watch ends: records cannot be read"
                );
                return Some((Ok(format!("event: error\ndata: {}\n\n", problem.document()).into()), None));
            }
        }
    }
}

impl<B: Backend> Watch<B> {
    /// Reads the next stretch.
    async fn read(&mut self) -> Result<Stretch, Problem> {
        let (from, backend) = (self.next, &self.app.backend);
        let stretch = if backend.is_sealed(from) {
            let (app, prefix) = (Arc::clone(&self.app), self.prefix.clone());
            blocking(backend, move || app.backend.stretch(from, &prefix)).await?
        } else {
            mended(backend, || ready(backend.stretch(from, &self.prefix))).await?
        };
        self.next = stretch.next;
        Ok(stretch)
    }
}

/// Events while they are being written.
struct Events {
    records: std::vec::IntoIter<Record>,
    /// The one that has had its value and not its end.
    open: Option<Record>,
}

impl Events {
    fn of(records: Vec<Record>) -> Self {
        Self { records: records.into_iter(), open: None }
    }
}

impl Document for Events {
    fn write(&mut self, out: &mut Vec<u8>) -> Next {
        if let Some(Record { seq, op, timestamp_ms, .. }) = self.open.take() {
            let op = op.name();
            let rest = format!(",\"op\":\"{op}\",\"seq\":{seq},\"timestamp_ms\":{timestamp_ms}}}\n\n");
            out.extend_from_slice(rest.as_bytes());
        }
        let Some(record) = self.records.next() else { return Next::End };
        out.extend_from_slice(
            format!("id: {}\nevent: {}\ndata: {{", record.seq, record.op.name()).as_bytes(),
        );
        json::write_key(out, &record.key);
        let Record { op, value, .. } = self.open.insert(record);
        if *op == Op::Delete {
            out.extend_from_slice(b",\"value\":null");
            return Next::More;
        }
        let is_text = without_blocking_others(value.len(), || is_utf8(value));
        document::value(out, value, is_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_and_in_order() {
        let record = |seq, op, key: &'static [u8], value: &'static [u8]| Record {
            seq: Seq(seq),
            op,
            timestamp_ms: 5,
            key: Bytes::from_static(key),
            value: Bytes::from_static(value),
        };
        let records = vec![
            record(7, Op::Put, b"k", b"line\nline\r\n\n"),
            record(9, Op::Delete, b"\xff", b""),
            record(10, Op::Put, b"l", b"\xfe"),
        ];
        let mut pieces = Pieces::new(Events::of(records));
        let text: Vec<u8> = std::iter::from_fn(|| pieces.piece()).flatten().collect();
        let expected = [
            "id: 7\nevent: put\ndata: {\"key\":\"k\",\"value\":\"line\\nline\\r\\n\\n\",\"op\":\"put\",\"seq\":7,\"timestamp_ms\":5}\n\n",
            "id: 9\nevent: delete\ndata: {\"key_b64\":\"/w==\",\"value\":null,\"op\":\"delete\",\"seq\":9,\"timestamp_ms\":5}\n\n",
            "id: 10\nevent: put\ndata: {\"key\":\"l\",\"value_b64\":\"/g==\",\"op\":\"put\",\"seq\":10,\"timestamp_ms\":5}\n\n",
        ];
        assert_eq!(String::from_utf8(text).unwrap(), expected.concat());
    }

    #[test]
    fn the_last_event_is_a_seq() {
        let last = |id: &str| {
            last_event(&HeaderMap::from_iter([(LAST_EVENT_ID, HeaderValue::from_str(id).unwrap())]))
        };
        assert_eq!(last("41").unwrap(), Some(Seq(42)));
        assert_eq!(last("").unwrap(), None);
        for bad in ["-1", "x", "18446744073709551615", "18446744073709551616"] {
            assert_eq!(last(bad).unwrap_err().status(), hyper::StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
