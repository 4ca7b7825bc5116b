//! Everything an operator can set, as plain typed values with their defaults.
//!
//! Layers, each over the one before: built-in defaults < profile < file < `SCRIBE_*` environment < flags.
//!
//! ```text
//! args, environment, file, profile ──► layers ──► check ──► Config
//!                                        │
//!         schema (the one table of keys) ┴ kind ┴ value     foreign (names from other systems)
//!                        └──► render: the same table, written out
//! ```

pub mod args;
mod check;
pub mod environment;
pub mod file;
pub mod foreign;
pub mod kind;
pub mod layers;
mod load;
pub mod paths;
pub mod profile;
pub mod render;
pub mod schema;
pub mod value;

pub use self::{
    args::NodeArgs, environment::process_environment, layers::Settings, load::run_config_command,
};

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use crate::types::NodeId;

/// The whole configuration of one node, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the profile the values start from; `balanced` when none was asked for.
    pub profile: String,
    pub node: NodeConfig,
    pub network: NetworkConfig,
    pub pipeline: PipelineConfig,
    pub wal: WalConfig,
    pub storage: StorageConfig,
    pub ledger: LedgerConfig,
    pub consensus: ConsensusConfig,
    pub cluster: ClusterConfig,
    pub limits: LimitsConfig,
    pub logging: LoggingConfig,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// This member's id, positive. Default 1.
    pub id: NodeId,
    /// Where everything the node stores is. Default `./data`.
    pub data_dir: PathBuf,
    /// Threads of the async runtime; 0 = half the cores, at least one. Default 0.
    pub worker_threads: usize,
    /// Whether a data directory that an embedded ledger has written becomes this node's. Default false.
    pub adopt_embedded: bool,
    /// Whether a node without state founds a ledger of its own if no peer belongs to one. Default false.
    pub bootstrap: bool,
    /// Whether this is a member that lost its data and comes back under a new id. Default false.
    pub rejoin: bool,
}

/// `[network]`
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfig {
    /// Address the HTTP server binds, without the port. Default 127.0.0.1.
    pub listen_addr: String,
    /// Port of the HTTP server; 0 = any free one. Default 8001.
    pub client_port: u16,
    /// Address for node traffic, without the port. Default 127.0.0.1. As `raft_tcp_port`.
    pub raft_listen_addr: String,
    /// Port for node traffic; 0 = any free one. Default 9001.
    pub raft_tcp_port: u16,
    /// Address that the other members are told to use, with or without a port; empty = the bound one.
    pub advertise_raft_addr: String,
    /// Address that clients and members are told to use, with or without a port; empty = the bound one.
    pub advertise_http_addr: String,
}

/// `[pipeline]`
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineConfig {
    /// Operations after which an entry closes. Default 16,384.
    pub batch_ops_max: usize,
    /// Bytes after which an entry closes (one request may be larger). Default 512 KiB.
    pub batch_bytes_max: usize,
    /// How long an entry waits for company although nothing is in flight; timers tick in milliseconds. Default 0.
    pub batch_linger: Duration,
    /// Entries proposed and not yet applied. Default 4.
    pub inflight_entries_max: usize,
    /// Bytes of requests admitted and not yet answered, decoded. Default 256 MiB.
    pub ingest_bytes_max: usize,
}

/// Which writer commits WAL groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalIo {
    /// `direct`, or `buffered` where the file system refuses it. Never `uring`, which gains only where groups are
    /// large and costs a lone write the way through the log's thread.
    Auto,
    /// O_DIRECT | O_DSYNC on a thread of its own.
    Direct,
    /// Page cache and fdatasync on a thread of its own.
    Buffered,
    /// As `Direct`, but large groups through io_uring, several pieces at once; `Direct` where that is forbidden.
    Uring,
}

