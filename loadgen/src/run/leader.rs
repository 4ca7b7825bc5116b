//! Where writes go when the servers are asked who leads.
//!
//! Connections look at a number that changes with the leader, and ask for a new look when they were refused
//! or cut off; one task asks the servers, for all of them.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use scribe_ledger::client::Client;
use tokio::sync::Notify;

use crate::http::Target;

/// How long one server may take at most to say who leads.
const ASK_TIME_MAX: Duration = Duration::from_secs(1);
/// Between two rounds of asking.
const ASK_EVERY: Duration = Duration::from_millis(100);

pub struct Leader {
    targets: Vec<Target>,
    timeout: Duration,
    /// Rises whenever the leader is another one.
    generation: AtomicU64,
    now: Mutex<Target>,
    wanted: Notify,
}

impl Leader {
    /// `targets` are the servers to ask; there is at least one. An answer may take `timeout`, and never long.
    pub fn new(targets: Vec<Target>, timeout: Duration) -> Self {
        let now = Mutex::new(targets[0].clone());
        let timeout = timeout.min(ASK_TIME_MAX);
        Self { targets, timeout, generation: AtomicU64::new(0), now, wanted: Notify::new() }
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The leader as last heard of, and since which generation.
    pub fn get(&self) -> (Target, u64) {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        (now.clone(), self.generation())
    }

    /// Something went wrong that another leader may be the reason of.
    pub fn doubt(&self) {
        self.wanted.notify_one();
    }

    /// Asks every server until one knows. Gives whether one did.
    pub async fn ask(&self) -> bool {
        for target in &self.targets {
            let Ok(client) = Client::new(&target.url()) else { continue };
            let Ok(answer) = client.with_timeout(self.timeout).get_json("/leader").await else { continue };
            let Some(address) = answer.get("http_addr").and_then(|address| address.as_str()) else {
                continue;
            };
            let Ok(leader) = Target::resolve(&format!("http://{address}")) else { continue };
            let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
            if now.address != leader.address {
                *now = leader;
                self.generation.fetch_add(1, Ordering::Release);
            }
            return true;
        }
        false
    }

    /// Asks whenever somebody doubts. Never ends.
    pub async fn keep_up(&self) {
        loop {
            self.wanted.notified().await;
            self.ask().await;
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}
