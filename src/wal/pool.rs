//! Files that are ready before they are needed.
//!
//! Takes what is freed, gives files filled with zeros. A write into blocks that were written before is about
//! twice as fast as one that makes a file grow, so files are filled ahead, off the commit path where there is
//! a thread for that, and a freed file becomes a spare instead of being removed. Taking a spare into use gives
//! it a new name with a new random generation, so that the groups it still holds are dead at once. It does not
//! own names and numbers of files in use, nor when one may be freed.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex};

use super::files::{LogDir, is_no_space};
use crate::env::{AlignedBuffer, File};

/// Freed files kept for reuse. A burst that purges more gives the rest back to the file system.
const SPARES_MAX: usize = 4;

/// Zeros are written in pieces of this size.
const FILL_BYTES: usize = 1 << 20;

/// Makes files ready ahead, and keeps the freed ones.
pub(super) struct FilePool {
    filler: Arc<Filler>,
    /// The thread that fills files ahead and the way to ask it; none where everything is done in place.
    helper: Option<(Sender<()>, JoinHandle<()>)>,
}

struct Filler {
    dir: LogDir,
    bytes: u64,
    watermark: Watermark,
    spares: Mutex<Spares>,
    filled: Condvar,
}

/// How much of the disk the pool leaves free: the room below is for what was admitted before.
#[derive(Clone, Debug)]
pub(super) struct Watermark {
    pub(super) free_bytes_min: u64,
    /// Set while that kept a spare from being made: the log grows no further then, and should not have to.
    pub(super) held_back: Arc<AtomicBool>,
}

#[derive(Default)]
struct Spares {
    ready: Vec<PathBuf>,
    /// Whether the helper is making one: whoever needs it waits.
    filling: bool,
}

impl FilePool {
    /// Gives files of `bytes`. Takes over the spares that an earlier run left.
    pub(super) fn new(
        dir: LogDir,
        bytes: u64,
        watermark: Watermark,
        left: Vec<PathBuf>,
        with_helper: bool,
    ) -> io::Result<Self> {
        let spares = Mutex::new(Spares { ready: left, filling: false });
        let filler = Arc::new(Filler { dir, bytes, watermark, spares, filled: Condvar::new() });
        if !with_helper {
            return Ok(Self { filler, helper: None });
        }
        let (requests, requested) = crossbeam_channel::unbounded::<()>();
        let of_helper = filler.clone();
        let work = move || requested.iter().for_each(|()| of_helper.fill_ahead());
        let thread = std::thread::Builder::new().name("wal-files".into()).spawn(work)?;
        Ok(Self { filler, helper: Some((requests, thread)) })
    }

    /// Asks for a spare to be made in the background if there is none.
    pub(super) fn order(&self) {
        let Some((requests, _)) = &self.helper else { return };
        let mut spares = self.filler.spares.lock();
        if spares.ready.is_empty() && !spares.filling {
            // The helper lives as long as `self`; if it is gone the writer fills files itself.
            spares.filling = requests.send(()).is_ok();
        }
    }

    /// A filled file of at least `bytes`, and its size. Waits for the helper, or fills one here.
    pub(super) fn take(&self, bytes: u64) -> io::Result<(PathBuf, u64)> {
        if bytes > self.filler.bytes {
            return Ok((self.filler.fill(bytes)?, bytes));
        }
        let mut spares = self.filler.spares.lock();
        loop {
            if let Some(path) = spares.ready.pop() {
                return Ok((path, self.filler.bytes));
            }
            if !spares.filling {
                break;
            }
            self.filler.filled.wait(&mut spares);
        }
        drop(spares);
        Ok((self.filler.fill(self.filler.bytes)?, self.filler.bytes))
    }

    /// A file of just these bytes, and its size: what a start begins with. It is small, so that it is quickly filled
    /// and that a node which starts again and again does not eat its disk; the spares are for what comes after, unless
    /// the disk has room for nothing else.
    pub(super) fn take_small(&self, bytes: u64) -> io::Result<(PathBuf, u64)> {
        let error = match self.filler.fill(bytes) {
            Ok(path) => return Ok((path, bytes)),
            Err(error) => error,
        };
        if !is_no_space(&error) || bytes > self.filler.bytes {
            return Err(error);
        }
        let spare = self.filler.spares.lock().ready.pop();
        spare.map(|path| (path, self.filler.bytes)).ok_or(error)
    }

    /// Whether a freed file of this size should be kept.
    pub(super) fn wants(&self, bytes: u64) -> bool {
        bytes == self.filler.bytes && self.filler.spares.lock().ready.len() < SPARES_MAX
    }

    /// Keeps a freed file, which has this name now.
    pub(super) fn put(&self, path: PathBuf) {
        self.filler.spares.lock().ready.push(path);
    }

    /// How many are ready, and their bytes.
    pub(super) fn ready(&self) -> (u64, u64) {
        let count = self.filler.spares.lock().ready.len() as u64;
        (count, count * self.filler.bytes)
    }
}

impl Drop for FilePool {
    fn drop(&mut self) {
        if let Some((requests, thread)) = self.helper.take() {
            drop(requests);
            // It has nothing more to say; what it left half-filled the next start removes.
            let _ = thread.join();
        }
    }
}

impl Filler {
    /// What the helper does for every request. The request is answered even if the disk's code panics:
    /// the writer may be waiting for it.
    fn fill_ahead(&self) {
        let made = catch_unwind(AssertUnwindSafe(|| self.fill_above_watermark()));
        let mut spares = self.spares.lock();
        spares.filling = false;
        match made {
            Ok(Ok(path)) => spares.ready.extend(path),
            // The writer will try for itself when it needs the file, and report what it meets.
            Ok(Err(error)) => tracing::warn!(%error, "preparing a log file ahead failed"),
            Err(_) => tracing::warn!("preparing a log file ahead panicked"),
        }
        self.filled.notify_all();
    }

    fn fill_above_watermark(&self) -> io::Result<Option<PathBuf>> {
        let free = self.dir.env.io.free_bytes(&self.dir.path);
        let needed = self.watermark.free_bytes_min.saturating_add(self.bytes);
        let held_back = free.is_ok_and(|free| free < needed);
        self.watermark.held_back.store(held_back, Relaxed);
        if held_back { Ok(None) } else { self.fill(self.bytes).map(Some) }
    }

    /// Makes a file of `bytes` zeros. Its name need not be durable yet: taking it into use renames it.
    fn fill(&self, bytes: u64) -> io::Result<PathBuf> {
        let path = self.dir.spare_path();
        match self.dir.open(&path).and_then(|file| fill(&*file, bytes)) {
            Ok(()) => Ok(path),
            Err(error) => {
                // Half a file helps nobody, least of all on a full disk. If it cannot be removed either,
                // the next start does it.
                let _ = self.dir.env.io.remove(&path);
                Err(error)
            }
        }
    }
}

fn fill(file: &dyn File, bytes: u64) -> io::Result<()> {
    let piece = usize::try_from(bytes).unwrap_or(FILL_BYTES).min(FILL_BYTES);
    let zeros = AlignedBuffer::zeros(piece);
    let mut at = 0;
    while at < bytes {
        let count = (bytes - at).min(piece as u64);
        file.write_at(&zeros.bytes()[..count as usize], at)?;
        at += count;
    }
    file.sync()
}
