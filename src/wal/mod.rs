//! The write-ahead log: what a node has promised to remember, in order.
//!
//! ```text
//!  append  save_vote  truncate_after  purge                     read  log_id  state
//!     └────────┴───────────┴────────────┘                         ▲
//!         │  under one lock: the change enters the map            │
//!         ├────────────► LogMap (index 24 B an entry, ────────────┤
//!         │              tail ≤ tail_bytes_max)                   │ older entries: pread, sums checked
//!         ▼  ONE queue, in order                                  │
//!      Writer: all that waits ≤ group_bytes_max = one group       │
//!         │  padded to 4 KiB, one write, one sync                 │
//!         ▼                                                       │
//!      wal-…7-….log  wal-…8-….log  (spare-….log) ─────────────────┘
//!         │
//!         └─► completions, in order
//! ```
//!
//! Takes opaque entries, votes, truncations and purges; gives them back after any crash: all that was
//! completed, in order, nothing invented, no holes. It does not own what entries mean, how much of the log
//! is kept (purging is the caller's decision), or how much may be queued (admission is).
//!
//! The bytes are drawn in [`format`](mod@format), the files in `files`, what a crash can leave behind and
//! how it is judged in `recover`.

use std::{
    fmt,
    io::{self, ErrorKind},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    env::{Env, OpenMode},
    error::Result,
    types::LogIndex,
};

mod change;
mod driver;
mod files;
pub mod format;
mod group;
mod index;
mod log_files;
mod metrics;
mod open;
mod options;
mod pool;
mod read;
mod recover;
mod shared;
mod sink;
mod space;
mod uring;
mod writer;

pub use crate::types::LogId;
pub use driver::Driver;
pub use metrics::{DiskFull, WalHealth, WalMetrics};
pub use open::RecoveredWal;
#[doc(hidden)]
pub use options::Sabotage;
pub use options::WalOptions;
#[doc(hidden)]
pub use recover::GroupPlace;

use change::{Change, Work};
use driver::InPlace;
use index::LogMap;
use shared::{Log, Shared};
use space::Space;
use writer::Round;

/// A log entry. Its payload means nothing here; at most 4 GiB − 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Which one.
    pub id: LogId,
    /// Its bytes.
    pub payload: Bytes,
}

/// Called once, from the writer, when a change is durable or will not be. Should return quickly: the next
/// group waits for it.
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What the log holds, as its callers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalState {
    /// Index of the first entry that is kept, or of the next one where none is.
    pub first: LogIndex,
    /// Up to here entries are no longer kept.
    pub purged: Option<LogId>,
    /// The newest entry, or the purge point if that is further.
    pub last: Option<LogId>,
    /// The newest vote.
    pub vote: Option<Bytes>,
    /// The newest committed id that was saved; it may be older than the one last given.
    pub committed: Option<LogId>,
}

/// A handle of an open log; clones share it. When the last one goes without [`Wal::close`], what is queued
/// is still written, and the next start takes it for a crash.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    /// `None` only while dropping.
    queue: Option<Sender<Work>>,
    wake: Arc<Notify>,
    driver: Driver,
    /// The writer, unless a thread has it for itself.
    in_place: Option<Arc<Mutex<InPlace>>>,
    writer_name: &'static str,
    thread: Mutex<Option<JoinHandle<()>>>,
    dir: PathBuf,
    space: Space,
    check_sums: bool,
}

impl Wal {
    /// What the log holds, queued changes included.
    #[must_use]
    pub fn state(&self) -> WalState {
        let log = self.inner.shared.log.lock();
        WalState {
            first: LogIndex(log.map.first()),
            purged: log.map.purged,
            last: log.map.last,
            vote: log.map.vote.clone(),
            committed: log.map.committed,
        }
    }

    /// Adds entries behind the last one. They can be read when this returns and are durable when `done` is
    /// called.
    ///
    /// # Errors
    /// `InvalidInput` when an index is not the next one (a log that never held any may begin anywhere) or a
    /// payload is too large; any other when the log is poisoned or closed. Then nothing is queued and `done`
    /// is dropped.
    pub fn append(&self, entries: Vec<LogEntry>, done: Completion) -> io::Result<()> {
        self.change(done, |map| {
            map.append(&entries)?;
            Ok(Change::Append(entries, map.epoch()))
        })
    }

