//! What a node answers before it can serve: alive, not ready, and why.
//!
//! Replaying a long log takes a while, and other nodes may have to come first; whoever watches the node has to tell that
//! from a dead one. The same server runs on this stand-in until the node is open.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use super::{
    backend::{Backend, Room},
    cluster::MemberView,
    status::{NodeView, Status},
};
use crate::{
    cluster::{admin::Admin, repair::Mended},
    error::{Code, Error, Result},
    metrics::MetricsSnapshot,
    node::StartNote,
    pipeline::message::Written,
    read::{Consistency, Page, Proofs, Record, Scan, Stretch},
    state::batch::Draft,
    types::{NodeId, Seq},
};

/// A node that does not serve yet.
#[derive(Clone, Debug)]
pub struct Starting {
    node_id: NodeId,
    profile: String,
    since: Instant,
    note: StartNote,
}

impl Starting {
    /// Node `node_id`, from now on; `note` says what its start waits for.
    #[must_use]
    pub fn new(node_id: NodeId, profile: &str, note: StartNote) -> Self {
        Self { node_id, profile: profile.into(), since: Instant::now(), note }
    }

    fn refusal(&self) -> Error {
        let seconds = self.since.elapsed().as_secs();
        Error::new(
            Code::Unavailable,
            format!("the node does not serve yet, after {seconds} s: {}", self.note.get()),
        )
        .retry_after(Duration::from_secs(1))
    }
}

/// There is no room in a pipeline that does not run yet: no value of this type exists.
#[derive(Debug)]
pub enum NoRoom {}

impl Room for NoRoom {
    fn cover(&mut self, _bytes: usize) -> Result<()> {
        match *self {}
    }

    async fn submit(self, _draft: Draft) -> Result<Written> {
        match self {}
    }
}

impl Backend for Starting {
    const IS_STAND_IN: bool = true;

    type Permit = NoRoom;

    fn permit(&self, _bytes: usize) -> Result<NoRoom> {
        Err(self.refusal())
    }

    fn barrier(&self, _consistency: Consistency) -> impl Future<Output = Result<()>> + Send {
        let refusal = self.refusal();
        async move { Err(refusal) }
    }

    // Every read passes the barrier first, so nobody sees these.
    fn next_seq(&self) -> Seq {
        Seq(0)
    }

    fn newest(&self, _key: &[u8]) -> Result<Option<Record>> {
        Ok(None)
    }

    fn as_of(&self, _key: &[u8], _at: Seq) -> Result<Option<Record>> {
        Ok(None)
    }

    fn history(
        &self,
        _key: &[u8],
        _before: Option<Seq>,
        _limit: usize,
        _bytes_max: usize,
    ) -> Result<Vec<Record>> {
        Ok(Vec::new())
    }

    fn record(&self, _seq: Seq) -> Result<Option<Record>> {
        Ok(None)
    }

    fn scan(&self, _scan: &Scan) -> Result<Page> {
        Ok(Page::default())
    }

    async fn written_beyond(&self, _position: Seq) {}

    fn is_sealed(&self, _position: Seq) -> bool {
        false
    }

    fn stretch(&self, from: Seq, _prefix: &[u8]) -> Result<Stretch> {
        Ok(Stretch { next: from, ..Stretch::default() })
    }

    async fn mend(&self, error: Error) -> Result<Mended> {
        Err(error)
    }

    fn proofs(&self) -> Result<&Proofs> {
        Err(self.refusal())
    }

    fn admin(&self) -> Result<&Admin> {
        Err(self.refusal())
    }
}

impl NodeView for Starting {
    fn status(&self) -> Status {
        Status {
            node_id: self.node_id,
            role: "starting",
            version: env!("CARGO_PKG_VERSION"),
            profile: self.profile.clone(),
            uptime_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..Status::default()
        }
    }

    fn takes_writes(&self) -> Result<()> {
        Err(self.refusal())
    }

    fn healthy(&self) -> Result<()> {
        Err(self.refusal())
    }

    fn metrics(&self) -> MetricsSnapshot {
        MetricsSnapshot::default()
    }

    fn members(&self) -> Vec<MemberView> {
        Vec::new()
    }

    fn leader(&self) -> Option<MemberView> {
        None
    }
}
