//! Compares an NDJSON file with what the server gives back for every key in it.
//!
//! Takes the file that `load` sent, gives every difference: a key that is missing, a value that is another
//! byte for byte, a position that is not exactly one record's. Expects what `load` of a file with distinct
//! keys leaves behind: each line's record is its key's newest.

use std::{
    borrow::Cow,
    fmt::Write,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use scribe_ledger::client::{Client, ClientError, KeyPath};
use serde::Deserialize;
use tokio::sync::{Mutex, mpsc};

use crate::{
    http::{Connection, Patience, Target},
    lines::Chunks,
};

/// Differences that are described; all are counted.
const SHOWN_MAX: usize = 10;
const GROUP_RECORDS: u64 = 256;
const GROUPS_AHEAD: usize = 16;
/// Between two tries of a read that was refused.
const BACKOFF: Duration = Duration::from_millis(200);
/// `total_records` may be counted in the background.
const TOTAL_TRIES: u32 = 30;

/// What to compare, and how.
#[derive(Clone, Debug)]
pub struct VerifyPlan {
    pub target: Target,
    pub url: String,
    pub file: PathBuf,
    pub connections: usize,
    pub patience: Patience,
    /// The position of the file's first record.
    pub first_seq: u64,
    /// Each record's position has to follow from its line, as one connection loads them.
    pub in_order: bool,
    /// Empty, or begins with `?`.
    pub read_query: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub records: u64,
    pub missing: u64,
    pub wrong: u64,
    /// Positions that are twice there, out of range, or out of order.
    pub bad_seqs: u64,
    /// The server's own count, if it is another.
    pub total_records: Option<u64>,
    pub first_seq: u64,
    /// Where the file's records are instead, each of them once: the ledger was not empty before them.
    pub shifted_to: Option<u64>,
    /// The first few differences, a line each.
    pub shown: Vec<String>,
}

impl Verdict {
    /// Whether nothing differs.
    pub const fn is_good(&self) -> bool {
        self.missing == 0 && self.wrong == 0 && self.bad_seqs == 0 && self.total_records.is_none()
    }

    /// One line, and a line for each of the first differences.
    pub fn text(&self) -> String {
        let mut out = format!("{} records: {} missing, {} wrong, ", self.records, self.missing, self.wrong);
        if self.bad_seqs == 0 && self.missing == 0 && self.records > 0 {
            let _ = write!(out, "seqs {}..{}", self.first_seq, self.first_seq + self.records - 1);
        } else {
            let _ = write!(out, "{} positions not as they should be", self.bad_seqs);
        }
        for line in &self.shown {
            let _ = write!(out, "\n  {line}");
        }
        if let Some(first) = self.shifted_to {
            let last = first + self.records - 1;
            let _ = write!(
                out,
                "\n  the file's records are all at seqs {first}..{last}: if the ledger was not empty before them, say --first-seq {first}"
            );
        }
        if let Some(total) = self.total_records {
            let expected = self.first_seq + self.records;
            let _ = write!(out, "\n  the server counts total_records {total}, expected {expected}");
        }
        out
    }

    fn show(&mut self, line: impl FnOnce() -> String) {
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(line());
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key_b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value_b64: Option<Cow<'a, str>>,
}

/// A record of the file.
struct Expected {
    /// Its place among the file's records, from 0.
    number: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

fn expected(number: u64, line: &[u8]) -> Result<Expected, String> {
    match record_of(number, line)? {
        (key, Some(value)) => Ok(Expected { number, key, value }),
        (_, None) => {
            let record = number + 1;
            Err(format!("record {record} of the file is a delete; only files of puts can be compared"))
        }
    }
}

/// The key and the value of a line, which is the file's `number`-th record from 0; a delete has no value.
pub fn record_of(number: u64, line: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
    let record = number + 1;
    let parsed: Line<'_> =
        serde_json::from_slice(line).map_err(|error| format!("record {record} of the file: {error}"))?;
    let bytes = |name: &str, text: Option<Cow<'_, str>>, base64: Option<Cow<'_, str>>| match (text, base64) {
        (_, Some(base64)) => STANDARD
            .decode(&*base64)
            .map_err(|error| format!("record {record} of the file, {name}_b64: {error}")),
        (Some(text), None) => Ok(text.into_owned().into_bytes()),
        (None, None) => Err(format!("record {record} of the file has no {name}")),
    };
    let key = bytes("key", parsed.key, parsed.key_b64)?;
    match parsed.op.as_deref() {
        None | Some("put") => Ok((key, Some(bytes("value", parsed.value, parsed.value_b64)?))),
        Some("delete") => Ok((key, None)),
        Some(op) => Err(format!("record {record} of the file has the op {op:?}: expected put or delete")),
    }
}

/// Reads every key of the file back.
///
/// # Errors
/// When the file or the server cannot be read. Differences are no error but the [`Verdict`].
pub async fn verify(plan: VerifyPlan) -> Result<Verdict, String> {
    let chunks = Chunks::open(&plan.file, GROUP_RECORDS)?;
    let (full, queue) = mpsc::channel(GROUPS_AHEAD);
    std::thread::spawn(move || {
        let mut number = 0;
        for chunk in chunks {
            let group = chunk.and_then(|chunk| {
                let lines = chunk.bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
                let group: Result<Vec<Expected>, String> =
                    lines.zip(number..).map(|(line, number)| expected(number, line)).collect();
                number += chunk.records;
                group
            });
            let failed = group.is_err();
            if full.blocking_send(group).is_err() || failed {
                break;
            }
        }
    });

    let connections = plan.connections.max(1);
    let reader = Arc::new(Reader { plan, queue: Mutex::new(queue), found: Mutex::new(Found::default()) });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let reader = Arc::clone(&reader);
        tasks.spawn(async move { reader.run().await });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.map_err(|error| format!("a reader ended: {error}"))??;
    }
    let Found { mut verdict, mut seqs } = std::mem::take(&mut *reader.found.lock().await);
    let plan = &reader.plan;
    verdict.first_seq = plan.first_seq;
    check_seqs(&mut verdict, &mut seqs, plan.in_order);
    let total_expected = plan.first_seq + verdict.records;
    let total = total_records(&plan.url, total_expected, plan.patience).await?;
    verdict.total_records = total.filter(|&total| total != total_expected);
    Ok(verdict)
}

/// Every position of the range once, and in the file's order if that was asked for.
fn check_seqs(verdict: &mut Verdict, seqs: &mut [(u64, u64)], in_order: bool) {
    let range = verdict.first_seq..verdict.first_seq + verdict.records;
    seqs.sort_unstable();
    if let (Some(&(first, _)), Some(&(last, _))) = (seqs.first(), seqs.last()) {
        let in_one_piece =
            seqs.windows(2).all(|pair| pair[0].0 < pair[1].0) && last - first + 1 == verdict.records;
        verdict.shifted_to = Some(first).filter(|&first| in_one_piece && first != range.start);
    }
    let mut before = None;
    for &(seq, number) in &*seqs {
        let record = number + 1;
        if before == Some(seq) {
            verdict.bad_seqs += 1;
            verdict.show(|| format!("record {record}: another record is at seq {seq}, too"));
        } else if !range.contains(&seq) {
            verdict.bad_seqs += 1;
            verdict.show(|| format!("record {record}: seq {seq} is outside {}..{}", range.start, range.end));
        } else if in_order && seq - range.start != number {
            verdict.bad_seqs += 1;
            let expected = range.start + number;
            verdict.show(|| format!("record {record}: at seq {seq}, in the file's order it is {expected}"));
        }
        before = Some(seq);
    }
}

/// The server's count, once it is as expected or has had time to become so.
async fn total_records(url: &str, expected: u64, patience: Patience) -> Result<Option<u64>, String> {
    let client = Client::new(url).map_err(|error| error.to_string())?.with_timeout(patience.timeout);
    let mut total = None;
    for _ in 0..TOTAL_TRIES {
        let metrics =
            client.get_json("/metrics").await.map_err(|error| format!("reading /metrics: {error}"))?;
        let count = metrics.get("total_records").and_then(serde_json::Value::as_u64);
        total = Some(count.ok_or("/metrics has no total_records")?);
        if total == Some(expected) {
            break;
        }
        tokio::time::sleep(BACKOFF / 2).await;
    }
    Ok(total)
}

#[derive(Default)]
struct Found {
    verdict: Verdict,
    /// Position and number of every record that is there.
    seqs: Vec<(u64, u64)>,
}

struct Reader {
    plan: VerifyPlan,
    queue: Mutex<mpsc::Receiver<Result<Vec<Expected>, String>>>,
    found: Mutex<Found>,
}

impl Reader {
    async fn run(&self) -> Result<(), String> {
        let mut connection = None;
        let mut body = Vec::new();
        loop {
            let Some(group) = self.queue.lock().await.recv().await else { return Ok(()) };
            for expected in group? {
                let seen = self.read(&mut connection, &expected.key, &mut body).await?;
                let mut found = self.found.lock().await;
                found.compare(&expected, seen, &body);
            }
        }
    }

    /// Reads a value into `body`. Gives its position, or `None` when the key is not there.
    async fn read(
        &self,
        connection: &mut Option<Connection>,
        key: &[u8],
        body: &mut Vec<u8>,
    ) -> Result<Option<u64>, String> {
        let path = KeyPath::of(key);
        let (path_text, authority) = (path.as_str(), &self.plan.target.authority);
        let request =
            format!("GET {path_text}{} HTTP/1.1\r\nHost: {authority}\r\n\r\n", self.plan.read_query);
        let since = Instant::now();
        loop {
            let why = match self.attempt(connection, request.as_bytes(), body).await {
                Ok(head) if head.status == 200 => match path {
                    KeyPath::Raw(_) => {
                        return head
                            .seq
                            .map(Some)
                            .ok_or_else(|| "a value came without Scribe-Seq".to_owned());
                    }
                    KeyPath::Json(_) => return from_json(body).map(Some),
                },
                Ok(head) if head.status == 404 => return Ok(None),
                Ok(head) => {
                    let error = ClientError::from_answer(head.status, None, body);
                    if !error.is_retryable() {
                        return Err(format!("GET {path_text}: {error}"));
                    }
                    error.to_string()
                }
                Err(why) => why,
            };
            if since.elapsed() >= self.plan.patience.stall {
                return Err(format!("GET {path_text}: {why}"));
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }

    async fn attempt(
        &self,
        connection: &mut Option<Connection>,
        request: &[u8],
        body: &mut Vec<u8>,
    ) -> Result<crate::http::Head, String> {
        let mut live = match connection.take() {
            Some(live) => live,
            None => self
                .plan
                .target
                .connect(self.plan.patience.timeout)
                .await
                .map_err(|error| self.plan.target.unreachable(&error))?,
        };
        let head = live.exchange(request, body).await.map_err(|broken| broken.to_string())?;
        if !head.close {
            *connection = Some(live);
        }
        Ok(head)
    }
}

/// Turns a JSON record in `body` into its value. Gives its position.
pub fn from_json(body: &mut Vec<u8>) -> Result<u64, String> {
    #[derive(Deserialize)]
    struct Record {
        value: String,
        value_b64: Option<String>,
        seq: u64,
    }
    let record: Record = serde_json::from_slice(body).map_err(|error| format!("a record's JSON: {error}"))?;
    let text = record.value_b64.unwrap_or(record.value);
    *body = STANDARD.decode(text).map_err(|error| format!("a record's value: {error}"))?;
    Ok(record.seq)
}

impl Found {
    fn compare(&mut self, expected: &Expected, seen: Option<u64>, value: &[u8]) {
        let (record, key) = (expected.number + 1, String::from_utf8_lossy(&expected.key));
        self.verdict.records += 1;
        let Some(seq) = seen else {
            self.verdict.missing += 1;
            return self.verdict.show(|| format!("record {record}, key {key:?}: missing"));
        };
        self.seqs.push((seq, expected.number));
        if value != expected.value {
            self.verdict.wrong += 1;
            let at = value.iter().zip(&expected.value).take_while(|(a, b)| a == b).count();
            let (have, want) = (value.len(), expected.value.len());
            self.verdict.show(|| {
                format!("record {record}, key {key:?}, seq {seq}: {have} bytes where {want} are expected, the first difference at byte {at}")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(in_order: bool, mut seqs: Vec<(u64, u64)>) -> Verdict {
        let mut verdict = Verdict { records: seqs.len() as u64, ..Verdict::default() };
        check_seqs(&mut verdict, &mut seqs, in_order);
        verdict
    }

    #[test]
    fn every_position_is_one_records() {
        assert!(verdict(true, vec![(0, 0), (1, 1), (2, 2)]).is_good());
        assert!(verdict(false, vec![(2, 0), (0, 1), (1, 2)]).is_good());
        assert_eq!(verdict(true, vec![(2, 0), (1, 1), (0, 2)]).bad_seqs, 2);
        let twice = verdict(false, vec![(0, 0), (0, 1), (2, 2)]);
        assert_eq!((twice.bad_seqs, twice.is_good()), (1, false));
        assert!(twice.text().contains("record 2: another record is at seq 0"));
        assert_eq!(verdict(false, vec![(0, 0), (2, 1)]).bad_seqs, 1);
        assert_eq!(twice.shifted_to, None);
        let shifted = verdict(true, vec![(7, 0), (8, 1)]);
        assert_eq!((shifted.bad_seqs, shifted.shifted_to), (2, Some(7)));
        assert!(shifted.text().contains("at seqs 7..8: ") && shifted.text().contains("--first-seq 7"));
    }

    #[test]
    fn a_good_verdict_is_one_line() {
        let mut good = Verdict { records: 336_776, ..Verdict::default() };
        assert_eq!(good.text(), "336776 records: 0 missing, 0 wrong, seqs 0..336775");
        good.total_records = Some(336_777);
        assert!(!good.is_good());
        assert!(good.text().contains("total_records 336777, expected 336776"));
    }

    #[test]
    fn values_are_compared_byte_for_byte() {
        let mut found = Found::default();
        let expected = Expected { number: 0, key: b"k".to_vec(), value: b"value".to_vec() };
        found.compare(&expected, Some(0), b"value");
        found.compare(&expected, Some(1), b"valve");
        found.compare(&expected, None, b"");
        assert_eq!((found.verdict.records, found.verdict.wrong, found.verdict.missing), (3, 1, 1));
        assert!(found.verdict.text().contains("the first difference at byte 3"));
    }

    #[test]
    fn lines_are_read_as_the_server_reads_them() {
        let line = expected(0, br#"{"key":"a\"b","value_b64":"/w=="}"#).unwrap();
        assert_eq!((&line.key[..], &line.value[..]), (&b"a\"b"[..], &[0xff][..]));
        for bad in
            [&b"{"[..], b"{}", br#"{"key":"k"}"#, br#"{"op":"delete","key":"k"}"#, br#"{"op":"x","key":"k"}"#]
        {
            assert!(expected(4, bad).err().unwrap().contains("record 5"));
        }
        assert_eq!(record_of(0, br#"{"op":"delete","key":"k"}"#), Ok((b"k".to_vec(), None)));
    }
}
