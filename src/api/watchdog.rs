//! When a client is too slow: a few flags, and a count of how often they were seen.
//!
//! Takes signs that the connection's halves leave, gives a verdict. It does not wait or close anything.
//!
//! hyper could time heads itself, with a timer set and cleared for each request. On a path of 75,000
//! requests a second we count ticks instead: one timer a connection that looks at flags four times in
//! `read_timeout`, so that a limit of 30 s may take up to 37.5 s to strike.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::pace::least;

/// Looks at a connection in one `read_timeout`.
pub(super) const TICKS: u32 = 4;
/// `read_timeout`s without any request after which a connection is closed.
pub(super) const IDLE_TIMEOUTS: u32 = 20;

/// What the two halves of a connection tell its watchdog.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// Requests whose answers are being made, and answers that wait for more to say.
    answering: AtomicUsize,
    /// Answers that have more to say and have not been handed over: the client has yet to take them.
    sending: AtomicUsize,
    /// Of all answers, those without an end of their own: their clients go on elsewhere.
    endless: AtomicUsize,
    /// The last answer was such a one: what the socket has not taken is not waited for.
    was_endless: AtomicBool,
    /// The node stops: no answer is to wait any more.
    stopping: AtomicBool,
    stops: Notify,
    /// Bytes have come since the last request began.
    pub head_begun: AtomicBool,
    /// The socket takes no more bytes.
    pub write_blocked: AtomicBool,
    /// Bytes that the socket has taken.
    pub written_bytes: AtomicU64,
    /// A request began since the last tick.
    active: AtomicBool,
}

impl Signs {
    /// From here on answers that wait for more to say end instead, and those without an end behind what they are
    /// saying.
    pub fn stop(&self) {
        self.stopping.store(true, Release);
        self.stops.notify_waiters();
    }

    /// Whether [`Signs::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Acquire)
    }

    /// Whether nothing is under way but answers without an end: nothing is lost with the connection.
    pub fn only_streams(&self) -> bool {
        let all = self.answering.load(Relaxed) + self.sending.load(Relaxed);
        all == self.endless.load(Relaxed) && (all > 0 || self.was_endless.load(Relaxed))
    }

    /// Whether nothing is under way and nothing of another request has come.
    pub fn is_idle(&self) -> bool {
        let busy = self.answering.load(Relaxed) + self.sending.load(Relaxed);
        busy == 0 && !self.head_begun.load(Relaxed) && !self.write_blocked.load(Relaxed)
    }

    /// Waits for [`Signs::stop`].
    pub async fn stopped(&self) {
        // Made before the look: a stop in between is not missed.
        let stops = self.stops.notified();
        if !self.stopping.load(Acquire) {
            stops.await;
        }
    }
}

/// Why a connection is ended from our side.
pub(super) enum Verdict {
    KeepGoing,
    SlowHead,
    SlowReader,
    Idle,
}

/// Counts ticks; a plain function of what it sees.
#[derive(Debug)]
pub(super) struct Watchdog {
    timeout: Duration,
    head_ticks: u32,
    idle_ticks: u32,
    /// Ticks of the present window in which the client had something to take, and what was written before it.
    taking: Option<(u32, u64)>,
}

impl Watchdog {
    /// One for windows of `read_timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, head_ticks: 0, idle_ticks: 0, taking: None }
    }

    /// Looks once; called [`TICKS`] times in a `read_timeout`.
    pub fn tick(&mut self, signs: &Signs) -> Verdict {
        let count = |ticks: &mut u32, holds: bool| {
            *ticks = if holds { *ticks + 1 } else { 0 };
            *ticks
        };
        let sending = signs.sending.load(Relaxed) > 0;
        let busy = sending || signs.answering.load(Relaxed) > 0;
        let active = signs.active.swap(false, Relaxed);
        // The tick after a head began may come at once, hence one more than a full timeout's worth.
        if count(&mut self.head_ticks, signs.head_begun.load(Relaxed) && !busy && !active) > TICKS {
            return Verdict::SlowHead;
        }
        if sending || signs.write_blocked.load(Relaxed) {
            if !self.keeps_up(signs.written_bytes.load(Relaxed)) {
                return Verdict::SlowReader;
            }
        } else {
            self.taking = None;
        }
        if count(&mut self.idle_ticks, !busy && !active) > TICKS * IDLE_TIMEOUTS {
            return Verdict::Idle;
        }
        Verdict::KeepGoing
    }

    /// Whether a client that has something to take takes enough of it in every window.
    fn keeps_up(&mut self, written: u64) -> bool {
        match &mut self.taking {
            Some((ticks, _)) if *ticks + 1 < TICKS => *ticks += 1,
            Some((_, before)) if written.wrapping_sub(*before) < least(self.timeout, 0) => return false,
            taking => *taking = Some((0, written)),
        }
        true
    }
}

/// A request being answered, until its answer is made; counts itself out on drop.
pub(super) struct Answering(Arc<Signs>);

