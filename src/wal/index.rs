//! What the log holds now, in memory: where each entry is, and the newest entries themselves.
//!
//! Takes every change at the moment it is queued, so that an entry is readable as soon as `append`
//! returns; the writer reports back where entries went. It does not own files, nor the question what is
//! durable. One mutex guards it, held for moments; sending to the queue happens inside, so that memory
//! and queue always agree about the order.

use std::{collections::VecDeque, io, ops::Range};

use bytes::Bytes;

use super::{LogEntry, LogId};
use crate::types::LogIndex;

/// Where an entry is. 24 bytes, because a log may hold millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) term: u64,
    /// Of its record header, in its file.
    pub(super) offset: u64,
    /// Number of the file; [`UNWRITTEN`] while it waits in the queue.
    pub(super) file: u32,
    /// Of its payload.
    pub(super) bytes: u32,
}

/// The file number of entries that no file holds yet.
pub(super) const UNWRITTEN: u32 = u32::MAX;

/// One entry that a reader asked for.
#[derive(Clone, Debug)]
pub(super) enum Found {
    InMemory(LogEntry),
    InFile(LogId, Slot),
}

/// The log as its callers see it.
#[derive(Debug, Default)]
pub(super) struct LogMap {
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<LogId>,
    /// Index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Payloads of the newest entries; the last one belongs to the last slot.
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
    tail_bytes_max: usize,
    /// Counts truncations, so that the writer's late report about an entry that was cut in the meantime
    /// is not taken for its successor's.
    epoch: u64,
    /// Truncations that the writer has not written: their epoch and the first index they cut.
    cuts: VecDeque<(u64, u64)>,
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

impl LogMap {
    /// The log that recovery found.
    pub(super) fn new(tail_bytes_max: usize, first: u64, slots: VecDeque<Slot>) -> Self {
        Self { first, slots, tail_bytes_max, ..Self::default() }
    }

    /// Index of the entry that comes next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Index of the first entry that is kept, or of the next one where none is.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Adds entries behind the last. A log that never held any begins where the first one says.
    pub(super) fn append(&mut self, entries: &[LogEntry]) -> io::Result<()> {
        let begins = self.slots.is_empty() && self.purged.is_none();
        let first = if begins { entries.first().map(|entry| entry.id.index.0) } else { None };
        for (expected, entry) in (first.unwrap_or(self.next())..).zip(entries) {
            if entry.id.index.0 != expected {
                let seen = entry.id.index;
                return Err(invalid(format!("entry {seen} was appended where {expected} comes next")));
            }
            if u32::try_from(entry.payload.len()).is_err() {
                return Err(invalid(format!("entry {expected} is larger than 4 GiB")));
            }
        }
        self.first = first.unwrap_or(self.first);
        for entry in entries {
            let bytes = entry.payload.len();
            self.slots.push_back(Slot {
                term: entry.id.term,
                offset: 0,
                file: UNWRITTEN,
                bytes: bytes as u32,
            });
            self.tail_bytes += bytes;
            self.tail.push_back(entry.payload.clone());
            self.last = Some(entry.id);
        }
        self.trim_tail();
        Ok(())
    }

    /// The last index, `up_to` at most, behind which at least `keep_bytes` of payloads remain; none when that is
    /// before the first entry.
    pub(super) fn purge_point(&self, up_to: u64, keep_bytes: u64) -> Option<u64> {
        let mut behind = 0;
        let from_the_end = self.slots.iter().rev().take_while(|slot| {
            let keep = behind < keep_bytes;
            behind += u64::from(slot.bytes);
            keep
        });
        let point = self.next().checked_sub(from_the_end.count() as u64 + 1)?.min(up_to);
        (point >= self.first).then_some(point)
    }

    /// The newest entry that is in a file and known to be committed, or purged.
    pub(super) fn settled(&self) -> Option<u64> {
        let waiting = self.slots.iter().rev().take_while(|slot| slot.file == UNWRITTEN).count() as u64;
        let written = (self.next() - waiting).checked_sub(1);
        let committed = self.committed.map(|id| id.index.0).min(written);
        committed.max(self.purged.map(|id| id.index.0))
    }

