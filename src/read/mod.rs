//! The way back out: when may a read be answered, and with what.
//!
//! Takes keys and positions, gives records. Freshness is Raft's to say ([`Reader::barrier`]), contents
//! are the state's. It never waits for a writer.

mod follow;
mod live_keys;
mod proofs;

use std::sync::Arc;

pub use self::{
    follow::Stretch,
    live_keys::LiveKeys,
    proofs::{Consistency as ConsistencyProof, Inclusion, Proofs},
};
use crate::{error::Result, raft::Consensus, state::State, types::Seq};
pub use crate::{
    raft::Consistency,
    state::record::{Page, Record, Scan},
};

/// Reads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    consensus: Consensus,
    state: Arc<State>,
}

impl Reader {
    /// Reads of what `state` holds, as fresh as `consensus` can vouch for.
    #[must_use]
    pub fn new(consensus: Consensus, state: Arc<State>) -> Self {
        Self { consensus, state }
    }

    /// Waits until this node may answer a read of this consistency.
    ///
    /// # Errors
    /// [`NoQuorum`](crate::error::Code::NoQuorum) when leadership cannot be confirmed.
    pub async fn barrier(&self, consistency: Consistency) -> Result<()> {
        self.consensus.read_barrier(consistency).await
    }

    /// One past the newest applied record's position.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.state.applied()
    }

    /// The newest version of a key; a tombstone is returned as such.
    ///
    /// # Errors
    /// [`Io`](crate::error::Code::Io) and [`Corrupt`](crate::error::Code::Corrupt) of a segment that has to be read.
    pub fn newest(&self, key: &[u8]) -> Result<Option<Record>> {
        self.state.newest(key)
    }

    /// The version of a key as of position `at`, inclusive.
    ///
    /// # Errors
    /// [`Io`](crate::error::Code::Io) and [`Corrupt`](crate::error::Code::Corrupt) of a segment that has to be read.
    pub fn as_of(&self, key: &[u8], at: Seq) -> Result<Option<Record>> {
        self.state.as_of(key, at)
    }

    /// Versions of a key, newest first, with seq < `before`; as many as have `bytes_max` bytes, but one.
    ///
    /// # Errors
    /// [`Io`](crate::error::Code::Io) and [`Corrupt`](crate::error::Code::Corrupt) of a segment that has to be read.
    pub fn history(
        &self,
        key: &[u8],
        before: Option<Seq>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>> {
        self.state.history(key, before, limit, bytes_max)
    }

    /// The record at a position.
    ///
    /// # Errors
    /// [`Io`](crate::error::Code::Io) and [`Corrupt`](crate::error::Code::Corrupt) of a segment that has to be read.
    pub fn record(&self, seq: Seq) -> Result<Option<Record>> {
        self.state.record(seq)
    }

    /// How many keys are live now. It goes through all of them, some million a second.
    ///
    /// # Errors
    /// [`Io`](crate::error::Code::Io) and [`Corrupt`](crate::error::Code::Corrupt) of a segment that has to be read.
    pub fn count_live(&self) -> Result<u64> {
        live_keys::count(&self.state).map(|(keys, _)| keys)
    }

    /// A page of live keys. The first scan after many new keys sorts them: call it where blocking is fine.
    ///
    /// # Errors
    /// [`Io`](crate::error::Code::Io) and [`Corrupt`](crate::error::Code::Corrupt) of a segment that has to be read.
    pub fn scan(&self, scan: &Scan) -> Result<Page> {
        self.state.scan(scan)
    }
}
