//! Everything that is in memory at one moment: the open memtable and the closed ones under it.
//!
//! ```text
//! open      the segment that is being filled
//! closed    segments that are not yet in files, the newest first
//! recent    the last segments that are: what was just written is often read next
//! sealed    what is in files: asked when a key is not in those above
//! ```
//!
//! A key's versions are looked for from the top down; each layer's are newer than those of the next. A view does
//! not change: the state publishes a new one when a memtable is closed, or is let go of after its segment was
//! added to what is sealed. Readers ask for their position first, for the view then and for what is sealed last,
//! so that nothing below the position is missing.

use std::{
    iter::{self, Peekable},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    memtable::Memtable,
    record::{Page, Record, Scan, Versions},
    segment::ClosedSegment,
};
use crate::{
    error::Result,
    index::{KeyRange, Newest},
    sealed::{self, Missing, Pinned, Sealed},
    types::{Op, Seq},
};

/// Keys that one page looks at, deleted ones included: a page ends after some milliseconds, also where
/// nothing is left but tombstones.
pub(super) const SCAN_KEYS_MAX: usize = 1 << 15;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) open: Arc<Memtable>,
    pub(super) closed: Arc<[Arc<ClosedSegment>]>,
    pub(super) recent: Arc<[Arc<ClosedSegment>]>,
}

impl View {
    /// The memtables of what is not sealed, the newest first.
    pub(super) fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        iter::once(&*self.open).chain(self.closed.iter().map(|segment| &*segment.table))
    }

    /// All memtables, the newest first.
    fn in_memory(&self) -> impl Iterator<Item = &Memtable> {
        self.memtables().chain(self.recent.iter().map(|segment| &*segment.table))
    }

    /// The newest version of a key below `position` that is in memory, tombstones included.
    fn version_in_memory(&self, key: &[u8], position: Seq) -> Option<Record> {
        self.in_memory()
            .filter(|table| table.first_seq() < position)
            .find_map(|table| table.version_below(key, position))
    }

    /// The newest version of a key below `position`, tombstones included.
    pub fn version_below(&self, sealed: &Sealed, key: &[u8], position: Seq) -> Result<Option<Record>> {
        match self.version_in_memory(key, position) {
            None => sealed.version_below(key, position),
            found => Ok(found),
        }
    }

    /// The newest version of a key in the closed memtables.
    pub fn closed_newest(&self, key: &[u8]) -> Option<(Seq, Op)> {
        let version =
            self.closed.iter().find_map(|segment| segment.table.version_below(key, Seq(u64::MAX)))?;
        Some((version.seq, version.op))
    }

    /// Adds a key's versions below `position` to `versions`, newest first, until it is full.
    pub fn versions_below(
        &self,
        sealed: &Sealed,
        key: &[u8],
        position: Seq,
        versions: &mut Versions,
    ) -> Result<()> {
        for table in self.memtables().filter(|table| table.first_seq() < position) {
            table.versions_below(key, position, versions);
        }
        // What is in both layers has been taken from the memtable.
        let below = self.memtables().last().map_or(position, |oldest| oldest.first_seq().min(position));
        if versions.is_full() { Ok(()) } else { sealed.versions_below(key, below, versions) }
    }

    /// The record at a position that was applied when the view was taken, if it is in memory.
    pub fn record(&self, seq: Seq) -> Option<Record> {
        self.in_memory().find(|table| table.first_seq() <= seq).map(|table| table.record(seq))
    }

    /// A page of live keys in byte order, as of `position`.
    pub fn scan(&self, sealed: &Sealed, scan: &Scan, position: Seq) -> Result<Page> {
        let mut range = KeyRange::prefix(&scan.prefix);
        range = scan.start.iter().fold(range, |range, start| range.from(start));
        range = scan.after.iter().fold(range, |range, after| range.after(after));
        range = scan.end.iter().fold(range, |range, end| range.before(end));
        let pinned = sealed.pin();
        let mut keys = KeysInOrder::of(self, &pinned, &range)?;
        let mut page = Page { position, ..Page::default() };
        let (mut bytes, mut visited) = (0, 0);
        let mut last = Bytes::new();
        let mut missing = Missing::default();
        while let Some((key, newest_sealed)) = keys.next()? {
            if missing.is_full() {
                break;
            }
            if page.records.len() + missing.len() >= scan.limit
                || bytes >= scan.bytes_max
                || visited >= SCAN_KEYS_MAX
            {
                page.next = Some(last);
                break;
            }
            let version = missing.without(self.live_version(sealed, &key, newest_sealed, position))?;
            if let Some(record) = version.flatten() {
                bytes += record.key.len() + record.value.len();
                page.records.push(record);
            }
            last = key;
            visited += 1;
        }
        missing.done()?;
        Ok(page)
    }

    /// How many of the next keys behind `after` are live at `position`, and where to go on.
    pub fn count_live(
        &self,
        sealed: &Sealed,
        after: Option<&[u8]>,
        position: Seq,
    ) -> Result<(u64, Option<Bytes>)> {
        let range = after.iter().fold(KeyRange::all(), |range, after| range.after(after));
        let pinned = sealed.pin();
        let mut keys = KeysInOrder::of(self, &pinned, &range)?;
        let (mut live, mut last) = (0, Bytes::new());
        for _ in 0..SCAN_KEYS_MAX {
            let Some((key, newest_sealed)) = keys.next()? else { return Ok((live, None)) };
            last = key.clone();
            let is_live = match (self.version_in_memory(&key, position), newest_sealed) {
                (Some(version), _) => version.op == Op::Put,
                (None, Some(newest)) if newest.seq < position => !newest.is_tombstone,
                (None, newest) => self.live_version(sealed, &key, newest, position)?.is_some(),
            };
            live += u64::from(is_live);
        }
        Ok((live, Some(last)))
    }

    /// The version of a key that was live at `position`, knowing its newest sealed one.
    fn live_version(
        &self,
        sealed: &Sealed,
        key: &[u8],
        newest: Option<Newest>,
        position: Seq,
    ) -> Result<Option<Record>> {
        let version = match (self.version_in_memory(key, position), newest) {
            (Some(version), _) => Some(version),
            (None, None) => None,
            (None, Some(newest)) if newest.seq < position => {
                if newest.is_tombstone {
                    None
                } else {
                    sealed.record(newest.seq)?
                }
            }
            (None, Some(_)) => sealed.version_below(key, position)?,
        };
        Ok(version.filter(|version| version.op == Op::Put))
    }
}

