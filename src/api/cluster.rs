//! The members and the leader, as this node sees them.
//!
//! Members ask each other once a second how they are. What is not known here is `null`, never a guess.

use std::sync::Arc;

use axum::extract::State;
use hyper::http::request::Parts;
use serde::Serialize;
use serde_json::json as json_value;

use super::{App, Reply, backend::Backend, json, problem::Problem, query::no_query};
use crate::{cluster::vitals::CatchingUp, error::Code, types::NodeId};

/// One member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemberView {
    /// Its id.
    pub node_id: NodeId,
    /// `leader`, `follower` or `learner`.
    pub role: &'static str,
    /// Where clients reach it.
    pub http_addr: String,
    /// Where members reach it; empty while nothing listens there.
    pub raft_addr: String,
    /// Whether it can do its work, as `/health` says; `None` when that is not known here.
    pub healthy: Option<bool>,
    /// Log entries that it has yet to get or to apply, as of about a second ago; `None` when that is not known here.
    pub lag: Option<u64>,
    /// How far it is while it fetches segments, being too far behind for the log.
    pub catching_up: Option<CatchingUp>,
}

/// `GET /cluster/status` and its other names.
///
/// # Errors
/// The problem to answer with.
pub async fn status<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    let status = app.node.status();
    json::ok(&json_value!({
        "node_id": status.node_id,
        "role": status.role,
        "term": status.term,
        "leader_id": status.leader_id,
        "leader": app.node.leader(),
        "members": app.node.members(),
    }))
}

/// `GET /cluster/members` and its other names.
///
/// # Errors
/// The problem to answer with.
pub async fn members<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    json::ok(&json_value!({ "members": app.node.members() }))
}

/// `GET /cluster/leader` and its other names.
///
/// # Errors
/// 503 while no leader is known.
pub async fn leader<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    let leader = app.node.leader().ok_or_else(|| Problem::new(Code::NoQuorum, "no leader is known"))?;
    json::ok(&json_value!({
        "leader_id": leader.node_id,
        "http_addr": leader.http_addr,
        "raft_addr": leader.raft_addr,
        "term": app.node.status().term,
    }))
}

/// `GET /is-leader`: whether this node leads and a quorum answers it.
///
/// # Errors
/// The problem to answer with.
pub async fn is_leader<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    let (leader, me) = (app.node.leader(), app.node.status().node_id);
    json::ok(&json_value!({ "is_leader": leader.is_some_and(|leader| leader.node_id == me) }))
}
