//! The disks of a member: its own, and another one where the archive is.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use scribe_ledger::{
    env::{File, Io, OpenMode},
    sim::SimIo,
};

pub const ARCHIVE: &str = "/archive";

/// What may happen to the way between a member and the archive.
#[derive(Debug, Default)]
pub struct Way {
    /// Nothing gets through.
    pub is_cut: AtomicBool,
    /// The member's power goes when it has changed the archive so often from now on; 0 = never.
    pub dies_after: AtomicU64,
}

/// Paths below [`ARCHIVE`] are on a disk that may be everybody's, all others on the member's own.
#[derive(Clone, Debug)]
pub struct Disks {
    pub own: SimIo,
    pub archive: SimIo,
    pub way: Arc<Way>,
}

impl Disks {
    pub fn new(own: SimIo, archive: SimIo) -> Self {
        Self { own, archive, way: Arc::default() }
    }

    fn disk(&self, path: &Path, changes: bool) -> io::Result<&SimIo> {
        if !path.starts_with(ARCHIVE) {
            return Ok(&self.own);
        }
        let dies = |left: u64| left.checked_sub(1);
        if changes && self.way.dies_after.fetch_update(Relaxed, Relaxed, dies) == Ok(1) {
            self.own.crash();
        }
        if self.own.is_down() || self.way.is_cut.load(Relaxed) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the archive is not reached"));
        }
        Ok(&self.archive)
    }
}

impl Io for Disks {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk(dir, false)?.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk(dir, false)?.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.disk(path, false)?.open(path, mode)?;
        Ok(Arc::new(Opened { file, path: path.to_path_buf(), disks: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk(from, true)?.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if from.starts_with(ARCHIVE) != to.starts_with(ARCHIVE) {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        self.disk(from, true)?.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk(path, true)?.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk(dir, true)?.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.disk(dir, false)?.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk(path, false)?.lock(path)
    }
}

#[derive(Debug)]
struct Opened {
    file: Arc<dyn File>,
    path: PathBuf,
    disks: Disks,
}

impl File for Opened {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disks.disk(&self.path, false)?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disks.disk(&self.path, true)?;
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.disks.disk(&self.path, true)?;
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.disks.disk(&self.path, false)?;
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disks.disk(&self.path, true)?;
        self.file.set_len(len)
    }

    fn writes_through(&self) -> bool {
        self.file.writes_through()
    }
}

/// A disk for whoever only looks: no accident that waits for a change happens to it.
#[derive(Debug)]
pub struct ReadOnly<I>(pub I);

const NO: io::ErrorKind = io::ErrorKind::ReadOnlyFilesystem;

impl<I: Io> Io for ReadOnly<I> {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Err(NO.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::Read { self.0.open(path, mode) } else { Err(NO.into()) }
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(NO.into())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Err(NO.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(NO.into())
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.0.free_bytes(dir)
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Err(NO.into())
    }
}
