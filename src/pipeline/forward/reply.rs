//! What the leader answers to a batch that another member has sent, as bytes.
//!
//! ```text
//! 0 | first_seq u64 | skipped u32 | of each: first_op u32, op_count u32, why      the outcome
//! 1                                                                               not led: in no log
//! 2 | code u8 | retry_ms u64 (max = none) | message                               refused, or unknown
//! 3                                                                               to an empty batch: there is room
//!
//! why     0 newest | 1 first_seq u64 count u64 | 2 newest | 3 | 4
//!         condition, replayed: written, replayed: condition, mismatch, full
//! newest  u64, max = none
//! ```
//!
//! Little-endian.

use std::time::Duration;

use crate::{
    error::{Code, Error, Result},
    state::outcome::{Answer, Outcome, Skipped, Why},
    types::Seq,
};

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is on a quorum's disks and applied.
    Outcome(Outcome),
    /// The member asked does not lead; the batch is not in its log.
    NotLed,
    /// The leader would not have it, or cannot know what became of it: by the code.
    Refused(Error),
    /// The member asked would take batches if it led.
    HasRoom,
}

const OUTCOME: u8 = 0;
const NOT_LED: u8 = 1;
const REFUSED: u8 = 2;
const HAS_ROOM: u8 = 3;

/// "None" for positions and delays.
const NONE: u64 = u64::MAX;

/// The codes that travel, by number. They may be added to, never changed.
const CODES: [Code; 8] = [
    Code::OutcomeUnknown,
    Code::Overloaded,
    Code::DiskFull,
    Code::Unavailable,
    Code::NoQuorum,
    Code::TooLarge,
    Code::Corrupt,
    Code::Internal,
];

impl Reply {
    /// The bytes of it.
    ///
    /// # Errors
    /// [`Code::Internal`] for more than 2^32 skipped operations, which no batch has.
    pub fn encode(&self) -> Result<bytes::Bytes> {
        let mut out = Vec::new();
        match self {
            Self::Outcome(Outcome { first_seq, skipped }) => {
                out.push(OUTCOME);
                out.extend_from_slice(&first_seq.0.to_le_bytes());
                let count = u32::try_from(skipped.len())
                    .map_err(|_| Error::new(Code::Internal, "a batch skipped more operations than it has"))?;
                out.extend_from_slice(&count.to_le_bytes());
                skipped.iter().for_each(|skipped| put_skipped(&mut out, skipped));
            }
            Self::NotLed => out.push(NOT_LED),
            Self::HasRoom => out.push(HAS_ROOM),
            Self::Refused(error) => {
                // A code that does not travel is a fault of the leader's.
                let internal = CODES.len() - 1;
                let code = CODES.iter().position(|code| *code == error.code()).unwrap_or(internal);
                let retry_ms = error.retry_delay().map_or(NONE, |delay| delay.as_millis() as u64);
                out.extend_from_slice(&[REFUSED, code as u8]);
                out.extend_from_slice(&retry_ms.to_le_bytes());
                out.extend_from_slice(error.message().as_bytes());
            }
        }
        Ok(out.into())
    }

    /// Reads what [`Reply::encode`] wrote.
    ///
    /// # Errors
    /// [`Code::Malformed`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        read(&mut rest).filter(|_| rest.is_empty()).ok_or_else(|| {
            Error::new(Code::Malformed, "not an answer to a batch: the leader's version may be another")
        })
    }
}

