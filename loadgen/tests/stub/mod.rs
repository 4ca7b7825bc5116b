//! A stand-in for the server: the calls that the load generator makes, in memory, with faults on request.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    panic,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// What goes wrong with one batch.
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
}

#[derive(Default)]
struct Ledger {
    values: HashMap<Vec<u8>, (u64, Bytes)>,
    next_seq: u64,
    answers: HashMap<String, (Bytes, u64, u64)>,
    faults: VecDeque<Fault>,
}

/// A running stub.
#[derive(Clone, Default)]
pub struct Stub {
    ledger: Arc<Mutex<Ledger>>,
}

impl Stub {
    /// Serves at a port of its own, until the process ends. The batches that come get these faults, in order.
    pub async fn start(faults: impl IntoIterator<Item = Fault>, address: &str) -> (Self, SocketAddr) {
        let stub = Self::default();
        stub.ledger.lock().unwrap().faults.extend(faults);
        let app = Router::new()
            .route("/api/v1/batch", post(batch))
            .route("/api/v1/kv/{key}", get(read_json))
            .route("/metrics", get(metrics))
            .route("/metrics/prometheus", get(counters))
            .route("/{*key}", get(read).put(write))
            .layer(DefaultBodyLimit::max(256 << 20))
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

    pub fn total(&self) -> u64 {
        self.ledger.lock().unwrap().next_seq
    }
}

impl Ledger {
    fn put(&mut self, key: Vec<u8>, value: Bytes) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.values.insert(key, (seq, value));
        seq
    }
}

async fn write(State(stub): State<Stub>, Path(key): Path<String>, value: Bytes) -> Response {
    // Copied: a value that shares the connection's read buffer would keep all of it alive.
    let value = Bytes::copy_from_slice(&value);
    let seq = stub.ledger.lock().unwrap().put(key.clone().into_bytes(), value);
    let headers = [("scribe-seq", seq.to_string()), ("etag", format!("\"{seq}\""))];
    (StatusCode::CREATED, headers, Json(json!({"key": key, "seq": seq}))).into_response()
}

async fn read(State(stub): State<Stub>, Path(key): Path<String>) -> Response {
    match stub.ledger.lock().unwrap().values.get(key.as_bytes()) {
        Some((seq, value)) => ([("scribe-seq", seq.to_string())], value.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"type": "not-found", "detail": "no such key"})))
            .into_response(),
    }
}

async fn read_json(State(stub): State<Stub>, Path(key): Path<String>) -> Response {
    match stub.ledger.lock().unwrap().values.get(key.as_bytes()) {
        Some((seq, value)) => {
            Json(json!({"key": key, "value": STANDARD.encode(value), "seq": seq})).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
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

async fn batch(State(stub): State<Stub>, headers: HeaderMap, body: Bytes) -> Response {
    let fault = stub.ledger.lock().unwrap().faults.pop_front().unwrap_or(Fault::None);
    match fault {
        Fault::Refuse => {
            let problem = json!({"type": "overloaded", "detail": "too much at once", "retry_after_ms": 10});
            return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")], Json(problem)).into_response();
        }
        // Unwinding ends the connection's task and with it the connection, as a crash would.
        Fault::BreakBefore => panic::resume_unwind(Box::new(())),
        _ => {}
    }
    let (replayed, first, last) = match store(&stub, &headers, body) {
        Ok(stored) => stored,
        Err((status, slug)) => {
            return (status, Json(json!({"type": slug, "detail": "not like this"}))).into_response();
        }
    };
    match fault {
        Fault::BreakAfter => panic::resume_unwind(Box::new(())),
        Fault::HangAfter => std::future::pending().await,
        Fault::UnknownAfter => {
            let problem = json!({"type": "outcome-unknown", "detail": "the leader went away"});
            return (StatusCode::GATEWAY_TIMEOUT, Json(problem)).into_response();
        }
        _ => {}
    }
    let replayed = [("idempotency-replayed", if replayed { "true" } else { "false" })];
    (replayed, Json(json!({"first_seq": first, "last_seq": last, "count": last + 1 - first}))).into_response()
}

fn store(
    stub: &Stub,
    headers: &HeaderMap,
    body: Bytes,
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
    let first = ledger.next_seq;
    for (key, value) in records {
        ledger.put(key, value);
    }
    let last = ledger.next_seq.checked_sub(1).ok_or(malformed)?;
    if let Some(key) = key {
        ledger.answers.insert(key, (body, first, last));
    }
    Ok((false, first, last))
}
