//! JSON answers that are written while they are sent.
//!
//! Takes a document that writes itself step by step, gives a response. A small one is a buffer with a length; of
//! a large one, at most a piece exists at a time, however large its values are and however slowly the client
//! reads. It does not own the shape of any answer.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::{Buf, Bytes};
use hyper::{Response, StatusCode, body::Frame};

use super::json;

/// A piece ends behind this many bytes.
const PIECE_BYTES: usize = 32 << 10;
/// The first one ends here; an answer that fits into it is sent whole. It is written before anyone can tell
/// whether the client takes it, so that every answer nobody takes holds this much.
const FIRST_PIECE_BYTES: usize = 16 << 10;

/// What a piece is guessed to have where it may be small: an event or two.
const PIECE_BYTES_GUESS: usize = 512;

/// What a document has written, and what is to follow.
pub(super) enum Next {
    /// Ask again.
    More,
    /// These bytes as a string of base64; then ask again.
    Base64(Bytes),
    /// These bytes, which are UTF-8, as a string; then ask again.
    Text(Bytes),
    /// Nothing.
    End,
}

/// Writes the name of a value that is given as text where it can be; its bytes follow.
pub(super) fn value(out: &mut Vec<u8>, bytes: &Bytes, is_text: bool) -> Next {
    if is_text {
        out.extend_from_slice(b",\"value\":");
        Next::Text(bytes.clone())
    } else {
        out.extend_from_slice(b",\"value_b64\":");
        Next::Base64(bytes.clone())
    }
}

/// Whether bytes can be given as text.
pub(super) fn is_utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

/// An answer that writes itself.
pub(super) trait Document: Send + Unpin + 'static {
    /// Appends the next few hundred bytes, values apart.
    fn write(&mut self, out: &mut Vec<u8>) -> Next;
}

impl<F: FnMut(&mut Vec<u8>) -> Next + Send + Unpin + 'static> Document for F {
    fn write(&mut self, out: &mut Vec<u8>) -> Next {
        self(out)
    }
}

/// 200 with a document of about `bytes_guess` bytes.
pub(super) fn reply(document: impl Document, bytes_guess: usize) -> Response<Body> {
    let mut pieces = Pieces::new(document);
    let first = pieces.next(FIRST_PIECE_BYTES, bytes_guess);
    if pieces.over {
        return json::reply(StatusCode::OK, first);
    }
    pieces.first = Some(first);
    json::reply(StatusCode::OK, Body::new(pieces))
}

/// What is left of the value that is being written.
enum Value {
    None,
    Base64(Bytes),
    Text(Bytes),
}

/// A document while it is being written.
pub(super) struct Pieces<D> {
    document: D,
    value: Value,
    over: bool,
    /// Written to see whether it is all.
    first: Option<Vec<u8>>,
}

impl<D: Document> Pieces<D> {
    /// Nothing of it yet.
    pub fn new(document: D) -> Self {
        Self { document, value: Value::None, over: false, first: None }
    }

    /// The next piece; `None` behind the last.
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        (!self.over).then(|| self.next(PIECE_BYTES, PIECE_BYTES_GUESS))
    }

    fn next(&mut self, bytes_max: usize, bytes_guess: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes_guess.min(bytes_max + 1_024));
        while !self.over && out.len() < bytes_max {
            let room = bytes_max - out.len();
            let whole = match &mut self.value {
                Value::None => true,
                Value::Base64(bytes) => write_base64(&mut out, bytes, room),
                Value::Text(bytes) => write_text(&mut out, bytes, room),
            };
            if !whole {
                break;
            }
            self.value = Value::None;
            match self.document.write(&mut out) {
                Next::More => {}
                Next::End => self.over = true,
                Next::Base64(bytes) => {
                    out.push(b'"');
                    self.value = Value::Base64(bytes);
                }
                Next::Text(bytes) => {
                    out.push(b'"');
                    self.value = Value::Text(bytes);
                }
            }
        }
        out
    }
}

