//! Reading a request's body: with a bound, with patience that ends, and politely when it is refused.
//!
//! Takes hyper's body, gives chunks. It does not decode: the coding and the format are the caller's.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap,
    body::{Body, Frame},
    header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HeaderValue, TRANSFER_ENCODING},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    decode::coding::Coding,
    pace::{BYTES_PER_SEC_MIN, Pace},
    problem::Problem,
};
use crate::error::Code;

/// A refused body is read to its end up to this size, so that the client, which may read only after it has
/// written all, finds the answer rather than a reset. A larger one is cut off.
const DRAIN_BYTES_MAX: u64 = 256 << 20;
/// … and for no longer than this.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Memory that a body of several chunks takes at first.
const GROWN_BYTES_MIN: usize = 64 << 10;

/// A request body that can be read once.
#[derive(Debug)]
pub struct RequestBody<Bd> {
    body: Bd,
    /// Longest pause between two chunks.
    pause: Duration,
    pace: Pace,
    received: u64,
    begun: bool,
    over: bool,
    expects_continue: bool,
    end: End,
}

/// How one knows that a body is whole. hyper takes an HTTP/2 stream that its client reset without an error
/// for one that has ended, so its word is not enough.
#[derive(Clone, Copy, Debug)]
enum End {
    /// HTTP/1.1 chunks: hyper sees the last one.
    Framed,
    /// `Content-Length` bytes have come.
    After(u64),
    /// HTTP/2 without a length: the stream's end was marked.
    Marked,
    /// In a transfer coding that we do not undo: what hyper gives would not be the body.
    Unknown,
}

impl<Bd: Body<Data = Bytes> + Unpin> RequestBody<Bd> {
    /// A body that may pause for `pause` between two chunks.
    pub fn new(body: Bd, headers: &HeaderMap, pause: Duration) -> Self {
        let over = body.is_end_stream();
        let length = headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
        let end = match length {
            _ if headers.contains_key(TRANSFER_ENCODING) => {
                let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
                let chunked =
                    |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
                let known = codings.next().is_some_and(chunked) && codings.next().is_none();
                if known { End::Framed } else { End::Unknown }
            }
            Some(length) => End::After(length),
            None => End::Marked,
        };
        Self {
            body,
            pause,
            pace: Pace::new(pause),
            received: 0,
            begun: false,
            over,
            expects_continue: headers.contains_key(EXPECT),
            end,
        }
    }

    /// Its size, where the request says so and it has not been read yet.
    pub fn known_len(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// 408 when it pauses for too long or comes too slowly, 400 when it breaks off. Both end the connection.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        self.begun = true;
        if matches!(self.end, End::Unknown) {
            self.over = true;
            return Err(Problem::transfer_coding());
        }
        loop {
            // What is there already costs no timer.
            let frame = match self.body.frame().now_or_never() {
                Some(frame) => frame,
                None => self.wait().await?,
            };
            match frame {
                None => {
                    self.over = true;
                    let whole = match self.end {
                        End::Framed => true,
                        End::After(length) => self.received == length,
                        End::Marked => self.body.is_end_stream(),
                        End::Unknown => false,
                    };
                    return if whole { Ok(None) } else { Err(broken_off()) };
                }
                Some(Ok(frame)) => {
                    // Trailers are not data and mean nothing here.
                    if let Ok(data) = frame.into_data() {
                        self.received += data.len() as u64;
                        return Ok(Some(data));
                    }
                }
                Some(Err(_)) => {
                    self.over = true;
                    return Err(broken_off());
                }
            }
        }
    }

    /// Waits for the next frame, for as long as the client neither pauses for too long nor falls below the pace.
    async fn wait(&mut self) -> Result<Option<Result<Frame<Bytes>, Bd::Error>>, Problem> {
        let too_long = Instant::now() + self.pause;
        while let Some(window_ends) = self.pace.look(Instant::now(), self.received) {
            match timeout_at(window_ends.min(too_long), self.body.frame()).await {
                Ok(frame) => return Ok(frame),
                Err(_) if Instant::now() >= too_long => break,
                Err(_) => {}
            }
        }
        self.over = true;
        let detail = format!(
            "the body paused for {:?}, or came slower than {BYTES_PER_SEC_MIN} bytes a second over that time",
            self.pause
        );
        Err(Problem::new(Code::Timeout, detail).closing())
    }

