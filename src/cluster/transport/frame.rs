//! A message between members as bytes, and the reader that finds messages in a stream.
//!
//! ```text
//!  u32 length │ u64 request id │ u8 kind │ payload, `length` bytes            integers little-endian
//!                                   1 request   the caller's bytes
//!                                   2 reply     the handler's bytes
//!                                   3 error     u8 0, or 1 if the request was not seen │ UTF-8 message
//!                                   4 ping      nothing; id 0
//! ```
//!
//! Length and kind stand in a header of fixed size, so that a length out of bounds is refused before anything is
//! allocated for it. A long payload is read into an allocation of its own and exactly its size; short ones share the
//! buffer they were read into. Either way the payload given out is what was read, not a copy.
//!
//! It does not own who may send what, nor in which order.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes before a payload.
pub(super) const HEADER_BYTES: usize = 13;

/// What is read at once while frames are short.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Longest payload that shares the buffer of its neighbours.
const SHARED_BYTES_MAX: usize = 16 << 10;

/// What is read at once of a long payload: other connections of the thread get their turn in between.
const READ_BYTES_MAX: usize = 1 << 20;

/// Longest message that an error frame carries.
const ERROR_BYTES_MAX: usize = 4 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Request = 1,
    Reply = 2,
    Error = 3,
    Ping = 4,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub id: u64,
    pub kind: Kind,
    pub payload: Bytes,
}

impl Frame {
    /// Says that this end is there.
    pub const PING: Self = Self { id: 0, kind: Kind::Ping, payload: Bytes::new() };

    /// What a handler made of request `id`.
    pub fn answer(id: u64, result: io::Result<Bytes>, payload_bytes_max: usize) -> Self {
        match result {
            Ok(payload) if payload.len() <= payload_bytes_max => Self { id, kind: Kind::Reply, payload },
            Ok(payload) => {
                let why =
                    format!("the reply has {} bytes, the lane takes {payload_bytes_max}", payload.len());
                Self { id, kind: Kind::Error, payload: encode_error(&io::Error::other(why)) }
            }
            Err(error) => Self { id, kind: Kind::Error, payload: encode_error(&error) },
        }
    }

    /// The bytes before its payload.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let mut to = &mut header[..];
        // Payloads are at most a lane's bound, which is far below 4 GiB.
        to.put_u32_le(self.payload.len() as u32);
        to.put_u64_le(self.id);
        to.put_u8(self.kind as u8);
        header
    }
}

fn encode_error(error: &io::Error) -> Bytes {
    let message = error.to_string();
    let end = message.floor_char_boundary(ERROR_BYTES_MAX);
    let mut bytes = BytesMut::with_capacity(1 + end);
    bytes.put_u8(u8::from(error.kind() == io::ErrorKind::NotConnected));
    bytes.put_slice(&message.as_bytes()[..end]);
    bytes.freeze()
}

/// The error in an error frame.
pub(super) fn decode_error(payload: &[u8]) -> io::Error {
    let kind = if payload.first() == Some(&1) { io::ErrorKind::NotConnected } else { io::ErrorKind::Other };
    io::Error::new(kind, String::from_utf8_lossy(payload.get(1..).unwrap_or_default()))
}

/// What a peer sent and no peer sends.
pub(super) fn malformed(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// The part of a frame that comes first.
struct Header {
    length: usize,
    id: u64,
    kind: Kind,
}

impl Header {
    fn decode(mut bytes: &[u8], payload_bytes_max: usize) -> io::Result<Self> {
        let (length, id, kind) = (bytes.get_u32_le() as usize, bytes.get_u64_le(), bytes.get_u8());
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Reply,
            3 => Kind::Error,
            4 => Kind::Ping,
            other => return Err(malformed(format!("a frame of kind {other}"))),
        };
        let most = match kind {
            Kind::Request | Kind::Reply => payload_bytes_max,
            Kind::Error => 1 + ERROR_BYTES_MAX,
            Kind::Ping => 0,
        };
        if length > most {
            return Err(malformed(format!("a {kind:?} frame of {length} bytes, where {most} is the most")));
        }
        Ok(Self { length, id, kind })
    }

    fn with(self, payload: Bytes) -> Frame {
        Frame { id: self.id, kind: self.kind, payload }
    }
}

/// Finds frames in what comes.
pub(super) struct FrameReader<R> {
    from: R,
    /// Read, and not given out.
    buffer: BytesMut,
    /// A long payload on its way, into memory of its own.
    long: Option<(Header, BytesMut)>,
    payload_bytes_max: usize,
    /// Everything that ever came.
    pub bytes_read: u64,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader of payloads of at most this size.
    pub fn new(from: R, payload_bytes_max: usize) -> Self {
        Self { from, buffer: BytesMut::new(), long: None, payload_bytes_max, bytes_read: 0 }
    }

