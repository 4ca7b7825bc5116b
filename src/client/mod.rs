//! The HTTP client: typed calls over one pool of kept-alive HTTP/1.1 connections.
//!
//! Takes keys and values as bytes and speaks the public contract, nothing else. Of the server it borrows
//! words only (positions, conditions, consistencies, the spellings of `wire`), no code that runs there. It
//! does not retry: whether a write may be sent twice is the caller's knowledge (see
//! [`ClientError::is_outcome_unknown`] and [`WriteOptions::idempotency_key`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), scribe_ledger::client::ClientError> {
//! use scribe_ledger::client::{Client, ReadOptions, WriteOptions};
//!
//! let client = Client::new("http://127.0.0.1:8001")?;
//! let written = client.put(b"greeting", "hello".into(), &WriteOptions::default()).await?;
//! let value = client.get(b"greeting", &ReadOptions::default()).await?;
//! assert_eq!((value.seq, &value.bytes[..]), (written.seq, &b"hello"[..]));
//! # Ok(()) }
//! ```

mod answers;
pub mod error;
mod path;
mod watch;

use std::{error::Error as _, future::Future, ops::Range, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Uri,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value as Json;

use self::error::{BAD_ANSWER, BAD_CALL, BROKEN, TIMED_OUT, UNREACHABLE};
pub use self::{
    answers::{BatchWritten, Frames, Head, Item, Page, Value, Version, Written},
    error::ClientError,
    path::{KeyPath, is_reserved, kv_path},
    watch::Watch,
};
use crate::{
    read::Consistency,
    state::batch::Condition,
    types::Seq,
    wire::{self, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, SCRIBE_SEQ},
};

/// How long one call may take, from connecting to the answer's last byte, unless set otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// The largest answer that is taken into memory: the largest page of a scan in base64, with room.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How a write is made.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// What must hold of the key's newest version, or the write fails with 412.
    pub condition: Option<Condition>,
    /// 1 to 128 bytes that name the request: sent again with the same content, it gets the first answer.
    pub idempotency_key: Option<String>,
}

/// How a read is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// How fresh it has to be; the server's default is linearizable.
    pub consistency: Option<Consistency>,
    /// The value as of this position, inclusive.
    pub at: Option<Seq>,
}

/// Which keys a scan gives. All bounds are bytes; [`Default`] is every key, from the first.
#[derive(Clone, Debug, Default)]
pub struct ScanQuery {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// From this key on, inclusive.
    pub start: Option<Vec<u8>>,
    /// Up to this key, exclusive.
    pub end: Option<Vec<u8>>,
    /// At most this many keys in the page (the server's default is 1,000, its maximum 10,000).
    pub limit: Option<usize>,
    /// Go on where a page before ended.
    pub cursor: Option<String>,
    /// Leave the values out.
    pub keys_only: bool,
}

/// The body of a batch.
#[derive(Clone, Debug)]
pub enum BatchBody {
    /// Binary frames; see [`Frames`].
    Frames(Bytes),
    /// One JSON object a line.
    Ndjson(Bytes),
}

/// A connection pool to one server. Cheap to clone; clones share the pool.
#[derive(Clone, Debug)]
pub struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    authority: String,
    timeout: Duration,
}

struct Answer {
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn seq(&self) -> Option<Seq> {
        self.header(&SCRIBE_SEQ).and_then(|text| text.parse().ok()).map(Seq)
    }

    fn seq_or_bad(&self) -> Result<Seq, ClientError> {
        self.seq().ok_or_else(|| {
            ClientError::local(BAD_ANSWER, "the answer has no Scribe-Seq header: is this a scribe-node?")
        })
    }

    fn replayed(&self) -> bool {
        self.header(&IDEMPOTENCY_REPLAYED) == Some("true")
    }
}

