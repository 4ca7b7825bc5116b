//! A stand-in for the server: the calls that the load generator makes, in memory, with faults on request.

#![allow(dead_code, reason = "every test crate uses another part of it")]

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    panic,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// What goes wrong with one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// 503 with Retry-After; nothing is stored.
    Refuse,
    /// The connection breaks; nothing is stored.
    BreakBefore,
    /// It is stored and the connection breaks.
    BreakAfter,
    /// It is stored and no answer comes.
    HangAfter,
    /// It is stored and the answer is 504 outcome-unknown.
    UnknownAfter,
    /// It is stored, and the answer is that of [`Fault::Refuse`]: a broken promise.
    RefuseAfter,
    /// Its first half is stored and the connection breaks: a torn batch.
    BreakHalfWay,
}

#[derive(Default)]
struct Ledger {
    /// By position; what was lost is gone.
    records: Vec<Option<(Vec<u8>, Bytes)>>,
    /// Positions of each key's versions, ascending.
    versions: HashMap<Vec<u8>, Vec<u64>>,
    leader: Option<SocketAddr>,
    cluster_id: Option<String>,
    answers: HashMap<String, (Bytes, u64, u64)>,
    faults: VecDeque<Fault>,
}

/// A running stub.
#[derive(Clone, Default)]
pub struct Stub {
    ledger: Arc<Mutex<Ledger>>,
    /// Held for writing while nothing is to be answered.
    gate: Arc<tokio::sync::RwLock<()>>,
}

impl Stub {
    /// Serves at a port of its own, until the process ends. The writes that come get these faults, in order.
    pub async fn start(faults: impl IntoIterator<Item = Fault>, address: &str) -> (Self, SocketAddr) {
        let stub = Self::default();
        stub.ledger.lock().unwrap().faults.extend(faults);
        let app = Router::new()
            .route("/api/v1/batch", post(batch))
            .route("/api/v1/kv/{key}", get(read_json))
            .route("/api/v1/kv/{key}/history", get(history))
            .route("/api/v1/records/{seq}", get(record))
            .route("/api/v1/status", get(status))
            .route("/leader", get(leader))
            .route("/metrics", get(metrics))
            .route("/metrics/prometheus", get(counters))
            .route("/{*key}", get(read).put(write))
            .layer(DefaultBodyLimit::max(256 << 20))
            .layer(middleware::from_fn_with_state(stub.clone(), pass_the_gate))
            .with_state(stub.clone());
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (stub, address)
    }

    /// Stores a record behind the client's back.
    pub fn put(&self, key: &[u8], value: &[u8]) {
        self.ledger.lock().unwrap().put(key.to_vec(), Bytes::copy_from_slice(value));
    }

    /// Writes that were ever numbered.
    pub fn total(&self) -> u64 {
        self.ledger.lock().unwrap().records.len() as u64
    }

    /// Forgets a record that was acknowledged.
    pub fn lose(&self, seq: u64) {
        let mut ledger = self.ledger.lock().unwrap();
        let (key, _) = ledger.records[seq as usize].take().unwrap();
        ledger.versions.get_mut(&key).unwrap().retain(|&version| version != seq);
    }

    /// Changes a byte of a record that was acknowledged.
    pub fn spoil(&self, seq: u64) {
        let mut ledger = self.ledger.lock().unwrap();
        let (_, value) = ledger.records[seq as usize].as_mut().unwrap();
        let mut bytes = value.to_vec();
        let at = bytes.len().min(4) - 1;
        bytes[at] ^= 1;
        *value = bytes.into();
    }

    /// The next write gets this fault.
    pub fn fail(&self, fault: Fault) {
        self.ledger.lock().unwrap().faults.push_back(fault);
    }

    /// Says from now on that this one leads.
    pub fn follow(&self, leader: SocketAddr) {
        self.ledger.lock().unwrap().leader = Some(leader);
    }

    /// Says from now on that it is of this ledger.
    pub fn belong_to(&self, cluster_id: &str) {
        self.ledger.lock().unwrap().cluster_id = Some(cluster_id.to_owned());
    }

    /// Answers nothing for a while, as a stopped process.
    pub async fn stall(&self, time: Duration) {
        let closed = self.gate.write().await;
        tokio::time::sleep(time).await;
        drop(closed);
    }
}

async fn pass_the_gate(State(stub): State<Stub>, request: Request, next: Next) -> Response {
    drop(stub.gate.read().await);
    next.run(request).await
}

impl Ledger {
    fn put(&mut self, key: Vec<u8>, value: Bytes) -> u64 {
        let seq = self.records.len() as u64;
        self.versions.entry(key.clone()).or_default().push(seq);
        self.records.push(Some((key, value)));
        seq
    }

