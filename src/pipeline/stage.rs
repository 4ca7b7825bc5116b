//! The run loop that every stage with a queue borrows: take what has queued, decide, act; drain and stop;
//! turn a panic into a stopped pipeline with a reason.
//!
//! A stage is only its own work: a plain state whose decisions are ordinary functions. Waiting happens
//! here and nowhere else.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// A stage's own work.
pub trait Stage: Send + 'static {
    /// What its inbox holds.
    type Message: Send;

    /// Its name in logs and metrics.
    const NAME: &'static str;

    /// Takes one message into its state.
    fn take(&mut self, message: Self::Message);

    /// Acts on its state once everything that had queued is taken: hands work to the next stage.
    fn act(&mut self, now: Instant) -> impl Future<Output = ()> + Send;

    /// When it has to act again although no message comes.
    fn wake_at(&self) -> Option<Instant>;

    /// Whether nothing is left in it. A closed stage runs until this holds.
    fn is_empty(&self) -> bool;
}

/// The way into a stage. Cheap to clone. The queue itself has no bound: what may be in it is bounded, in
/// bytes, by the permits of `ingest`, which every message holds until it is answered.
#[derive(Debug)]
pub struct Inbox<M>(mpsc::UnboundedSender<M>);

impl<M> Clone for Inbox<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> Inbox<M> {
    /// Hands a message over; gives it back when the stage has stopped.
    ///
    /// # Errors
    /// The message.
    pub fn send(&self, message: M) -> Result<(), M> {
        self.0.send(message).map_err(|error| error.0)
    }
}

/// The receiving end, for [`run`].
#[derive(Debug)]
pub struct Queue<M>(mpsc::UnboundedReceiver<M>);

/// A stage's inbox and queue.
#[must_use]
pub fn inbox<M>() -> (Inbox<M>, Queue<M>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Inbox(sender), Queue(receiver))
}

/// Most messages taken before the stage acts.
const TAKE_MAX: usize = 4_096;

/// Runs a stage until `close` turns true and nothing is left, or until it panics; then says why, if there
/// is a why.
pub async fn run<S: Stage>(
    stage: S,
    queue: Queue<S::Message>,
    close: watch::Receiver<bool>,
) -> Option<String> {
    let result = AssertUnwindSafe(drive(stage, queue, close)).catch_unwind().await;
    let panic = result.err()?;
    let what =
        panic.downcast_ref::<&str>().copied().map(String::from).or(panic.downcast_ref::<String>().cloned());
    Some(format!("stage {} panicked: {}", S::NAME, what.unwrap_or_default()))
}

async fn drive<S: Stage>(
    mut stage: S,
    Queue(mut queue): Queue<S::Message>,
    mut close: watch::Receiver<bool>,
) {
    let mut taken = Vec::with_capacity(TAKE_MAX);
    let mut closing = *close.borrow();
    while !(closing && queue.is_empty() && stage.is_empty()) {
        let wake_at = stage.wake_at();
        tokio::select! {
            // Messages before ticks before closing, always in this order: a simulated run must not toss coins.
            biased;
            count = queue.recv_many(&mut taken, TAKE_MAX) => if count == 0 { closing = true },
            () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
            changed = close.changed(), if !closing => closing = changed.is_err() || *close.borrow(),
        }
        for message in taken.drain(..) {
            stage.take(message);
        }
        stage.act(Instant::now()).await;
    }
}

/// Bytes of work above which other tasks of the thread should not have to wait for it: about a millisecond.
const HEAVY_BYTES: usize = 1 << 20;

/// Runs work on `bytes` bytes without holding up the tasks behind it: when there is much to do and the
/// runtime has more threads, they are handed to another one first. A simulation has one thread and no
/// other.
pub fn without_blocking_others<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if bytes >= HEAVY_BYTES && flavor.is_ok_and(|flavor| flavor == RuntimeFlavor::MultiThread) {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}
