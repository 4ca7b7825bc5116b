//! Settings that people know from similar systems, and what does the same here.
//!
//! A wrong guess at a name deserves more than the nearest spelling: the nearest name of
//! `storage.sync_writes` is something else altogether.

use super::schema::environment_name;

const ALWAYS_SYNCED: &str =
    "writes are always synced before they are answered; there is no setting that turns it off";
const HEARTBEAT: &str = "use consensus.heartbeat_interval_ms";
const ELECTION: &str = "use consensus.election_timeout_ms";
const SNAPSHOT: &str = "use consensus.snapshot_logs_since_last";
const LISTEN: &str = "use network.listen_addr and network.client_port";
const PEERS: &str = "use cluster.peers";
const CACHE: &str = "use storage.max_cache_size";
const BATCH: &str = "use pipeline.batch_bytes_max and pipeline.batch_ops_max, or profile high-throughput";
const WAL_FILE: &str = "use wal.file_bytes";
const SEGMENT: &str = "use storage.segment_size";
const DATA: &str = "use node.data_dir";
const LEVEL: &str = "use logging.level";
const CHECKED: &str = "everything read from disk is checked; there is no setting that turns it off";
const APPEND_ONLY: &str = "the ledger is append-only: records are never compacted away or expired";

/// Names as they would stand in a file, and the sentence that answers them.
const FOREIGN: &[(&str, &str)] = &[
    ("raft.heartbeat_interval", HEARTBEAT),
    ("raft.heartbeat_interval_ms", HEARTBEAT),
    ("raft.election_timeout", ELECTION),
    ("raft.election_timeout_ms", ELECTION),
    ("raft.snapshot_interval", SNAPSHOT),
    ("raft.snapshot_threshold", SNAPSHOT),
    ("raft.max_append_entries", "use consensus.max_payload_entries"),
    ("raft.port", "use network.raft_tcp_port"),
    ("consensus.heartbeat_interval", HEARTBEAT),
    ("consensus.snapshot_interval", SNAPSHOT),
    ("consensus.snapshot_threshold", SNAPSHOT),
    // etcd
    ("heartbeat-interval", HEARTBEAT),
    ("election-timeout", ELECTION),
    ("snapshot-count", SNAPSHOT),
    ("data-dir", DATA),
    ("wal-dir", "the log is kept in node.data_dir"),
    ("listen-client-urls", LISTEN),
    ("listen-peer-urls", "use network.raft_listen_addr and network.raft_tcp_port"),
    ("advertise-client-urls", "use network.advertise_http_addr"),
    ("initial-cluster", PEERS),
    ("initial-cluster-token", "use cluster.secret"),
    ("quota-backend-bytes", "there is no quota; writes stop below wal.disk_free_bytes_min of free space"),
    ("max-request-bytes", "use limits.max_batch_request_bytes"),
    ("auto-compaction-retention", APPEND_ONLY),
    ("log-level", LEVEL),
    ("unsafe-no-fsync", ALWAYS_SYNCED),
    // NATS, Redis and other servers
    ("jetstream.store_dir", DATA),
    ("jetstream.sync_interval", ALWAYS_SYNCED),
    ("cluster.routes", PEERS),
    ("cluster.initial_members", PEERS),
    ("cluster.seed_addrs", PEERS),
    ("max_payload", "use limits.max_batch_request_bytes"),
    ("max_connections", "use limits.max_connections"),
    ("server_name", "use node.id"),
    ("appendfsync", ALWAYS_SYNCED),
    ("appendonly", ALWAYS_SYNCED),
    ("maxmemory", "use storage.max_cache_size and pipeline.ingest_bytes_max"),
    ("fsync", ALWAYS_SYNCED),
    ("synchronous_commit", ALWAYS_SYNCED),
    ("network.http_port", "use network.client_port"),
    ("network.bind_address", LISTEN),
    ("server.port", "use network.client_port"),
    ("server.host", "use network.listen_addr"),
    ("http.listen", LISTEN),
    ("log.level", LEVEL),
    ("log.format", "use logging.format"),
    // storage engines
    ("storage.sync_writes", ALWAYS_SYNCED),
    ("storage.fsync", ALWAYS_SYNCED),
    ("storage.flush_every_ms", ALWAYS_SYNCED),
    ("storage.flush_interval_ms", ALWAYS_SYNCED),
    ("wal.sync", ALWAYS_SYNCED),
    ("wal.fsync", ALWAYS_SYNCED),
    ("wal.sync_mode", "writes are always synced; how is set by wal.io"),
    ("wal.segment_size", WAL_FILE),
    ("wal.max_file_size", WAL_FILE),
    ("wal.batch_size", "use wal.group_bytes_max"),
    ("storage.data_dir", DATA),
    ("storage.path", DATA),
    ("storage.cache_size", CACHE),
    ("storage.cache_capacity", CACHE),
    ("storage.block_cache_size", CACHE),
    ("storage.write_buffer_size", SEGMENT),
    ("storage.max_segment_size", SEGMENT),
    ("storage.memtable_size", SEGMENT),
    ("storage.paranoid_checks", CHECKED),
    ("storage.compression", "use storage.tiering.enable_compression"),
    ("storage.compaction", APPEND_ONLY),
    ("storage.retention", APPEND_ONLY),
    ("storage.ttl", APPEND_ONLY),
    ("sled.cache_capacity", CACHE),
    ("sled.flush_every_ms", ALWAYS_SYNCED),
    ("rocksdb.write_buffer_size", SEGMENT),
    ("rocksdb.block_cache_size", CACHE),
    ("performance.batch_size", BATCH),
    ("performance.mode", "use profile = \"low-latency\" or another profile"),
    ("pipeline.batch_size", BATCH),
    ("pipeline.linger_ms", "use pipeline.batch_linger, or profile high-throughput"),
    ("batch.size", BATCH),
    ("linger.ms", "use pipeline.batch_linger, or profile high-throughput"),
];

/// What does here what this name does elsewhere.
#[must_use]
pub fn foreign(name: &str) -> Option<&'static str> {
    FOREIGN.iter().find(|(known, _)| *known == name).map(|(_, instead)| *instead)
}

/// The foreign name that a variable would stand for.
#[must_use]
pub fn by_variable(variable: &str) -> Option<&'static str> {
    FOREIGN.iter().map(|(known, _)| *known).find(|known| environment_name(known) == variable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::find;

    #[test]
    fn no_name_is_both_ours_and_foreign_and_every_name_offered_exists() {
        for (name, instead) in FOREIGN {
            assert!(find(name).is_none(), "{name}");
            for word in instead.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.') {
                assert!(!word.contains('.') || find(word).is_some(), "{name}: {word}");
            }
        }
    }
}
