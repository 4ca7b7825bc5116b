//! A raw HTTP/1.1 client that costs little: the machine's cores belong to the server under test.
//!
//! Takes whole request bytes, gives the few header fields the load generator acts on. It does not own
//! retries, and of HTTP it only knows kept-alive connections with `Content-Length` bodies, which is what
//! the server sends on these calls.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
};

use bytes::{Buf, BytesMut};
use memchr::{memchr, memmem};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A server's head may have this many bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// A server's body may have this many bytes: the largest value, with room.
const BODY_BYTES_MAX: usize = 96 << 20;
/// Room for the answer to a put with some to spare, so that a read is never exactly full and the runtime
/// knows without another system call that the socket is drained.
const READ_BYTES: usize = 16 << 10;

/// What is read of an answer's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Bytes of the head, with its blank line.
    pub head_bytes: usize,
    /// Bytes of the body.
    pub body_bytes: usize,
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

/// Why no answer could be read.
#[derive(Debug)]
pub enum Broken {
    /// The connection failed or was closed.
    Io(io::Error),
    /// The server sent something that is not such an answer.
    BadAnswer(&'static str),
}

impl Broken {
    /// The kind of error it is counted as.
    pub fn kind(&self) -> String {
        match self {
            Self::Io(error) => format!("connection: {}", error.kind()),
            Self::BadAnswer(what) => format!("bad answer: {what}"),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the connection broke: {error}"),
            Self::BadAnswer(what) => write!(f, "not an answer of scribe-node: {what}"),
        }
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
                return Err(Broken::BadAnswer(
                    "a body with Transfer-Encoding, which this client does not read",
                ));
            }
            20 if name.eq_ignore_ascii_case(b"idempotency-replayed") => {
                head.replayed = value.eq_ignore_ascii_case(b"true");
            }
            _ => {}
        }
    }
    let length = match (content_length, head.status) {
        (_, 204 | 304) => 0,
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

/// A server, resolved once.
#[derive(Clone, Debug)]
pub struct Target {
    /// `HOST:PORT`, for the Host header.
    pub authority: String,
    /// Where it is.
    pub address: SocketAddr,
}

impl Target {
    /// Resolves `http://HOST:PORT`.
    pub fn resolve(url: &str) -> Result<Self, String> {
        let authority = scribe_ledger::client::authority_of(url).map_err(|error| error.to_string())?;
        let address = authority
            .to_socket_addrs()
            .map_err(|error| format!("{authority} cannot be resolved: {error}"))?
            .next()
            .ok_or_else(|| format!("{authority} has no address"))?;
        Ok(Self { authority, address })
    }

    /// Opens a connection.
    pub async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, unread: BytesMut::with_capacity(READ_BYTES) })
    }

    /// What to tell a person when [`Target::connect`] fails.
    pub fn unreachable(&self, error: &io::Error) -> String {
        let url = format!("http://{}", self.authority);
        format!("cannot connect to {url} ({error}): is scribe-node running at {url}?")
    }
}

/// One kept-alive connection. After an error, or an answer with [`Head::close`], it is of no more use.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    unread: BytesMut,
}

impl Connection {
    /// Sends a request and reads its answer; the body replaces what `body` held.
    pub async fn exchange(&mut self, request: &[u8], body: &mut Vec<u8>) -> Result<Head, Broken> {
        if let Err(error) = self.stream.write_all(request).await {
            // A server that refuses a large body answers and closes while we are still writing.
            return match self.answer(body).await {
                Ok(head) => Ok(Head { close: true, ..head }),
                Err(_) => Err(Broken::Io(error)),
            };
        }
        self.answer(body).await
    }

    async fn answer(&mut self, body: &mut Vec<u8>) -> Result<Head, Broken> {
        body.clear();
        let head = loop {
            if !self.unread.is_empty()
                && let Some(head) = parse_head(&self.unread)?
            {
                break head;
            }
            self.fill().await?;
        };
        self.unread.advance(head.head_bytes);
        while self.unread.len() < head.body_bytes {
            self.fill().await?;
        }
        body.extend_from_slice(&self.unread[..head.body_bytes]);
        self.unread.advance(head.body_bytes);
        Ok(head)
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        self.unread.reserve(READ_BYTES / 2);
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;

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
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
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

        #[test]
        fn answers_may_arrive_in_any_pieces(cuts in prop::collection::vec(1usize..60, 0..12)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let url = format!("http://{}", listener.local_addr().unwrap());
                let server = tokio::spawn(async move {
                    let (mut socket, _) = listener.accept().await.unwrap();
                    socket.set_nodelay(true).unwrap();
                    let mut wire = [ANSWER, ANSWER].concat();
                    for cut in cuts {
                        let rest = wire.split_off(cut.min(wire.len()));
                        socket.write_all(&wire).await.unwrap();
                        tokio::task::yield_now().await;
                        wire = rest;
                    }
                    socket.write_all(&wire).await.unwrap();
                });
                let mut connection = Target::resolve(&url).unwrap().connect().await.unwrap();
                let mut body = b"left over".to_vec();
                for _ in 0..2 {
                    let head = connection.exchange(b"x", &mut body).await.unwrap();
                    assert_eq!((head.seq, &body[..]), (Some(42), &b"hello"[..]));
                }
                server.await.unwrap();
                assert!(matches!(connection.exchange(b"x", &mut body).await, Err(Broken::Io(_))));
            });
        }
    }
}
