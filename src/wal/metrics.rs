//! What the log tells about itself: health for those who decide, numbers for those who watch.

use std::{fmt, sync::atomic::AtomicU64};

use hdrhistogram::Histogram;

/// Whether the log takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalHealth {
    /// It does.
    Ok,
    /// Free space is below the watermark, or there was no room for the next file. What is queued waits, and
    /// goes on by itself when there is room again.
    DiskFull(DiskFull),
    /// A write or sync failed. It takes nothing more until the process starts again.
    Poisoned {
        /// The operating system's error, and the file.
        why: String,
    },
}

/// What is free, and what has to be free for writes to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFull {
    /// Free bytes of its file system.
    pub free: u64,
    /// The configured watermark.
    pub min: u64,
    /// Bytes of the log's next file, where it was that one that had no room above the watermark; else 0.
    pub next_file: u64,
}

impl fmt::Display for DiskFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free, min, next_file } = *self;
        let needed = min.saturating_add(next_file);
        write!(f, "{free} bytes are free on the node's disk, writes need {needed}")?;
        match next_file {
            0 => write!(f, " (wal.disk_free_bytes_min)"),
            _ => write!(
                f,
                ": {min} that stay free (wal.disk_free_bytes_min) and {next_file} for the log's next file \
                 (wal.file_bytes)"
            ),
        }
    }
}

/// Numbers since the log was opened.
#[derive(Clone, Debug)]
pub struct WalMetrics {
    /// Groups written.
    pub groups: u64,
    /// Syncs of log files; as many as groups, a write to a direct file counting as one.
    pub syncs: u64,
    /// Bytes written, with headers and padding.
    pub bytes_written: u64,
    /// Entries in the log now.
    pub entries: u64,
    /// Changes in the queue.
    pub queue_depth: usize,
    /// Bytes of those changes.
    pub queue_bytes: u64,
    /// Age of the oldest of them, in milliseconds.
    pub oldest_ms: u64,
    /// Time from encoding a group until it was durable, in microseconds.
    pub sync_us: Histogram<u64>,
    /// Files, spares included.
    pub files: u64,
    /// Bytes of those files.
    pub disk_bytes: u64,
    /// Bytes of entries held in memory.
    pub tail_bytes: usize,
    /// `direct` or `buffered`.
    pub writer: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) groups: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) files: AtomicU64,
    pub(super) disk_bytes: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_is_missing() {
        let full = DiskFull { free: 10, min: 20, next_file: 0 };
        let needs = "10 bytes are free on the node's disk, writes need 20 (wal.disk_free_bytes_min)";
        assert_eq!(full.to_string(), needs);
        let next = DiskFull { free: 58, min: 16, next_file: 64 }.to_string();
        assert!(
            next.contains("58 bytes are free") && next.contains("writes need 80: 16 that stay"),
            "{next}"
        );
    }
}
