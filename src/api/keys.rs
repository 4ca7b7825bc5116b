//! `/{key}`: raw bytes under a path.
//!
//! Takes requests whose first path segment is not the server's own (the router has seen to that), gives
//! answers. This is the hot path of single writes and reads: no router, no captures, no boxed layers, and
//! nothing is copied that can be shared.

use std::{
    future::ready,
    time::{Duration, UNIX_EPOCH},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    header::{
        ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
        HeaderValue, LAST_MODIFIED, X_CONTENT_TYPE_OPTIONS,
    },
};

use super::{
    App, Reply,
    backend::{Backend, Room},
    body::{RequestBody, grown, identity_only, too_large},
    headers::{Part, ReadVerdict, WriteOptions, range, read_conditions, seq_values},
    mended::mended,
    problem::Problem,
    query::{Query, key_in_path},
    write,
};
use crate::{
    error::Code,
    metrics::Operation,
    read::{Consistency, Record},
    state::batch::Draft,
    types::{Op, Seq, VALUE_BYTES_MAX},
    wire::SCRIBE_SEQ,
};

/// What `/{key}` answers, for `Allow`.
const METHODS: &str = "GET, HEAD, PUT, DELETE";

/// Room asked for before a body is read; larger bodies ask for more as they come.
const FIRST_ROOM_BYTES: usize = 64 << 10;

/// Answers any request for `/{key}`.
///
/// # Errors
/// The problem to answer with.
pub async fn call<B, Bd>(app: &App<B>, request: Request<Bd>) -> Reply
where
    B: Backend,
    Bd: hyper::body::Body<Data = Bytes> + Unpin,
{
    let (parts, body) = request.into_parts();
    let key = parts.uri.path().strip_prefix('/').unwrap_or_default();
    match parts.method {
        Method::GET | Method::HEAD => {
            app.timed(Operation::Get, get(app, &parts.method, &parts.uri, &parts.headers, key)).await
        }
        Method::PUT => {
            let body = RequestBody::new(body, &parts.headers, app.limits.read_timeout);
            app.timed(Operation::Put, put(app, &parts.uri, &parts.headers, key, body)).await
        }
        Method::DELETE => {
            let delete = async {
                let key = key_in_path(key)?;
                Query::parse(parts.uri.query(), &[])?;
                write::delete(app, &key, WriteOptions::from_headers(&parts.headers)?).await
            };
            app.timed(Operation::Delete, delete).await
        }
        _ => {
            let body = RequestBody::new(body, &parts.headers, app.limits.read_timeout);
            Err(body.refuse(Problem::method_not_allowed(METHODS)).await)
        }
    }
}

async fn put<B, Bd>(
    app: &App<B>,
    uri: &Uri,
    headers: &HeaderMap,
    key: &str,
    mut body: RequestBody<Bd>,
) -> Reply
where
    B: Backend,
    Bd: hyper::body::Body<Data = Bytes> + Unpin,
{
    let read = async {
        let key = key_in_path(key)?;
        Query::parse(uri.query(), &[])?;
        let options = WriteOptions::from_headers(headers)?;
        identity_only(headers)?;
        let announced = body.announced(VALUE_BYTES_MAX)?;
        let mut permit = app.backend.permit(announced.unwrap_or(0).min(FIRST_ROOM_BYTES))?;
        let draft = read_value(&mut body, &key, announced, &mut permit).await?;
        Ok((key, options, permit, draft))
    };
    let (key, options, permit, draft) = match read.await {
        Ok(read) => read,
        Err(problem) => return Err(body.refuse(problem).await),
    };
    let done = write::submit(app, permit, draft, options).await?;
    Ok(write::answer(StatusCode::CREATED, &key, &done))
}

/// The put that a body is the value of. The value goes to the draft as it comes, so that it is held once.
async fn read_value<P, Bd>(
    body: &mut RequestBody<Bd>,
    key: &[u8],
    announced: Option<usize>,
    permit: &mut P,
) -> Result<Draft, Problem>
where
    P: Room,
    Bd: hyper::body::Body<Data = Bytes> + Unpin,
{
    let first = body.next().await?.unwrap_or_default();
    let (mut len, mut capacity) = (first.len(), first.len());
    permit.cover(key.len() + capacity)?;
    let mut draft = Draft::with_capacity(1, key.len() + capacity);
    draft.put(key, &first)?;
    // The end is read as well: an HTTP/2 client may send it in a frame of its own, and would find the stream
    // reset before it could.
    while let Some(chunk) = body.next().await? {
        len += chunk.len();
        if len > VALUE_BYTES_MAX {
            return Err(too_large(VALUE_BYTES_MAX));
        }
        if let Some(more) = grown(capacity, len, announced) {
            permit.cover(key.len() + more)?;
            draft.reserve(more - (len - chunk.len()));
            capacity = more;
        }
        draft.extend_value(&chunk)?;
    }
    Ok(draft)
}

