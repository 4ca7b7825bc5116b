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
use serde_json::{Value, json as json_value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    App, Reply,
    backend::Backend,
    body::{RequestBody, identity_only},
    json,
    problem::Problem,
    query::no_query,
    wish::{self, Object, parse_id},
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

/// `POST /api/v1/cluster/nodes`
///
/// # Errors
/// The problem to answer with.
pub async fn add_node<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts, body: Body) -> Reply {
    no_query(&parts)?;
    let parse = |body: &[u8]| {
        let fields = Object::read(body, &["node_id", "address", "learner"])?;
        Ok((fields.id("node_id")?, fields.address("address")?.to_owned(), fields.flag("learner")?))
    };
    let (id, address, is_replica) = read(&app, &parts, body, parse).await?;
    let admin = app.backend.admin()?;
    if is_replica && admin.votes(id) {
        let why = format!(
            "node {id} is a member that votes, and does not become a read replica: remove it, and add it as one with \
             an id of its own"
        );
        return Err(Problem::new(Code::Conflict, why));
    }
    if !is_replica && admin.is_replica(id) {
        let why = format!(
            "node {id} is a read replica and stays one: POST /change-membership with it among the voters makes it vote"
        );
        return Err(Problem::new(Code::Conflict, why));
    }
    add(&app, id, &address, is_replica).await
}

/// `POST /add-learner`: as [`add_node`], but the member does not vote until `/change-membership` says so.
///
/// # Errors
/// The problem to answer with.
pub async fn add_learner<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts, body: Body) -> Reply {
    no_query(&parts)?;
    let parse = |body: &[u8]| {
        let fields = Object::read(body, &["node_id", "rpc_addr", "api_addr"])?;
        // Known from the node itself; accepted because others' scripts send it.
        fields.ignored_text("api_addr")?;
        Ok((fields.id("node_id")?, fields.address("rpc_addr")?.to_owned()))
    };
    let (id, rpc_addr) = read(&app, &parts, body, parse).await?;
    add(&app, id, &rpc_addr, true).await
}

async fn add<B: Backend>(app: &App<B>, id: NodeId, address: &str, is_replica: bool) -> Reply {
    let admin = app.backend.admin()?;
    let changed = match admin.add(id, address, is_replica).await {
        // Nobody speaks the members' protocol there: it may be the node's HTTP server.
        Err(error) if error.code() == Code::Unavailable => match ask_http(id, address).await {
            Ok(raft_addr) => admin.add(id, &raft_addr, is_replica).await?,
            Err(_) => return Err(nobody_there(admin.address(id), id, address, &error)),
        },
        result => result?,
    };
    let is_done = is_replica || admin.votes_within(id, CATCH_UP_PATIENCE).await;
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut reply = members(app, id, changed)?;
    *reply.status_mut() = status;
    Ok(reply)
}

/// What whoever wants to add a node is told when none answers; `member` is where a member of that id is reached.
fn nobody_there(member: Option<String>, id: NodeId, address: &str, error: &Error) -> Problem {
    match member {
        Some(member) => Problem::new(
            Code::Conflict,
            format!(
                "node id {id} is taken by the member at {member}, and nobody answers at {address}: add a new node under \
                 a new id, or start the member there first if it has moved"
            ),
        ),
        None => Problem::unreachable(format!(
            "no node answers at {address}, so node {id} was not added: start it there with this cluster's secret, and \
             give its raft address ({})",
            error.message()
        )),
    }
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
    let changed = app.backend.admin()?.remove(id).await?;
    // It has left, which this member may have yet to hear when it has handed leadership over to remove itself.
    let mut members = app.node.members();
    members.retain(|member| member.node_id != id);
    json::ok(&json_value!({ "node_id": id, "changed": changed, "members": members }))
}

/// `POST /api/v1/cluster/transfer-leader`
///
/// # Errors
/// The problem to answer with.
pub async fn transfer_leader<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts, body: Body) -> Reply {
    no_query(&parts)?;
    let id = read(&app, &parts, body, |body| Object::read(body, &["to"])?.id("to")).await?;
    let admin = app.backend.admin()?;
    let changed = !admin.leads(id);
    admin.fulfil(Wish::Lead(id)).await?;
    members(&app, id, changed)
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
    let voters = read(&app, &parts, body, wish::ids).await?;
    let first = voters.first().copied().unwrap_or_default();
    let admin = app.backend.admin()?;
    let changed = !admin.are_the_voters(&voters);
    admin.fulfil(Wish::Voters(voters)).await?;
    members(&app, first, changed)
}

/// `POST /init`: a node has its ledger from its start, so this only says who is in it. What the body says does not
/// matter, as long as it is JSON or nothing.
///
/// # Errors
/// The problem to answer with.
pub async fn init<B: Backend>(State(app): State<Arc<App<B>>>, parts: Parts, body: Body) -> Reply {
    no_query(&parts)?;
    let parse = |body: &[u8]| match body.trim_ascii().is_empty() {
        true => Ok(()),
        false => wish::parse(body).map(drop),
    };
    read(&app, &parts, body, parse).await?;
    app.backend.admin()?;
    members(&app, app.node.status().node_id, false)
}

/// Who belongs to the cluster now; `changed` says whether the call had anything to do.
fn members<B: Backend>(app: &App<B>, id: NodeId, changed: bool) -> Reply {
    json::ok(&json_value!({ "node_id": id, "changed": changed, "members": app.node.members() }))
}

async fn read<B: Backend, T>(
    app: &App<B>,
    parts: &Parts,
    body: Body,
    parse: impl FnOnce(&[u8]) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let mut body = RequestBody::new(body, &parts.headers, app.limits.read_timeout);
    let read = async {
        identity_only(&parts.headers)?;
        let bytes = body.collect(BYTES_MAX, |_| Ok(())).await?;
        parse(&bytes)
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
