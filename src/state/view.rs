//! Everything that can be read at one moment: the open memtable and the closed ones under it.
//!
//! ```text
//! open      the segment that is being filled
//! closed    segments that are not yet in files, the newest first
//! ```
//!
//! A key's versions are looked for from the top down; each layer's are newer than those of the next. A view does
//! not change: the state publishes a new one when a memtable is closed or has become a file. Readers ask for
//! their position first and for the view then, so that the view holds all that is below the position.

use std::{iter, sync::Arc};

use bytes::Bytes;

use super::{
    memtable::Memtable,
    record::{Page, Record, Scan},
};
use crate::types::{Op, Seq};

/// Keys that one page looks at, deleted ones included: a page ends after some milliseconds, also where
/// nothing is left but tombstones.
pub(super) const SCAN_KEYS_MAX: usize = 1 << 15;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) open: Arc<Memtable>,
    pub(super) closed: Arc<[Arc<Memtable>]>,
}

impl View {
    /// The memtables, the newest first.
    pub(super) fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        iter::once(&*self.open).chain(self.closed.iter().map(|table| &**table))
    }

    /// The newest version of a key below `position`, tombstones included.
    pub fn version_below(&self, key: &[u8], position: Seq) -> Option<Record> {
        self.memtables()
            .filter(|table| table.first_seq() < position)
            .find_map(|table| table.version_below(key, position))
    }

    /// The newest version of a key in the layers under the open memtable: its position, and what it did.
    pub(super) fn closed_newest(&self, key: &[u8]) -> Option<(Seq, Op)> {
        let version = self.closed.iter().find_map(|table| table.version_below(key, Seq(u64::MAX)))?;
        Some((version.seq, version.op))
    }

    /// Versions of a key below `position`, newest first.
    pub fn versions_below(&self, key: &[u8], position: Seq, limit: usize) -> Vec<Record> {
        let mut versions = Vec::new();
        for table in self.memtables().filter(|table| table.first_seq() < position) {
            table.versions_below(key, position, limit, &mut versions);
        }
        versions
    }

    /// The record at a position that was applied when the view was taken.
    pub fn record(&self, seq: Seq) -> Option<Record> {
        self.memtables().find(|table| table.first_seq() <= seq).map(|table| table.record(seq))
    }

    /// A page of live keys in byte order, as of `position`.
    pub fn scan(&self, scan: &Scan, position: Seq) -> Page {
        let starts_behind = |candidate: &[u8]| {
            candidate >= &scan.prefix[..]
                && scan.start.as_ref().is_none_or(|start| candidate >= &start[..])
                && scan.after.as_ref().is_none_or(|after| candidate > &after[..])
        };
        // One cursor a run, each at its first key of the range; the smallest is taken until the page is full.
        let runs: Vec<_> =
            self.memtables().flat_map(|table| iter::repeat(table).zip(table.key_runs())).collect();
        let mut cursors: Vec<(Bytes, usize, &Memtable, &[u64])> = Vec::new();
        for (table, run) in &runs {
            let from = run.partition_point(|&seq| !starts_behind(&table.key(seq)));
            cursors.extend(run.get(from).map(|&seq| (table.key(seq), from, *table, &run[..])));
        }
        let mut page = Page { position, ..Page::default() };
        let (mut bytes, mut visited) = (0, 0);
        let mut last = Bytes::new();
        while let Some(smallest) = (0..cursors.len()).min_by(|&a, &b| cursors[a].0.cmp(&cursors[b].0)) {
            let (candidate, at, table, run) = cursors[smallest].clone();
            if !candidate.starts_with(&scan.prefix)
                || scan.end.as_ref().is_some_and(|end| candidate >= end[..])
            {
                break;
            }
            let is_new = candidate != last;
            if is_new
                && (page.records.len() >= scan.limit || bytes >= scan.bytes_max || visited >= SCAN_KEYS_MAX)
            {
                page.next = Some(last);
                break;
            }
            match run.get(at + 1) {
                Some(&seq) => cursors[smallest] = (table.key(seq), at + 1, table, run),
                None => drop(cursors.swap_remove(smallest)),
            }
            // Several memtables may have it.
            if !is_new {
                continue;
            }
            let version = self.version_below(&candidate, position).filter(|record| record.op == Op::Put);
            if let Some(record) = version {
                bytes += record.key.len() + record.value.len();
                page.records.push(record);
            }
            last = candidate;
            visited += 1;
        }
        page
    }
}
