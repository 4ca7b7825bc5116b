//! Reads the head of an answer: only the fields that the load generator acts on.
//!
//! Pure. It knows answers with `Content-Length` and chunked ones, which is what the server sends.

use memchr::{memchr, memmem};

use super::Broken;

/// A server's head may have this many bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// A server's body may have this many bytes: the largest value, with room.
pub(super) const BODY_BYTES_MAX: usize = 96 << 20;

/// What is read of an answer's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Bytes of the head, with its blank line.
    pub head_bytes: usize,
    /// Bytes of the body; of a chunked one they are known when it is whole.
    pub body_bytes: usize,
    /// The body comes in chunks.
    pub chunked: bool,
    /// The server closes the connection behind this answer.
    pub close: bool,
    /// `Scribe-Seq`.
    pub seq: Option<u64>,
    /// `Idempotency-Replayed: true`.
    pub replayed: bool,
    /// `Retry-After` in seconds.
    pub retry_after_secs: Option<u64>,
}

impl Head {
    /// 2xx.
    pub const fn is_success(&self) -> bool {
        self.status / 100 == 2
    }
}

/// Reads a head if all of it is there, whatever comes behind it.
pub fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Broken> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES_MAX {
            Err(Broken::BadAnswer("its head does not end"))
        } else {
            Ok(None)
        };
    };
    let mut head = Head { head_bytes: end + 4, ..Head::default() };
    let mut lines = &bytes[..end + 2];
    let mut next_line = || {
        let at = memchr(b'\n', lines)?;
        let line = &lines[..at];
        lines = &lines[at + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    };
    head.status = next_line().and_then(status_of).ok_or(Broken::BadAnswer("no HTTP/1.x status line"))?;
    let mut content_length = None;
    while let Some(line) = next_line() {
        let Some(colon) = memchr(b':', line) else {
            return Err(Broken::BadAnswer("a header without a colon"));
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // The length tells most names apart without comparing.
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"scribe-seq") => head.seq = number(value),
            10 if name.eq_ignore_ascii_case(b"connection") => {
                head.close = value.eq_ignore_ascii_case(b"close")
            }
            11 if name.eq_ignore_ascii_case(b"retry-after") => head.retry_after_secs = number(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = number(value).ok_or(Broken::BadAnswer("Content-Length is not a number"))?;
                if content_length.is_some_and(|seen| seen != length) {
                    return Err(Broken::BadAnswer("two different Content-Lengths"));
                }
                content_length = Some(length);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Broken::BadAnswer("a Transfer-Encoding other than chunked"));
                }
                head.chunked = true;
            }
            20 if name.eq_ignore_ascii_case(b"idempotency-replayed") => {
                head.replayed = value.eq_ignore_ascii_case(b"true");
            }
            _ => {}
        }
    }
    let length = match (content_length, head.status) {
        (_, 204 | 304) => {
            head.chunked = false;
            0
        }
        (Some(_), _) if head.chunked => {
            return Err(Broken::BadAnswer("both Content-Length and Transfer-Encoding"));
        }
        (None, _) if head.chunked => 0,
        (Some(length), _) => length,
        (None, _) => return Err(Broken::BadAnswer("no Content-Length")),
    };
    head.body_bytes = usize::try_from(length)
        .ok()
        .filter(|&length| length <= BODY_BYTES_MAX)
        .ok_or(Broken::BadAnswer("a body larger than any value"))?;
    Ok(Some(head))
}

fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let code = rest.get(2..5).filter(|_| rest[1] == b' ')?;
    let status = u16::try_from(number(code)?).ok()?;
    (200..600).contains(&status).then_some(status)
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 { None } else { sum.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nscribe-seq: 42\r\n\
        Idempotency-Replayed: true\r\nContent-Length: 5\r\nRetry-After:  3 \r\n\r\nhello";

    #[test]
    fn a_head_is_read_whatever_its_case_and_order() {
        let head = parse_head(ANSWER).unwrap().unwrap();
        assert_eq!((head.status, head.body_bytes, head.seq), (201, 5, Some(42)));
        assert_eq!((head.replayed, head.retry_after_secs, head.close), (true, Some(3), false));
        assert_eq!(&ANSWER[head.head_bytes..], b"hello");
        let head = parse_head(b"HTTP/1.0 304 \r\nConnection: Close\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.status, head.body_bytes, head.close), (304, 0, true));
    }

    #[test]
    fn what_is_not_an_answer_is_an_error() {
        for bytes in [
            &b"\r\n\r\n"[..],
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 20\r\nContent-Length: 1\r\n\r\n",
            b"HTTP/1.1 999 x\r\nContent-Length: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        ] {
            assert!(parse_head(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(parse_head(&vec![b'x'; HEAD_BYTES_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn a_head_that_is_not_whole_is_waited_for(cut in 0..ANSWER.len()) {
            let head = parse_head(&ANSWER[..cut]).unwrap();
            prop_assert_eq!(head.is_some(), cut >= ANSWER.len() - 5);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), flip in any::<u8>()) {
            let _ = parse_head(&bytes);
            let mut damaged = ANSWER.to_vec();
            damaged[at.index(ANSWER.len())] ^= flip;
            let _ = parse_head(&damaged);
        }
    }
}
