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
    collections::VecDeque,
    fmt,
    io::{self, ErrorKind},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::Sender;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    config::{WalConfig, WalIo},
    env::{BLOCK_BYTES, Env, OpenMode},
    error::{Code, Error, Result},
    types::LogIndex,
};

mod buffer;
mod driver;
mod files;
pub mod format;
mod index;
mod metrics;
mod pool;
mod read;
mod recover;
mod writer;

pub use driver::Driver;
pub use metrics::{WalHealth, WalMetrics};
#[doc(hidden)]
pub use recover::GroupPlace;

use files::LogDir;
use index::LogMap;
use metrics::Counters;
use pool::{FilePool, Watermark};
use read::FileTable;
use writer::{Change, Round, Work, Writer, WriterSetup, Written};

/// Free space is asked for at most this often.
const SPACE_CHECK_EVERY: Duration = Duration::from_secs(1);

/// Identity of a log entry: the term of the leader that proposed it, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// Raft term.
    pub term: u64,
    /// Place in the log, from 0.
    pub index: LogIndex,
}

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

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// What an operator can set.
    pub config: WalConfig,
    /// Who runs the writer.
    pub driver: Driver,
    /// Bugs to plant, to see whether the tests find them. None by default.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

impl WalOptions {
    /// These settings, run by this driver.
    #[must_use]
    pub fn new(config: WalConfig, driver: Driver) -> Self {
        Self { config, driver, sabotage: Sabotage::default() }
    }
}

/// Bugs that the crash harness must find; each is a branch on a constant `false` in normal use.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sabotage {
    /// Completes before the group is written.
    pub ack_before_sync: bool,
    /// Takes files into use without syncing the directory.
    pub skip_dir_sync: bool,
    /// Tries a failed write or sync again and goes on.
    pub retry_after_error: bool,
    /// Believes groups and records without checking sums.
    pub skip_sums: bool,
    /// Moves votes behind appends.
    pub reorder_votes: bool,
    /// Gives every file the same generation.
    pub reuse_generation: bool,
    /// Begins files without restating vote and purge point.
    pub skip_opening: bool,
    /// Frees files when the purge is queued, not when it is durable.
    pub free_early: bool,
    /// Does not carry the last group over into the next run's file.
    pub skip_carry: bool,
    /// Takes every bad group for a torn tail.
    pub skip_damage_check: bool,
}

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
    writer: Arc<Mutex<Writer>>,
    writer_name: &'static str,
    thread: Mutex<Option<JoinHandle<()>>>,
    env: Env,
    dir: PathBuf,
    disk_free_bytes_min: u64,
    file_bytes: u64,
    spares_held_back: Arc<AtomicBool>,
    free_seen: Mutex<Option<(Instant, u64)>>,
    check_sums: bool,
}

/// What handles, writer and driver share.
struct Shared {
    log: Mutex<Log>,
    files: FileTable,
    counters: Counters,
    sync_us: Mutex<Histogram<u64>>,
    full: AtomicBool,
    /// Why nothing is written any more. Set under the lock of `log`, and never taken back.
    poison: watch::Sender<Option<String>>,
}

struct Log {
    map: LogMap,
    /// When each change that waits was queued.
    queued: VecDeque<Instant>,
    queued_bytes: u64,
    closed: bool,
}

impl Shared {
    fn is_poisoned(&self) -> bool {
        self.poison.borrow().is_some()
    }

    fn poison(&self) -> Option<String> {
        self.poison.borrow().clone()
    }

