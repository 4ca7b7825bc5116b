//! The HTTP server: requests in, answers out.
//!
//! ```text
//! listener ─► serve (≤ max_connections) ─► conn (one task each, slow clients end) ─► hyper
//!                                                                                      │ request
//!                   first segment reserved?  no ─► keys ─┐        (429 before either)  ▼
//!                                            yes ─► router ─► kv scan batch status names
//!                                                        │
//!             RequestBody ─► decode ─► Draft ─► Permit::submit ─► Written ─► answer
//!                                               Reader ──────────────────► answer
//! ```
//!
//! Takes an [`App`] and a listener. It owns HTTP and the shapes of API answers; it does not own admission
//! (ingest refuses, this module passes the refusal on), freshness (the reader's barrier) or the node's
//! state ([`NodeView`]).

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc};

use axum::{Router, body::Body, response::IntoResponse};
use futures_util::FutureExt;
use hyper::{Request, Response, service::Service};
use hyper_util::service::TowerToHyperService;
use tokio::time::Instant;

use crate::{
    config::LimitsConfig,
    error::Code,
    metrics::{Metrics, Operation},
};

mod administer;
pub mod backend;
mod batch;
mod blocking;
mod body;
mod cluster;
mod conn;
pub mod decode;
mod document;
mod fields;
mod headers;
mod history;
mod json;
mod json_body;
mod keys;
mod kv;
mod limit;
mod mended;
mod names;
mod pace;
pub mod problem;
mod proofs;
mod query;
mod receipt;
mod route;
mod scan;
mod segment_file;
mod segments;
mod sent;
pub mod serve;
mod starting;
mod status;
mod tiles;
mod verify;
mod view;
mod watch;
mod watchdog;
mod wish;
mod write;

pub use backend::{Backend, Live, Room};
pub use cluster::MemberView;
pub use serve::{listen, serve};
pub use starting::Starting;
pub use status::{LogPositions, NodeView, RecordPositions, StageStatus, Status, TreeStatus};

use problem::{Problem, Slug};

/// OpenAPI 3.1 of everything the server answers.
pub const OPENAPI: &str = include_str!("openapi.json");

/// An answer, or the problem to answer with.
pub(crate) type Reply = Result<Response<Body>, Problem>;

/// Everything a handler needs.
pub struct App<B = Live> {
    /// Writes and reads.
    pub backend: B,
    /// The node's word about itself.
    pub node: Arc<dyn NodeView>,
    /// Request counters.
    pub metrics: Arc<Metrics>,
    /// Bounds on clients.
    pub limits: LimitsConfig,
}

impl<B> std::fmt::Debug for App<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<B> App<B> {
    /// Runs a handler and counts it, however it ends.
    pub(crate) async fn timed(&self, operation: Operation, handler: impl Future<Output = Reply>) -> Reply {
        let started = Instant::now();
        let reply = handler.await;
        self.metrics.observe(operation, started.elapsed());
        reply
    }
}

/// An app with its router: what each connection calls.
pub(crate) struct Server<B> {
    app: Arc<App<B>>,
    router: TowerToHyperService<Router>,
}

impl<B: Backend> Server<B> {
    pub(crate) fn new(app: App<B>) -> Self {
        let app = Arc::new(app);
        Self { router: TowerToHyperService::new(route::router(Arc::clone(&app))), app }
    }

    /// Answers one request. Never fails: a panic in a handler is a 500.
    pub(crate) async fn answer<Bd>(&self, request: Request<Bd>) -> Response<Body>
    where
        Bd: hyper::body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        Bd::Error: Into<axum::BoxError>,
    {
        let _in_flight = self.app.metrics.enter();
        // That a node is not ready is an answer to whoever asks for it, not an error.
        let is_probe = route::is_probe(request.method(), request.uri().path());
        // Handlers share nothing that a panic can leave half done: drafts are their own, permits give
        // themselves back.
        let response = match AssertUnwindSafe(self.dispatch(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!("a request handler panicked; the request was answered 500");
                Problem::new(Code::Internal, "the server made a mistake").into_response()
            }
        };
        if !is_probe && (response.status().is_client_error() || response.status().is_server_error()) {
            self.app.metrics.error(response.extensions().get::<Slug>().map_or("other", |slug| slug.0));
        }
        response
    }

    async fn dispatch<Bd>(&self, request: Request<Bd>) -> Response<Body>
    where
        Bd: hyper::body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        Bd::Error: Into<axum::BoxError>,
    {
        if route::is_reserved(request.uri().path()) {
            // Boxed by axum anyway; nothing of it weighs on the raw path's future.
            let response = self.router.call(request.map(route::boxed)).await;
            return response.map_or_else(|never| match never {}, route::finish);
        }
        keys::call(&self.app, request).await.unwrap_or_else(IntoResponse::into_response)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn openapi_names_exactly_the_routes_there_are() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|name| *name != "parameters") {
                described.insert(format!("{method} {path}"));
            }
        }
        let mut routed: BTreeSet<String> = route::table::<Live>()
            .iter()
            .flat_map(|row| {
                row.methods.iter().map(|method| format!("{method} {}", row.path.replace("{*", "{")))
            })
            .collect();
        routed.extend(["get", "head", "put", "delete"].map(|method| format!("{method} /{{key}}")));
        assert_eq!(described, routed);
    }
}
