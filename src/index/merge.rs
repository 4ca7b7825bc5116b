//! Several sorted streams of rows made one: each key once, with its newest version.
//!
//! Takes the key tables of segments that follow each other, in any order; gives the run that
//! [`Index::ingest`](super::Index::ingest) takes. Holds one row of each stream and nothing else, so that its
//! memory does not depend on how much it merges: one large run costs the index less than many small ones.
//!
//! A heap keeps the streams in the order of their next keys. Random keys differ in their first eight bytes,
//! which are compared as one number, before the keys are.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use bytes::Bytes;

use super::row::Row;
use crate::error::Result;

/// A stream, with its next row taken out of it.
struct Head<I> {
    lead: u64,
    row: Row,
    rest: I,
}

impl<I: Iterator<Item = Result<Row>>> Head<I> {
    /// The stream with its first row; `None` when it has none.
    fn of(mut rest: I) -> Result<Option<Self>> {
        let Some(row) = rest.next().transpose()? else { return Ok(None) };
        Ok(Some(Self { lead: lead(&row.key), row, rest }))
    }

    /// Takes the next row out; gives the one before it. `None` for the new row when the stream has ended.
    fn step(&mut self) -> Result<(Row, bool)> {
        let Some(next) = self.rest.next().transpose()? else { return Ok((self.row.clone(), false)) };
        self.lead = lead(&next.key);
        Ok((std::mem::replace(&mut self.row, next), true))
    }
}

/// A key's first eight bytes as a number that orders as they do.
fn lead(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let len = key.len().min(8);
    first[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(first)
}

impl<I> Head<I> {
    fn rank(&self) -> (u64, &[u8], Reverse<u64>) {
        // Of one key the newest comes first; those behind it are passed over.
        (self.lead, &self.row.key, Reverse(self.row.newest.seq.0))
    }
}

impl<I> Ord for Head<I> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest element first.
        other.rank().cmp(&self.rank())
    }
}

impl<I> PartialOrd for Head<I> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<I> PartialEq for Head<I> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<I> Eq for Head<I> {}

/// A merge on its way; see [`merge`]. It ends with the first error.
pub struct Merge<I> {
    heads: BinaryHeap<Head<I>>,
    last: Option<Bytes>,
}

/// Merges streams that are each in ascending order of their keys. A stream that is not makes a run that
/// [`Index::ingest`](super::Index::ingest) refuses.
///
/// # Errors
/// When the first row of a stream cannot be read; later rows come as items.
pub fn merge<I: Iterator<Item = Result<Row>>>(streams: impl IntoIterator<Item = I>) -> Result<Merge<I>> {
    let heads =
        streams.into_iter().filter_map(|stream| Head::of(stream).transpose()).collect::<Result<_>>()?;
    Ok(Merge { heads, last: None })
}

impl<I: Iterator<Item = Result<Row>>> Iterator for Merge<I> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut head = self.heads.peek_mut()?;
            let row = match head.step() {
                Ok((row, true)) => row,
                Ok((row, false)) => {
                    PeekMut::pop(head);
                    row
                }
                Err(error) => {
                    drop(head);
                    self.heads.clear();
                    return Some(Err(error));
                }
            };
            if self.last.as_ref() != Some(&row.key) {
                self.last = Some(row.key.clone());
                return Some(Ok(row));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        error::{Code, Error},
        index::row::Newest,
        types::Seq,
    };

    fn row(key: &[u8], seq: u64, is_tombstone: bool) -> Row {
        Row { key: Bytes::copy_from_slice(key), newest: Newest { seq: Seq(seq), is_tombstone } }
    }

    /// Keys that often share their first eight bytes, and are often the same.
    fn some_key() -> impl Strategy<Value = Vec<u8>> {
        (any::<bool>(), prop::collection::vec(0u8..3, 1..4)).prop_map(|(long, tail)| {
            let mut key = if long { b"12345678".to_vec() } else { Vec::new() };
            key.extend(tail);
            key
        })
    }

    proptest! {
        #[test]
        fn the_newest_of_every_key_comes_once_and_in_order(
            streams in prop::collection::vec(prop::collection::btree_map(some_key(), any::<bool>(), 0..20), 0..6),
        ) {
            let mut expected = BTreeMap::new();
            let mut seq = 0;
            let streams: Vec<Vec<Row>> = streams.iter().map(|stream| stream.iter().map(|(key, deleted)| {
                seq += 1;
                expected.insert(key.clone(), row(key, seq, *deleted));
                row(key, seq, *deleted)
            }).collect()).collect();
            // Later streams hold later records, but they are given in the other order.
            let merged = merge(streams.into_iter().rev().map(|rows| rows.into_iter().map(Ok))).unwrap();
            let merged: Vec<Row> = merged.collect::<Result<_>>().unwrap();
            prop_assert_eq!(merged, expected.into_values().collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_ends_it() {
        let bad = || Err(Error::new(Code::Corrupt, "a block is damaged"));
        let first = vec![Ok(row(b"a", 1, false)), bad(), Ok(row(b"d", 2, false))];
        let second = vec![Ok(row(b"b", 3, false)), Ok(row(b"c", 4, false))];
        let mut merged = merge([first.into_iter(), second.into_iter()]).unwrap();
        assert_eq!(merged.next().unwrap().unwrap_err().code(), Code::Corrupt);
        assert!(merged.next().is_none());
        assert!(merge([vec![bad()].into_iter()]).is_err());
    }
}
