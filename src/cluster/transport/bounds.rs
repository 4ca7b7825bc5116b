//! How long, how much and how many: what bounds a connection between members.
//!
//! Times and sizes that depend on the machine are a node's own [`Bounds`]; those that both ends have to agree on
//! are functions of the lane.

use std::time::Duration;

use crate::env::Lane;

/// What a node allows its connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Longest wait for a connection to be established; calls wait that long, too, for the first try.
    pub connect_max: Duration,
    /// Longest time from a connection's first byte to proof of who is there.
    pub handshake_max: Duration,
    /// A connection on which nothing has come for this long is given up. Pings go a quarter as far apart.
    pub silence_max: Duration,
    /// Pause after the first attempt that failed. It doubles with each further one.
    pub backoff_min: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
    /// Bytes that wait to be written to one connection; above it, calls fail with `WouldBlock`. One request always
    /// fits. An answering node stops reading a connection that has as many bytes in requests under way, or in replies
    /// that are not taken.
    pub queued_bytes_max: usize,
    /// Connections that have not proven who they are; when one more comes, the oldest is closed.
    pub strangers_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connect_max: Duration::from_secs(1),
            handshake_max: Duration::from_secs(3),
            // What a leader that others hear and that hears nobody leads on for, with nothing committed.
            silence_max: Duration::from_secs(4),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            queued_bytes_max: 64 << 20,
            strangers_max: 64,
        }
    }
}

/// Longest payload of a frame. An entry may have 128 MiB, and twice that leaves room for what is around it.
pub(super) const fn payload_bytes_max(lane: Lane) -> usize {
    match lane {
        Lane::Append | Lane::Propose | Lane::Fetch => 256 << 20,
        Lane::Urgent | Lane::Control => 1 << 20,
    }
}

/// Requests of one connection that are being handled at a time; the next ones are not read.
pub(super) const fn running_max(lane: Lane) -> usize {
    match lane {
        Lane::Urgent | Lane::Append | Lane::Control => 1_024,
        Lane::Propose | Lane::Fetch => 64,
    }
}

/// Pause after the `failures`th attempt in a row has failed: doubling, and between half of that and all of it, so
/// that members which lost the same peer do not come back as one.
pub(super) fn backoff(bounds: &Bounds, failures: u32, random: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let longest = bounds.backoff_min.saturating_mul(1 << doublings).min(bounds.backoff_max);
    let half = longest / 2;
    half + half.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        let bounds = Bounds::default();
        for (failures, longest_ms) in [(1, 50), (2, 100), (3, 200), (5, 800), (6, 1_000), (u32::MAX, 1_000)] {
            let (least, most) = (backoff(&bounds, failures, 0), backoff(&bounds, failures, u64::MAX));
            assert_eq!(least, Duration::from_millis(longest_ms) / 2);
            assert!(most > least && most <= Duration::from_millis(longest_ms), "{most:?}");
        }
    }
}
