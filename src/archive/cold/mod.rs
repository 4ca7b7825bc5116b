//! Copies of cold blocks on this node: what has been fetched from the archive and may be asked for again.
//!
//! ```text
//!  fetched ─► held, while a read is made again with it        memory, bounded by whoever fetches
//!         └─► cold.cache, until newer ones need the room      a file of at most `bytes_max` bytes, see ring
//! ```
//!
//! Takes decoded blocks, gives them back as long as they are here. The file begins empty with every start and is never
//! synced: nothing in it is believed, its readers compare every block with the hash in the segment's directory. A disk
//! that is full or fails costs fetching again, no more. It does not own fetching, nor the check.

mod ring;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use self::ring::{Ring, Room};
use crate::{
    env::{File, Io, OpenMode},
    error::{Error, Result},
    runtime::{HEAVY_BYTES, without_blocking_others},
    segment::{ColdBlocks, remove},
    types::ColdBlock,
};

/// The file, in the data directory.
const FILE: &str = "cold.cache";

/// How much of the disk copies may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdCacheOptions {
    /// Bytes of the file; 0 = none.
    pub bytes_max: u64,
    /// Free space to leave on the disk: the log needs it more.
    pub free_bytes_min: u64,
}

/// See the head of this file.
pub struct ColdCache {
    io: Arc<dyn Io>,
    path: PathBuf,
    free_bytes_min: u64,
    kept: Mutex<Kept>,
    held: Mutex<BTreeMap<ColdBlock, Weak<Held>>>,
    hits: AtomicU64,
    misses: AtomicU64,
    has_warned: AtomicBool,
}

struct Kept {
    ring: Ring,
    file: Option<Arc<dyn File>>,
    /// How large the file has become.
    file_bytes: u64,
}

/// A block in memory, for as long as somebody reads with it.
pub struct Held {
    block: ColdBlock,
    bytes: Bytes,
    cache: Arc<ColdCache>,
    _room: Arc<dyn Send + Sync>,
}

impl Held {
    /// Which one it is.
    #[must_use]
    pub const fn block(&self) -> ColdBlock {
        self.block
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("block", &self.block).finish_non_exhaustive()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.cache.held.lock();
        // Another one may have taken its place.
        if held.get(&self.block).is_some_and(|held| held.strong_count() == 0) {
            held.remove(&self.block);
        }
    }
}

/// What the copies are and have saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdCacheSizes {
    /// Bytes of copies on the disk.
    pub bytes: u64,
    /// Reads of cold blocks that found one.
    pub hits: u64,
    /// Those that did not.
    pub misses: u64,
}

impl ColdCache {
    /// No copies yet. Nothing is read or written.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, data_dir: &Path, options: ColdCacheOptions) -> Arc<Self> {
        let path = data_dir.join(FILE);
        let kept = Kept { ring: Ring::new(options.bytes_max), file: None, file_bytes: 0 };
        Arc::new(Self {
            io,
            path,
            free_bytes_min: options.free_bytes_min,
            kept: Mutex::new(kept),
            held: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            has_warned: AtomicBool::new(false),
        })
    }

    /// Removes what an earlier process has left.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io).
    pub fn clear(&self) -> Result<()> {
        remove(&*self.io, &self.path)
    }

    /// Reserves room for a copy, before it is fetched; none where there is none.
    pub fn reserve(&self, block: ColdBlock, bytes: u32) -> Option<Room> {
        let mut kept = self.kept.lock();
        let room = kept.ring.reserve(block, bytes)?;
        let grows = room.end().saturating_sub(kept.file_bytes);
        if grows == 0 {
            return Some(room);
        }
        let dir = self.path.parent().unwrap_or(&self.path);
        match self.io.free_bytes(dir) {
            Ok(free) if free.saturating_sub(self.free_bytes_min) >= grows => Some(room),
            _ => None,
        }
    }

    /// Keeps a copy in its room. Blocks.
    pub fn keep(&self, room: &Room, bytes: &[u8]) {
        let written = || {
            let file = {
                let mut kept = self.kept.lock();
                match &kept.file {
                    Some(file) => file.clone(),
                    None => {
                        let file = self.io.open(&self.path, OpenMode::Buffered)?;
                        kept.file = Some(file.clone());
                        file
                    }
                }
            };
            file.write_at(bytes, room.offset())
        };
        match written() {
            Ok(()) => {
                let mut kept = self.kept.lock();
                kept.file_bytes = kept.file_bytes.max(room.end());
                // From here on readers find it.
                kept.ring.fill(room);
            }
            Err(error) if !self.has_warned.swap(true, Relaxed) => {
                let error = Error::io(format!("writing {}", self.path.display()), &error);
                tracing::warn!(%error, "blocks from the archive are not kept; they are fetched again when they are read");
            }
            Err(_) => {}
        }
    }

    /// Puts a block where a read finds it that is made while this is kept. `room` is dropped with it.
    pub fn hold(self: &Arc<Self>, block: ColdBlock, bytes: Bytes, room: Arc<dyn Send + Sync>) -> Arc<Held> {
        let held = Arc::new(Held { block, bytes, cache: self.clone(), _room: room });
        self.held.lock().insert(block, Arc::downgrade(&held));
        held
    }

    /// The block that somebody reads with, if it is held.
    #[must_use]
    pub fn held(&self, block: ColdBlock) -> Option<Arc<Held>> {
        self.held.lock().get(&block)?.upgrade()
    }

    /// Whether a copy is on the disk.
    #[must_use]
    pub fn has(&self, block: ColdBlock) -> bool {
        self.kept.lock().ring.place(block).is_some()
    }

    /// What the copies are and have saved.
    #[must_use]
    pub fn sizes(&self) -> ColdCacheSizes {
        let bytes = self.kept.lock().ring.bytes();
        ColdCacheSizes { bytes, hits: self.hits.load(Relaxed), misses: self.misses.load(Relaxed) }
    }

    fn read_copy(&self, block: ColdBlock) -> Option<Bytes> {
        let (file, offset, bytes) = {
            let kept = self.kept.lock();
            let (offset, bytes) = kept.ring.place(block)?;
            (kept.file.clone()?, offset, bytes)
        };
        let mut out = vec![0; bytes as usize];
        let mut read = || {
            if file.read_at_once(&mut out, offset)? {
                return Ok(());
            }
            without_blocking_others(HEAVY_BYTES, || file.read_at(&mut out, offset))
        };
        let read: std::io::Result<()> = read();
        read.is_ok().then(|| out.into())
    }
}

