//! Feeding the index: the key tables of several segments, merged into one run.
//!
//! The larger the runs the less the index merges, so a run is due when enough keys wait for it, and takes all
//! that wait. Until it is in, those segments' filters and key tables answer.

use std::sync::{Arc, atomic::Ordering};

use super::{Pinned, Sealed};
use crate::{
    error::Result,
    index::{self, Index, IndexError, Newest, Position, Row, merge},
    segment::{KeyEntry, Segment},
    types::Op,
};

/// A run is due when this many keys wait for it: two million cost a quarter less each than one.
const RUN_KEYS_MIN: u64 = 2_000_000;

/// Or this many segments, each of which a lookup has to ask.
const RUN_SEGMENTS_MIN: usize = 8;

/// The most segments of a run: each is one block in memory while it is merged.
const RUN_SEGMENTS_MAX: usize = 64;

impl Sealed {
    /// How many segments the index does not cover yet.
    #[must_use]
    pub fn unindexed(&self) -> usize {
        let Pinned { segments, indexed, .. } = self.pin();
        segments.len().saturating_sub(indexed)
    }

    /// Feeds the index one run, if one is due; whether it did. It takes seconds: for a thread of its own.
    ///
    /// # Errors
    /// A segment that cannot be read. What the index itself cannot do is told to the log and tried again, with
    /// a new index if need be.
    pub fn feed_index(&self) -> Result<bool> {
        self.feed_index_with(RUN_SEGMENTS_MIN)
    }

    /// As [`Sealed::feed_index`], with a run due when so many segments wait.
    pub(crate) fn feed_index_with(&self, segments_min: usize) -> Result<bool> {
        if self.doubted.swap(false, Ordering::AcqRel) {
            self.rebuild_index();
        }
        let Pinned { segments, index, indexed } = self.pin();
        let waiting = segments.get(indexed..).unwrap_or_default();
        let keys: u64 = waiting.iter().map(|segment| segment.summary().keys).sum();
        if keys < RUN_KEYS_MIN && waiting.len() < segments_min {
            return Ok(false);
        }
        match ingest(&index, waiting) {
            Ok(()) => Ok(!waiting.is_empty()),
            Err(IndexError::Source(error)) => Err(error),
            Err(error) => {
                self.doubt(&error);
                Ok(false)
            }
        }
    }

    /// Throws the index away and feeds a new one all segments, on request. `told` hears how many segments it
    /// covers, before the first run and after each. It takes seconds for every million keys.
    ///
    /// # Errors
    /// A segment that cannot be read, an index that cannot be written. What the new index has by then stays,
    /// and the next start goes on from there.
    pub fn reindex(&self, mut told: impl FnMut(usize)) -> Result<()> {
        self.renew_index()?;
        loop {
            let Pinned { segments, index, indexed } = self.pin();
            told(indexed);
            let waiting = segments.get(indexed..).unwrap_or_default();
            if waiting.is_empty() {
                return Ok(());
            }
            ingest(&index, waiting)?;
        }
    }

    /// Begins an empty index in the place of the one that does not answer, or says why it cannot yet.
    fn rebuild_index(&self) {
        if let Err(error) = self.renew_index() {
            tracing::warn!(%error, "the index cannot be built anew now");
            self.doubted.store(true, Ordering::Release);
        }
    }

    fn renew_index(&self) -> index::Result<()> {
        let fresh = match &self.index_dir {
            None => Index::in_memory(self.index_options),
            Some(path) => {
                // Its files have to be closed first, and whoever still reads from it is soon done.
                self.index.load().close();
                self.index.store(Arc::new(Index::in_memory(self.index_options)));
                Index::rebuild_from_scratch(path, self.index_options)?
            }
        };
        self.index.store(Arc::new(fresh));
        Ok(())
    }
}

/// Feeds one run of the segments that wait.
fn ingest(index: &Index, waiting: &[Arc<Segment>]) -> index::Result<()> {
    let run = &waiting[..waiting.len().min(RUN_SEGMENTS_MAX)];
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
    let (from, last) = (first.summary().head.first_seq, last.summary());
    let to = Position { end_seq: last.end_seq, segment: last.head.id };
    let rows = merge(run.iter().map(|segment| segment.keys().map(|entry| entry.map(row))))
        .map_err(IndexError::Source)?;
    index.ingest(from, to, rows).map(drop)
}

pub(super) fn row(entry: KeyEntry) -> Row {
    let newest = Newest { seq: entry.newest.seq, is_tombstone: entry.newest.op == Op::Delete };
    Row { key: entry.key, newest }
}
