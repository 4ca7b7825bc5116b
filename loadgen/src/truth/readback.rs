//! One connection that reads records back: a group of requests at once, their answers in order.
//!
//! It judges each answer by what became of the write; it does not know how writes are made.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use scribe_ledger::client::{ClientError, KeyPath, kv_path};
use serde::Deserialize;

use super::{
    Findings,
    expected::{Expected, Fate, Queue, Writes},
};
use crate::{
    http::{Connection, Head, Patience, Target},
    verify::from_json,
};

/// Between two tries of a read that was refused.
const BACKOFF: Duration = Duration::from_millis(200);
/// Pages of one key's history that are looked through for one write.
const HISTORY_PAGES_MAX: u32 = 20;
const HISTORY_PAGE: u32 = 500;

pub struct Reader {
    /// At least one, all of one ledger.
    pub targets: Arc<[Target]>,
    /// Which of them is asked.
    pub turn: AtomicUsize,
    pub patience: Patience,
    pub queue: Arc<tokio::sync::Mutex<Queue>>,
    pub writes: Arc<Writes>,
    pub findings: Arc<Mutex<Findings>>,
    /// Keys were written many times.
    pub by_position: bool,
    /// What is below this position is not of this run.
    pub first_seq: u64,
}

/// How a record is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// Its key's value as of its position: exact, and the way users go. But the server walks back through the
    /// key's newer versions.
    AsOf,
    /// Whatever is at its position: exact however often the key was written since.
    Record,
    /// Its key's newest version, which may not be older than it: goes with [`Ask::Record`].
    NotOlder,
    /// Its key's newest version, which may be it.
    Newest,
}

impl Ask {
    fn path(self, expected: &Expected) -> String {
        let key = || KeyPath::of(&expected.key).as_str().to_owned();
        match (self, expected.fate) {
            (Self::AsOf, Fate::Acked { seq }) => format!("{}?at={seq}", key()),
            (Self::Record, Fate::Acked { seq }) => format!("/api/v1/records/{seq}"),
            _ => key(),
        }
    }
}

/// What is not as it should be with an acknowledged record.
#[derive(Clone, Copy, Debug)]
enum Difference {
    /// In its place is another one, or none.
    Missing(Option<u64>),
    /// It is there, but its key's newest version is an older one, or none.
    Hidden(Option<u64>),
    Bytes {
        have: usize,
        at: usize,
    },
}

/// What an answer says about a record.
enum Seen {
    /// Settled.
    Done,
    Differs(Difference),
    /// The newest version of its key is another one: an older one may be it. Of an acknowledged record: its key
    /// is not there, which is right if it was deleted since.
    LookBehind,
    /// The server could not say, for now.
    Again(String),
}

impl Reader {
    fn target(&self) -> &Target {
        &self.targets[self.turn.load(Relaxed) % self.targets.len()]
    }

    /// Nothing more can be had from this connection. Another server may be better.
    fn turn_away(&self, connection: &mut Option<Connection>) {
        // Answers to what else was asked on it must not be taken for other ones'.
        *connection = None;
        self.turn.fetch_add(1, Relaxed);
    }

    pub async fn run(self) -> Result<(), String> {
        let mut connection = None;
        loop {
            let Some(group) = self.queue.lock().await.recv().await else { return Ok(()) };
            self.read(&mut connection, &group?).await?;
        }
    }

    /// Reads a group, through refusals and broken connections.
    async fn read(&self, connection: &mut Option<Connection>, group: &[Expected]) -> Result<(), String> {
        let mut done = 0;
        let mut behind = Vec::new();
        let mut answered_at = Instant::now();
        while done < group.len() {
            let before = done;
            let again = self.attempt(connection, group, &mut done, &mut behind).await?;
            if done > before {
                answered_at = Instant::now();
            }
            let Some(why) = again else { continue };
            self.turn_away(connection);
            if answered_at.elapsed() >= self.patience.stall {
                return Err(format!("reading back: {why}"));
            }
            tokio::time::sleep(BACKOFF).await;
        }
        for expected in behind {
            match expected.fate {
                Fate::Acked { seq } => self.look_for_delete(connection, expected, seq).await?,
                Fate::Refused | Fate::Unknown => self.look_behind(connection, expected).await?,
            }
        }
        Ok(())
    }

