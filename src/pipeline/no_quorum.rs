//! Answers those who would wait for a quorum that is not there, on a leader that was left alone.
//!
//! Takes what consensus says of its quorum, tells `batch`, which refuses what is in no entry yet and answers what is in
//! flight as unknown: another leader may have it, or this one may get it through later. Other members' batches that wait
//! here are answered where they are proposed (`forward`). A new write is refused by `forward`, too, once it finds no leader
//! that can commit.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    message::{ToBatch, no_quorum, waits_for_quorum},
    stage::Inbox,
};
use crate::raft::Consensus;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Whether this member has led without a quorum for longer than writes wait for one.
pub type Lost = watch::Receiver<bool>;

/// Watches until its task is ended; writes wait for as long as `patience`.
pub async fn answer_who_waits(
    consensus: Consensus,
    patience: Duration,
    lost: watch::Sender<bool>,
    batch: Inbox<ToBatch>,
) {
    let mut alone_since = None;
    loop {
        sleep(LOOK).await;
        if !consensus.is_leader() || consensus.can_commit() {
            alone_since = None;
            lost.send_replace(false);
            continue;
        }
        if alone_since.get_or_insert_with(Instant::now).elapsed() < patience {
            continue;
        }
        lost.send_replace(true);
        if batch.send(ToBatch::GiveUp { refused: no_quorum(), unknown: waits_for_quorum() }).is_err() {
            return;
        }
    }
}

/// Waits until this member has been left alone for longer than writes wait.
pub async fn lost_quorum(mut lost: Lost) {
    if lost.wait_for(|lost| *lost).await.is_err() {
        // Nobody watches any more: the node is stopping, and answers in its own way.
        std::future::pending::<()>().await;
    }
}