/// `[wal]`
#[derive(Clone, Debug, PartialEq)]
pub struct WalConfig {
    /// Which writer. Default auto.
    pub io: WalIo,
    /// Size of a WAL file, a multiple of 4 KiB. Default 64 MiB.
    pub file_bytes: u64,
    /// Most bytes committed by one sync, unless one entry alone is larger. Default 8 MiB.
    pub group_bytes_max: usize,
    /// Recent entries kept in memory for readers. Default 64 MiB.
    pub tail_bytes_max: usize,
    /// Idle time after which the last group is certified by a closing one. Default 500 ms.
    pub idle_close: Duration,
    /// Log kept behind the newest sealed segment, for followers that are a little behind. Default 64 MiB.
    pub keep_bytes: u64,
    /// The most that the leader keeps instead while a member that answers still needs it. Default 512 MiB.
    pub keep_bytes_for_followers: u64,
    /// Free disk space below which writes stop; 0 = none. Default 512 MiB.
    pub disk_free_bytes_min: u64,
}

/// What a restart writes beside the log's next file: a first file of 4 MiB, and the like for the index and what is small.
const FREE_BYTES_BESIDE_LOG: u64 = 8 << 20;

impl WalConfig {
    /// Free disk space with which a node starts for sure, whatever the run before has left.
    #[must_use]
    pub const fn free_bytes_to_start(&self) -> u64 {
        self.file_bytes.saturating_add(FREE_BYTES_BESIDE_LOG)
    }
}

/// `[storage]`
#[derive(Clone, Debug, PartialEq)]
pub struct StorageConfig {
    /// Record bytes of a segment; seeds the cluster setting of a new ledger. Default 64 MiB.
    pub segment_size: u64,
    /// Time after which a segment ends although it is not full. Default 1 h.
    pub segment_age_max: Duration,
    /// Memory of all read caches. Default 384 MiB.
    pub max_cache_size: u64,
    /// Memory of records that are not in segments yet; writes wait above it. Default 384 MiB.
    pub unsealed_bytes_max: u64,
    /// The archive's directory; empty = `archive` in the data directory. Not with a bucket. Default empty.
    pub archive_dir: PathBuf,
    pub s3: S3Config,
    pub tiering: TieringConfig,
}

impl StorageConfig {
    /// Time after which the leader ends a segment although it is not full: nothing reaches the archive before.
    #[must_use]
    pub fn segment_age(&self) -> Duration {
        let lag = Duration::from_secs(self.tiering.max_lag_secs);
        if self.tiering.enable_auto_archival { self.segment_age_max.min(lag) } else { self.segment_age_max }
    }
}

/// `[storage.s3]`
#[derive(Clone, Debug, PartialEq)]
pub struct S3Config {
    /// The bucket, which exists; empty = the archive is a directory. Default empty.
    pub bucket: String,
    /// What all object names in it begin with; empty = the bucket is the ledger's alone. Default empty.
    pub prefix: String,
    /// Its region. Default us-east-1.
    pub region: String,
    /// URL of a store that is not AWS; empty = AWS. Default empty.
    pub endpoint: String,
    /// Access key id; empty = `AWS_ACCESS_KEY_ID` and its like in the environment. Default empty.
    pub access_key_id: String,
    /// Its other half. Default empty.
    pub secret_access_key: Secret,
    /// Whether the bucket stands in the path instead of the host. Default false.
    pub path_style: bool,
}

/// `[storage.tiering]`
#[derive(Clone, Debug, PartialEq)]
pub struct TieringConfig {
    /// Whether a leader archives sealed segments. What has left is read without that, too. Default true.
    pub enable_auto_archival: bool,
    /// How long a node waits, at most, before it tries again what the archive has refused. Default 60.
    pub archival_check_interval_secs: u64,
    /// How often a leader reads the archive's manifest again and looks for all objects. Default 86,400.
    pub audit_interval_secs: u64,
    /// Whether archived segments are compressed. Default true.
    pub enable_compression: bool,
    /// 0 = LZ4, 1 to 9 = zstd. Default 0.
    pub compression_level: u8,
    /// While it archives: time after which a segment ends, if `segment_age_max` is longer. Default 3,600.
    pub max_lag_secs: u64,
    /// Bytes of segments on this node's disk above which files of archived ones leave; 0 = they stay. Default 0.
    pub local_bytes_max: u64,
    /// How old a segment's newest record is before its file leaves. Default 3,600.
    pub age_threshold_secs: u64,
    /// Disk for copies of blocks that are in the archive alone; 0 = none. Default 1 GiB.
    pub cache_disk_size: u64,
}

