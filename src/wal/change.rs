//! What is asked of the log, as it waits in the queue and as the records it becomes.
//!
//! Pure: it does not own the queue, nor where the records go.

use bytes::Bytes;

use super::{
    Completion, LogEntry, LogId,
    format::{Kind, Record},
};

/// One change of the log, in the queue.
pub(super) struct Work {
    pub(super) change: Change,
    /// Told when the change is durable, or cannot become so. The first part of a divided append has none.
    pub(super) done: Option<Completion>,
}

/// What a change does.
pub(super) enum Change {
    /// Adds entries; the number is the epoch in which they were queued.
    Append(Vec<LogEntry>, u64),
    Vote(Bytes),
    /// Cuts behind an id; the number is the epoch it begins.
    Truncate(Option<LogId>, u64),
    Purge(LogId),
    /// Ends the log with a closing group.
    Close,
}

impl Change {
    /// Its records, in order.
    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let (entries, other): (&[LogEntry], _) = match self {
            Self::Append(entries, _) => (entries, None),
            Self::Vote(vote) => (&[], Some(Record { kind: Kind::Vote, id: None, payload: vote })),
            Self::Truncate(last, _) => (&[], Some(bare(Kind::Truncate, *last))),
            Self::Purge(id) => (&[], Some(bare(Kind::Purge, Some(*id)))),
            Self::Close => (&[], None),
        };
        entries.iter().map(entry_record).chain(other)
    }

    /// Bytes of its records.
    pub(super) fn bytes(&self) -> u64 {
        self.records().map(|record| record.bytes()).sum()
    }
}

/// The record of an entry.
pub(super) fn entry_record(entry: &LogEntry) -> Record<'_> {
    Record { kind: Kind::Entry, id: Some(entry.id), payload: &entry.payload }
}

/// A record without a payload.
pub(super) fn bare(kind: Kind, id: Option<LogId>) -> Record<'static> {
    Record { kind, id, payload: &[] }
}

/// What the groups written so far add up to, but for the entries: what a new file opens with.
#[derive(Debug, Default)]
pub(super) struct OpeningState {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) last: Option<LogId>,
}

impl OpeningState {
    /// Takes in a record that was written.
    pub(super) fn add(&mut self, record: &Record<'_>) {
        match (record.kind, record.id) {
            (Kind::Entry, id) | (Kind::Truncate, id) => self.last = id,
            (Kind::Vote, _) => self.vote = Some(Bytes::copy_from_slice(record.payload)),
            (Kind::Purge, Some(id)) if self.purged.is_none_or(|purged| purged.index < id.index) => {
                self.purged = Some(id);
                self.last = self.last.filter(|last| last.index > id.index).or(Some(id));
            }
            (Kind::Committed, id) => self.committed = id,
            _ => {}
        }
    }

    /// The records that restate it.
    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let vote = self.vote.as_ref().map(|vote| Record { kind: Kind::Vote, id: None, payload: vote });
        let purged = self.purged.map(|id| bare(Kind::Purge, Some(id)));
        let committed = self.committed.map(|id| bare(Kind::Committed, Some(id)));
        [vote, purged, committed, Some(bare(Kind::Last, self.last))].into_iter().flatten()
    }

    /// Bytes of those records.
    pub(super) fn bytes(&self) -> u64 {
        self.records().map(|record| record.bytes()).sum()
    }
}
