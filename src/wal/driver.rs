//! Who calls the writer: a thread of its own, a task of the current runtime, or a test step by step.
//!
//! Takes the queue's wake-ups; decides only when to call [`Writer::round`] and how long to wait. The
//! writer itself is the same synchronous code under all of them, and nothing here polls: with an empty
//! queue the driver sleeps until something comes, or until an idle closing group is due. While the thread
//! sleeps, whoever appends may run the writer in its place ([`write_here`]).

use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::{Mutex, MutexGuard};
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

/// The longest that the last group may have taken for the next one to be written by whoever appends it: a
/// thread that serves others, too, must not wait for a slow disk.
const HERE_LAST_MAX: Duration = Duration::from_micros(300);
/// The largest change that is written so.
const HERE_BYTES_MAX: u64 = 32 << 10;

/// Whether to write a change on this thread that would be the only one: the writer, if it is free.
///
/// The first change after a pause goes to the thread, which then waits for the time of a closing group; so
/// nothing that is written here can be forgotten.
pub(super) fn write_here(writer: &Mutex<InPlace>, bytes: u64) -> Option<MutexGuard<'_, InPlace>> {
    let writer = writer.try_lock()?;
    let Writer { owes_closing, last_took, .. } = writer.writer;
    (owes_closing && last_took <= HERE_LAST_MAX && bytes <= HERE_BYTES_MAX).then_some(writer)
}

/// A writer as its thread has it: for itself, or shared with those who may run it in place.
trait Held {
    fn with<R>(&mut self, act: impl FnOnce(&mut Writer, &mut dyn GroupSink) -> R) -> R;
}

impl Held for (Writer, Box<dyn GroupSink>) {
    fn with<R>(&mut self, act: impl FnOnce(&mut Writer, &mut dyn GroupSink) -> R) -> R {
        act(&mut self.0, &mut *self.1)
    }
}

impl Held for Arc<Mutex<InPlace>> {
    fn with<R>(&mut self, act: impl FnOnce(&mut Writer, &mut dyn GroupSink) -> R) -> R {
        let InPlace { writer, sink } = &mut *self.lock();
        act(writer, sink)
    }
}

fn thread(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("wal".into()).spawn(work)
}

/// Starts the thread beside those who may run the writer in place.
pub(super) fn spawn_thread(writer: Arc<Mutex<InPlace>>) -> io::Result<JoinHandle<()>> {
    thread(move || run_thread(writer))
}

/// Starts the thread that has the writer for itself. `make_sink` is called there, because a sink may belong
/// to the thread that made it; gives the sink's name.
pub(super) fn spawn_owning_thread(
    writer: Writer,
    make_sink: impl FnOnce() -> Box<dyn GroupSink> + Send + 'static,
) -> io::Result<(JoinHandle<()>, &'static str)> {
    let (tell, told) = mpsc::channel();
    let thread = thread(move || {
        let sink = make_sink();
        // The opener waits for this.
        let _ = tell.send(sink.name());
        run_thread((writer, sink));
    })?;
    let name = told.recv().map_err(|_| io::Error::other("the log's thread ended as it started"))?;
    Ok((thread, name))
}

fn run_thread(mut held: impl Held) {
    let (queue, idle_close) = held.with(|writer, _| (writer.queue.clone(), writer.config.idle_close));
    loop {
        match held.with(Writer::round) {
            Round::Worked => {}
            Round::Stopped => return,
            Round::NoSpace => {
                if held.with(|writer, _| gives_up_if_closing(writer)) {
                    return;
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "this thread has no other work until there is space"
                )]
                std::thread::sleep(NO_SPACE_RETRY);
            }
            Round::Idle { owes_closing } => {
                match wait(&queue, owes_closing.then_some(idle_close)) {
                    Ok(work) => held.with(|writer, _| writer.push(work)),
                    Err(RecvTimeoutError::Timeout) => held.with(|writer, sink| {
                        // Somebody may have run it in place meanwhile.
                        if writer.is_idle_for(idle_close) {
                            // A full disk is met again, and reported, by the next write.
                            writer.close_idle(sink);
                        }
                    }),
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
