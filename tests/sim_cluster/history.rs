//! What clients asked and were told, and whether one register a key could have answered so.
//!
//! ```text
//! begin ├──── put a ────┤ end                       each call takes effect at one moment between its
//!            ├─ read: a ─┤                          begin and its end; one whose outcome is unknown
//!                 ├──── put b ────── … unknown      takes effect at any moment after its begin, or never
//! ```
//!
//! The search is that of Wing and Gong with Lowe's memory of configurations ("Testing for linearizability", 2017), a
//! key at a time, because registers compose. It knows nothing of logs or positions.

use std::collections::{BTreeMap, BTreeSet};

/// A value that one write of a history wrote; all differ. 0 is no value.
pub type Value = u64;

/// What a client asked of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// What is it?
    Read,
    /// Be this.
    Write(Value),
    /// Be `new`, if there is nothing.
    WriteIfAbsent(Value),
    /// Be `new`, if it is `old`.
    Replace { old: Value, new: Value },
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A read's answer.
    Is(Value),
    /// It is done.
    Done,
    /// The condition did not hold.
    Refused,
    /// It may happen at any time, or never.
    Unknown,
}

/// A call, between two moments of the history.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub key: u64,
    pub call: Call,
    pub told: Told,
    /// Moments are numbered; no two calls share one.
    pub begin: u64,
    pub end: u64,
}

impl Op {
    /// The value after it took effect on `now`; none where that contradicts what the client was told.
    fn effect(&self, now: Value) -> Option<Value> {
        let (holds, new) = match self.call {
            Call::Read => return (self.told == Told::Is(now)).then_some(now),
            Call::Write(new) => (true, new),
            Call::WriteIfAbsent(new) => (now == 0, new),
            Call::Replace { old, new } => (now == old, new),
        };
        match self.told {
            Told::Refused => (!holds).then_some(now),
            _ => holds.then_some(new),
        }
    }
}

/// Most calls of one key that can be checked.
pub const OPS_OF_KEY_MAX: usize = 128;

/// Whether all calls have an order that explains what was told; else the key for which there is none, with its calls.
pub fn check(history: &[Op]) -> Result<(), String> {
    let mut keys: BTreeMap<u64, Vec<Op>> = BTreeMap::new();
    for op in history {
        // A read that was not answered says nothing.
        if (op.call, op.told) != (Call::Read, Told::Unknown) {
            keys.entry(op.key).or_default().push(*op);
        }
    }
    for (key, mut ops) in keys {
        assert!(ops.len() <= OPS_OF_KEY_MAX, "key {key} has too many calls to check: {}", ops.len());
        ops.sort_by_key(|op| op.begin);
        if !is_linearizable(&ops) {
            let ops: Vec<String> = ops
                .iter()
                .map(|op| format!("{:>5} to {:>5} {:?} {:?}", op.begin, op.end, op.call, op.told))
                .collect();
            return Err(format!("key {key} is not linearizable:\n{}", ops.join("\n")));
        }
    }
    Ok(())
}

fn is_linearizable(ops: &[Op]) -> bool {
    let must = ops
        .iter()
        .enumerate()
        .filter(|(_, op)| op.told != Told::Unknown)
        .fold(0u128, |mask, (n, _)| mask | 1 << n);
    let (mut open, mut known) = (vec![(0u128, 0)], BTreeSet::new());
    while let Some((done, now)) = open.pop() {
        if done & must == must {
            return true;
        }
        if !known.insert((done, now)) {
            continue;
        }
        // Whatever has ended before another begins comes before it.
        let is_open = |n: usize| done & (1 << n) == 0;
        let first_end = ops.iter().enumerate().filter(|(n, op)| is_open(*n) && op.told != Told::Unknown);
        let first_end = first_end.map(|(_, op)| op.end).min().unwrap_or(u64::MAX);
        for (n, op) in ops.iter().enumerate().filter(|(n, op)| is_open(*n) && op.begin < first_end) {
            if let Some(next) = op.effect(now) {
                open.push((done | 1 << n, next));
            }
        }
    }
    false
}