impl Client {
    /// A client of the server at `url`, `http://HOST:PORT`. Connects on the first call.
    ///
    /// # Errors
    /// [`BAD_CALL`] with what is accepted, when the URL is not such a one.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            http: legacy::Client::builder(TokioExecutor::new()).build(connector),
            authority: authority_of(url)?,
            timeout: TIMEOUT_DEFAULT,
        })
    }

    /// The same client with another bound on every call's time.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `HOST:PORT` of the server.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Writes a value.
    ///
    /// # Errors
    /// Whatever the server answers (412 when the condition fails), or no answer; see [`ClientError`].
    pub async fn put(
        &self,
        key: &[u8],
        value: Bytes,
        options: &WriteOptions,
    ) -> Result<Written, ClientError> {
        let headers = write_headers(options)?;
        let path = key_path(key)?;
        let answer = match &path {
            KeyPath::Raw(path) => self.send(Method::PUT, path, headers, value).await?,
            KeyPath::Json(path) => {
                self.send(Method::PUT, path, as_json(headers), answers::put_body(&value)).await?
            }
        };
        written(&answer)
    }

    /// Appends a tombstone. A key that was never written is no error.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: &[u8], options: &WriteOptions) -> Result<Written, ClientError> {
        let path = key_path(key)?;
        let answer = self.send(Method::DELETE, path.as_str(), write_headers(options)?, Bytes::new()).await?;
        written(&answer)
    }

    /// Reads a value's bytes.
    ///
    /// # Errors
    /// 404 for a key that was never written or is deleted; otherwise as [`ClientError`] says.
    pub async fn get(&self, key: &[u8], options: &ReadOptions) -> Result<Value, ClientError> {
        let path = key_path(key)?;
        match &path {
            KeyPath::Raw(path) => {
                let answer = self.read(Method::GET, path, options).await?;
                Ok(Value { seq: answer.seq_or_bad()?, bytes: answer.body })
            }
            KeyPath::Json(_) => {
                let item = self.get_item(key, options).await?;
                Ok(Value { seq: item.seq, bytes: item.value.unwrap_or_default() })
            }
        }
    }

    /// Reads a record with its time, through the JSON door.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_item(&self, key: &[u8], options: &ReadOptions) -> Result<Item, ClientError> {
        key_path(key)?;
        answers::read_item(&self.read(Method::GET, &kv_path(key), options).await?.body)
    }

    /// Asks whether a key has a value, and at which position, without fetching it.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn head(&self, key: &[u8], options: &ReadOptions) -> Result<Head, ClientError> {
        match key_path(key)? {
            KeyPath::Raw(path) => {
                let answer = self.read(Method::HEAD, &path, options).await?;
                let value_bytes = answer.header(&header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
                Ok(Head { seq: answer.seq_or_bad()?, value_bytes })
            }
            // The length of a JSON document says nothing about the value: ask for all of it.
            KeyPath::Json(_) => {
                let item = self.get_item(key, options).await?;
                Ok(Head { seq: item.seq, value_bytes: item.value.map(|value| value.len() as u64) })
            }
        }
    }

    /// One page of live keys in key order. Pages of one cursor chain show one position of the ledger.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn scan(&self, query: &ScanQuery) -> Result<Page, ClientError> {
        let mut path = PathWithQuery::new("/api/v1/kv");
        if !query.prefix.is_empty() {
            path.add("prefix", &query.prefix);
        }
        if let Some(start) = &query.start {
            path.add("start", start);
        }
        if let Some(end) = &query.end {
            path.add("end", end);
        }
        if let Some(limit) = query.limit {
            path.add("limit", limit.to_string().as_bytes());
        }
        if let Some(cursor) = &query.cursor {
            path.add("cursor", cursor.as_bytes());
        }
        if query.keys_only {
            path.add("keys_only", b"true");
        }
        answers::read_page(&self.send(Method::GET, &path.text, HeaderMap::new(), Bytes::new()).await?.body)
    }

    /// Versions of a key, newest first: at most `limit`, only those before `before`.
    ///
    /// # Errors
    /// 404 for a key that was never written; otherwise as [`ClientError`] says.
    pub async fn history(
        &self,
        key: &[u8],
        limit: Option<usize>,
        before: Option<Seq>,
    ) -> Result<Vec<Version>, ClientError> {
        key_path(key)?;
        let mut path = PathWithQuery::new(&format!("{}/history", kv_path(key)));
        if let Some(limit) = limit {
            path.add("limit", limit.to_string().as_bytes());
        }
        if let Some(before) = before {
            path.add("before", before.to_string().as_bytes());
        }
        answers::read_history(&self.send(Method::GET, &path.text, HeaderMap::new(), Bytes::new()).await?.body)
    }

    /// Commits many operations together, in order, with consecutive positions.
    ///
    /// # Errors
    /// 400 names the line or frame that is malformed (nothing is stored then); 413 says the body is larger
    /// than the server takes; otherwise as [`ClientError`] says.
    pub async fn batch(
        &self,
        body: BatchBody,
        idempotency_key: Option<&str>,
    ) -> Result<BatchWritten, ClientError> {
        let options = WriteOptions { condition: None, idempotency_key: idempotency_key.map(str::to_owned) };
        let mut headers = write_headers(&options)?;
        let (content_type, body) = match body {
            BatchBody::Frames(bytes) => (wire::FRAMES, bytes),
            BatchBody::Ndjson(bytes) => (wire::NDJSON, bytes),
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let answer = self.send(Method::POST, "/api/v1/batch", headers, body).await?;
        answers::read_batch(&answer.body, answer.replayed())
    }

    /// The node's status document.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn status(&self) -> Result<Json, ClientError> {
        self.get_json("/api/v1/status").await
    }

    /// Whether the node is healthy; the error carries the server's reason when it is not.
    ///
    /// # Errors
    /// 503 when it is not healthy; otherwise as [`ClientError`] says.
    pub async fn health(&self) -> Result<Json, ClientError> {
        self.get_json("/api/v1/health").await
    }

    /// The cluster as this node sees it.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn cluster_status(&self) -> Result<Json, ClientError> {
        self.get_json("/api/v1/cluster/status").await
    }

    /// Any other JSON document of the server. `path` is encoded already and begins with a slash.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn get_json(&self, path: &str) -> Result<Json, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        answers::read_json(&self.send(Method::GET, path, headers, Bytes::new()).await?.body)
    }

    /// Any other answer as its bytes, such as `/checkpoint`. `path` as in [`Client::get_json`].
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        Ok(self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await?.body)
    }

    /// A part of an answer that never changes, such as a segment's file: these bytes of it and no others. `path` as in
    /// [`Client::get_json`].
    ///
    /// # Errors
    /// [`BAD_ANSWER`] when other bytes come; otherwise as [`ClientError`] says.
    pub async fn get_part(&self, path: &str, part: Range<u64>) -> Result<Bytes, ClientError> {
        let mut headers = HeaderMap::new();
        let bytes = format!("bytes={}-{}", part.start, part.end.saturating_sub(1));
        headers.extend(HeaderValue::try_from(bytes).ok().map(|bytes| (header::RANGE, bytes)));
        let answer = self.send(Method::GET, path, headers, Bytes::new()).await?;
        let begins = format!("bytes {}-", part.start);
        let is_it = answer.header(&header::CONTENT_RANGE).is_some_and(|range| range.starts_with(&begins));
        if is_it && answer.body.len() as u64 == part.end - part.start {
            return Ok(answer.body);
        }
        let what = format!("{} sent other bytes of {path} than were asked for", self.authority);
        Err(ClientError::local(BAD_ANSWER, what))
    }

    async fn read(&self, method: Method, path: &str, options: &ReadOptions) -> Result<Answer, ClientError> {
        let mut path = PathWithQuery::new(path);
        if let Some(consistency) = options.consistency {
            path.add("consistency", consistency_name(consistency).as_bytes());
        }
        if let Some(at) = options.at {
            path.add("at", at.to_string().as_bytes());
        }
        self.send(method, &path.text, HeaderMap::new(), Bytes::new()).await
    }

    /// The one place that waits: sends, takes the whole answer, and turns everything but 2xx into an error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let request = self.request(method, path, headers, body)?;
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|error| self.no_answer(&error))?;
            let (parts, body) = answer.into_parts();
            Ok((parts, self.whole(body).await?))
        };
        let (parts, body) = self.exchange(exchange).await??;
        if parts.status.is_success() {
            return Ok(Answer { headers: parts.headers, body });
        }
        let retry_after = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        Err(ClientError::from_answer(parts.status.as_u16(), retry_after, &body))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| {
                ClientError::local(BAD_CALL, format!("not a path that can be asked for: {error}"))
            })?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// The whole body of an answer.
    async fn whole(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            ClientError::local(BROKEN, format!("the answer of {} broke off: {error}", self.authority))
        })?;
        Ok(body.to_bytes())
    }

    /// Waits for an answer as long as this client does.
    async fn exchange<T>(&self, answer: impl Future<Output = T>) -> Result<T, ClientError> {
        tokio::time::timeout(self.timeout, answer).await.map_err(|_| {
            let message = format!(
                "no answer from {} within {} s: is the node overloaded or without a quorum? a write may or \
                 may not have happened; allow more time, or send it again with the same idempotency key",
                self.authority,
                self.timeout.as_secs_f64(),
            );
            ClientError::local(TIMED_OUT, message)
        })
    }

    fn no_answer(&self, error: &legacy::Error) -> ClientError {
        // The outermost error only says "client error (Connect)"; the innermost one says why.
        let mut cause = String::new();
        let mut source = error.source();
        while let Some(inner) = source {
            cause = inner.to_string();
            source = inner.source();
        }
        if error.is_connect() {
            let url = format!("http://{}", self.authority);
            let message = format!("cannot connect to {url} ({cause}): is scribe-node running at {url}?");
            return ClientError::local(UNREACHABLE, message);
        }
        let message = format!(
            "the connection to {} broke before an answer came ({cause}); a write may or may not have happened",
            self.authority
        );
        ClientError::local(BROKEN, message)
    }
}

