//! A body on its way out: read from its file piece by piece as the connection takes it, and again for another try.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use md5::{Digest, Md5};

use crate::{archive::store::Body, runtime::without_blocking_others};

/// Bytes that are in memory at once.
const PIECE_BYTES: u32 = 256 << 10;

/// What `Content-MD5` says of a body: the store refuses one that was spoiled on its way, so that nothing else than what
/// was sent is ever there under its name. Every S3 server knows it, as those do not that know newer checksums.
///
/// # Errors
/// What the file says.
pub(super) fn md5(body: &Body) -> io::Result<String> {
    let mut hasher = Md5::new();
    let mut offset = 0;
    loop {
        let piece = body.piece(offset, PIECE_BYTES)?;
        if piece.is_empty() {
            return Ok(BASE64_STANDARD.encode(hasher.finalize()));
        }
        offset += piece.len() as u64;
        without_blocking_others(piece.len(), || hasher.update(&piece));
    }
}

/// The SDK's form of a body.
pub(super) fn stream(body: Body) -> ByteStream {
    match body {
        Body::Bytes(bytes) => bytes.into(),
        body @ Body::File { .. } => {
            let open = move || SdkBody::from_body_1_x(Pieces { body: body.clone(), offset: 0 });
            ByteStream::new(SdkBody::retryable(open))
        }
    }
}

struct Pieces {
    body: Body,
    offset: u64,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = self.body.piece(self.offset, PIECE_BYTES);
        Poll::Ready(match piece {
            Ok(piece) if piece.is_empty() => None,
            Ok(piece) => {
                self.offset += piece.len() as u64;
                Some(Ok(Frame::data(piece)))
            }
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.offset >= self.body.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.len().saturating_sub(self.offset))
    }
}
