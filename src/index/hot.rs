//! The rows that are asked for again and again, in memory, bounded in bytes.
//!
//! A lookup in the tables costs four microseconds, one here a quarter of one. Keys that are not in the index
//! are not kept: the tables' filters answer for them quickly enough.
//!
//! A run must not leave an older row here. Three rules see to that: a run first shuts the gate, then takes
//! out each of its keys, and opens the gate when its rows can be read; a row comes in only while the gate is
//! held open, and only if the gate has not been shut since before that row was looked up. So a row that came
//! in did so before a run that has its key took it out, or was looked up when that run's rows could be read.

use foldhash::{SharedSeed, fast::SeedableRandomState};
use parking_lot::RwLock;
use quick_cache::{Weighter, sync::Cache};

use super::{error::Result, row::Newest};

/// What an entry costs beside the bytes of its key: its slot, the key's header, and its share of the hash
/// table.
const ENTRY_BYTES: u64 = 96;

/// For how many entries the table is laid out at first, by the bytes of a typical one.
const TYPICAL_ENTRY_BYTES: u64 = 128;

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Box<[u8]>, Newest> for ByBytes {
    fn weight(&self, key: &Box<[u8]>, _: &Newest) -> u64 {
        ENTRY_BYTES + key.len() as u64
    }
}

/// How often the gate has been shut, and whether it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gate {
    shut_count: u64,
    is_shut: bool,
}

/// The cache.
pub(super) struct HotRows {
    rows: Cache<Box<[u8]>, Newest, ByBytes, SeedableRandomState>,
    gate: RwLock<Gate>,
}

/// Keeps the gate shut while a run is taken in.
pub(super) struct Shut<'a>(&'a HotRows);

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.0.gate.write().is_shut = false;
    }
}

impl HotRows {
    /// At most this many bytes; the seed decides where a row lies, never what is answered.
    pub(super) fn new(bytes_max: u64, seed: u64) -> Self {
        let entries = usize::try_from(bytes_max / TYPICAL_ENTRY_BYTES).unwrap_or(usize::MAX);
        let hasher = SeedableRandomState::with_seed(seed, SharedSeed::global_fixed());
        let rows = Cache::with(entries, bytes_max, ByBytes, hasher, Default::default());
        Self { rows, gate: RwLock::default() }
    }

    /// The row of a key, from here or else from `look_up`.
    pub(super) fn get_or(
        &self,
        key: &[u8],
        look_up: impl FnOnce() -> Result<Option<Newest>>,
    ) -> Result<Option<Newest>> {
        if let Some(newest) = self.rows.get(key) {
            return Ok(Some(newest));
        }
        let before = *self.gate.read();
        let found = look_up()?;
        if let Some(newest) = found
            && !before.is_shut
        {
            // Held until the row is in, so that no run can begin to take rows out meanwhile.
            let now = self.gate.read();
            if *now == before {
                self.rows.insert(key.into(), newest);
            }
        }
        Ok(found)
    }

    /// Lets no row in until the guard goes: after the run's rows can be read, or will never be.
    pub(super) fn shut(&self) -> Shut<'_> {
        let mut gate = self.gate.write();
        gate.shut_count += 1;
        gate.is_shut = true;
        Shut(self)
    }
}

impl Shut<'_> {
    /// Takes a key of the run out.
    pub(super) fn take_out(&self, key: &[u8]) {
        self.0.rows.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;

    fn newest(seq: u64) -> Newest {
        Newest { seq: Seq(seq), is_tombstone: false }
    }

    fn hot() -> HotRows {
        HotRows::new(1 << 20, 7)
    }

    fn held(hot: &HotRows, key: &[u8]) -> Option<Newest> {
        hot.rows.get(key)
    }

    #[test]
    fn a_row_is_looked_up_once() {
        let hot = hot();
        for _ in 0..2 {
            assert_eq!(hot.get_or(b"key", || Ok(Some(newest(1)))).unwrap(), Some(newest(1)));
        }
        assert_eq!(hot.get_or(b"key", || panic!("it is here")).unwrap(), Some(newest(1)));
        assert_eq!(hot.get_or(b"none", || Ok(None)).unwrap(), None);
        assert_eq!(held(&hot, b"none"), None);
    }

    #[test]
    fn a_run_takes_its_keys_out_and_lets_none_in() {
        let hot = hot();
        hot.get_or(b"key", || Ok(Some(newest(1)))).unwrap();
        let shut = hot.shut();
        shut.take_out(b"key");
        assert_eq!(hot.get_or(b"key", || Ok(Some(newest(1)))).unwrap(), Some(newest(1)));
        assert_eq!(held(&hot, b"key"), None);
        drop(shut);
        assert_eq!(hot.get_or(b"key", || Ok(Some(newest(2)))).unwrap(), Some(newest(2)));
        assert_eq!(held(&hot, b"key"), Some(newest(2)));
    }

    #[test]
    fn what_was_looked_up_before_a_run_stays_out_after_it() {
        let hot = hot();
        let found = hot.get_or(b"key", || {
            // A whole run goes by between the look at the tables and the answer.
            hot.shut().take_out(b"key");
            Ok(Some(newest(1)))
        });
        assert_eq!(found.unwrap(), Some(newest(1)));
        assert_eq!(held(&hot, b"key"), None);
    }

    #[test]
    fn it_keeps_to_its_bytes() {
        let hot = HotRows::new(64 << 10, 7);
        for seq in 0..10_000 {
            hot.get_or(&seq.to_string().into_bytes(), || Ok(Some(newest(seq)))).unwrap();
        }
        assert!(hot.rows.weight() <= 64 << 10 && hot.rows.len() > 100, "{} bytes", hot.rows.weight());
    }
}
