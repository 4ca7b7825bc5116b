//! Stage 1, ingest: admits a client's write by bytes, or refuses it before anything is proposed.
//!
//! Takes requests from the servers, gives them to `batch`, and hands the caller its answer. It owns the
//! byte budget of the pipeline: a request asks for room before its body is read and gives the room back
//! when it is answered, so memory is bounded however slow the disk is; and it waits while too much is applied
//! and not yet sealed, so that apply never has to. It does not own what is in a
//! request ([`Draft`]) nor when it is proposed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    budget::{Budget, Room},
    gauge::{Gauge, Stay},
    message::{ToBatch, Write, Written},
    room::check_log,
    stage::Inbox,
    unsealed::Unsealed,
};
use crate::{
    error::{Code, Error, Result},
    raft::Consensus,
    state::batch::Draft,
    wal::Wal,
};

/// What a request costs beside its bytes: its task, its channels, its place in tables.
const REQUEST_OVERHEAD_BYTES: usize = 512;

/// The entrance of the pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ingest(Arc<Admission>);

#[derive(Debug)]
struct Admission {
    budget: Arc<Budget>,
    stopping: AtomicBool,
    wal: Wal,
    consensus: Consensus,
    batch: Inbox<ToBatch>,
    gauge: Arc<Gauge>,
    unsealed: Unsealed,
}

/// Room in the pipeline for one request; given back when it is answered or given up.
#[derive(Debug)]
pub struct Permit {
    room: Room,
    admission: Arc<Admission>,
    stay: Stay,
}

impl Ingest {
    /// An entrance with a budget of `bytes_max`.
    #[must_use]
    pub fn new(
        bytes_max: usize,
        wal: Wal,
        consensus: Consensus,
        batch: Inbox<ToBatch>,
        gauge: Arc<Gauge>,
        unsealed: Unsealed,
    ) -> Self {
        let (budget, stopping) = (Budget::new(bytes_max), AtomicBool::new(false));
        Self(Arc::new(Admission { budget, stopping, wal, consensus, batch, gauge, unsealed }))
    }

    /// Asks for room before a body is read. `bytes` is what is known of its size, 0 if nothing is.
    ///
    /// # Errors
    /// [`Code::Overloaded`], [`Code::DiskFull`] or [`Code::Unavailable`], each with a
    /// delay after which to retry; nothing was written.
    pub fn permit(&self, bytes: usize) -> Result<Permit> {
        self.0.check_open()?;
        let bytes = bytes.saturating_add(REQUEST_OVERHEAD_BYTES);
        let room = self.0.budget.room(bytes)?;
        Ok(Permit { room, admission: self.0.clone(), stay: self.0.gauge.enter(1, bytes as u64) })
    }

    /// Refuses every request from here on; those admitted go on.
    pub fn close(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }
}

impl Admission {
    fn check_open(&self) -> Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::new(Code::Unavailable, "the node is stopping; nothing was written")
                .retry_after(Duration::from_secs(1)));
        }
        match check_log(&self.wal) {
            // Its log grows by what others write all the same; where another leads, that one's disk counts.
            Err(why) if why.code() == Code::DiskFull && !self.consensus.is_leader() => Ok(()),
            checked => checked,
        }
    }
}

impl Permit {
    /// Makes sure the permit covers `bytes` in all: called as a body of unknown size is decoded.
    ///
    /// # Errors
    /// [`Code::Overloaded`] when the budget is used up; [`Code::TooLarge`] when it never suffices.
    pub fn cover(&mut self, bytes: usize) -> Result<()> {
        let more = self.room.grow_to(bytes.saturating_add(REQUEST_OVERHEAD_BYTES))?;
        if more > 0 {
            self.stay.grow(0, more as u64);
        }
        Ok(())
    }

    /// Hands the request over and waits until it is on a quorum's disks and applied. Giving up waiting
    /// does not take the request back.
    ///
    /// # Errors
    /// [`Code::PreconditionFailed`], [`Code::IdempotencyMismatch`], [`Code::IdempotencyFull`]; the refusals
    /// of [`Ingest::permit`] while it is provably not in the log; [`Code::OutcomeUnknown`] otherwise.
    pub async fn submit(mut self, draft: Draft) -> Result<Written> {
        if draft.is_empty() {
            return Err(Error::new(Code::Malformed, "the request holds no operations"));
        }
        self.cover(draft.bytes())?;
        self.admission.unsealed.wait_for_room().await?;
        let (reply, answer) = oneshot::channel();
        let write = Write { draft, reply, room: self.room, stay: self.stay };
        if self.admission.batch.send(ToBatch::Write(write)).is_err() {
            return Err(Error::new(Code::Unavailable, "the node is stopping; nothing was written")
                .retry_after(Duration::from_secs(1)));
        }
        let lost = |_| Err(Error::new(Code::OutcomeUnknown, "the node stopped before it could answer"));
        answer.await.unwrap_or_else(lost)
    }
}
