//! The bound on what is applied and not yet in segments: writers wait above it.
//!
//! Apply must never wait, since consensus would stall with it; so those who bring new writes do, and a leader that
//! brings entries to a member whose disk is slower than the others'.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};

use crate::{
    error::{Code, Error, Result},
    raft::Boundaries,
    state::State,
};

/// How long a writer waits for room.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How long it waits before it looks whether the disk is full: then nobody knows how long that takes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Segments that the bound leaves room for, whatever is configured: one fills while others are written.
const SEGMENTS_MIN: u64 = 4;

/// Whether more than `bytes_max` of `state` are not sealed.
pub(super) fn is_full(state: &State, bytes_max: u64) -> bool {
    let bytes = state.unsealed_bytes();
    // The cluster's segments may be larger than this node's configuration thinks.
    bytes > bytes_max
        && state.settings().is_none_or(|settings| bytes > settings.segment_bytes.saturating_mul(SEGMENTS_MIN))
}

/// The bound. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Unsealed {
    state: Arc<State>,
    /// Changes with every segment that is sealed.
    sealed: Boundaries,
    /// Whether the next one has no room.
    disk_is_full: Arc<AtomicBool>,
    bytes_max: u64,
}

impl Unsealed {
    /// At most about `bytes_max` of `state` that are not sealed.
    #[must_use]
    pub fn new(state: Arc<State>, sealed: Boundaries, disk_is_full: Arc<AtomicBool>, bytes_max: u64) -> Self {
        Self { state, sealed, disk_is_full, bytes_max }
    }

    fn is_full(&self) -> bool {
        is_full(&self.state, self.bytes_max)
    }

    /// Whether there is room, or soon will be.
    ///
    /// # Errors
    /// [`Code::DiskFull`] when the disk takes no more segments; nothing was written.
    pub fn check_disk(&self) -> Result<()> {
        match self.is_full() && self.disk_is_full.load(Ordering::Relaxed) {
            true => Err(self.refusal(Code::DiskFull)),
            false => Ok(()),
        }
    }

    /// Waits until there is room.
    ///
    /// # Errors
    /// [`Code::Overloaded`] when there is none for seconds: the disk takes segments more slowly than clients send
    /// records. [`Code::DiskFull`] when it takes none. Nothing was written.
    pub async fn wait_for_room(&self) -> Result<()> {
        if !self.is_full() {
            return Ok(());
        }
        let mut sealed = self.sealed.clone();
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            sealed.mark_unchanged();
            if !self.is_full() {
                return Ok(());
            }
            match timeout(LOOK_EVERY, sealed.changed()).await {
                Ok(Ok(())) => {}
                // The node stops, and says so to whoever goes on.
                Ok(Err(_)) => return Ok(()),
                Err(_) if self.disk_is_full.load(Ordering::Relaxed) => {
                    return Err(self.refusal(Code::DiskFull));
                }
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(self.refusal(Code::Overloaded));
            }
        }
    }

    fn refusal(&self, code: Code) -> Error {
        let (why, retry_secs) = match code {
            Code::DiskFull => {
                ("; the disk has no room for them: free some space, writes then resume by themselves", 5)
            }
            _ => ("", 1),
        };
        let message = format!(
            "{} bytes of records wait for their segments to be written (storage.unsealed_bytes_max); nothing was \
             written{why}",
            self.state.unsealed_bytes()
        );
        Error::new(code, message).retry_after(Duration::from_secs(retry_secs))
    }
}
