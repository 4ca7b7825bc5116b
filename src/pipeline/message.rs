//! What travels between the stages.

use tokio::sync::oneshot;

use super::{budget::Room, gauge::Stay};
use crate::{
    error::{Code, Error, Result},
    state::{
        batch::{Batch, Draft},
        outcome::{Answer, Outcome, RequestOutcome, Why},
    },
    types::Seq,
};

/// What `batch` receives.
#[derive(Debug)]
pub enum ToBatch {
    /// ingest → batch: an admitted request.
    Write(Write),
    /// replicate → batch: an entry in flight has been answered.
    Settled,
}

/// An admitted request.
#[derive(Debug)]
pub struct Write {
    /// What it does.
    pub draft: Draft,
    /// Where its answer goes.
    pub reply: oneshot::Sender<Result<Written>>,
    /// Its part of the byte budget.
    pub room: Room,
    /// Its stay in `ingest`, which ends when `batch` takes it.
    pub stay: Stay,
}

/// What a committed, applied and durable write got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Position of its first record.
    pub first_seq: Seq,
    /// How many records it appended, in consecutive positions.
    pub count: u64,
    /// Whether this is the first answer given again to a retry with the same idempotency key.
    pub replayed: bool,
}

/// batch → replicate: an entry with those who wait for it.
#[derive(Debug)]
pub struct Closed {
    /// The operations.
    pub batch: Batch,
    /// The requests they came in, in batch order.
    pub waiting: Vec<Waiting>,
    /// Whether it holds one request and no other is in the stage or in flight.
    pub alone: bool,
}

/// A request in a batch.
#[derive(Debug)]
pub struct Waiting {
    /// Number of its first operation in the batch.
    pub first_op: u32,
    /// How many it has.
    pub op_count: u32,
    /// Where its answer goes.
    pub reply: oneshot::Sender<Result<Written>>,
    /// Given back with the answer.
    pub room: Room,
}

/// Answers every request of a batch by what became of its entry.
pub fn answer(waiting: Vec<Waiting>, result: Result<Outcome>) {
    match result {
        Ok(outcome) => {
            let requests = waiting.iter().map(|w| (w.first_op, w.op_count)).collect::<Vec<_>>();
            for (waiting, told) in waiting.into_iter().zip(outcome.of_requests(requests.into_iter())) {
                // A caller that stopped waiting is not told; its write stands.
                let _ = waiting.reply.send(tell(told));
            }
        }
        Err(error) => refuse(waiting, &error),
    }
}

/// Answers every request of a batch with the same error.
pub fn refuse(waiting: Vec<Waiting>, error: &Error) {
    for waiting in waiting {
        let _ = waiting.reply.send(Err(error.clone()));
    }
}

fn tell((outcome, replayed): (RequestOutcome, bool)) -> Result<Written> {
    let precondition = |newest: Option<Seq>| {
        let now = newest
            .map_or("the key does not exist".into(), |seq| format!("the key's newest version is {seq}"));
        Error::new(Code::PreconditionFailed, format!("the condition did not hold: {now}"))
    };
    match outcome {
        Ok(Answer::Written { first_seq, count }) => Ok(Written { first_seq, count, replayed }),
        Ok(Answer::PreconditionFailed { newest }) | Err(Why::PreconditionFailed { newest }) => {
            Err(precondition(newest).replayed(replayed))
        }
        Err(Why::IdempotencyMismatch) => Err(Error::new(
            Code::IdempotencyMismatch,
            "this Idempotency-Key was used for a request with other content: use a new key for a new request",
        )),
        Err(Why::IdempotencyFull) => Err(Error::new(
            Code::IdempotencyFull,
            "the table of idempotency keys is full until older ones expire (limits.idempotency_keys_max); \
             nothing was written",
        )
        .retry_after(std::time::Duration::from_secs(5))),
        Err(Why::Replayed(answer)) => tell((Ok(answer), true)),
    }
}
