//! Key → position of its newest version, tombstones included.
//!
//! A hash table of 16-byte rows in shards: a reader and the applier meet only in one shard, and a shard
//! that grows moves a small part of the rows. Keys are not stored: a row holds the full hash, and who
//! finds a row compares the record's key. Rows of one hash are therefore *candidates*.

use std::hash::BuildHasher;

use foldhash::{SharedSeed, fast::SeedableRandomState};
use hashbrown::HashTable;
use parking_lot::RwLock;
use smallvec::SmallVec;

/// Shards; a power of two.
const SHARDS: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Row {
    hash: u64,
    seq: u64,
}

/// The table. The hash seed is local to a node: it decides where a row lies, never what a read returns.
#[derive(Debug)]
pub struct Newest {
    hasher: SeedableRandomState,
    shards: Box<[RwLock<HashTable<Row>>]>,
}

impl Newest {
    /// An empty table hashing with `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            hasher: SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()),
            shards: (0..SHARDS).map(|_| RwLock::new(HashTable::new())).collect(),
        }
    }

    /// The hash of a key, for the other calls.
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Row>> {
        // The table uses the lowest bits for buckets and the highest seven for tags.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Positions whose keys have this hash: almost always one or none.
    pub fn candidates(&self, hash: u64) -> SmallVec<[u64; 2]> {
        self.shard(hash).read().iter_hash(hash).filter(|row| row.hash == hash).map(|row| row.seq).collect()
    }

    /// Points a key at `seq`; returns the position it pointed to before.
    /// `is_key` tells whether the record at a position has the same key.
    pub fn replace(&self, hash: u64, seq: u64, mut is_key: impl FnMut(u64) -> bool) -> Option<u64> {
        let mut shard = self.shard(hash).write();
        if let Some(row) = shard.find_mut(hash, |row| row.hash == hash && is_key(row.seq)) {
            return Some(std::mem::replace(&mut row.seq, seq));
        }
        shard.insert_unique(hash, Row { hash, seq }, |row| row.hash);
        None
    }
}
