//! The run loop that every stage with a queue borrows: take what has queued, decide, act; drain and stop;
//! turn a panic into a stopped pipeline with a reason.
//!
//! A stage is only its own work: a plain state whose decisions are ordinary functions. Waiting happens
//! here and nowhere else.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
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

/// The receiving end, for `run`.
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

/// A stage that runs on a task of its own.
#[derive(Debug)]
pub struct Running {
    close: watch::Sender<bool>,
    ended: Shared<BoxFuture<'static, Option<String>>>,
}

/// Runs a stage on the current runtime until it is stopped, or until it panics.
pub fn spawn<S: Stage>(stage: S, queue: Queue<S::Message>) -> Running {
    let (close, closed) = watch::channel(false);
    let task = tokio::spawn(run(stage, queue, closed));
    let ended = task.map(|ended| ended.unwrap_or_else(|error| Some(error.to_string()))).boxed().shared();
    Running { close, ended }
}

impl Running {
    /// Waits until it has stopped and says why, if there is a why. May be asked again.
    pub async fn stopped(&self) -> Option<String> {
        self.ended.clone().await
    }

    /// Lets it finish what it holds, then stops it.
    pub async fn stop(&self) -> Option<String> {
        // The receiver is gone when the stage has already stopped.
        let _ = self.close.send(true);
        self.stopped().await
    }
}

/// Runs a stage until `close` turns true and nothing is left, or until it panics; then says why, if there
/// is a why.
async fn run<S: Stage>(stage: S, queue: Queue<S::Message>, close: watch::Receiver<bool>) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums what it takes; panics over zero.
    struct Summing {
        sum: u32,
        total: std::sync::Arc<std::sync::atomic::AtomicU32>,
    }

    impl Stage for Summing {
        type Message = u32;
        const NAME: &'static str = "summing";

        fn take(&mut self, number: u32) {
            assert_ne!(number, 0, "a planted bug");
            self.sum += number;
        }

        async fn act(&mut self, _: Instant) {
            self.total.store(self.sum, std::sync::atomic::Ordering::Relaxed);
        }

        fn wake_at(&self) -> Option<Instant> {
            None
        }

        fn is_empty(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn a_stopped_stage_has_done_what_had_queued() {
        let (inbox, queue) = inbox();
        let total = std::sync::Arc::default();
        let running = spawn(Summing { sum: 0, total: std::sync::Arc::clone(&total) }, queue);
        (1..=100).for_each(|number| inbox.send(number).unwrap());
        assert_eq!(running.stop().await, None);
        assert_eq!(total.load(std::sync::atomic::Ordering::Relaxed), 5_050);
        assert_eq!(inbox.send(1), Err(1));
    }

    /// The node asks why a stage has stopped and then stops the pipeline, which asks again.
    #[tokio::test]
    async fn a_stage_that_panicked_says_so_as_often_as_it_is_asked() {
        let (inbox, queue) = inbox();
        let running = spawn(Summing { sum: 0, total: std::sync::Arc::default() }, queue);
        inbox.send(0).unwrap();
        for why in [running.stopped().await, running.stop().await] {
            let why = why.expect("a reason");
            assert!(why.contains("stage summing panicked") && why.contains("a planted bug"), "{why}");
        }
    }
}
