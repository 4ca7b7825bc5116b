//! The log as Raft wants it, over the log as we write it.
//!
//! Takes openraft's calls, gives them to the WAL's one ordered queue in the order they came, so that a
//! vote and an append can never change places. It does not own bytes on disk (`crate::wal`).

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::{Entry, LogId, Sabotage, TypeConfig, Vote, codec};
use crate::{
    error::Error,
    types::NodeId,
    wal::{self, Wal, WalState},
};

/// Most bytes of entries handed out at once: what one append message carries and what apply reads ahead.
const READ_BYTES_MAX: usize = 4 << 20;

/// The log of one member. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    wal: Wal,
    me: NodeId,
    /// Whether this member is the only voter of the newest membership in the log. Cleared while a
    /// membership that says otherwise is appended, which is before it can take effect anywhere.
    sole_voter: Arc<AtomicBool>,
    sabotage: Sabotage,
}

impl LogStore {
    /// The log of member `me` in `wal`.
    pub fn new(wal: Wal, me: NodeId, sabotage: Sabotage) -> Self {
        Self { wal, me, sole_voter: Arc::default(), sabotage }
    }

    /// See the field.
    pub fn sole_voter(&self) -> Arc<AtomicBool> {
        self.sole_voter.clone()
    }

    /// Notes a membership that the log holds.
    pub fn note_voters(&self, mut voters: impl Iterator<Item = NodeId>) {
        let alone = voters.next() == Some(self.me) && voters.next().is_none();
        self.sole_voter.store(alone, Ordering::Release);
    }

    /// The entries the log holds from `start` up to, not including, `end`; at most `bytes_max` of them, at
    /// least one if there is one.
    ///
    /// # Errors
    /// What the WAL reports, and entries that do not decode.
    pub fn entries(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let first = self.wal.state().first.0;
        let entries = self.wal.read(start.max(first)..end, bytes_max)?;
        entries.into_iter().map(|entry| codec::decode_entry(entry).map_err(invalid_data)).collect()
    }

    async fn durably(&self, submit: impl FnOnce(wal::Completion) -> io::Result<()>) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        submit(Box::new(move |result| drop(done.send(result))))?;
        durable.await.unwrap_or_else(|_| Err(io::Error::other("the write-ahead log stopped")))
    }
}

fn invalid_data(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&index) => index,
        Bound::Excluded(&index) => index + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&index) => index + 1,
        Bound::Excluded(&index) => index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.entries(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start, end, READ_BYTES_MAX)
    }

    /// Reads ahead by bytes, not by the whole range: a follower that is far behind applies gigabytes.
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let log = self.clone();
        stream::unfold((log, start), move |(log, next)| async move {
            if next >= end {
                return None;
            }
            let chunk = log.entries(next, end, READ_BYTES_MAX);
            // An empty chunk ends the stream: openraft checks that it got everything it asked for.
            let last = chunk.as_ref().ok().and_then(|entries| entries.last());
            let next = last.map_or(end, |entry| entry.log_id.index + 1);
            let items: Vec<io::Result<Entry>> = match chunk {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            Some((stream::iter(items), (log, next)))
        })
        .flatten()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.wal.state().vote.map(|bytes| codec::decode_vote(&bytes).map_err(invalid_data)).transpose()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.wal.state();
        let last_purged_log_id = state.purged.map(codec::to_raft_id);
        let last_log_id = state.last.map(codec::to_raft_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.durably(|done| self.wal.save_vote(codec::encode_vote(vote), done)).await
    }

    /// Rides along with the next group: losing it only makes a restart wait for the cluster to tell it.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        committed.map_or(Ok(()), |id| self.wal.save_committed(codec::to_wal_id(id)))
    }

    /// A crash may lose entries that were committed and not yet on this disk: they come again from other members.
    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let WalState { committed, last, .. } = self.wal.state();
        Ok(committed.min(last).map(codec::to_raft_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        let mut alone = true;
        for entry in entries {
            alone &= matches!(&entry.payload, EntryPayload::Normal(proposal) if proposal.alone);
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.note_voters(membership.voter_ids());
            }
            encoded.push(codec::encode_entry(entry).map_err(invalid_data)?);
        }
        if self.sabotage.skip_append_sync {
            self.wal.append(encoded, Box::new(drop))?;
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let done = Box::new(move |result| callback.io_completed(result));
        // With others to send it to, the sync here has to go on beside theirs.
        let here = alone && self.sole_voter.load(Ordering::Acquire);
        if here { self.wal.append_here(encoded, done) } else { self.wal.append(encoded, done) }
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        // The membership that is now newest may be another one; Raft's metrics tell in time, and until
        // then reads go the long way.
        self.sole_voter.store(false, Ordering::Release);
        let WalState { last: end, committed, .. } = self.wal.state();
        if last.map(|id| id.index) >= end.map(|id| id.index.0) {
            return Ok(());
        }
        // A leader has all that was ever committed. One that has not was elected by members who had lost what they had
        // answered for, and following it would give this member's clients another history.
        if let Some(committed) =
            committed.min(end).filter(|known| last.map(|id| id.index) < Some(known.index.0))
        {
            return Err(io::Error::other(format!(
                "the leader has other entries from {} on, of which this member knows that they were committed up to {}: a \
                 member's directory was taken back to an older state, and records that were answered are missing from it; \
                 this directory has them. Keep it, look which member was taken back, and start from the directories that \
                 were not",
                last.map_or(0, |id| id.index + 1),
                committed.index
            )));
        }
        self.durably(|done| self.wal.truncate_after(last.map(codec::to_wal_id), done)).await
    }

    async fn purge(&mut self, up_to: LogId) -> io::Result<()> {
        self.durably(|done| self.wal.purge(codec::to_wal_id(up_to), done)).await
    }
}
