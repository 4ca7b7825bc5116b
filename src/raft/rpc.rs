//! Raft's messages between members as bytes: what goes through the [`Network`](crate::env::Network) seam.
//!
//! Each is one rkyv archive, read in place after validation, as entries are. The frame around it, its
//! length and who may send it, are the transport's. Log entries travel as the log stores them.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use rkyv::{
    Archive, Serialize, api::high::HighSerializer, rancor, ser::allocator::ArenaHandle, util::AlignedVec,
};

use super::{
    LogId, TypeConfig, Vote,
    behind::{CatchUp, Standing},
    codec,
};
use crate::{
    error::{Code, Error, Result},
    types::LogIndex,
    wal,
};

/// A question to another member.
#[derive(Debug)]
pub enum Request {
    /// Vote for me.
    Vote(VoteRequest<TypeConfig>),
    /// Would you vote for me? Changes nothing.
    PreVote(VoteRequest<TypeConfig>),
    /// Append these, or, without entries, know that I lead.
    Append(AppendEntriesRequest<TypeConfig>),
    /// I lead, and somebody else shall from now on.
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    /// You lead: what must a linearizable read that begins now have seen?
    ReadIndex,
    /// My log begins behind yours: take my segments.
    CatchUp(CatchUp),
}

/// Its answer.
#[derive(Debug)]
pub enum Reply {
    /// To both kinds of vote.
    Vote(VoteResponse<TypeConfig>),
    /// To an append.
    Append(AppendEntriesResponse<TypeConfig>),
    /// Whether leadership is taken, or why not.
    TransferLeader(Result<(), String>),
    /// The entry to be applied first; none where the member asked does not lead.
    ReadIndex(Option<LogId>),
    /// To the word that the log begins behind it.
    CatchUp(Standing),
}

#[derive(Archive, Serialize)]
enum WireRequest {
    Vote { pre: bool, transfer: bool, vote: Vec<u8>, last: Option<(u64, u64)> },
    Append { vote: Vec<u8>, prev: Option<(u64, u64)>, committed: Option<(u64, u64)>, entries: Vec<WireEntry> },
    TransferLeader { from: Vec<u8>, to: u64, last: Option<(u64, u64)> },
    ReadIndex,
    CatchUp { vote: Vec<u8>, boundary: (u64, u64), address: String },
}

#[derive(Archive, Serialize)]
struct WireEntry {
    id: (u64, u64),
    payload: Vec<u8>,
}

#[derive(Archive, Serialize)]
enum WireReply {
    Vote { vote: Vec<u8>, granted: bool, last: Option<(u64, u64)> },
    Appended,
    AppendedUpTo(Option<(u64, u64)>),
    Conflict,
    HigherVote(Vec<u8>),
    LeaderTaken,
    LeaderRefused(String),
    ReadIndex(Option<(u64, u64)>),
    Reached,
    Working,
    NewerLeader(Vec<u8>),
}

fn to_pair(id: LogId) -> (u64, u64) {
    (*id.leader_id, id.index)
}

fn encode<T>(message: &T) -> Result<Bytes>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let bytes = rkyv::to_bytes::<rancor::Error>(message);
    let failed = |e| Error::new(Code::Internal, format!("building a message failed: {e}"));
    bytes.map(Bytes::from_owner).map_err(failed)
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(Code::Malformed, format!("not a message between members: {why}"))
}

macro_rules! wal_id {
    ($pair:expr) => {
        wal::LogId { term: $pair.0.to_native(), index: LogIndex($pair.1.to_native()) }
    };
}

macro_rules! log_id {
    ($pair:expr) => {
        codec::to_raft_id(wal_id!($pair))
    };
}

fn vote(bytes: &[u8]) -> Result<Vote> {
    codec::decode_vote(bytes).map_err(malformed)
}

impl Request {
    /// The bytes of it.
    ///
    /// # Errors
    /// As entries' encoding.
    pub fn encode(self) -> Result<Bytes> {
        let ask = |pre, request: VoteRequest<TypeConfig>| WireRequest::Vote {
            pre,
            transfer: request.leadership_transfer,
            vote: codec::encode_vote(&request.vote).into(),
            last: request.last_log_id.map(to_pair),
        };
        encode(&match self {
            Self::Vote(request) => ask(false, request),
            Self::PreVote(request) => ask(true, request),
            Self::Append(request) => WireRequest::Append {
                vote: codec::encode_vote(&request.vote).into(),
                prev: request.prev_log_id.map(to_pair),
                committed: request.leader_commit.map(to_pair),
                entries: request
                    .entries
                    .into_iter()
                    .map(|entry| {
                        let id = to_pair(entry.log_id);
                        codec::encode_entry(entry)
                            .map(|entry| WireEntry { id, payload: entry.payload.into() })
                    })
                    .collect::<Result<_>>()?,
            },
            Self::TransferLeader(request) => WireRequest::TransferLeader {
                from: codec::encode_vote(request.from_leader()).into(),
                to: *request.to_node_id(),
                last: request.last_log_id().copied().map(to_pair),
            },
            Self::ReadIndex => WireRequest::ReadIndex,
            Self::CatchUp(CatchUp { vote, boundary, address }) => WireRequest::CatchUp {
                vote: codec::encode_vote(&vote).into(),
                boundary: (boundary.term, boundary.index.0),
                address,
            },
        })
    }

