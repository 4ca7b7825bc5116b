//! What applying an entry did: the same on every replica, told to the client by the one that proposed it.

use crate::types::Seq;

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Position of the first record the batch appended.
    pub first_seq: Seq,
    /// Operations that appended nothing, in order. All others got consecutive positions.
    pub skipped: Vec<Skipped>,
}

/// A run of operations that appended nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Number of the first of them in the batch.
    pub first_op: u32,
    /// How many.
    pub op_count: u32,
    /// Why.
    pub why: Why,
}

/// Why operations appended nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The condition did not hold; the key's newest version, if it has one and is not deleted.
    PreconditionFailed {
        /// Position of that version.
        newest: Option<Seq>,
    },
    /// A retry: this request was answered before, like this.
    Replayed(Answer),
    /// The idempotency key was used before, with other content.
    IdempotencyMismatch,
    /// No room for another idempotency key until older ones expire.
    IdempotencyFull,
}

/// The first answer to a request with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It appended this many records from this position.
    Written {
        /// Position of the first.
        first_seq: Seq,
        /// How many.
        count: u64,
    },
    /// Its condition did not hold.
    PreconditionFailed {
        /// Position of the version that was there.
        newest: Option<Seq>,
    },
}

/// What one request of a batch is told.
pub type RequestOutcome = Result<Answer, Why>;

impl Outcome {
    /// What each request of the batch is told, and whether that is an old answer given again. Requests
    /// are runs of operations, `(first_op, op_count)`, in batch order.
    pub fn of_requests<'a>(
        &'a self,
        requests: impl Iterator<Item = (u32, u32)> + 'a,
    ) -> impl Iterator<Item = (RequestOutcome, bool)> + 'a {
        let mut skipped = self.skipped.iter().peekable();
        let mut skipped_before = 0;
        requests.map(move |(first_op, op_count)| {
            while let Some(behind) = skipped.next_if(|s| s.first_op + s.op_count <= first_op) {
                skipped_before += u64::from(behind.op_count);
            }
            match skipped.peek().filter(|s| s.first_op < first_op + op_count).map(|s| s.why) {
                Some(Why::Replayed(answer)) => (Ok(answer), true),
                Some(why) => (Err(why), false),
                None => {
                    let first_seq = self.first_seq.plus(u64::from(first_op) - skipped_before);
                    (Ok(Answer::Written { first_seq, count: u64::from(op_count) }), false)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_operations_shift_those_behind_them() {
        let failed = Why::PreconditionFailed { newest: Some(Seq(7)) };
        let replay = Answer::Written { first_seq: Seq(3), count: 2 };
        let outcome = Outcome {
            first_seq: Seq(100),
            skipped: vec![
                Skipped { first_op: 1, op_count: 1, why: failed },
                Skipped { first_op: 4, op_count: 2, why: Why::Replayed(replay) },
            ],
        };
        let written = |first, count| (Ok(Answer::Written { first_seq: Seq(first), count }), false);
        let requests = [(0, 1), (1, 1), (2, 2), (4, 2), (6, 3)];
        assert_eq!(
            outcome.of_requests(requests.into_iter()).collect::<Vec<_>>(),
            [written(100, 1), (Err(failed), false), written(101, 2), (Ok(replay), true), written(103, 3)]
        );
    }
}
