//! A directory as a store: on this machine's disk, or on one that is shared.
//!
//! ```text
//! <root>/ledger.id                             an object: never changes once it has its name
//! <root>/epoch-…/segments/.tmp-<owner>-<n>     being written, or left behind by a crash
//! <root>/.lock                                 held while an object is replaced
//!
//! put_once          .tmp ─► write, or link to a file that has the bytes ─► sync ─► link to the name, which fails if it
//!                   exists ─► sync directory ─► remove .tmp
//! compare_and_set   lock ─► compare ─► .tmp ─► write ─► sync ─► rename to the name ─► sync directory
//! ```
//!
//! Whatever has its name is whole. Calls block the thread for as long as the disk takes, after handing its other
//! tasks on. It does not own what objects mean, nor whether other nodes see the same directory.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{
    name::Name,
    store::{
        Body, Object, PAGE_NAMES_MAX, PIECE_BYTES, Page, Put, RANGE_BYTES_MAX, Result, SMALL_BYTES_MAX,
        Store, StoreError, Swap, Trouble, Version, is_same,
    },
};
use crate::{
    env::{AlignedBuffer, BLOCK_BYTES, File, Io, OpenMode, refuses_direct},
    runtime::{HEAVY_BYTES, without_blocking_others},
};

/// How long a replacement waits for others to be done with theirs.
const LOCK_TIME_MAX: Duration = Duration::from_secs(10);
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// A range of so many bytes is of somebody who reads the whole object, once.
const PAST_CACHE_BYTES_MIN: u32 = 2 << 20;

const LOCK_NAME: &str = ".lock";

/// A store in a directory.
#[derive(Debug)]
pub struct DirectoryStore {
    io: Arc<dyn Io>,
    root: PathBuf,
    place: String,
    /// How the names of its unfinished files begin.
    unfinished: String,
    next: AtomicU64,
    /// Directories that are there and without what an earlier life left behind.
    prepared: Mutex<BTreeSet<PathBuf>>,
}

impl DirectoryStore {
    /// The store at `root`, which is made when the first object comes. `owner` is this node's id: no two processes
    /// use one directory with the same owner.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, root: &Path, owner: u64) -> Self {
        Self {
            io,
            root: root.to_path_buf(),
            place: root.display().to_string(),
            unfinished: format!(".tmp-{owner}-"),
            next: AtomicU64::new(0),
            prepared: Mutex::default(),
        }
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Makes a directory ready to be written to. Blocks.
    fn prepare(&self, dir: &Path) -> io::Result<()> {
        // Held throughout: else one task could remove what another has begun.
        let mut prepared = self.prepared.lock();
        if prepared.contains(dir) {
            return Ok(());
        }
        self.io.create_dir_all(dir)?;
        for name in self.io.list(dir)? {
            if name.starts_with(&self.unfinished) {
                self.io.remove(&dir.join(name))?;
            }
        }
        // Names are used again in each life: one that came back behind a crash could give an object's name to what
        // an earlier life has left half written.
        self.io.sync_dir(dir)?;
        prepared.insert(dir.to_path_buf());
        Ok(())
    }

    /// Writes a body to a new file beside `path`, unless it is one on this file system, and syncs it. Its name. Blocks.
    fn write_beside(&self, path: &Path, body: &Body) -> io::Result<PathBuf> {
        let dir = path.parent().unwrap_or(&self.root);
        self.prepare(dir)?;
        let unfinished = dir.join(format!("{}{}", self.unfinished, self.next.fetch_add(1, Relaxed)));
        if let Body::File { file, path: Some(path), .. } = body
            && self.io.link(path, &unfinished).is_ok()
        {
            file.sync().inspect_err(|_| self.remove(&unfinished))?;
            return Ok(unfinished);
        }
        let write = || {
            let file = self.io.open(&unfinished, OpenMode::Buffered)?;
            let mut offset = 0;
            loop {
                let piece = body.piece(offset, PIECE_BYTES)?;
                if piece.is_empty() {
                    break;
                }
                file.write_at(&piece, offset)?;
                offset += piece.len() as u64;
            }
            file.sync()
        };
        // A failed sync is not tried again on this file: the next try writes another one.
        write().inspect_err(|error| {
            self.remove(&unfinished);
            if error.kind() == ErrorKind::NotFound {
                // Somebody has removed the directory: the next try makes it anew.
                self.prepared.lock().remove(dir);
            }
        })?;
        Ok(unfinished)
    }

    /// Removes an unfinished file; if that fails, the next life does it.
    fn remove(&self, unfinished: &Path) {
        let _ = self.io.remove(unfinished);
    }

