//! Loads an NDJSON file through `POST /api/v1/batch`, each record exactly once.
//!
//! Every chunk carries the idempotency key `<prefix>-<chunk number>`. So a chunk whose answer was lost, to
//! a crash on either side, is simply sent again: the server gives the first answer if it has the chunk and
//! stores it if it has not. That holds within the server's idempotency window; a load that is resumed
//! later than that stores its first chunks a second time.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use scribe_ledger::client::ClientError;
use serde::Deserialize;
use tokio::sync::{Mutex, mpsc};

use crate::{
    http::{Connection, Target},
    lines::{Chunk, Chunks},
};

/// Chunks read ahead, so that reading and unpacking overlap with the server's work.
const CHUNKS_AHEAD: usize = 4;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The longest that `Retry-After` is heeded.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// What to load, and how.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    pub target: Target,
    pub file: PathBuf,
    pub chunk_records: u64,
    /// More than one gives up the order of the file.
    pub connections: usize,
    /// Derived from the file and the chunk size when absent.
    pub key_prefix: Option<String>,
    /// How long a chunk may fail before the load does.
    pub give_up: Duration,
    /// How long one request may take.
    pub timeout: Duration,
}

/// What a load has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    pub records: u64,
    pub chunks: u64,
    /// Bytes of NDJSON, unpacked.
    pub bytes: u64,
    pub seconds: f64,
    /// Requests sent again.
    pub retries: u64,
    /// Chunks that the server had already.
    pub replays: u64,
    /// Lowest and highest position given out.
    pub seqs: Option<(u64, u64)>,
    /// Every chunk's first position followed the last one of the chunk before.
    pub in_file_order: bool,
}

#[derive(Deserialize)]
struct Answer {
    first_seq: u64,
    last_seq: u64,
    count: u64,
}

/// Loads the whole file.
///
/// # Errors
/// A chunk that the server refuses for good, or that it did not take within `give_up`; the message names
/// its lines. Chunks before it are stored.
pub async fn load(plan: LoadPlan) -> Result<Loaded, String> {
    let prefix = match &plan.key_prefix {
        Some(prefix) => prefix.clone(),
        None => default_prefix(&plan)?,
    };
    let chunks = Chunks::open(&plan.file, plan.chunk_records)?;
    let (full, queue) = mpsc::channel(CHUNKS_AHEAD);
    std::thread::spawn(move || {
        for chunk in chunks {
            let failed = chunk.is_err();
            if full.blocking_send(chunk).is_err() || failed {
                break;
            }
        }
    });

    let begun = Instant::now();
    let connections = plan.connections.max(1);
    let shared =
        Arc::new(Sender { plan, prefix, queue: Mutex::new(queue), total: Mutex::new(Loaded::default()) });
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let shared = Arc::clone(&shared);
        senders.spawn(async move { shared.run().await });
    }
    let mut in_file_order = connections == 1;
    while let Some(outcome) = senders.join_next().await {
        // The first failure drops the other senders: what they have in flight stays safe to send again.
        in_file_order &= outcome.map_err(|error| format!("a sender ended: {error}"))??;
    }
    let mut loaded = shared.total.lock().await.clone();
    loaded.seconds = begun.elapsed().as_secs_f64();
    loaded.in_file_order = in_file_order;
    Ok(loaded)
}

/// A name for this file cut into chunks of this size: another size sends other bytes, and needs other keys.
fn default_prefix(plan: &LoadPlan) -> Result<String, String> {
    let size = std::fs::metadata(&plan.file)
        .map_err(|error| format!("opening {}: {error}", plan.file.display()))?
        .len();
    let mut hasher = DefaultHasher::new();
    (plan.file.file_name(), size, plan.chunk_records).hash(&mut hasher);
    Ok(format!("load-{:016x}", hasher.finish()))
}

struct Sender {
    plan: LoadPlan,
    prefix: String,
    queue: Mutex<mpsc::Receiver<Result<Chunk, String>>>,
    total: Mutex<Loaded>,
}

/// What became of one attempt.
enum Attempt {
    Done { answer: Answer, replayed: bool },
    Again { after: Option<Duration>, why: String },
    Refused(String),
}

