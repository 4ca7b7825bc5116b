//! Takes a chunked body apart (RFC 9112, section 7.1): the server sends so what it does not hold as a whole.

use bytes::{Buf, BytesMut};
use httparse::{Status, parse_chunk_size};

use super::{Broken, head::BODY_BYTES_MAX};

/// The longest line of trailers; the server sends none.
const TRAILER_BYTES_MAX: usize = 8 << 10;

/// A body that is arriving.
#[derive(Debug, Default)]
pub struct Chunked {
    body: Vec<u8>,
    /// What is left of the chunk, with the line break behind it; none between chunks.
    chunk_rest: Option<usize>,
    /// The last chunk was there: what follows are trailers up to an empty line.
    in_trailers: bool,
}

impl Chunked {
    /// The bytes of the body so far.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Takes what there is of the body off the front of `bytes`. True once that is all of it.
    pub fn take_from(&mut self, bytes: &mut BytesMut) -> Result<bool, Broken> {
        loop {
            if self.in_trailers {
                return self.skip_trailers(bytes);
            } else if let Some(rest) = &mut self.chunk_rest {
                // The line break is not of the body.
                let data = rest.saturating_sub(2).min(bytes.len());
                self.body.extend_from_slice(&bytes[..data]);
                bytes.advance(data);
                *rest -= data;
                if *rest > 2 || bytes.len() < 2 {
                    return Ok(false);
                }
                if !bytes.starts_with(b"\r\n") {
                    return Err(Broken::BadAnswer("a chunk that is longer than it says"));
                }
                bytes.advance(2);
                self.chunk_rest = None;
            } else {
                let malformed = Broken::BadAnswer("a chunk without a size");
                let Status::Complete((line, size)) = parse_chunk_size(bytes).map_err(|_| malformed)? else {
                    return Ok(false);
                };
                bytes.advance(line);
                let size = usize::try_from(size)
                    .ok()
                    .filter(|size| size.saturating_add(self.body.len()) <= BODY_BYTES_MAX)
                    .ok_or(Broken::BadAnswer("a body larger than any value"))?;
                match size {
                    0 => self.in_trailers = true,
                    _ => self.chunk_rest = Some(size + 2),
                }
            }
        }
    }

    fn skip_trailers(&mut self, bytes: &mut BytesMut) -> Result<bool, Broken> {
        loop {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n") else {
                return if bytes.len() > TRAILER_BYTES_MAX {
                    Err(Broken::BadAnswer("a trailer that does not end"))
                } else {
                    Ok(false)
                };
            };
            bytes.advance(end + 2);
            if end == 0 {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(wire: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        let mut chunked = Chunked::default();
        let whole = chunked.take_from(&mut BytesMut::from(wire))?;
        Ok(whole.then_some(chunked.body))
    }

    #[test]
    fn extensions_and_trailers_are_passed_over() {
        let wire = b"5;note=1\r\nhello\r\nA\r\n, world...\r\n0\r\nExpires: never\r\n\r\n";
        assert_eq!(take(wire).unwrap().unwrap(), b"hello, world...");
        assert_eq!(take(b"0\r\n\r\n").unwrap().unwrap(), b"");
    }

    #[test]
    fn what_is_not_chunked_is_an_error() {
        for wire in [&b"x\r\n"[..], b"2\r\nabc\r\n0\r\n\r\n", b"FFFFFFFF\r\n", b"fffffffffffffffff\r\n"] {
            assert!(take(wire).is_err(), "{}", String::from_utf8_lossy(wire));
        }
        let mut endless = b"0\r\n".to_vec();
        endless.resize(TRAILER_BYTES_MAX * 2, b'x');
        assert!(take(&endless).is_err());
    }

    proptest! {
        #[test]
        fn a_body_may_arrive_in_any_chunks_and_pieces(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..6),
            cuts in prop::collection::vec(1usize..40, 0..12),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut rest = &wire[..];
            let (mut chunked, mut bytes) = (Chunked::default(), BytesMut::new());
            for cut in cuts {
                if cut >= rest.len() {
                    break;
                }
                bytes.extend_from_slice(&rest[..cut]);
                rest = &rest[cut..];
                prop_assert!(!chunked.take_from(&mut bytes).unwrap());
            }
            bytes.extend_from_slice(rest);
            bytes.extend_from_slice(b"HTTP/1.1");
            prop_assert!(chunked.take_from(&mut bytes).unwrap());
            prop_assert_eq!(chunked.body(), chunks.concat());
            prop_assert_eq!(&bytes[..], b"HTTP/1.1", "the next answer is left alone");
        }

        #[test]
        fn no_bytes_make_it_panic(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = take(&wire);
        }
    }
}