/// Its name in a query.
#[must_use]
pub const fn consistency_name(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Lease => "lease",
        Consistency::Stale => "stale",
    }
}

/// `HOST:PORT` of `http://HOST:PORT[/]`.
///
/// # Errors
/// [`BAD_CALL`] with what is accepted.
pub fn authority_of(url: &str) -> Result<String, ClientError> {
    let bad = |why: &str| {
        ClientError::local(
            BAD_CALL,
            format!("\"{url}\" is not a server URL: {why}; write it as http://HOST:PORT"),
        )
    };
    let uri: Uri = url.trim().parse().map_err(|_| bad("it cannot be parsed"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(bad("TLS is not built yet")),
        Some(_) => return Err(bad("its scheme is not http")),
        None => return Err(bad("it has no scheme")),
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(bad("it has a path"));
    }
    let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err(bad("user names in URLs are not supported"));
    }
    if authority.host().is_empty() {
        return Err(bad("it has no host"));
    }
    // `Uri` takes any digits as a port, and none.
    match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Ok(format!("{authority}:80")),
        Some(rest) if rest[1..].parse::<u16>().is_ok_and(|port| port > 0) => Ok(authority.to_string()),
        _ => Err(bad("its port is not a number from 1 to 65535")),
    }
}

fn key_path(key: &[u8]) -> Result<KeyPath, ClientError> {
    // The other rules of keys are the server's to tell; an empty key would ask for another resource.
    if key.is_empty() {
        return Err(ClientError::local(BAD_CALL, "a key has at least one byte"));
    }
    Ok(KeyPath::of(key))
}

