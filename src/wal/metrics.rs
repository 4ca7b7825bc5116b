//! What the log tells about itself: health for those who decide, numbers for those who watch.

use std::sync::atomic::AtomicU64;

use hdrhistogram::Histogram;

/// Whether the log takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalHealth {
    /// It does.
    Ok,
    /// Free space is below the watermark, or there was no room for the next file. What is queued waits, and
    /// goes on by itself when there is room again.
    DiskFull {
        /// Free bytes of its file system.
        free: u64,
        /// The configured watermark.
        min: u64,
    },
    /// A write or sync failed. It takes nothing more until the process starts again.
    Poisoned {
        /// The operating system's error, and the file.
        why: String,
    },
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
