//! Many records, one after the other, in pages of bounded size.
//!
//! Takes keys and a reader, gives iterators. A page is at most a thousand records or a megabyte, so that going
//! through a ledger of any size costs the memory of a page.

use std::{
    ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive},
    vec,
};

use bytes::Bytes;

use crate::{
    error::Result,
    read::{self, Reader, Record},
    types::Seq,
};

/// Most records of a page.
const PAGE_RECORDS_MAX: usize = 1_000;
/// Bytes of keys and values after which a page ends.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Which keys a scan goes through: all of them (`..`), a range such as `"a".."b"`, or those with a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    prefix: Bytes,
    start: Option<Bytes>,
    end: Option<Bytes>,
}

impl Keys {
    /// The keys that begin with these bytes.
    #[must_use]
    pub fn with_prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self { prefix: Bytes::copy_from_slice(prefix.as_ref()), ..Self::default() }
    }

    fn starting_at(mut self, start: &impl AsRef<[u8]>) -> Self {
        self.start = Some(Bytes::copy_from_slice(start.as_ref()));
        self
    }

    fn ending_before(mut self, end: &impl AsRef<[u8]>) -> Self {
        self.end = Some(Bytes::copy_from_slice(end.as_ref()));
        self
    }

    /// Nothing lies between a key and the same with a zero byte behind it.
    fn through(self, last: &impl AsRef<[u8]>) -> Self {
        self.ending_before(&[last.as_ref(), &[0]].concat())
    }
}

impl From<RangeFull> for Keys {
    fn from(_: RangeFull) -> Self {
        Self::default()
    }
}

impl<K: AsRef<[u8]>> From<Range<K>> for Keys {
    fn from(range: Range<K>) -> Self {
        Self::default().starting_at(&range.start).ending_before(&range.end)
    }
}

impl<K: AsRef<[u8]>> From<RangeInclusive<K>> for Keys {
    fn from(range: RangeInclusive<K>) -> Self {
        Self::default().starting_at(range.start()).through(range.end())
    }
}

impl<K: AsRef<[u8]>> From<RangeFrom<K>> for Keys {
    fn from(range: RangeFrom<K>) -> Self {
        Self::default().starting_at(&range.start)
    }
}

impl<K: AsRef<[u8]>> From<RangeTo<K>> for Keys {
    fn from(range: RangeTo<K>) -> Self {
        Self::default().ending_before(&range.end)
    }
}

impl<K: AsRef<[u8]>> From<RangeToInclusive<K>> for Keys {
    fn from(range: RangeToInclusive<K>) -> Self {
        Self::default().through(&range.end)
    }
}

/// The records of live keys in byte order, as of one position: see [`Ledger::scan`](super::Ledger::scan).
#[derive(Debug)]
pub struct Scan<'a> {
    reader: &'a Reader,
    /// Where the next page begins; `None` when there is none.
    next: Option<read::Scan>,
    page: vec::IntoIter<Record>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(reader: &'a Reader, Keys { prefix, start, end }: Keys) -> Self {
        let next = read::Scan {
            prefix,
            start,
            end,
            after: None,
            position: Some(reader.next_seq()),
            limit: PAGE_RECORDS_MAX,
            bytes_max: PAGE_BYTES_MAX,
        };
        Self { reader, next: Some(next), page: Vec::new().into_iter() }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.page.next() {
                return Some(Ok(record));
            }
            let scan = self.next.take()?;
            let page = match self.reader.scan(&scan) {
                Ok(page) => page,
                Err(error) => return Some(Err(error)),
            };
            // A page of nothing but tombstones is empty and not the last one.
            self.next = page.next.map(|after| read::Scan { after: Some(after), ..scan });
            self.page = page.records.into_iter();
        }
    }
}

/// The versions of a key, newest first: see [`Ledger::history`](super::Ledger::history).
#[derive(Debug)]
pub struct History<'a> {
    reader: &'a Reader,
    key: Bytes,
    /// Versions from here on have been given; `None` when all have.
    before: Option<Seq>,
    page: vec::IntoIter<Record>,
}

impl<'a> History<'a> {
    pub(super) fn new(reader: &'a Reader, key: &[u8]) -> Self {
        let key = Bytes::copy_from_slice(key);
        Self { reader, key, before: Some(reader.next_seq()), page: Vec::new().into_iter() }
    }
}

impl Iterator for History<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(record) = self.page.next() {
            return Some(Ok(record));
        }
        let before = Some(self.before.take()?);
        let versions = match self.reader.history(&self.key, before, PAGE_RECORDS_MAX, PAGE_BYTES_MAX) {
            Ok(versions) => versions,
            Err(error) => return Some(Err(error)),
        };
        self.before = versions.last().map(|oldest| oldest.seq);
        self.page = versions.into_iter();
        self.page.next().map(Ok)
    }
}
