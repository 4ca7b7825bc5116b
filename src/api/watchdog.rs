//! When a client is too slow: a few flags, and a count of how often they were seen.
//!
//! Takes signs that the connection's halves leave, gives a verdict. It does not wait or close anything.
//!
//! hyper could time heads itself, with a timer set and cleared for each request. On a path of 75,000
//! requests a second we count ticks instead: one timer a connection that looks at flags four times in
//! `read_timeout`, so that a limit of 30 s may take up to 37.5 s to strike.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// Looks at a connection in one `read_timeout`.
pub(super) const TICKS: u32 = 4;
/// `read_timeout`s without any request after which a connection is closed.
pub(super) const IDLE_TIMEOUTS: u32 = 20;

/// What the two halves of a connection tell its watchdog.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// Requests being answered.
    pub answering: AtomicUsize,
    /// Bytes have come since the last request began.
    pub head_begun: AtomicBool,
    /// The socket takes no more bytes.
    pub write_blocked: AtomicBool,
    /// A request began since the last tick.
    pub active: AtomicBool,
}

/// Why a connection is ended from our side.
pub(super) enum Verdict {
    KeepGoing,
    SlowHead,
    SlowReader,
    Idle,
}

/// Counts ticks; a plain function of what it sees.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    head_ticks: u32,
    blocked_ticks: u32,
    idle_ticks: u32,
}

impl Watchdog {
    /// Looks once; called [`TICKS`] times in a `read_timeout`.
    pub fn tick(&mut self, signs: &Signs) -> Verdict {
        let count = |ticks: &mut u32, holds: bool| {
            *ticks = if holds { *ticks + 1 } else { 0 };
            *ticks
        };
        let answering = signs.answering.load(Relaxed) > 0;
        let active = signs.active.swap(false, Relaxed);
        // The tick after a head began may come at once, hence one more than a full timeout's worth.
        if count(&mut self.head_ticks, signs.head_begun.load(Relaxed) && !answering && !active) > TICKS {
            return Verdict::SlowHead;
        }
        // Set again on every refused write and cleared on every accepted one: still set after a timeout
        // means that not one byte was taken.
        if count(&mut self.blocked_ticks, signs.write_blocked.load(Relaxed)) > TICKS {
            return Verdict::SlowReader;
        }
        if count(&mut self.idle_ticks, !answering && !active) > TICKS * IDLE_TIMEOUTS {
            return Verdict::Idle;
        }
        Verdict::KeepGoing
    }
}

/// A request being answered; counts itself out on drop.
pub(super) struct Answering<'a>(&'a Signs);

impl<'a> Answering<'a> {
    pub fn begin(signs: &'a Signs) -> Self {
        signs.answering.fetch_add(1, Relaxed);
        signs.head_begun.store(false, Relaxed);
        signs.active.store(true, Relaxed);
        Self(signs)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        // A body that was being read may have set it: the next head has not begun.
        self.0.head_begun.store(false, Relaxed);
        self.0.answering.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_knows_slow_from_idle_from_busy() {
        let signs = Signs::default();
        let mut watchdog = Watchdog::default();
        let mut ticks_until = |want: fn(&Verdict) -> bool| (1..1_000).find(|_| want(&watchdog.tick(&signs)));
        signs.head_begun.store(true, Relaxed);
        assert_eq!(ticks_until(|verdict| matches!(verdict, Verdict::SlowHead)), Some(TICKS + 1));
        let request = Answering::begin(&signs);
        signs.head_begun.store(true, Relaxed);
        assert_eq!(
            ticks_until(|verdict| !matches!(verdict, Verdict::KeepGoing)),
            None,
            "a body is not a head"
        );
        drop(request);
        assert_eq!(
            ticks_until(|verdict| !matches!(verdict, Verdict::KeepGoing)),
            Some(TICKS * IDLE_TIMEOUTS + 1),
            "an idle connection is kept for long"
        );
    }
}