fn write_headers(options: &WriteOptions) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    match options.condition {
        None => None,
        Some(Condition::Absent) => headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*")),
        Some(Condition::Present) => headers.insert(header::IF_MATCH, HeaderValue::from_static("*")),
        Some(Condition::At(seq)) => {
            let tag = HeaderValue::try_from(format!("\"{seq}\""));
            tag.ok().and_then(|tag| headers.insert(header::IF_MATCH, tag))
        }
    };
    if let Some(key) = &options.idempotency_key {
        let value = HeaderValue::from_str(key).ok().filter(|_| !key.is_empty()).ok_or_else(|| {
            ClientError::local(BAD_CALL, "an idempotency key is 1 to 128 bytes of printable text")
        })?;
        headers.insert(IDEMPOTENCY_KEY, value);
    }
    Ok(headers)
}

fn as_json(mut headers: HeaderMap) -> HeaderMap {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

fn written(answer: &Answer) -> Result<Written, ClientError> {
    let seq = match answer.seq() {
        Some(seq) => seq,
        None => answers::read_seq(&answer.body)?,
    };
    Ok(Written { seq, replayed: answer.replayed() })
}

struct PathWithQuery {
    text: String,
    separator: char,
}

impl PathWithQuery {
    fn new(path: &str) -> Self {
        Self { text: path.to_owned(), separator: '?' }
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        self.text.push(self.separator);
        self.separator = '&';
        self.text.push_str(name);
        self.text.push('=');
        path::encode_into(&mut self.text, value, false);
    }
}

#[cfg(test)]
mod tests;