impl ColdBlocks for ColdCache {
    fn get(&self, block: ColdBlock) -> Option<Bytes> {
        let held = self.held(block);
        // Held by whoever asks: it was counted when it was missed.
        if let Some(held) = held {
            return Some(held.bytes.clone());
        }
        let found = self.read_copy(block);
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Relaxed);
        found
    }

    fn forget(&self, block: ColdBlock) {
        self.kept.lock().ring.forget(block);
    }
}

impl fmt::Debug for ColdCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ColdCache").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sim::SimIo, types::SegmentId};

    fn block(block: u32) -> ColdBlock {
        ColdBlock { segment: SegmentId(3), block }
    }

    fn open(io: &Arc<dyn Io>, bytes_max: u64, free_bytes_min: u64) -> Arc<ColdCache> {
        let cache =
            ColdCache::new(io.clone(), Path::new("/data"), ColdCacheOptions { bytes_max, free_bytes_min });
        cache.clear().unwrap();
        cache
    }

    #[test]
    fn copies_stay_until_newer_ones_need_their_room() {
        let io: Arc<dyn Io> = Arc::new(SimIo::new(1));
        let cache = open(&io, 100, 0);
        assert_eq!(cache.get(block(0)), None);
        for n in 0..5 {
            let room = cache.reserve(block(n), 40).unwrap();
            assert!(!cache.has(block(n)), "not before it is written");
            cache.keep(&room, &[n as u8; 40]);
            assert_eq!(cache.get(block(n)).unwrap(), vec![n as u8; 40]);
            assert!(cache.sizes().bytes <= 100);
        }
        assert_eq!((cache.get(block(0)), cache.sizes().bytes), (None, 80));
        cache.forget(block(4));
        assert!(!cache.has(block(4)) && cache.reserve(block(9), 101).is_none());
        assert_eq!((cache.sizes().hits, cache.sizes().misses), (5, 2));
        assert!(!open(&io, 100, 0).has(block(3)), "a start begins anew");
        assert!(open(&io, 100, u64::MAX).reserve(block(1), 1).is_none(), "the disk is the log's first");
    }

    #[test]
    fn a_held_block_is_found_until_it_is_let_go() {
        let cache = open(&(Arc::new(SimIo::new(1)) as Arc<dyn Io>), 0, 0);
        let first = cache.hold(block(1), Bytes::from_static(b"one"), Arc::new(()));
        let second = cache.hold(block(1), Bytes::from_static(b"one"), Arc::new(()));
        drop(first);
        assert_eq!(cache.get(block(1)).as_deref(), Some(&b"one"[..]));
        assert_eq!(cache.held(block(1)).map(|held| held.block()), Some(block(1)));
        drop(second);
        assert!(cache.get(block(1)).is_none() && cache.held.lock().is_empty());
    }
}
