//! Answers those who would wait for a disk that is full, and may stay full for hours.
//!
//! Takes what the log says of its room, tells `batch`, which refuses what is in no entry yet, and answers what is in
//! flight as unknown: it cannot be taken back. It does not own admission, which asks the log itself.

use std::time::Duration;

use super::{
    message::{ToBatch, disk_full},
    stage::Inbox,
};
use crate::wal::{Wal, WalHealth};

/// How long they wait for room that may be made at once, by a purge for example.
const GRACE: Duration = Duration::from_millis(500);

/// Watches `wal` until its task is ended.
pub async fn answer_who_waits(wal: Wal, batch: Inbox<ToBatch>) {
    let mut out_of_room = wal.out_of_room();
    // The sender lives as long as `wal`.
    while out_of_room.wait_for(|full| *full).await.is_ok() {
        tokio::time::sleep(GRACE).await;
        let WalHealth::DiskFull(why) = wal.health() else { continue };
        if *out_of_room.borrow() && batch.send(ToBatch::DiskFull(disk_full(&why))).is_err() {
            return;
        }
    }
}
