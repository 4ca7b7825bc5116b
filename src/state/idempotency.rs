//! First answers by idempotency key: replicated, bounded in number, expired by entry time.
//!
//! Takes hashes and answers, gives the first answer again. It knows no clock: time is the entry's.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::outcome::Answer;
use crate::{
    state::{batch::IdempotencyGroup, settings::Settings},
    types::TimestampMs,
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

    /// Keeps the answer to a request that [`Table::look_up`] called new.
    pub fn remember(&mut self, group: &IdempotencyGroup, answer: Answer, now: TimestampMs) {
        self.answers.insert(group.key_hash, Remembered { content_hash: group.content_hash, answer });
        self.by_age.push_back((now, group.key_hash));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;

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
        table.remember(&group(1), answer, 1_000);
        table.remember(&group(2), answer, 1_050);
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
