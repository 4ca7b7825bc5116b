//! How segments follow each other: each continues the one before it in every way that one counts.
//!
//! Takes what their footers say, in order. Together with [`Segment::verify`](crate::segment::Segment::verify),
//! which shows that the root after a segment is that of the frontier before it and its records, this is the
//! proof by induction that the last root is that of all records.

use std::path::Path;

use crate::{
    error::{Code, Error, Result},
    proof::{Hash, frontier::Frontier},
    segment::SegmentSummary,
    types::{LogId, Seq, TimestampMs},
};

/// Where the segments so far end, and the next one has to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// How many there are.
    pub segments: u64,
    /// One past their last record.
    pub end_seq: Seq,
    /// Root of the tree of all their records.
    pub root: Hash,
    /// The last entry of the log that belongs to them.
    pub last_log: Option<LogId>,
    /// Time of the last record.
    pub last_timestamp_ms: TimestampMs,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Chain {
    /// Before the first segment.
    #[must_use]
    pub const fn new() -> Self {
        Self { segments: 0, end_seq: Seq(0), root: Hash::EMPTY_ROOT, last_log: None, last_timestamp_ms: 0 }
    }

    /// Goes on behind the next segment; `path` is what errors call it.
    ///
    /// # Errors
    /// [`Code::Corrupt`] with the first thing that does not continue what is before it.
    pub fn follow(&mut self, next: &SegmentSummary, path: &Path) -> Result<()> {
        self.check(next).map_err(|(offset, what)| {
            let place = offset.map_or("in its footer".to_owned(), |offset| format!("at offset {offset}"));
            Error::new(
                Code::Corrupt,
                format!(
                    "{} does not continue the segment before it, {place}: {what}; it was put in the place of \
                     another, or belongs to another ledger",
                    path.display()
                ),
            )
        })?;
        self.segments += 1;
        self.end_seq = next.end_seq;
        self.root = Hash(next.root_after);
        self.last_log = Some(next.last_log);
        if next.records() > 0 {
            self.last_timestamp_ms = next.last_timestamp_ms;
        }
        Ok(())
    }

    /// What is wrong with the next segment, and where its header says it.
    fn check(&self, next: &SegmentSummary) -> Result<(), (Option<u64>, String)> {
        // Offsets of the header's fields: see the drawing in `segment::format`.
        let (id_at, first_seq_at) = (Some(16), Some(24));
        if next.head.id.0 != self.segments {
            return Err((id_at, format!("it is segment {}, not {}", next.head.id, self.segments)));
        }
        if next.head.first_seq != self.end_seq {
            let what = format!("it begins with record {}, not {}", next.head.first_seq, self.end_seq);
            return Err((first_seq_at, what));
        }
        let frontier = Frontier::decode(&next.frontier_before)
            .map_err(|error| (None, format!("the tree before it is not one: {error}")))?;
        if frontier.size() != self.end_seq.0 || frontier.root() != self.root {
            let (size, root) = (frontier.size(), frontier.root());
            let what = format!(
                "it goes on from a tree of {size} records with root {root}, the one before it ends with {} and {}",
                self.end_seq, self.root
            );
            return Err((None, what));
        }
        let log_goes_on = next.first_log.term <= next.last_log.term
            && next.first_log.index <= next.last_log.index
            && self
                .last_log
                .is_none_or(|last| last.index < next.first_log.index && last.term <= next.first_log.term);
        if !log_goes_on {
            let entry = |id: LogId| format!("entry {} of term {}", id.index, id.term);
            let before = self.last_log.map_or("nothing".to_owned(), entry);
            let (first, last) = (entry(next.first_log), entry(next.last_log));
            return Err((None, format!("it holds the log from {first} to {last}, behind {before}")));
        }
        if next.records() > 0 && next.first_timestamp_ms < self.last_timestamp_ms {
            let (first, last) = (next.first_timestamp_ms, self.last_timestamp_ms);
            return Err((None, format!("its first record is of time {first}, the one before it of {last}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proof::hash::leaf_hash,
        segment::SegmentHead,
        types::{LogIndex, SegmentId},
    };

    fn tree(leaves: u64) -> Frontier {
        let mut frontier = Frontier::default();
        (0..leaves).for_each(|leaf| frontier.append(leaf_hash(&leaf.to_be_bytes())));
        frontier
    }

    /// Segment `id` of ten records and ten entries each.
    fn segment(id: u64) -> SegmentSummary {
        let log = |index| LogId { term: 1 + id, index: LogIndex(index) };
        SegmentSummary {
            head: SegmentHead {
                id: SegmentId(id),
                first_seq: Seq(id * 10),
                feature_level: 1,
                segment_bytes: 1,
            },
            end_seq: Seq(id * 10 + 10),
            first_log: log(id * 10),
            last_log: log(id * 10 + 9),
            first_timestamp_ms: id * 5,
            last_timestamp_ms: id * 5 + 5,
            keys: 1,
            deletes: 0,
            raw_bytes: 1,
            file_bytes: 1,
            frontier_before: tree(id * 10).encode(),
            root_after: tree(id * 10 + 10).root().0,
            high_subtrees: Vec::new(),
            boundary: Vec::new(),
            digest: [0; 32],
        }
    }

    fn second(change: impl FnOnce(&mut SegmentSummary)) -> Result<()> {
        let mut chain = Chain::new();
        chain.follow(&segment(0), Path::new("0.seg"))?;
        let mut next = segment(1);
        change(&mut next);
        chain.follow(&next, Path::new("1.seg"))
    }

    #[test]
    fn segments_that_belong_together_follow() {
        let mut chain = Chain::new();
        for id in 0..4 {
            chain.follow(&segment(id), Path::new("n.seg")).unwrap();
        }
        assert_eq!((chain.segments, chain.end_seq, chain.root), (4, Seq(40), tree(40).root()));
        let empty = |next: &mut SegmentSummary| {
            (next.end_seq, next.first_timestamp_ms, next.last_timestamp_ms) = (Seq(10), 0, 0);
            next.root_after = tree(10).root().0;
        };
        second(empty).unwrap();
    }

    #[test]
    fn every_break_is_named() {
        type Change = fn(&mut SegmentSummary);
        let breaks: [(Change, &str); 9] = [
            (|next| next.head.id = SegmentId(2), "it is segment 2, not 1"),
            (|next| next.head.first_seq = Seq(11), "begins with record 11, not 10"),
            (|next| next.frontier_before = tree(9).encode(), "from a tree of 9 records"),
            (|next| next.frontier_before.truncate(9), "the tree before it is not one"),
            (|next| next.frontier_before[20] ^= 1, "from a tree of 10 records"),
            (|next| next.first_log.index = LogIndex(9), "behind entry 9 of term 1"),
            (|next| next.first_log.term = 0, "from entry 10 of term 0"),
            (|next| next.last_log.index = LogIndex(3), "to entry 3 of term 2"),
            (|next| next.first_timestamp_ms = 4, "of time 4, the one before it of 5"),
        ];
        for (change, says) in breaks {
            let error = second(change).unwrap_err();
            assert_eq!(error.code(), Code::Corrupt);
            assert!(error.message().contains(says) && error.message().contains("1.seg"), "{error}");
        }
    }
}
