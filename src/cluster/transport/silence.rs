//! Notices that a peer says nothing any more, not even that it is there.

use std::{io, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Looks that fit into the longest silence; the other end pings as often.
const LOOKS: u32 = 4;

/// How often a connection without traffic pings.
pub(super) fn ping_every(silence_max: Duration) -> Duration {
    (silence_max / LOOKS).max(Duration::from_millis(1))
}

/// Counts the looks at which nothing new had come.
pub(super) struct Silence {
    ticks: Interval,
    seen: u64,
    looks: u32,
    silence_max: Duration,
}

impl Silence {
    /// Begins now.
    pub fn new(silence_max: Duration) -> Self {
        let every = ping_every(silence_max);
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, seen: 0, looks: 0, silence_max }
    }

    /// Waits for the next time to look.
    pub async fn next_look(&mut self) {
        self.ticks.tick().await;
    }

    /// Looks, given how many bytes have come so far, or `None` while nobody reads them.
    ///
    /// # Errors
    /// `TimedOut` when nothing has come for too long.
    pub fn look(&mut self, bytes_read: Option<u64>) -> io::Result<()> {
        match bytes_read {
            Some(bytes) if bytes == self.seen => self.looks += 1,
            other => (self.seen, self.looks) = (other.unwrap_or(self.seen), 0),
        }
        if self.looks < LOOKS {
            return Ok(());
        }
        let why = format!("nothing was heard for {:?}", self.silence_max);
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_silence_that_lasts_counts() {
        let mut silence = Silence::new(Duration::from_secs(8));
        for looks in [Some(1), Some(1), None, Some(1), Some(1), Some(2), Some(2), Some(2), Some(2)] {
            silence.look(looks).unwrap();
        }
        let error = silence.look(Some(2)).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("8s")), (io::ErrorKind::TimedOut, true));
    }
}