    /// Refuses all later changes; the first reason stays.
    fn poison_with(&self, why: &str) {
        // Whoever is queueing a change is before this, and answered by the writer, or after it and refused.
        let _log = self.log.lock();
        self.poison.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert_with(|| why.to_owned());
            first
        });
    }

    fn check_open(&self, log: &Log) -> io::Result<()> {
        match &*self.poison.borrow() {
            Some(why) => Err(io::Error::other(why.clone())),
            None if log.closed => Err(io::Error::new(ErrorKind::BrokenPipe, "the log is closed")),
            None => Ok(()),
        }
    }

    fn is_closed(&self) -> bool {
        self.log.lock().closed
    }

    fn set_full(&self, full: bool) {
        self.full.store(full, Relaxed);
    }

    fn unqueue(&self, work: &Work) {
        self.log.lock().unqueue(work);
    }

    fn group_written(&self, took: Duration, group: &VecDeque<Work>) {
        let mut log = self.log.lock();
        group.iter().for_each(|work| log.unqueue(work));
        drop(log);
        self.sync_us.lock().saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

impl Log {
    fn unqueue(&mut self, work: &Work) {
        self.queued_bytes = self.queued_bytes.saturating_sub(work.change.bytes());
        if work.done.is_some() {
            self.queued.pop_front();
        }
    }
}

impl Wal {
    /// Recovers the log in `dir`, which is made if it is missing, and starts its writer. Blocks.
    ///
    /// The caller holds the lock of the data directory: two writers of one log would ruin it.
    ///
    /// # Errors
    /// `Corrupt` when bytes that were durable have changed, with file and offset; the disk is as it was.
    /// `Io` and `DiskFull` when the operating system refuses, `InvalidConfig` when the settings ask for
    /// direct I/O and the file system has none.
    pub fn open(env: &Env, dir: &Path, options: WalOptions) -> Result<Self> {
        let WalOptions { mut config, driver, sabotage } = options;
        config.file_bytes = files::whole_blocks(config.file_bytes.max(2 * BLOCK_BYTES as u64));
        let mode = if config.io == WalIo::Buffered { OpenMode::Buffered } else { OpenMode::Direct };
        let doing = |what: &str| {
            let what = format!("{what} in {}", dir.display());
            move |error: io::Error| match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    Error::new(Code::DiskFull, format!("{what}: {error}"))
                }
                _ => Error::io(what, &error),
            }
        };
        env.io.create_dir_all(dir).map_err(doing("making the log directory"))?;
        let recovered = recover::recover(
            &*env.io,
            dir,
            mode,
            !sabotage.skip_sums,
            !sabotage.skip_damage_check,
            &mut |_| {},
        )?;
        // From here on the log is known to be sound, and the disk may be changed.
        if let Some((path, offset)) = &recovered.cut {
            cut(env, mode, path, *offset).map_err(doing("cutting a torn group"))?;
        }
        let left = tidy(env, &recovered, config.file_bytes).map_err(doing("tidying log files"))?;
        let held_back = Arc::new(AtomicBool::new(false));
        let watermark =
            Watermark { free_bytes_min: config.disk_free_bytes_min, held_back: held_back.clone() };
        let log_dir = LogDir { env: env.clone(), path: dir.to_path_buf(), mode };
        let with_helper = driver == Driver::Thread;
        let pool = FilePool::new(log_dir.clone(), config.file_bytes, watermark, left, with_helper)
            .map_err(doing("starting the log's helper"))?;

        let state = recovered.state;
        let mut map = LogMap::new(config.tail_bytes_max, state.first, state.slots);
        map.purged = state.purged;
        map.last = state.last;
        map.vote = state.vote.clone();
        map.committed = state.committed;
        let files = FileTable::new(env.io.clone());
        recovered.files.iter().for_each(|file| files.add(file.number, file.path.clone()));
        let shared = Arc::new(Shared {
            log: Mutex::new(Log { map, queued: VecDeque::new(), queued_bytes: 0, closed: false }),
            files,
            counters: Counters::default(),
            // One microsecond to a minute, at two digits: 20 KiB.
            sync_us: Mutex::new(
                Histogram::new_with_max(60_000_000, 2)
                    .map_err(|e| Error::new(Code::Internal, e.to_string()))?,
            ),
            full: AtomicBool::new(false),
            poison: watch::Sender::new(None),
        });
        let (queue, receiver) = crossbeam_channel::unbounded();
        let written =
            Written { vote: state.vote, purged: state.purged, committed: state.committed, last: state.last };
        let (disk_free_bytes_min, file_bytes) = (config.disk_free_bytes_min, config.file_bytes);
        let wants_direct = config.io == WalIo::Direct;
        let mut writer = Writer::new(WriterSetup {
            shared: shared.clone(),
            queue: receiver,
            dir: log_dir,
            config,
            sabotage,
            pool,
            files: recovered.files.into(),
            file_number_next: recovered.file_number_next,
            sequence_next: recovered.last_group.as_ref().map_or(1, |last| last.header.sequence + 1),
            written,
        });
        writer.begin(recovered.last_group.as_ref()).map_err(doing("beginning a log file"))?;
        let writer_name = if writer.writes_through() { "direct" } else { "buffered" };
        if wants_direct && writer_name != "direct" {
            return Err(Error::new(
                Code::InvalidConfig,
                format!(
                    "wal.io is direct, and the file system of {} has no direct I/O; use auto",
                    dir.display()
                ),
            ));
        }
        let writer = Arc::new(Mutex::new(writer));
        let wake = Arc::new(Notify::new());
        let thread = match driver {
            Driver::Thread => {
                Some(driver::spawn_thread(writer.clone()).map_err(doing("starting the log's thread"))?)
            }
            Driver::Task => {
                driver::spawn_task(writer.clone(), wake.clone()).map_err(doing("starting the log's task"))?;
                None
            }
            Driver::Step => None,
        };
        let inner = Inner {
            shared,
            queue: Some(queue),
            wake,
            driver,
            writer,
            writer_name,
            thread: Mutex::new(thread),
            env: env.clone(),
            dir: dir.to_path_buf(),
            disk_free_bytes_min,
            file_bytes,
            spares_held_back: held_back,
            free_seen: Mutex::new(None),
            check_sums: !sabotage.skip_sums,
        };
        let wal = Self { inner: Arc::new(inner) };
        wal.load_tail().map_err(doing("reading the newest entries"))?;
        Ok(wal)
    }

    /// Fills the tail with the newest entries, as it was before the restart.
    fn load_tail(&self) -> io::Result<()> {
        let (next, count) = {
            let log = self.inner.shared.log.lock();
            (log.map.next(), log.map.tail_room())
        };
        let entries = self.read(next - count..next, usize::MAX)?;
        self.inner.shared.log.lock().map.set_tail(entries.into_iter().map(|entry| entry.payload).collect());
        Ok(())
    }

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

    /// Whether it takes writes. Asks the file system for free space at most once a second.
    #[must_use]
    pub fn health(&self) -> WalHealth {
        let inner = &*self.inner;
        if let Some(why) = inner.shared.poison() {
            return WalHealth::Poisoned { why };
        }
        let min = inner.disk_free_bytes_min;
        let full = inner.shared.full.load(Relaxed);
        // If the file system does not say, only a failed attempt to make a file counts.
        let held_back = inner.spares_held_back.load(Relaxed);
        let free = inner.free_bytes(held_back).unwrap_or(if full { 0 } else { u64::MAX });
        // The next file is made ahead, and not below the watermark. What is admitted before that shows goes
        // into the file that is there, and then into the room below.
        let held_back = held_back && free < min.saturating_add(inner.file_bytes);
        inner.spares_held_back.fetch_and(held_back, Relaxed);
        if full || held_back || free < min { WalHealth::DiskFull { free, min } } else { WalHealth::Ok }
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
        if inner.driver != Driver::Thread {
            driver::run_to_end(&inner.writer);
            inner.wake.notify_one();
        }
        let result = result.recv().unwrap_or_else(|_| Err(io::Error::other("the log's writer is gone")));
        inner.join();
        result
    }

    /// Runs the writer once; whether it did anything. Only for `Driver::Step`.
    #[doc(hidden)]
    pub fn step(&self) -> bool {
        self.inner.writer.lock().round() == Round::Worked
    }

    /// Writes the closing group of an idle log. Only for `Driver::Step`.
    #[doc(hidden)]
    pub fn step_idle(&self) {
        self.inner.writer.lock().close_idle();
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
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the log's writer is gone"));
        }
        log.queued.push_back(Instant::now());
        log.queued_bytes += bytes;
        if self.driver == Driver::Task {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Free bytes on disk; as of the last second unless `now`.
    fn free_bytes(&self, now: bool) -> Option<u64> {
        let mut seen = self.free_seen.lock();
        if let Some((at, free)) = *seen
            && !now
            && at.elapsed() < SPACE_CHECK_EVERY
        {
            return Some(free);
        }
        let free = self.env.io.free_bytes(&self.dir).ok()?;
        *seen = Some((Instant::now(), free));
        Some(free)
    }

    fn join(&self) {
        let thread = self.thread.lock().take();
        // The last handle may go inside a completion, on the very thread to wait for.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // A panic there has been reported by the panic hook; waiters got a closed channel.
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

/// Ends a file's log at `offset`: what may be a torn group there can never be read as a whole one.
fn cut(env: &Env, mode: OpenMode, path: &Path, offset: u64) -> io::Result<()> {
    let mut zeros = buffer::AlignedBuffer::default();
    zeros.reset(BLOCK_BYTES);
    zeros.pad_to(BLOCK_BYTES);
    let file = env.io.open(path, mode)?;
    file.write_at(zeros.bytes(), offset)?;
    file.sync()
}

/// Removes files that hold nothing, and gives back the spares that can be used again.
fn tidy(env: &Env, recovered: &recover::Recovered, file_bytes: u64) -> io::Result<Vec<PathBuf>> {
    for file in &recovered.unused {
        env.io.remove(&file.path)?;
    }
    let mut left = Vec::new();
    for path in &recovered.spares {
        if env.io.open(path, OpenMode::Read)?.len()? == file_bytes {
            left.push(path.clone());
        } else {
            env.io.remove(path)?;
        }
    }
    Ok(left)
}
