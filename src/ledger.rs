//! The embedded ledger: the server's stages and files inside a program of its own, called like a map.
//!
//! ```text
//!  put, delete, apply_batch ─► Ingest ─► batch ─► replicate ─► raft, wal ─► apply     the caller sleeps until
//!        ▲                                                                    │       its write is on disk
//!        └─────────────────────────────── answer ◄────────────────────────────┘
//!  get, history, scan, len ──► Reader ──► state            on the caller's thread, past every queue
//! ```
//!
//! Takes calls from any number of threads and blocks each until it is done; gives [`Record`]s and positions.
//! It owns a thread for the pipeline, whose clients are the callers. It does not own the stages, the formats
//! or recovery: those are [`Node`]'s, of which a ledger is one with a single voter, without sockets. So a
//! directory that was written here can become a server's (`scribe-node --adopt-embedded`).
//!
//! Reads need no barrier: a sole voter has applied whatever it has answered, so that every thread reads its
//! own writes, and those of others that were answered before the read began.

mod batch;
mod proof;
mod scan;
mod typed;
mod wait;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use self::wait::{apart, wait};
pub use self::{
    batch::{Appended, Batch},
    scan::{History, Keys, Scan},
};
use crate::{
    config::Config,
    env::real::real_env,
    error::{Code, Error, Result},
    node::{Founding, Node, NodeInfo},
    pipeline::{ingest::Ingest, message::Written},
    read::Reader,
    state::batch::Draft,
    types::{Op, Seq},
    wal::{Driver, WalHealth, WalOptions},
};
pub use crate::{proof::merkle_map::MerkleProof, read::Record};

/// An append-only, durable key–value ledger in this process. Share it between threads by reference or in an
/// `Arc`; every method takes `&self`.
///
/// Keys have 1 to 1,024 bytes and do not begin with `\0scribe\0`; values have up to 64 MiB. A write is on
/// disk when its call returns. Nothing is overwritten: older versions stay readable through
/// [`Ledger::history`].
///
/// Every call may be made anywhere, also on a thread of somebody's async runtime, which it then blocks.
///
/// ```
/// use scribe_ledger::Ledger;
///
/// # fn main() -> scribe_ledger::Result<()> {
/// let ledger = Ledger::temp()?;
/// ledger.put("colour", "green")?;
/// ledger.put("colour", "blue")?;
/// assert_eq!(ledger.get("colour")?.as_deref(), Some(&b"blue"[..]));
/// assert_eq!(ledger.history("colour").count(), 2);
/// # Ok(())
/// # }
/// ```
pub struct Ledger {
    ingest: Ingest,
    reader: Reader,
    info: NodeInfo,
    /// `None` only while it closes.
    running: Option<Running>,
    path: PathBuf,
    /// Removed when everything above is gone.
    _temp: Option<TempDir>,
}

/// What has to be stopped.
struct Running {
    node: Node,
    runtime: Runtime,
}

/// Threads of the pipeline's runtime where the configuration names no number: the callers, the log's writer and
/// this one already share the cores.
const RUNTIME_THREADS: usize = 1;

