//! Rows in memory: for simulations, where every byte that is written has to pass the simulated disk, and
//! there the index is rebuilt at each start, as after any damage.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::RwLock;

use super::{
    error::{IndexError, Result},
    range::KeyRange,
    row::{Newest, POSITION_KEY, Position, Row},
    rows::{CheckedRun, Rows, Scan},
};

/// An ordered map. A run that comes while a scan is on its way goes into a copy.
#[derive(Debug, Default)]
pub(super) struct InMemory {
    rows: RwLock<Arc<BTreeMap<Bytes, Newest>>>,
    closed: AtomicBool,
}

impl Rows for InMemory {
    fn wait_for_room(&self) -> Result<()> {
        if self.closed.load(Relaxed) {
            return Err(IndexError::refused("in memory".as_ref(), "it is closed"));
        }
        Ok(())
    }

    fn ingest(&self, run: &mut CheckedRun<'_>, _: Position) -> Result<()> {
        let run = run.collect::<Result<Vec<Row>>>()?;
        Arc::make_mut(&mut self.rows.write()).extend(run.into_iter().map(|row| (row.key, row.newest)));
        Ok(())
    }

    fn newest(&self, key: &[u8]) -> Result<Option<Newest>> {
        Ok(self.rows.read().get(key).copied())
    }

    fn scan(&self, range: &KeyRange) -> Scan {
        let rows = Arc::clone(&self.rows.read());
        let range = range.clone();
        let mut last: Option<Bytes> = None;
        Box::new(std::iter::from_fn(move || {
            let (from, end) = range.bounds(&POSITION_KEY);
            let from = last.as_deref().map_or(from, Bound::Excluded);
            let (key, newest) = rows.range::<[u8], _>((from, end)).next()?;
            last = Some(key.clone());
            Some(Ok(Row { key: key.clone(), newest: *newest }))
        }))
    }

    fn len_estimate(&self) -> u64 {
        self.rows.read().len() as u64
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn is_merging(&self) -> bool {
        false
    }

    fn close(&self) {
        self.closed.store(true, Relaxed);
    }
}