impl Answering {
    pub fn begin(signs: &Arc<Signs>) -> Self {
        signs.answering.fetch_add(1, Relaxed);
        signs.head_begun.store(false, Relaxed);
        signs.active.store(true, Relaxed);
        signs.was_endless.store(false, Relaxed);
        Self(Arc::clone(signs))
    }

    /// From here on the client has to take the answer, which may have no end.
    pub fn sending(&self, endless: bool) -> Sending {
        self.0.sending.fetch_add(1, Relaxed);
        self.0.endless.fetch_add(usize::from(endless), Relaxed);
        Sending { signs: Arc::clone(&self.0), waits: false, endless }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // A body that was being read may have set it: the next head has not begun.
        self.0.head_begun.store(false, Relaxed);
        self.0.answering.fetch_sub(1, Relaxed);
    }
}

/// An answer on its way; counts itself out on drop.
#[derive(Debug)]
pub(super) struct Sending {
    signs: Arc<Signs>,
    waits: bool,
    endless: bool,
}

impl Sending {
    /// Says whether it waits for more to say. It is not the client's fault then that nothing moves.
    pub fn waits(&mut self, waits: bool) {
        if self.waits != waits {
            let Signs { sending, answering, .. } = &*self.signs;
            let (from, to) = if waits { (sending, answering) } else { (answering, sending) };
            // Never in neither: a connection with a waiting answer is not idle.
            to.fetch_add(1, Relaxed);
            from.fetch_sub(1, Relaxed);
            self.waits = waits;
        }
    }

    /// Whether the answer has no end of its own.
    pub fn is_endless(&self) -> bool {
        self.endless
    }

    /// The signs, for whoever waits.
    pub fn signs(&self) -> &Arc<Signs> {
        &self.signs
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.waits(false);
        self.signs.sending.fetch_sub(1, Relaxed);
        self.signs.endless.fetch_sub(usize::from(self.endless), Relaxed);
        self.signs.was_endless.store(self.endless, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_knows_slow_from_idle_from_busy() {
        let signs = Arc::new(Signs::default());
        let mut watchdog = Watchdog::new(Duration::from_secs(30));
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

    /// One byte taken now and then used to be enough, and a download of ten minutes was taken for an idle
    /// connection.
    #[test]
    fn a_reader_has_to_keep_up_and_may_then_take_its_time() {
        for (bytes_per_tick, verdict_after) in [(0, Some(TICKS + 1)), (1, Some(TICKS + 1)), (8 << 10, None)] {
            let signs = Arc::new(Signs::default());
            let mut watchdog = Watchdog::new(Duration::from_secs(30));
            let answer = Answering::begin(&signs).sending(false);
            let ended = (1..1_000).find(|tick| {
                signs.write_blocked.store(tick % 2 == 0, Relaxed);
                signs.written_bytes.fetch_add(bytes_per_tick, Relaxed);
                matches!(watchdog.tick(&signs), Verdict::SlowReader | Verdict::Idle)
            });
            assert_eq!(ended, verdict_after, "{bytes_per_tick}");
            drop(answer);
            signs.write_blocked.store(false, Relaxed);
            assert!(matches!(watchdog.tick(&signs), Verdict::KeepGoing), "nothing is left to take");
        }
    }

    /// A watch without news was taken for a client that takes nothing; and, once that was mended, for an idle one.
    #[test]
    fn an_answer_that_waits_for_more_to_say_is_nobodys_fault() {
        let signs = Arc::new(Signs::default());
        let mut watchdog = Watchdog::new(Duration::from_secs(30));
        let mut answer = Answering::begin(&signs).sending(true);
        answer.waits(true);
        for _ in 0..1_000 {
            assert!(matches!(watchdog.tick(&signs), Verdict::KeepGoing));
        }
        answer.waits(false);
        let ended = (1..1_000).find(|_| matches!(watchdog.tick(&signs), Verdict::SlowReader));
        assert_eq!(ended, Some(TICKS + 1), "with something to take it is judged as any other");
        answer.waits(true);
        drop(answer);
        assert_eq!((signs.sending.load(Relaxed), signs.answering.load(Relaxed)), (0, 0));
    }

    #[test]
    fn a_connection_that_only_streams_is_known() {
        let signs = Arc::new(Signs::default());
        assert!(!signs.only_streams(), "it has done nothing");
        let stream = |endless| Answering::begin(&signs).sending(endless);
        let mut first = stream(true);
        assert!(signs.only_streams());
        first.waits(true);
        assert!(signs.only_streams());
        let download = stream(false);
        assert!(!signs.only_streams());
        drop(download);
        assert!(signs.only_streams());
        let request = Answering::begin(&signs);
        assert!(!signs.only_streams());
        drop(request);
        drop(first);
        assert!(signs.only_streams(), "its end may still be in the socket");
        drop(stream(false));
        assert!(!signs.only_streams(), "what was asked for has to arrive");
    }
}