    /// Reads what [`Request::encode`] wrote. Entries share the message's bytes.
    ///
    /// # Errors
    /// [`Code::Malformed`] for anything else.
    pub fn decode(message: &Bytes) -> Result<Self> {
        match rkyv::access::<ArchivedWireRequest, rancor::Error>(message).map_err(malformed)? {
            ArchivedWireRequest::Vote { pre, transfer, vote: candidate, last } => {
                let last = last.as_ref().map(|pair| log_id!(pair));
                let mut request = VoteRequest::new(vote(candidate)?, last);
                request.leadership_transfer = *transfer;
                Ok(if *pre { Self::PreVote(request) } else { Self::Vote(request) })
            }
            ArchivedWireRequest::Append { vote: leader, prev, committed, entries } => {
                let entry = |entry: &ArchivedWireEntry| {
                    let payload = message.slice_ref(&entry.payload);
                    codec::decode_entry(wal::LogEntry { id: wal_id!(entry.id), payload })
                };
                Ok(Self::Append(AppendEntriesRequest {
                    vote: vote(leader)?,
                    prev_log_id: prev.as_ref().map(|pair| log_id!(pair)),
                    leader_commit: committed.as_ref().map(|pair| log_id!(pair)),
                    entries: entries.iter().map(entry).collect::<Result<_>>().map_err(malformed)?,
                }))
            }
            ArchivedWireRequest::TransferLeader { from, to, last } => {
                let last = last.as_ref().map(|pair| log_id!(pair));
                let request = TransferLeaderRequest::new(vote(from)?, to.to_native(), last);
                Ok(Self::TransferLeader(request))
            }
            ArchivedWireRequest::ReadIndex => Ok(Self::ReadIndex),
            ArchivedWireRequest::CatchUp { vote: leader, boundary, address } => Ok(Self::CatchUp(CatchUp {
                vote: vote(leader)?,
                boundary: wal_id!(boundary),
                address: address.to_string(),
            })),
        }
    }
}

impl Reply {
    /// The bytes of it.
    ///
    /// # Errors
    /// [`Code::Internal`] when memory is short.
    pub fn encode(self) -> Result<Bytes> {
        encode(&match self {
            Self::Vote(reply) => WireReply::Vote {
                vote: codec::encode_vote(&reply.vote).into(),
                granted: reply.vote_granted,
                last: reply.last_log_id.map(to_pair),
            },
            Self::Append(AppendEntriesResponse::Success) => WireReply::Appended,
            Self::Append(AppendEntriesResponse::PartialSuccess(up_to)) => {
                WireReply::AppendedUpTo(up_to.map(to_pair))
            }
            Self::Append(AppendEntriesResponse::Conflict) => WireReply::Conflict,
            Self::Append(AppendEntriesResponse::HigherVote(vote)) => {
                WireReply::HigherVote(codec::encode_vote(&vote).into())
            }
            Self::TransferLeader(Ok(())) => WireReply::LeaderTaken,
            Self::TransferLeader(Err(why)) => WireReply::LeaderRefused(why),
            Self::ReadIndex(index) => WireReply::ReadIndex(index.map(to_pair)),
            Self::CatchUp(Standing::Reached) => WireReply::Reached,
            Self::CatchUp(Standing::Working) => WireReply::Working,
            Self::CatchUp(Standing::HigherVote(vote)) => {
                WireReply::NewerLeader(codec::encode_vote(&vote).into())
            }
        })
    }

