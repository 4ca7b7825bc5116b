//! The running node as the server shows it: positions, health and numbers, in the API's words.
//!
//! Takes what [`NodeInfo`] gathers; owns no number itself. The numbers of its metrics are in `numbers`.

mod numbers;

use std::collections::BTreeMap;

use super::{
    cluster::MemberView,
    status::{ArchiveStatus, LogPositions, NodeView, RecordPositions, StageStatus, Status, TreeStatus},
};
use crate::{
    archive::progress::Condition,
    error::{Code, Error, Result},
    metrics::MetricsSnapshot,
    node::NodeInfo,
    raft::Member,
    sealed::SealedSizes,
    types::NodeId,
    wal::WalHealth,
};

impl NodeView for NodeInfo {
    fn status(&self) -> Status {
        let positions = self.positions();
        let (size, root) = self.tree_head();
        let stages = self.stages().into_iter().map(|stage| {
            let oldest_ms = u64::try_from(stage.oldest.as_millis()).unwrap_or(u64::MAX);
            (stage.name, StageStatus { depth: stage.depth, bytes: stage.bytes, oldest_ms })
        });
        Status {
            node_id: self.identity.node_id,
            cluster_id: Some(self.identity.cluster_id.clone()),
            role: positions.role,
            leader_id: positions.leader_id,
            term: positions.term,
            log: LogPositions {
                proposed: positions.proposed.checked_sub(1),
                committed: positions.committed.checked_sub(1),
                applied: positions.applied.checked_sub(1),
            },
            records: RecordPositions {
                applied: self.applied().0,
                proven: size.0,
                sealed: self.sealed().0,
                archived: self.archived().0,
            },
            tree: TreeStatus { size: size.0, root: root.to_string() },
            stages: stages.collect::<BTreeMap<_, _>>(),
            archive: archive_status(self),
            members: NodeView::members(self),
            version: env!("CARGO_PKG_VERSION"),
            profile: self.profile.clone(),
            uptime_ms: u64::try_from(self.uptime().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn takes_writes(&self) -> Result<()> {
        self.healthy()?;
        match self.wal().0 {
            WalHealth::DiskFull(why) => Err(Error::new(Code::DiskFull, format!("disk full: {why}"))),
            WalHealth::Ok | WalHealth::Poisoned { .. } => Ok(()),
        }
    }

    fn healthy(&self) -> Result<()> {
        self.healthy()
    }

    fn metrics(&self) -> MetricsSnapshot {
        numbers::of(self)
    }

    fn members(&self) -> Vec<MemberView> {
        let positions = self.positions();
        let member = |(id, member): (&NodeId, &Member)| MemberView {
            node_id: *id,
            role: match *id {
                id if positions.leader_id == Some(id) => "leader",
                id if positions.voters.contains(&id) => "follower",
                _ => "learner",
            },
            http_addr: member.http_addr.clone(),
            raft_addr: member.raft_addr.clone(),
            healthy: match *id == self.identity.node_id {
                true => Some(NodeInfo::healthy(self).is_ok()),
                false => self.others().is_healthy(*id),
            },
            lag: match *id == self.identity.node_id {
                true => Some(positions.committed.saturating_sub(positions.applied)),
                // A leader knows what the others have; everybody what they lacked when they spoke last.
                false => {
                    let has = positions.replicated.get(id);
                    has.map(|has| positions.proposed.saturating_sub(*has)).or_else(|| self.others().lag(*id))
                }
            },
            catching_up: self.others().newest(*id).and_then(|vitals| vitals.catching_up),
        };
        positions.members.iter().map(member).collect()
    }

    fn leader(&self) -> Option<MemberView> {
        let leader = self.members().into_iter().find(|member| member.role == "leader")?;
        // One that no quorum answers leads nobody, and others may have another.
        self.is_led().then_some(leader)
    }
}

fn archive_status(node: &NodeInfo) -> ArchiveStatus {
    let archive = node.archive();
    let (condition, error) = match (archive.now(), node.cold_trouble()) {
        // Copying may have nothing to do meanwhile.
        ((Condition::Ok, _), Some((failure, why))) => (Condition::Failing(failure), Some(why)),
        (now, _) => now,
    };
    let SealedSizes { local_bytes, cold_segments, .. } = node.sealed_sizes();
    let cache_bytes = node.cold().0.bytes;
    let place = archive.place().map(String::from);
    ArchiveStatus { place, state: condition.name(), error, local_bytes, cold_segments, cache_bytes }
}