    /// A key's version as of a position.
    fn get(&self, key: &[u8], at: u64) -> Option<(u64, Bytes)> {
        let seq = *self.versions.get(key)?.iter().rfind(|&&seq| seq <= at)?;
        Some((seq, self.records[seq as usize].as_ref()?.1.clone()))
    }

    fn newest(&self, key: &[u8]) -> Option<(u64, Bytes)> {
        self.get(key, u64::MAX)
    }

    /// Whether the conditions of a write hold.
    fn allows(&self, headers: &HeaderMap, key: &[u8]) -> bool {
        let newest = self.newest(key).map(|(seq, _)| format!("\"{seq}\""));
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        (text("if-none-match") != Some("*") || newest.is_none())
            && text("if-match").is_none_or(|wanted| newest.as_deref() == Some(wanted))
    }
}

fn overloaded() -> Response {
    let problem = json!({"type": "overloaded", "detail": "too much at once", "retry_after_ms": 10});
    (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")], Json(problem)).into_response()
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"type": "not-found", "detail": "no such key"}))).into_response()
}

/// What happens to a write before it is stored.
fn before(stub: &Stub) -> Result<Fault, Box<Response>> {
    let fault = stub.ledger.lock().unwrap().faults.pop_front().unwrap_or(Fault::None);
    match fault {
        Fault::Refuse => Err(Box::new(overloaded())),
        // Unwinding ends the connection's task and with it the connection, as a crash would.
        Fault::BreakBefore => panic::resume_unwind(Box::new(())),
        fault => Ok(fault),
    }
}

/// What happens to it once it is.
async fn after(fault: Fault) -> Result<(), Response> {
    match fault {
        Fault::BreakAfter | Fault::BreakHalfWay => panic::resume_unwind(Box::new(())),
        Fault::HangAfter => std::future::pending().await,
        Fault::RefuseAfter => Err(overloaded()),
        Fault::UnknownAfter => {
            let problem = json!({"type": "outcome-unknown", "detail": "the leader went away"});
            Err((StatusCode::GATEWAY_TIMEOUT, Json(problem)).into_response())
        }
        Fault::None | Fault::Refuse | Fault::BreakBefore => Ok(()),
    }
}

async fn write(
    State(stub): State<Stub>,
    Path(key): Path<String>,
    headers: HeaderMap,
    value: Bytes,
) -> Result<Response, Response> {
    let fault = before(&stub).map_err(|refusal| *refusal)?;
    // Copied: a value that shares the connection's read buffer would keep all of it alive.
    let value = Bytes::copy_from_slice(&value);
    let seq = {
        let mut ledger = stub.ledger.lock().unwrap();
        if !ledger.allows(&headers, key.as_bytes()) {
            let problem = json!({"type": "precondition-failed", "detail": "another version"});
            return Err((StatusCode::PRECONDITION_FAILED, Json(problem)).into_response());
        }
        ledger.put(key.clone().into_bytes(), value)
    };
    after(fault).await?;
    let headers = [("scribe-seq", seq.to_string()), ("etag", format!("\"{seq}\""))];
    Ok((StatusCode::CREATED, headers, Json(json!({"key": key, "seq": seq}))).into_response())
}

async fn read(
    State(stub): State<Stub>,
    Path(key): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let at = query.get("at").map_or(u64::MAX, |at| at.parse().unwrap());
    if at != u64::MAX && at >= stub.total() {
        let problem = json!({"type": "malformed", "detail": "at is beyond the newest seq"});
        return (StatusCode::BAD_REQUEST, Json(problem)).into_response();
    }
    match stub.ledger.lock().unwrap().get(key.as_bytes(), at) {
        Some((seq, value)) => ([("scribe-seq", seq.to_string())], value).into_response(),
        None => not_found(),
    }
}