    /// Gives the body its name; whether the name was free. Blocks.
    fn link(&self, path: &Path, body: &Body) -> io::Result<bool> {
        if self.io.open(path, OpenMode::Read).is_ok() {
            // Its name may be no older than this call.
            return self.sync_dir_of(path).map(|()| false);
        }
        let unfinished = self.write_beside(path, body)?;
        let linked = match self.io.link(&unfinished, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        };
        // From here on every reader finds the object, or that of a writer that was faster; after the next line, also
        // behind a crash.
        let lasts = linked.and_then(|linked| self.sync_dir_of(path).map(|()| linked));
        self.remove(&unfinished);
        lasts
    }

    /// Puts the body in the place of whatever has the name. Blocks.
    fn replace(&self, path: &Path, body: &Body) -> io::Result<()> {
        let unfinished = self.write_beside(path, body)?;
        self.io.rename(&unfinished, path).inspect_err(|_| self.remove(&unfinished))?;
        self.sync_dir_of(path)
    }

    fn sync_dir_of(&self, path: &Path) -> io::Result<()> {
        self.io.sync_dir(path.parent().unwrap_or(&self.root))
    }

    /// An object's file, and its size. Blocks.
    fn open(&self, name: &Name) -> Result<(Arc<dyn File>, u64)> {
        if !self.io.is_file(&self.path(name)) {
            let what = format!("{name} in {} is no regular file: it is not what was written", self.place);
            return Err(StoreError::new(Trouble::Broken, what));
        }
        let open = || {
            let file = self.io.open(&self.path(name), OpenMode::Read)?;
            let bytes = file.len()?;
            Ok((file, bytes))
        };
        open().map_err(|error| self.failed("reading", name, &error))
    }

    fn read(&self, name: &Name, offset: u64, bytes: u32) -> Result<Bytes> {
        let (file, size) = self.open(name)?;
        let missing = offset.checked_add(u64::from(bytes)).is_none_or(|end| end > size);
        if missing || bytes > RANGE_BYTES_MAX {
            let what = format!("{name} in {} has {size} bytes, not {bytes} at {offset}", self.place);
            return Err(StoreError::new(Trouble::Broken, what));
        }
        let read = if bytes >= PAST_CACHE_BYTES_MIN && offset.is_multiple_of(BLOCK_BYTES as u64) {
            self.read_past_cache((name, &*file), offset, bytes as usize)
        } else {
            let mut out = vec![0; bytes as usize];
            file.read_at(&mut out, offset).map(|()| out.into())
        };
        read.map_err(|error| self.failed("reading", name, &error))
    }

    /// What was written is read back from the disk itself, and not what the page cache has of it.
    fn read_past_cache(
        &self,
        (name, file): (&Name, &dyn File),
        offset: u64,
        bytes: usize,
    ) -> io::Result<Bytes> {
        let mut out = AlignedBuffer::default();
        let (blocks, last) = out.space(bytes).split_at_mut(bytes - bytes % BLOCK_BYTES);
        let direct = self.io.open(&self.path(name), OpenMode::ReadDirect);
        match direct.and_then(|direct| direct.read_at(blocks, offset)) {
            Err(error) if refuses_direct(&error) => file.read_at(blocks, offset)?,
            read => read?,
        }
        file.read_at(last, offset + blocks.len() as u64)?;
        Ok(Bytes::from_owner(out))
    }

    /// What others decide by. Blocks.
    fn read_small(&self, name: &Name) -> Result<Object> {
        let (_, size) = self.open(name)?;
        // Whoever gave it its name may have died, or been told of a failure, before the name was made to last. What
        // has been read once must not be gone behind a crash.
        match self.sync_dir_of(&self.path(name)) {
            Err(error) if error.kind() != ErrorKind::ReadOnlyFilesystem => {
                return Err(self.failed("making sure of", name, &error));
            }
            _ => {}
        }
        let bytes = u32::try_from(size).ok().filter(|bytes| *bytes as usize <= SMALL_BYTES_MAX);
        let Some(bytes) = bytes else {
            let what = format!("{name} in {} has {size} bytes: it is not what was written", self.place);
            return Err(StoreError::new(Trouble::Broken, what));
        };
        let bytes = self.read(name, 0, bytes)?;
        Ok(Object { version: version_of(&bytes), bytes })
    }

