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

use super::{
    change::Work,
    sink::{FileSink, GroupSink},
    writer::{Round, Writer},
};
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

/// A writer that whoever holds it may run: the task, a test, or `close`.
pub(super) struct InPlace {
    pub(super) writer: Writer,
    pub(super) sink: FileSink,
}

impl InPlace {
    pub(super) fn round(&mut self) -> Round {
        self.writer.round(&mut self.sink)
    }

    pub(super) fn close_idle(&mut self) {
        self.writer.close_idle(&mut self.sink);
    }

    fn gives_up_if_closing(&mut self) -> bool {
        gives_up_if_closing(&mut self.writer)
    }
}

/// Starts the thread, which owns the writer. `make_sink` is called there, because a sink may belong to the
/// thread that made it; gives the sink's name.
pub(super) fn spawn_thread(
    writer: Writer,
    make_sink: impl FnOnce() -> Box<dyn GroupSink> + Send + 'static,
) -> io::Result<(JoinHandle<()>, &'static str)> {
    let (tell, told) = mpsc::channel();
    let work = move || {
        let mut sink = make_sink();
        // The opener waits for this.
        let _ = tell.send(sink.name());
        run_thread(writer, &mut *sink);
    };
    let thread = std::thread::Builder::new().name("wal".into()).spawn(work)?;
    let name = told.recv().map_err(|_| io::Error::other("the log's thread ended as it started"))?;
    Ok((thread, name))
}

fn run_thread(mut writer: Writer, sink: &mut dyn GroupSink) {
    loop {
        match writer.round(sink) {
            Round::Worked => {}
            Round::Stopped => return,
            Round::NoSpace => {
                if gives_up_if_closing(&mut writer) {
                    return;
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "this thread has no other work until there is space"
                )]
                std::thread::sleep(NO_SPACE_RETRY);
            }
            Round::Idle { owes_closing } => {
                match wait(&writer.queue, owes_closing.then_some(writer.config.idle_close)) {
                    Ok(work) => writer.push(work),
                    Err(RecvTimeoutError::Timeout) => {
                        // A full disk is met again, and reported, by the next write.
                        writer.close_idle(sink);
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }
}

fn wait(queue: &Receiver<Work>, at_most: Option<Duration>) -> Result<Work, RecvTimeoutError> {
    match at_most {
        Some(time) => queue.recv_timeout(time),
        None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

fn gives_up_if_closing(writer: &mut Writer) -> bool {
    let gives_up = writer.is_closing();
    if gives_up {
        writer.give_up();
    }
    gives_up
}

/// Starts the task on the current runtime; fails when there is none.
pub(super) fn spawn_task(writer: Arc<Mutex<InPlace>>, wake: Arc<Notify>) -> io::Result<()> {
    let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    runtime.spawn(run_task(writer, wake));
    Ok(())
}

async fn run_task(in_place: Arc<Mutex<InPlace>>, wake: Arc<Notify>) {
    let (queue, rng, idle_close) = {
        let writer = &in_place.lock().writer;
        (writer.queue.clone(), writer.files.dir.env.rng.clone(), writer.config.idle_close)
    };
    loop {
        let round = in_place.lock().round();
        match round {
            Round::Worked => simulate_sync(&*rng).await,
            Round::Stopped => return,
            Round::NoSpace => {
                if in_place.lock().gives_up_if_closing() {
                    return;
                }
                tokio::time::sleep(NO_SPACE_RETRY).await;
            }
            Round::Idle { owes_closing } => {
                if owes_closing {
                    if tokio::time::timeout(idle_close, wake.notified()).await.is_err() && queue.is_empty() {
                        in_place.lock().close_idle();
                        continue;
                    }
                } else {
                    wake.notified().await;
                }
                simulate_sync(&*rng).await;
                if in_place.lock().writer.is_closing() && queue.is_empty() {
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
pub(super) fn run_to_end(in_place: &Mutex<InPlace>) {
    let mut in_place = in_place.lock();
    loop {
        match in_place.round() {
            Round::Worked => {}
            Round::Stopped | Round::Idle { .. } => return,
            Round::NoSpace => {
                in_place.writer.give_up();
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
