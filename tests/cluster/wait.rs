//! Waiting for something to become true, with a deadline.

use std::{thread, time::Duration};

use tokio::time::Instant;

/// Far more than anything here takes on an idle machine: others may be using this one.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What `look` finds, as soon as it finds anything.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "not within {PATIENCE:?}: {what}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// Until `holds`.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}
