//! What the handlers stand on, as one narrow seam: the door of the pipeline and the reader.
//!
//! The node gives [`Live`]; tests give an ordered map. Dispatch is static, so the seam costs nothing. It
//! has no opinions: whatever a handler needs beyond these calls belongs to [`NodeView`](super::NodeView).

use std::future::Future;

use crate::{
    cluster::{
        admin::Admin,
        repair::{Mended, Repairs},
    },
    error::{Error, Result},
    pipeline::{
        ingest::{Ingest, Permit},
        message::Written,
    },
    read::{Consistency, Page, Proofs, Reader, Record, Scan, Stretch},
    state::batch::Draft,
    types::Seq,
};

/// Writes and reads, as the handlers use them.
pub trait Backend: Send + Sync + 'static {
    /// Whether another server is about to take this one's place: connections end with their first answer then, so that
    /// no client sends a request on one that was kept just when its server goes.
    const IS_STAND_IN: bool = false;

    /// Room for one request.
    type Permit: Room;

    /// See [`Ingest::permit`].
    ///
    /// # Errors
    /// As there.
    fn permit(&self, bytes: usize) -> Result<Self::Permit>;

    /// See [`Reader::barrier`].
    fn barrier(&self, consistency: Consistency) -> impl Future<Output = Result<()>> + Send;

    /// See [`Reader::next_seq`].
    fn next_seq(&self) -> Seq;

    /// See [`Reader::newest`].
    ///
    /// # Errors
    /// As there.
    fn newest(&self, key: &[u8]) -> Result<Option<Record>>;

    /// See [`Reader::as_of`].
    ///
    /// # Errors
    /// As there.
    fn as_of(&self, key: &[u8], at: Seq) -> Result<Option<Record>>;

    /// See [`Reader::history`].
    ///
    /// # Errors
    /// As there.
    fn history(&self, key: &[u8], before: Option<Seq>, limit: usize, bytes_max: usize)
    -> Result<Vec<Record>>;

    /// See [`Reader::record`].
    ///
    /// # Errors
    /// As there.
    fn record(&self, seq: Seq) -> Result<Option<Record>>;

    /// See [`Reader::scan`].
    ///
    /// # Errors
    /// As there.
    fn scan(&self, scan: &Scan) -> Result<Page>;

    /// See [`Reader::written_beyond`].
    fn written_beyond(&self, position: Seq) -> impl Future<Output = ()> + Send;

    /// See [`Reader::is_sealed`].
    fn is_sealed(&self, position: Seq) -> bool;

    /// See [`Reader::stretch`].
    ///
    /// # Errors
    /// As there.
    fn stretch(&self, from: Seq, prefix: &[u8]) -> Result<Stretch>;

    /// See [`Repairs::mend`].
    ///
    /// # Errors
    /// As there.
    fn mend(&self, error: Error) -> impl Future<Output = Result<Mended>> + Send;

    /// What is proven.
    ///
    /// # Errors
    /// [`Unavailable`](crate::error::Code::Unavailable) while nothing is.
    fn proofs(&self) -> Result<&Proofs>;

    /// What changes the cluster.
    ///
    /// # Errors
    /// [`Unavailable`](crate::error::Code::Unavailable) while the node starts.
    fn admin(&self) -> Result<&Admin>;
}

/// Room in the pipeline for one request.
pub trait Room: Send + 'static {
    /// See [`Permit::cover`].
    ///
    /// # Errors
    /// As there.
    fn cover(&mut self, bytes: usize) -> Result<()>;

    /// See [`Permit::submit`]. The request is handed over when the future is first polled: dropping it
    /// afterwards (the client went away) does not take the write back.
    fn submit(self, draft: Draft) -> impl Future<Output = Result<Written>> + Send;
}

/// The running node's backend.
#[derive(Clone, Debug)]
pub struct Live {
    /// The way in.
    pub ingest: Ingest,
    /// The way back out.
    pub reader: Reader,
    /// What lets a stranger check it.
    pub proofs: Proofs,
    /// What changes the cluster.
    pub admin: Admin,
    /// What repairs segments that reads find damaged.
    pub repairs: Repairs,
}

impl Backend for Live {
    type Permit = Permit;

    fn permit(&self, bytes: usize) -> Result<Permit> {
        self.ingest.permit(bytes)
    }

    fn barrier(&self, consistency: Consistency) -> impl Future<Output = Result<()>> + Send {
        self.reader.barrier(consistency)
    }

    fn next_seq(&self) -> Seq {
        self.reader.next_seq()
    }

    fn newest(&self, key: &[u8]) -> Result<Option<Record>> {
        self.reader.newest(key)
    }

    fn as_of(&self, key: &[u8], at: Seq) -> Result<Option<Record>> {
        self.reader.as_of(key, at)
    }

    fn history(
        &self,
        key: &[u8],
        before: Option<Seq>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>> {
        self.reader.history(key, before, limit, bytes_max)
    }

    fn record(&self, seq: Seq) -> Result<Option<Record>> {
        self.reader.record(seq)
    }

    fn scan(&self, scan: &Scan) -> Result<Page> {
        self.reader.scan(scan)
    }

    fn written_beyond(&self, position: Seq) -> impl Future<Output = ()> + Send {
        self.reader.written_beyond(position)
    }

    fn is_sealed(&self, position: Seq) -> bool {
        self.reader.is_sealed(position)
    }

    fn stretch(&self, from: Seq, prefix: &[u8]) -> Result<Stretch> {
        self.reader.stretch(from, prefix)
    }

    fn mend(&self, error: Error) -> impl Future<Output = Result<Mended>> + Send {
        self.repairs.mend(error)
    }

    fn proofs(&self) -> Result<&Proofs> {
        Ok(&self.proofs)
    }

    fn admin(&self) -> Result<&Admin> {
        Ok(&self.admin)
    }
}

impl Room for Permit {
    fn cover(&mut self, bytes: usize) -> Result<()> {
        Permit::cover(self, bytes)
    }

    fn submit(self, draft: Draft) -> impl Future<Output = Result<Written>> + Send {
        Permit::submit(self, draft)
    }
}
