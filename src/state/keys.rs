//! All keys in byte order, for scans; sorted when somebody scans, not when somebody writes.
//!
//! A write notes the position of each key it sees for the first time. A scan sorts what was noted since
//! the last one into a run and merges runs of similar size, so that a key is moved O(log n) times in
//! all, and only if there are scans at all. Runs hold positions; the keys themselves stay in their
//! entries.

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

/// Positions of first versions, in the order of their keys.
pub type Run = Arc<[u64]>;

#[derive(Debug, Default)]
struct Inner {
    unsorted: Vec<u64>,
    runs: Vec<Run>,
}

/// The key order. One scan at a time brings it up to date; writers only append.
#[derive(Debug, Default)]
pub struct KeyOrder {
    inner: Mutex<Inner>,
    sorting: Mutex<()>,
}

impl KeyOrder {
    /// Notes keys that were written for the first time, by the positions of those versions.
    pub fn note(&self, first_versions: &[u64]) {
        if !first_versions.is_empty() {
            self.inner.lock().unsorted.extend_from_slice(first_versions);
        }
    }

    /// The runs that together hold every noted key once. `key` gives the key at a position.
    pub fn runs(&self, key: impl Fn(u64) -> Bytes) -> Vec<Run> {
        let _one_at_a_time = self.sorting.lock();
        // A copy: a sort that panics takes nothing with it.
        let (unsorted, mut runs) = {
            let inner = self.inner.lock();
            (inner.unsorted.clone(), inner.runs.clone())
        };
        if !unsorted.is_empty() {
            let mut keyed: Vec<(Bytes, u64)> = unsorted.iter().map(|&seq| (key(seq), seq)).collect();
            keyed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            runs.push(keyed.into_iter().map(|(_, seq)| seq).collect());
        }
        while let [.., older, newer] = &runs[..]
            && older.len() < 2 * newer.len()
        {
            let merged = merge(older, newer, &key);
            runs.truncate(runs.len() - 2);
            runs.push(merged);
        }
        let mut inner = self.inner.lock();
        inner.unsorted.drain(..unsorted.len());
        inner.runs.clone_from(&runs);
        runs
    }
}

fn merge(a: &[u64], b: &[u64], key: &impl Fn(u64) -> Bytes) -> Run {
    let mut out = Vec::with_capacity(a.len() + b.len());
    let mut rest =
        (a.iter().map(|&seq| (key(seq), seq)).peekable(), b.iter().map(|&seq| (key(seq), seq)).peekable());
    loop {
        let from_a = match (rest.0.peek(), rest.1.peek()) {
            (Some(x), Some(y)) => x.0.cmp(&y.0) == Ordering::Less,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return out.into(),
        };
        out.extend(if from_a { rest.0.next() } else { rest.1.next() }.map(|(_, seq)| seq));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_hold_every_key_once_in_order(waves in prop::collection::vec(prop::collection::btree_set(0u32..5000, 0..60), 1..12)) {
            let order = KeyOrder::default();
            let mut keys: Vec<Bytes> = Vec::new();
            let mut seen = BTreeSet::new();
            for wave in waves {
                let fresh: Vec<u64> = wave.into_iter().filter(|k| seen.insert(*k)).map(|k| {
                    keys.push(Bytes::from(k.to_string()));
                    keys.len() as u64 - 1
                }).collect();
                order.note(&fresh);
                let runs = order.runs(|seq| keys[seq as usize].clone());
                prop_assert_eq!(runs.iter().map(|r| r.len()).sum::<usize>(), keys.len());
                for run in &runs {
                    prop_assert!(run.windows(2).all(|w| keys[w[0] as usize] < keys[w[1] as usize]));
                }
                prop_assert!(runs.windows(2).all(|w| w[0].len() >= 2 * w[1].len()));
            }
        }
    }
}