    /// The next frame, or `None` when the stream ends between two. Giving up the wait loses nothing.
    ///
    /// # Errors
    /// `InvalidData` for what is no frame, `UnexpectedEof` for a part of one, and the stream's.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.fill().await? == 0 {
                let between = self.buffer.is_empty() && self.long.is_none();
                return if between { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// A frame, if all of it has come.
    fn take(&mut self) -> io::Result<Option<Frame>> {
        if self.long.is_some() {
            let whole = self.long.take_if(|(header, payload)| payload.len() == header.length);
            return Ok(whole.map(|(header, payload)| header.with(payload.freeze())));
        }
        let Some(header) = self.buffer.get(..HEADER_BYTES) else { return Ok(None) };
        let header = Header::decode(header, self.payload_bytes_max)?;
        if self.buffer.len() - HEADER_BYTES >= header.length {
            self.buffer.advance(HEADER_BYTES);
            let payload = self.buffer.split_to(header.length).freeze();
            return Ok(Some(header.with(payload)));
        }
        if header.length > SHARED_BYTES_MAX {
            self.buffer.advance(HEADER_BYTES);
            let mut payload = BytesMut::with_capacity(header.length);
            payload.put_slice(&self.buffer);
            self.buffer.clear();
            self.long = Some((header, payload));
        }
        Ok(None)
    }

    /// Reads what there is, and says how much.
    async fn fill(&mut self) -> io::Result<usize> {
        let read = if let Some((header, payload)) = &mut self.long {
            let missing = header.length - payload.len();
            self.from.read_buf(&mut payload.limit(missing.min(READ_BYTES_MAX))).await?
        } else {
            // A short frame that has begun fits, so what is left over here is never long.
            let len = self.buffer.len();
            if self.buffer.capacity() - len < HEADER_BYTES + SHARED_BYTES_MAX {
                self.buffer.reserve(READ_AHEAD_BYTES - len);
            }
            self.from.read_buf(&mut self.buffer).await?
        };
        self.bytes_read += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    const MAX: usize = 100_000;

    /// Gives its bytes in pieces, and then nothing more.
    struct Pieces {
        bytes: Bytes,
        sizes: Vec<usize>,
        next: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            to: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let size = self.sizes[self.next % self.sizes.len()].max(1);
            self.next += 1;
            let len = size.min(to.remaining()).min(self.bytes.len());
            to.put_slice(&self.bytes.split_to(len));
            Poll::Ready(Ok(()))
        }
    }

    fn read_all(bytes: Bytes, sizes: Vec<usize>) -> (Vec<Frame>, io::Result<()>) {
        let mut reader = FrameReader::new(Pieces { bytes, sizes, next: 0 }, MAX);
        let mut frames = Vec::new();
        loop {
            match reader.next().now_or_never().unwrap() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, Ok(())),
                Err(error) => return (frames, Err(error)),
            }
        }
    }

    fn encode(frames: &[Frame]) -> Bytes {
        frames.iter().flat_map(|frame| frame.header().into_iter().chain(frame.payload.clone())).collect()
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let len =
            prop_oneof![4 => 0..200usize, 1 => SHARED_BYTES_MAX - 2..SHARED_BYTES_MAX + 2, 1 => 0..=MAX];
        let kind = prop_oneof![Just(Kind::Request), Just(Kind::Reply), Just(Kind::Error), Just(Kind::Ping)];
        (any::<u64>(), kind, len, any::<u8>()).prop_map(|(id, kind, len, fill)| {
            let most = match kind {
                Kind::Ping => 0,
                Kind::Error => 1 + ERROR_BYTES_MAX,
                Kind::Request | Kind::Reply => MAX,
            };
            let payload = (0..len.min(most)).map(|at| fill.wrapping_add(at as u8)).collect();
            Frame { id, kind, payload }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn frames_come_back_however_they_are_cut(
            frames in prop::collection::vec(any_frame(), 0..8),
            sizes in prop::collection::vec(1..70_000usize, 1..6),
        ) {
            let (read, end) = read_all(encode(&frames), sizes);
            prop_assert_eq!(read, frames);
            prop_assert!(end.is_ok());
        }

        #[test]
        fn a_stream_that_is_cut_ends_in_an_error_or_between_frames(
            frames in prop::collection::vec(any_frame(), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = encode(&frames);
            let len = cut.index(whole.len());
            let (read, end) = read_all(whole.slice(..len), vec![usize::MAX]);
            prop_assert!(frames.starts_with(&read));
            prop_assert_eq!(end.is_ok(), encode(&read).len() == len);
        }

        #[test]
        fn garbage_is_refused_or_read_and_never_more(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (frames, _) = read_all(bytes.into(), vec![7]);
            prop_assert!(frames.iter().all(|frame| frame.payload.len() < 200));
        }
    }

    #[test]
    fn a_length_out_of_bounds_is_refused_before_it_is_allocated() {
        for (kind, length) in [(1u8, u32::MAX), (1, MAX as u32 + 1), (3, 4_098), (4, 1), (0, 0), (5, 0)] {
            let mut header = length.to_le_bytes().to_vec();
            header.extend([0; 8]);
            header.push(kind);
            let (frames, end) = read_all(header.into(), vec![1]);
            assert!(frames.is_empty());
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::InvalidData, "kind {kind}, {length} bytes");
        }
    }

    #[test]
    fn a_long_payload_has_an_allocation_of_its_size() {
        let frame = Frame { id: 1, kind: Kind::Request, payload: vec![7; 90_001].into() };
        let (mut frames, _) = read_all(encode(std::slice::from_ref(&frame)), vec![5_000]);
        let memory = frames.pop().unwrap().payload.try_into_mut().unwrap();
        assert_eq!((memory.len(), memory.capacity()), (90_001, 90_001));
    }

    #[test]
    fn errors_keep_whether_the_request_was_seen() {
        for kind in [io::ErrorKind::NotConnected, io::ErrorKind::Other] {
            let frame = Frame::answer(9, Err(io::Error::new(kind, "not ä today")), MAX);
            let error = decode_error(&frame.payload);
            assert_eq!((error.kind(), error.to_string()), (kind, "not ä today".into()));
        }
        let long = "ä".repeat(ERROR_BYTES_MAX);
        let frame = Frame::answer(9, Err(io::Error::other(long)), MAX);
        assert!(frame.payload.len() <= 1 + ERROR_BYTES_MAX);
        assert!(decode_error(&frame.payload).to_string().chars().all(|c| c == 'ä'));
        assert_eq!(Frame::answer(9, Ok(vec![0; MAX + 1].into()), MAX).kind, Kind::Error);
        assert_eq!(decode_error(&[]).to_string(), "");
    }
}
