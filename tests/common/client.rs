//! A small HTTP/1.1 client over a plain socket: it sends exactly what a test says and hides nothing.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// One connection, kept alive as long as the server does.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| &value[..])
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that this is a problem document of this status and type.
    #[track_caller]
    pub fn is_problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["type"], slug, "{document}");
        assert_eq!(document["status"], status);
        assert!(document["title"].is_string() && document["detail"].is_string(), "{document}");
        document
    }

    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        let shown = &self.body[..self.body.len().min(500)];
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(shown));
        self
    }
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// How long it waits for bytes from now on.
    pub fn patience(&self, patience: Duration) {
        self.stream.get_ref().set_read_timeout(Some(patience)).unwrap();
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Head and body of a request with a Content-Length.
    pub fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes()).expect("send head");
        // A server may refuse before it has read everything; the answer is what counts.
        let _ = self.send(body);
        self.answer(method == "HEAD").unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.call("GET", path, &[], b"")
    }

    pub fn put(&mut self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call("PUT", path, &[], body.as_ref())
    }

    pub fn delete(&mut self, path: &str) -> Answer {
        self.call("DELETE", path, &[], b"")
    }

    pub fn post(&mut self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call("POST", path, &[("Content-Type", content_type)], body.as_ref())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Reads one answer.
    pub fn answer(&mut self, head_only: bool) -> io::Result<Answer> {
        let mut status;
        let mut headers;
        loop {
            let line = self.line()?;
            status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            headers = Vec::new();
            loop {
                let line = self.line()?;
                let Some((name, value)) = line.split_once(':') else { break };
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            if status != 100 {
                break;
            }
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if head_only || status == 304 || status == 204 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let len = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
                let mut chunk = vec![0; len + 2];
                self.stream.read_exact(&mut chunk)?;
                if len == 0 {
                    return Ok(answer);
                }
                answer.body.extend_from_slice(&chunk[..len]);
            }
        }
        let len: usize = answer.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
        answer.body = vec![0; len];
        self.stream.read_exact(&mut answer.body)?;
        Ok(answer)
    }

    /// Whether the server has closed the connection, waiting up to `patience`.
    pub fn is_closed_within(&mut self, patience: Duration) -> bool {
        self.patience(patience);
        match self.stream.read(&mut [0; 64]) {
            Ok(len) => len == 0,
            Err(error) => matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
        }
    }
}
