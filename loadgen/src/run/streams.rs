//! HTTP/2: connections shared by several streams, each with one request in flight.
//!
//! Frames and flow control are the `h2` crate's. A stream is a task: it takes a turn, sends, waits, hands in
//! what came. The connection is made again by whichever stream first finds it gone.

use std::{future::poll_fn, io, rc::Rc, task::Poll, time::Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Uri};
use tokio::sync::Mutex;

use super::{
    desk::{Asked, BACKOFF, Desk, Flight},
    feed::{Next, Place, Turn, Work},
    lane::Way,
};
use crate::{
    http::Head,
    workload::{
        random::Random,
        requests::{self, BATCH_PATH},
    },
};

/// What the server may send before we take it: values come as fast as the socket gives them.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Answers to writes and errors are kept; values are only counted.
const ANSWER_BYTES_KEPT: usize = 64 << 10;

/// A connection that is up.
#[derive(Clone)]
struct Live {
    sender: SendRequest<Bytes>,
    authority: Rc<str>,
    number: u64,
}

/// A connection, up or not.
pub struct Link {
    desk: Rc<Desk>,
    state: Mutex<State>,
}

struct State {
    way: Way,
    live: Option<Live>,
    number: u64,
}

impl Link {
    pub fn new(desk: Rc<Desk>, way: Way) -> Self {
        Self { desk, state: Mutex::new(State { way, live: None, number: 0 }) }
    }

    /// Makes sure that it is up. `None` when that failed.
    async fn get(&self, gone: Option<u64>) -> Option<Live> {
        let mut state = self.state.lock().await;
        if state.live.as_ref().is_some_and(|live| Some(live.number) == gone) || state.way.moved(&self.desk) {
            // Streams that are in flight keep the old connection until they are done.
            state.live = None;
        }
        if state.live.is_none() {
            let target = state.way.target(&self.desk);
            let connect = async {
                let stream = target.open().await?;
                let mut builder = h2::client::Builder::new();
                builder
                    .enable_push(false)
                    .initial_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
                builder.handshake::<_, Bytes>(stream).await.map_err(io::Error::other)
            };
            let (sender, connection) =
                match tokio::time::timeout(self.desk.shared.plan.connect_time(), connect).await {
                    Ok(Ok(pair)) => pair,
                    Ok(Err(error)) => {
                        self.desk.unreachable(&error);
                        return None;
                    }
                    Err(_) => {
                        self.desk.unreachable(&io::ErrorKind::TimedOut.into());
                        return None;
                    }
                };
            // Its streams learn how it ends.
            tokio::task::spawn_local(async move { drop(connection.await) });
            state.number += 1;
            state.live = Some(Live { sender, authority: target.authority.into(), number: state.number });
        }
        state.live.clone()
    }

    /// Makes a first connection, so that the run does not begin with that.
    pub async fn connect(&self) {
        self.get(None).await;
    }
}

/// Why there is no answer.
struct Failure {
    kind: String,
    never_begun: bool,
}

impl Failure {
    fn of(error: &h2::Error, never_begun: bool) -> Self {
        let kind = match (error.get_io(), error.reason()) {
            (Some(io), _) => format!("connection: {}", io.kind()),
            (None, Some(reason)) => format!("http2: {}", reason.description()),
            (None, None) => format!("http2: {error}"),
        };
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        Self { kind, never_begun: never_begun || refused }
    }
}

/// One stream after the other.
pub struct Slot {
    desk: Rc<Desk>,
    link: Rc<Link>,
    rng: Random,
    place: Rc<Place>,
    flight: Option<Flight>,
    learn: Option<u64>,
}

impl Slot {
    pub fn new(desk: Rc<Desk>, link: Rc<Link>, rng: Random) -> Self {
        Self { desk, link, rng, place: Rc::default(), flight: None, learn: None }
    }

