//! What the node says about itself: status, health and metrics.
//!
//! The numbers come from the node through [`NodeView`]; this file owns only their shape.

use std::{collections::BTreeMap, sync::Arc};

use axum::{body::Body, extract::State};
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
    http::request::Parts,
};
use serde::Serialize;
use serde_json::{Value, json as json_value};

use super::{
    App, Reply,
    backend::Backend,
    cluster::MemberView,
    json,
    problem::Problem,
    query::{Query, no_query},
};
use crate::{
    error::{Code, Error},
    metrics::MetricsSnapshot,
    types::NodeId,
};

/// What the server asks of the node that runs it. Every call answers at once, from memory.
pub trait NodeView: Send + Sync {
    /// Positions, role, stages.
    fn status(&self) -> Status;
    /// Whether the node can do its work, reads at least: what decides whether clients are sent here.
    ///
    /// # Errors
    /// Why not.
    fn healthy(&self) -> Result<(), Error>;
    /// Whether it takes writes now. A node whose disk is full is healthy and takes none.
    ///
    /// # Errors
    /// Why not.
    fn takes_writes(&self) -> Result<(), Error>;
    /// The numbers of `/metrics` that the server does not count itself.
    fn metrics(&self) -> MetricsSnapshot;
    /// All members, this one included.
    fn members(&self) -> Vec<MemberView>;
    /// The leader, if one is known.
    fn leader(&self) -> Option<MemberView>;
}

/// `GET /api/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// This node.
    pub node_id: NodeId,
    /// The ledger it is a part of: 128 random bits in hex; `null` while it starts.
    pub cluster_id: Option<String>,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: &'static str,
    /// The leader it knows of.
    pub leader_id: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Positions in the log.
    pub log: LogPositions,
    /// Positions in the ledger.
    pub records: RecordPositions,
    /// The Merkle tree.
    pub tree: TreeStatus,
    /// The stages of the pipeline by name.
    pub stages: BTreeMap<&'static str, StageStatus>,
    /// Where segments are archived, and whether they can be.
    pub archive: ArchiveStatus,
    /// All members, this one included.
    pub members: Vec<MemberView>,
    /// Version of the program.
    pub version: &'static str,
    /// Name of the profile in force.
    pub profile: String,
    /// Time since start.
    pub uptime_ms: u64,
}

/// Log indexes; `null` while the log is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LogPositions {
    /// Handed to Raft.
    pub proposed: Option<u64>,
    /// On a quorum's disks.
    pub committed: Option<u64>,
    /// Applied here.
    pub applied: Option<u64>,
}

/// Counts of records: one past the last seq.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RecordPositions {
    /// Numbered and readable.
    pub applied: u64,
    /// Under the tree.
    pub proven: u64,
    /// In closed segments.
    pub sealed: u64,
    /// In the archive, by what a leader has said in the log.
    pub archived: u64,
}

/// The tree over the proven records.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TreeStatus {
    /// Number of leaves.
    pub size: u64,
    /// Root hash, hex.
    pub root: String,
}

/// RFC 6962: the root of the empty tree is the hash of the empty string.
const EMPTY_ROOT: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

impl Default for TreeStatus {
    fn default() -> Self {
        Self { size: 0, root: EMPTY_ROOT.to_owned() }
    }
}

/// What waits in front of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StageStatus {
    /// How many messages.
    pub depth: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Age of the oldest.
    pub oldest_ms: u64,
}

/// The archive as this node sees it. Its lag is that of the stage `archive`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArchiveStatus {
    /// A path, or an `s3://` URL; `null` where nothing is archived.
    pub place: Option<String>,
    /// `off`; `starting` before the store was asked; `ok`; or what it is: `away`, `refused`, `full`, `broken`.
    pub state: &'static str,
    /// Why, in the last four cases.
    pub error: Option<String>,
    /// Bytes of segments on this node's disk.
    pub local_bytes: u64,
    /// Segments whose records are in the archive alone.
    pub cold_segments: u64,
    /// Bytes of copies of what was read from there.
    pub cache_bytes: u64,
}

impl Default for ArchiveStatus {
    fn default() -> Self {
        Self { place: None, state: "starting", error: None, local_bytes: 0, cold_segments: 0, cache_bytes: 0 }
    }
}

/// `GET /api/v1/status`
///
/// # Errors
/// The problem to answer with.
pub async fn status<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    json::ok(&app.node.status())
}

