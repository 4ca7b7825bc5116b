//! `/tile/…`: the tree in pieces that never change (C2SP tlog-tiles), for whoever mirrors or monitors it.

use std::sync::Arc;

use axum::{body::Body, extract::State};
use hyper::{
    Response,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    http::request::Parts,
};

use super::{App, Reply, backend::Backend, blocking::blocking, problem::Problem, query::no_query};
use crate::{error::Code, metrics::Operation, proof::tile::TilePath};

/// For a full tile: it will be the same for ever.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// For a partial one: it stays right, and is soon of no use.
const FOR_A_MINUTE: &str = "public, max-age=60";

/// `GET /tile/<L>/<N>[.p/<W>]`, `GET /tile/entries/<N>[.p/<W>]`
///
/// # Errors
/// 404 for a path that names no tile, or one that the tree does not have yet.
pub async fn get<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let read = async {
        no_query(&parts)?;
        let proofs = app.backend.proofs()?.clone();
        let path = parts.uri.path().strip_prefix("/tile/").unwrap_or_default();
        let path: TilePath =
            path.parse().map_err(|error| Problem::new(Code::NotFound, format!("{error}")))?;
        let (TilePath::Hashes(tile) | TilePath::Entries(tile)) = path;
        let bytes = blocking(&app.backend, move || match path {
            TilePath::Hashes(tile) => proofs.tile(tile),
            TilePath::Entries(tile) => proofs.entries(tile),
        });
        let mut response = Response::new(Body::from(bytes.await?));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let keep = if tile.is_full() { FOR_EVER } else { FOR_A_MINUTE };
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
        Ok(response)
    };
    app.timed(Operation::Proof, read).await
}