    fn page(&self, dir: &str, after: Option<&str>) -> Result<Page> {
        let path = if dir.is_empty() { self.root.clone() } else { self.root.join(dir) };
        let found = self.io.list(&path).map_err(|error| self.judge("listing", dir, &error))?;
        // The names of objects have a dot, those of directories none.
        let is_object = |last: &&str| last.contains('.') && after.is_none_or(|after| *last > after);
        let names = found.iter().map(String::as_str).filter(is_object).filter_map(|last| {
            Name::parse(&if dir.is_empty() { last.to_owned() } else { format!("{dir}/{last}") })
        });
        let mut names: Vec<_> = names.take(PAGE_NAMES_MAX + 1).collect();
        let has_more = names.len() > PAGE_NAMES_MAX;
        names.truncate(PAGE_NAMES_MAX);
        let next = names.last().filter(|_| has_more).map(|name| name.last().to_owned());
        Ok(Page { names, next })
    }

    /// Waits for the lock. It is let go by the drop of what is given, and by the end of the process.
    async fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        let path = self.root.join(LOCK_NAME);
        let give_up = Instant::now() + LOCK_TIME_MAX;
        loop {
            let locked = without_blocking_others(HEAVY_BYTES, || {
                self.prepare(&self.root)?;
                self.io.lock(&path)
            });
            match locked {
                Ok(guard) => return Ok(guard),
                Err(error) if error.kind() != ErrorKind::WouldBlock => {
                    return Err(self.judge("locking", LOCK_NAME, &error));
                }
                Err(_) if Instant::now() >= give_up => {
                    let what = format!("{} has been held by another process for long", path.display());
                    return Err(StoreError::new(Trouble::Away, what));
                }
                Err(_) => sleep(LOCK_AGAIN_AFTER).await,
            }
        }
    }

    fn failed(&self, doing: &str, name: &Name, error: &io::Error) -> StoreError {
        self.judge(doing, name.as_str(), error)
    }

    fn judge(&self, doing: &str, name: &str, error: &io::Error) -> StoreError {
        let (trouble, advice) = match error.kind() {
            ErrorKind::NotFound => (Trouble::NotFound, "there is no such object"),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                (Trouble::Denied, "let this node's user read and write the directory")
            }
            ErrorKind::Unsupported => {
                (Trouble::Denied, "its file system has no hard links: take another one, or an object store")
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (Trouble::Full, "make room on its disk"),
            ErrorKind::UnexpectedEof | ErrorKind::IsADirectory => {
                (Trouble::Broken, "something else than this ledger has changed it")
            }
            _ => (Trouble::Away, "look at its disk, and whether it is mounted"),
        };
        StoreError::new(trouble, format!("{doing} {name} in {} failed: {error}; {advice}", self.place))
    }
}

fn version_of(bytes: &[u8]) -> Version {
    Version(blake3::hash(bytes).to_hex().to_string())
}

impl Store for DirectoryStore {
    fn place(&self) -> &str {
        &self.place
    }

    fn put_once<'a>(&'a self, name: &'a Name, body: Body) -> BoxFuture<'a, Result<Put>> {
        Box::pin(async move {
            let created = without_blocking_others(HEAVY_BYTES, || self.link(&self.path(name), &body))
                .map_err(|error| self.failed("writing", name, &error))?;
            Ok(match created {
                true => Put::Created,
                false => Put::already_there(is_same(self, name, &body).await?),
            })
        })
    }

    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Object>> {
        Box::pin(async move { without_blocking_others(HEAVY_BYTES, || self.read_small(name)) })
    }

    fn get_range<'a>(&'a self, name: &'a Name, offset: u64, bytes: u32) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move { without_blocking_others(HEAVY_BYTES, || self.read(name, offset, bytes)) })
    }

    fn head<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<u64>> {
        Box::pin(
            async move { without_blocking_others(HEAVY_BYTES, || self.open(name)).map(|(_, size)| size) },
        )
    }

    fn list<'a>(&'a self, dir: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move { without_blocking_others(HEAVY_BYTES, || self.page(dir, after)) })
    }

    fn compare_and_set<'a>(
        &'a self,
        name: &'a Name,
        expected: Option<&'a Version>,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<Swap>> {
        Box::pin(async move {
            let _locked = self.lock().await?;
            let swap = || {
                let present = match self.read_small(name) {
                    Ok(object) => Some(object.version),
                    Err(error) if error.trouble() == Trouble::NotFound => None,
                    Err(error) => return Err(error),
                };
                if present.as_ref() != expected {
                    return Ok(Swap::Changed(present));
                }
                let version = version_of(&bytes);
                self.replace(&self.path(name), &Body::Bytes(bytes))
                    .map_err(|error| self.failed("replacing", name, &error))?;
                Ok(Swap::Done(version))
            };
            without_blocking_others(HEAVY_BYTES, swap)
        })
    }
}