    /// Asks for what is left of the group. Gives why it has to be asked again, if it has.
    async fn attempt<'a>(
        &self,
        connection: &mut Option<Connection>,
        group: &'a [Expected],
        done: &mut usize,
        behind: &mut Vec<&'a Expected>,
    ) -> Result<Option<String>, String> {
        let mut live = match connection.take() {
            Some(live) => live,
            None => match self.target().connect(self.patience.timeout).await {
                Ok(live) => live,
                Err(error) => return Ok(Some(self.target().unreachable(&error))),
            },
        };
        let rest = &group[*done..];
        let mut requests = Vec::new();
        for expected in rest {
            for ask in self.asks(expected) {
                let (path, host) = (ask.path(expected), &self.target().authority);
                requests.extend(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes());
            }
        }
        if let Err(broken) = live.send(&requests).await {
            return Ok(Some(broken.to_string()));
        }
        let mut body = Vec::new();
        for expected in rest {
            let mut close = false;
            let mut seen = Seen::Done;
            for ask in self.asks(expected) {
                let head = match live.answer(&mut body).await {
                    Ok(head) => head,
                    Err(broken) => return Ok(Some(broken.to_string())),
                };
                close |= head.close;
                match self.judge(expected, *ask, &head, &mut body)? {
                    Seen::Again(why) => return Ok(Some(why)),
                    // One difference of a record is enough.
                    judged if matches!(seen, Seen::Done) => seen = judged,
                    _ => {}
                }
            }
            match seen {
                Seen::Differs(difference) => self.differs(expected, difference),
                Seen::LookBehind => behind.push(expected),
                Seen::Done | Seen::Again(_) => {}
            }
            *done += 1;
            if close {
                return Ok(None);
            }
        }
        *connection = Some(live);
        Ok(None)
    }

    /// What is asked about a record.
    const fn asks(&self, expected: &Expected) -> &'static [Ask] {
        match expected.fate {
            Fate::Acked { .. } if self.by_position => &[Ask::Record, Ask::NotOlder],
            Fate::Acked { .. } => &[Ask::AsOf],
            Fate::Refused | Fate::Unknown => &[Ask::Newest],
        }
    }

    fn judge(&self, expected: &Expected, ask: Ask, head: &Head, body: &mut Vec<u8>) -> Result<Seen, String> {
        let path = KeyPath::of(&expected.key);
        let seq = match (head.status, ask, &path) {
            (200, Ask::Record, _) => Some(record(body, expected)?),
            (200, _, KeyPath::Raw(_)) => Some(head.seq.ok_or("a value came without Scribe-Seq")?),
            (200, _, KeyPath::Json(_)) => Some(from_json(body)?),
            (404, ..) => None,
            // The position is beyond the ledger's end: the write is gone, and all that came after it.
            (400, Ask::AsOf, _) => None,
            (status, ..) => {
                let error = ClientError::from_answer(status, None, body);
                if error.is_retryable() {
                    return Ok(Seen::Again(error.to_string()));
                }
                return Err(format!("GET {}: {error}", ask.path(expected)));
            }
        };
        let Fate::Acked { seq: wanted } = expected.fate else {
            return Ok(match seq {
                Some(seq) if expected.value.as_ref() == Some(body) && self.may_be(seq) => {
                    self.found(expected, Some(seq));
                    Seen::Done
                }
                Some(seq) if seq >= self.first_seq => Seen::LookBehind,
                None if expected.value.is_none() => Seen::LookBehind,
                Some(_) | None => {
                    self.found(expected, None);
                    Seen::Done
                }
            });
        };
        Ok(match (ask, seq) {
            (Ask::NotOlder, Some(seq)) if seq >= wanted => Seen::Done,
            (Ask::NotOlder, None) => Seen::LookBehind,
            (Ask::NotOlder, seq) => Seen::Differs(Difference::Hidden(seq)),
            (_, Some(seq)) if seq == wanted && body == expected.bytes() => Seen::Done,
            (_, Some(seq)) if seq == wanted => {
                let at = body.iter().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
                Seen::Differs(Difference::Bytes { have: body.len(), at })
            }
            (_, seq) => Seen::Differs(Difference::Missing(seq)),
        })
    }

    /// Whether what is at this position can be a write of this run that was not acknowledged.
    fn may_be(&self, seq: u64) -> bool {
        seq >= self.first_seq && !self.writes.is_acknowledged(seq)
    }

    fn differs(&self, expected: &Expected, difference: Difference) {
        let Fate::Acked { seq: wanted } = expected.fate else { return };
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let (write, key) = (expected.write, String::from_utf8_lossy(&expected.key));
        let newest = |seq: Option<u64>| seq.map_or_else(|| "nothing".to_owned(), |seq| format!("seq {seq}"));
        let what = match difference {
            Difference::Missing(seq) => format!("is not there: in its place is {}", newest(seq)),
            Difference::Hidden(seq) => format!("does not show: its key's newest is {}", newest(seq)),
            Difference::Bytes { have, at } => {
                let want = expected.bytes().len();
                format!("has {have} bytes where {want} were written, the first difference at byte {at}")
            }
        };
        let truth = &mut findings.truth;
        let wrong = matches!(difference, Difference::Bytes { .. });
        *(if wrong { &mut truth.wrong } else { &mut truth.lost }) += 1;
        findings.show(|| format!("write {write}, key {key:?}, acknowledged as seq {wanted}, {what}"));
    }

    /// Counts a write that was not acknowledged, and where it is if it is there.
    fn found(&self, expected: &Expected, seq: Option<u64>) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        match expected.fate {
            Fate::Unknown => {
                findings.truth.unknown += 1;
                findings.truth.unknown_present += u64::from(seq.is_some());
                let (there, missing) = findings.batches.entry(expected.request).or_default();
                *(if seq.is_some() { there } else { missing }) += 1;
            }
            Fate::Refused => {
                if let Some(seq) = seq {
                    findings.truth.wrong += 1;
                    let (write, key) = (expected.write, String::from_utf8_lossy(&expected.key));
                    findings.show(|| {
                        format!("write {write}, key {key:?}, was refused, and is there as seq {seq}")
                    });
                }
            }
            Fate::Acked { .. } => {}
        }
    }

    /// A key that is not there any more has to have been deleted after the write at `seq`, or by it.
    async fn look_for_delete(
        &self,
        connection: &mut Option<Connection>,
        expected: &Expected,
        seq: u64,
    ) -> Result<(), String> {
        let path = format!("{}/history", kv_path(&expected.key));
        let page = self.history(connection, &path, 1, None).await?;
        let newest = page.versions.first().map(|version| version.seq);
        let deletes = expected.value.is_none();
        if newest.is_none_or(|newest| newest < seq || newest == seq && !deletes) {
            self.differs(expected, Difference::Hidden(None));
        }
        Ok(())
    }

    /// A page of a key's history, through refusals and broken connections.
    async fn history(
        &self,
        connection: &mut Option<Connection>,
        path: &str,
        limit: u32,
        before: Option<u64>,
    ) -> Result<Page, String> {
        let mut body = Vec::new();
        let since = Instant::now();
        loop {
            let given_up = since.elapsed() >= self.patience.stall;
            let query = before.map_or_else(String::new, |before| format!("&before={before}"));
            let host = &self.target().authority;
            let request = format!("GET {path}?limit={limit}{query} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            match self.ask(connection, request.as_bytes(), &mut body).await {
                Ok(head) if head.status == 200 => {
                    return serde_json::from_slice(&body)
                        .map_err(|error| format!("a history's JSON: {error}"));
                }
                Ok(head) if head.status == 404 => {
                    return Ok(Page { versions: Vec::new(), next_before: None });
                }
                Ok(head) => {
                    let error = ClientError::from_answer(head.status, None, &body);
                    if !error.is_retryable() || given_up {
                        return Err(format!("GET {path}: {error}"));
                    }
                }
                Err(why) if given_up => return Err(format!("GET {path}: {why}")),
                Err(_) => self.turn_away(connection),
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    /// Looks for a write among the older versions of its key.
    async fn look_behind(
        &self,
        connection: &mut Option<Connection>,
        expected: &Expected,
    ) -> Result<(), String> {
        let path = format!("{}/history", kv_path(&expected.key));
        let mut before = None;
        for _ in 0..HISTORY_PAGES_MAX {
            let page = self.history(connection, &path, HISTORY_PAGE, before).await?;
            for version in page.versions {
                let value = STANDARD.decode(version.value.unwrap_or_default());
                let same = (version.op == "delete") == expected.value.is_none()
                    && value.is_ok_and(|value| value == expected.bytes());
                if same && self.may_be(version.seq) {
                    self.found(expected, Some(version.seq));
                    return Ok(());
                }
            }
            before = page.next_before.filter(|&before| before > self.first_seq);
            if before.is_none() {
                self.found(expected, None);
                return Ok(());
            }
        }
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.unprobed += 1;
        findings.truth.unknown += u64::from(expected.fate == Fate::Unknown);
        Ok(())
    }

    async fn ask(
        &self,
        connection: &mut Option<Connection>,
        request: &[u8],
        body: &mut Vec<u8>,
    ) -> Result<Head, String> {
        let mut live = match connection.take() {
            Some(live) => live,
            None => {
                let connected = self.target().connect(self.patience.timeout).await;
                connected.map_err(|error| self.target().unreachable(&error))?
            }
        };
        let head = live.exchange(request, body).await.map_err(|broken| broken.to_string())?;
        if !head.close {
            *connection = Some(live);
        }
        Ok(head)
    }
}

/// Turns a record's JSON in `body` into its value. Gives its position; of another key's record, or of a delete
/// where a value is expected, none that could be right.
fn record(body: &mut Vec<u8>, expected: &Expected) -> Result<u64, String> {
    #[derive(Deserialize)]
    struct Record {
        key: Option<String>,
        key_b64: Option<String>,
        value: Option<String>,
        value_b64: Option<String>,
        op: Option<String>,
        seq: u64,
    }
    let record: Record = serde_json::from_slice(body).map_err(|error| format!("a record's JSON: {error}"))?;
    let bytes = |text: Option<String>, base64: Option<String>| match (text, base64) {
        (_, Some(base64)) => STANDARD.decode(base64).map_err(|error| format!("a record's base64: {error}")),
        (text, None) => Ok(text.unwrap_or_default().into_bytes()),
    };
    *body = bytes(record.value, record.value_b64)?;
    let same = bytes(record.key, record.key_b64)? == expected.key
        && (record.op.as_deref() == Some("delete")) == expected.value.is_none();
    Ok(if same { record.seq } else { u64::MAX })
}

#[derive(Deserialize)]
struct Page {
    versions: Vec<Version>,
    next_before: Option<u64>,
}

#[derive(Deserialize)]
struct Version {
    seq: u64,
    op: String,
    value: Option<String>,
}
