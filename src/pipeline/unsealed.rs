//! The bound on what is applied and not yet in segments: writers wait above it.
//!
//! Apply must never wait, since consensus would stall with it; so those who bring new writes do.

use std::{sync::Arc, time::Duration};

use crate::{
    error::{Code, Error, Result},
    raft::Boundaries,
    state::State,
};

/// How long a writer waits for room.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Segments that the bound leaves room for, whatever is configured: one fills while others are written.
const SEGMENTS_MIN: u64 = 4;

/// The bound. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Unsealed {
    state: Arc<State>,
    /// Changes with every segment that is sealed.
    sealed: Boundaries,
    bytes_max: u64,
}

impl Unsealed {
    /// At most about `bytes_max` of `state` that are not sealed.
    #[must_use]
    pub fn new(state: Arc<State>, sealed: Boundaries, bytes_max: u64) -> Self {
        Self { state, sealed, bytes_max }
    }

    fn is_full(&self) -> bool {
        let bytes = self.state.unsealed_bytes();
        // The cluster's segments may be larger than this node's configuration thinks.
        bytes > self.bytes_max
            && self
                .state
                .settings()
                .is_none_or(|settings| bytes > settings.segment_bytes.saturating_mul(SEGMENTS_MIN))
    }

    /// Waits until there is room.
    ///
    /// # Errors
    /// [`Code::Overloaded`] when there is none for seconds: the disk takes segments more slowly than clients send
    /// records. Nothing was written.
    pub async fn wait_for_room(&self) -> Result<()> {
        if !self.is_full() {
            return Ok(());
        }
        let mut sealed = self.sealed.clone();
        let room = async {
            loop {
                sealed.mark_unchanged();
                if !self.is_full() || sealed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(WAIT_MAX, room).await.map_err(|_| {
            let message = format!(
                "{} bytes of records wait for their segments to be written (storage.unsealed_bytes_max); nothing was \
                 written",
                self.state.unsealed_bytes()
            );
            Error::new(Code::Overloaded, message).retry_after(Duration::from_secs(1))
        })
    }
}
