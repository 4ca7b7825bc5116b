//! When requests should be sent in an open loop, whatever the server does.
//!
//! Pure: a schedule is asked what is due, and is not told how it went. Latency counts from the times given
//! here, so that a server that stalls is charged for every request that should have been sent meanwhile.

use std::time::{Duration, Instant};

use crate::workload::random::Random;

/// Sets the stream of arrivals apart from that of keys.
const SALT: u64 = 0x6172_7269_7661_6c73;

/// How the times between requests are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// One every 1/rate seconds.
    Constant,
    /// Independent of each other, as requests of many users are: exponential gaps.
    Poisson,
}

/// An open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Requests a second, of all connections together.
    pub rate: f64,
    pub arrivals: Arrivals,
}

/// What a schedule has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A request should have been sent then.
    At(Instant),
    /// Not before then.
    NotBefore(Instant),
    /// No more will come.
    Over,
}

/// The times at which one of several threads should send.
#[derive(Clone, Debug)]
pub struct Schedule {
    pace: Pace,
    begin: Instant,
    end: Option<Instant>,
    thread: u64,
    threads: u64,
    taken: u64,
    /// Seconds from the beginning to the next request.
    next_secs: f64,
    rng: Random,
}

impl Schedule {
    /// The share of thread `thread` out of `threads`; together they keep the pace.
    pub fn new(
        pace: Pace,
        begin: Instant,
        end: Option<Instant>,
        thread: usize,
        threads: usize,
        seed: u64,
    ) -> Self {
        let mut schedule = Self {
            pace,
            begin,
            end,
            thread: thread as u64,
            threads: threads as u64,
            taken: 0,
            // Of evenly spaced requests each thread's first is one of the first few.
            next_secs: thread as f64 / pace.rate,
            rng: Random::new(seed ^ SALT, thread as u64),
        };
        if pace.arrivals == Arrivals::Poisson {
            schedule.next_secs = 0.0;
            schedule.advance();
        }
        schedule
    }

    /// Goes on to the request after the next.
    pub fn advance(&mut self) {
        let Pace { rate, arrivals } = self.pace;
        self.taken += 1;
        match arrivals {
            // From the count, not by adding: a sum of rounded gaps would drift.
            Arrivals::Constant => {
                self.next_secs = (self.taken * self.threads + self.thread) as f64 / rate;
            }
            Arrivals::Poisson => {
                self.next_secs -= (1.0 - self.rng.unit()).ln() * self.threads as f64 / rate;
            }
        }
    }

    /// When the next request should be sent.
    fn peek(&self) -> Option<Instant> {
        let next = self.begin.checked_add(Duration::try_from_secs_f64(self.next_secs).ok()?)?;
        (self.end.is_none_or(|end| next < end)).then_some(next)
    }

    /// Whether the next request is due; [`Schedule::advance`] then takes it.
    pub fn look(&self, now: Instant) -> Due {
        match self.peek() {
            None => Due::Over,
            Some(next) if next > now => Due::NotBefore(next),
            Some(next) => Due::At(next),
        }
    }

    /// Takes the next request if it is due.
    pub fn take(&mut self, now: Instant) -> Due {
        let due = self.look(now);
        if matches!(due, Due::At(_)) {
            self.advance();
        }
        due
    }

    /// How many requests were due before the end, or before `now`, and have not been taken.
    pub fn missed(mut self, now: Instant) -> u64 {
        let mut missed = 0;
        while let Due::At(_) = self.take(now) {
            missed += 1;
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(pace: Pace, threads: usize, length: Duration) -> Vec<f64> {
        let begin = Instant::now();
        let mut times = Vec::new();
        for thread in 0..threads {
            let mut schedule = Schedule::new(pace, begin, Some(begin + length), thread, threads, 1);
            while let Due::At(at) = schedule.take(begin + 10 * length) {
                times.push((at - begin).as_secs_f64());
            }
        }
        times.sort_by(f64::total_cmp);
        times
    }

    #[test]
    fn a_constant_pace_is_even_however_many_threads_keep_it() {
        let pace = Pace { rate: 30_000.0, arrivals: Arrivals::Constant };
        for threads in [1, 3] {
            let times = times(pace, threads, Duration::from_secs(2));
            assert_eq!(times.len(), 60_000);
            for (n, time) in times.iter().enumerate() {
                assert!((time - n as f64 / 30_000.0).abs() < 1e-6, "request {n} at {time}");
            }
        }
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary() {
        let pace = Pace { rate: 10_000.0, arrivals: Arrivals::Poisson };
        let times = times(pace, 2, Duration::from_secs(10));
        // The count's deviation is 316; the gaps' deviation equals their mean.
        assert!((98_000..102_000).contains(&times.len()), "{}", times.len());
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.95..1.05).contains(&(variance.sqrt() / mean)), "{} of {mean}", variance.sqrt());
    }

    #[test]
    fn nothing_is_given_before_its_time_and_nothing_is_forgotten() {
        let begin = Instant::now();
        let pace = Pace { rate: 10.0, arrivals: Arrivals::Constant };
        let end = begin + Duration::from_secs(1);
        let mut schedule = Schedule::new(pace, begin, Some(end), 0, 1, 1);
        assert_eq!(schedule.take(begin), Due::At(begin));
        let second = begin + Duration::from_millis(100);
        assert_eq!(schedule.take(begin), Due::NotBefore(second));
        // A stall: all that should have been sent is due at once, each at its own time.
        assert_eq!(schedule.take(begin + Duration::from_secs(5)), Due::At(second));
        assert_eq!(schedule.clone().missed(begin + Duration::from_millis(350)), 2);
        assert_eq!(schedule.clone().missed(end), 8);
        for _ in 0..8 {
            assert!(matches!(schedule.take(end), Due::At(_)));
        }
        assert_eq!(schedule.take(end), Due::Over);
    }
}
