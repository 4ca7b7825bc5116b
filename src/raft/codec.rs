//! What the log stores for Raft itself: entries' payloads, memberships and votes as bytes.
//!
//! ```text
//! payload     nothing             blank, a new leader's first entry
//!             1 … or 2 …          the state machine's, passed through untouched
//!             3 | rkyv archive    membership
//! vote        term u64 | node id u64 | committed u8             (17 bytes, little-endian)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{EntryPayload, Membership};
use rkyv::{Archive, Serialize, rancor};

use super::{Entry, LogId, Member, Payload, Proposal, Vote};
use crate::{
    error::{Code, Error, Result},
    state::entry::{self, KIND_MEMBERSHIP},
    types::{LogIndex, NodeId},
    wal,
};

#[derive(Archive, Serialize)]
struct StoredMembership {
    configs: Vec<Vec<u64>>,
    members: Vec<StoredMember>,
}

#[derive(Archive, Serialize)]
struct StoredMember {
    id: u64,
    raft_addr: String,
    http_addr: String,
    incarnation: u64,
    is_replica: bool,
}

/// The WAL's name for a log id.
pub fn to_wal_id(id: LogId) -> wal::LogId {
    wal::LogId { term: *id.leader_id, index: LogIndex(id.index) }
}

/// Raft's name for a log id.
pub fn to_raft_id(id: wal::LogId) -> LogId {
    LogId { leader_id: id.term.into(), index: id.index.0 }
}

