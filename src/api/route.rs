//! Which request goes where: raw keys straight to their handler, the server's own names to the router.
//!
//! The first path segment decides, before any router sees the request: a router would match and normalise,
//! and raw keys must be neither. [`table`] is the one list of the server's own paths; the OpenAPI document
//! is checked against it.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request as AxumRequest,
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use hyper::{
    Method,
    header::{ALLOW, CONNECTION},
};

use super::{
    App, Reply, administer, backend::Backend, batch, body::RequestBody, cluster, history, kv, names,
    problem::Problem, proofs, query::percent_decode, scan, segment_file, segments, status, tiles, verify,
    watch,
};
use crate::{error::Code, types::is_reserved_segment};

/// A path of the server's own, its methods (as OpenAPI names them), and what answers.
pub(super) struct Row<B: Backend> {
    pub path: &'static str,
    /// Read by the test that holds the OpenAPI document to this table.
    #[cfg_attr(not(test), expect(dead_code))]
    pub methods: &'static [&'static str],
    pub handler: MethodRouter<Arc<App<B>>>,
}

/// Every path of the server's own.
pub(super) fn table<B: Backend>() -> Vec<Row<B>> {
    const GET: &[&str] = &["get"];
    let row = |path, methods, handler| Row { path, methods, handler };
    vec![
        row("/api/v1/kv", GET, get(scan::get::<B>)),
        row(
            "/api/v1/kv/{key}",
            &["get", "put", "delete"],
            get(kv::get::<B>).put(kv::put::<B>).delete(kv::delete::<B>),
        ),
        row("/api/v1/kv/{key}/history", GET, get(history::get::<B>)),
        row("/api/v1/batch", &["post"], post(batch::post::<B>)),
        row("/api/v1/records/{seq}", GET, get(kv::record::<B>)),
        row("/api/v1/watch", GET, get(watch::get::<B>)),
        row("/api/v1/segments", GET, get(segments::get::<B>)),
        row("/api/v1/segments/{id}/file", GET, get(segment_file::get::<B>)),
        row("/api/v1/segments/{id}/checkpoint", GET, get(segment_file::checkpoint::<B>)),
        row("/api/v1/proofs/inclusion/{seq}", GET, get(proofs::inclusion::<B>)),
        row("/api/v1/proofs/consistency", GET, get(proofs::consistency::<B>)),
        row("/api/v1/keys", GET, get(proofs::keys::<B>)),
        row("/checkpoint", GET, get(proofs::checkpoint::<B>)),
        row("/tile/{*path}", GET, get(tiles::get::<B>)),
        row("/verify/{*key}", GET, get(verify::get::<B>)),
        row("/api/v1/status", GET, get(status::status::<B>)),
        row("/api/v1/health", GET, get(status::health::<B>)),
        row("/health", GET, get(status::health::<B>)),
        row("/livez", GET, get(status::livez)),
        row("/readyz", GET, get(status::readyz::<B>)),
        row("/metrics", GET, get(status::metrics::<B>)),
        row("/api/v1/metrics", GET, get(status::metrics::<B>)),
        row("/metrics/prometheus", GET, get(status::prometheus::<B>)),
        row("/openapi.json", GET, get(status::openapi)),
        row("/cluster/status", GET, get(cluster::status::<B>)),
        row("/cluster/info", GET, get(cluster::status::<B>)),
        row("/api/v1/cluster/status", GET, get(cluster::status::<B>)),
        row("/cluster/members", GET, get(cluster::members::<B>)),
        row("/cluster/nodes", GET, get(cluster::members::<B>)),
        row(
            "/api/v1/cluster/nodes",
            &["get", "post"],
            get(cluster::members::<B>).post(administer::add_node::<B>),
        ),
        row("/api/v1/cluster/nodes/{id}", &["delete"], delete(administer::remove_node::<B>)),
        row("/api/v1/cluster/transfer-leader", &["post"], post(administer::transfer_leader::<B>)),
        row("/init", &["post"], post(administer::init::<B>)),
        row("/add-learner", &["post"], post(administer::add_learner::<B>)),
        row("/change-membership", &["post"], post(administer::change_membership::<B>)),
        row("/cluster/leader", GET, get(cluster::leader::<B>)),
        row("/cluster/leader/info", GET, get(cluster::leader::<B>)),
        row("/leader", GET, get(cluster::leader::<B>)),
        row("/is-leader", GET, get(cluster::is_leader::<B>)),
        row("/put", &["put"], put(names::put::<B>)),
        row("/get/{*key}", GET, get(names::get::<B>)),
        row("/write", &["post"], post(names::write::<B>)),
        row("/read", &["post"], post(names::read::<B>)),
    ]
}

/// The router over [`table`].
pub(super) fn router<B: Backend>(app: Arc<App<B>>) -> Router {
    let mut router = Router::new();
    for row in table::<B>() {
        router = router.route(row.path, row.handler);
    }
    // An empty key is a bad key, not an unknown path.
    router = router.route("/api/v1/kv/", get(kv::get::<B>).put(kv::put::<B>).delete(kv::delete::<B>));
    router = router.route("/get/", get(names::get::<B>)).route("/verify/", get(verify::get::<B>));
    router.fallback(unknown::<B>).method_not_allowed_fallback(wrong_method::<B>).with_state(app)
}

