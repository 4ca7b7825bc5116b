//! What a ledger needs that goes on with one member, whoever its members were: a membership and a vote, as a boundary
//! and the log keep them. For a directory that is made before any node runs on it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Member, Vote, codec, state_machine::Membership};
use crate::{
    error::{Code, Error, Result},
    types::NodeId,
    wal::LogId,
};

/// The membership that this entry leaves behind, for a boundary, and the vote of its term. Nobody has been removed:
/// the cluster is new, and so are its ids.
///
/// # Errors
/// [`Code::Internal`] when they cannot be encoded.
pub fn begin_anew(me: NodeId, incarnation: u64, at: LogId) -> Result<(Vec<u8>, Bytes)> {
    let member = Member { incarnation, ..Member::default() };
    let membership = openraft::Membership::new(vec![BTreeSet::from([me])], BTreeMap::from([(me, member)]));
    let membership = membership.map_err(|error| Error::new(Code::Internal, error.to_string()))?;
    let membership = Membership::new(Some(codec::to_raft_id(at)), membership);
    let membership = codec::encode_stored_membership(&membership, &BTreeSet::new())?;
    Ok((membership, codec::encode_vote(&Vote::new(at.term, me))))
}
