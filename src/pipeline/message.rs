//! What travels between the stages.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{budget::Room, gauge::Stay};
use crate::{
    error::{Code, Error, Result},
    state::{
        batch::{Batch, Draft},
        outcome::{Answer, Outcome, RequestOutcome, Why},
    },
    types::Seq,
    wal::DiskFull,
};

/// What `batch` receives.
#[derive(Debug)]
pub enum ToBatch {
    /// ingest → batch: an admitted request.
    Write(Write),
    /// replicate → batch: an entry in flight has been answered.
    Settled,
    /// full disk, no quorum → batch: for some time nothing has got through. Whoever waits gets one of these.
    GiveUp {
        /// For what is in no entry yet.
        refused: Error,
        /// For what is in flight.
        unknown: Error,
    },
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

/// Those who wait for an entry in flight.
#[derive(Debug, Default)]
pub struct InFlight {
    waiting: Vec<Waiting>,
    /// Of those who were answered before it was known what became of it: its bytes are still held.
    rooms: Vec<Room>,
}

impl InFlight {
    /// They wait.
    #[must_use]
    pub fn new(waiting: Vec<Waiting>) -> Self {
        Self { waiting, rooms: Vec::new() }
    }

    /// Answers them by what became of it, if they still wait.
    pub fn answer(&mut self, result: Result<Outcome>) {
        answer(std::mem::take(&mut self.waiting), result);
        self.rooms.clear();
    }

    /// Answers them before that is known.
    pub fn give_up(&mut self, why: &Error) {
        for Waiting { reply, room, .. } in self.waiting.drain(..) {
            // A caller that stopped waiting is not told.
            let _ = reply.send(Err(why.clone()));
            self.rooms.push(room);
        }
    }
}

/// The refusal of a write while the disk is full.
#[must_use]
pub fn disk_full(why: &DiskFull) -> Error {
    let message = format!("{why}; nothing was written; free some space, writes then resume by themselves");
    Error::new(Code::DiskFull, message).retry_after(FULL_DISK_RETRY)
}

/// What is told of a write that waits in the log for a disk that is full.
#[must_use]
pub fn waits_for_room() -> Error {
    Error::new(
        Code::OutcomeUnknown,
        "the node's disk is full and the write waits in its log: it is written once there is room, unless the node \
         stops before; free some space, and retry it with the same Idempotency-Key",
    )
    .retry_after(FULL_DISK_RETRY)
}

/// The refusal of a write on a leader that no quorum answers.
#[must_use]
pub fn no_quorum() -> Error {
    Error::new(Code::NoQuorum, "this node leads, and no quorum answers it; nothing was written")
        .retry_after(NO_QUORUM_RETRY)
}

/// What is told of a write that has been proposed on such a leader.
#[must_use]
pub fn waits_for_quorum() -> Error {
    Error::new(
        Code::OutcomeUnknown,
        "the write is in the log of this node, which leads, and no quorum answers it: it may or may not come to be; \
         retry it with the same Idempotency-Key",
    )
    .retry_after(NO_QUORUM_RETRY)
}

/// When members may have come back or elected another.
const NO_QUORUM_RETRY: Duration = Duration::from_secs(1);

/// When somebody may have freed some space.
const FULL_DISK_RETRY: Duration = Duration::from_secs(5);

/// Answers every request of a batch by what became of its entry.
fn answer(waiting: Vec<Waiting>, result: Result<Outcome>) {
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
        .retry_after(Duration::from_secs(5))),
        Err(Why::Replayed(answer)) => tell((Ok(answer), true)),
    }
}