fn put_skipped(out: &mut Vec<u8>, Skipped { first_op, op_count, why }: &Skipped) {
    out.extend_from_slice(&first_op.to_le_bytes());
    out.extend_from_slice(&op_count.to_le_bytes());
    let newest = |newest: &Option<Seq>| newest.map_or(NONE, |seq| seq.0);
    let (kind, words) = match why {
        Why::PreconditionFailed { newest: seq } => (0, vec![newest(seq)]),
        Why::Replayed(Answer::Written { first_seq, count }) => (1, vec![first_seq.0, *count]),
        Why::Replayed(Answer::PreconditionFailed { newest: seq }) => (2, vec![newest(seq)]),
        Why::IdempotencyMismatch => (3, Vec::new()),
        Why::IdempotencyFull => (4, Vec::new()),
    };
    out.push(kind);
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn word(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn half(rest: &mut &[u8]) -> Option<u32> {
    take(rest).map(u32::from_le_bytes)
}

fn read(rest: &mut &[u8]) -> Option<Reply> {
    let [kind] = take(rest)?;
    match kind {
        OUTCOME => {
            let first_seq = Seq(word(rest)?);
            let count = half(rest)?;
            let skipped = (0..count).map(|_| read_skipped(rest)).collect::<Option<_>>()?;
            Some(Reply::Outcome(Outcome { first_seq, skipped }))
        }
        NOT_LED => Some(Reply::NotLed),
        HAS_ROOM => Some(Reply::HasRoom),
        REFUSED => {
            let [code] = take(rest)?;
            let retry_ms = word(rest)?;
            let message = std::str::from_utf8(std::mem::take(rest)).ok()?;
            let error = Error::new(*CODES.get(usize::from(code))?, message);
            let retry = (retry_ms != NONE).then(|| Duration::from_millis(retry_ms));
            Some(Reply::Refused(retry.into_iter().fold(error, Error::retry_after)))
        }
        _ => None,
    }
}

fn read_skipped(rest: &mut &[u8]) -> Option<Skipped> {
    let (first_op, op_count) = (half(rest)?, half(rest)?);
    let [kind] = take(rest)?;
    let newest = |rest: &mut &[u8]| word(rest).map(|seq| (seq != NONE).then_some(Seq(seq)));
    let why = match kind {
        0 => Why::PreconditionFailed { newest: newest(rest)? },
        1 => Why::Replayed(Answer::Written { first_seq: Seq(word(rest)?), count: word(rest)? }),
        2 => Why::Replayed(Answer::PreconditionFailed { newest: newest(rest)? }),
        3 => Why::IdempotencyMismatch,
        4 => Why::IdempotencyFull,
        _ => return None,
    };
    Some(Skipped { first_op, op_count, why })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_newest() -> impl Strategy<Value = Option<Seq>> {
        prop::option::of((0..u64::MAX).prop_map(Seq))
    }

    fn any_why() -> impl Strategy<Value = Why> {
        prop_oneof![
            any_newest().prop_map(|newest| Why::PreconditionFailed { newest }),
            (any::<u64>(), any::<u64>()).prop_map(|(first, count)| {
                Why::Replayed(Answer::Written { first_seq: Seq(first), count })
            }),
            any_newest().prop_map(|newest| Why::Replayed(Answer::PreconditionFailed { newest })),
            Just(Why::IdempotencyMismatch),
            Just(Why::IdempotencyFull),
        ]
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let skipped = (any::<u32>(), any::<u32>(), any_why()).prop_map(|(first_op, op_count, why)| Skipped {
            first_op,
            op_count,
            why,
        });
        let outcome = (any::<u64>(), prop::collection::vec(skipped, 0..6))
            .prop_map(|(first, skipped)| Reply::Outcome(Outcome { first_seq: Seq(first), skipped }));
        let refused = (0..CODES.len(), prop::option::of(0u64..1 << 40), ".{0,30}").prop_map(
            |(code, retry_ms, message)| {
                let error = Error::new(CODES[code], message);
                let retry = retry_ms.map(Duration::from_millis);
                Reply::Refused(retry.into_iter().fold(error, Error::retry_after))
            },
        );
        prop_oneof![outcome, Just(Reply::NotLed), Just(Reply::HasRoom), refused]
    }

    proptest! {
        #[test]
        fn replies_read_back(reply in any_reply(), cut in 0usize..40) {
            let bytes = reply.encode().unwrap();
            prop_assert_eq!(Reply::decode(&bytes).unwrap(), reply.clone());
            if !matches!(reply, Reply::Refused(_)) {
                let shorter = bytes.len().saturating_sub(1 + cut);
                prop_assert!(Reply::decode(&bytes[..shorter]).is_err());
            }
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Reply::decode(&bytes);
        }
    }
}