impl Sender {
    /// Sends chunks until there are none left. Gives whether their positions followed each other.
    async fn run(&self) -> Result<bool, String> {
        let mut connection = None;
        let mut contiguous = true;
        let mut next_seq = None;
        loop {
            let Some(chunk) = self.queue.lock().await.recv().await else { return Ok(contiguous) };
            let chunk = chunk?;
            let answer = self.send(&mut connection, &chunk).await?;
            contiguous &= next_seq.is_none_or(|next| next == answer.first_seq);
            next_seq = Some(answer.last_seq + 1);
            let mut total = self.total.lock().await;
            total.records += chunk.records;
            total.chunks += 1;
            total.bytes += chunk.bytes.len() as u64;
            let (low, high) = total.seqs.unwrap_or((answer.first_seq, answer.last_seq));
            total.seqs = Some((low.min(answer.first_seq), high.max(answer.last_seq)));
        }
    }

    /// Sends one chunk until the server has it.
    async fn send(&self, connection: &mut Option<Connection>, chunk: &Chunk) -> Result<Answer, String> {
        let request = self.request(chunk);
        let lines =
            format!("lines {} to {} of {}", chunk.first_line, chunk.last_line, self.plan.file.display());
        let mut failing_since = None;
        let mut backoff = BACKOFF_MIN;
        loop {
            let (after, why) = match self.attempt(connection, &request).await {
                Attempt::Done { answer, replayed } => {
                    self.total.lock().await.replays += u64::from(replayed);
                    let span = answer.last_seq.checked_sub(answer.first_seq).map(|gap| gap + 1);
                    if answer.count != chunk.records || span != Some(chunk.records) {
                        return Err(format!(
                            "{lines}: {} records were sent and the server numbered {} ({}..{})",
                            chunk.records, answer.count, answer.first_seq, answer.last_seq
                        ));
                    }
                    if failing_since.is_some() {
                        crate::note("the server takes records again");
                    }
                    return Ok(answer);
                }
                Attempt::Refused(why) => return Err(format!("{lines} were refused: {why}")),
                Attempt::Again { after, why } => (after, why),
            };
            let since = *failing_since.get_or_insert_with(|| {
                crate::note(&format!("{why}; trying again for up to {} s", self.plan.give_up.as_secs_f64()));
                Instant::now()
            });
            if since.elapsed() >= self.plan.give_up {
                return Err(format!("{lines}: given up after {} s: {why}", self.plan.give_up.as_secs_f64()));
            }
            self.total.lock().await.retries += 1;
            tokio::time::sleep(after.map_or(backoff, |after| after.min(RETRY_AFTER_MAX))).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn attempt(&self, connection: &mut Option<Connection>, request: &[u8]) -> Attempt {
        let again = |why| Attempt::Again { after: None, why };
        let mut live = match connection.take() {
            Some(live) => live,
            None => match self.plan.target.connect(self.plan.timeout).await {
                Ok(live) => live,
                Err(error) => return again(self.plan.target.unreachable(&error)),
            },
        };
        let mut body = Vec::new();
        let head = match live.exchange(request, &mut body).await {
            Ok(head) => head,
            Err(broken) => return again(broken.to_string()),
        };
        if !head.close {
            *connection = Some(live);
        }
        if head.is_success() {
            return match serde_json::from_slice(&body) {
                Ok(answer) => Attempt::Done { answer, replayed: head.replayed },
                Err(error) => Attempt::Refused(format!("the answer is not what was expected: {error}")),
            };
        }
        let error = ClientError::from_answer(head.status, None, &body);
        if error.is_retryable() {
            let after = error.retry_after().or(head.retry_after_secs.map(Duration::from_secs));
            return Attempt::Again { after, why: error.to_string() };
        }
        Attempt::Refused(error.to_string())
    }

    fn request(&self, chunk: &Chunk) -> Vec<u8> {
        let head = format!(
            "POST /api/v1/batch HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\n\
             Idempotency-Key: {}-{}\r\nContent-Length: {}\r\n\r\n",
            self.plan.target.authority,
            self.prefix,
            chunk.number,
            chunk.bytes.len()
        );
        let mut request = Vec::with_capacity(head.len() + chunk.bytes.len());
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(&chunk.bytes);
        request
    }
}
