//! How many keys there are that are not deleted.
//!
//! Nobody keeps that number: a write would have to look up whether its key is there, which costs more than
//! writing it. So keys are counted, at once where there are few, else in the background at most a twentieth of
//! the time, from the start on, and the last count is given meanwhile: none before the first. It owns its thread while
//! it counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::{
    error::Result,
    runtime::{Priority, give_way_to_others},
    state::State,
    types::Seq,
};

/// A ledger of at most this many records is counted by whoever asks, within milliseconds.
const COUNTED_AT_ONCE: u64 = 50_000;

/// After a count, the next one begins at the earliest after so many times what it took.
const REST: u32 = 19;

/// When to count again after keys could not be read.
const RETRY: Duration = Duration::from_secs(60);

/// The counter. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveKeys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Arc<State>,
    counting: AtomicBool,
    schedule: Mutex<Schedule>,
}

#[derive(Debug, Default)]
struct Schedule {
    /// The last count, and its position.
    counted: Option<(u64, Seq)>,
    /// When the next may begin.
    next: Option<Instant>,
}

impl LiveKeys {
    /// Counts the keys of `state`; begins at once where it takes time.
    #[must_use]
    pub fn of(state: Arc<State>) -> Self {
        let (counting, schedule) = Default::default();
        let keys = Self(Arc::new(Inner { state, counting, schedule }));
        keys.count_if_many();
        keys
    }

    /// The number of keys that are not deleted: of now in a small ledger, of some time ago in a large one, and none
    /// before that has been counted for the first time.
    #[must_use]
    pub fn get(&self) -> Option<u64> {
        if !self.count_if_many() {
            self.0.count();
        }
        self.0.schedule.lock().counted.map(|(keys, _)| keys)
    }

    /// Begins a count in the background if one is due. Whether there are that many.
    fn count_if_many(&self) -> bool {
        let position = self.0.state.applied();
        if position.0 <= COUNTED_AT_ONCE {
            return false;
        }
        let is_due = {
            let schedule = self.0.schedule.lock();
            schedule.counted.is_none_or(|(_, counted)| counted != position)
                && schedule.next.is_none_or(|next| Instant::now() >= next)
        };
        if is_due && !self.0.counting.swap(true, Ordering::AcqRel) {
            let inner = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("count-keys".into()).spawn(move || {
                give_way_to_others(Priority::Lowest);
                inner.count();
                inner.counting.store(false, Ordering::Release);
            });
            if thread.is_err() {
                self.0.counting.store(false, Ordering::Release);
            }
        }
        true
    }
}

impl Inner {
    fn count(&self) {
        let began = Instant::now();
        match count(&self.state) {
            Ok(counted) => {
                let rest: Duration = began.elapsed() * REST;
                *self.schedule.lock() =
                    Schedule { counted: Some(counted), next: Some(Instant::now() + rest) };
            }
            Err(error) => {
                tracing::warn!(%error, "keys could not be counted");
                // The next count may find it repaired.
                let _ = self.state.sealed().mend(&error);
                self.schedule.lock().next = Some(Instant::now() + RETRY);
            }
        }
    }
}

/// Counts the keys that are live now, and says as of which position that is.
pub(super) fn count(state: &State) -> Result<(u64, Seq)> {
    let position = state.applied();
    let (mut keys, mut after) = (0, None);
    loop {
        let (live, next) = state.count_live(after.as_deref(), position)?;
        keys += live;
        match next {
            None => return Ok((keys, position)),
            next => after = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        index::IndexOptions,
        sealed::{Sealed, SealedOptions},
        sim::SimIo,
        state::{
            StateOptions,
            batch::{Batch, BatchView, Draft},
        },
    };

    /// The state of a ledger that has just started, with this many keys.
    fn started(keys: u64) -> Arc<State> {
        let index = IndexOptions { cache_bytes: 0, hash_seed: 1 };
        let options =
            SealedOptions { block_cache_bytes: 0, hot_cache_bytes: 0, index, cold: Default::default() };
        let sealed = Sealed::open(Arc::new(SimIo::new(1)), Path::new("/data"), options).unwrap();
        let state = State::open(Arc::new(sealed), StateOptions::default()).unwrap();
        let (mut batch, mut draft) = (Batch::default(), Draft::new());
        (0..keys).for_each(|key| draft.put(&key.to_be_bytes(), b"").unwrap());
        batch.append(draft);
        state.apply(&BatchView::open(batch.encode(1).unwrap()).unwrap()).unwrap();
        Arc::new(state)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a thread is waited for")]
    fn keys_are_none_until_they_are_counted() {
        assert_eq!(LiveKeys::of(started(3)).get(), Some(3), "a few are counted by whoever asks");
        let keys = LiveKeys::of(started(COUNTED_AT_ONCE + 1));
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        // Nobody has to ask for the first count to begin.
        while keys.0.schedule.lock().counted.is_none() {
            assert!(std::time::Instant::now() < deadline, "they are counted");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(keys.get(), Some(COUNTED_AT_ONCE + 1));
        // While somebody else counts for the first time.
        let (state, counting) = (started(COUNTED_AT_ONCE + 1), AtomicBool::new(true));
        let uncounted = LiveKeys(Arc::new(Inner { state, counting, schedule: Mutex::default() }));
        assert_eq!(uncounted.get(), None, "never a number that nobody has counted");
    }
}