    /// As [`Wal::append`], but when nothing else waits and the disk is a fast one, the entries are durable
    /// and `done` has been called when this returns: for a caller that has nothing else to do meanwhile.
    /// Handing over to the writer's thread and back takes as long as a third of a sync.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn append_here(&self, entries: Vec<LogEntry>, done: Completion) -> io::Result<()> {
        let inner = &*self.inner;
        let mut log = inner.shared.log.lock();
        inner.shared.check_open(&log)?;
        log.map.append(&entries)?;
        let change = Change::Append(entries, log.map.epoch());
        let work = Work { change, done: Some(done) };
        // With a change on its way, the one after it has to queue behind.
        let writer = inner.in_place.as_ref().filter(|_| inner.driver == Driver::Thread);
        let here = writer.filter(|_| log.queued.is_empty());
        let Some(mut writer) = here.and_then(|writer| driver::write_here(writer, work.change.bytes())) else {
            return inner.send(&mut log, work);
        };
        log.note_queued(work.change.bytes());
        drop(log);
        writer.writer.push(work);
        // What it comes to is told to `done`, or found by the thread when it wakes.
        writer.round();
        Ok(())
    }

    /// Replaces the vote. Its bytes mean nothing here.
    ///
    /// # Errors
    /// When the log is poisoned or closed.
    pub fn save_vote(&self, vote: Bytes, done: Completion) -> io::Result<()> {
        self.change(done, |map| {
            map.vote = Some(vote.clone());
            Ok(Change::Vote(vote))
        })
    }

    /// Removes all entries behind `last`; `None` removes all.
    ///
    /// # Errors
    /// `InvalidInput` when `last` is neither an entry nor the purge point; when the log is poisoned or closed.
    pub fn truncate_after(&self, last: Option<LogId>, done: Completion) -> io::Result<()> {
        self.change(done, |map| {
            map.truncate_after(last)?;
            Ok(Change::Truncate(last, map.epoch()))
        })
    }

    /// Gives up all entries up to and including `up_to`, which may be beyond the last. Whole files that hold
    /// nothing else are freed after that is durable.
    ///
    /// # Errors
    /// When the log is poisoned or closed.
    pub fn purge(&self, up_to: LogId, done: Completion) -> io::Result<()> {
        self.change(done, |map| {
            map.purge(up_to)?;
            Ok(Change::Purge(up_to))
        })
    }

    /// Makes the log go on behind `id`, whatever it holds: entries that do not lead there are removed, `id` becomes
    /// the purge point, and the vote stays. For a member that has what the log says up to `id` from elsewhere.
    ///
    /// These are two changes in one queue. A crash between them leaves a log that ends before `id`, and of which
    /// the same can be asked again.
    ///
    /// # Errors
    /// `InvalidInput` when the log begins behind `id`; when the log is poisoned or closed.
    pub fn restart_behind(&self, id: LogId, done: Completion) -> io::Result<()> {
        let inner = &*self.inner;
        let mut log = inner.shared.log.lock();
        inner.shared.check_open(&log)?;
        let map = &mut log.map;
        if map.first() > id.index.0 + 1 || map.purged.is_some_and(|purged| purged.index >= id.index) {
            let what = format!("the log begins at {}, behind entry {}", map.first(), id.index);
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        }
        if map.next() > id.index.0 && map.log_id(id.index) != Some(id) {
            let before = id.index.0.checked_sub(1).and_then(|before| map.log_id(LogIndex(before)));
            map.truncate_after(before)?;
            let change = Change::Truncate(before, map.epoch());
            inner.send(&mut log, Work { change, done: Some(Box::new(drop)) })?;
        }
        log.map.purge(id)?;
        inner.send(&mut log, Work { change: Change::Purge(id), done: Some(done) })
    }

    /// Remembers how far the log is committed. It costs no sync: it rides in the next group, or in the
    /// closing one when the log falls idle, and may be lost in a crash before that.
    ///
    /// # Errors
    /// When the log is poisoned or closed.
    pub fn save_committed(&self, id: LogId) -> io::Result<()> {
        let mut log = self.inner.shared.log.lock();
        self.inner.shared.check_open(&log)?;
        log.map.committed = Some(id);
        Ok(())
    }

    fn change(
        &self,
        done: Completion,
        make: impl FnOnce(&mut LogMap) -> io::Result<Change>,
    ) -> io::Result<()> {
        let inner = &*self.inner;
        let mut log = inner.shared.log.lock();
        inner.shared.check_open(&log)?;
        let change = make(&mut log.map)?;
        inner.send(&mut log, Work { change, done: Some(done) })
    }

    /// Entries of a range in order, as far as they are there: from memory, else from files with their sums
    /// checked. Stops before the entry that would take the payloads beyond `bytes_max`, but gives one.
    ///
    /// # Errors
    /// `NotFound` when the range begins at a purged entry, `InvalidData` when a file's bytes are damaged.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let shared = &self.inner.shared;
        let first = range.start;
        let found = shared.log.lock().map.find(range, bytes_max)?;
        shared.files.load(found, self.inner.check_sums).map_err(|error| {
            // The file may have been freed, and even filled anew, since it was looked up.
            let purged = shared.log.lock().map.purged;
            if purged.is_some_and(|purged| purged.index.0 >= first) {
                return io::Error::new(ErrorKind::NotFound, format!("entry {first} is purged"));
            }
            error
        })
    }

    /// The id at an index, without reading the entry; `None` when there is none or it is purged.
    #[must_use]
    pub fn log_id(&self, index: LogIndex) -> Option<LogId> {
        self.inner.shared.log.lock().map.log_id(index)
    }

    /// The newest entry that no crash and no leader takes back: on this disk and known to be committed, or purged.
    #[must_use]
    pub fn settled(&self) -> Option<LogIndex> {
        self.inner.shared.log.lock().map.settled().map(LogIndex)
    }

    /// Whether the log is past `id`, whatever happens now: it is on disk, or the purge point is there or further.
    #[must_use]
    pub fn has_reached(&self, id: LogId) -> bool {
        let map = &self.inner.shared.log.lock().map;
        map.purged.is_some_and(|purged| purged.index >= id.index) || map.is_written(id)
    }

    /// Up to which entry, `up_to` at most, the log may be purged so that the entries behind it have at least
    /// `keep_bytes`; none when nothing is to be purged.
    #[must_use]
    pub fn purge_point(&self, up_to: LogIndex, keep_bytes: u64) -> Option<LogIndex> {
        self.inner.shared.log.lock().map.purge_point(up_to.0, keep_bytes).map(LogIndex)
    }

    /// Whether it takes writes. Asks the file system for free space at most once a second.
    #[must_use]
    pub fn health(&self) -> WalHealth {
        let shared = &self.inner.shared;
        match shared.poison() {
            Some(why) => WalHealth::Poisoned { why },
            None => self.inner.space.health(shared.is_full()),
        }
    }

    /// Whether the writer waits for room for its next file; tells of every change.
    #[must_use]
    pub fn out_of_room(&self) -> watch::Receiver<bool> {
        self.inner.shared.full.subscribe()
    }

    /// Waits until the log takes no more writes for good, and says why.
    pub async fn poisoned(&self) -> String {
        let mut poison = self.inner.shared.poison.subscribe();
        match poison.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) {
            Some(why) => why,
            // The sender lives as long as this handle.
            None => std::future::pending().await,
        }
    }

    /// Numbers for metrics and status pages.
    #[must_use]
    pub fn metrics(&self) -> WalMetrics {
        let inner = &*self.inner;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &inner.shared.counters;
        let sync_us = inner.shared.sync_us.lock().clone();
        let log = inner.shared.log.lock();
        let oldest = log.queued.front().map_or(Duration::ZERO, Instant::elapsed);
        WalMetrics {
            groups: count(&counters.groups),
            syncs: count(&counters.groups),
            bytes_written: count(&counters.bytes_written),
            entries: log.map.len() as u64,
            queue_depth: log.queued.len(),
            queue_bytes: log.queued_bytes,
            oldest_ms: u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX),
            sync_us,
            files: count(&counters.files),
            disk_bytes: count(&counters.disk_bytes),
            tail_bytes: log.map.tail_bytes(),
            writer: inner.writer_name,
        }
    }

    /// Writes what is queued and a closing group, and stops the writer. Later changes fail; reading goes on.
    /// Closing again does nothing.
    ///
    /// # Errors
    /// When the log is poisoned, or the disk is full and something still waits.
    pub fn close(&self) -> io::Result<()> {
        let inner = &*self.inner;
        let (done, result) = driver::reply();
        {
            let mut log = inner.shared.log.lock();
            if log.closed {
                return Ok(());
            }
            log.closed = true;
            inner.send(&mut log, Work { change: Change::Close, done: Some(done) })?;
        }
        if let Some(in_place) = inner.without_thread() {
            driver::run_to_end(in_place);
            inner.wake.notify_one();
        }
        let result = result.recv().unwrap_or_else(|_| Err(inner.writer_is_gone()));
        inner.join();
        result
    }

    /// Runs the writer once; whether it did anything. Only for `Driver::Step`.
    #[doc(hidden)]
    pub fn step(&self) -> bool {
        self.inner.without_thread().is_some_and(|writer| writer.lock().round() == Round::Worked)
    }

    /// Writes the closing group of an idle log. Only for `Driver::Step`.
    #[doc(hidden)]
    pub fn step_idle(&self) {
        if let Some(writer) = self.inner.without_thread() {
            writer.lock().close_idle();
        }
    }
}

