//! Stage 1, ingest: admits a client's write by bytes, or refuses it.

use crate::{error::Result, state::batch::Draft, types::Seq};

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

/// The door of the pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ingest {}

/// Room in the pipeline for one request; given back when dropped or when the request is answered.
#[derive(Debug)]
pub struct Permit {}

impl Ingest {
    /// Asks for room before a body is read. `bytes` is what is known so far, 0 if nothing is.
    ///
    /// # Errors
    /// `Overloaded`, `DiskFull`, `NoQuorum` or `Unavailable`, each with a retry delay; nothing was written.
    pub fn permit(&self, bytes: usize) -> Result<Permit> {
        let _ = bytes;
        todo!()
    }
}

impl Permit {
    /// Makes sure the permit covers `bytes` in all: called as a body of unknown size is decoded.
    ///
    /// # Errors
    /// `Overloaded` when the budget is used up.
    pub fn cover(&mut self, bytes: usize) -> Result<()> {
        let _ = bytes;
        todo!()
    }

    /// Hands the request over and waits until it is on a quorum's disks and applied.
    ///
    /// # Errors
    /// `PreconditionFailed`, `IdempotencyMismatch`, `IdempotencyFull`; the refusals of `permit` while it
    /// is provably not in the log; `OutcomeUnknown` otherwise.
    pub async fn submit(self, draft: Draft) -> Result<Written> {
        let _ = draft;
        todo!()
    }
}
