//! The index against a map, against damage to its files, and against SIGKILL.

mod damage;
#[path = "../common/damage.rs"]
mod damaged_files;
mod kill;
mod model;

use std::path::Path;

use bytes::Bytes;
use scribe_ledger::{
    error::Error,
    index::{Index, IndexOptions, Ingested, Newest, Position, Result, Row},
    types::{SegmentId, Seq},
};

/// Small enough that cached rows and blocks are evicted in a test.
const OPTIONS: IndexOptions = IndexOptions { cache_bytes: 256 << 10, hash_seed: 7 };

fn open(path: &Path) -> Result<Index> {
    Index::open(path, OPTIONS)
}

fn row(key: impl Into<Vec<u8>>, seq: u64, is_tombstone: bool) -> Row {
    Row { key: Bytes::from(key.into()), newest: Newest { seq: Seq(seq), is_tombstone } }
}

fn position(end_seq: u64, segment: u64) -> Position {
    Position { end_seq: Seq(end_seq), segment: SegmentId(segment) }
}

/// Feeds rows, sorted and unique, that cover everything from the index's position to before `end_seq`.
fn ingest(index: &Index, end_seq: u64, segment: u64, rows: &[Row]) -> Result<Ingested> {
    let from = index.position().map_or(Seq(0), |position| position.end_seq);
    index.ingest(from, position(end_seq, segment), rows.iter().cloned().map(Ok::<_, Error>))
}