/// `[ledger]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerConfig {
    /// Name of the log in its checkpoints; empty = `scribe/<cluster id>/<epoch>`.
    pub origin: String,
}

/// `[consensus]`
#[derive(Clone, Debug, PartialEq)]
pub struct ConsensusConfig {
    /// Shortest election timeout; the longest is twice this. Default 500.
    pub election_timeout_ms: u64,
    /// Time between heartbeats. Default 100.
    pub heartbeat_interval_ms: u64,
    /// Entries of one append message. Default 300.
    pub max_payload_entries: u64,
    /// How long requests are kept waiting while no leader is known. Default 5 s.
    pub leader_patience: Duration,
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// What nodes prove to know to each other; empty = none, and then they talk on loopback only. Default empty.
    pub secret: Secret,
    /// Raft addresses of the other nodes, each `HOST:PORT`; this node's own may be among them. Default none.
    pub peers: Vec<String>,
    /// Nodes that have to find each other before they found a cluster together; 1 = one founds alone. Default 1.
    pub bootstrap_expect: usize,
    /// How fast this node takes segments from another member, in bytes a second, while it is far behind. Default 64 MiB.
    pub catch_up_bytes_per_sec: u64,
    pub discovery: DiscoveryConfig,
}

/// `[cluster.discovery]`
#[derive(Clone, Debug, PartialEq)]
pub struct DiscoveryConfig {
    /// Whether this node announces itself and listens for others. Default false.
    pub enabled: bool,
    /// First of 16 UDP ports. Default 9100.
    pub port: u16,
    /// Where announcements go, each `HOST:PORT`; empty = broadcast and loopback, without a secret loopback alone.
    /// Default empty.
    pub addresses: Vec<String>,
    /// Time between announcements. Default 1 s.
    pub interval: Duration,
}

