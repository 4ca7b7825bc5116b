//! Clients that write and read at nodes drawn at random, over HTTP, and write down what they were told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use scribe_ledger::sim::SimRng;

use super::{
    client::{Answer, Client},
    history::{Call, Op, Told, Value},
    process::{ask, connect},
    wait::wait_until,
};

/// Keys in use at once: few, so that clients meet. After so many calls others take their place, because only so many
/// calls of a key can be checked.
const KEYS: u64 = 4;
const CALLS_OF_KEYS: u64 = KEYS * 60;

/// A node that does not answer for so long is taken for gone, and what was asked of it for unknown.
const ANSWER_PATIENCE: Duration = Duration::from_secs(4);

/// How often a write with an idempotency key is tried.
const TRIES: usize = 6;

/// What all clients have been told.
#[derive(Default)]
pub struct Journal {
    pub history: Vec<Op>,
    /// Key and value of what was answered, by its position.
    pub answered: BTreeMap<u64, (u64, Value)>,
    /// Answers that nobody should get.
    pub wrong: Vec<String>,
    moment: u64,
    values: Value,
    calls: u64,
}

impl Journal {
    fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A key for one more call.
    fn draw_key(&mut self, rng: &SimRng) -> u64 {
        self.calls += 1;
        self.calls / CALLS_OF_KEYS * KEYS + rng.below(KEYS)
    }

    fn note_written(&mut self, key: u64, value: Value, answer: &Answer) {
        let seq = answer.header("scribe-seq").and_then(|seq| seq.parse().ok());
        let Some(seq) = seq else { return self.wrong.push(format!("no position: {answer:?}")) };
        if let Some(other) = self.answered.insert(seq, (key, value)) {
            self.wrong.push(format!("{seq} is the position of value {value} and of {other:?}"));
        }
    }
}

/// Clients that go on until they are stopped.
pub struct Clients {
    journal: Arc<Mutex<Journal>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// So many clients of the nodes at `addresses`.
    pub fn start(count: usize, addresses: &[SocketAddr], rng: &SimRng) -> Self {
        let (journal, stop) = (Arc::<Mutex<Journal>>::default(), Arc::<AtomicBool>::default());
        let client = |_| {
            let (journal, stop, rng) = (journal.clone(), stop.clone(), rng.fork());
            let nodes = Nodes { addresses: addresses.to_vec(), at: 0, connection: None };
            thread::spawn(move || live(nodes, &rng, &journal, &stop))
        };
        let threads = (0..count).map(client).collect();
        Self { journal, stop, threads }
    }

    /// Waits until so many more writes have been answered.
    #[track_caller]
    pub fn wait_more(&self, count: usize) {
        let answered = || self.journal.lock().answered.len();
        let enough = answered() + count;
        wait_until("the clients go on", || answered() >= enough);
    }

    /// Ends them.
    pub fn stop(self) -> Journal {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.journal.lock())
    }
}

/// The way to the nodes, one at a time.
struct Nodes {
    addresses: Vec<SocketAddr>,
    at: usize,
    connection: Option<Client>,
}

impl Nodes {
    fn turn(&mut self, rng: &SimRng) {
        (self.at, self.connection) = (rng.below(self.addresses.len() as u64) as usize, None);
    }

    /// The answer; none where nobody is there or the connection broke, with whether the node may have seen it.
    fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, bool> {
        if self.connection.is_none() {
            self.connection = connect(self.addresses[self.at], ANSWER_PATIENCE).ok();
        }
        let Some(client) = &mut self.connection else { return Err(false) };
        ask(client, method, path, headers, body).map_err(|_| {
            self.connection = None;
            true
        })
    }
}

pub fn key_name(key: u64) -> String {
    format!("key-{key}")
}

