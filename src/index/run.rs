//! A run on its way in: what it promised is checked row by row, before any of it counts.
//!
//! The tables trust the order of what they are fed, and an index that silently lacks rows gives wrong answers
//! for ever. That a run ends where it says is known by its newest row: the last record of a range is always
//! the newest of its key.

use std::ops::Range;

use bytes::Bytes;

use super::{
    error::{IndexError, Result},
    row::{Row, SEQ_MAX},
};
use crate::{
    error::Error,
    types::{KEY_BYTES_MAX, Seq},
};

/// The run with its checks.
pub(super) struct Checked<I, F> {
    rows: I,
    covers: Range<Seq>,
    last_key: Option<Bytes>,
    newest: Option<Seq>,
    seen: F,
}

impl<I, F> Checked<I, F> {
    /// A run of rows of the records in `covers`; `seen` is told every key.
    pub(super) fn new(rows: I, covers: Range<Seq>, seen: F) -> Self {
        Self { rows, covers, last_key: None, newest: None, seen }
    }

    fn check(&self, row: &Row) -> Result<()> {
        let Row { key, newest } = row;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(IndexError::bad_run(format!("has a key of {} bytes", key.len())));
        }
        if self.last_key.as_ref().is_some_and(|last| last >= key) {
            return Err(IndexError::bad_run(format!("has {:?} behind a key that is not smaller", row.key)));
        }
        if !self.covers.contains(&newest.seq) || newest.seq > SEQ_MAX {
            let Range { start, end } = self.covers;
            return Err(IndexError::bad_run(format!(
                "covers {start}..{end} and has a row of {}",
                newest.seq
            )));
        }
        Ok(())
    }

    /// Whether the last record that is covered was among the rows, if any is covered.
    fn check_end(&mut self) -> Option<Result<Row>> {
        let Range { start, end } = self.covers;
        // Asked once: what is covered has been looked at.
        self.covers = end..end;
        let is_whole = start >= end || self.newest.is_some_and(|seq| seq.plus(1) == end);
        (!is_whole).then(|| {
            Err(IndexError::bad_run(format!("covers {start}..{end} and ends without its last record")))
        })
    }
}

impl<I: Iterator<Item = Result<Row, Error>>, F: FnMut(&[u8])> Iterator for Checked<I, F> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match self.rows.next() {
            Some(Ok(row)) => row,
            Some(Err(error)) => return Some(Err(IndexError::Source(error))),
            None => return self.check_end(),
        };
        if let Err(error) = self.check(&row) {
            return Some(Err(error));
        }
        (self.seen)(&row.key);
        self.newest = self.newest.max(Some(row.newest.seq));
        self.last_key = Some(row.key.clone());
        Some(Ok(row))
    }
}
