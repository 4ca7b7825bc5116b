//! Opening a log: recovery, then the first changes to the disk, then the writer.
//!
//! Takes a directory and options, gives a running [`Wal`]. It does not own what recovery judges, nor what the
//! writer does afterwards; it owns their order. Nothing on disk changes before the log is known to be sound, and
//! whoever has more to ask of it, such as whether it goes on where other files end, asks between the two steps:
//!
//! ```text
//! Wal::recover ─► RecoveredWal::state ─► RecoveredWal::begin
//!   reads           the caller checks      writes
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Driver, Inner, Wal, WalOptions, WalState,
    change::OpeningState,
    driver::{self, InPlace},
    files::{LogDir, is_no_space, whole_blocks},
    index::LogMap,
    log_files::LogFiles,
    pool::{FilePool, Watermark},
    read::FileTable,
    recover::{self, Recovered},
    shared::Shared,
    sink::{self, FileSink},
    space::Space,
    uring,
    writer::Writer,
};
use crate::{
    config::WalIo,
    env::{AlignedBuffer, BLOCK_BYTES, Env, OpenMode, refuses_direct},
    error::{Code, Error, Result},
    types::LogIndex,
};

/// A log that has been read and not changed.
#[derive(Debug)]
pub struct RecoveredWal {
    env: Env,
    dir: PathBuf,
    options: WalOptions,
    recovered: Recovered,
}

impl Wal {
    /// Reads the log in `dir`, and changes nothing there. Blocks.
    ///
    /// The caller holds the lock of the data directory: two writers of one log would ruin it.
    ///
    /// # Errors
    /// `Corrupt` when bytes that were durable have changed, with file and offset; `Io` when the operating system
    /// refuses.
    pub fn recover(env: &Env, dir: &Path, options: WalOptions) -> Result<RecoveredWal> {
        let (check_sums, check_damage) = (!options.sabotage.skip_sums, !options.sabotage.skip_damage_check);
        let mode = mode_asked(options.config.io);
        let recovered = recover::recover(&*env.io, dir, mode, check_sums, check_damage, &mut |_| {})?;
        Ok(RecoveredWal { env: env.clone(), dir: dir.to_path_buf(), options, recovered })
    }

    /// [`Wal::recover`] and [`RecoveredWal::begin`] in one.
    ///
    /// # Errors
    /// As theirs.
    pub fn open(env: &Env, dir: &Path, options: WalOptions) -> Result<Self> {
        Self::recover(env, dir, options)?.begin()
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
}

impl RecoveredWal {
    /// What the log holds.
    #[must_use]
    pub fn state(&self) -> WalState {
        let state = &self.recovered.state;
        WalState {
            first: LogIndex(state.first),
            purged: state.purged,
            last: state.last,
            vote: state.vote.clone(),
            committed: state.committed,
        }
    }