/// All keys in byte order, each once, with its newest sealed version.
struct KeysInOrder<'a> {
    in_memory: MemoryKeys<'a>,
    in_files: Peekable<sealed::Keys<'a>>,
}

impl<'a> KeysInOrder<'a> {
    fn of(view: &'a View, pinned: &'a Pinned, range: &'a KeyRange) -> Result<Self> {
        Ok(Self { in_memory: MemoryKeys::of(view, range), in_files: pinned.keys(range)?.peekable() })
    }

    fn next(&mut self) -> Result<Option<(Bytes, Option<Newest>)>> {
        let in_file = match self.in_files.peek() {
            None => None,
            Some(Ok(row)) => Some(&row.key),
            Some(Err(error)) => return Err(error.clone()),
        };
        let Some(key) = in_file.into_iter().chain(self.in_memory.peek()).min().cloned() else {
            return Ok(None);
        };
        self.in_memory.pass(&key);
        let row = self.in_files.next_if(|row| row.as_ref().is_ok_and(|row| row.key == key));
        Ok(Some((key, row.and_then(Result::ok).map(|row| row.newest))))
    }
}

/// Keys of the memtables in byte order. One cursor a sorted run, each at the next key of the range.
struct MemoryKeys<'a> {
    range: &'a KeyRange,
    cursors: Vec<Cursor<'a>>,
}

struct Cursor<'a> {
    key: Bytes,
    at: usize,
    table: &'a Memtable,
    run: super::keys::Run,
}

impl<'a> MemoryKeys<'a> {
    fn of(view: &'a View, range: &'a KeyRange) -> Self {
        let runs = view.memtables().flat_map(|table| iter::repeat(table).zip(table.key_runs()));
        let cursors = runs.filter_map(|(table, run)| {
            let at = run.partition_point(|&seq| table.key(seq)[..] < *range.first());
            let key = table.key(*run.get(at)?);
            range.ends_after(&key).then_some(Cursor { key, at, table, run })
        });
        Self { range, cursors: cursors.collect() }
    }

    fn peek(&self) -> Option<&Bytes> {
        self.cursors.iter().map(|cursor| &cursor.key).min()
    }

    /// Goes on behind a key, which several memtables may have.
    fn pass(&mut self, key: &Bytes) {
        self.cursors.retain_mut(|cursor| {
            if cursor.key != key {
                return true;
            }
            cursor.at += 1;
            let Some(&seq) = cursor.run.get(cursor.at) else { return false };
            cursor.key = cursor.table.key(seq);
            self.range.ends_after(&cursor.key)
        });
    }
}
