//! Changes of the cluster: nodes added and removed, leadership handed over, and the same by other names.
//!
//! Takes small JSON bodies, gives wishes to [`Admin`](crate::cluster::admin::Admin) and says what the cluster is
//! afterwards. Whatever holds already is answered as if it had just been done.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State},
};
use hyper::{StatusCode, http::request::Parts};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json as json_value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    App, Reply,
    backend::Backend,
    body::{RequestBody, identity_only},
    json,
    problem::Problem,
    query::no_query,
};
use crate::{
    cluster::control::Wish,
    error::{Code, Error, Result},
    types::NodeId,
};

/// Longest body: a thousand members have room.
const BYTES_MAX: usize = 64 << 10;

/// How long the caller is kept until a node that was added votes. It goes on catching up afterwards, too.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(60);

/// How long another node's HTTP server has to say where its node traffic is.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);

/// A node's id as people write it: 2, `"2"` or `"node2"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(NodeId);

fn parse_id(text: &str) -> Option<NodeId> {
    text.strip_prefix("node").unwrap_or(text).parse().ok().filter(|id| *id > 0)
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_u64().filter(|id| *id > 0),
            Value::String(text) => parse_id(&text),
            _ => None,
        };
        id.map(Self)
            .ok_or_else(|| D::Error::custom("a node id is a positive integer, also as \"2\" or \"node2\""))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddNode {
    node_id: Id,
    address: String,
    #[serde(default)]
    learner: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddLearner {
    node_id: Id,
    rpc_addr: String,
    /// Known from the node itself; accepted because others' scripts send it.
    #[serde(default, rename = "api_addr")]
    _api_addr: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    to: Id,
}

/// `POST /api/v1/cluster/nodes`
///
/// # Errors
/// The problem to answer with.
pub async fn add_node<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts, body: Body) -> Reply {
    no_query(&parts)?;
    let AddNode { node_id: Id(id), address, learner } = read(&app, &parts, body).await?;
    add(&app, id, &address, learner).await
}

/// `POST /add-learner`: as [`add_node`], but the member does not vote until `/change-membership` says so.
///
/// # Errors
/// The problem to answer with.
pub async fn add_learner<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts, body: Body) -> Reply {
    no_query(&parts)?;
    let AddLearner { node_id: Id(id), rpc_addr, .. } = read(&app, &parts, body).await?;
    add(&app, id, &rpc_addr, true).await
}

async fn add<B: Backend>(app: &App<B>, id: NodeId, address: &str, is_replica: bool) -> Reply {
    let admin = app.backend.admin()?;
    match admin.add(id, address, is_replica).await {
        // Nobody speaks the members' protocol there: it may be the node's HTTP server.
        Err(error) if error.code() == Code::Unavailable => {
            let raft_addr = ask_http(id, address).await.map_err(|_| error)?;
            admin.add(id, &raft_addr, is_replica).await?;
        }
        result => result?,
    }
    let is_done = is_replica || admin.votes_within(id, CATCH_UP_PATIENCE).await;
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut reply = members(app, id)?;
    *reply.status_mut() = status;
    Ok(reply)
}

/// `DELETE /api/v1/cluster/nodes/{id}`
///
/// # Errors
/// The problem to answer with.
pub async fn remove_node<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(id): Path<String>,
    parts: Parts,
) -> Reply {
    no_query(&parts)?;
    let id = parse_id(&id).ok_or_else(|| {
        Problem::new(Code::Malformed, format!("{id:?} is no node id: a positive integer, also as \"node2\""))
    })?;
    app.backend.admin()?.fulfil(Wish::Remove(vec![id])).await?;
    members(&app, id)
}

/// `POST /api/v1/cluster/transfer-leader`
///
/// # Errors
/// The problem to answer with.
pub async fn transfer_leader<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts, body: Body) -> Reply {
    no_query(&parts)?;
    let Transfer { to: Id(id) } = read(&app, &parts, body).await?;
    app.backend.admin()?.fulfil(Wish::Lead(id)).await?;
    members(&app, id)
}

/// `POST /change-membership`: these are the voters from now on, and nobody else.
///
/// # Errors
/// The problem to answer with.
pub async fn change_membership<B: Backend>(
    State(app): State<Arc<App<B>>>,
    parts: Parts,
    body: Body,
) -> Reply {
    no_query(&parts)?;
    let voters: Vec<Id> = read(&app, &parts, body).await?;
    let voters: Vec<NodeId> = voters.into_iter().map(|Id(id)| id).collect();
    let first = voters.first().copied().unwrap_or_default();
    app.backend.admin()?.fulfil(Wish::Voters(voters)).await?;
    members(&app, first)
}

/// `POST /init`: a node has its ledger from its start, so this only says who is in it. The body does not matter.
///
/// # Errors
/// The problem to answer with.
pub async fn init<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts) -> Reply {
    no_query(&parts)?;
    app.backend.admin()?;
    members(&app, app.node.status().node_id)
}

fn members<B: Backend>(app: &App<B>, id: NodeId) -> Reply {
    json::ok(&json_value!({ "node_id": id, "members": app.node.members() }))
}

async fn read<B: Backend, T: serde::de::DeserializeOwned>(
    app: &App<B>,
    parts: &Parts,
    body: Body,
) -> Result<T, Problem> {
    let mut body = RequestBody::new(body, &parts.headers, app.limits.read_timeout);
    let read = async {
        identity_only(&parts.headers)?;
        let bytes = body.collect(BYTES_MAX, |_| Ok(())).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Problem::new(Code::Malformed, format!("the JSON body is wrong: {error}")))
    };
    match read.await {
        Ok(read) => Ok(read),
        Err(problem) => Err(body.refuse(problem).await),
    }
}

/// Where a node's members' port is, by its HTTP server.
async fn ask_http(id: NodeId, address: &str) -> Result<String> {
    let failed = |error: std::io::Error| Error::io(format!("asking {address}"), &error);
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.map_err(failed)?;
        let request = format!("GET /api/v1/cluster/nodes HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::new();
        stream.take(BYTES_MAX as u64).read_to_end(&mut answer).await.map_err(failed)?;
        Ok::<_, Error>(answer)
    };
    let nobody = || {
        Error::new(
            Code::Unavailable,
            format!("the node at {address} does not say where its members' port is"),
        )
    };
    let answer = tokio::time::timeout(HTTP_PATIENCE, ask).await.map_err(|_| nobody())??;
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| &answer[at + 4..]);
    let document: Value = body.and_then(|body| serde_json::from_slice(body).ok()).ok_or_else(nobody)?;
    let members = document["members"].as_array().ok_or_else(nobody)?;
    let member = members.iter().find(|member| member["node_id"].as_u64() == Some(id)).ok_or_else(nobody)?;
    let raft_addr = member["raft_addr"].as_str().filter(|address| !address.is_empty()).ok_or_else(nobody)?;
    Ok(raft_addr.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_in_several_ways() {
        for (text, id) in
            [("2", Some(2)), ("\"2\"", Some(2)), ("\"node2\"", Some(2)), ("0", None), ("\"x\"", None)]
        {
            assert_eq!(serde_json::from_str::<Id>(text).ok(), id.map(Id), "{text}");
        }
    }
}
