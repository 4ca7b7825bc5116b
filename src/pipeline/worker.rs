//! Stages behind the answer: what they do is heavy and nobody waits for it, so each runs apart from the tasks
//! that serve clients.
//!
//! A stage is a [`Worker`]: one bounded piece of work at a time. Waiting, stopping and panics are solved here,
//! once: on a thread of its own in a node, on a task in a simulation, where the same seed must give the same
//! order.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, watch};

use crate::{
    error::{Error, Result},
    wal::Driver,
};

/// A stage's own work.
pub trait Worker: Send + 'static {
    /// Its name in logs and metrics.
    const NAME: &'static str;

    /// How long it lets work gather once it has been woken.
    const LINGER: Duration;

    /// Whether it finishes what there is before it stops.
    const FINISHES: bool;

    /// Does the next piece of work, if there is one.
    ///
    /// # Errors
    /// What it cannot go on after: the node stops.
    fn work(&mut self) -> Result<Next>;
}

/// When a worker is to work again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: there may be more.
    Now,
    /// When it is rung for.
    Rung,
    /// After this time, rung for or not.
    In(Duration),
}

/// Wakes a stage. Cheap to clone; waking one that is awake costs one load.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rung: AtomicBool,
    closed: AtomicBool,
    sleeping: Mutex<()>,
    wake: Condvar,
    notify: Notify,
}

impl Bell {
    /// There is something to do.
    pub fn ring(&self) {
        if !self.0.rung.load(Ordering::Relaxed) && !self.0.rung.swap(true, Ordering::AcqRel) {
            drop(self.0.sleeping.lock());
            self.0.wake.notify_one();
            self.0.notify.notify_one();
        }
    }

    fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        drop(self.0.sleeping.lock());
        self.0.wake.notify_one();
        self.0.notify.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    fn take(&self) -> bool {
        self.0.rung.swap(false, Ordering::AcqRel)
    }

    /// Sleeps until it rings, at most for `time_max`; then lets work gather.
    fn sleep(&self, time_max: Option<Duration>, linger: Duration) {
        let mut sleeping = self.0.sleeping.lock();
        while !self.0.rung.load(Ordering::Acquire) && !self.is_closed() {
            match time_max {
                None => self.0.wake.wait(&mut sleeping),
                Some(time_max) => {
                    if self.0.wake.wait_for(&mut sleeping, time_max).timed_out() {
                        return;
                    }
                }
            }
        }
        if !linger.is_zero() && !self.is_closed() {
            // Rung as it is, nobody wakes it before its time.
            self.0.wake.wait_for(&mut sleeping, linger);
        }
    }
}

/// Has the damage repaired that a stage has met; whether the stage is to try again.
pub type Mend = Arc<dyn Fn(&Error) -> bool + Send + Sync>;

/// How soon a stage tries again that has met damage.
const MEND_RETRY: Duration = Duration::from_secs(1);

/// A stage that does not end at damage which can be repaired.
struct Mended<W> {
    worker: W,
    mend: Mend,
}

