//! A body on its way out: read from its file piece by piece as the connection takes it, and again for another try.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::archive::store::Body;

/// Bytes that are in memory at once.
const PIECE_BYTES: u32 = 256 << 10;

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
