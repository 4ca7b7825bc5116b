//! Where the work of archiving is done: packing, hashing, and waiting for the store.
//!
//! In a node on a thread of its own that stands behind all others, so that it takes what processor time is left and a
//! tenth of a core where none is; in a simulation where the caller is. Takes futures, gives what they come to.

use std::{future::Future, thread::JoinHandle, time::Duration};

use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::AbortHandle,
    time::timeout,
};

use crate::{
    error::{Code, Error, Result},
    runtime::{Priority, give_way_to_others},
    wal::Driver,
};

/// How long a stop waits for the piece of work that is under way: a store on a dead disk may hold it for ever.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// See the head of this file.
#[derive(Debug)]
pub struct Apart(Option<Thread>);

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Apart {
    /// A thread where the log's writer has one, the caller's place otherwise.
    ///
    /// # Errors
    /// [`Code::Io`] when the system has no thread left.
    pub fn start(driver: Driver) -> Result<Self> {
        if driver != Driver::Thread {
            return Ok(Self(None));
        }
        let failed = |error| Error::io("starting the thread that archives", &error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let run = move || {
            give_way_to_others(Priority::Low);
            // An error means that nobody is left to stop it, which is the same.
            let _ = runtime.block_on(stopped);
            drop(runtime);
            let _ = end.send(());
        };
        let thread = std::thread::Builder::new().name("archive".into()).spawn(run).map_err(failed)?;
        let running = Mutex::new(Some(Running { stop, ended, thread }));
        Ok(Self(Some(Thread { runtime: handle, running })))
    }

    /// Does the work there. It ends at its next wait when this is dropped.
    ///
    /// # Errors
    /// The work's; [`Code::Internal`] when it panicked, [`Code::Unavailable`] when the thread has been stopped.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let Some(Thread { runtime, .. }) = &self.0 else { return work.await };
        let work = runtime.spawn(work);
        let _ends_with_this = EndOnDrop(work.abort_handle());
        work.await.unwrap_or_else(|error| match error.is_panic() {
            true => Err(Error::new(Code::Internal, format!("archiving panicked: {error}"))),
            false => Err(Error::new(Code::Unavailable, "archiving has been stopped")),
        })
    }

    /// Ends the thread, and waits for it.
    pub async fn stop(&self) {
        let running = self.0.as_ref().and_then(|thread| thread.running.lock().take());
        let Some(Running { stop, ended, thread }) = running else { return };
        // It has ended by itself where nobody takes this.
        let _ = stop.send(());
        if timeout(STOP_PATIENCE, ended).await.is_ok() {
            // What is left of it is its return.
            let _ = thread.join();
        } else {
            tracing::warn!("the archive holds on to a piece of work: the node stops without it");
        }
    }
}

struct EndOnDrop(AbortHandle);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_ends_with_whoever_waits_for_it() {
        let apart = Apart::start(Driver::Thread).unwrap();
        let name = apart.run(async { Ok(std::thread::current().name().map(String::from)) }).await;
        assert_eq!(name.unwrap().as_deref(), Some("archive"));
        let (held, gone) = oneshot::channel::<()>();
        let forever = apart.run(async move {
            let _held = held;
            std::future::pending::<()>().await;
            Ok(())
        });
        assert!(timeout(Duration::from_millis(1), forever).await.is_err());
        assert!(gone.await.is_err(), "nobody holds it any more");
        let panicked = apart.run::<()>(async { panic!("told to") }).await;
        assert_eq!(panicked.unwrap_err().code(), Code::Internal);
        apart.stop().await;
        assert_eq!(apart.run(async { Ok(()) }).await.unwrap_err().code(), Code::Unavailable);
        let here = Apart::start(Driver::Task).unwrap();
        assert_eq!(here.run(async { Ok(1) }).await.unwrap(), 1);
        here.stop().await;
    }
}
