//! The tasks of a transport, so that stopping can end them and wait until they have ended.

use std::future::Future;

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinSet},
};

/// All of them, until they are stopped.
#[derive(Debug)]
pub(super) struct Tasks {
    running: Mutex<Option<JoinSet<()>>>,
    runtime: Handle,
}

impl Tasks {
    /// None yet; they will run where this is called.
    pub fn new() -> Self {
        Self { running: Mutex::new(Some(JoinSet::new())), runtime: Handle::current() }
    }

    /// Starts one; `None` after the stop.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut running = self.running.lock();
        let running = running.as_mut()?;
        // Those that have ended are forgotten here, so that the set is as large as what runs.
        while running.try_join_next().is_some() {}
        Some(running.spawn_on(task, &self.runtime))
    }

    /// The runtime they run on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Ends all of them where they wait, and returns when they have ended.
    pub async fn stop(&self) {
        let running = self.running.lock().take();
        if let Some(mut running) = running {
            running.shutdown().await;
        }
    }
}
