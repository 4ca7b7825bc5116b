//! `/checkpoint`, `/api/v1/proofs/…`, `/api/v1/keys`: what the ledger vouches for, and how that is checked.
//!
//! Takes positions and sizes, gives notes and JSON. All of it is about the newest checkpoint and what is before it.
//! A record that has just been written is a few milliseconds away from its checkpoint, and whoever asks for its
//! proof at once waits for that, up to a second.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, extract::State};
use hyper::{
    Response,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    http::request::Parts,
};
use serde_json::json as json_value;

use super::{
    App, Reply,
    backend::Backend,
    blocking::blocking,
    json,
    problem::Problem,
    query::{Query, no_query, parse_digits},
};
use crate::{
    error::Code,
    metrics::Operation,
    proof::Hash,
    read::{ConsistencyProof, Inclusion, Proofs},
    tree::Signed,
    types::Seq,
};

/// How long a proof waits for the checkpoint it is to be under.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long `/checkpoint` waits for one that covers all that is written, before it gives the newest there is.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(100);

/// `GET /checkpoint`: the signed note, as C2SP tlog-checkpoint has it.
///
/// # Errors
/// 503 before the first one is signed.
pub async fn checkpoint<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let read = async {
        no_query(&parts)?;
        let proofs = app.backend.proofs()?;
        let covering = proofs.covering(app.backend.next_seq(), CHECKPOINT_PATIENCE).await;
        let newest = covering.or_else(|| proofs.checkpoint());
        let newest = newest
            .ok_or_else(|| Problem::new(Code::Unavailable, "no checkpoint is signed yet: ask again"))?;
        let mut response = Response::new(Body::from(newest.note.clone()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
        Ok(response)
    };
    app.timed(Operation::Proof, read).await
}

/// `GET /api/v1/keys`: `{"origin","keys":[VKEY,…]}`
///
/// # Errors
/// The problem to answer with.
pub async fn keys<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    let proofs = app.backend.proofs()?;
    let keys = proofs.keys();
    json::ok(&json_value!({
        "origin": proofs.origin(),
        "keys": keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }))
}

/// `GET /api/v1/proofs/inclusion/{seq}`
///
/// # Errors
/// 404 for a record that is not written, 400 for a size that does not cover it or is not reached.
pub async fn inclusion<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let read = async {
        let seq = seq_in_path(&parts, "/api/v1/proofs/inclusion/")?;
        let size = Query::parse(parts.uri.query(), &["size"])?.number("size")?.map(Seq);
        let proofs = app.backend.proofs()?.clone();
        if seq >= app.backend.next_seq() {
            return Err(Problem::new(Code::NotFound, format!("there is no record {seq}")));
        }
        let checkpoint = covering(&app, &proofs, size.unwrap_or(seq.plus(1))).await?;
        let size = size.unwrap_or(checkpoint.size);
        if seq >= size {
            let detail = format!("record {seq} is not among the first {size}: ask for a larger size");
            return Err(Problem::new(Code::Malformed, detail));
        }
        let Inclusion { leaf, tree_size, root, siblings } =
            blocking(&app.backend, move || proofs.inclusion(seq, size)).await?;
        json::ok(&json_value!({
            "leaf_index": leaf.seq.0,
            "tree_size": tree_size.0,
            "leaf": json::to_hex(&leaf.encode()),
            "leaf_hash": leaf.hash().to_string(),
            "root_hash": root.to_string(),
            "siblings": hexes(&siblings),
        }))
    };
    app.timed(Operation::Proof, read).await
}

/// `GET /api/v1/proofs/consistency`
///
/// # Errors
/// 400 without `from`, when `from` is beyond `to`, or when `to` is beyond the newest checkpoint.
pub async fn consistency<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let read = async {
        let query = Query::parse(parts.uri.query(), &["from", "to"])?;
        let malformed = |detail: &str| Problem::new(Code::Malformed, detail);
        let from = query.number("from")?.map(Seq);
        let from = from.ok_or_else(|| malformed("query parameter \"from\" is missing: the earlier size"))?;
        let to = query.number("to")?.map(Seq);
        if to.is_some_and(|to| from > to) {
            return Err(malformed("\"from\" is the earlier size and cannot be more than \"to\""));
        }
        let proofs = app.backend.proofs()?.clone();
        let checkpoint = covering(&app, &proofs, to.unwrap_or(from)).await?;
        let to = to.unwrap_or(checkpoint.size);
        let ConsistencyProof { from_root, to_root, hashes } =
            blocking(&app.backend, move || proofs.consistency(from, to)).await?;
        json::ok(&json_value!({
            "from": from.0,
            "to": to.0,
            "from_root": from_root.to_string(),
            "to_root": to_root.to_string(),
            "hashes": hexes(&hashes),
        }))
    };
    app.timed(Operation::Proof, read).await
}

/// The newest checkpoint, which covers `size` records.
async fn covering<B: Backend>(app: &App<B>, proofs: &Proofs, size: Seq) -> Result<Arc<Signed>, Problem> {
    let written = app.backend.next_seq();
    if size > written {
        let detail = format!("the ledger has {written} records, not {size}: ask for less, or later");
        return Err(Problem::new(Code::Malformed, detail));
    }
    proofs.covering(size, PATIENCE).await.ok_or_else(|| {
        let detail = format!("no checkpoint covers {size} records yet: ask again");
        Problem::new(Code::Unavailable, detail)
    })
}

/// The seq that is the rest of a path.
///
/// # Errors
/// 400 when it is none.
pub(super) fn seq_in_path(parts: &Parts, before: &str) -> Result<Seq, Problem> {
    let part = parts.uri.path().strip_prefix(before).unwrap_or_default();
    parse_digits(part.as_bytes()).map(Seq).ok_or_else(|| {
        let detail = format!("a record is named by its seq, a whole number, not {part:?}");
        Problem::new(Code::Malformed, detail)
    })
}

/// Hashes in hex.
pub(super) fn hexes(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(ToString::to_string).collect()
}
