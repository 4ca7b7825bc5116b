//! A watcher over a plain socket: chunks taken apart, events put together.

use std::{
    io::{self, BufRead, Read},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use super::client::{Answer, Client};

/// What comes along the stream.
#[derive(Debug, PartialEq)]
pub enum Sent {
    Comment(String),
    Event { id: u64, event: String, data: Value },
    End,
}

/// A stream of events.
pub struct Watcher {
    client: Client,
    /// Text that has come and is not taken yet.
    text: String,
    over: bool,
}

impl Watcher {
    /// Begins to watch.
    pub fn start(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        let mut client = Client::connect(addr);
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: test\r\n");
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        client.send(format!("{head}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        client.stream.fill_buf().unwrap();
        let is_ok = client.stream.buffer().starts_with(b"HTTP/1.1 200 ");
        if !is_ok {
            return Err(client.answer(false).unwrap());
        }
        while client.stream.read_line(&mut line).unwrap() > 2 {
            if line.starts_with("content-type") {
                assert_eq!(line.trim_end(), "content-type: text/event-stream");
            }
            line.clear();
        }
        Ok(Self { client, text: String::new(), over: false })
    }

    pub fn socket(&self) -> &TcpStream {
        self.client.stream.get_ref()
    }

    /// Reads one chunk; false at the end.
    fn read(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        self.client.stream.read_line(&mut line)?;
        let len = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; len + 2];
        self.client.stream.read_exact(&mut chunk)?;
        self.text.push_str(std::str::from_utf8(&chunk[..len]).map_err(io::Error::other)?);
        Ok(len > 0)
    }

    /// The next comment or event, whole.
    pub fn next(&mut self) -> Sent {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let message: String = self.text.drain(..end + 2).collect();
                return parse(message.trim_end());
            }
            if self.over {
                assert_eq!(self.text, "", "the stream ended within an event");
                return Sent::End;
            }
            self.over = !self.read().expect("the stream goes on");
        }
    }

    /// The next event, comments passed over: its id, its name and its data.
    pub fn event(&mut self) -> (u64, String, Value) {
        loop {
            match self.next() {
                Sent::Comment(_) => {}
                Sent::Event { id, event, data } => {
                    assert_eq!((data["seq"].as_u64(), data["op"].as_str()), (Some(id), Some(&*event)));
                    return (id, event, data);
                }
                Sent::End => panic!("the stream ended"),
            }
        }
    }

    /// Gives up waiting for bytes after this long.
    pub fn patience(&self, patience: Duration) {
        self.socket().set_read_timeout(Some(patience)).unwrap();
    }
}

fn parse(message: &str) -> Sent {
    if let Some(comment) = message.strip_prefix(':') {
        return Sent::Comment(comment.trim().to_owned());
    }
    let mut lines = message.lines();
    let mut field = |name: &str| {
        let line = lines.next().and_then(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name:?} in {message:?}")).to_owned()
    };
    let (id, event, data) = (field("id: "), field("event: "), field("data: "));
    assert_eq!(lines.next(), None, "{message:?}");
    Sent::Event { id: id.parse().unwrap(), event, data: serde_json::from_str(&data).unwrap() }
}