/// Writes about `room` bytes of a string and its closing quote, if that is the end; whether it was.
fn write_base64(out: &mut Vec<u8>, bytes: &mut Bytes, room: usize) -> bool {
    // Groups of three, or there would be padding inside.
    let now = bytes.len().min((room / 4).max(1) * 3);
    json::write_base64(out, &bytes[..now]);
    bytes.advance(now);
    end_string(out, bytes)
}

/// As [`write_base64`], for text. Escapes can make it six times as long as `room`.
fn write_text(out: &mut Vec<u8>, bytes: &mut Bytes, room: usize) -> bool {
    let mut now = bytes.len().min(room.max(4));
    let text = match std::str::from_utf8(&bytes[..now]) {
        Ok(text) => text,
        // The cut went through a character; there is none before it only if this is not UTF-8 at all.
        Err(error) => {
            now = error.valid_up_to();
            std::str::from_utf8(&bytes[..now]).unwrap_or_default()
        }
    };
    let start = out.len();
    // Writing into memory cannot fail, and a string always has a JSON form; without its two quotes.
    let _ = serde_json::to_writer(&mut *out, text);
    out.pop();
    out.remove(start);
    bytes.advance(if now == 0 { bytes.len() } else { now });
    end_string(out, bytes)
}

fn end_string(out: &mut Vec<u8>, rest: &Bytes) -> bool {
    if rest.is_empty() {
        out.push(b'"');
    }
    rest.is_empty()
}

impl<D: Document> hyper::body::Body for Pieces<D> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.first.take() {
            Some(first) => first,
            None if self.over => return Poll::Ready(None),
            None => self.next(PIECE_BYTES, usize::MAX),
        };
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.over && self.first.is_none()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::body::Body as _;

    use super::*;

    /// A document of these strings in an array.
    fn array(values: Vec<Next>) -> impl Document {
        let mut values = values.into_iter();
        let mut begun = false;
        move |out: &mut Vec<u8>| match values.next() {
            Some(value) => {
                out.push(if std::mem::replace(&mut begun, true) { b',' } else { b'[' });
                value
            }
            None => {
                out.push(b']');
                Next::End
            }
        }
    }

    /// All pieces of a response's body.
    fn pieces_of(response: Response<Body>) -> Vec<Bytes> {
        let mut body = response.into_body();
        let mut pieces = Vec::new();
        while let Some(frame) = futures_util::FutureExt::now_or_never(body.frame()).expect("never waits") {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        pieces
    }

    #[test]
    fn a_small_answer_has_a_length_and_a_large_one_is_never_held() {
        let small =
            reply(array(vec![Next::Base64("hello".into()), Next::More, Next::Text("\"\n".into())]), 0);
        assert_eq!(small.body().size_hint().exact(), Some(20));
        assert_eq!(pieces_of(small).concat(), b"[\"aGVsbG8=\",,\"\\\"\\n\"]");

        let value = Bytes::from((0..5_000_000).map(|n| (n % 251) as u8).collect::<Vec<_>>());
        let large = reply(array(vec![Next::Base64(value.clone()), Next::Base64(value.clone())]), usize::MAX);
        let pieces = pieces_of(large);
        assert!(pieces[0].len() <= FIRST_PIECE_BYTES + 16, "what nobody takes is small");
        assert!(pieces.len() > 400 && pieces.iter().all(|piece| piece.len() <= PIECE_BYTES + 16));
        let strings: Vec<String> = serde_json::from_slice(&pieces.concat()).unwrap();
        assert!(
            strings.iter().all(|text| json::from_base64(text.as_bytes()).as_ref() == Some(&value.to_vec()))
        );
    }

    #[test]
    fn text_is_cut_between_characters() {
        for pattern in ["a", "\u{e9}", "a\u{20ac}", "\u{1f600}xyz", "\0\u{7f}\"\\\n"] {
            let text = pattern.repeat(200_000);
            let pieces = pieces_of(reply(array(vec![Next::Text(text.clone().into())]), 0));
            assert!(pieces.iter().all(|piece| piece.len() <= 6 * PIECE_BYTES + 16), "{pattern:?}");
            let strings: Vec<String> = serde_json::from_slice(&pieces.concat()).unwrap();
            assert!(strings == [text], "{pattern:?}");
        }
    }
}
