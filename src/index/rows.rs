//! What the index asks of the place where its rows are.
//!
//! Two places: tables on disk, and an ordered map in memory for simulations, because the tables do their own
//! I/O and would escape the simulated disk. Neither owns what a run has to be, nor how far the index has come
//! in its owner's eyes: both are [`Index`](super::Index)'s.

use super::{
    error::Result,
    range::KeyRange,
    row::{Newest, Position, Row},
};

/// A run, checked on its way: rows in ascending order of their keys, each key once.
pub(super) type CheckedRun<'a> = dyn Iterator<Item = Result<Row>> + 'a;

/// Rows in the order of their keys, as they were when the scan began.
pub type Scan = Box<dyn Iterator<Item = Result<Row>> + Send>;

/// A place for rows.
pub(super) trait Rows: Send + Sync {
    /// Waits until earlier runs are merged far enough for one more.
    fn wait_for_room(&self) -> Result<()>;

    /// Takes all rows of a run and its position, or, with an error, nothing. A reader sees either.
    fn ingest(&self, run: &mut CheckedRun<'_>, position: Position) -> Result<()>;

    /// The row of a key.
    fn newest(&self, key: &[u8]) -> Result<Option<Newest>>;

    /// The rows of a range.
    fn scan(&self, range: &KeyRange) -> Scan;

    /// About how many keys there are: a key counts again for each run that is not merged yet.
    fn len_estimate(&self) -> u64;

    /// Bytes of the files.
    fn disk_bytes(&self) -> u64;

    /// Whether runs are being merged.
    fn is_merging(&self) -> bool;

    /// Takes no more runs; one that waits for room gives up.
    fn close(&self);
}