impl Ledger {
    /// Opens the ledger in this directory, or founds one there, with the server's default settings.
    ///
    /// # Errors
    /// [`Code::Io`] when another process, or an open ledger of this one, uses the directory, and when the disk
    /// fails; [`Code::InvalidConfig`] when the directory is a server's; [`Code::Corrupt`] when a file in it is
    /// damaged. The message says which and what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let mut config = Config::default();
        config.node.data_dir = path.as_ref().to_path_buf();
        Self::open_with(&config)
    }

    /// As [`Ledger::open`], in the directory `node.data_dir` and with the settings of the sections `pipeline`,
    /// `wal`, `storage` and `limits`. Those about networks, other nodes and logging have no effect.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_with(config: &Config) -> Result<Self> {
        let worker_threads = match config.node.worker_threads {
            0 => RUNTIME_THREADS,
            threads => threads,
        };
        let options = WalOptions::new(config.wal.clone(), Driver::Thread);
        let running = apart(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(worker_threads)
                .thread_name("ledger")
                .enable_time()
                .build()
                .map_err(|e| Error::io("starting the ledger's runtime", &e))?;
            let node = runtime.block_on(Node::start(real_env(), config, Founding::Embedded, options))?;
            Ok::<_, Error>(Running { node, runtime })
        })?;
        let Running { node, .. } = &running;
        let (ingest, reader, info) = (node.ingest(), node.reader(), node.info());
        let path = config.node.data_dir.clone();
        Ok(Self { ingest, reader, info, running: Some(running), path, _temp: None })
    }

    /// A new ledger in a directory that is removed when the ledger is dropped. It is as durable as any other
    /// until then, and lies where the system keeps temporary files (`TMPDIR`).
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn temp() -> Result<Self> {
        let temp = tempfile::Builder::new()
            .prefix("scribe-ledger-")
            .tempdir()
            .map_err(|e| Error::io("creating a temporary directory", &e))?;
        let mut ledger = Self::open(temp.path())?;
        ledger._temp = Some(temp);
        Ok(ledger)
    }

    /// The directory that holds it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives a key a value; returns the position of the new record once it is on disk.
    ///
    /// # Errors
    /// [`Code::InvalidKey`] and [`Code::TooLarge`] when the pair is outside the bounds above;
    /// [`Code::Overloaded`] when calls of other threads hold more than `pipeline.ingest_bytes_max`, and
    /// [`Code::DiskFull`]: then nothing was written, and the call may be repeated later.
    /// [`Code::OutcomeUnknown`] and [`Code::Unavailable`] when the disk has failed under it: open the ledger
    /// again to see what is in it.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Seq> {
        let mut draft = Draft::new();
        draft.put(key.as_ref(), value.as_ref())?;
        self.submit(draft).map(|written| written.first_seq)
    }

    /// Appends a tombstone: from here on the key is absent, and its older versions stay readable. A key that
    /// was never written gets one, too.
    ///
    /// # Errors
    /// As [`Ledger::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Seq> {
        let mut draft = Draft::new();
        draft.delete(key.as_ref())?;
        self.submit(draft).map(|written| written.first_seq)
    }

    /// An empty batch, to be filled and given to [`Ledger::apply_batch`].
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new()
    }

    /// Appends all records of a batch, in their order and in consecutive positions: all of them, or none.
    ///
    /// # Errors
    /// [`Code::Malformed`] when it is empty; [`Code::TooLarge`] when it is larger than
    /// `pipeline.ingest_bytes_max`; else as [`Ledger::put`].
    pub fn apply_batch(&self, batch: Batch) -> Result<Appended> {
        let Written { first_seq, count, .. } = self.submit(batch.draft)?;
        Ok(Appended { first_seq, last_seq: Seq(first_seq.0 + count - 1) })
    }

    fn submit(&self, draft: Draft) -> Result<Written> {
        let permit = self.ingest.permit(draft.bytes())?;
        wait(permit.submit(draft))
    }

    /// The value of a key, without a copy; `None` when it was never written or is deleted.
    ///
    /// # Errors
    /// [`Code::Io`] and [`Code::Corrupt`] when the file that holds it cannot be read.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let newest = self.reader.newest(key.as_ref())?;
        Ok(newest.filter(|record| record.op == Op::Put).map(|record| record.value))
    }

    /// All versions of a key, tombstones included, newest first, as of now.
    ///
    /// # Errors
    /// Of each item: as [`Ledger::get`].
    pub fn history(&self, key: impl AsRef<[u8]>) -> History<'_> {
        History::new(&self.reader, key.as_ref())
    }

    /// The live keys of a range or with a prefix, with their newest records, in byte order; all as of now,
    /// whatever is written while it goes on.
    ///
    /// The first scan after many new keys sorts them.
    ///
    /// ```
    /// # use scribe_ledger::{Ledger, ledger::Keys};
    /// # fn main() -> scribe_ledger::Result<()> {
    /// # let ledger = Ledger::temp()?;
    /// for key in ["a/1", "a/2", "b/1"] {
    ///     ledger.put(key, "")?;
    /// }
    /// assert_eq!(ledger.scan(..).count(), 3);
    /// assert_eq!(ledger.scan("a/2".."b/1").count(), 1);
    /// assert_eq!(ledger.scan(Keys::with_prefix("a/")).count(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Of each item: as [`Ledger::get`].
    pub fn scan(&self, keys: impl Into<Keys>) -> Scan<'_> {
        Scan::new(&self.reader, keys.into())
    }

    /// How many keys are live, exactly, as of the last write that was answered. Nobody keeps that number: it goes
    /// through all keys, some million a second, without reading their values.
    ///
    /// # Errors
    /// As [`Ledger::get`].
    pub fn len(&self) -> Result<u64> {
        self.reader.count_live()
    }

    /// Whether no key is live.
    ///
    /// # Errors
    /// As [`Ledger::get`].
    pub fn is_empty(&self) -> Result<bool> {
        self.scan(..).next().transpose().map(|first| first.is_none())
    }

    /// One past the position of the newest record: how many records there are, versions and tombstones included.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.reader.next_seq()
    }

    /// Makes sure that everything written is on disk. It always is when its call has returned, so this only
    /// says whether the log is still in order.
    ///
    /// # Errors
    /// [`Code::Io`] when the disk has failed since the ledger was opened. What was answered is on disk all
    /// the same.
    pub fn flush(&self) -> Result<()> {
        match self.info.wal().0 {
            WalHealth::Ok | WalHealth::DiskFull { .. } => Ok(()),
            WalHealth::Poisoned { why } => Err(Error::new(
                Code::Io,
                format!(
                    "the write-ahead log in {} has failed: {why}; what was answered is on disk: see to the disk, \
                     then open the ledger again",
                    self.path.display()
                ),
            )),
        }
    }

    /// Deletes every key that is live now, in batches of bounded size, and says how many; their history stays. A
    /// key that another thread writes meanwhile may be deleted with what was just written, or be left.
    ///
    /// # Errors
    /// As [`Ledger::put`]. Part of the keys may be deleted then; calling it again deletes the rest.
    pub fn clear(&self) -> Result<u64> {
        let mut cleared = 0;
        let mut batch = self.batch();
        for record in self.scan(..) {
            batch.delete(record?.key)?;
            if batch.len() == CLEAR_OPS_MAX {
                cleared += batch.len() as u64;
                self.apply_batch(std::mem::take(&mut batch))?;
            }
        }
        if !batch.is_empty() {
            cleared += batch.len() as u64;
            self.apply_batch(batch)?;
        }
        Ok(cleared)
    }

    /// Finishes what is under way and closes the files, so that the next start need not doubt the log's end.
    /// Dropping a ledger does the same, but cannot say what failed.
    ///
    /// # Errors
    /// [`Code::Io`] when the log cannot be closed. What was answered is on disk all the same.
    pub fn close(mut self) -> Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> Result<()> {
        let Some(Running { node, runtime }) = self.running.take() else { return Ok(()) };
        apart(|| {
            let stopped = runtime.block_on(node.stop());
            // Nothing that was answered is still under way; what else runs may be dropped.
            runtime.shutdown_background();
            stopped
        })
    }
}

/// Tombstones of one batch of [`Ledger::clear`]: at most 4 MiB of keys.
const CLEAR_OPS_MAX: usize = 4_096;

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, path = %self.path.display(), "the ledger was not closed in order");
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("path", &self.path).finish_non_exhaustive()
    }
}
