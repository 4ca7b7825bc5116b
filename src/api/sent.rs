//! The bytes of an answer on their way to the client.
//!
//! Takes the body that a handler made, gives hyper its frames, and leaves signs of whose turn it is, ours or the client's.
//! It ends answers that have no end when the node stops. It does not own the connection.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::{watch::EVENT_END, watchdog::Sending};

/// The body of an answer, which leaves a sign for as long as it is not sent. One that waits for more to say (a watch)
/// is at a place where it may end, and does when the node stops; one that never waits, because there is so much to
/// say, ends behind a whole event.
pub(super) struct Sent {
    body: Body,
    /// Most bytes handed over at once. HTTP/2 takes a chunk whole when its window has room for a byte of it, and
    /// this body would end long before the client has it; HTTP/1 knows from its socket.
    chunk_bytes_max: usize,
    /// The rest of a chunk.
    rest: Bytes,
    sending: Sending,
    /// Whether what was sent ends with a whole event; of no meaning unless it is a stream of them.
    between_events: bool,
    /// Resolves when the node stops, once the body has had to wait.
    stopped: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Sent {
    /// An answer whose chunks are handed over in pieces of at most so many bytes.
    pub fn new(body: Body, chunk_bytes_max: usize, sending: Sending) -> Self {
        Self { body, chunk_bytes_max, rest: Bytes::new(), sending, between_events: true, stopped: None }
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stopped, sending, .. } = self;
        let stopped = stopped.get_or_insert_with(|| {
            let signs = Arc::clone(sending.signs());
            Box::pin(async move { signs.stopped().await })
        });
        stopped.as_mut().poll(cx)
    }
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut chunk = std::mem::take(&mut self.rest);
        if chunk.is_empty() {
            let Self { sending, between_events, .. } = &*self;
            if *between_events && sending.is_endless() && sending.signs().is_stopping() {
                return Poll::Ready(None);
            }
            let frame = Pin::new(&mut self.body).poll_frame(cx);
            self.sending.waits(frame.is_pending());
            if frame.is_pending() {
                return self.poll_stopped(cx).map(|()| None);
            }
            match ready!(frame).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    self.between_events = data.ends_with(EVENT_END);
                    chunk = data;
                }
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        if chunk.len() > self.chunk_bytes_max {
            self.rest = chunk.split_off(self.chunk_bytes_max);
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        hint.exact().map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + rest))
    }
}
