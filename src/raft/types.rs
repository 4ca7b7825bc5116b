//! What openraft is made of here: entries are bytes that it does not look into, ids and terms are numbers, chance is ours.

use std::fmt;

use bytes::Bytes;
use openraft::{EntryPayload, RaftTypeConfig};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;

use super::{Member, responder::OnAnswer};
use crate::{state::outcome::Outcome, types::NodeId};

/// An entry on its way through Raft.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal {
    /// A kind byte and an archive, see `state::entry`.
    pub bytes: Bytes,
    /// Nobody else waits where it was proposed. A hint to the log there, not a part of the entry: see
    /// [`Wal::append_here`](crate::wal::Wal::append_here).
    pub alone: bool,
}

impl From<Bytes> for Proposal {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, alone: false }
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from seq {}, {} skips", self.first_seq, self.skipped.len())
    }
}

/// The types openraft is generic over.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct TypeConfig {}

impl RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Outcome;
    type NodeId = NodeId;
    type Node = Member;
    type Term = u64;
    // Textbook Raft: at most one leader a term, so a log id is (term, index).
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Proposal, NodeId, Member>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    // Seeded from our own `Rng`, so that a simulated run can be played again.
    type AsyncRuntime = DeterministicRng<TokioRuntime>;
    type Responder<T>
        = OnAnswer<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(super) type Entry = <TypeConfig as RaftTypeConfig>::Entry;
pub(super) type Payload = <TypeConfig as RaftTypeConfig>::Payload;
pub(super) type Vote = <TypeConfig as RaftTypeConfig>::Vote;
pub(super) type LogId = openraft::alias::LogIdOf<TypeConfig>;