async fn read_json(State(stub): State<Stub>, Path(key): Path<String>) -> Response {
    match stub.ledger.lock().unwrap().newest(key.as_bytes()) {
        Some((seq, value)) => {
            Json(json!({"key": key, "value": STANDARD.encode(value), "seq": seq})).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn history(
    State(stub): State<Stub>,
    Path(key): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    // Small pages, so that they have to be turned.
    const PAGE: usize = 3;
    let before = query.get("before").map_or(u64::MAX, |before| before.parse().unwrap());
    let ledger = stub.ledger.lock().unwrap();
    let Some(seqs) = ledger.versions.get(key.as_bytes()) else { return not_found() };
    let older: Vec<u64> = seqs.iter().rev().copied().filter(|&seq| seq < before).collect();
    let versions: Vec<Value> = older
        .iter()
        .take(PAGE)
        .map(|&seq| {
            let value = &ledger.records[seq as usize].as_ref().unwrap().1;
            json!({"seq": seq, "op": "put", "timestamp_ms": 0, "value": STANDARD.encode(value)})
        })
        .collect();
    let next = (older.len() > PAGE).then(|| older[PAGE - 1]);
    Json(json!({"key": key, "versions": versions, "next_before": next})).into_response()
}

async fn record(State(stub): State<Stub>, Path(seq): Path<u64>) -> Response {
    match stub.ledger.lock().unwrap().records.get(seq as usize) {
        Some(Some((key, value))) => {
            let key = String::from_utf8(key.clone()).unwrap();
            Json(json!({"key": key, "value_b64": STANDARD.encode(value), "seq": seq})).into_response()
        }
        _ => not_found(),
    }
}

async fn status(State(stub): State<Stub>) -> Json<Value> {
    let cluster_id = stub.ledger.lock().unwrap().cluster_id.clone();
    Json(json!({"cluster_id": cluster_id, "records": {"applied": stub.total()}}))
}

async fn leader(State(stub): State<Stub>) -> Response {
    match stub.ledger.lock().unwrap().leader {
        Some(leader) => Json(json!({"leader_id": 1, "http_addr": leader.to_string()})).into_response(),
        None => overloaded(),
    }
}

async fn counters(State(stub): State<Stub>) -> String {
    let total = stub.total();
    format!(
        "scribe_records_total {total}\nscribe_wal_syncs_total {}\n\
         scribe_stage_duration_seconds_bucket{{stage=\"apply\",le=\"0.001\"}} {total}\n\
         scribe_stage_duration_seconds_bucket{{stage=\"apply\",le=\"+Inf\"}} {total}\n\
         scribe_stage_duration_seconds_count{{stage=\"apply\"}} {total}\n",
        total / 100
    )
}

async fn metrics(State(stub): State<Stub>) -> Json<Value> {
    Json(json!({"total_records": stub.total()}))
}

async fn batch(State(stub): State<Stub>, headers: HeaderMap, body: Bytes) -> Result<Response, Response> {
    let fault = before(&stub).map_err(|refusal| *refusal)?;
    let (replayed, first, last) =
        store(&stub, &headers, body, fault == Fault::BreakHalfWay).map_err(|(status, slug)| {
            (status, Json(json!({"type": slug, "detail": "not like this"}))).into_response()
        })?;
    after(fault).await?;
    let replayed = [("idempotency-replayed", if replayed { "true" } else { "false" })];
    let answer = json!({"first_seq": first, "last_seq": last, "count": last + 1 - first});
    Ok((replayed, Json(answer)).into_response())
}

fn store(
    stub: &Stub,
    headers: &HeaderMap,
    body: Bytes,
    half: bool,
) -> Result<(bool, u64, u64), (StatusCode, &'static str)> {
    let malformed = (StatusCode::BAD_REQUEST, "malformed");
    let mut ledger = stub.ledger.lock().unwrap();
    let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
    if let Some((content, first, last)) = key.as_ref().and_then(|key| ledger.answers.get(key)) {
        let same = *content == body;
        return if same {
            Ok((true, *first, *last))
        } else {
            Err((StatusCode::UNPROCESSABLE_ENTITY, "idempotency-mismatch"))
        };
    }
    let mut records = Vec::new();
    if headers["content-type"] == "application/x-ndjson" {
        for line in body.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            let record: Value = serde_json::from_slice(line).map_err(|_| malformed)?;
            let text = |name: &str| record[name].as_str().map(str::to_owned).ok_or(malformed);
            records.push((text("key")?.into_bytes(), Bytes::from(text("value")?)));
        }
    } else {
        let mut rest = &body[..];
        while let Some((head, tail)) = rest.split_first_chunk::<8>() {
            let key_len = u16::from_le_bytes([head[2], head[3]]) as usize;
            let value_len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let (key, tail) = tail.split_at_checked(key_len).ok_or(malformed)?;
            let (value, tail) = tail.split_at_checked(value_len).ok_or(malformed)?;
            records.push((key.to_vec(), body.slice_ref(value)));
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(malformed);
        }
    }
    if half {
        records.truncate(records.len() / 2);
    }
    let first = ledger.records.len() as u64;
    for (key, value) in records {
        ledger.put(key, value);
    }
    let last = (ledger.records.len() as u64).checked_sub(1).ok_or(malformed)?;
    if let Some(key) = key {
        ledger.answers.insert(key, (body, first, last));
    }
    Ok((false, first, last))
}
