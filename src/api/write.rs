//! The end that all writes share: into the pipeline, and the answer that comes back.
//!
//! Takes a finished draft, gives what it became. It does not read bodies or shape answers beyond the two
//! that several calls have in common.

use axum::body::Body;
use hyper::{
    Response, StatusCode,
    header::{ETAG, HeaderValue},
};
use tokio::time::timeout;

use super::{
    App, Reply,
    backend::{Backend, Room},
    headers::{WriteOptions, seq_values},
    json,
    problem::Problem,
    receipt::Receipts,
};
use crate::{
    error::Code,
    pipeline::message::Written,
    state::batch::Draft,
    types::Seq,
    wire::{IDEMPOTENCY_REPLAYED, SCRIBE_SEQ},
};

/// What became of a request.
#[derive(Debug)]
pub struct Done {
    /// Where its records are.
    pub written: Written,
    /// Their receipts, if it asked for them.
    pub(super) receipts: Option<Receipts>,
}

/// Hands a request over and waits for its outcome, for as long as `limits.write_timeout` allows; for its receipts
/// after that, if it wants them.
///
/// # Errors
/// As [`Room::submit`]; 504 `outcome-unknown` when the wait is over first.
pub async fn submit<B: Backend>(
    app: &App<B>,
    permit: B::Permit,
    mut draft: Draft,
    options: WriteOptions,
) -> Result<Done, Problem> {
    if let Some(condition) = options.condition {
        draft.set_condition(condition);
    }
    if let Some(key) = options.idempotency_key {
        draft.set_idempotency_key(key);
    }
    let written = match timeout(app.limits.write_timeout, permit.submit(draft)).await {
        Ok(outcome) => outcome?,
        Err(_) => {
            return Err(Problem::new(
                Code::OutcomeUnknown,
                format!(
                    "the write did not finish within {:?} and may still happen; repeating it with the same \
                 Idempotency-Key is safe",
                    app.limits.write_timeout
                ),
            ));
        }
    };
    let receipts = match options.wants_receipt {
        // Boxed: the common write does not carry it.
        true => Some(Box::pin(Receipts::of(app, written)).await),
        false => None,
    };
    Ok(Done { written, receipts })
}

/// `{"key":…,"seq":N}` with its headers, and the receipt if it was asked for.
#[must_use]
pub fn answer(status: StatusCode, key: &[u8], done: &Done) -> Response<Body> {
    let Done { written, receipts } = done;
    let mut body = Vec::with_capacity(key.len() + 40);
    body.push(b'{');
    json::write_key(&mut body, key);
    body.extend_from_slice(b",\"seq\":");
    json::write_number(&mut body, written.first_seq.0);
    if let Some(receipts) = receipts {
        receipts.write_one(&mut body);
    }
    body.push(b'}');
    let mut response = json::reply(status, body);
    with_seq(&mut response, written.first_seq);
    mark_replay(&mut response, *written);
    response
}

/// Adds `Scribe-Seq` and `ETag`.
pub fn with_seq(response: &mut Response<Body>, seq: Seq) {
    let (quoted, plain) = seq_values(seq);
    let headers = response.headers_mut();
    headers.insert(SCRIBE_SEQ, plain);
    headers.insert(ETAG, quoted);
}

/// Says so when this is the first answer given again.
pub fn mark_replay(response: &mut Response<Body>, written: Written) {
    if written.replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
}

/// What a call that deletes one key does once it knows which.
///
/// # Errors
/// As [`submit`], and the refusals of the permit and the draft.
pub async fn delete<B: Backend>(app: &App<B>, key: &[u8], options: WriteOptions) -> Reply {
    let permit = app.backend.permit(key.len())?;
    let mut draft = Draft::with_capacity(1, key.len());
    draft.delete(key)?;
    let done = submit(app, permit, draft, options).await?;
    Ok(answer(StatusCode::OK, key, &done))
}
