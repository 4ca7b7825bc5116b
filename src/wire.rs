//! What a client and a server both have to spell alike: names of headers and media types, binary frames.
//!
//! Takes and gives bytes; it knows neither end. What a header means, and which frames are refused, the server
//! decides.
//!
//! ```text
//! frame = op u8 (1 put, 2 delete) | 0 u8 | key_len u16 | value_len u32 | key | value      little-endian
//! ```
//!
//! The fixed part comes first so that one bounds check tells whether the frame is whole.

use hyper::header::HeaderName;

use crate::types::Op;

/// Position of the record an answer speaks of.
pub const SCRIBE_SEQ: HeaderName = HeaderName::from_static("scribe-seq");
/// Asks for a receipt.
pub const SCRIBE_RECEIPT: HeaderName = HeaderName::from_static("scribe-receipt");
/// Names a write, so that a retry is recognised.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks an answer that was given before.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Media type of a bulk body with a JSON object on each line.
pub const NDJSON: &str = "application/x-ndjson";
/// Media type of a bulk body of frames.
pub const FRAMES: &str = "application/vnd.scribe.batch";

/// Size of a frame's fixed part.
pub const FRAME_HEAD_BYTES: usize = 8;

/// A frame's fixed part as it was sent: nothing about it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What it does; see [`Op::from_byte`].
    pub op: u8,
    /// 0.
    pub reserved: u8,
    /// Bytes of the key.
    pub key_len: u16,
    /// Bytes of the value.
    pub value_len: u32,
}

impl FrameHead {
    /// Reads it.
    #[inline]
    #[must_use]
    pub const fn from_bytes(bytes: &[u8; FRAME_HEAD_BYTES]) -> Self {
        let [op, reserved, key0, key1, value0, value1, value2, value3] = *bytes;
        Self {
            op,
            reserved,
            key_len: u16::from_le_bytes([key0, key1]),
            value_len: u32::from_le_bytes([value0, value1, value2, value3]),
        }
    }

    /// Writes it.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; FRAME_HEAD_BYTES] {
        let ([key0, key1], [value0, value1, value2, value3]) =
            (self.key_len.to_le_bytes(), self.value_len.to_le_bytes());
        [self.op, self.reserved, key0, key1, value0, value1, value2, value3]
    }
}

/// A key or a value is longer than a frame can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Appends one frame to a body.
///
/// # Errors
/// [`TooLong`]; `out` is as it was then.
pub fn push_frame(out: &mut Vec<u8>, op: Op, key: &[u8], value: &[u8]) -> Result<(), TooLong> {
    let head = FrameHead {
        op: op as u8,
        reserved: 0,
        key_len: u16::try_from(key.len()).map_err(|_| TooLong)?,
        value_len: u32::try_from(value.len()).map_err(|_| TooLong)?,
    };
    out.extend_from_slice(&head.to_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_published_layout() {
        let mut body = Vec::new();
        push_frame(&mut body, Op::Put, b"key", b"v").unwrap();
        push_frame(&mut body, Op::Delete, b"k2", b"").unwrap();
        assert_eq!(body, b"\x01\0\x03\0\x01\0\0\0keyv\x02\0\x02\0\0\0\0\0k2");
        assert_eq!(push_frame(&mut body, Op::Put, &[0; 65_536], b""), Err(TooLong));
        assert_eq!(body.len(), 22);
        let head = FrameHead { op: 9, reserved: 7, key_len: 0x0102, value_len: 0x0304_0506 };
        assert_eq!(FrameHead::from_bytes(&head.to_bytes()), head);
    }
}
