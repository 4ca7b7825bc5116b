//! The running node as the server shows it: positions, health and numbers, in the API's words.
//!
//! Takes what [`NodeInfo`] gathers; owns no number itself.

use std::collections::BTreeMap;

use super::{
    cluster::MemberView,
    status::{ArchiveStatus, LogPositions, NodeView, RecordPositions, StageStatus, Status, TreeStatus},
};
use crate::{
    error::{Code, Error, Result},
    metrics::{MetricsSnapshot, Stat, Times},
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
        let (sizes, positions, (_, wal)) = (self.sizes(), self.positions(), self.wal());
        let sealed = self.sealed_sizes();
        let stays_us = self.stage_stays_us();
        let stat = |group, name, help, value| Stat { group, name, help, label: None, value };
        let mut stats = vec![
            stat(
                "storage",
                "unsealed_bytes",
                "About the memory of records that are not in segments yet.",
                sizes.unsealed_bytes as f64,
            ),
            stat(
                "storage",
                "idempotency_answers",
                "Idempotency keys remembered.",
                sizes.idempotency_answers as f64,
            ),
            stat("storage", "segments", "Sealed segments.", sealed.segments as f64),
            stat(
                "storage",
                "segment_bytes",
                "Bytes of their files, those that have left among them.",
                sealed.segment_bytes as f64,
            ),
            stat(
                "storage",
                "local_bytes",
                "Bytes of segments on this node's disk.",
                sealed.local_bytes as f64,
            ),
            stat(
                "storage",
                "cold_segments",
                "Segments whose records are in the archive alone.",
                sealed.cold_segments as f64,
            ),
            stat("storage", "sealed_raw_bytes", "Bytes of their keys and values.", sealed.raw_bytes as f64),
            stat(
                "storage",
                "segment_resident_bytes",
                "Memory of their filters and directories.",
                sealed.resident_bytes as f64,
            ),
            stat(
                "storage",
                "unindexed_segments",
                "Segments that the index does not cover yet.",
                sealed.unindexed_segments as f64,
            ),
            stat("storage", "index_bytes", "Bytes of the index's files.", sealed.index_bytes as f64),
            stat("storage", "block_cache_bytes", "Bytes of cached blocks.", sealed.cache_bytes as f64),
            stat(
                "storage",
                "repaired_segments_total",
                "Damaged segments that were taken anew from elsewhere.",
                self.repaired_segments() as f64,
            ),
            stat("storage", "proven", "Records under the tree.", self.tree_head().0.0 as f64),
            stat("storage", "sealed", "Records in segments.", self.sealed().0 as f64),
            stat(
                "proof",
                "disputes_total",
                "How often another member had a different tree: one of the copies has diverged.",
                self.disputes() as f64,
            ),
            stat("wal", "groups_total", "Groups written to the log.", wal.groups as f64),
            stat("wal", "syncs_total", "Syncs of log files.", wal.syncs as f64),
            stat(
                "wal",
                "written_bytes_total",
                "Bytes written to the log, padding included.",
                wal.bytes_written as f64,
            ),
            stat("wal", "queue_depth", "Changes waiting for the next group.", wal.queue_depth as f64),
            stat("wal", "queue_bytes", "Their bytes.", wal.queue_bytes as f64),
            stat("wal", "oldest_ms", "Age of the oldest of them.", wal.oldest_ms as f64),
            stat("wal", "disk_bytes", "Size of the log's files.", wal.disk_bytes as f64),
            stat("wal", "tail_bytes", "Bytes of recent entries held for readers.", wal.tail_bytes as f64),
            stat("raft", "term", "Current term.", positions.term as f64),
            stat("raft", "proposed", "Log entries in this member's log.", positions.proposed as f64),
            stat(
                "raft",
                "committed",
                "Log entries known to be on a quorum's disks.",
                positions.committed as f64,
            ),
            stat("raft", "applied", "Log entries applied.", positions.applied as f64),
            stat("node", "uptime_seconds", "Time since the node started.", self.uptime().as_secs_f64()),
        ];
        stats.extend(archive_stats(self));
        let traffic = self.traffic();
        stats.extend([
            stat("network", "peer_connects_total", "Connections with members.", traffic.connects as f64),
            stat(
                "network",
                "peer_reconnects_total",
                "Those that replaced a lost one.",
                traffic.reconnects as f64,
            ),
            stat("network", "peer_refused_total", "Connections that were refused.", traffic.refused as f64),
            stat("network", "peer_sent_bytes_total", "Bytes sent to members.", traffic.bytes_sent as f64),
            stat(
                "network",
                "peer_received_bytes_total",
                "Bytes received from members.",
                traffic.bytes_received as f64,
            ),
        ]);
        for member in NodeView::members(self) {
            let of = |name, help, value| Stat {
                group: "members",
                name,
                help,
                label: Some(("member", member.node_id.to_string())),
                value,
            };
            let known = |what: Option<bool>| what.map(|is| f64::from(u8::from(is)));
            let fetched = member.catching_up.map(|now| now.segments as f64);
            stats.extend(
                [
                    known(member.healthy)
                        .map(|value| of("healthy", "Whether the member can do its work.", value)),
                    member.lag.map(|lag| {
                        of("lag", "Log entries that the member has yet to get or apply.", lag as f64)
                    }),
                    fetched
                        .map(|value| of("fetched_segments", "Segments that a member far behind has.", value)),
                ]
                .into_iter()
                .flatten(),
            );
        }
        for (name, q) in [("sync_us_p50", 0.5), ("sync_us_p99", 0.99), ("sync_us_max", 1.0)] {
            let help = "Microseconds from encoding a group until it was durable.";
            stats.push(stat("wal", name, help, wal.sync_us.value_at_quantile(q) as f64));
        }
        for (stage, stays) in self.stages().into_iter().zip(&stays_us) {
            let of = |name, help, value| Stat {
                group: "stages",
                name,
                help,
                label: Some(("stage", stage.name.to_owned())),
                value,
            };
            let stay = |q| stays.1.value_at_quantile(q) as f64;
            stats.extend([
                of("depth", "Items in the stage.", stage.depth as f64),
                of("bytes", "Bytes in the stage.", stage.bytes as f64),
                of("oldest_ms", "Age of the oldest item.", stage.oldest.as_secs_f64() * 1e3),
                of("passed_total", "Items that left the stage.", stage.passed as f64),
                of("stay_us_p50", "Microseconds that items stayed.", stay(0.5)),
                of("stay_us_p99", "Microseconds that items stayed.", stay(0.99)),
                of("stay_us_max", "Microseconds that items stayed.", stay(1.0)),
            ]);
        }
        let mut times: Vec<Times> = stays_us
            .into_iter()
            .map(|(stage, histogram_us)| Times {
                name: "stage_duration_seconds",
                help: "Time that something stayed in a stage of the pipeline.",
                label: Some(("stage", stage.to_owned())),
                histogram_us,
            })
            .collect();
        times.push(Times {
            name: "wal_sync_duration_seconds",
            help: "Time from encoding a group of the log until it was durable.",
            label: None,
            histogram_us: wal.sync_us,
        });
        MetricsSnapshot {
            total_keys: self.live_keys(),
            total_records: sizes.records,
            current_leader: positions.leader_id,
            stats,
            times,
        }
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
    let (condition, error) = archive.now();
    let SealedSizes { local_bytes, cold_segments, .. } = node.sealed_sizes();
    let cache_bytes = node.cold().0.bytes;
    let place = archive.place().map(String::from);
    ArchiveStatus { place, state: condition.name(), error, local_bytes, cold_segments, cache_bytes }
}

