//! A disk with something on the way to it: each call to the disk and to its files is made, refused, left out, or ends
//! whoever makes it.
//!
//! For faults that one test has for itself; those that a simulated disk has of its own are armed there. Takes a [`Way`],
//! gives an [`Io`].

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use scribe_ledger::env::{File, Io, OpenMode};

/// What is asked of a disk, or of a file of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    CreateDirs,
    List,
    Open(OpenMode),
    Rename,
    Link,
    Remove,
    SyncDir,
    FreeBytes,
    Lock,
    Read,
    Write,
    Sync,
    Len,
    SetLen,
}

impl Call {
    /// Whether the disk is another one afterwards. (A file that is created is empty.)
    #[allow(dead_code, reason = "not every test that has a way asks")]
    pub const fn changes(self) -> bool {
        matches!(
            self,
            Self::Rename
                | Self::Link
                | Self::Remove
                | Self::SyncDir
                | Self::Write
                | Self::Sync
                | Self::SetLen
        )
    }
}

/// What is on the way.
pub trait Way: fmt::Debug + Send + Sync + 'static {
    /// The disk that has this path.
    fn disk(&self, path: &Path) -> &dyn Io;

    /// Makes a call, or does not. Of two paths it is the new one.
    fn pass<T>(&self, call: Call, path: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _ = (call, path);
        make()
    }

    /// Whether a sync is said to be done, and is not.
    fn leaves_out(&self, sync: Call) -> bool {
        let _ = sync;
        false
    }
}

/// The disk behind a way.
#[derive(Debug)]
pub struct Behind<W>(Arc<W>);

impl<W: Way> Behind<W> {
    pub fn new(way: W) -> Self {
        Self(Arc::new(way))
    }

    fn call<T>(&self, call: Call, path: &Path, make: impl FnOnce(&dyn Io) -> io::Result<T>) -> io::Result<T> {
        self.0.pass(call, path, || make(self.0.disk(path)))
    }
}

impl<W: Way> Io for Behind<W> {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.call(Call::CreateDirs, dir, |disk| disk.create_dir_all(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.call(Call::List, dir, |disk| disk.list(dir))
    }

    fn is_file(&self, path: &Path) -> bool {
        self.0.disk(path).is_file(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.call(Call::Open(mode), path, |disk| disk.open(path, mode))?;
        Ok(Arc::new(Opened { file, path: path.to_path_buf(), way: self.0.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Rename, to, |disk| disk.rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Link, to, |disk| disk.link(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Remove, path, |disk| disk.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.0.leaves_out(Call::SyncDir) {
            return Ok(());
        }
        self.call(Call::SyncDir, dir, |disk| disk.sync_dir(dir))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.call(Call::FreeBytes, dir, |disk| disk.free_bytes(dir))
    }

    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        self.0.disk(path).native_path(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.call(Call::Lock, path, |disk| disk.lock(path))
    }
}

#[derive(Debug)]
struct Opened<W> {
    file: Arc<dyn File>,
    path: PathBuf,
    way: Arc<W>,
}

impl<W: Way> File for Opened<W> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.way.pass(Call::Read, &self.path, || self.file.read_at(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.way.pass(Call::Write, &self.path, || self.file.write_at(bytes, offset))
    }

    fn sync(&self) -> io::Result<()> {
        if self.way.leaves_out(Call::Sync) {
            return Ok(());
        }
        self.way.pass(Call::Sync, &self.path, || self.file.sync())
    }

    fn len(&self) -> io::Result<u64> {
        self.way.pass(Call::Len, &self.path, || self.file.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.way.pass(Call::SetLen, &self.path, || self.file.set_len(len))
    }

    fn writes_through(&self) -> bool {
        self.file.writes_through()
    }
}
