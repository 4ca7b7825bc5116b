//! Whether the disk has room for what comes next.
//!
//! Takes what the file system says, what the pool held back and what the writer met; gives
//! [`WalHealth`], and tells the log of the node when that changes. It does not own the decision to refuse
//! writes: that is admission's.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{DiskFull, WalHealth, files::LogDir};
use crate::{config::WalConfig, env::Io};

/// Free space is asked for at most this often.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// See the head of this file.
pub(super) struct Space {
    io: Arc<dyn Io>,
    dir: PathBuf,
    free_bytes_min: u64,
    file_bytes: u64,
    /// Set by the pool while it makes no spare because of the watermark.
    held_back: Arc<AtomicBool>,
    seen: Mutex<Option<(Instant, u64)>>,
    /// The last word was that the disk is full.
    told_full: AtomicBool,
}

impl Space {
    pub(super) fn new(dir: &LogDir, config: &WalConfig, held_back: Arc<AtomicBool>) -> Self {
        Self {
            io: dir.env.io.clone(),
            dir: dir.path.clone(),
            free_bytes_min: config.disk_free_bytes_min,
            file_bytes: config.file_bytes,
            held_back,
            seen: Mutex::new(None),
            told_full: AtomicBool::new(false),
        }
    }

    /// `full` says that the writer found no room for a file.
    pub(super) fn health(&self, full: bool) -> WalHealth {
        let min = self.free_bytes_min;
        // If the file system does not say, only a failed attempt to make a file counts.
        let held_back = self.held_back.load(Relaxed);
        let free = self.free_bytes(held_back).unwrap_or(if full { 0 } else { u64::MAX });
        // The next file is made ahead, and not below the watermark. What is admitted before that shows goes
        // into the file that is there, and then into the room below.
        let held_back = held_back && free < min.saturating_add(self.file_bytes);
        self.held_back.fetch_and(held_back, Relaxed);
        let next_file = if full || held_back { self.file_bytes } else { 0 };
        let health = if next_file > 0 || free < min {
            WalHealth::DiskFull(DiskFull { free, min, next_file })
        } else {
            WalHealth::Ok
        };
        self.tell(&health);
        health
    }

    /// One line when writes stop, and one when somebody asks again and they go on.
    fn tell(&self, health: &WalHealth) {
        let full = matches!(health, WalHealth::DiskFull(_));
        if self.told_full.swap(full, Relaxed) == full {
            return;
        }
        match health {
            WalHealth::DiskFull(why) => tracing::warn!("the disk is full, writes are refused: {why}"),
            _ => tracing::info!("the disk has room again, writes go on"),
        }
    }

    /// Free bytes on disk; as of the last second unless `now`.
    fn free_bytes(&self, now: bool) -> Option<u64> {
        let mut seen = self.seen.lock();
        if let Some((at, free)) = *seen
            && !now
            && at.elapsed() < CHECK_EVERY
        {
            return Some(free);
        }
        let free = self.io.free_bytes(&self.dir).ok()?;
        *seen = Some((Instant::now(), free));
        Some(free)
    }
}