/// The value that these bytes were.
pub fn value_of(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn live(mut nodes: Nodes, rng: &SimRng, journal: &Mutex<Journal>, stop: &AtomicBool) {
    let mut seen = None;
    nodes.turn(rng);
    while !stop.load(Ordering::Relaxed) {
        if rng.one_in(20) {
            nodes.turn(rng);
        }
        let answered = match rng.one_in(2) {
            true => {
                let read = read(&mut nodes, rng, journal);
                seen = read.unwrap_or(seen);
                read.is_some()
            }
            false => write(&mut nodes, rng, journal, seen),
        };
        if !answered {
            thread::park_timeout(Duration::from_millis(20));
            nodes.turn(rng);
        }
    }
}

/// A version of a key: the key, its value and its position.
type Version = (u64, Value, u64);

/// What there is; none if nobody says.
fn read(nodes: &mut Nodes, rng: &SimRng, journal: &Mutex<Journal>) -> Option<Option<Version>> {
    let (key, begin) = {
        let mut journal = journal.lock();
        (journal.draw_key(rng), journal.moment())
    };
    let consistency = ["linearizable", "lease"][rng.below(2) as usize];
    let path = format!("/{}?consistency={consistency}", key_name(key));
    let answer = nodes.ask("GET", &path, &[], b"").ok()?;
    let mut journal = journal.lock();
    let version = match answer.status {
        200 => {
            let seq = answer.header("scribe-seq").and_then(|seq| seq.parse().ok());
            let version = value_of(&answer.body).zip(seq).map(|(value, seq)| (key, value, seq));
            if version.is_none() {
                journal.wrong.push(format!("{path}: {answer:?}"));
            }
            Some(version?)
        }
        404 => None,
        503 | 504 => return None,
        _ => {
            journal.wrong.push(format!("{path}: {answer:?}"));
            return None;
        }
    };
    let (value, end) = (version.map_or(0, |(_, value, _)| value), journal.moment());
    journal.history.push(Op { key, call: Call::Read, told: Told::Is(value), begin, end });
    Some(version)
}

/// Whether it was answered.
fn write(nodes: &mut Nodes, rng: &SimRng, journal: &Mutex<Journal>, seen: Option<Version>) -> bool {
    let (mut key, value, begin) = {
        let mut journal = journal.lock();
        journal.values += 1;
        (journal.draw_key(rng), journal.values, journal.moment())
    };
    let (call, condition) = match (rng.below(6), seen) {
        (0, _) => (Call::WriteIfAbsent(value), Some(("If-None-Match", "*".to_owned()))),
        (1 | 2, Some((seen_key, old, seq))) if seen_key / KEYS == key / KEYS => {
            key = seen_key;
            (Call::Replace { old, new: value }, Some(("If-Match", format!("\"{seq}\""))))
        }
        _ => (Call::Write(value), None),
    };
    let idempotency_key = rng.one_in(2).then(|| ("Idempotency-Key", format!("write-{value}")));
    let headers: Vec<_> =
        condition.iter().chain(&idempotency_key).map(|(name, text)| (*name, &text[..])).collect();
    let (path, body) = (format!("/{}", key_name(key)), value.to_string());
    let tries = if idempotency_key.is_some() { TRIES } else { 1 };
    // After an unknown outcome a refusal of another try says nothing about the first.
    let (mut may_be_written, mut told) = (false, None);
    for _ in 0..tries {
        match nodes.ask("PUT", &path, &headers, body.as_bytes()) {
            Ok(answer) if answer.status == 201 => {
                journal.lock().note_written(key, value, &answer);
                told = Some(Told::Done);
                break;
            }
            Ok(answer) if answer.status == 412 => {
                told = Some(Told::Refused);
                break;
            }
            Ok(answer) if answer.status == 503 => {}
            Ok(answer) if answer.status == 504 => may_be_written = true,
            Ok(answer) => {
                journal.lock().wrong.push(format!("{path}: {answer:?}"));
                may_be_written = true;
            }
            Err(may_have_seen_it) => may_be_written |= may_have_seen_it,
        }
        thread::park_timeout(Duration::from_millis(rng.below(200)));
        nodes.turn(rng);
    }
    let was_answered = told.is_some();
    // What was refused at every try is in no ledger, and says nothing.
    let Some(told) = told.or(may_be_written.then_some(Told::Unknown)) else { return false };
    let mut journal = journal.lock();
    let end = journal.moment();
    journal.history.push(Op { key, call, told, begin, end });
    was_answered
}