    /// Reads what [`Reply::encode`] wrote.
    ///
    /// # Errors
    /// [`Code::Malformed`] for anything else.
    pub fn decode(message: &[u8]) -> Result<Self> {
        Ok(match rkyv::access::<ArchivedWireReply, rancor::Error>(message).map_err(malformed)? {
            ArchivedWireReply::Vote { vote: known, granted, last } => {
                let last = last.as_ref().map(|pair| log_id!(pair));
                Self::Vote(VoteResponse::new(vote(known)?, last, *granted))
            }
            ArchivedWireReply::Appended => Self::Append(AppendEntriesResponse::Success),
            ArchivedWireReply::AppendedUpTo(up_to) => {
                Self::Append(AppendEntriesResponse::PartialSuccess(up_to.as_ref().map(|pair| log_id!(pair))))
            }
            ArchivedWireReply::Conflict => Self::Append(AppendEntriesResponse::Conflict),
            ArchivedWireReply::HigherVote(higher) => {
                Self::Append(AppendEntriesResponse::HigherVote(vote(higher)?))
            }
            ArchivedWireReply::LeaderTaken => Self::TransferLeader(Ok(())),
            ArchivedWireReply::LeaderRefused(why) => Self::TransferLeader(Err(why.to_string())),
            ArchivedWireReply::ReadIndex(index) => Self::ReadIndex(index.as_ref().map(|pair| log_id!(pair))),
            ArchivedWireReply::Reached => Self::CatchUp(Standing::Reached),
            ArchivedWireReply::Working => Self::CatchUp(Standing::Working),
            ArchivedWireReply::NewerLeader(newer) => Self::CatchUp(Standing::HigherVote(vote(newer)?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use proptest::prelude::*;

    use super::*;
    use crate::raft::Entry;

    fn any_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>()).prop_map(|(term, index)| LogId { leader_id: term.into(), index })
    }

    fn any_vote() -> impl Strategy<Value = Vote> {
        (any::<u64>(), any::<u64>()).prop_map(|(term, node)| Vote::new(term, node))
    }

    proptest! {
        #[test]
        fn requests_read_back(
            vote in any_vote(), prev in prop::option::of(any_id()), leader_commit in prop::option::of(any_id()),
            entries in prop::collection::vec((any_id(), prop::collection::vec(any::<u8>(), 0..50)), 0..5), pre: bool,
            address in "[a-z:0-9]{0,12}", boundary in any_id(),
        ) {
            let entries: Vec<Entry> = entries.into_iter().map(|(log_id, blob)| {
                let bytes = Bytes::from([&[1u8][..], &blob].concat());
                Entry { log_id, payload: EntryPayload::Normal(bytes.into()) }
            }).collect();
            let append = AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit };
            match Request::decode(&Request::Append(append.clone()).encode().unwrap()).unwrap() {
                Request::Append(read) => {
                    prop_assert_eq!(read.entries, append.entries);
                    let heads = [(read.vote, read.prev_log_id, read.leader_commit), (append.vote, append.prev_log_id, append.leader_commit)];
                    prop_assert_eq!(heads[0], heads[1]);
                }
                other => prop_assert!(false, "{:?}", other),
            }
            let boundary = codec::to_wal_id(boundary);
            let catch_up = CatchUp { vote, boundary, address };
            match Request::decode(&Request::CatchUp(catch_up.clone()).encode().unwrap()).unwrap() {
                Request::CatchUp(read) => prop_assert_eq!(read, catch_up),
                other => prop_assert!(false, "{:?}", other),
            }
            let ask = VoteRequest::new(vote, prev);
            let request = if pre { Request::PreVote(ask.clone()) } else { Request::Vote(ask.clone()) };
            match Request::decode(&request.encode().unwrap()).unwrap() {
                Request::PreVote(read) if pre => prop_assert_eq!(read, ask),
                Request::Vote(read) if !pre => prop_assert_eq!(read, ask),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn replies_read_back(vote in any_vote(), id in prop::option::of(any_id()), granted: bool, kind in 0..4) {
            let append = match kind {
                0 => AppendEntriesResponse::Success,
                1 => AppendEntriesResponse::PartialSuccess(id),
                2 => AppendEntriesResponse::Conflict,
                _ => AppendEntriesResponse::HigherVote(vote),
            };
            match Reply::decode(&Reply::Append(append.clone()).encode().unwrap()).unwrap() {
                Reply::Append(read) => prop_assert_eq!(read, append),
                other => prop_assert!(false, "{:?}", other),
            }
            let standing = match kind {
                0 => Standing::Reached,
                1 => Standing::Working,
                _ => Standing::HigherVote(vote),
            };
            match Reply::decode(&Reply::CatchUp(standing.clone()).encode().unwrap()).unwrap() {
                Reply::CatchUp(read) => prop_assert_eq!(read, standing),
                other => prop_assert!(false, "{:?}", other),
            }
            let voted = VoteResponse::new(vote, id, granted);
            match Reply::decode(&Reply::Vote(voted.clone()).encode().unwrap()).unwrap() {
                Reply::Vote(read) => prop_assert_eq!(read, voted),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn what_leaders_are_asked_reads_back(vote in any_vote(), id in prop::option::of(any_id()), to: u64, why in ".{0,20}") {
            let ask = TransferLeaderRequest::new(vote, to, id);
            match Request::decode(&Request::TransferLeader(ask.clone()).encode().unwrap()).unwrap() {
                Request::TransferLeader(read) => prop_assert_eq!(read, ask),
                other => prop_assert!(false, "{:?}", other),
            }
            for taken in [Ok(()), Err(why)] {
                match Reply::decode(&Reply::TransferLeader(taken.clone()).encode().unwrap()).unwrap() {
                    Reply::TransferLeader(read) => prop_assert_eq!(read, taken),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            match Reply::decode(&Reply::ReadIndex(id).encode().unwrap()).unwrap() {
                Reply::ReadIndex(read) => prop_assert_eq!(read, id),
                other => prop_assert!(false, "{:?}", other),
            }
            let read = Request::decode(&Request::ReadIndex.encode().unwrap()).unwrap();
            prop_assert!(matches!(read, Request::ReadIndex));
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Reply::decode(&bytes);
            let _ = Request::decode(&Bytes::from(bytes));
        }
    }
}
