//! One connection that reads records back: a group of requests at once, their answers in order.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use scribe_ledger::client::{ClientError, KeyPath, kv_path};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    Findings,
    expected::{Expected, Fate, Writes},
};
use crate::{
    http::{Connection, Head, Target},
    verify::from_json,
};

/// How long reading is tried again while the server refuses it or is not there.
const RETRIES: u32 = 50;
const BACKOFF: Duration = Duration::from_millis(200);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Pages of one key's history that are looked through for one write.
const HISTORY_PAGES_MAX: u32 = 20;
const HISTORY_PAGE: u32 = 500;

pub struct Reader {
    pub target: Target,
    pub queue: Arc<tokio::sync::Mutex<mpsc::Receiver<Result<Vec<Expected>, String>>>>,
    pub writes: Arc<Writes>,
    pub findings: Arc<Mutex<Findings>>,
}

/// What an answer says about a record.
enum Seen {
    /// Settled.
    Done,
    /// The newest version of its key is another one: an older one may be it.
    LookBehind,
    /// The server could not say, for now.
    Again(String),
}

impl Reader {
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
        let mut tries = 0;
        while done < group.len() {
            let before = done;
            let attempt = self.attempt(connection, group, &mut done, &mut behind);
            let why = match tokio::time::timeout(ANSWER_TIME_MAX, attempt).await {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some(why))) => why,
                Ok(Err(fatal)) => return Err(fatal),
                Err(_) => format!("no answer within {} s", ANSWER_TIME_MAX.as_secs()),
            };
            // Answers to what else was asked on this connection must not be taken for other ones'.
            *connection = None;
            tries = if done > before { 0 } else { tries + 1 };
            if tries > RETRIES {
                return Err(format!("reading back: {why}"));
            }
            tokio::time::sleep(BACKOFF).await;
        }
        for expected in behind {
            self.look_behind(connection, expected).await?;
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
            None => match self.target.connect().await {
                Ok(live) => live,
                Err(error) => return Ok(Some(self.target.unreachable(&error))),
            },
        };
        let mut requests = Vec::new();
        let paths: Vec<KeyPath> = group[*done..].iter().map(|expected| KeyPath::of(&expected.key)).collect();
        for (expected, path) in group[*done..].iter().zip(&paths) {
            let query = match expected.fate {
                Fate::Acked { seq } => format!("?at={seq}"),
                Fate::Refused | Fate::Unknown => String::new(),
            };
            let (path, host) = (path.as_str(), &self.target.authority);
            requests.extend(format!("GET {path}{query} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes());
        }
        if let Err(broken) = live.send(&requests).await {
            return Ok(Some(broken.to_string()));
        }
        let mut body = Vec::new();
        let rest = &group[*done..];
        for (expected, path) in rest.iter().zip(&paths) {
            let head = match live.answer(&mut body).await {
                Ok(head) => head,
                Err(broken) => return Ok(Some(broken.to_string())),
            };
            match self.judge(expected, path, &head, &mut body)? {
                Seen::Done => {}
                Seen::LookBehind => behind.push(expected),
                Seen::Again(why) => return Ok(Some(why)),
            }
            *done += 1;
            if head.close {
                return Ok(None);
            }
        }
        *connection = Some(live);
        Ok(None)
    }

    fn judge(
        &self,
        expected: &Expected,
        path: &KeyPath,
        head: &Head,
        body: &mut Vec<u8>,
    ) -> Result<Seen, String> {
        let seq = match (head.status, path) {
            (200, KeyPath::Raw(_)) => Some(head.seq.ok_or("a value came without Scribe-Seq")?),
            (200, KeyPath::Json(_)) => Some(from_json(body)?),
            (404, _) => None,
            // The position is beyond the ledger's end: the write is gone, and all that came after it.
            (400, _) if matches!(expected.fate, Fate::Acked { .. }) => None,
            (status, _) => {
                let error = ClientError::from_answer(status, None, body);
                if error.is_retryable() {
                    return Ok(Seen::Again(error.to_string()));
                }
                return Err(format!("GET {}: {error}", path.as_str()));
            }
        };
        Ok(match (expected.fate, seq) {
            (Fate::Acked { seq: wanted }, _) => {
                self.acknowledged(expected, wanted, seq, body);
                Seen::Done
            }
            (_, None) => {
                self.found(expected, None);
                Seen::Done
            }
            (_, Some(seq)) if *body == expected.value && !self.writes.is_acknowledged(seq) => {
                self.found(expected, Some(seq));
                Seen::Done
            }
            (_, Some(_)) => Seen::LookBehind,
        })
    }

    fn acknowledged(&self, expected: &Expected, wanted: u64, seq: Option<u64>, value: &[u8]) {
        if seq == Some(wanted) && value == expected.value {
            return;
        }
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let (write, key) = (expected.write, String::from_utf8_lossy(&expected.key));
        let what = match seq {
            None => "is not there".to_owned(),
            Some(seq) if seq != wanted => format!("is not there: at that time the key's newest is seq {seq}"),
            Some(_) => {
                let at = value.iter().zip(&expected.value).take_while(|(a, b)| a == b).count();
                let (have, want) = (value.len(), expected.value.len());
                format!("has {have} bytes where {want} were written, the first difference at byte {at}")
            }
        };
        let truth = &mut findings.truth;
        *(if seq == Some(wanted) { &mut truth.wrong } else { &mut truth.lost }) += 1;
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

    /// Looks for a write among the older versions of its key.
    async fn look_behind(
        &self,
        connection: &mut Option<Connection>,
        expected: &Expected,
    ) -> Result<(), String> {
        let path = format!("{}/history", kv_path(&expected.key));
        let mut before = None;
        let mut tries = 0;
        let mut body = Vec::new();
        for _ in 0..HISTORY_PAGES_MAX {
            let page = loop {
                let query = before.map_or_else(String::new, |before: u64| format!("&before={before}"));
                let host = &self.target.authority;
                let request =
                    format!("GET {path}?limit={HISTORY_PAGE}{query} HTTP/1.1\r\nHost: {host}\r\n\r\n");
                match self.ask(connection, request.as_bytes(), &mut body).await {
                    Ok(head) if head.status == 200 => {
                        let page: Page = serde_json::from_slice(&body)
                            .map_err(|error| format!("a history's JSON: {error}"))?;
                        break page;
                    }
                    Ok(head) if head.status == 404 => break Page { versions: Vec::new(), next_before: None },
                    Ok(head) => {
                        let error = ClientError::from_answer(head.status, None, &body);
                        if !error.is_retryable() || tries > RETRIES {
                            return Err(format!("GET {path}: {error}"));
                        }
                    }
                    Err(why) if tries > RETRIES => return Err(format!("GET {path}: {why}")),
                    Err(_) => *connection = None,
                }
                tries += 1;
                tokio::time::sleep(BACKOFF).await;
            };
            for version in page.versions {
                let value = STANDARD.decode(version.value.unwrap_or_default());
                if value.is_ok_and(|value| value == expected.value)
                    && !self.writes.is_acknowledged(version.seq)
                {
                    self.found(expected, Some(version.seq));
                    return Ok(());
                }
            }
            before = page.next_before;
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
            None => self.target.connect().await.map_err(|error| self.target.unreachable(&error))?,
        };
        let exchange = tokio::time::timeout(ANSWER_TIME_MAX, live.exchange(request, body)).await;
        let head = exchange.map_err(|_| "no answer".to_owned())?.map_err(|broken| broken.to_string())?;
        if !head.close {
            *connection = Some(live);
        }
        Ok(head)
    }
}

#[derive(Deserialize)]
struct Page {
    versions: Vec<Version>,
    next_before: Option<u64>,
}

#[derive(Deserialize)]
struct Version {
    seq: u64,
    value: Option<String>,
}
