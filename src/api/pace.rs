//! How slowly a client may send or take: so many bytes in every window of `limits.read_timeout`.
//!
//! Takes the time and how much has moved so far, says whether that is enough. It does not wait or end
//! anything. Windows, not an average: a fast start must not pay for an hour of dripping.

use std::time::Duration;

use tokio::time::Instant;

/// Slowest rate, in every window.
pub(super) const BYTES_PER_SEC_MIN: u64 = 1 << 10;

/// Whoever has sent much, and so holds much of the pipeline's memory, has to go on faster: by at least this
/// part of it in every window. 128 MiB held for the sake of 1 KiB a second would be held for a day.
const SHARE_PER_WINDOW: u64 = 256;

/// The least that has to move in one window, after `moved` bytes.
pub(super) fn least(window: Duration, moved: u64) -> u64 {
    let by_rate =
        u64::try_from(window.as_millis()).unwrap_or(u64::MAX).saturating_mul(BYTES_PER_SEC_MIN) / 1_000;
    by_rate.max(moved / SHARE_PER_WINDOW)
}

/// The windows of one transfer, from when it was first waited for.
#[derive(Debug)]
pub(super) struct Pace {
    window: Duration,
    /// When the present window ends, and what had moved when it began.
    present: Option<(Instant, u64)>,
}

impl Pace {
    pub fn new(window: Duration) -> Self {
        Self { window, present: None }
    }

    /// When to look again, or `None` when too little has moved in the window that has just ended.
    pub fn look(&mut self, now: Instant, moved: u64) -> Option<Instant> {
        match self.present {
            Some((ends, _)) if now < ends => return Some(ends),
            Some((_, before)) if moved - before < least(self.window, moved) => return None,
            _ => {}
        }
        let ends = now + self.window;
        self.present = Some((ends, moved));
        Some(ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);
    const LEAST: u64 = 30 << 10;

    /// Moves `per_second` after a first `burst`; the second in which it is found too slow.
    fn ends_after(burst: u64, per_second: u64) -> Option<u64> {
        let start = Instant::now();
        let mut pace = Pace::new(WINDOW);
        (0..3_600).find(|second| {
            pace.look(start + Duration::from_secs(*second), burst + second * per_second).is_none()
        })
    }

    #[test]
    fn every_window_has_to_be_earned() {
        assert_eq!(ends_after(0, 0), Some(30));
        assert_eq!(ends_after(0, 1 << 10), None, "1 KiB a second is enough");
        assert_eq!(ends_after(0, (1 << 10) - 1), Some(30));
        assert_eq!(ends_after(LEAST, 1), Some(30), "what came before the window counts for nothing");
        assert_eq!(ends_after(60 << 20, 2 << 10), Some(30), "much memory is not held for a trickle");
        assert_eq!(ends_after(60 << 20, 64 << 10), None, "a slow uplink may finish 64 MiB");
    }

    #[test]
    fn short_windows_ask_for_less() {
        assert_eq!(least(Duration::from_millis(400), 0), 409);
        assert_eq!(least(WINDOW, 0), LEAST);
        assert_eq!(least(Duration::MAX, 0), u64::MAX / 1_000);
    }
}
