//! How many keys there are that are not deleted.
//!
//! Nobody keeps that number: a write would have to look up whether its key is there, which costs more than
//! writing it. So keys are counted, at once where there are few, else in the background at most a twentieth of
//! the time, and the last count is given meanwhile. It owns its thread while it counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::{error::Result, runtime::give_way_to_others, state::State, types::Seq};

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
    /// The last count.
    keys: AtomicU64,
    counting: AtomicBool,
    schedule: Mutex<Schedule>,
}

#[derive(Debug, Default)]
struct Schedule {
    /// The position of the last count.
    position: Seq,
    /// When the next may begin.
    next: Option<Instant>,
}

impl LiveKeys {
    /// Counts the keys of `state`.
    #[must_use]
    pub fn of(state: Arc<State>) -> Self {
        let (keys, counting, schedule) = Default::default();
        Self(Arc::new(Inner { state, keys, counting, schedule }))
    }

    /// The number of keys that are not deleted: of now in a small ledger, of some time ago in a large one.
    #[must_use]
    pub fn get(&self) -> u64 {
        let position = self.0.state.applied();
        let is_due = {
            let schedule = self.0.schedule.lock();
            schedule.position != position && schedule.next.is_none_or(|next| Instant::now() >= next)
        };
        if position.0 <= COUNTED_AT_ONCE {
            self.0.count();
        } else if is_due && !self.0.counting.swap(true, Ordering::AcqRel) {
            let inner = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("count-keys".into()).spawn(move || {
                give_way_to_others();
                inner.count();
                inner.counting.store(false, Ordering::Release);
            });
            if thread.is_err() {
                self.0.counting.store(false, Ordering::Release);
            }
        }
        self.0.keys.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn count(&self) {
        let began = Instant::now();
        match count(&self.state) {
            Ok((keys, position)) => {
                self.keys.store(keys, Ordering::Relaxed);
                let rest: Duration = began.elapsed() * REST;
                *self.schedule.lock() = Schedule { position, next: Some(Instant::now() + rest) };
            }
            Err(error) => {
                tracing::warn!(%error, "keys could not be counted");
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
