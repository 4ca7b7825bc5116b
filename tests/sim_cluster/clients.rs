//! Clients that write and read at members drawn at random, and write down what they were told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use scribe_ledger::{
    error::{Code, Error},
    pipeline::message::Written,
    raft::Consistency,
    sim::SimRng,
    state::batch::{Condition, Draft},
    types::{NodeId, Op as RecordOp, Seq},
};
use tokio::time::{sleep, timeout};

use crate::{
    history::{Call, OPS_OF_KEY_MAX, Op, Told, Value},
    world::{Running, World},
};

/// Keys in use: few, so that conditions meet each other.
const KEYS: u64 = 5;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// How often a request with an idempotency key is tried.
const TRIES: u64 = 5;

/// A write that was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    pub key: u64,
    /// 0 for a delete.
    pub value: Value,
    pub seq: Seq,
    /// Simulated time of question and answer.
    pub from_ms: u64,
    pub to_ms: u64,
}

/// What all clients have seen.
#[derive(Default)]
pub struct Journal {
    pub history: Vec<Op>,
    pub answered: Vec<Answered>,
    /// Values whose writers were told that nothing was written.
    pub refused: Vec<Value>,
    moment: u64,
    values: Value,
    /// Calls of each key, answered or not.
    calls: BTreeMap<u64, usize>,
}

impl Journal {
    fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// Whether one more call of a key can be checked; counts it.
    fn takes(&mut self, key: u64) -> bool {
        let calls = self.calls.entry(key).or_default();
        *calls += 1;
        *calls <= OPS_OF_KEY_MAX
    }
}

pub type Shared = Arc<Mutex<Journal>>;

pub fn key_name(key: u64) -> String {
    format!("key-{key}")
}

/// A value as it is written, long enough for some segments to be sealed.
pub fn value_bytes(value: Value) -> Vec<u8> {
    format!("{value}-{}", "x".repeat(40 + (value % 80) as usize)).into()
}

/// The value that these bytes were.
pub fn value_of(bytes: &[u8]) -> Value {
    let digits = bytes.split(|byte| *byte == b'-').next().unwrap_or_default();
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).expect("a value that was written")
}

/// Asks and writes until the world is over.
pub async fn client(world: Arc<World>, journal: Shared, number: u64) {
    let rng = world.rng.fork();
    let pace_us = [10_000, 40_000, 160_000][rng.below(3) as usize];
    // Most clients stay with one member for a while, as real ones do.
    let mut at = pick(&world, &rng);
    // The newest version that this client has read.
    let mut seen: Option<(u64, Value, Seq)> = None;
    while !world.is_over() {
        sleep(Duration::from_micros(rng.below(pace_us))).await;
        if rng.one_in(5) {
            at = pick(&world, &rng);
        }
        let Some(node) = world.member(at) else {
            at = pick(&world, &rng);
            continue;
        };
        if rng.below(10) < 6 {
            let consistency = [Consistency::Linearizable, Consistency::Lease][rng.below(2) as usize];
            let key = rng.below(KEYS);
            let late = async {
                // Somebody else asks the same member while it still asks the leader.
                sleep(Duration::from_micros(rng.below(4_000))).await;
                read(&node, &journal, key, consistency).await
            };
            seen = match rng.one_in(2) {
                true => tokio::join!(read(&node, &journal, key, consistency), late).1,
                false => read(&node, &journal, key, consistency).await,
            }
            .or(seen);
        } else {
            write(&world, &journal, &rng, node, &format!("client-{number}"), seen).await;
        }
    }
}

fn pick(world: &World, rng: &SimRng) -> NodeId {
    1 + rng.below(world.founders + 1)
}

