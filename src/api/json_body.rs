//! Requests whose body is one JSON object: read whole, taken apart, refused politely.
//!
//! Takes a request's headers and body, gives what the call's own `parse` makes of it, and the room it takes in
//! the pipeline. It does not know any one call's fields.

use axum::body::Body;
use hyper::HeaderMap;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    App,
    backend::{Backend, Room},
    body::{RequestBody, identity_only},
    fields::is_object,
    problem::Problem,
};
use crate::{
    error::Code,
    runtime::{HEAVY_BYTES, without_blocking_others},
    types::VALUE_BYTES_MAX,
};

/// Longest JSON body: a value of the largest size in base64, and room for the rest.
const BYTES_MAX: usize = VALUE_BYTES_MAX / 3 * 4 + (64 << 10);

/// Large bodies are taken apart one after another: while one is, its strings may be held twice more than
/// the pipeline's budget knows, and other work needs cores too.
static HEAVY_TURN: Semaphore = Semaphore::const_new(1);

/// What a parser asks before it takes memory: room for so many bytes beside the body's own.
pub(super) type AskRoom<'a> = &'a mut dyn FnMut(usize) -> Result<(), Problem>;

/// Reads a body whole and takes it apart with `parse`.
///
/// # Errors
/// 413, 408, 415, the permit's refusals, and what `parse` says.
pub(super) async fn read_json<B: Backend, T>(
    app: &App<B>,
    headers: &HeaderMap,
    body: Body,
    parse: impl FnOnce(&[u8], AskRoom<'_>) -> Result<T, Problem>,
) -> Result<(B::Permit, T), Problem> {
    let mut body = RequestBody::new(body, headers, app.limits.read_timeout);
    let read = async {
        identity_only(headers)?;
        let mut permit = app.backend.permit(0)?;
        let bytes = body.collect(BYTES_MAX, |held| Ok(permit.cover(held)?)).await?;
        let mut room = |more: usize| Ok(permit.cover(bytes.len() + more)?);
        let _turn = if bytes.len() >= HEAVY_BYTES { HEAVY_TURN.acquire().await.ok() } else { None };
        let parsed = without_blocking_others(bytes.len(), || parse(&bytes, &mut room))?;
        Ok((permit, parsed))
    };
    match read.await {
        Ok(read) => Ok(read),
        Err(problem) => Err(body.refuse(problem).await),
    }
}

/// A JSON document of a known shape.
///
/// # Errors
/// 400 with line and column.
pub(super) fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    if !is_object(bytes) {
        return Err(Problem::new(Code::Malformed, "the JSON body is not an object"));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::new(Code::Malformed, format!("the JSON body is wrong: {error}")))
}