/// Axum knows the methods and adds `Allow` afterwards; [`finish`] then writes the problem. What the client is still
/// sending is taken first: else the connection would end under its next request.
async fn wrong_method<B: Backend>(
    axum::extract::State(app): axum::extract::State<Arc<App<B>>>,
    request: AxumRequest,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = RequestBody::new(body, &parts.headers, app.limits.read_timeout);
    let refused = body.refuse(Problem::method_not_allowed("")).await.into_response();
    let mut response = hyper::StatusCode::METHOD_NOT_ALLOWED.into_response();
    keep_connection(&refused, &mut response);
    response
}

/// Says of the connection what the other answer says.
fn keep_connection(from: &Response, to: &mut Response) {
    if let Some(connection) = from.headers().get(CONNECTION) {
        to.headers_mut().insert(CONNECTION, connection.clone());
    }
}

/// Gives the router's own 405 a document.
pub(super) fn finish(response: Response) -> Response {
    if response.status() != hyper::StatusCode::METHOD_NOT_ALLOWED
        || response.headers().contains_key("content-type")
    {
        return response;
    }
    let allow = response.headers().get(ALLOW).and_then(|allow| allow.to_str().ok()).unwrap_or_default();
    let mut answer = Problem::method_not_allowed(&allow.replace(',', ", ")).into_response();
    keep_connection(&response, &mut answer);
    answer
}

/// Paths of the contract that this version does not have.
const NOT_BUILT: [&str; 3] = ["/ui", "/docs", "/v3/"];

async fn unknown<B: Backend>(
    axum::extract::State(app): axum::extract::State<Arc<App<B>>>,
    request: AxumRequest,
) -> Reply {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let writes_a_key = matches!(parts.method, Method::PUT | Method::DELETE) && !path.starts_with("/api/v1/");
    let problem = if !writes_a_key
        && NOT_BUILT.iter().any(|known| path == *known || (known.ends_with('/') && path.starts_with(known)))
    {
        Problem::new(Code::NoSuchRoute, format!("{path} is not built in this version"))
    } else if path.starts_with("/api/v1/") {
        Problem::new(
            Code::NoSuchRoute,
            format!("there is no {path}; in /api/v1/kv/{{key}} the slashes of a key are written %2F"),
        )
    } else {
        Problem::new(
            Code::InvalidKey,
            "the first segment of this path is reserved; a key of that name is reached under /api/v1/kv/",
        )
    };
    Err(RequestBody::new(body, &parts.headers, app.limits.read_timeout).refuse(problem).await)
}

/// Whether a path's first segment is one that the server itself uses.
pub(super) fn is_reserved(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path).as_bytes();
    let end = memchr::memchr(b'/', path).unwrap_or(path.len());
    let segment = &path[..end];
    // `%2F` decodes to a slash, which ends the segment of the key as a raw one does.
    match percent_decode(segment) {
        Ok(decoded) => {
            let end = memchr::memchr(b'/', &decoded).unwrap_or(decoded.len());
            is_reserved_segment(&decoded[..end])
        }
        Err(_) => false,
    }
}

/// Whether a request is a probe: never limited, so that an orchestrator does not kill a busy node.
pub(super) fn is_probe(method: &Method, path: &str) -> bool {
    *method == Method::GET && matches!(path, "/livez" | "/readyz" | "/health" | "/api/v1/health")
}

/// Turns hyper's body into axum's for the router.
pub(super) fn boxed<Bd>(body: Bd) -> Body
where
    Bd: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    Bd::Error: Into<axum::BoxError>,
{
    Body::new(body)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hyper::{Request, StatusCode};

    use super::*;
    use crate::{
        api::{Server, Starting},
        config::LimitsConfig,
        metrics::Metrics,
        node::StartNote,
    };

    /// The table says which methods a path has; its handlers decide. They have to say the same.
    #[tokio::test]
    async fn every_path_has_the_methods_of_its_row_and_no_others() {
        let starting = Starting::new(1, "balanced", StartNote::default());
        let server = Server::new(App {
            backend: starting.clone(),
            node: Arc::new(starting),
            metrics: Arc::new(Metrics::new()),
            limits: LimitsConfig::default(),
        });
        for row in table::<Starting>() {
            let path = row
                .path
                .replace("{seq}", "0")
                .replace("{key}", "k")
                .replace("{*key}", "k")
                .replace("{*path}", "0/000");
            let mut served: BTreeSet<String> = row.methods.iter().map(|name| name.to_uppercase()).collect();
            if served.contains("GET") {
                served.insert("HEAD".into());
            }
            for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE"] {
                let request = Request::builder().method(method).uri(&path).body(Body::empty()).unwrap();
                let response = server.answer(request).await;
                let refused = response.status() == StatusCode::METHOD_NOT_ALLOWED;
                assert_eq!(refused, !served.contains(method), "{method} {path}: {}", response.status());
                if refused {
                    let allow = response.headers()[ALLOW].to_str().unwrap().split(", ");
                    assert_eq!(allow.map(String::from).collect::<BTreeSet<_>>(), served, "{method} {path}");
                    assert_eq!(response.headers()["content-type"], "application/problem+json");
                }
            }
        }
    }

    #[test]
    fn reserved_names_are_whole_decoded_segments() {
        for reserved in
            ["/api", "/api/x", "/health", "/%68ealth", "/get/", "/v3/kv/range", "/is-leader", "/api%2Fx"]
        {
            assert!(is_reserved(reserved), "{reserved}");
        }
        for key in ["/", "/apis", "/x/api", "//api", "/API", "/health%00", "/%ff", "/..", "/%zz"] {
            assert!(!is_reserved(key), "{key}");
        }
    }
}
