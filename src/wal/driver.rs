//! Who calls the writer: a thread of its own, a task of the current runtime, or a test step by step.
//!
//! Takes the queue's wake-ups; decides only when to call [`Writer::round`] and how long to wait. The
//! writer itself is the same synchronous code under all of them, and nothing here polls: with an empty
//! queue the driver sleeps until something comes, or until an idle closing group is due.

use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::writer::{Round, Work, Writer};
use crate::env::Rng;

/// How often a full disk is tried again.
const NO_SPACE_RETRY: Duration = Duration::from_millis(200);

/// Simulated time a sync takes at most, in microseconds: what a datacentre SSD needs on a busy day.
const SIM_SYNC_US_MAX: u64 = 2_000;

/// Who runs the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::manual_non_exhaustive)]
pub enum Driver {
    /// A thread named `wal`.
    Thread,
    /// A task of the tokio runtime that calls `open`: no thread, only tokio's time, for simulations.
    Task,
    /// Nobody: tests call [`Wal::step`](super::Wal::step).
    #[doc(hidden)]
    Step,
}

/// Starts the thread.
pub(super) fn spawn_thread(writer: Arc<Mutex<Writer>>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("wal".into()).spawn(move || run_thread(&writer))
}

fn run_thread(writer: &Mutex<Writer>) {
    let (queue, idle_close) = {
        let writer = writer.lock();
        (writer.queue.clone(), writer.config.idle_close)
    };
    loop {
        let round = writer.lock().round();
        match round {
            Round::Worked => {}
            Round::Stopped => return,
            Round::NoSpace => {
                if give_up_if_closing(writer) {
                    return;
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "this thread has no other work until there is space"
                )]
                std::thread::sleep(NO_SPACE_RETRY);
            }
            Round::Idle { owes_closing } => match wait(&queue, owes_closing.then_some(idle_close)) {
                Ok(work) => writer.lock().push(work),
                Err(RecvTimeoutError::Timeout) => {
                    // A full disk is met again, and reported, by the next write.
                    writer.lock().close_idle();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            },
        }
    }
}

fn wait(queue: &Receiver<Work>, at_most: Option<Duration>) -> Result<Work, RecvTimeoutError> {
    match at_most {
        Some(time) => queue.recv_timeout(time),
        None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

fn give_up_if_closing(writer: &Mutex<Writer>) -> bool {
    let mut writer = writer.lock();
    let gives_up = writer.is_closing();
    if gives_up {
        writer.give_up();
    }
    gives_up
}

/// Starts the task on the current runtime; fails when there is none.
pub(super) fn spawn_task(writer: Arc<Mutex<Writer>>, wake: Arc<Notify>) -> io::Result<()> {
    let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    runtime.spawn(run_task(writer, wake));
    Ok(())
}

async fn run_task(writer: Arc<Mutex<Writer>>, wake: Arc<Notify>) {
    let (queue, rng, idle_close) = {
        let writer = writer.lock();
        (writer.queue.clone(), writer.dir.env.rng.clone(), writer.config.idle_close)
    };
    loop {
        let round = writer.lock().round();
        match round {
            Round::Worked => simulate_sync(&*rng).await,
            Round::Stopped => return,
            Round::NoSpace => {
                if give_up_if_closing(&writer) {
                    return;
                }
                tokio::time::sleep(NO_SPACE_RETRY).await;
            }
            Round::Idle { owes_closing } => {
                if owes_closing {
                    if tokio::time::timeout(idle_close, wake.notified()).await.is_err() && queue.is_empty() {
                        writer.lock().close_idle();
                        continue;
                    }
                } else {
                    wake.notified().await;
                }
                simulate_sync(&*rng).await;
                if writer.lock().is_closing() && queue.is_empty() {
                    // Every handle is gone, or `close` has done the rest itself.
                    return;
                }
            }
        }
    }
}

/// Lets the time pass that a disk would have taken, before anybody hears of the next group.
async fn simulate_sync(rng: &dyn Rng) {
    tokio::time::sleep(Duration::from_micros(rng.next_u64() % SIM_SYNC_US_MAX)).await;
}

/// Runs the writer here and now until its closing group is written.
pub(super) fn run_to_end(writer: &Mutex<Writer>) {
    let mut writer = writer.lock();
    loop {
        match writer.round() {
            Round::Worked => {}
            Round::Stopped | Round::Idle { .. } => return,
            Round::NoSpace => {
                writer.give_up();
                return;
            }
        }
    }
}

/// A completion, and where its result arrives.
pub(super) fn reply() -> (super::Completion, mpsc::Receiver<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| {
        // The waiter may have given up; then nobody is interested.
        let _ = sender.send(result);
    });
    (done, receiver)
}