/// All whole groups of a log that is not open, in order.
///
/// # Errors
/// As [`Wal::open`].
#[doc(hidden)]
pub fn groups(env: &Env, dir: &Path) -> Result<Vec<GroupPlace>> {
    let mut places = Vec::new();
    recover::recover(&*env.io, dir, OpenMode::Read, true, true, &mut |place| places.push(place))?;
    Ok(places)
}

impl Inner {
    /// Queues a change; the caller still holds the lock under which the map took it.
    fn send(&self, log: &mut Log, work: Work) -> io::Result<()> {
        let bytes = work.change.bytes();
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(work).is_ok());
        if !sent {
            return Err(self.writer_is_gone());
        }
        log.note_queued(bytes);
        if self.driver == Driver::Task {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// The writer, if nothing but the caller runs it.
    fn without_thread(&self) -> Option<&Mutex<InPlace>> {
        self.in_place.as_deref().filter(|_| self.driver != Driver::Thread)
    }

    fn writer_is_gone(&self) -> io::Error {
        let why = self.shared.poison().unwrap_or_else(|| "the log's writer is gone".into());
        io::Error::new(ErrorKind::BrokenPipe, why)
    }

    fn join(&self) {
        let thread = self.thread.lock().take();
        // The last handle may go inside a completion, on the very thread to wait for.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // The writer answers for its panics itself; there is nothing left that could.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.log.lock().closed = true;
        self.queue = None;
        self.wake.notify_one();
        self.join();
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}