/// Reads one key as raw bytes; `part` is its spelling in the path.
///
/// # Errors
/// 404, 400, 412, 416, and the barrier's refusals.
pub async fn get<B: Backend>(
    app: &App<B>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    part: &str,
) -> Reply {
    let key = key_in_path(part)?;
    let query = Query::parse(uri.query(), &["consistency", "at"])?;
    let record = find(app, &key, query.consistency()?, query.at()?).await?;
    let mut response = match read_conditions(headers, record.seq)? {
        ReadVerdict::Failed => {
            let detail = format!("the newest version is \"{}\"", record.seq);
            return Err(Problem::new(Code::PreconditionFailed, detail));
        }
        ReadVerdict::NotModified => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        ReadVerdict::Send => value_response(headers, &record)?,
    };
    if *method == Method::HEAD && response.status() != StatusCode::NOT_MODIFIED {
        let len = hyper::body::Body::size_hint(response.body()).exact().unwrap_or(0);
        *response.body_mut() = Body::empty();
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
    describe_version(response.headers_mut(), &record);
    Ok(response)
}

/// The value or a part of it, without the headers that 304 has too.
fn value_response(headers: &HeaderMap, record: &Record) -> Reply {
    let len = record.value.len();
    let mut response = match range(headers, record.seq, len) {
        Part::Whole => Response::new(Body::from(record.value.clone())),
        Part::Unsatisfiable => return Err(Problem::range_not_satisfiable(len)),
        Part::Range(start, end) => {
            let mut response = Response::new(Body::from(record.value.slice(start..end)));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let content_range = format!("bytes {start}-{}/{len}", end - 1);
            if let Ok(content_range) = HeaderValue::try_from(content_range) {
                response.headers_mut().insert(CONTENT_RANGE, content_range);
            }
            response
        }
    };
    // Anyone may store anything: a browser must neither guess a type nor run what it finds.
    let headers = response.headers_mut();
    headers.reserve(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(response)
}

fn describe_version(headers: &mut HeaderMap, record: &Record) {
    let (quoted, plain) = seq_values(record.seq);
    headers.insert(SCRIBE_SEQ, plain);
    headers.insert(ETAG, quoted);
    // httpdate has four digits for the year; a timestamp beyond them is no time this ledger was written at.
    const YEAR_9999_MS: u64 = 253_402_300_799_999;
    let modified = UNIX_EPOCH + Duration::from_millis(record.timestamp_ms.min(YEAR_9999_MS));
    if let Ok(modified) = HeaderValue::try_from(httpdate::fmt_http_date(modified)) {
        headers.insert(LAST_MODIFIED, modified);
    }
}

/// The version of a key that a read asks for, if it is a value.
///
/// # Errors
/// 404 for a key that is absent there, 400 for a position that is not written yet.
pub async fn find<B: Backend>(
    app: &App<B>,
    key: &[u8],
    consistency: Consistency,
    at: Option<Seq>,
) -> Result<Record, Problem> {
    app.backend.barrier(consistency).await?;
    let record = match at {
        None => mended(&app.backend, || ready(app.backend.newest(key))).await?,
        Some(at) => {
            check_position(app, at)?;
            mended(&app.backend, || ready(app.backend.as_of(key, at))).await?
        }
    };
    match record {
        Some(record) if record.op == Op::Put => Ok(record),
        _ => Err(Problem::new(Code::NotFound, "there is no value under this key")),
    }
}

/// Whether a position has been written.
///
/// # Errors
/// 400 when it has not.
pub fn check_position<B: Backend>(app: &App<B>, at: Seq) -> Result<(), Problem> {
    let next = app.backend.next_seq();
    if at < next {
        return Ok(());
    }
    let newest = next
        .0
        .checked_sub(1)
        .map_or("the ledger is empty".to_owned(), |seq| format!("the newest seq is {seq}"));
    Err(Problem::new(Code::Malformed, format!("position {at} is not written yet: {newest}")))
}
