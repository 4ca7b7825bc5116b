//! The numbers of a running node, group by group, as its metrics show them.
//!
//! Takes what [`NodeInfo`] gathers, gives names, what they mean, and values; owns no number itself.

use hdrhistogram::Histogram;

use crate::{
    api::{cluster::MemberView, status::NodeView},
    metrics::{MetricsSnapshot, Stat, Times},
    node::NodeInfo,
    pipeline::gauge::Reading,
    wal::WalMetrics,
};

/// All of them, as of now.
pub(super) fn of(node: &NodeInfo) -> MetricsSnapshot {
    let (_, wal) = node.wal();
    let groups = [
        storage(node),
        proof(node),
        log(&wal),
        raft(node),
        archive(node),
        network(node),
        members(node),
        stages(node),
    ];
    MetricsSnapshot {
        total_keys: node.live_keys(),
        total_records: node.sizes().records,
        current_leader: node.positions().leader_id,
        stats: groups.into_iter().flatten().collect(),
        times: times(node, wal),
    }
}

/// Numbers of a group that have no label: name, meaning, value.
fn plain<const N: usize>(group: &'static str, rows: [(&'static str, &'static str, f64); N]) -> Vec<Stat> {
    rows.into_iter().map(|(name, help, value)| Stat { group, name, help, label: None, value }).collect()
}

fn storage(node: &NodeInfo) -> Vec<Stat> {
    let (sizes, sealed) = (node.sizes(), node.sealed_sizes());
    plain(
        "storage",
        [
            (
                "unsealed_bytes",
                "About the memory of records that are not in segments yet.",
                sizes.unsealed_bytes as f64,
            ),
            ("idempotency_answers", "Idempotency keys remembered.", sizes.idempotency_answers as f64),
            ("segments", "Sealed segments.", sealed.segments as f64),
            (
                "segment_bytes",
                "Bytes of their files, those that have left among them.",
                sealed.segment_bytes as f64,
            ),
            ("local_bytes", "Bytes of segments on this node's disk.", sealed.local_bytes as f64),
            (
                "cold_segments",
                "Segments whose records are in the archive alone.",
                sealed.cold_segments as f64,
            ),
            ("sealed_raw_bytes", "Bytes of their keys and values.", sealed.raw_bytes as f64),
            (
                "segment_resident_bytes",
                "Memory of their filters and directories.",
                sealed.resident_bytes as f64,
            ),
            (
                "unindexed_segments",
                "Segments that the index does not cover yet.",
                sealed.unindexed_segments as f64,
            ),
            ("index_bytes", "Bytes of the index's files.", sealed.index_bytes as f64),
            ("block_cache_bytes", "Bytes of cached blocks.", sealed.cache_bytes as f64),
            (
                "repaired_segments_total",
                "Damaged segments that were taken anew from elsewhere.",
                node.repaired_segments() as f64,
            ),
            ("proven", "Records under the tree.", node.tree_head().0.0 as f64),
            ("sealed", "Records in segments.", node.sealed().0 as f64),
        ],
    )
}

fn proof(node: &NodeInfo) -> Vec<Stat> {
    let help = "How often another member had a different tree: one of the copies has diverged.";
    plain("proof", [("disputes_total", help, node.disputes() as f64)])
}

fn log(wal: &WalMetrics) -> Vec<Stat> {
    let sync_us = |q| wal.sync_us.value_at_quantile(q) as f64;
    let sync_help = "Microseconds from encoding a group until it was durable.";
    plain(
        "wal",
        [
            ("groups_total", "Groups written to the log.", wal.groups as f64),
            ("syncs_total", "Syncs of log files.", wal.syncs as f64),
            ("written_bytes_total", "Bytes written to the log, padding included.", wal.bytes_written as f64),
            ("queue_depth", "Changes waiting for the next group.", wal.queue_depth as f64),
            ("queue_bytes", "Their bytes.", wal.queue_bytes as f64),
            ("oldest_ms", "Age of the oldest of them.", wal.oldest_ms as f64),
            ("disk_bytes", "Size of the log's files.", wal.disk_bytes as f64),
            ("tail_bytes", "Bytes of recent entries held for readers.", wal.tail_bytes as f64),
            ("sync_us_p50", sync_help, sync_us(0.5)),
            ("sync_us_p99", sync_help, sync_us(0.99)),
            ("sync_us_max", sync_help, sync_us(1.0)),
        ],
    )
}

fn raft(node: &NodeInfo) -> Vec<Stat> {
    let positions = node.positions();
    let mut stats = plain(
        "raft",
        [
            ("term", "Current term.", positions.term as f64),
            ("proposed", "Log entries in this member's log.", positions.proposed as f64),
            ("committed", "Log entries known to be on a quorum's disks.", positions.committed as f64),
            ("applied", "Log entries applied.", positions.applied as f64),
        ],
    );
    let uptime = [("uptime_seconds", "Time since the node started.", node.uptime().as_secs_f64())];
    stats.extend(plain("node", uptime));
    stats
}

