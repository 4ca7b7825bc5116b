//! The time that entries get: the wall clock, as long as it makes sense.
//!
//! Takes the wall clock, the monotonic one and the ledger's last time; gives each entry its time. It does
//! not own what time is for: idempotency answers expire by it, and it never goes back (`state`).
//!
//! A wall clock is set by people and daemons, sometimes wrongly. If an entry carried such a moment, every
//! idempotency answer would expire at once, a retry would be applied twice, and after the correction
//! nothing could be written until real time had caught up. So within one run time goes on at the speed of
//! the monotonic clock and follows the wall clock only within a bound; beyond it, it is led there slowly,
//! at double or half speed, as NTP slews rather than steps (RFC 5905, section 11.3).

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    env::Clock,
    error::{Code, Error},
    types::TimestampMs,
};

/// One run's source of entry times.
#[derive(Debug)]
pub struct EntryClock {
    wall: Arc<dyn Clock>,
    skew_ms_max: u64,
    last: Mutex<Option<Stamp>>,
}

#[derive(Clone, Copy, Debug)]
struct Stamp {
    at: Instant,
    /// Microseconds, so that thousands of stamps a millisecond add up.
    time_us: u64,
    follows_wall: bool,
}

/// The next time in microseconds, and whether it is the wall clock's.
fn next(last_us: u64, elapsed: Duration, wall_us: u64, skew_us: u64) -> (u64, bool) {
    let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let expected = last_us.saturating_add(elapsed_us);
    if wall_us.abs_diff(expected) <= skew_us {
        (wall_us.max(last_us), true)
    } else if wall_us > expected {
        (last_us.saturating_add(elapsed_us.saturating_mul(2)).min(wall_us), false)
    } else {
        (last_us.saturating_add(elapsed_us / 2), false)
    }
}

impl EntryClock {
    /// Follows `wall` within `skew_ms_max`.
    pub fn new(wall: Arc<dyn Clock>, skew_ms_max: u64) -> Self {
        Self { wall, skew_ms_max, last: Mutex::new(None) }
    }

    /// The time of an entry that is proposed now, `applied_ms` being the ledger's last.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when the ledger is further ahead than the bound. Its records' times never go
    /// back, so all would get one frozen moment and idempotency keys would be kept for ever.
    pub fn stamp(&self, applied_ms: TimestampMs) -> Result<TimestampMs, Error> {
        let (wall_us, skew_us) = (self.wall.now_ms().saturating_mul(1_000), self.skew_ms_max * 1_000);
        let at = Instant::now();
        let mut last = self.last.lock();
        let (time_us, follows_wall) = match *last {
            None => (wall_us, true),
            Some(last) => next(last.time_us, at.duration_since(last.at), wall_us, skew_us),
        };
        match (last.is_none_or(|last| last.follows_wall), follows_wall) {
            (true, false) => tracing::warn!(
                wall_ms = wall_us / 1_000,
                entry_ms = time_us / 1_000,
                "the clock was set by more than limits.clock_skew_max_ms: entries' times approach it slowly"
            ),
            (false, true) => tracing::info!("entries' times follow the clock again"),
            _ => {}
        }
        *last = Some(Stamp { at, time_us, follows_wall });
        let time_ms = time_us / 1_000;
        if time_ms.saturating_add(self.skew_ms_max) < applied_ms {
            // No entry has this time: once the clock is set right, it is taken at its word.
            *last = None;
            return Err(Error::new(
                Code::Unavailable,
                format!(
                    "this node's clock is {} ms behind the ledger's last record (limits.clock_skew_max_ms is {}): \
                     set the clock; nothing was written",
                    applied_ms - time_ms,
                    self.skew_ms_max
                ),
            )
            .retry_after(Duration::from_secs(5)));
        }
        Ok(time_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sim::SimClock;

    const YEAR_MS: u64 = 365 * 24 * 3_600_000;

    proptest! {
        #[test]
        fn time_never_goes_back_nor_faster_than_double_beyond_the_bound(
            steps in prop::collection::vec((0u64..10_000_000, 0u64..u64::MAX / 2), 1..50), skew in 0u64..10_000_000,
        ) {
            let mut last = steps[0].1;
            for (elapsed_us, wall_us) in steps {
                let (time, follows) = next(last, Duration::from_micros(elapsed_us), wall_us, skew);
                prop_assert!(time >= last);
                prop_assert!(time <= last.saturating_add(2 * elapsed_us).saturating_add(skew));
                prop_assert_eq!(follows, wall_us.abs_diff(last + elapsed_us) <= skew);
                last = time;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_a_year_off_for_an_hour_moves_entries_by_an_hour() {
        let wall = Arc::new(SimClock::new(YEAR_MS));
        let clock = EntryClock::new(wall.clone(), 5_000);
        let mut last = clock.stamp(0).unwrap();
        assert_eq!(last, YEAR_MS);
        let mut run = async |minutes: u64| {
            for _ in 0..minutes {
                tokio::time::advance(Duration::from_secs(60)).await;
                wall.advance(60_000);
                last = clock.stamp(last).expect("within one run time is always to be had");
            }
            last - wall.now_ms().min(last)
        };
        assert_eq!(run(10).await, 0);
        wall.set(wall.now_ms() + YEAR_MS);
        run(60).await;
        wall.set(wall.now_ms() - YEAR_MS);
        assert_eq!(run(1).await, 3_600_000 - 30_000, "one hour ahead, half a minute caught up");
        assert_eq!(run(120).await, 0, "the clock is followed again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_ledger_from_the_future_is_not_written_to() {
        let wall = Arc::new(SimClock::new(100_000));
        let clock = EntryClock::new(wall.clone(), 5_000);
        assert_eq!(clock.stamp(105_000).unwrap(), 100_000);
        let error = clock.stamp(105_001).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().contains("5001 ms behind"), "{error}");
        wall.set(200_000);
        assert_eq!(clock.stamp(105_001).unwrap(), 200_000, "once it is set, writes go on");
    }
}
