//! Stage 6, seal: turns full segments that are proven into files.
//!
//! Takes closed segments from the state, oldest first, gives immutable files to `sealed` and boundaries to
//! consensus, which then gives up the log before them. It does not own where a segment ends (`state`), its format
//! (`segment`), nor the index, which it wakes.
//!
//! A crash at any moment leaves a segment whole or not at all; the one that was lost is cut again, the same, when
//! the log is replayed. A segment never ends behind what this member's own log has on disk, although a follower may
//! have applied more: a start takes such a log for one that has lost its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{
    gauge::Gauge,
    worker::{Bell, Next, Worker},
};
use crate::{
    error::{Code, Result},
    raft::Boundary,
    segment::{FinishInfo, RecordRef, SegmentHead, SegmentWriter, file_name},
    state::{ClosedSegment, State, boundary},
    tree::{SegmentTree, Tree},
    types::Seq,
    wal::Wal,
};

/// Records taken out of the memtable at a time.
const SPAN_RECORDS: usize = 4_096;

/// Segments that may wait for the index: each is one more filter that a lookup asks. Above it sealing waits, and
/// with it, in the end, writers.
const UNINDEXED_MAX: usize = 64;

/// How soon a log that is not on disk as far as it was applied is looked at again.
const LOG_RETRY: Duration = Duration::from_millis(2);

/// How often a full disk is tried again.
const FULL_DISK_RETRY: Duration = Duration::from_secs(1);

/// The stage.
pub struct Seal {
    state: Arc<State>,
    tree: Arc<Tree>,
    wal: Wal,
    boundaries: watch::Sender<Option<Boundary>>,
    index: Bell,
    gauge: Arc<Gauge>,
    /// Whether the last segment had no room: those who wait for it need not wait long.
    disk_is_full: Arc<AtomicBool>,
}

impl Seal {
    /// Seals what `state` has closed, `tree` has proven and `wal` has on disk, tells `boundaries` and wakes `index`.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        tree: Arc<Tree>,
        wal: Wal,
        boundaries: watch::Sender<Option<Boundary>>,
        index: Bell,
        gauge: Arc<Gauge>,
        disk_is_full: Arc<AtomicBool>,
    ) -> Self {
        Self { state, tree, wal, boundaries, index, gauge, disk_is_full }
    }

    fn write(&self, closed: &ClosedSegment, first: Seq, end: Seq) -> Result<()> {
        let sealed = self.state.sealed();
        let path = sealed.dir().join(file_name(closed.id));
        let head = SegmentHead {
            id: closed.id,
            first_seq: first,
            feature_level: closed.settings.feature_level,
            segment_bytes: closed.settings.segment_bytes,
        };
        let SegmentTree { leaves, frontier_before, root_after, subtrees, high_subtrees } =
            self.tree.of_segment(first, end)?;
        let commitments = self.tree.commitments(first, end);
        let mut commitments = commitments.iter().peekable();
        let mut writer = SegmentWriter::create(Arc::clone(sealed.io()), &path, head)?;
        let mut leaves = leaves.iter();
        let mut next = first;
        while next < end {
            let count_max = SPAN_RECORDS.min((end.0 - next.0) as usize);
            let span = closed.span(next, count_max);
            for (seq, timestamp_ms, op) in span.iter() {
                let value_commitment = commitments.next_if(|(at, _)| *at == seq).map(|(_, commit)| &commit.0);
                let record = RecordRef {
                    seq,
                    op: op.op,
                    timestamp_ms,
                    key: op.key,
                    value: op.value,
                    value_commitment,
                };
                let leaf = leaves.next().expect("a segment has a leaf for every record");
                writer.push(&record, &leaf.0)?;
            }
            next = next.plus(span.len() as u64);
        }
        let bytes = |hashes: &[crate::proof::Hash]| hashes.iter().map(|hash| hash.0).collect::<Vec<_>>();
        writer.finish(FinishInfo {
            first_log: closed.first_log,
            last_log: closed.last_log,
            frontier_before: &frontier_before.encode(),
            root_after: root_after.0,
            subtrees: &bytes(&subtrees),
            high_subtrees: &bytes(&high_subtrees),
            idempotency: &closed.answers,
            boundary: &closed.boundary,
        })?;
        Ok(())
    }
}

impl Worker for Seal {
    const NAME: &'static str = "seal";
    const LINGER: Duration = Duration::ZERO;
    // It is in the log.
    const FINISHES: bool = false;

    fn work(&mut self) -> Result<Next> {
        let Some((closed, end)) = self.state.oldest_closed() else { return Ok(Next::Rung) };
        let sealed = self.state.sealed();
        if end > self.tree.size() || sealed.unindexed() >= UNINDEXED_MAX {
            // `prove` and `index` ring when they have come further.
            return Ok(Next::Rung);
        }
        if !self.wal.has_reached(closed.last_log) {
            return Ok(Next::In(LOG_RETRY));
        }
        let first = closed.first_seq();
        let _stay = self.gauge.enter(1, 0);
        match self.write(&closed, first, end) {
            Ok(()) => self.disk_is_full.store(false, Ordering::Relaxed),
            // What was written of it is written anew; until then it is in memory and in the log, and in the end
            // writers wait.
            Err(error) if error.code() == Code::DiskFull => {
                if !self.disk_is_full.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "a segment cannot be written: free some space, it is tried again");
                }
                return Ok(Next::In(FULL_DISK_RETRY));
            }
            Err(error) => return Err(error),
        }
        // From here on the segment is on disk under its name: recovery begins behind it.
        let segment = sealed.install(closed.id)?;
        let summary = segment.summary();
        // If a quorum has another, the node ends here, and so does every start: the entry that says so is behind the
        // segment.
        self.state.check_sealed(closed.id, summary.into())?;
        tracing::debug!(id = %closed.id, first = %first, end = %end, bytes = summary.file_bytes, "a segment is sealed");
        // Readers find its records in the file before they lose them in memory.
        self.state.release_oldest_closed();
        self.tree.release(end);
        let membership = boundary::Boundary::decode(&closed.boundary)?.membership;
        self.boundaries.send_replace(Some(Boundary { log: closed.last_log, membership }));
        self.index.ring();
        Ok(Next::Now)
    }
}