fn archive_stats(node: &NodeInfo) -> Vec<Stat> {
    let (archive, lag) = (node.archive(), node.archive_lag());
    let uploaded = archive.uploaded();
    let stat = |name, help, value| Stat { group: "archive", name, help, label: None, value };
    let mut stats = vec![
        stat("archived", "Records in the archive.", node.archived().0 as f64),
        stat("objects_total", "Segments that this node has archived.", uploaded.objects as f64),
        stat("raw_bytes_total", "Bytes of their local files.", uploaded.raw_bytes as f64),
        stat("stored_bytes_total", "Bytes of their objects.", uploaded.stored_bytes as f64),
        stat("lag_segments", "Sealed segments that are not archived.", lag.segments as f64),
        stat("lag_bytes", "Bytes of their files.", lag.bytes as f64),
        stat("lag_seconds", "Age of the oldest record in them.", lag.oldest.as_secs_f64()),
    ];
    let (copies, downloads) = node.cold();
    stats.extend([
        stat("cache_bytes", "Bytes of copies of cold blocks on the disk.", copies.bytes as f64),
        stat("cache_hits_total", "Reads of cold blocks that found a copy.", copies.hits as f64),
        stat("cache_misses_total", "Those that did not.", copies.misses as f64),
        stat("downloads_total", "Ranges of objects that were fetched for reads.", downloads.downloads as f64),
        stat("downloaded_bytes_total", "Their bytes.", downloads.bytes as f64),
        stat(
            "download_errors_total",
            "Fetches for reads that failed or brought something else than was sealed.",
            downloads.errors as f64,
        ),
    ]);
    stats.extend(archive.errors().map(|(failure, count)| Stat {
        group: "archive",
        name: "errors_total",
        help: "Failures to archive, by kind.",
        label: Some(("kind", failure.name().to_owned())),
        value: count as f64,
    }));
    stats
}
