//! When segments are fetched, and what comes after: a member that is too far behind for the log catches up.
//!
//! Takes the word of leaders whose log begins behind this member's end, gives the wish to be started again once
//! segments are in place. Whatever breaks off the fetching, what is in place stays, and is worth a restart: the next
//! attempt, of the same leader or another, goes on from there. It does not own files or checks (`fetch`), nor the
//! start (`node`).

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::fetch::Fetcher;
use crate::{
    error::{Code, Error},
    raft::{Ahead, TooFarAhead},
};

/// How long it rests after an attempt that brought nothing. A leader goes on saying that it is ahead.
const REST: Duration = Duration::from_secs(1);

/// After this an attempt that goes on to fail is told again.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// The task.
#[derive(Debug)]
pub struct CatchUp {
    task: JoinHandle<()>,
    wish: watch::Receiver<Option<String>>,
}

impl CatchUp {
    /// Begins to listen on the current runtime.
    #[must_use]
    pub fn start(fetcher: Fetcher, too_far_ahead: TooFarAhead) -> Self {
        let (tell, wish) = watch::channel(None);
        Self { task: tokio::spawn(run(fetcher, too_far_ahead, tell)), wish }
    }

    /// Waits until the node is to be started again, and says why.
    pub async fn wants_restart(&self) -> String {
        let mut wish = self.wish.clone();
        match wish.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) {
            Some(why) => why,
            // It has been stopped.
            None => std::future::pending().await,
        }
    }

    /// Stops it where it is.
    pub async fn stop(mut self) {
        self.task.abort();
        // That it was aborted is no news.
        let _ = (&mut self.task).await;
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(fetcher: Fetcher, mut ahead: TooFarAhead, wish: watch::Sender<Option<String>>) {
    let mut said = Said::default();
    while ahead.changed().await.is_ok() {
        let Some(leader) = ahead.borrow_and_update().clone() else { continue };
        let Ahead { leader: id, boundary, .. } = &leader;
        if said.is_news(&format!("begins behind {id}")) {
            let entry = boundary.index.0;
            tracing::info!(leader = id, entry, "the leader's log begins behind ours: fetching segments");
        }
        let mut installed = 0;
        let fetched = tokio::select! {
            biased;
            () = another_leads(&mut ahead, &leader) => Err(Error::new(Code::Unavailable, "another member leads now")),
            fetched = fetcher.fetch_all(&leader, &mut installed) => fetched,
        };
        if let Err(error) = fetched
            && said.is_news(error.message())
        {
            tracing::warn!(%error, installed, leader = id, "fetching segments broke off; it is tried again");
        }
        if installed > 0 {
            wish.send_replace(Some(format!("it begins again behind {installed} segments of member {id}")));
            return;
        }
        sleep(REST).await;
        // What was said meanwhile may be over.
        ahead.mark_unchanged();
    }
}

/// What was said lately: attempts that fail alike, again and again, are not told each time.
#[derive(Default)]
struct Said(BTreeMap<String, Instant>);

impl Said {
    fn is_news(&mut self, what: &str) -> bool {
        self.0.retain(|_, said| said.elapsed() < SAID_AGAIN_AFTER);
        let is_news = !self.0.contains_key(what);
        if is_news {
            self.0.insert(what.to_owned(), Instant::now());
        }
        is_news
    }
}

/// Waits until another member says that it is ahead.
async fn another_leads(ahead: &mut TooFarAhead, than: &Ahead) {
    let another =
        ahead.wait_for(|now| now.as_ref().is_some_and(|now| now.leader != than.leader)).await.is_ok();
    if !another {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_in_a_while() {
        let mut said = Said::default();
        assert!(said.is_news("no room") && !said.is_news("no room") && said.is_news("no answer"));
        tokio::time::advance(SAID_AGAIN_AFTER).await;
        assert!(said.is_news("no room") && !said.is_news("no room"));
    }
}
