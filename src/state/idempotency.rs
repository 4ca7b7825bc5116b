//! First answers by idempotency key: replicated, bounded in number, expired by entry time.
//!
//! Takes hashes and answers, gives the first answer again. It knows no clock: time is the entry's.
//!
//! An answer at rest, little-endian; those that a segment was the first to give follow each other in it:
//!
//! ```text
//! 0       8          24             40     41        49     57
//! time    key hash   content hash   kind   seq       count
//! u64     [16]       [16]           u8     u64       u64
//! ```
//!
//! kind 1: written, from seq, this many. kind 2: the condition did not hold, seq was the newest. kind 3: the same,
//! and there was no version.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::outcome::Answer;
use crate::{
    error::{Code, Error, Result},
    state::{batch::IdempotencyGroup, settings::Settings},
    types::{Seq, TimestampMs},
};

type KeyHash = [u8; 16];

#[derive(Clone, Copy, Debug)]
struct Remembered {
    content_hash: [u8; 16],
    answer: Answer,
}

/// What the table knows about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Not seen within the window: apply it, then [`Table::remember`].
    New,
    /// Seen with the same content.
    Seen(Answer),
    /// Seen with other content.
    Mismatch,
    /// Not seen, and no room to remember it.
    Full,
}

/// The table, with its expiry order.
#[derive(Debug, Default)]
pub struct Table {
    answers: HashMap<KeyHash, Remembered>,
    by_age: VecDeque<(TimestampMs, KeyHash)>,
}

impl Table {
    /// Forgets what is older than the window. Never early: an answer given at `t` is kept through
    /// `t + window`.
    pub fn expire(&mut self, now: TimestampMs, settings: &Settings) {
        while let Some((time, key)) = self.by_age.front()
            && time.saturating_add(settings.idempotency_window_ms) < now
        {
            self.answers.remove(key);
            self.by_age.pop_front();
        }
    }

    /// Whether a request was seen.
    pub fn look_up(&self, group: &IdempotencyGroup, settings: &Settings) -> Lookup {
        match self.answers.get(&group.key_hash) {
            Some(seen) if seen.content_hash == group.content_hash => Lookup::Seen(seen.answer),
            Some(_) => Lookup::Mismatch,
            None if self.answers.len() as u64 >= settings.idempotency_keys_max => Lookup::Full,
            None => Lookup::New,
        }
    }

    /// Keeps the answer to a request that [`Table::look_up`] called new, and adds it to `stored`.
    pub fn remember(
        &mut self,
        group: &IdempotencyGroup,
        answer: Answer,
        now: TimestampMs,
        stored: &mut Vec<u8>,
    ) {
        let remembered = Remembered { content_hash: group.content_hash, answer };
        store(now, &group.key_hash, &remembered, stored);
        self.insert(now, group.key_hash, remembered);
    }

    fn insert(&mut self, time: TimestampMs, key_hash: KeyHash, remembered: Remembered) {
        if self.answers.insert(key_hash, remembered).is_some() {
            // Only where the window has grown since: the older answer had expired before this one was given.
            self.by_age.retain(|(_, other)| *other != key_hash);
        }
        self.by_age.push_back((time, key_hash));
    }

    /// Takes in what a segment has stored, oldest segment first.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when these are not stored answers.
    pub fn restore(&mut self, stored: &[u8], settings: &Settings) -> Result<()> {
        let (rows, rest) = stored.as_chunks::<STORED_BYTES>();
        let answers = rows.iter().map(load).collect::<Option<Vec<_>>>().filter(|_| rest.is_empty());
        let answers = answers
            .ok_or_else(|| Error::new(Code::Corrupt, "a segment's idempotency answers cannot be read"))?;
        for (time, key_hash, remembered) in answers {
            self.expire(time, settings);
            self.insert(time, key_hash, remembered);
        }
        Ok(())
    }

    /// How many answers it holds.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Feeds everything it holds to `hasher`, oldest first.
    pub fn digest(&self, hasher: &mut blake3::Hasher) {
        for (time, key) in &self.by_age {
            hasher.update(&time.to_le_bytes()).update(key);
            if let Some(seen) = self.answers.get(key) {
                hasher.update(&seen.content_hash).update(format!("{:?}", seen.answer).as_bytes());
            }
        }
    }
}

