//! Records that are asked for again and again, in memory, bounded in bytes.
//!
//! A lookup in segments costs microseconds, one here a tenth of one. Nothing has to be taken out when a key is
//! written again: an entry says how many segments it was looked for in, and those that have come since are asked
//! by their filters before it is believed.

use bytes::Bytes;
use foldhash::{SharedSeed, fast::SeedableRandomState};
use quick_cache::{Weighter, sync::Cache};

use super::Segments;
use crate::{segment::KeyHash, types::Record};

/// What an entry costs beside the bytes of its key and value: its slot, its share of the hash table, the heads of
/// two allocations.
const ENTRY_BYTES: u64 = 160;

/// For how many entries the table is laid out at first, by the bytes of a typical one.
const TYPICAL_ENTRY_BYTES: u64 = 256;

/// Larger records are left to the cache of blocks, which has theirs apart.
const RECORD_BYTES_MAX: usize = 4 << 10;

#[derive(Clone, Debug)]
struct Entry {
    record: Record,
    /// It is the newest version of its key in so many segments, from the first on.
    segments: usize,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Bytes, Entry> for ByBytes {
    fn weight(&self, _: &Bytes, entry: &Entry) -> u64 {
        ENTRY_BYTES + (entry.record.key.len() + entry.record.value.len()) as u64
    }
}

/// The cache.
#[derive(Debug)]
pub(super) struct HotRecords(Cache<Bytes, Entry, ByBytes, SeedableRandomState>);

impl HotRecords {
    /// At most this many bytes; the seed decides where an entry lies, never what is answered.
    pub(super) fn new(bytes_max: u64, seed: u64) -> Self {
        let entries = usize::try_from(bytes_max / TYPICAL_ENTRY_BYTES).unwrap_or(usize::MAX);
        let hasher = SeedableRandomState::with_seed(seed, SharedSeed::global_fixed());
        Self(Cache::with(entries, bytes_max, ByBytes, hasher, Default::default()))
    }

    /// The newest version of a key in these segments, if it is here.
    pub(super) fn get(&self, key: &[u8], segments: &Segments) -> Option<Record> {
        let entry = self.0.get(key)?;
        let newer = segments.get(entry.segments..).unwrap_or_default();
        if newer.is_empty() {
            return Some(entry.record);
        }
        let hash = KeyHash::of(key);
        if newer.iter().any(|segment| segment.may_contain(hash)) {
            return None;
        }
        // The next reader need not ask those again.
        self.0.insert(entry.record.key.clone(), Entry { segments: segments.len(), ..entry.clone() });
        Some(entry.record)
    }

    /// Keeps what was found as the newest version in these segments.
    pub(super) fn keep(&self, record: &Record, segments: &Segments) {
        if record.key.len() + record.value.len() > RECORD_BYTES_MAX {
            return;
        }
        // Copies: a slice would keep its whole block in memory.
        let (key, value) = (Bytes::copy_from_slice(&record.key), Bytes::copy_from_slice(&record.value));
        let record = Record { key: key.clone(), value, ..*record };
        self.0.insert(key, Entry { record, segments: segments.len() });
    }

    /// Bytes that its entries take.
    pub(super) fn bytes(&self) -> u64 {
        self.0.weight()
    }
}
