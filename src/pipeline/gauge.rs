//! What a stage holds, for how long, and how long things take to pass it: so that slowness shows and
//! has a name.

use std::{sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Longest stay a histogram tells apart, in microseconds; longer ones count as this.
const LATENCY_US_MAX: u64 = 600_000_000;

/// One stage's contents.
#[derive(Debug)]
pub struct Gauge {
    name: &'static str,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    depth: u64,
    bytes: u64,
    since: Vec<Option<Instant>>,
    free: Vec<usize>,
    passed: u64,
    latency_us: Histogram<u64>,
}

/// A stage's contents at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Which stage.
    pub name: &'static str,
    /// Items in it.
    pub depth: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long the oldest has been there.
    pub oldest: Duration,
    /// Items that have left it, since the start.
    pub passed: u64,
}

impl Gauge {
    /// An empty stage.
    ///
    /// # Panics
    /// Never: the histogram's bounds are constants that it accepts.
    #[must_use]
    pub fn new(name: &'static str) -> Arc<Self> {
        let latency_us = Histogram::new_with_max(LATENCY_US_MAX, 3).expect("constant bounds are valid");
        let inner = Inner { depth: 0, bytes: 0, since: Vec::new(), free: Vec::new(), passed: 0, latency_us };
        Arc::new(Self { name, inner: Mutex::new(inner) })
    }

    /// The stage's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Something of `items` and `bytes` enters; it leaves when the stay is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, items: u64, bytes: u64) -> Stay {
        let since = Instant::now();
        let mut inner = self.inner.lock();
        inner.depth += items;
        inner.bytes += bytes;
        let place = match inner.free.pop() {
            Some(place) => {
                inner.since[place] = Some(since);
                place
            }
            None => {
                inner.since.push(Some(since));
                inner.since.len() - 1
            }
        };
        Stay { gauge: self.clone(), place, items, bytes }
    }

    /// The contents now.
    #[must_use]
    pub fn read(&self) -> Reading {
        let inner = self.inner.lock();
        let oldest = inner.since.iter().flatten().min().map_or(Duration::ZERO, Instant::elapsed);
        Reading { name: self.name, depth: inner.depth, bytes: inner.bytes, oldest, passed: inner.passed }
    }

    /// Microseconds that stays took, since the start.
    #[must_use]
    pub fn stays_us(&self) -> Histogram<u64> {
        self.inner.lock().latency_us.clone()
    }
}

/// Something in a stage.
#[derive(Debug)]
pub struct Stay {
    gauge: Arc<Gauge>,
    place: usize,
    items: u64,
    bytes: u64,
}

impl Stay {
    /// More joins it.
    pub fn grow(&mut self, items: u64, bytes: u64) {
        self.items += items;
        self.bytes += bytes;
        let mut inner = self.gauge.inner.lock();
        inner.depth += items;
        inner.bytes += bytes;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut inner = self.gauge.inner.lock();
        inner.depth -= self.items;
        inner.bytes -= self.bytes;
        inner.passed += self.items;
        inner.free.push(self.place);
        if let Some(since) = inner.since[self.place].take() {
            let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(LATENCY_US_MAX);
            inner.latency_us.saturating_record(micros);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_the_one_that_still_stays() {
        let gauge = Gauge::new("batch");
        let first = gauge.enter(1, 10);
        tokio::time::advance(Duration::from_millis(5)).await;
        let mut second = gauge.enter(2, 20);
        second.grow(1, 5);
        let now = gauge.read();
        assert_eq!((now.depth, now.bytes, now.oldest), (4, 35, Duration::from_millis(5)));
        drop(first);
        assert_eq!(gauge.read().oldest, Duration::ZERO);
        drop(second);
        let (now, stays) = (gauge.read(), gauge.stays_us());
        assert_eq!((now.depth, now.bytes, now.passed, stays.len()), (0, 0, 4, 2));
        assert_eq!(stays.max(), 5_003, "5 ms within the histogram's three digits");
    }
}