    /// Sends and receives until the run is over.
    pub async fn run(mut self) {
        let mut gone = None;
        let mut live: Option<Live> = None;
        loop {
            let moved = self.desk.shared.leader.is_some() || live.is_none();
            if moved {
                live = self.link.get(gone).await;
            }
            let Some(now_live) = &live else {
                if self.desk.feed.is_over(Instant::now()) {
                    return;
                }
                tokio::time::sleep(BACKOFF).await;
                continue;
            };
            let Some(turn) = self.turn().await else { return };
            let outcome = tokio::time::timeout(
                self.desk.shared.plan.timeout,
                exchange(now_live.clone(), &self.desk, &turn, &mut self.flight),
            );
            let outcome = outcome.await;
            let Some(flight) = self.flight.take() else { continue };
            let advice = match outcome {
                Ok(Ok((head, body))) => self.desk.answered(&flight, &head, &body, Instant::now()),
                Ok(Err(failure)) => {
                    gone = Some(now_live.number);
                    live = None;
                    self.desk.lost(&flight, failure.kind, failure.never_begun)
                }
                Err(_) => {
                    gone = Some(now_live.number);
                    live = None;
                    self.desk.lost(&flight, "connection: timed out".to_owned(), false)
                }
            };
            self.learn = advice.learn;
            if let (Some(pause), None) = (advice.pause, self.desk.shared.plan.pace) {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Waits for something to send; `None` when there is nothing any more.
    async fn turn(&mut self) -> Option<Turn> {
        if let Some(key) = self.learn.take() {
            return Some(Turn { work: Work::Learn { key }, due: None });
        }
        let mut called = false;
        loop {
            match self.desk.feed.next(Instant::now(), &mut self.rng) {
                Next::Turn(turn) => {
                    if let (Some(due), true) = (turn.due, called) {
                        self.desk.late(due, Instant::now());
                    }
                    return Some(turn);
                }
                Next::Over => return None,
                Next::Later => {
                    poll_fn(|cx| {
                        if self.place.called() {
                            return Poll::Ready(());
                        }
                        self.desk.feed.wait(&self.place, cx.waker());
                        Poll::Pending
                    })
                    .await;
                    called = true;
                }
            }
        }
    }
}

impl Drop for Slot {
    /// A run that is given up does not wait: what is in flight then has an outcome that nobody knows.
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.desk.lost(&flight, "no answer before the end".to_owned(), false);
        }
    }
}

/// Sends one request and reads its answer. From when it is built, `flight` says what is in flight.
async fn exchange(
    live: Live,
    desk: &Desk,
    turn: &Turn,
    flight: &mut Option<Flight>,
) -> Result<(Head, Vec<u8>), Failure> {
    let (request, body, bytes) = build(desk, &turn.work, &live.authority)
        .map_err(|error| Failure { kind: format!("http2: {error}"), never_begun: true })?;
    let since = turn.due.unwrap_or_else(Instant::now);
    *flight = Some(Flight { asked: Asked::of(&turn.work), since, bytes });
    let mut sender = live.sender.ready().await.map_err(|error| Failure::of(&error, true))?;
    let (answer, mut stream) =
        sender.send_request(request, body.is_empty()).map_err(|error| Failure::of(&error, true))?;
    if !body.is_empty()
        && let Err(error) = stream.send_data(body, true)
    {
        return Err(Failure::of(&error, false));
    }
    let failed = |error| Failure::of(&error, false);
    let (parts, mut incoming) = answer.await.map_err(failed)?.into_parts();
    let mut head = head_of(parts.status.as_u16(), &parts.headers);
    let mut kept = Vec::new();
    while let Some(data) = incoming.data().await {
        let data = data.map_err(failed)?;
        head.body_bytes += data.len();
        if kept.len() < ANSWER_BYTES_KEPT {
            kept.extend_from_slice(&data);
        }
        // Fails only when the stream is over, and then nobody waits for room.
        let _ = incoming.flow_control().release_capacity(data.len());
    }
    Ok((head, kept))
}

/// The request, its body, and how many bytes they are before heads are compressed.
fn build(desk: &Desk, work: &Work, authority: &str) -> Result<(Request<()>, Bytes, u64), http::Error> {
    let plan = &desk.shared.plan;
    let mut path = vec![b'/'];
    let mut body = Vec::new();
    let mut request = Request::builder();
    match work {
        Work::Read { key } => {
            plan.records.keys.append(*key, &mut path);
            path.extend_from_slice(plan.read_query.as_bytes());
        }
        Work::Learn { key } => plan.records.keys.append(*key, &mut path),
        Work::Put { write, key, condition } => {
            plan.records.keys.append(*key, &mut path);
            plan.records.values.append(*write, &mut body);
            request = request.method(Method::PUT);
            if let Some((name, value)) = condition.header() {
                request = request.header(name, value);
            }
        }
        Work::Bulk { .. } | Work::Piece(_) => {
            let format = plan.workload.format();
            path = BATCH_PATH.into();
            request = request.method(Method::POST).header("content-type", format.content_type());
            match work {
                Work::Piece(piece) => body.clone_from(&piece.chunk.bytes),
                Work::Bulk { first, count } => {
                    body.reserve(requests::batch_bytes(&plan.records, format, *first, *count));
                    requests::batch(&plan.records, format, *first, *count, &mut body);
                }
                _ => {}
            }
        }
    }
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(&path[..]).build()?;
    let request = request.uri(uri).version(http::Version::HTTP_2).body(())?;
    let bytes = path.len() + authority.len() + body.len() + headers_bytes(request.headers());
    Ok((request, body.into(), bytes as u64))
}

fn headers_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn head_of(status: u16, headers: &HeaderMap) -> Head {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Head {
        status,
        head_bytes: headers_bytes(headers),
        seq: text("scribe-seq").and_then(|seq| seq.parse().ok()),
        replayed: text("idempotency-replayed") == Some("true"),
        retry_after_secs: text("retry-after").and_then(|secs| secs.parse().ok()),
        ..Head::default()
    }
}
