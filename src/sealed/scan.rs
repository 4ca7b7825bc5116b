//! Sealed keys in byte order, each with its newest sealed version: the index, and what is not in it yet.

use super::{Pinned, feed::row};
use crate::{
    error::Result,
    index::{KeyRange, Merge, Row, merge},
};

/// Keys in order, tombstones included.
pub type Keys<'a> = Merge<Box<dyn Iterator<Item = Result<Row>> + 'a>>;

impl Pinned {
    /// The keys of a range.
    ///
    /// # Errors
    /// When the first keys cannot be read; later errors come as items.
    pub fn keys<'a>(&'a self, range: &'a KeyRange) -> Result<Keys<'a>> {
        let mut streams: Vec<Box<dyn Iterator<Item = Result<Row>> + 'a>> = Vec::new();
        for segment in self.segments.get(self.indexed..).unwrap_or_default() {
            let is_inside = |row: &Result<Row>| row.as_ref().map_or(true, |row| range.ends_after(&row.key));
            let keys = segment.keys_from(range.first())?.map(|entry| entry.map(row));
            streams.push(Box::new(keys.take_while(is_inside)));
        }
        streams.push(Box::new(self.index.scan(range).map(|row| row.map_err(Into::into))));
        merge(streams)
    }
}
