//! One client connection, from its first byte to its end.
//!
//! Takes an accepted socket, runs hyper on it (HTTP/1.1, or HTTP/2 where the client begins with its
//! preface), and ends it when the client is too slow, when it is idle for long, or when the node stops. It
//! does not answer requests: [`Server`] does.
//!
//! A stop cuts no request in two. From its beginning every answer of HTTP/1.1 says `Connection: close`; a connection
//! on which nothing has come has [`LAST_REQUEST_WITHIN`] for a request that is on its way, and is closed then unless
//! the first byte of one is there. HTTP/2 says GOAWAY, which names the last request that is answered.
//!
//! A connection that has not sent a byte costs a small task and no buffers.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use hyper::{
    Request, Version,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, Interval, interval_at, sleep, timeout},
};

use super::{
    Server,
    backend::Backend,
    body::RequestBody,
    limit::Limiter,
    problem::Problem,
    route::is_probe,
    sent::Sent,
    watch::Endless,
    watchdog::{Answering, IDLE_TIMEOUTS, Signs, TICKS, Verdict, Watchdog},
};
use crate::error::Code;

/// What tells HTTP/2 from any HTTP/1 method: the beginning of RFC 9113's preface.
const HTTP2_PREFACE: &[u8] = b"PRI ";
/// Streams of one HTTP/2 connection at a time.
const HTTP2_STREAMS_MAX: u32 = 256;
/// Streams that a client has reset and that we have not seen yet; more end the connection (rapid reset).
const HTTP2_RESETS_MAX: usize = 32;
/// Bytes of answers that one HTTP/2 stream holds for a client that does not take them.
const HTTP2_SEND_BYTES_MAX: usize = 64 << 10;

/// Longest head of a request: a key and three bounds of a scan, each percent-encoded throughout, and as much
/// again for headers.
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 100;
/// Most bytes that hyper reads ahead or gathers for one write.
const BUFFER_BYTES_MAX: usize = 256 << 10;

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not at all.
    Run,
    /// Finish the requests under way, take no new ones.
    Drain,
    /// Close now.
    Cut,
}

/// What the connections share.
pub(super) struct Shared<B> {
    pub server: Server<B>,
    pub limiter: Limiter,
    pub read_timeout: Duration,
}

/// Runs a connection to its end.
pub(super) async fn run<B: Backend>(
    shared: Arc<Shared<B>>,
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<Stop>,
) {
    let read_timeout = shared.read_timeout;
    let mut stream = stream;
    let http2 = loop {
        let last_request = async {
            // Without a sender there is no server left to serve for.
            let _ = stop.wait_for(|stop| *stop != Stop::Run).await;
            sleep(LAST_REQUEST_WITHIN).await;
        };
        tokio::select! {
            biased;
            http2 = timeout(read_timeout * IDLE_TIMEOUTS, begins_with_http2(&stream, read_timeout)) => match http2 {
                Ok(Ok(http2)) => break http2,
                _ => return,
            },
            () = last_request => match look_for_unread(stream) {
                Ok((waiting, true)) if *stop.borrow() != Stop::Cut => stream = waiting,
                Ok((silent, _)) => return close(silent).await,
                Err(_) => return,
            },
        }
    };
    // Boxed so that the connections that never come this far stay small.
    if http2 {
        Box::pin(run_http2(shared, stream, peer, stop)).await;
    } else {
        Box::pin(run_http1(shared, stream, peer, stop)).await;
    }
}

/// Waits until stopping has come further than this connection knows.
async fn next_stop(stop: &mut watch::Receiver<Stop>, draining: bool) -> Stop {
    let further = |stop: &Stop| *stop == Stop::Cut || (*stop == Stop::Drain && !draining);
    // Without a sender there is no server left to serve for.
    stop.wait_for(further).await.map_or(Stop::Cut, |stop| *stop)
}

/// How long a client has, when the node stops, for the request that it may be sending on a connection that was kept.
/// The answer tells it that there is no other; one that has none to send sees the end before it has.
///
/// For as long clients may take the last events of a stream. Those that do not read would otherwise hold up the stop
/// for as long as it may take.
const LAST_REQUEST_WITHIN: Duration = Duration::from_millis(200);

/// How long a connection that was ended by a stop is kept for its client to see the end, and not a reset: what
/// it sends meanwhile is read and not looked at.
const SEES_THE_END_WITHIN: Duration = Duration::from_millis(200);

