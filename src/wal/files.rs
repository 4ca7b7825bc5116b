//! The log's files: their names, and how they are made, taken into use and freed.
//!
//! ```text
//! wal-00000000000000000007-5ac1e0f29bd04c7e.log   the seventh file, with the generation of its groups
//! spare-9e3779b97f4a7c15.log                      a filled file that waits for a number
//! ```
//!
//! A write into blocks that were written before is about twice as fast as one that makes a file grow, so
//! files are filled with zeros ahead, off the commit path where there is a thread for that, and a freed
//! file becomes a spare instead of being removed. Taking a spare into use gives it a new name with a new
//! random generation, so that the groups it still holds are dead at once. It does not own what is
//! written into files, nor when one may be freed.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex};

use crate::env::{BLOCK_BYTES, Env, File, OpenMode};

/// Freed files kept for reuse. A burst that purges more gives the rest back to the file system.
const SPARES_MAX: usize = 4;

/// Zeros are written in pieces of this size.
const FILL_BYTES: usize = 1 << 20;

/// A file that belongs to the log.
#[derive(Clone, Debug)]
pub(super) struct LogFile {
    pub(super) number: u32,
    pub(super) generation: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// The highest index among its entries, cut ones included.
    pub(super) last_index: Option<u64>,
}

/// The name of a log file.
pub(super) fn file_name(number: u32, generation: u64) -> String {
    format!("wal-{number:020}-{generation:016x}.log")
}

/// Number and generation from a log file's name.
pub(super) fn parse_name(name: &str) -> Option<(u32, u64)> {
    let (number, generation) = name.strip_prefix("wal-")?.strip_suffix(".log")?.split_once('-')?;
    let number = number.parse().ok().filter(|number| *number < u32::MAX)?;
    let generation = u64::from_str_radix(generation, 16).ok()?;
    // One spelling only: two names must not mean the same file.
    (file_name(number, generation) == name).then_some((number, generation))
}

pub(super) fn is_spare(name: &str) -> bool {
    name.starts_with("spare-") && name.ends_with(".log")
}

/// Makes files ready before they are needed.
pub(super) struct Spares {
    shop: Arc<Shop>,
    /// The thread that fills files, and the bell that wakes it; none where everything is done in place.
    helper: Option<(Sender<()>, JoinHandle<()>)>,
}

struct Shop {
    env: Env,
    dir: PathBuf,
    mode: OpenMode,
    bytes: u64,
    /// What a spare leaves free on disk: the room below is for what was admitted before.
    free_bytes_min: u64,
    /// Set while that kept a spare from being made: the log grows no further then, and should not have to.
    held_back: Arc<AtomicBool>,
    shelf: Mutex<Shelf>,
    filled: Condvar,
}

#[derive(Default)]
struct Shelf {
    ready: Vec<PathBuf>,
    filling: bool,
}

impl Spares {
    /// Takes over the spares that an earlier run left.
    pub(super) fn new(
        env: &Env,
        dir: &Path,
        mode: OpenMode,
        bytes: u64,
        (free_bytes_min, held_back): (u64, Arc<AtomicBool>),
        left: Vec<PathBuf>,
        with_helper: bool,
    ) -> io::Result<Self> {
        let shelf = Mutex::new(Shelf { ready: left, filling: false });
        let shop = Shop {
            env: env.clone(),
            dir: dir.to_path_buf(),
            mode,
            bytes,
            free_bytes_min,
            held_back,
            shelf,
            filled: Condvar::new(),
        };
        let shop = Arc::new(shop);
        let helper = if with_helper {
            let (bell, rings) = crossbeam_channel::unbounded::<()>();
            let shop = shop.clone();
            let work = move || rings.iter().for_each(|()| shop.fill_ahead());
            Some((bell, std::thread::Builder::new().name("wal-files".into()).spawn(work)?))
        } else {
            None
        };
        Ok(Self { shop, helper })
    }

    /// Asks for a spare to be made in the background if there is none.
    pub(super) fn order(&self) {
        let Some((bell, _)) = &self.helper else { return };
        let mut shelf = self.shop.shelf.lock();
        if shelf.ready.is_empty() && !shelf.filling {
            shelf.filling = true;
            // The helper lives as long as `self`; if it is gone the writer fills files itself.
            shelf.filling = bell.send(()).is_ok();
        }
    }

