//! `/api/v1/segments/{id}/file` and `…/checkpoint`: what a copy of the ledger is made of.
//!
//! ```text
//! file          the segment as it lies on every member's disk, whole or a range; its entity tag is the digest
//! checkpoint    a note over all that is in segments up to this one
//! ```
//!
//! Takes a segment's number, gives bytes as they are: whoever copies them verifies them, and a segment never changes, so
//! that a copy can be gone on with at another member. What has left for the archive is fetched from there. A piece is in
//! memory at once, pulled by the client. It does not own which segments there are.

use std::{io, sync::Arc};

use axum::{body::Body, extract::State};
use bytes::Bytes;
use futures_util::stream::{StreamExt, iter, try_unfold};
use hyper::{
    Response, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
        InvalidHeaderValue,
    },
    http::request::Parts,
};

use super::{
    App, Reply,
    backend::Backend,
    blocking::blocking,
    headers::{Part, range_of},
    json,
    problem::Problem,
    query::{no_query, parse_digits},
};
use crate::{
    env::File,
    error::{Code, Error},
    metrics::Operation,
    types::SegmentId,
};

/// Bytes that are read at once.
const PIECE_BYTES: u64 = 256 << 10;

/// As many of a segment whose records are in the archive: about what one request there brings.
const COLD_PIECE_BYTES: u64 = 1 << 20;

/// It will be the same for ever.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// `GET /api/v1/segments/{id}/file`
///
/// # Errors
/// 404 for a segment that is not sealed here; 416 for a range outside of it; 503 where its records are in the archive,
/// and that does not give them.
pub async fn get<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    let id = id_in_path(&parts, "/file")?;
    let proofs = app.backend.proofs()?.clone();
    let segment = proofs.segment(id)?;
    let (digest, bytes) = (json::to_hex(&segment.summary().digest), segment.summary().file_bytes);
    let len = usize::try_from(bytes).unwrap_or(usize::MAX);
    let (status, at, end) = match range_of(&parts.headers, &digest, len) {
        Part::Whole => (StatusCode::OK, 0, bytes),
        Part::Unsatisfiable => return Err(Problem::range_not_satisfiable(len)),
        Part::Range(start, end) => (StatusCode::PARTIAL_CONTENT, start as u64, end as u64),
    };
    let body = match segment.stub() {
        Some(_) => {
            let rest = ColdRest { app: app.clone(), id, at, end };
            // Whatever keeps the archive from giving it is said while that can be said.
            let first = cold_piece(rest).await?;
            let (first, rest) = first.unzip();
            let others = try_unfold(rest, |rest| async {
                match rest {
                    Some(rest) => Ok(cold_piece(rest).await?.map(|(piece, rest)| (piece, Some(rest)))),
                    None => Ok::<_, Error>(None),
                }
            });
            Body::from_stream(iter(first).map(Ok).chain(others))
        }
        None => {
            let file = blocking(&app.backend, move || proofs.segment_file(id)).await?;
            Body::from_stream(try_unfold(Rest { file, at, end }, piece))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let described = || -> Result<_, InvalidHeaderValue> {
        let tag = HeaderValue::try_from(format!("\"{digest}\""))?;
        Ok((tag, HeaderValue::try_from(format!("bytes {at}-{}/{bytes}", end.saturating_sub(1)))?))
    };
    let (tag, content_range) =
        described().map_err(|_| Problem::new(Code::Internal, "a number is no header"))?;
    let headers = response.headers_mut();
    headers.insert(ETAG, tag);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(end - at));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, FOR_EVER);
    if status == StatusCode::PARTIAL_CONTENT {
        headers.insert(CONTENT_RANGE, content_range);
    }
    Ok(response)
}

/// `GET /api/v1/segments/{id}/checkpoint`
///
/// # Errors
/// 404 for a segment that is not sealed here, or where nobody signs.
pub async fn checkpoint<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let read = async {
        no_query(&parts)?;
        let id = id_in_path(&parts, "/checkpoint")?;
        let proofs = app.backend.proofs()?.clone();
        let note = blocking(&app.backend, move || proofs.checkpoint_behind(id)).await?;
        let mut response = Response::new(Body::from(note));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Ok(response)
    };
    app.timed(Operation::Proof, read).await
}

/// The segment that a path names before this ending.
fn id_in_path(parts: &Parts, ending: &str) -> Result<SegmentId, Problem> {
    let rest = parts.uri.path().strip_prefix("/api/v1/segments/").unwrap_or_default();
    let part = rest.strip_suffix(ending).unwrap_or(rest);
    parse_digits(part.as_bytes()).map(SegmentId).ok_or_else(|| {
        Problem::new(Code::Malformed, format!("a segment is named by its number, not {part:?}"))
    })
}

/// What is still to be sent of a file.
struct Rest {
    file: Arc<dyn File>,
    at: u64,
    end: u64,
}

/// The next bytes; none behind the last. What cannot be read ends the connection: its client asks again.
async fn piece(rest: Rest) -> io::Result<Option<(Bytes, Rest)>> {
    let count = (rest.end - rest.at).min(PIECE_BYTES);
    if count == 0 {
        return Ok(None);
    }
    let read = move || {
        let mut piece = vec![0; count as usize];
        rest.file.read_at(&mut piece, rest.at).map(|()| (Bytes::from(piece), rest))
    };
    #[expect(clippy::disallowed_methods, reason = "reads of files take long; simulations run no servers")]
    let read = tokio::task::spawn_blocking(read).await;
    let (piece, rest) = read.unwrap_or_else(|error| Err(io::Error::other(error)))?;
    Ok(Some((piece, Rest { at: rest.at + count, ..rest })))
}

/// What is still to be sent of a segment whose records are in the archive.
struct ColdRest<B> {
    app: Arc<App<B>>,
    id: SegmentId,
    at: u64,
    end: u64,
}

/// As [`piece`]: the blocks that it needs are fetched first.
async fn cold_piece<B: Backend>(rest: ColdRest<B>) -> Result<Option<(Bytes, ColdRest<B>)>, Error> {
    let ColdRest { app, id, at, end } = rest;
    let next = end.min(at.saturating_add(COLD_PIECE_BYTES));
    if at >= next {
        return Ok(None);
    }
    let proofs = app.backend.proofs()?.clone();
    // Its file may come back meanwhile, or leave.
    let piece = blocking(&app.backend, move || proofs.segment(id)?.file_part(at..next)).await?;
    Ok(Some((piece, ColdRest { app, id, at: next, end })))
}
