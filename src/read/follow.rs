//! Records in the order they were written, from any of them on, a stretch at a time.
//!
//! Takes a position, gives the next records from wherever they are now: a reader that stays behind finds them
//! sealed, one that keeps up finds them in memory, and neither makes anyone keep them. It does not wait: see
//! [`Reader::written_beyond`].

use bytes::Bytes;

use super::Reader;
use crate::{
    error::Result,
    types::{Record, Seq},
};

/// Most records that one stretch looks at.
const RECORDS_MAX: usize = 4_096;

/// A stretch ends behind this many bytes of keys and values, wanted or not.
const BYTES_MAX: usize = 256 << 10;

/// Records that follow each other, those of other keys left out.
#[derive(Clone, Debug, Default)]
pub struct Stretch {
    /// Those that were wanted.
    pub records: Vec<Record>,
    /// Where to go on; where the stretch began if nothing is written there yet.
    pub next: Seq,
}

impl Reader {
    /// Waits until there is a record at `position`.
    pub async fn written_beyond(&self, position: Seq) {
        self.state.applied_beyond(position).await;
    }

    /// Whether the record at `position` is in a file.
    #[must_use]
    pub fn is_sealed(&self, position: Seq) -> bool {
        position < self.state.sealed().end_seq()
    }

    /// The next records from `from` on whose keys begin with `prefix`: some, or none when the next ones are of other
    /// keys. What is sealed is read from the disk.
    ///
    /// # Errors
    /// [`Io`](crate::error::Code::Io) and [`Corrupt`](crate::error::Code::Corrupt) of a segment.
    pub fn stretch(&self, from: Seq, prefix: &[u8]) -> Result<Stretch> {
        let mut stretch =
            Gathering { prefix, stretch: Stretch { next: from, ..Stretch::default() }, bytes: 0 };
        let span = self.state.span(from, RECORDS_MAX);
        if !span.is_empty() {
            for (n, (_, _, op)) in span.iter().enumerate() {
                stretch.pass(op.key, op.value.len(), || span.record(n));
                if stretch.is_full() {
                    break;
                }
            }
        } else if let Some(segment) = self.state.sealed().segment_of(from) {
            for stored in segment.records(from..from.plus(RECORDS_MAX as u64)) {
                let record = stored?.record;
                stretch.pass(&record.key, record.value.len(), || record.clone());
                if stretch.is_full() {
                    break;
                }
            }
        }
        Ok(stretch.stretch)
    }
}

/// A stretch that grows.
struct Gathering<'a> {
    prefix: &'a [u8],
    stretch: Stretch,
    bytes: usize,
}

impl Gathering<'_> {
    /// Takes or leaves the next record.
    fn pass(&mut self, key: &[u8], value_bytes: usize, record: impl FnOnce() -> Record) {
        self.stretch.next = self.stretch.next.plus(1);
        self.bytes += key.len() + value_bytes;
        if key.starts_with(self.prefix) {
            self.stretch.records.push(detached(record()));
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= BYTES_MAX
    }
}

/// A record by itself: who takes his time with a few bytes must not keep the block or the batch they were in. A
/// large value is most of either, and shared.
fn detached(record: Record) -> Record {
    if record.value.len() > BYTES_MAX {
        return record;
    }
    let [key, value] = [&record.key, &record.value].map(|bytes| Bytes::copy_from_slice(bytes));
    Record { key, value, ..record }
}