async fn read(
    node: &Running,
    journal: &Shared,
    key: u64,
    consistency: Consistency,
) -> Option<(u64, Value, Seq)> {
    if !journal.lock().takes(key) {
        return None;
    }
    let begin = journal.lock().moment();
    timeout(PATIENCE, node.reader.barrier(consistency)).await.ok()?.ok()?;
    // A disk that has failed meanwhile gives no answer.
    let record = node.reader.newest(key_name(key).as_bytes()).ok()?;
    let record = record.filter(|record| record.op == RecordOp::Put);
    let value = record.as_ref().map_or(0, |record| value_of(&record.value));
    let mut journal = journal.lock();
    let end = journal.moment();
    journal.history.push(Op { key, call: Call::Read, told: Told::Is(value), begin, end });
    record.map(|record| (key, value, record.seq))
}

async fn write(
    world: &World,
    journal: &Shared,
    rng: &SimRng,
    mut node: Running,
    name: &str,
    seen: Option<(u64, Value, Seq)>,
) {
    let value = {
        let mut journal = journal.lock();
        journal.values += 1;
        journal.values
    };
    let (key, call, condition) = match (rng.below(8), seen) {
        (0, _) => (rng.below(KEYS), Call::Write(0), None),
        (1, _) => (rng.below(KEYS), Call::WriteIfAbsent(value), Some(Condition::Absent)),
        (2 | 3, Some((key, old, seq))) => {
            (key, Call::Replace { old, new: value }, Some(Condition::At(seq.0)))
        }
        _ => (rng.below(KEYS), Call::Write(value), None),
    };
    if !journal.lock().takes(key) {
        return;
    }
    let is_delete = call == Call::Write(0);
    let idempotency_key = rng.one_in(2).then(|| format!("{name}-{value}"));
    let draft = || {
        let mut draft = Draft::new();
        match is_delete {
            true => draft.delete(key_name(key).as_bytes()).unwrap(),
            false => draft.put(key_name(key).as_bytes(), &value_bytes(value)).unwrap(),
        }
        condition.iter().for_each(|condition| draft.set_condition(*condition));
        idempotency_key.iter().for_each(|key| draft.set_idempotency_key(key.clone()));
        draft
    };
    let (begin, from_ms) = (journal.lock().moment(), world.now_ms());
    let mut result = submit(&node, draft()).await;
    // After an unknown outcome a refusal of another try says nothing about the first.
    let mut may_be_written = is_unknown(&result);
    for _ in 1..TRIES {
        if idempotency_key.is_none() || !may_be_written || is_final(&result) {
            break;
        }
        sleep(Duration::from_millis(rng.below(200))).await;
        if let Some(other) = world.member(pick(world, rng)) {
            node = other;
        }
        result = submit(&node, draft()).await;
        may_be_written |= is_unknown(&result);
    }
    let mut journal = journal.lock();
    let end = journal.moment();
    let value = if is_delete { 0 } else { value };
    let told = match &result {
        Ok(written) => {
            let (seq, to_ms) = (written.first_seq, world.now_ms());
            journal.answered.push(Answered { key, value, seq, from_ms, to_ms });
            Told::Done
        }
        Err(error) if error.code() == Code::PreconditionFailed => Told::Refused,
        Err(_) if may_be_written => Told::Unknown,
        Err(_) => {
            journal.refused.extend((value != 0).then_some(value));
            return;
        }
    };
    if told == Told::Refused && value != 0 {
        journal.refused.push(value);
    }
    journal.history.push(Op { key, call, told, begin, end });
}

type Answer = Result<Written, Error>;

async fn submit(node: &Running, draft: Draft) -> Answer {
    let permit = node.ingest.permit(0)?;
    let late = |_| Err(Error::new(Code::OutcomeUnknown, "the client waits no longer"));
    timeout(PATIENCE, permit.submit(draft)).await.unwrap_or_else(late)
}

fn is_final(answer: &Answer) -> bool {
    answer.as_ref().map_or_else(|error| error.code() == Code::PreconditionFailed, |_| true)
}

/// Whether it may be in the ledger, now or later: whatever is not refused in so many words.
fn is_unknown(answer: &Answer) -> bool {
    use Code::{DiskFull, NoQuorum, Overloaded, PreconditionFailed, Unavailable};
    let refusals = [DiskFull, NoQuorum, Overloaded, PreconditionFailed, Unavailable];
    answer.as_ref().is_err_and(|error| !refusals.contains(&error.code()))
}