/// A membership with the entry that set it, for a segment's boundary.
///
/// ```text
/// set by an entry u8 | term u64 | index u64 | removed u32 | id u64 of each | 3 | rkyv archive
/// ```
///
/// # Errors
/// As [`entry::encode`].
pub fn encode_stored_membership(
    membership: &super::state_machine::Membership,
    removed: &BTreeSet<NodeId>,
) -> Result<Vec<u8>> {
    let id = membership.log_id().map(to_wal_id);
    let (term, index) = id.map_or((0, 0), |id| (id.term, id.index.0));
    let mut out = vec![u8::from(id.is_some())];
    out.extend_from_slice(&term.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    let count = u32::try_from(removed.len())
        .map_err(|_| Error::new(Code::Internal, "more members were removed than can be counted"))?;
    out.extend_from_slice(&count.to_le_bytes());
    removed.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    out.extend_from_slice(&encode_membership(membership.membership())?);
    Ok(out)
}

/// Reads what [`encode_stored_membership`] writes.
///
/// # Errors
/// [`Code::Corrupt`] for anything else.
pub fn decode_stored_membership(
    bytes: &[u8],
) -> Result<(super::state_machine::Membership, BTreeSet<NodeId>)> {
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let head = || {
        let (is_set, rest) = bytes.split_first()?;
        let (term, rest) = rest.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let removed_bytes = (u32::from_le_bytes(*count) as usize).checked_mul(8)?;
        let (removed, membership) = rest.split_at_checked(removed_bytes)?;
        let removed = removed.as_chunks().0.iter().map(word).collect();
        let id = wal::LogId { term: word(term), index: LogIndex(word(index)) };
        Some(((*is_set != 0).then(|| to_raft_id(id)), removed, membership))
    };
    let none = || Error::new(Code::Corrupt, "a segment's boundary holds no membership");
    let (id, removed, membership) = head().ok_or_else(none)?;
    Ok((super::state_machine::Membership::new(id, decode_membership(membership)?), removed))
}

/// The entry as the log stores it. A proposal's bytes are shared, not copied.
///
/// # Errors
/// As [`entry::encode`].
pub fn encode_entry(entry: Entry) -> Result<wal::LogEntry> {
    let payload = match entry.payload {
        EntryPayload::Blank => Bytes::new(),
        EntryPayload::Normal(Proposal { bytes, .. }) => bytes,
        EntryPayload::Membership(membership) => encode_membership(&membership)?,
    };
    Ok(wal::LogEntry { id: to_wal_id(entry.log_id), payload })
}

/// Reads back what [`encode_entry`] wrote.
///
/// # Errors
/// [`Code::Corrupt`] for a membership that does not decode.
pub fn decode_entry(entry: wal::LogEntry) -> Result<Entry> {
    let payload: Payload = match entry.payload.first() {
        None => EntryPayload::Blank,
        Some(&KIND_MEMBERSHIP) => EntryPayload::Membership(decode_membership(&entry.payload)?),
        Some(_) => EntryPayload::Normal(entry.payload.into()),
    };
    Ok(Entry { log_id: to_raft_id(entry.id), payload })
}

fn encode_membership(membership: &Membership<NodeId, Member>) -> Result<Bytes> {
    let stored = StoredMembership {
        configs: membership.get_joint_config().iter().map(|ids| ids.iter().copied().collect()).collect(),
        members: membership
            .nodes()
            .map(|(id, member)| StoredMember {
                id: *id,
                raft_addr: member.raft_addr.clone(),
                http_addr: member.http_addr.clone(),
                incarnation: member.incarnation,
                is_replica: member.is_replica,
            })
            .collect(),
    };
    entry::encode(KIND_MEMBERSHIP, &stored, 128)
}

fn decode_membership(bytes: &[u8]) -> Result<Membership<NodeId, Member>> {
    let corrupt = |why: String| Error::new(Code::Corrupt, format!("not a membership entry: {why}"));
    let archive = bytes.get(1..).unwrap_or_default();
    let stored = rkyv::access::<ArchivedStoredMembership, rancor::Error>(archive)
        .map_err(|e| corrupt(e.to_string()))?;
    let configs: Vec<BTreeSet<NodeId>> =
        stored.configs.iter().map(|ids| ids.iter().map(|id| id.to_native()).collect()).collect();
    let members: BTreeMap<NodeId, Member> = stored
        .members
        .iter()
        .map(|m| {
            (
                m.id.to_native(),
                Member {
                    raft_addr: m.raft_addr.to_string(),
                    http_addr: m.http_addr.to_string(),
                    incarnation: m.incarnation.to_native(),
                    is_replica: m.is_replica,
                },
            )
        })
        .collect();
    Membership::new(configs, members).map_err(|e| corrupt(e.to_string()))
}

/// The vote as the log stores it.
pub fn encode_vote(vote: &Vote) -> Bytes {
    let mut bytes = Vec::with_capacity(17);
    bytes.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    bytes.extend_from_slice(&vote.leader_id.voted_for.to_le_bytes());
    bytes.push(u8::from(vote.committed));
    bytes.into()
}

/// Reads back what [`encode_vote`] wrote.
///
/// # Errors
/// [`Code::Corrupt`] for any other length.
pub fn decode_vote(bytes: &[u8]) -> Result<Vote> {
    let number = |range: std::ops::Range<usize>| bytes.get(range)?.try_into().ok().map(u64::from_le_bytes);
    match (number(0..8), number(8..16), bytes.get(16), bytes.len()) {
        (Some(term), Some(node), Some(committed @ (0 | 1)), 17) => {
            Ok(if *committed == 1 { Vote::new_committed(term, node) } else { Vote::new(term, node) })
        }
        _ => Err(Error::new(Code::Corrupt, "a stored vote does not have the form of one")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_read_back(
            term: u64, index: u64, kind in 0u8..3,
            ids in prop::collection::btree_set(1u64..9, 1..5), address in "[a-z:0-9]{0,12}", blob in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let payload = match kind {
                0 => EntryPayload::Blank,
                1 => EntryPayload::Normal(Bytes::from([&[1u8][..], &blob].concat()).into()),
                _ => {
                    let (incarnation, is_replica) = (term, kind == 2);
                    let member = Member { raft_addr: address.clone(), http_addr: address, incarnation, is_replica };
                    let members: BTreeMap<_, _> = ids.iter().map(|id| (*id, member.clone())).collect();
                    EntryPayload::Membership(Membership::new(vec![ids], members).unwrap())
                }
            };
            let entry = Entry { log_id: LogId { leader_id: term.into(), index }, payload };
            prop_assert_eq!(decode_entry(encode_entry(entry.clone()).unwrap()).unwrap(), entry);
        }

        #[test]
        fn damaged_entries_and_votes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0u8..5) {
            let id = wal::LogId { term: 1, index: LogIndex(1) };
            let payload = Bytes::from([&[kind][..], &bytes].concat());
            let _ = decode_entry(wal::LogEntry { id, payload });
            let _ = decode_vote(&bytes);
        }

        #[test]
        fn votes_read_back(term: u64, node: u64, committed: bool) {
            let vote = if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) };
            prop_assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        }
    }

    #[test]
    fn memberships_are_those_of_the_golden_file() {
        let member = |n: u64| Member {
            raft_addr: format!("10.0.0.{n}:9001"),
            http_addr: format!("10.0.0.{n}:8001"),
            incarnation: n << 60,
            is_replica: n == 3,
        };
        let members: BTreeMap<_, _> = (1..=3).map(|n| (n, member(n))).collect();
        let joint = vec![[1, 2].into(), [1, 2, 3].into()];
        let bytes = encode_membership(&Membership::new(joint, members).unwrap()).unwrap();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/entry-membership-v1.bin");
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            std::fs::write(golden, &bytes).unwrap();
        }
        assert!(std::fs::read(golden).unwrap() == bytes, "the format of memberships in logs has changed");
    }
}