/// `GET /health`, `GET /api/v1/health`: as `/readyz`.
///
/// # Errors
/// 503 with the reason.
pub async fn health<B: Backend>(State(app): State<Arc<App<B>>>) -> Reply {
    app.node.healthy().map_err(unavailable)?;
    Ok(json::reply(StatusCode::OK, r#"{"status":"ok"}"#))
}

/// `GET /livez`: the process answers, and nothing else is asked.
///
/// # Errors
/// None.
pub async fn livez() -> Reply {
    Ok(json::reply(StatusCode::OK, r#"{"status":"ok"}"#))
}

/// `GET /readyz`: 200 while reads are served. A full disk stops writes, each of which says so; taking the node
/// out of service would stop its reads too. `?verbose` names it.
///
/// # Errors
/// 503 with the reason.
pub async fn readyz<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    let verbose = Query::parse(parts.uri.query(), &["verbose"])?.flag("verbose")?;
    app.node.healthy().map_err(unavailable)?;
    if !verbose {
        return Ok(json::reply(StatusCode::OK, r#"{"status":"ok"}"#));
    }
    let status = app.node.status();
    let writes = app.node.takes_writes();
    json::ok(&json_value!({
        "status": "ok",
        "checks": {
            "reads": "ok",
            "writes": writes.as_ref().map_or_else(|error| Value::from(error.message()), |()| "ok".into()),
            "leader": status.leader_id,
            "committed": status.log.committed,
            "applied": status.log.applied,
        },
        "stages": status.stages,
    }))
}

/// Probes know 200 and 503; the code stays in the document unless it would say another status.
fn unavailable(error: Error) -> Problem {
    let problem = Problem::from(error.clone());
    if problem.status() == StatusCode::SERVICE_UNAVAILABLE {
        return problem;
    }
    Problem::new(Code::Unavailable, error.message())
}

/// `GET /metrics`, `GET /api/v1/metrics`: JSON, or Prometheus text where the client asks for it.
///
/// # Errors
/// The problem to answer with.
pub async fn metrics<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    if wants_prometheus(&parts.headers) {
        return Ok(prometheus_text(&app));
    }
    json::ok(&app.metrics.to_json(&app.node.metrics()))
}

/// `GET /metrics/prometheus`
///
/// # Errors
/// None.
pub async fn prometheus<B: Backend>(State(app): State<Arc<App<B>>>) -> Reply {
    Ok(prometheus_text(&app))
}

fn prometheus_text<B: Backend>(app: &App<B>) -> Response<Body> {
    let mut response = Response::new(Body::from(app.metrics.to_prometheus(&app.node.metrics())));
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The first type named decides; what scrapers send begins with one of theirs. `*/*` gets JSON.
fn wants_prometheus(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let accept = accept.to_ascii_lowercase();
    for range in accept.split(',') {
        match range.split(';').next().unwrap_or_default().trim() {
            "application/json" => return false,
            "text/plain" | "application/openmetrics-text" => return true,
            _ => {}
        }
    }
    false
}

/// `GET /openapi.json`
///
/// # Errors
/// None.
pub async fn openapi() -> Reply {
    Ok(json::reply(StatusCode::OK, super::OPENAPI))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_decides_between_json_and_prometheus() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            wants_prometheus(&headers)
        };
        for yes in [
            "text/plain",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2,*/*;q=0.1",
            "TEXT/PLAIN; version=0.0.4",
        ] {
            assert!(wants(yes), "{yes}");
        }
        for no in ["*/*", "application/json", "application/json, text/plain, */*", "text/html,*/*;q=0.8"] {
            assert!(!wants(no), "{no}");
        }
        assert!(!wants_prometheus(&HeaderMap::new()));
    }

    #[test]
    fn status_has_the_shape_of_the_contract() {
        let status = serde_json::to_value(Status::default()).unwrap();
        for pointer in [
            "/node_id",
            "/cluster_id",
            "/log/proposed",
            "/log/committed",
            "/log/applied",
            "/records/applied",
            "/records/proven",
            "/records/sealed",
            "/records/archived",
            "/tree/size",
            "/tree/root",
            "/stages",
            "/archive/state",
            "/archive/error",
            "/archive/cold_segments",
            "/version",
            "/profile",
            "/uptime_ms",
            "/leader_id",
            "/term",
            "/role",
        ] {
            assert!(status.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