    /// Makes the directory if it is missing, ends what a crash has torn, begins a file and starts the writer. Blocks.
    ///
    /// # Errors
    /// `Io` and `DiskFull` when the operating system refuses, `InvalidConfig` when the settings ask for direct I/O
    /// and the file system has none.
    pub fn begin(self) -> Result<Wal> {
        let Self { env, dir, options, recovered } = self;
        let (env, dir) = (&env, dir.as_path());
        let WalOptions { mut config, driver, piece_bytes, sabotage } = options;
        config.file_bytes = whole_blocks(config.file_bytes.max(2 * BLOCK_BYTES as u64));
        let mode = mode_asked(config.io);
        let mut log_dir = LogDir { env: env.clone(), path: dir.to_path_buf(), mode };
        let doing = |what| doing(dir, what);
        env.io.create_dir_all(dir).map_err(doing("making the log directory"))?;
        if mode == OpenMode::Direct && !takes_direct_writes(&log_dir).map_err(doing("trying a write"))? {
            log_dir.mode = without_direct(dir, config.io)?;
        }
        if let Some((path, offset)) = &recovered.cut {
            cut(&log_dir, path, *offset).map_err(doing("cutting a torn group"))?;
        }
        let left = tidy(env, &recovered, config.file_bytes).map_err(doing("tidying log files"))?;
        let spares_held_back = Arc::new(AtomicBool::new(false));
        let watermark =
            Watermark { free_bytes_min: config.disk_free_bytes_min, held_back: spares_held_back.clone() };
        let on_thread = driver == Driver::Thread;
        let pool = FilePool::new(log_dir.clone(), config.file_bytes, watermark, left, on_thread)
            .map_err(doing("starting the log's helper"))?;

        let Recovered { state, files, last_group, file_number_next, .. } = recovered;
        let mut map = LogMap::new(config.tail_bytes_max, state.first, state.slots);
        map.purged = state.purged;
        map.last = state.last;
        map.vote = state.vote.clone();
        map.committed = state.committed;
        let readable = FileTable::new(env.io.clone());
        files.iter().for_each(|file| readable.add(file.number, file.path.clone()));
        let shared = Arc::new(Shared::new(map, readable)?);
        let (queue, receiver) = crossbeam_channel::unbounded();
        let opening = OpeningState {
            vote: state.vote,
            purged: state.purged,
            committed: state.committed,
            last: state.last,
        };
        let log_files = LogFiles {
            dir: log_dir.clone(),
            pool,
            shared: shared.clone(),
            files: files.into(),
            number_next: file_number_next,
            current: None,
            reuse_generation: sabotage.reuse_generation,
            skip_dir_sync: sabotage.skip_dir_sync,
        };
        let space = Space::new(&log_dir, &config, spares_held_back);
        let io = config.io;
        let name = if log_dir.mode == OpenMode::Direct { "direct" } else { "buffered" };
        let mut sink = FileSink::new(name, piece_bytes, sabotage.retry_after_error);
        let last = last_group.as_ref();
        let writer = Writer::begin(receiver, config, sabotage, log_files, opening, last, &mut sink)
            .map_err(doing("beginning a log file"))?;

        let wake = Arc::new(Notify::new());
        let (mut thread, mut in_place, mut writer_name) = (None, None, name);
        if on_thread && io == WalIo::Uring {
            let make_sink = move || sink::choose(io, sink, || uring::start(&log_dir));
            let started = driver::spawn_owning_thread(writer, make_sink);
            let (handle, name) = started.map_err(doing("starting the log's thread"))?;
            (thread, writer_name) = (Some(handle), name);
        } else {
            let shared = in_place.insert(Arc::new(Mutex::new(InPlace { writer, sink })));
            match driver {
                Driver::Thread => {
                    let started = driver::spawn_thread(shared.clone());
                    thread = Some(started.map_err(doing("starting the log's thread"))?);
                }
                Driver::Task => driver::spawn_task(shared.clone(), wake.clone())
                    .map_err(doing("starting the log's task"))?,
                Driver::Step => {}
            }
        }
        let inner = Inner {
            shared,
            queue: Some(queue),
            wake,
            driver,
            in_place,
            writer_name,
            thread: Mutex::new(thread),
            dir: dir.to_path_buf(),
            space,
            check_sums: !sabotage.skip_sums,
        };
        let wal = Wal { inner: Arc::new(inner) };
        wal.load_tail().map_err(doing("reading the newest entries"))?;
        Ok(wal)
    }
}

/// How files are opened, as far as the file system can do it.
fn mode_asked(io: WalIo) -> OpenMode {
    if io == WalIo::Buffered { OpenMode::Buffered } else { OpenMode::Direct }
}

/// Turns an I/O error into one that says what was being done.
fn doing(dir: &Path, what: &str) -> impl FnOnce(io::Error) -> Error + use<> {
    let what = format!("{what} in {}", dir.display());
    move |error| {
        if is_no_space(&error) {
            Error::new(Code::DiskFull, format!("{what}: {error}"))
        } else {
            Error::io(what, &error)
        }
    }
}

/// Whether a direct write really goes through. Some file systems accept the flag when a file is opened and
/// refuse every write after that, which must not be found out by the first group.
fn takes_direct_writes(dir: &LogDir) -> io::Result<bool> {
    // Named as a spare: what a crash leaves of it, the next start removes.
    let path = dir.spare_path();
    let file = dir.open(&path)?;
    let written = match file.write_at(AlignedBuffer::zeros(BLOCK_BYTES).bytes(), 0) {
        Ok(()) => Ok(file.writes_through()),
        Err(error) if refuses_direct(&error) => Ok(false),
        // There may be a spare to begin with; the flag has to be believed then.
        Err(error) if is_no_space(&error) => Ok(file.writes_through()),
        Err(error) => Err(error),
    };
    dir.env.io.remove(&path)?;
    written
}

/// How files are opened where there is no direct I/O, if the settings allow that.
fn without_direct(dir: &Path, io: WalIo) -> Result<OpenMode> {
    let dir = dir.display();
    if io == WalIo::Direct {
        let what = format!("wal.io is direct, and the file system of {dir} has no direct I/O; use auto");
        return Err(Error::new(Code::InvalidConfig, what));
    }
    tracing::info!(%dir, "no direct I/O on this file system: the log is written through the page cache");
    Ok(OpenMode::Buffered)
}

/// Ends a file's log at `offset`: what may be a torn group there can never be read as a whole one.
fn cut(dir: &LogDir, path: &Path, offset: u64) -> io::Result<()> {
    let file = dir.open(path)?;
    file.write_at(AlignedBuffer::zeros(BLOCK_BYTES).bytes(), offset)?;
    file.sync()
}

/// Removes files that hold nothing, and gives back the spares that can be used again.
fn tidy(env: &Env, recovered: &Recovered, file_bytes: u64) -> io::Result<Vec<PathBuf>> {
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
