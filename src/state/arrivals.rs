//! Tells those who wait for new records that there are some.
//!
//! Whoever applies pays a fence and a load while nobody waits. Whoever waits is woken for every entry, and looks
//! for himself what has come: nothing is handed over here.

use std::sync::atomic::{AtomicUsize, Ordering, fence};

use tokio::sync::Notify;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    waiting: AtomicUsize,
    told: Notify,
}

impl Arrivals {
    /// Records have been published.
    pub(super) fn tell(&self) {
        // The record, then the look at who waits; those who wait count themselves, then look for the record. One of
        // the two sees the other.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.told.notify_waiters();
        }
    }

    /// Waits until `there` holds, which only what is published can bring about.
    pub(super) async fn until(&self, there: impl Fn() -> bool) {
        if there() {
            return;
        }
        let _counted = Counted::in_(&self.waiting);
        loop {
            let told = self.told.notified();
            fence(Ordering::SeqCst);
            if there() {
                return;
            }
            told.await;
        }
    }
}

/// One that waits, for as long as it does.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn in_(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    };

    use super::*;

    /// Threads that wait for every number, while another counts as fast as it can: a lost wake-up hangs here.
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn nobody_sleeps_through_an_arrival() {
        const ARRIVALS: u64 = 20_000;
        let shared = Arc::new((Arrivals::default(), AtomicU64::new(0)));
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let (arrivals, arrived) = &*shared;
                    let mut seen = 0;
                    while seen < ARRIVALS {
                        arrivals.until(|| arrived.load(SeqCst) > seen).await;
                        seen = arrived.load(SeqCst);
                    }
                })
            })
            .collect();
        for n in 1..=ARRIVALS {
            shared.1.store(n, SeqCst);
            shared.0.tell();
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for waiter in waiters {
            tokio::time::timeout(std::time::Duration::from_secs(60), waiter).await.unwrap().unwrap();
        }
        assert_eq!(shared.0.waiting.load(SeqCst), 0);
    }
}