    /// Cuts everything behind `last`.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let keep = match last {
            None if self.purged.is_some() => {
                return Err(invalid("cannot truncate to before the purge point".into()));
            }
            None => 0,
            Some(id) if self.log_id(id.index) != Some(id) => {
                return Err(invalid(format!("cannot truncate to an entry that is not in the log: {id:?}")));
            }
            Some(id) => id.index.0 + 1,
        };
        self.epoch += 1;
        self.cuts.push_back((self.epoch, keep));
        let kept = (keep.saturating_sub(self.first) as usize).min(self.slots.len());
        for _ in kept..self.slots.len() {
            self.slots.pop_back();
            if let Some(payload) = self.tail.pop_back() {
                self.tail_bytes -= payload.len();
            }
        }
        self.last = last;
        Ok(())
    }

    /// Forgets everything up to and including the index of `up_to`, whatever its term there; a purge point that is already behind changes nothing.
    pub(super) fn purge(&mut self, up_to: LogId) -> io::Result<()> {
        if self.purged.is_some_and(|purged| up_to.index <= purged.index) {
            return Ok(());
        }
        let dropped = ((up_to.index.0 + 1).saturating_sub(self.first) as usize).min(self.slots.len());
        self.slots.drain(..dropped);
        self.first = up_to.index.0 + 1;
        while self.tail.len() > self.slots.len() {
            if let Some(payload) = self.tail.pop_front() {
                self.tail_bytes -= payload.len();
            }
        }
        self.purged = Some(up_to);
        if self.last.is_none_or(|last| last.index <= up_to.index) {
            self.last = Some(up_to);
        }
        Ok(())
    }

    /// The writer has written entries of this epoch: `(index, offset)` each, into this file.
    pub(super) fn written(&mut self, epoch: u64, file: u32, places: impl Iterator<Item = (u64, u64)>) {
        // Only what no later truncation cut is still the entry that was written.
        let end = self.cuts.iter().filter(|(cut, _)| *cut > epoch).map(|(_, keep)| *keep).min();
        for (index, offset) in places {
            if end.is_none_or(|end| index < end)
                && let Some(at) = index.checked_sub(self.first)
                && let Some(slot) = self.slots.get_mut(at as usize)
            {
                slot.file = file;
                slot.offset = offset;
            }
        }
    }

    /// The writer has written the truncation that began this epoch.
    pub(super) fn truncation_written(&mut self, epoch: u64) {
        self.cuts.retain(|(cut, _)| *cut > epoch);
    }

    /// Keeps the tail within its bound. Entries that are in no file yet stay, and so does the newest one however
    /// large it is: it is applied next, and would only be read back from disk for that.
    pub(super) fn trim_tail(&mut self) {
        while self.tail_bytes > self.tail_bytes_max && self.tail.len() > 1 {
            let oldest = self.slots.len() - self.tail.len();
            if self.slots.get(oldest).is_none_or(|slot| slot.file == UNWRITTEN) {
                return;
            }
            let Some(payload) = self.tail.pop_front() else { return };
            self.tail_bytes -= payload.len();
        }
    }

    /// Takes the newest entries, read from files at start.
    pub(super) fn set_tail(&mut self, payloads: VecDeque<Bytes>) {
        if payloads.len() <= self.slots.len() {
            self.tail_bytes = payloads.iter().map(Bytes::len).sum();
            self.tail = payloads;
        }
    }

    /// How many of the newest entries fit into the tail.
    pub(super) fn tail_room(&self) -> u64 {
        let mut room = self.tail_bytes_max;
        let fits = |slot: &&Slot| match room.checked_sub(slot.bytes as usize) {
            Some(rest) => {
                room = rest;
                true
            }
            None => false,
        };
        self.slots.iter().rev().take_while(fits).count() as u64
    }

    /// The id at an index: of an entry, or of the purge point.
    pub(super) fn log_id(&self, index: LogIndex) -> Option<LogId> {
        if let Some(purged) = self.purged.filter(|purged| purged.index == index) {
            return Some(purged);
        }
        let slot = self.slots.get(index.0.checked_sub(self.first)? as usize)?;
        Some(LogId { term: slot.term, index })
    }

    /// Whether a file holds this entry: it is on disk.
    pub(super) fn is_written(&self, id: LogId) -> bool {
        let at = id.index.0.checked_sub(self.first).map(|at| at as usize);
        at.and_then(|at| self.slots.get(at))
            .is_some_and(|slot| slot.term == id.term && slot.file != UNWRITTEN)
    }

    /// Finds the entries of a range that are here, up to `bytes_max` of payload but at least one.
    pub(super) fn find(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Found>> {
        if range.start < self.first && range.start < range.end {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("entry {} is purged; the log begins at {}", range.start, self.first),
            ));
        }
        let end = range.end.min(self.next());
        let tail_first = self.next() - self.tail.len() as u64;
        let mut found = Vec::new();
        let mut bytes = 0usize;
        for index in range.start..end {
            let Some(slot) = self.slots.get((index - self.first) as usize) else { break };
            bytes = bytes.saturating_add(slot.bytes as usize);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            let id = LogId { term: slot.term, index: LogIndex(index) };
            let in_tail = index.checked_sub(tail_first).and_then(|at| self.tail.get(at as usize));
            found.push(match in_tail {
                Some(payload) => Found::InMemory(LogEntry { id, payload: payload.clone() }),
                None => Found::InFile(id, *slot),
            });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64) -> LogEntry {
        LogEntry { id: id(term, index), payload: Bytes::from(vec![index as u8; 10]) }
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index: LogIndex(index) }
    }

    fn log(count: u64, tail_bytes_max: usize) -> LogMap {
        let mut log = LogMap::new(tail_bytes_max, 0, VecDeque::new());
        log.append(&(0..count).map(|index| entry(1, index)).collect::<Vec<_>>()).unwrap();
        log
    }

    #[test]
    fn unwritten_entries_stay_in_memory_whatever_the_bound() {
        let mut log = log(5, 25);
        assert_eq!(log.tail_bytes(), 50);
        log.written(0, 1, (0..4).map(|index| (index, index * 100)));
        assert!(log.is_written(id(1, 3)) && !log.is_written(id(1, 4)) && !log.is_written(id(2, 3)));
        log.trim_tail();
        assert_eq!(log.tail_bytes(), 20);
        let found = log.find(0..9, usize::MAX).unwrap();
        assert!(matches!(found[2], Found::InFile(_, Slot { offset: 200, file: 1, .. })));
        assert!(matches!(&found[3], Found::InMemory(e) if e.id == id(1, 3)));
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn the_newest_entry_stays_in_memory_however_large() {
        let mut log = log(3, 5);
        log.written(0, 1, (0..3).map(|index| (index, index * 100)));
        log.trim_tail();
        let found = log.find(0..9, usize::MAX).unwrap();
        assert!(matches!(&found[..], [Found::InFile(..), Found::InFile(..), Found::InMemory(_)]));
        log.append(&[entry(1, 3)]).unwrap();
        assert_eq!(log.tail_bytes(), 10, "it goes when the next one comes");
    }

    #[test]
    fn a_late_report_about_a_cut_entry_is_not_its_successors() {
        let mut log = log(3, 100);
        log.truncate_after(Some(id(1, 0))).unwrap();
        log.append(&[entry(1, 1)]).unwrap();
        log.written(0, 7, (0..3).map(|index| (index, 64)));
        assert_eq!(log.slots[0].file, 7);
        assert_eq!(log.slots[1].file, UNWRITTEN);
        log.truncation_written(1);
        log.written(1, 8, [(1, 64)].into_iter());
        assert_eq!(log.slots[1].file, 8);
    }

    #[test]
    fn holes_and_foreign_ids_are_refused() {
        let mut log = log(3, 100);
        assert!(log.append(&[entry(1, 4)]).is_err());
        assert!(log.truncate_after(Some(id(2, 1))).is_err());
        assert!(log.truncate_after(Some(id(1, 3))).is_err());
        log.purge(id(1, 1)).unwrap();
        assert!(log.truncate_after(None).is_err());
        assert_eq!(log.find(0..2, 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(log.log_id(LogIndex(1)), Some(id(1, 1)));
        log.purge(id(4, 9)).unwrap();
        assert_eq!((log.last, log.next(), log.tail_bytes()), (Some(id(4, 9)), 10, 0));
    }

    #[test]
    fn a_read_stops_at_its_bound_but_gives_one() {
        let log = log(4, 100);
        assert_eq!(log.find(1..4, 0).unwrap().len(), 1);
        assert_eq!(log.find(0..4, 29).unwrap().len(), 2);
        assert_eq!(log.find(2..2, 29).unwrap().len(), 0);
    }
}