mod tests {
    use super::*;

    /// Calls in the notation `begin end call`.
    fn history(calls: &[(u64, u64, Call, Told)]) -> Vec<Op> {
        calls.iter().map(|&(begin, end, call, told)| Op { key: 1, call, told, begin, end }).collect()
    }

    use Call::{Read, Replace, Write, WriteIfAbsent};
    use Told::{Done, Is, Refused, Unknown};

    #[test]
    fn histories_of_a_register_pass() {
        let fine: &[&[(u64, u64, Call, Told)]] = &[
            &[],
            &[(1, 2, Read, Is(0)), (3, 4, Write(1), Done), (5, 6, Read, Is(1))],
            // Both orders of what overlaps.
            &[(1, 4, Write(1), Done), (2, 3, Read, Is(0)), (5, 6, Read, Is(1))],
            &[(1, 4, Write(1), Done), (2, 3, Read, Is(1))],
            &[(1, 6, Write(1), Done), (2, 5, Write(2), Done), (7, 8, Read, Is(1))],
            // An unknown outcome: never, late, and later than a read that did not see it.
            &[(1, 2, Write(1), Unknown), (3, 4, Read, Is(0))],
            &[(1, 2, Write(1), Unknown), (3, 4, Read, Is(0)), (5, 6, Read, Is(1))],
            &[(1, 2, Write(1), Unknown), (3, 4, Write(2), Done), (5, 6, Read, Is(1))],
            &[(1, 2, WriteIfAbsent(1), Done), (3, 4, WriteIfAbsent(2), Refused), (5, 6, Read, Is(1))],
            &[(1, 2, Write(1), Done), (3, 4, Replace { old: 1, new: 2 }, Done), (5, 6, Read, Is(2))],
            &[
                (1, 2, Write(1), Done),
                (3, 4, Replace { old: 1, new: 2 }, Unknown),
                (5, 6, Replace { old: 1, new: 3 }, Refused),
            ],
        ];
        for calls in fine {
            assert_eq!(check(&history(calls)), Ok(()), "{calls:?}");
        }
    }

    #[test]
    fn other_histories_do_not() {
        let wrong: &[&[(u64, u64, Call, Told)]] = &[
            // Lost, stale, from nowhere, back in time.
            &[(1, 2, Write(1), Done), (3, 4, Read, Is(0))],
            &[(1, 2, Write(1), Done), (3, 4, Write(2), Done), (5, 6, Read, Is(1))],
            &[(1, 2, Read, Is(9))],
            &[(1, 8, Write(1), Done), (2, 3, Read, Is(1)), (4, 5, Read, Is(0))],
            &[(1, 2, Write(1), Unknown), (3, 4, Read, Is(1)), (5, 6, Read, Is(0))],
            // Applied twice.
            &[
                (1, 2, Write(1), Unknown),
                (3, 4, Read, Is(1)),
                (5, 6, Write(2), Done),
                (7, 8, Read, Is(2)),
                (9, 10, Read, Is(1)),
            ],
            &[(1, 2, WriteIfAbsent(1), Done), (3, 4, WriteIfAbsent(2), Done)],
            &[(1, 2, WriteIfAbsent(1), Refused)],
            &[
                (1, 2, Write(1), Done),
                (3, 8, Replace { old: 1, new: 2 }, Done),
                (4, 9, Replace { old: 1, new: 3 }, Done),
            ],
            &[(1, 2, Write(1), Done), (3, 4, Replace { old: 1, new: 2 }, Refused)],
            // Before it began.
            &[(1, 2, Read, Is(1)), (3, 4, Write(1), Unknown)],
        ];
        for calls in wrong {
            assert!(check(&history(calls)).is_err(), "{calls:?}");
        }
    }

    #[test]
    fn keys_are_judged_alone() {
        let op = |key, begin, call, told| Op { key, call, told, begin, end: begin + 1 };
        let ops = [op(1, 1, Write(1), Done), op(2, 3, Read, Is(0)), op(1, 5, Read, Is(1))];
        assert_eq!(check(&ops), Ok(()));
    }
}