/// A worker that runs.
#[derive(Debug)]
pub struct Running {
    bell: Bell,
    ended: watch::Receiver<Option<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

/// Runs a worker until it is stopped, fails or panics.
///
/// # Panics
/// When the system has no thread left.
pub fn spawn<W: Worker>(worker: W, bell: Bell, driver: Driver, mend: Mend) -> Running {
    let worker = Mended { worker, mend };
    let (end, ended) = watch::channel(None);
    let rung = bell.clone();
    let thread = if driver == Driver::Thread {
        let run = move || {
            let why = run_thread(worker, &rung);
            drop(end.send(Some(why)));
        };
        Some(
            std::thread::Builder::new()
                .name(W::NAME.into())
                .spawn(run)
                .expect("the system has a thread left"),
        )
    } else {
        tokio::spawn(async move {
            let why = run_task(worker, &rung).await;
            drop(end.send(Some(why)));
        });
        None
    };
    Running { bell, ended, thread }
}

fn run_thread<W: Worker>(mut worker: Mended<W>, bell: &Bell) -> Option<String> {
    let mut time_max = None;
    while !bell.is_closed() {
        bell.sleep(time_max, W::LINGER);
        bell.take();
        while !bell.is_closed() {
            time_max = match piece(&mut worker) {
                Ok(Next::Now) => continue,
                Ok(Next::Rung) => None,
                Ok(Next::In(time)) => Some(time),
                Err(why) => return Some(why),
            };
            break;
        }
    }
    finish(worker)
}

async fn run_task<W: Worker>(mut worker: Mended<W>, bell: &Bell) -> Option<String> {
    let mut time_max = None;
    while !bell.is_closed() {
        if !bell.0.rung.load(Ordering::Acquire) {
            let rung = bell.0.notify.notified();
            match time_max {
                None => rung.await,
                Some(time_max) => drop(tokio::time::timeout(time_max, rung).await),
            }
        }
        tokio::time::sleep(W::LINGER).await;
        bell.take();
        while !bell.is_closed() {
            time_max = match piece(&mut worker) {
                Ok(Next::Now) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(Next::Rung) => None,
                Ok(Next::In(time)) => Some(time),
                Err(why) => return Some(why),
            };
            break;
        }
    }
    finish(worker)
}

/// What is left when it has been stopped.
fn finish<W: Worker>(mut worker: Mended<W>) -> Option<String> {
    if !W::FINISHES {
        return None;
    }
    loop {
        match piece(&mut worker) {
            Ok(Next::Now) => {}
            Ok(_) => return None,
            Err(why) => return Some(why),
        }
    }
}

fn piece<W: Worker>(worker: &mut Mended<W>) -> std::result::Result<Next, String> {
    match std::panic::catch_unwind(AssertUnwindSafe(|| worker.worker.work())) {
        Ok(Ok(next)) => Ok(next),
        Ok(Err(error)) if (worker.mend)(&error) => {
            tracing::warn!(%error, stage = W::NAME, "a stage has met damage: it waits for the repair");
            Ok(Next::In(MEND_RETRY))
        }
        Ok(Err(error)) => Err(format!("stage {}: {error}", W::NAME)),
        Err(panic) => {
            let what = panic.downcast_ref::<&str>().copied().map(String::from);
            let what = what.or(panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(format!("stage {} panicked: {what}", W::NAME))
        }
    }
}

impl Running {
    /// Waits until it has stopped and says why, if there is a why.
    pub async fn stopped(&self) -> Option<String> {
        let mut ended = self.ended.clone();
        let ended = ended.wait_for(Option::is_some).await;
        ended.ok().and_then(|why| why.clone().flatten())
    }

    /// Stops it after the piece of work it is at.
    pub async fn stop(&mut self) -> Option<String> {
        self.bell.close();
        let why = self.stopped().await;
        if let Some(thread) = self.thread.take() {
            // It has said why it ended; what is left of it is its return.
            let _ = thread.join();
        }
        why
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.bell.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Code, sim, types::SegmentId};

    /// Meets damage so many times.
    struct Meets(u32, watch::Sender<u32>);

    impl Worker for Meets {
        const NAME: &'static str = "meets";
        const LINGER: Duration = Duration::ZERO;
        const FINISHES: bool = false;

        fn work(&mut self) -> Result<Next> {
            if self.0 == 0 {
                self.1.send_modify(|done| *done += 1);
                return Ok(Next::Rung);
            }
            self.0 -= 1;
            Err(Error::new(Code::Corrupt, "a block is damaged").of_damage(Some(SegmentId(7))))
        }
    }

    #[test]
    fn a_stage_that_meets_damage_waits_for_the_repair_or_ends_where_there_is_none() {
        sim::runtime(1).block_on(async {
            let (tell, mut done) = watch::channel(0);
            let mend: Mend = Arc::new(|error| error.damaged_segment() == Some(SegmentId(7)));
            let bell = Bell::default();
            let mut running = spawn(Meets(3, tell), bell.clone(), Driver::Task, mend);
            bell.ring();
            assert!(done.wait_for(|done| *done == 1).await.is_ok());
            assert_eq!(running.stop().await, None);

            let (tell, _done) = watch::channel(0);
            let bell = Bell::default();
            let running = spawn(Meets(1, tell), bell.clone(), Driver::Task, Arc::new(|_| false));
            bell.ring();
            assert_eq!(running.stopped().await.as_deref(), Some("stage meets: a block is damaged"));
        });
    }
}