/// A text that nobody may read in a log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret that this text is.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for whoever proves to know it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "***" })
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Largest bulk request, decoded. Default 128 MiB.
    pub max_batch_request_bytes: usize,
    /// Open client connections. Default 20,000.
    pub max_connections: usize,
    /// Requests a second from one client address; 0 = unlimited. Default 0.
    pub max_requests_per_client_per_sec: u32,
    /// How long a client may take to send a request's head, or to let its body pause. Default 30 s.
    pub read_timeout: Duration,
    /// How long a write may wait for its outcome before it is answered 504. Default 30 s.
    pub write_timeout: Duration,
    /// How long an idempotency outcome is kept; seeds the cluster setting. Default 300.
    pub idempotency_window_secs: u64,
    /// How many idempotency outcomes are kept; seeds the cluster setting. Default 1,000,000.
    pub idempotency_keys_max: u64,
    /// How far the leader's clock may be behind the ledger's last timestamp before it stops
    /// proposing. Default 5,000.
    pub clock_skew_max_ms: u64,
    /// How long a stopping node waits for requests under way. Default 10 s.
    pub shutdown_timeout: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[logging]`
#[derive(Clone, Debug, PartialEq)]
pub struct LoggingConfig {
    /// A level or a filter directive, as `RUST_LOG` takes them. Default `info`.
    pub level: String,
    /// Default text.
    pub format: LogFormat,
}

impl NetworkConfig {
    /// What the HTTP server binds, as `HOST:PORT`; IPv6 stands in brackets.
    #[must_use]
    pub fn http_bind(&self) -> String {
        value::format_host_port(&self.listen_addr, self.client_port)
    }

    /// What clients and members are told to use, once the server is bound to `bound`.
    #[must_use]
    pub fn http_advertised(&self, bound: SocketAddr) -> String {
        advertised(&self.advertise_http_addr, bound)
    }

    /// What members' connections are accepted on, as `HOST:PORT`; IPv6 stands in brackets.
    #[must_use]
    pub fn raft_bind(&self) -> String {
        value::format_host_port(&self.raft_listen_addr, self.raft_tcp_port)
    }

    /// What the other members are told to use, once node traffic is bound to `bound`.
    #[must_use]
    pub fn raft_advertised(&self, bound: SocketAddr) -> String {
        advertised(&self.advertise_raft_addr, bound)
    }
}

fn advertised(configured: &str, bound: SocketAddr) -> String {
    match value::parse_host(configured) {
        Some((host, port)) => value::format_host_port(&host, port.unwrap_or(bound.port())),
        None => bound.to_string(),
    }
}

impl ClusterConfig {
    /// Whether this node has a way to find others.
    #[must_use]
    pub const fn finds_others(&self) -> bool {
        !self.peers.is_empty() || self.discovery.enabled
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profile: profile::BALANCED.into(),
            node: NodeConfig::default(),
            network: NetworkConfig::default(),
            pipeline: PipelineConfig::default(),
            wal: WalConfig::default(),
            storage: StorageConfig::default(),
            ledger: LedgerConfig::default(),
            consensus: ConsensusConfig::default(),
            cluster: ClusterConfig::default(),
            limits: LimitsConfig::default(),
            logging: LoggingConfig::default(),
        }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            id: 1,
            data_dir: PathBuf::from("./data"),
            worker_threads: 0,
            adopt_embedded: false,
            bootstrap: false,
            rejoin: false,
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            listen_addr: "127.0.0.1".into(),
            client_port: 8001,
            raft_listen_addr: "127.0.0.1".into(),
            raft_tcp_port: 9001,
            advertise_http_addr: String::new(),
            advertise_raft_addr: String::new(),
        }
    }
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            batch_ops_max: 16_384,
            batch_bytes_max: 512 << 10,
            batch_linger: Duration::ZERO,
            inflight_entries_max: 4,
            ingest_bytes_max: 256 << 20,
        }
    }
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            io: WalIo::Auto,
            file_bytes: 64 << 20,
            group_bytes_max: 8 << 20,
            tail_bytes_max: 64 << 20,
            idle_close: Duration::from_millis(500),
            keep_bytes: 64 << 20,
            keep_bytes_for_followers: 512 << 20,
            disk_free_bytes_min: 512 << 20,
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            segment_size: 64 << 20,
            segment_age_max: Duration::from_secs(3_600),
            max_cache_size: 384 << 20,
            unsealed_bytes_max: 384 << 20,
            archive_dir: PathBuf::new(),
            s3: S3Config::default(),
            tiering: TieringConfig::default(),
        }
    }
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            region: "us-east-1".into(),
            endpoint: String::new(),
            access_key_id: String::new(),
            secret_access_key: Secret::default(),
            path_style: false,
        }
    }
}

impl Default for TieringConfig {
    fn default() -> Self {
        Self {
            enable_auto_archival: true,
            archival_check_interval_secs: 60,
            audit_interval_secs: 86_400,
            enable_compression: true,
            compression_level: 0,
            max_lag_secs: 3_600,
            local_bytes_max: 0,
            age_threshold_secs: 3_600,
            cache_disk_size: 1 << 30,
        }
    }
}

impl Default for ConsensusConfig {
    fn default() -> Self {
        Self {
            election_timeout_ms: 500,
            heartbeat_interval_ms: 100,
            max_payload_entries: 300,
            leader_patience: Duration::from_secs(5),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            secret: Secret::default(),
            peers: Vec::new(),
            bootstrap_expect: 1,
            catch_up_bytes_per_sec: 64 << 20,
            discovery: DiscoveryConfig::default(),
        }
    }
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self { enabled: false, port: 9100, addresses: Vec::new(), interval: Duration::from_secs(1) }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_batch_request_bytes: 128 << 20,
            max_connections: 20_000,
            max_requests_per_client_per_sec: 0,
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idempotency_window_secs: 300,
            idempotency_keys_max: 1_000_000,
            clock_skew_max_ms: 5_000,
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}