fn archive(node: &NodeInfo) -> Vec<Stat> {
    let (archive, lag) = (node.archive(), node.archive_lag());
    let (uploaded, (copies, downloads)) = (archive.uploaded(), node.cold());
    let mut stats = plain(
        "archive",
        [
            ("archived", "Records in the archive.", node.archived().0 as f64),
            ("objects_total", "Segments that this node has archived.", uploaded.objects as f64),
            ("raw_bytes_total", "Bytes of their local files.", uploaded.raw_bytes as f64),
            ("stored_bytes_total", "Bytes of their objects.", uploaded.stored_bytes as f64),
            ("lag_segments", "Sealed segments that are not archived.", lag.segments as f64),
            ("lag_bytes", "Bytes of their files.", lag.bytes as f64),
            ("lag_seconds", "Age of the oldest record in them.", lag.oldest.as_secs_f64()),
            ("cache_bytes", "Bytes of copies of cold blocks on the disk.", copies.bytes as f64),
            ("cache_hits_total", "Reads of cold blocks that found a copy.", copies.hits as f64),
            ("cache_misses_total", "Those that did not.", copies.misses as f64),
            ("downloads_total", "Ranges of objects that were fetched for reads.", downloads.downloads as f64),
            ("downloaded_bytes_total", "Their bytes.", downloads.bytes as f64),
            (
                "download_errors_total",
                "Fetches for reads that failed or brought something else than was sealed.",
                downloads.errors as f64,
            ),
        ],
    );
    stats.extend(archive.errors().map(|(failure, count)| Stat {
        group: "archive",
        name: "errors_total",
        help: "Failures to archive, by kind.",
        label: Some(("kind", failure.name().to_owned())),
        value: count as f64,
    }));
    stats
}

fn network(node: &NodeInfo) -> Vec<Stat> {
    let traffic = node.traffic();
    plain(
        "network",
        [
            ("peer_connects_total", "Connections with members.", traffic.connects as f64),
            ("peer_reconnects_total", "Those that replaced a lost one.", traffic.reconnects as f64),
            ("peer_refused_total", "Connections that were refused.", traffic.refused as f64),
            ("peer_sent_bytes_total", "Bytes sent to members.", traffic.bytes_sent as f64),
            ("peer_received_bytes_total", "Bytes received from members.", traffic.bytes_received as f64),
        ],
    )
}

/// What is known of each member.
fn members(node: &NodeInfo) -> Vec<Stat> {
    let of = |member: MemberView| {
        let healthy = member.healthy.map(|is| f64::from(u8::from(is)));
        let lag = member.lag.map(|lag| lag as f64);
        let fetched = member.catching_up.map(|now| now.segments as f64);
        let stat = |name, help, value: Option<f64>| {
            let label = Some(("member", member.node_id.to_string()));
            Some(Stat { group: "members", name, help, label, value: value? })
        };
        [
            stat("healthy", "Whether the member can do its work.", healthy),
            stat("lag", "Log entries that the member has yet to get or apply.", lag),
            stat("fetched_segments", "Segments that a member far behind has.", fetched),
        ]
    };
    NodeView::members(node).into_iter().flat_map(of).flatten().collect()
}

/// What is in each stage of the pipeline, and how long it stays.
fn stages(node: &NodeInfo) -> Vec<Stat> {
    let of = |(stage, (_, stays)): (Reading, (&str, Histogram<u64>))| {
        let stay = |q| stays.value_at_quantile(q) as f64;
        let rows = [
            ("depth", "Items in the stage.", stage.depth as f64),
            ("bytes", "Bytes in the stage.", stage.bytes as f64),
            ("oldest_ms", "Age of the oldest item.", stage.oldest.as_secs_f64() * 1e3),
            ("passed_total", "Items that left the stage.", stage.passed as f64),
            ("stay_us_p50", "Microseconds that items stayed.", stay(0.5)),
            ("stay_us_p99", "Microseconds that items stayed.", stay(0.99)),
            ("stay_us_max", "Microseconds that items stayed.", stay(1.0)),
        ];
        rows.map(|(name, help, value)| {
            let label = Some(("stage", stage.name.to_owned()));
            Stat { group: "stages", name, help, label, value }
        })
    };
    node.stages().into_iter().zip(node.stage_stays_us()).flat_map(of).collect()
}

/// What takes time, as histograms.
fn times(node: &NodeInfo, wal: WalMetrics) -> Vec<Times> {
    let stays = node.stage_stays_us().into_iter().map(|(stage, histogram_us)| Times {
        name: "stage_duration_seconds",
        help: "Time that something stayed in a stage of the pipeline.",
        label: Some(("stage", stage.to_owned())),
        histogram_us,
    });
    let syncs = Times {
        name: "wal_sync_duration_seconds",
        help: "Time from encoding a group of the log until it was durable.",
        label: None,
        histogram_us: wal.sync_us,
    };
    stays.chain([syncs]).collect()
}
