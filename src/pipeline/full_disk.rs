//! Answers those who would wait for a disk that is full, and may stay full for hours.
//!
//! Takes what the log says of its room, tells `batch`, which refuses what is in no entry yet, and answers what is in
//! flight as unknown: it cannot be taken back. Other members' batches that wait here are answered where they are
//! proposed (`forward`). It does not own admission, which asks the log itself, nor who leads then (`hand_over`).

use std::time::Duration;

use super::{
    message::{ToBatch, disk_full, waits_for_room},
    stage::Inbox,
};
use crate::wal::{DiskFull, Wal, WalHealth};

/// How long they wait for room that may be made at once, by a purge for example.
const GRACE: Duration = Duration::from_millis(500);

/// Watches `wal` until its task is ended.
pub async fn answer_who_waits(wal: Wal, batch: Inbox<ToBatch>) {
    loop {
        let refused = disk_full(&out_of_room(&wal).await);
        if batch.send(ToBatch::GiveUp { refused, unknown: waits_for_room() }).is_err() {
            return;
        }
    }
}

/// Waits until the log has had no room for [`GRACE`]: what waits in it may wait for hours.
pub async fn out_of_room(wal: &Wal) -> DiskFull {
    let mut out_of_room = wal.out_of_room();
    loop {
        if out_of_room.wait_for(|full| *full).await.is_err() {
            // The sender lives as long as `wal`.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(GRACE).await;
        if let WalHealth::DiskFull(why) = wal.health()
            && *out_of_room.borrow()
        {
            return why;
        }
    }
}
