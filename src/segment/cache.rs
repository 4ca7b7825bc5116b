//! Blocks that were read and checked, shared by all segments.
//!
//! Takes blocks as they are loaded and gives them back until they are the least useful of `bytes_max` bytes:
//! `quick_cache`'s CLOCK-Pro, which a scan does not wash out. What is in it has passed every check. It does not
//! own loading; two readers who miss the same block at once load it once.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use foldhash::fast::FixedState;
use quick_cache::{Weighter, sync::Cache};

use super::BLOCK_BYTES;
use crate::{error::Result, types::ColdBlock};

/// Blocks that are in the archive, as far as copies of them are on this node.
pub trait ColdBlocks: fmt::Debug + Send + Sync {
    /// A copy of the decoded block; what it is worth is for the caller to check.
    fn get(&self, block: ColdBlock) -> Option<Bytes>;

    /// The copy was of no worth.
    fn forget(&self, block: ColdBlock);
}

/// What a block costs beside its bytes: its row in the cache, the head of its allocation.
const BLOCK_OVERHEAD_BYTES: u64 = 128;

/// A block of an open segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BlockKey {
    /// Which opening of which file: a file that is opened again starts anew.
    pub(super) file: u64,
    /// Which block of it.
    pub(super) block: u32,
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<BlockKey, Bytes> for Weight {
    fn weight(&self, _: &BlockKey, block: &Bytes) -> u64 {
        block.len() as u64 + BLOCK_OVERHEAD_BYTES
    }
}

/// The cache of all segments' blocks; bounded in bytes.
#[derive(Debug)]
pub struct BlockCache {
    blocks: Cache<BlockKey, Bytes, Weight, FixedState>,
    files: AtomicU64,
    cold: Option<Arc<dyn ColdBlocks>>,
}

impl BlockCache {
    /// An empty cache of at most `bytes_max` bytes of blocks. Slices of a block that readers still hold are
    /// not counted once it is evicted.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let blocks = usize::try_from(bytes_max).unwrap_or(usize::MAX) / BLOCK_BYTES;
        Self {
            blocks: Cache::with(blocks, bytes_max, Weight, FixedState::default(), Default::default()),
            files: AtomicU64::new(0),
            cold: None,
        }
    }

    /// The same, and blocks that are in the archive are looked for in `cold`.
    #[must_use]
    pub fn with_cold(self, cold: Arc<dyn ColdBlocks>) -> Self {
        Self { cold: Some(cold), ..self }
    }

    /// Where copies of cold blocks may be.
    pub(super) fn cold(&self) -> Option<&dyn ColdBlocks> {
        self.cold.as_deref()
    }

    /// Bytes that its blocks take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.weight()
    }

    /// How many blocks it holds.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// A number that no other open file has.
    pub(super) fn next_file(&self) -> u64 {
        self.files.fetch_add(1, Relaxed)
    }

    /// The block, from here or from `load`.
    pub(super) fn get(&self, key: BlockKey, load: impl FnOnce() -> Result<Bytes>) -> Result<Bytes> {
        self.blocks.get_or_insert_with(&key, load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Error};

    fn key(block: u32) -> BlockKey {
        BlockKey { file: 0, block }
    }

    #[test]
    fn stays_within_its_bytes_and_keeps_what_is_asked_for() {
        let cache = BlockCache::new(1 << 20);
        for block in 0..200 {
            let seen = cache.get(key(block), || Ok(Bytes::from(vec![block as u8; BLOCK_BYTES])));
            assert_eq!(seen.unwrap()[0], block as u8);
            assert!(cache.bytes() <= 1 << 20);
        }
        assert!(cache.blocks() >= 8);
        let held = (0..200).filter(|block| cache.get(key(*block), || Err(missing())).is_ok()).count();
        assert_eq!(held, cache.blocks());
    }

    fn missing() -> Error {
        Error::new(Code::Io, "not loaded")
    }

    #[test]
    fn a_load_that_fails_leaves_nothing_behind() {
        let cache = BlockCache::new(1 << 20);
        cache.get(key(1), || Err(missing())).unwrap_err();
        assert_eq!((cache.blocks(), cache.bytes()), (0, 0));
        cache.get(key(1), || Ok(Bytes::from_static(b"block"))).unwrap();
        assert_ne!(cache.next_file(), cache.next_file());
    }
}
