//! A raw HTTP/1.1 client that costs little: the machine's cores belong to the server under test.
//!
//! Takes whole request bytes, gives the few header fields the load generator acts on. It does not own
//! retries, and of HTTP it only knows kept-alive connections.

mod chunked;
mod head;

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use self::chunked::Chunked;
pub use self::head::{Head, parse_head};

/// Room for the answer to a put with some to spare, so that a read is never exactly full and the runtime
/// knows without another system call that the socket is drained.
pub const READ_BYTES: usize = 16 << 10;

/// Why no answer could be read.
#[derive(Debug)]
pub enum Broken {
    /// The connection failed or was closed.
    Io(io::Error),
    /// Nothing came for this long.
    Late(Duration),
    /// The server sent something that is not such an answer.
    BadAnswer(&'static str),
}

impl Broken {
    /// The kind of error it is counted as.
    pub fn kind(&self) -> String {
        match self {
            Self::Io(error) => format!("connection: {}", error.kind()),
            Self::Late(_) => "connection: timed out".to_owned(),
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
            Self::Late(time) => write!(f, "no answer within {} s", time.as_secs_f64()),
            Self::BadAnswer(what) => write!(f, "not an answer of scribe-node: {what}"),
        }
    }
}

/// How long a server is borne with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// One request may take this long.
    pub timeout: Duration,
    /// It may refuse, or not be there, for this long.
    pub stall: Duration,
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

    /// Opens a connection on which nothing is waited for longer than `timeout`, this not either.
    pub async fn connect(&self, timeout: Duration) -> io::Result<Connection> {
        let stream = tokio::time::timeout(timeout, self.open()).await;
        let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Connection { stream, unread: Unread::new(), timeout })
    }

    /// Opens a socket.
    pub async fn open(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// What to tell a person when [`Target::connect`] fails.
    pub fn unreachable(&self, error: &io::Error) -> String {
        let url = self.url();
        format!("cannot connect to {url} ({error}): is scribe-node running at {url}?")
    }
}

/// Bytes that came from the server and have not been looked at yet.
#[derive(Debug)]
pub struct Unread {
    bytes: BytesMut,
    /// The head at the front, once it is there: a large body must not have it read at every piece.
    head: Option<Head>,
    /// The body behind that head if it comes in chunks; the head is then no longer in `bytes`.
    chunked: Option<Chunked>,
}

impl Unread {
    pub fn new() -> Self {
        Self { bytes: BytesMut::with_capacity(READ_BYTES), head: None, chunked: None }
    }

    /// Where to read into, with room.
    pub fn room(&mut self) -> &mut BytesMut {
        self.bytes.reserve(READ_BYTES / 2);
        &mut self.bytes
    }

    /// The answer at the front, if it is whole.
    pub fn answer(&mut self) -> Result<Option<(Head, &[u8])>, Broken> {
        if self.head.is_none() && !self.bytes.is_empty() {
            self.head = parse_head(&self.bytes)?;
        }
        let Some(head) = self.head else { return Ok(None) };
        if !head.chunked {
            return Ok(self
                .bytes
                .get(head.head_bytes..head.head_bytes + head.body_bytes)
                .map(|body| (head, body)));
        }
        let chunked = self.chunked.get_or_insert_with(|| {
            self.bytes.advance(head.head_bytes);
            Chunked::default()
        });
        let whole = chunked.take_from(&mut self.bytes)?;
        let body = chunked.body();
        Ok(whole.then_some((Head { body_bytes: body.len(), ..head }, body)))
    }

    /// Goes on behind the answer that [`Unread::answer`] gave.
    pub fn consume(&mut self) {
        if let Some(head) = self.head.take()
            && self.chunked.take().is_none()
        {
            self.bytes.advance(head.head_bytes + head.body_bytes);
        }
    }
}

/// One kept-alive connection. After an error, or an answer with [`Head::close`], it is of no more use.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    unread: Unread,
    timeout: Duration,
}

impl Connection {
    /// Sends a request and reads its answer; the body replaces what `body` held.
    pub async fn exchange(&mut self, request: &[u8], body: &mut Vec<u8>) -> Result<Head, Broken> {
        if let Err(error) = self.send(request).await {
            // A server that refuses a large body answers and closes while we are still writing.
            return match self.answer(body).await {
                Ok(head) => Ok(Head { close: true, ..head }),
                Err(_) => Err(error),
            };
        }
        self.answer(body).await
    }

    /// Sends one request, or several: each gets an answer, in their order.
    pub async fn send(&mut self, requests: &[u8]) -> Result<(), Broken> {
        let sent = tokio::time::timeout(self.timeout, self.stream.write_all(requests)).await;
        Ok(sent.map_err(|_| Broken::Late(self.timeout))??)
    }

    /// Reads one answer; its body replaces what `body` held.
    pub async fn answer(&mut self, body: &mut Vec<u8>) -> Result<Head, Broken> {
        let timeout = self.timeout;
        tokio::time::timeout(timeout, self.read_answer(body)).await.map_err(|_| Broken::Late(timeout))?
    }

    async fn read_answer(&mut self, body: &mut Vec<u8>) -> Result<Head, Broken> {
        body.clear();
        loop {
            if let Some((head, bytes)) = self.unread.answer()? {
                body.extend_from_slice(bytes);
                self.unread.consume();
                return Ok(head);
            }
            if self.stream.read_buf(self.unread.room()).await? == 0 {
                return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const ANSWER: &[u8] = b"HTTP/1.1 201 Created\r\nscribe-seq: 42\r\nContent-Length: 5\r\n\r\nhello";
    const IN_CHUNKS: &[u8] =
        b"HTTP/1.1 201 Created\r\nscribe-seq: 42\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";

    #[tokio::test]
    async fn a_server_that_says_nothing_is_not_waited_for() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::resolve(&format!("http://{}", mute.local_addr().unwrap())).unwrap();
        let mut connection = target.connect(Duration::from_millis(20)).await.unwrap();
        let late = connection.exchange(b"x", &mut Vec::new()).await.unwrap_err();
        assert_eq!(late.to_string(), "no answer within 0.02 s");
    }

    proptest! {
        #[test]
        fn answers_may_arrive_in_any_pieces(cuts in prop::collection::vec(1usize..60, 0..12)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let url = format!("http://{}", listener.local_addr().unwrap());
                let server = tokio::spawn(async move {
                    let (mut socket, _) = listener.accept().await.unwrap();
                    socket.set_nodelay(true).unwrap();
                    let mut wire = [ANSWER, IN_CHUNKS, ANSWER].concat();
                    for cut in cuts {
                        let rest = wire.split_off(cut.min(wire.len()));
                        socket.write_all(&wire).await.unwrap();
                        tokio::task::yield_now().await;
                        wire = rest;
                    }
                    socket.write_all(&wire).await.unwrap();
                });
                let mut connection = Target::resolve(&url).unwrap().connect(PATIENCE).await.unwrap();
                let mut body = b"left over".to_vec();
                for _ in 0..3 {
                    let head = connection.exchange(b"x", &mut body).await.unwrap();
                    assert_eq!((head.seq, &body[..]), (Some(42), &b"hello"[..]));
                }
                server.await.unwrap();
                assert!(matches!(connection.exchange(b"x", &mut body).await, Err(Broken::Io(_))));
            });
        }
    }
}