/// Size of a stored answer.
const STORED_BYTES: usize = 57;

fn store(time: TimestampMs, key_hash: &KeyHash, remembered: &Remembered, out: &mut Vec<u8>) {
    let (kind, seq, count) = match remembered.answer {
        Answer::Written { first_seq, count } => (1, first_seq.0, count),
        Answer::PreconditionFailed { newest: Some(seq) } => (2, seq.0, 0),
        Answer::PreconditionFailed { newest: None } => (3, 0, 0),
    };
    out.extend_from_slice(&time.to_le_bytes());
    out.extend_from_slice(key_hash);
    out.extend_from_slice(&remembered.content_hash);
    out.push(kind);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
}

fn load(row: &[u8; STORED_BYTES]) -> Option<(TimestampMs, KeyHash, Remembered)> {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| row[at + n]));
    let hash = |at: usize| std::array::from_fn(|n| row[at + n]);
    let answer = match row[40] {
        1 => Answer::Written { first_seq: Seq(word(41)), count: word(49) },
        2 => Answer::PreconditionFailed { newest: Some(Seq(word(41))) },
        3 => Answer::PreconditionFailed { newest: None },
        _ => return None,
    };
    Some((word(0), hash(8), Remembered { content_hash: hash(24), answer }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stored_answers_come_back(rows in prop::collection::vec((any::<[u8; 15]>(), any::<[u8; 16]>(), 0u8..3, any::<u64>()), 0..20)) {
            let (mut table, mut stored) = (Table::default(), Vec::new());
            for (time, (part, content_hash, kind, seq)) in (0..).zip(rows) {
                // Keys are used once.
                let key_hash = std::array::from_fn(|n| part.get(n).copied().unwrap_or(time as u8));
                let answer = match kind {
                    0 => Answer::Written { first_seq: Seq(seq), count: seq ^ 1 },
                    1 => Answer::PreconditionFailed { newest: Some(Seq(seq)) },
                    _ => Answer::PreconditionFailed { newest: None },
                };
                let group = IdempotencyGroup { first_op: 0, op_count: 1, key_hash, content_hash };
                table.remember(&group, answer, time, &mut stored);
            }
            let mut restored = Table::default();
            restored.restore(&stored, &Settings::BUILT_IN).unwrap();
            let digest = |table: &Table| { let mut hasher = blake3::Hasher::new(); table.digest(&mut hasher); hasher.finalize() };
            prop_assert_eq!(digest(&restored), digest(&table));
            prop_assert!(stored.is_empty() || Table::default().restore(&stored[1..], &Settings::BUILT_IN).is_err());
        }
    }

    #[test]
    fn answers_live_exactly_as_long_as_the_window_and_never_push_each_other_out() {
        let settings = Settings {
            feature_level: 1,
            segment_bytes: 1,
            idempotency_window_ms: 100,
            idempotency_keys_max: 2,
        };
        let group =
            |n: u8| IdempotencyGroup { first_op: 0, op_count: 1, key_hash: [n; 16], content_hash: [n; 16] };
        let answer = Answer::Written { first_seq: Seq(1), count: 1 };
        let mut table = Table::default();
        table.remember(&group(1), answer, 1_000, &mut Vec::new());
        table.remember(&group(2), answer, 1_050, &mut Vec::new());
        assert_eq!(table.look_up(&group(3), &settings), Lookup::Full);
        table.expire(1_100, &settings);
        assert_eq!(
            table.look_up(&group(1), &settings),
            Lookup::Seen(answer),
            "kept through the whole window"
        );
        let other_content = IdempotencyGroup { content_hash: [9; 16], ..group(1) };
        assert_eq!(table.look_up(&other_content, &settings), Lookup::Mismatch);
        table.expire(1_101, &settings);
        assert_eq!(table.look_up(&group(1), &settings), Lookup::New);
        assert_eq!(table.len(), 1);
    }
}