    /// A filled file of at least `bytes`, and its size. Waits for the helper, or fills one here.
    pub(super) fn take(&self, bytes: u64) -> io::Result<(PathBuf, u64)> {
        if bytes > self.shop.bytes {
            return Ok((self.shop.fill(bytes)?, bytes));
        }
        let mut shelf = self.shop.shelf.lock();
        loop {
            if let Some(path) = shelf.ready.pop() {
                return Ok((path, self.shop.bytes));
            }
            if !shelf.filling {
                break;
            }
            self.shop.filled.wait(&mut shelf);
        }
        drop(shelf);
        Ok((self.shop.fill(self.shop.bytes)?, self.shop.bytes))
    }

    /// A file of just these bytes: what a start begins with. It is small, so that it is quickly filled and
    /// that a node which starts again and again does not eat its disk; the spares are for what comes after.
    pub(super) fn take_small(&self, bytes: u64) -> io::Result<(PathBuf, u64)> {
        Ok((self.shop.fill(bytes)?, bytes))
    }

    /// Whether a freed file of this size should be kept.
    pub(super) fn wants(&self, bytes: u64) -> bool {
        bytes == self.shop.bytes && self.shop.shelf.lock().ready.len() < SPARES_MAX
    }

    /// Keeps a freed file, which has this name now.
    pub(super) fn put(&self, path: PathBuf) {
        self.shop.shelf.lock().ready.push(path);
    }

    /// A name for the next spare.
    pub(super) fn new_path(&self) -> PathBuf {
        self.shop.new_path()
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.shop.shelf.lock().ready.len()
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        if let Some((bell, thread)) = self.helper.take() {
            drop(bell);
            // A helper that panicked has nothing more to say; what it left half-filled is a usable spare.
            let _ = thread.join();
        }
    }
}

impl Shop {
    fn new_path(&self) -> PathBuf {
        self.dir.join(format!("spare-{:016x}.log", self.env.rng.next_u64()))
    }

    fn fill_ahead(&self) {
        let free = self.env.io.free_bytes(&self.dir);
        let held_back = free.is_ok_and(|free| free < self.free_bytes_min.saturating_add(self.bytes));
        self.held_back.store(held_back, Ordering::Relaxed);
        let made = if held_back { Ok(None) } else { self.fill(self.bytes).map(Some) };
        let mut shelf = self.shelf.lock();
        shelf.filling = false;
        match made {
            Ok(path) => shelf.ready.extend(path),
            // The writer will try for itself when it needs the file, and report what it meets.
            Err(error) => tracing::warn!(%error, "preparing a log file ahead failed"),
        }
        self.filled.notify_all();
    }

    /// Makes a file of `bytes` zeros. Its name need not be durable yet: taking it into use renames it.
    fn fill(&self, bytes: u64) -> io::Result<PathBuf> {
        let path = self.new_path();
        let filled = self.env.io.open(&path, self.mode).and_then(|file| fill(&*file, bytes));
        match filled {
            Ok(()) => Ok(path),
            Err(error) => {
                // Half a file helps nobody, least of all on a full disk. If it cannot be removed either,
                // the next start does it.
                let _ = self.env.io.remove(&path);
                Err(error)
            }
        }
    }
}

fn fill(file: &dyn File, bytes: u64) -> io::Result<()> {
    let piece = usize::try_from(bytes).unwrap_or(FILL_BYTES).min(FILL_BYTES);
    let mut zeros = super::buffer::AlignedBuffer::default();
    zeros.reset(piece);
    zeros.pad_to(piece);
    let mut at = 0;
    while at < bytes {
        let count = (bytes - at).min(piece as u64);
        file.write_at(&zeros.bytes()[..count as usize], at)?;
        at += count;
    }
    file.sync()
}

/// Whether an error says that there is no room, which goes away without anything being lost.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Rounds up to whole blocks.
pub(super) fn whole_blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_not_taken_for_ours() {
        let name = file_name(7, 0x5ac1_e0f2_9bd0_4c7e);
        assert_eq!(name, "wal-00000000000000000007-5ac1e0f29bd04c7e.log");
        assert_eq!(parse_name(&name), Some((7, 0x5ac1_e0f2_9bd0_4c7e)));
        for other in [
            "wal-7-5ac1.log",
            "wal-.log",
            "LOCK",
            "spare-00.log",
            "wal-00000000000000000007-+ac1e0f29bd04c7e.lo",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
        assert!(is_spare("spare-9e3779b97f4a7c15.log"));
    }
}