    /// The whole body, if it has at most `max` bytes. `room` is asked before memory for so many bytes is taken.
    ///
    /// # Errors
    /// 413, whatever `room` answers, and as [`RequestBody::next`].
    pub async fn collect(
        &mut self,
        max: usize,
        mut room: impl FnMut(usize) -> Result<(), Problem>,
    ) -> Result<Bytes, Problem> {
        let known = self.announced(max)?;
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        if known == Some(first.len()) {
            // The common case: one chunk, not copied. The end is read as well: an HTTP/2 client may send it in
            // a frame of its own, and would find the stream reset before it could.
            room(first.len())?;
            return match self.next().await? {
                None => Ok(first),
                Some(_) => Err(longer_than_announced()),
            };
        }
        let mut whole = BytesMut::new();
        let mut next = Some(first);
        while let Some(chunk) = next {
            let len = whole.len() + chunk.len();
            if len > max {
                return Err(too_large(max));
            }
            if let Some(capacity) = grown(whole.capacity(), len, known) {
                room(capacity)?;
                whole.reserve(capacity - whole.len());
            }
            whole.extend_from_slice(&chunk);
            next = self.next().await?;
        }
        Ok(whole.freeze())
    }

    /// The size that the request announces.
    ///
    /// # Errors
    /// 413 when that is more than `max`.
    pub fn announced(&self, max: usize) -> Result<Option<usize>, Problem> {
        self.known_len()
            .map(|len| usize::try_from(len).ok().filter(|len| *len <= max).ok_or_else(|| too_large(max)))
            .transpose()
    }

    /// Makes sure that the client can read this refusal: takes what it is still sending, within bounds.
    pub async fn refuse(mut self, problem: Problem) -> Problem {
        if self.over {
            return problem;
        }
        // A client that waits for 100 Continue has sent nothing and will not.
        let waits = self.expects_continue && !self.begun;
        if waits || self.body.size_hint().lower() > DRAIN_BYTES_MAX {
            return problem.closing();
        }
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        let mut drained = 0;
        while drained <= DRAIN_BYTES_MAX {
            match timeout_at(deadline, timeout(self.pause, self.body.frame())).await {
                Ok(Ok(Some(Ok(frame)))) => drained += frame.data_ref().map_or(0, |data| data.len() as u64),
                Ok(Ok(None)) => return problem,
                _ => break,
            }
        }
        problem.closing()
    }
}

/// The capacity to grow to when `len` bytes do not fit: as bytes arrive and not as they are announced, or a
/// head would be enough to take 64 MiB; and never beyond what is announced.
pub fn grown(capacity: usize, len: usize, announced: Option<usize>) -> Option<usize> {
    (len > capacity)
        .then(|| (capacity * 2).max(GROWN_BYTES_MIN).min(announced.unwrap_or(usize::MAX)).max(len))
}

/// 400: more bytes than the request's head said.
pub fn longer_than_announced() -> Problem {
    Problem::new(Code::Malformed, "the body is longer than its Content-Length").closing()
}

fn broken_off() -> Problem {
    Problem::new(Code::Malformed, "the body breaks off").closing()
}

/// 413 with the bound.
pub fn too_large(max: usize) -> Problem {
    Problem::new(Code::TooLarge, format!("the body has more than {max} bytes"))
}

/// For calls whose bodies are taken only as they are.
///
/// # Errors
/// 415 when the request has a content coding.
pub fn identity_only(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(CONTENT_ENCODING) {
        Some(value) if Coding::from_header(value.as_bytes()) != Some(Coding::Identity) => {
            Err(Problem::unsupported_media("only POST /api/v1/batch takes a Content-Encoding"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    #[test]
    fn memory_grows_with_what_has_come() {
        assert_eq!(grown(0, 10, Some(64 << 20)), Some(GROWN_BYTES_MIN), "a head alone is worth little");
        assert_eq!(grown(0, 10, Some(100)), Some(100));
        assert_eq!(grown(0, 1 << 20, None), Some(1 << 20));
        assert_eq!(grown(1 << 20, (1 << 20) + 1, None), Some(2 << 20));
        assert_eq!(grown(48 << 20, (48 << 20) + 1, Some(64 << 20)), Some(64 << 20));
        assert_eq!(grown(100, 100, Some(100)), None);
    }

    /// A body used to take its announced size before it was asked whether there is room.
    #[tokio::test]
    async fn room_is_asked_for_before_memory_is_taken() {
        const CHUNK: usize = 100_000;
        let chunks = (0..40).map(|_| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![7; CHUNK]))));
        let body = StreamBody::new(futures_util::stream::iter(chunks));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("64000000"));
        let mut body = RequestBody::new(body, &headers, Duration::from_secs(1));
        let mut asked = Vec::new();
        let refused = body
            .collect(64 << 20, |bytes| {
                asked.push(bytes);
                if bytes > 1 << 20 { Err(too_large(1 << 20)) } else { Ok(()) }
            })
            .await;
        assert_eq!(refused.unwrap_err().status(), hyper::StatusCode::PAYLOAD_TOO_LARGE);
        assert!(asked.is_sorted() && asked[0] == CHUNK && asked.len() < 8, "{asked:?}");
        assert!(body.received <= 11 * CHUNK as u64, "{}", body.received);
    }
}