fn looks_while_draining() -> Interval {
    interval_at(Instant::now() + LAST_REQUEST_WITHIN, LAST_REQUEST_WITHIN)
}

/// Whether the client has sent what nobody has read. Asks the system itself: the runtime may not have heard yet.
fn look_for_unread(stream: TcpStream) -> io::Result<(TcpStream, bool)> {
    let stream = stream.into_std()?;
    let is_unread = match stream.peek(&mut [0]) {
        Ok(len) => len > 0,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => return Err(error),
    };
    Ok((TcpStream::from_std(stream)?, is_unread))
}

/// Says the end to a client whose last request has been answered.
async fn close(mut stream: TcpStream) {
    let _ = timeout(SEES_THE_END_WITHIN, async {
        stream.shutdown().await?;
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// Looks at the first bytes and leaves them where they are.
async fn begins_with_http2(stream: &TcpStream, patience: Duration) -> io::Result<bool> {
    let mut first = [0; HTTP2_PREFACE.len()];
    let mut deadline = None;
    loop {
        let len = stream.peek(&mut first).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if len == first.len() || !HTTP2_PREFACE.starts_with(&first[..len]) {
            return Ok(first == *HTTP2_PREFACE);
        }
        // A part of the preface: `peek` gives it again at once, so wait a little for the rest.
        if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + patience) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn answer<B: Backend>(
    shared: &Shared<B>,
    signs: &Arc<Signs>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> hyper::Response<Sent> {
    let answering = Answering::begin(signs);
    let is_http2 = request.version() == Version::HTTP_2;
    let chunk_bytes_max = if is_http2 { HTTP2_SEND_BYTES_MAX } else { usize::MAX };
    let mut response = answer_or_limit(shared, peer, request).await;
    if (B::IS_STAND_IN || signs.is_stopping()) && !is_http2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let endless = response.extensions().get::<Endless>().is_some();
    response.map(|body| Sent::new(body, chunk_bytes_max, answering.sending(endless)))
}

async fn answer_or_limit<B: Backend>(
    shared: &Shared<B>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> hyper::Response<Body> {
    if !is_probe(request.method(), request.uri().path())
        && let Err(error) = shared.limiter.check(peer.ip())
    {
        shared.server.app.metrics.error(error.code().slug());
        let (parts, body) = request.into_parts();
        let body = RequestBody::new(body, &parts.headers, shared.read_timeout);
        // Boxed: the common request does not carry its refusal's future.
        return Box::pin(body.refuse(error.into())).await.into_response();
    }
    shared.server.answer(request).await
}

async fn run_http1<B: Backend>(
    shared: Arc<Shared<B>>,
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<Stop>,
) {
    let signs = Arc::new(Signs::default());
    let tick = shared.read_timeout / TICKS;
    let context = (Arc::clone(&shared), Arc::clone(&signs));
    let context = Arc::new(context);
    let service = service_fn(move |request| {
        let context = Arc::clone(&context);
        async move {
            let (shared, signs) = &*context;
            Ok::<_, std::convert::Infallible>(answer(shared, signs, peer, request).await)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // A client may close its sending half and wait for the answer. hyper's `pipeline_flush` is off for good: with
    // it, hyper's buffer has no bound, and what stands behind a request keeps its answer back, for ever if that
    // is no HTTP.
    builder
        .half_close(true)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    let watched = |stream, unread| TokioIo::new(Watched { stream, unread, signs: Arc::clone(&signs) });
    let mut conn = builder.serve_connection(watched(stream, Bytes::new()), service.clone());
    let mut ticks = interval_at(Instant::now() + tick, tick);
    let mut watchdog = Watchdog::new(shared.read_timeout);
    let mut draining = false;
    let mut looks = looks_while_draining();
    let slow_head = loop {
        tokio::select! {
            biased;
            // Errors here are the client's: it went away or sent no HTTP, which hyper has answered.
            ended = &mut conn => {
                if draining && ended.is_ok() {
                    close(conn.into_parts().io.into_inner().stream).await;
                }
                return;
            }
            stop = next_stop(&mut stop, draining) => {
                if stop == Stop::Cut {
                    return;
                }
                draining = true;
                looks.reset();
                // Not hyper's graceful shutdown, which closes a kept connection although a request is on its way there.
                signs.stop();
            }
            _ = looks.tick(), if draining => {
                if signs.only_streams() {
                    return;
                }
                if signs.is_idle() {
                    let parts = conn.into_parts();
                    match look_for_unread(parts.io.into_inner().stream) {
                        Ok((silent, false)) if parts.read_buf.is_empty() => return close(silent).await,
                        Ok((stream, _)) => {
                            conn = builder.serve_connection(watched(stream, parts.read_buf), service.clone());
                        }
                        Err(_) => return,
                    }
                }
            }
            _ = ticks.tick() => match watchdog.tick(&signs) {
                Verdict::KeepGoing => {}
                Verdict::SlowHead => break true,
                Verdict::SlowReader => break false,
                Verdict::Idle => return,
            },
        }
    };
    shared.server.app.metrics.connections.timed_out.fetch_add(1, Relaxed);
    if slow_head {
        let problem = Problem::new(Code::Timeout, "the request's head did not arrive in time");
        shared.server.app.metrics.error(problem.slug());
        say_and_close(conn.into_parts().io.into_inner().stream, &problem).await;
    }
}

async fn run_http2<B: Backend>(
    shared: Arc<Shared<B>>,
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<Stop>,
) {
    let signs = Arc::new(Signs::default());
    let context = Arc::new((Arc::clone(&shared), Arc::clone(&signs)));
    let service = service_fn(move |request| {
        let context = Arc::clone(&context);
        async move {
            let (shared, signs) = &*context;
            Ok::<_, std::convert::Infallible>(answer(shared, signs, peer, request).await)
        }
    });
    let io = TokioIo::new(Watched { stream, unread: Bytes::new(), signs: Arc::clone(&signs) });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_pending_accept_reset_streams(HTTP2_RESETS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(HTTP2_SEND_BYTES_MAX)
        .adaptive_window(true)
        .keep_alive_interval(shared.read_timeout)
        .keep_alive_timeout(shared.read_timeout);
    let mut conn = pin!(builder.serve_connection(io, service));
    let tick = shared.read_timeout / TICKS;
    let mut ticks = interval_at(Instant::now() + tick, tick);
    let mut watchdog = Watchdog::new(shared.read_timeout);
    let mut draining = false;
    let mut looks = looks_while_draining();
    loop {
        tokio::select! {
            biased;
            _ = &mut conn => return,
            stop = next_stop(&mut stop, draining) => {
                if stop == Stop::Cut {
                    return;
                }
                draining = true;
                looks.reset();
                signs.stop();
                conn.as_mut().graceful_shutdown();
            }
            _ = looks.tick(), if draining => if signs.only_streams() {
                return;
            },
            _ = ticks.tick() => {
                // Frames are not heads: only the silence of the whole connection counts here.
                signs.head_begun.store(false, Relaxed);
                match watchdog.tick(&signs) {
                    Verdict::KeepGoing | Verdict::SlowHead => {}
                    Verdict::SlowReader => break,
                    Verdict::Idle => return,
                }
            }
        }
    }
    shared.server.app.metrics.connections.timed_out.fetch_add(1, Relaxed);
}

/// How long a client that is being turned away may take to hear it.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);

/// Writes a problem without hyper and closes. Reads what the client sends meanwhile: closing a socket with
/// unread bytes resets it, and the client would not see the answer.
pub(super) async fn say_and_close(mut stream: TcpStream, problem: &Problem) {
    let document = problem.document();
    let status = problem.status();
    let retry = if status == hyper::StatusCode::SERVICE_UNAVAILABLE { "Retry-After: 1\r\n" } else { "" };
    let text = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/problem+json\r\n{retry}Content-Length: {}\r\nConnection: close\r\n\r\n{document}",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        document.len(),
    );
    let _ = timeout(REFUSAL_TIME_MAX, async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// A socket that leaves signs of what happens on it.
struct Watched {
    stream: TcpStream,
    /// What was read from it before and comes first.
    unread: Bytes,
    signs: Arc<Signs>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let now = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(now));
            self.signs.head_begun.store(true, Relaxed);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.signs.head_begun.store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl Watched {
    fn note(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.signs.write_blocked.store(poll.is_pending(), Relaxed);
        if let Poll::Ready(Ok(written)) = &poll {
            self.signs.written_bytes.fetch_add(*written as u64, Relaxed);
        }
        poll
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(poll)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
