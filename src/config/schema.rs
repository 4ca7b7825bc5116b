//! The one table of every setting.
//!
//! Parsing, unknown names, the environment, `--generate-config` and `--print-config` are all derived
//! from [`KEYS`]; a setting is added here and in the struct that holds it, nowhere else. Defaults stand
//! in the structs' `Default`, so that the embedded ledger and the server cannot disagree.

use std::{path::PathBuf, time::Duration};

use super::{
    Config, LogFormat, Secret, WalIo,
    kind::{INT_MAX, Kind, Value},
    profile,
};

/// One setting.
pub struct Key {
    /// `section.key`, as in a file.
    pub name: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// One line for a person: what it does, what zero means.
    pub doc: &'static str,
    /// Names it had before.
    pub older: &'static [Older],
    /// Whether its value must not be shown.
    pub secret: bool,
    /// Where the value lives.
    pub held: Held,
}

/// A former name of a key.
pub struct Older {
    /// The name.
    pub name: &'static str,
    /// What one unit of the former name is in the unit of the key: 1, or 100 for ticks of 100 ms.
    pub scale: u64,
}

/// Where the value of a key lives.
pub enum Held {
    /// In a field of [`Config`].
    Config {
        /// Stores a value that the key's kind has read.
        set: fn(&mut Config, &Value),
        /// The value in force.
        get: fn(&Config) -> Value,
    },
    /// Nowhere: the feature is not built yet, and only the value that matches today's behaviour is
    /// accepted.
    NotBuilt {
        /// The accepted value.
        today: Today,
    },
}

/// A [`Value`] that can stand in a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Today {
    /// An integer, or a size in bytes.
    Int(u64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(&'static str),
}

impl Key {
    /// The section it stands in; empty for a key at the top of a file.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Its name within its section.
    #[must_use]
    pub fn leaf(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    /// The value that a configuration has here; today's one where the feature is not built.
    #[must_use]
    pub fn value_in(&self, config: &Config) -> Value {
        match self.held {
            Held::Config { get, .. } => get(config),
            Held::NotBuilt { today } => match today {
                Today::Int(number) => Value::Int(number),
                Today::Bool(value) => Value::Bool(value),
                Today::Text(text) => Value::Text(text.into()),
            },
        }
    }

    /// Every name a file may use, the present one first, with the scale of each.
    pub fn spellings(&self) -> impl Iterator<Item = (&'static str, u64)> {
        std::iter::once((self.name, 1)).chain(self.older.iter().map(|older| (older.name, older.scale)))
    }

    const fn older(mut self, older: &'static [Older]) -> Self {
        self.older = older;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

/// The environment variable that stands for a name.
#[must_use]
pub fn environment_name(name: &str) -> String {
    format!("SCRIBE_{}", name.replace(['.', '-'], "_").to_uppercase())
}

/// The key with this name, present or older, and the scale of that name.
#[must_use]
pub fn find(name: &str) -> Option<(&'static Key, u64)> {
    KEYS.iter().find_map(|key| {
        key.spellings().find(|(spelling, _)| *spelling == name).map(|(_, scale)| (key, scale))
    })
}

/// Whether keys stand below this name.
#[must_use]
pub fn is_section(name: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| {
        section.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// The value in a field of [`Config`], in and out.
trait Field {
    fn put(&mut self, value: &Value);
    fn get(&self) -> Value;
}

macro_rules! integer_fields {
    ($($int:ty),+) => {$(
        impl Field for $int {
            fn put(&mut self, value: &Value) {
                if let Value::Int(number) = value {
                    *self = <$int>::try_from(*number).unwrap_or(<$int>::MAX);
                }
            }

            fn get(&self) -> Value {
                Value::Int(*self as u64)
            }
        }
    )+};
}
integer_fields!(u8, u16, u32, u64, usize);

impl Field for bool {
    fn put(&mut self, value: &Value) {
        if let Value::Bool(flag) = value {
            *self = *flag;
        }
    }

    fn get(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Field for Duration {
    fn put(&mut self, value: &Value) {
        if let Value::Duration(duration) = value {
            *self = *duration;
        }
    }

    fn get(&self) -> Value {
        Value::Duration(*self)
    }
}

impl Field for String {
    fn put(&mut self, value: &Value) {
        if let Value::Text(text) = value {
            self.clone_from(text);
        }
    }

    fn get(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl Field for Vec<String> {
    fn put(&mut self, value: &Value) {
        if let Value::List(items) = value {
            self.clone_from(items);
        }
    }

    fn get(&self) -> Value {
        Value::List(self.clone())
    }
}

impl Field for Secret {
    fn put(&mut self, value: &Value) {
        if let Value::Text(text) = value {
            *self = Self::new(text.clone());
        }
    }

    fn get(&self) -> Value {
        Value::Text(self.expose().into())
    }
}

impl Field for PathBuf {
    fn put(&mut self, value: &Value) {
        if let Value::Text(text) = value {
            *self = text.into();
        }
    }

    fn get(&self) -> Value {
        Value::Text(self.to_string_lossy().into_owned())
    }
}

impl Field for WalIo {
    fn put(&mut self, value: &Value) {
        if let Value::Text(name) = value {
            *self = match &name[..] {
                "direct" => Self::Direct,
                "buffered" => Self::Buffered,
                "uring" => Self::Uring,
                _ => Self::Auto,
            };
        }
    }

    fn get(&self) -> Value {
        let name = match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Buffered => "buffered",
            Self::Uring => "uring",
        };
        Value::Text(name.into())
    }
}

impl Field for LogFormat {
    fn put(&mut self, value: &Value) {
        if let Value::Text(name) = value {
            *self = if name == "json" { Self::Json } else { Self::Text };
        }
    }

    fn get(&self) -> Value {
        Value::Text(if *self == Self::Json { "json" } else { "text" }.into())
    }
}

/// A key that a field of [`Config`] holds; the path of the field is the key's name.
macro_rules! key {
    ($section:ident $(. $field:ident)+, $kind:expr, $doc:expr) => {
        Key {
            name: concat!(stringify!($section) $(, ".", stringify!($field))+),
            kind: $kind,
            doc: $doc,
            older: &[],
            secret: false,
            held: Held::Config {
                set: |config, value| config.$section $(.$field)+ .put(value),
                get: |config| config.$section $(.$field)+ .get(),
            },
        }
    };
}

/// A key whose feature is not built yet.
const fn not_built(name: &'static str, kind: Kind, today: Today, doc: &'static str) -> Key {
    Key { name, kind, doc, older: &[], secret: false, held: Held::NotBuilt { today } }
}

const fn renamed(name: &'static str) -> Older {
    Older { name, scale: 1 }
}

const fn in_ticks(name: &'static str) -> Older {
    Older { name, scale: 100 }
}

const fn int(min: u64, max: u64) -> Kind {
    Kind::Int { min, max }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max, step: 1 }
}

const fn time(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const HOUR: Duration = Duration::from_secs(3_600);
const MONTH_SECS: u64 = 31 * 24 * 3_600;

/// The sections, in the order they are written, with a line on each.
pub const SECTIONS: &[(&str, &str)] = &[
    ("node", "Who this node is and where it keeps its data."),
    ("network", "Addresses. Behind NAT or in a container, set advertise_http_addr and advertise_raft_addr."),
    ("pipeline", "How writes are gathered into entries; a profile sets these together."),
    ("wal", "The write-ahead log. Every write is synced before it is answered, whatever is set here."),
    ("storage", "Segments and caches."),
    ("storage.s3", "The bucket of the archive, where it is not a directory."),
    ("storage.tiering", "When segments are archived, and how."),
    ("ledger", "The log as verifiers see it."),
    ("consensus", "Raft."),
    ("cluster", "Finding and trusting the other nodes. Without a secret all of it stays on this machine."),
    ("cluster.discovery", "Finding nodes that are not listed: signed announcements by UDP, over IPv4."),
    ("security.tls", "Encryption of client connections."),
    ("limits", "What one client, one request and one node may use."),
    ("logging", "Log lines go to standard error."),
];

/// Every setting, by section.
pub static KEYS: &[Key] = &[
    Key {
        name: "profile",
        kind: Kind::OneOf { names: &profile::NAMES, planned: &[] },
        doc: "Values to start from: balanced, low-latency, high-throughput or high-durability.",
        older: &[],
        secret: false,
        held: Held::Config {
            set: |config, value| config.profile.put(value),
            get: |config| config.profile.get(),
        },
    },
    key!(node.id, Kind::NodeId, "This member's id: positive, never used twice; \"node2\" means 2."),
    key!(node.data_dir, Kind::Path, "Where everything the node stores is; relative to where it is started."),
    key!(
        node.worker_threads,
        int(0, 1_024),
        "Threads of the async runtime; 0 = half the cores, at least one."
    ),
    key!(
        node.adopt_embedded,
        Kind::Bool,
        "Whether a data_dir that an embedded ledger has written becomes this node's, for good."
    ),
    key!(
        node.bootstrap,
        Kind::Bool,
        "Whether a node without state founds a ledger of its own if no peer belongs to one; ignored once it has state."
    ),
    key!(
        node.rejoin,
        Kind::Bool,
        "Whether this is a member that lost its data and comes back under a new id: it founds nothing and waits to \
         be let in."
    ),
    key!(
        network.listen_addr,
        Kind::Bind { port: "network.client_port" },
        "Address the HTTP server binds; with a port, as in \"[::1]:8001\", it sets client_port too."
    ),
    key!(network.client_port, int(0, 65_535), "Port of the HTTP server; 0 = any free one."),
    key!(
        network.raft_listen_addr,
        Kind::Bind { port: "network.raft_tcp_port" },
        "Address for node traffic; with a port it sets raft_tcp_port too. Beyond loopback only with a cluster.secret."
    ),
    key!(network.raft_tcp_port, int(0, 65_535), "Port for node traffic; 0 = any free one."),
    key!(
        network.advertise_raft_addr,
        Kind::Address,
        "HOST:PORT that the other members are told to use; empty = the bound address."
    ),
    key!(
        network.advertise_http_addr,
        Kind::Address,
        "HOST:PORT that clients and members are told to use; empty = the bound address."
    )
    .older(&[renamed("node.address")]),
    not_built("network.grpc_port", int(0, 65_535), Today::Int(0), "A second door for gRPC; 0 = none."),
    key!(pipeline.batch_ops_max, int(1, 1_000_000), "Operations after which an entry closes."),
    key!(
        pipeline.batch_bytes_max,
        size(KIB, 256 * MIB),
        "Bytes after which an entry closes; one request may be larger."
    ),
    key!(
        pipeline.batch_linger,
        time(Duration::ZERO, Duration::from_millis(100)),
        "How long an entry waits for company although nothing is in flight; a part of a millisecond counts as one."
    ),
    key!(pipeline.inflight_entries_max, int(1, 1_024), "Entries proposed and not yet applied."),
    key!(
        pipeline.ingest_bytes_max,
        size(64 * KIB, 64 * GIB),
        "Bytes of requests admitted and not yet answered, decoded; more get 503."
    ),
    key!(
        wal.io,
        Kind::OneOf { names: &["auto", "direct", "buffered", "uring"], planned: &[] },
        "Who commits: direct (O_DIRECT), buffered (fdatasync), uring (as direct, but large groups by io_uring; as \
         auto where that is forbidden), auto (direct where the disk takes it, else buffered)."
    ),
    key!(
        wal.file_bytes,
        Kind::Size { min: 64 * KIB, max: 4 * GIB, step: 4_096 },
        "Size of a WAL file; files are filled ahead and recycled."
    ),
    key!(
        wal.group_bytes_max,
        size(4 * KIB, GIB),
        "Most bytes committed by one sync, unless one entry alone is larger."
    ),
    key!(wal.tail_bytes_max, size(0, 64 * GIB), "Recent entries kept in memory for readers."),
    key!(
        wal.idle_close,
        time(Duration::from_millis(1), HOUR),
        "Idle time after which the last group is certified by a closing one."
    ),
    key!(
        wal.keep_bytes,
        size(0, 16 * TIB),
        "Log kept although its records are sealed, for members that are a little behind."
    ),
    key!(
        wal.keep_bytes_for_followers,
        size(0, 16 * TIB),
        "Most log that the leader keeps instead while a member that answers still needs it."
    ),
    key!(
        wal.disk_free_bytes_min,
        size(0, 16 * TIB),
        "Free disk space below which writes stop; reads go on. At least wal.file_bytes and 8MiB; or 0 for none."
    ),
    key!(
        storage.segment_size,
        size(4 * KIB, GIB),
        "Record bytes of a segment; seeds the cluster setting of a new ledger."
    ),
    key!(
        storage.segment_age_max,
        time(Duration::from_millis(10), Duration::from_secs(MONTH_SECS)),
        "Time after which the leader ends a segment although it is not full."
    ),
    key!(
        storage.max_cache_size,
        size(0, TIB),
        "Memory of all read caches: blocks of segments, and the index's rows and blocks."
    ),
    key!(
        storage.unsealed_bytes_max,
        size(64 * KIB, 64 * GIB),
        "Memory of records that are not in segments yet; above it writes wait. Never less than \
         four segments."
    ),
    key!(
        storage.archive_dir,
        Kind::Text,
        "Directory of the archive; empty = archive in node.data_dir. Shared by all nodes, or each has its own; not with \
         a bucket."
    ),
    key!(storage.s3.bucket, Kind::Text, "Bucket of the archive; empty = it is a directory.")
        .older(&[renamed("storage.s3_bucket")]),
    key!(
        storage.s3.prefix,
        Kind::Text,
        "What names in the bucket begin with, without a slash at the end; empty = the bucket is the ledger's alone."
    ),
    key!(storage.s3.region, Kind::Text, "Region of the bucket; a store without regions takes any.")
        .older(&[renamed("storage.s3_region")]),
    key!(storage.s3.endpoint, Kind::Text, "URL of a store that is not AWS; empty = AWS.")
        .older(&[renamed("storage.s3_endpoint")]),
    key!(
        storage.s3.access_key_id,
        Kind::Text,
        "Access key id; empty = AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the environment."
    ),
    key!(storage.s3.secret_access_key, Kind::Text, "Secret access key, with the id or not at all.").secret(),
    key!(
        storage.s3.path_style,
        Kind::Bool,
        "Bucket in the path instead of the host, as most stores that are not AWS want it."
    ),
    key!(
        storage.tiering.enable_auto_archival,
        Kind::Bool,
        "Whether the leader copies sealed segments to the archive. While none does, no file leaves a node; what has left is \
         read from there all the same."
    ),
    key!(
        storage.tiering.local_bytes_max,
        size(0, 1_024 * TIB),
        "Bytes of segments on this node's disk above which the files of archived ones leave, the oldest first; their \
         records are read from the archive then. 0 = they stay. Set it on all members: nothing leaves before each has \
         marked the archive as its own, too."
    ),
    key!(
        storage.tiering.age_threshold_secs,
        int(0, INT_MAX),
        "Age of a segment's newest record before which its file does not leave."
    ),
    key!(
        storage.tiering.archival_check_interval_secs,
        int(1, INT_MAX),
        "How long a node waits, at most, before it tries again what the archive has refused: copies, and files that \
         were to leave."
    ),
    key!(
        storage.tiering.audit_interval_secs,
        int(1, INT_MAX),
        "How often the leader reads the archive's whole manifest again and looks for each object, to put back what is \
         gone: a request for each segment."
    ),
    key!(
        storage.tiering.enable_compression,
        Kind::Bool,
        "Whether archived segments are compressed, block by block."
    ),
    key!(storage.tiering.compression_level, int(0, 9), "0 = lz4, 1 to 9 = zstd."),
    key!(
        storage.tiering.max_lag_secs,
        int(1, MONTH_SECS),
        "While segments are archived: time after which one ends although it is not full, where \
         storage.segment_age_max is longer."
    ),
    key!(
        storage.tiering.cache_disk_size,
        size(0, 1_024 * TIB),
        "Disk for copies of blocks that were read from the archive; 0 = none. It is empty after a start."
    ),
    key!(
        ledger.origin,
        Kind::Text,
        "Name of the log in its signed checkpoints, a URL without scheme for a public one; empty = made of the \
         cluster's id. Never change it: verifiers know the log by it."
    ),
    key!(
        consensus.election_timeout_ms,
        int(30, 600_000),
        "Shortest election timeout, at least three heartbeats; the longest is twice this."
    )
    .older(&[in_ticks("consensus.election_timeout")]),
    key!(consensus.heartbeat_interval_ms, int(10, 200_000), "Time between heartbeats.")
        .older(&[in_ticks("consensus.heartbeat_timeout")]),
    key!(consensus.max_payload_entries, int(1, 100_000), "Entries of one append message.")
        .older(&[renamed("consensus.max_log_entries")]),
    key!(
        consensus.leader_patience,
        time(Duration::from_millis(1), Duration::from_secs(60)),
        "How long a read or write is kept waiting, instead of refused, while a leader is being elected."
    ),
    not_built(
        "consensus.snapshot_logs_since_last",
        int(0, INT_MAX),
        Today::Int(0),
        "Log entries after which a snapshot is taken, beside the byte bound; 0 = the byte bound alone.",
    ),
    not_built(
        "consensus.max_in_snapshot_log_to_keep",
        int(0, INT_MAX),
        Today::Int(0),
        "Log entries kept behind a snapshot, beside the byte bound; 0 = the byte bound alone.",
    ),
    key!(
        cluster.secret,
        Kind::Text,
        "What nodes prove to know to each other, the same text on all of them; empty = none, and then they talk on \
         loopback only."
    )
    .secret(),
    key!(
        cluster.peers,
        Kind::Addresses,
        "Raft addresses of the other nodes; this node's own may be among them."
    ),
    key!(
        cluster.bootstrap_expect,
        int(1, 1_024),
        "Nodes that have to find each other before they found a cluster together; 1 = one node founds it alone, and \
         those with peers or discovery join it."
    ),
    key!(
        cluster.catch_up_bytes_per_sec,
        size(64 * KIB, 1_024 * GIB),
        "How fast this node takes segments from another member while it is far behind, in bytes a second: less slows \
         that member and a shared disk less, more is done sooner."
    ),
    key!(
        cluster.discovery.enabled,
        Kind::Bool,
        "Whether this node announces itself and listens for others."
    ),
    key!(
        cluster.discovery.port,
        int(1, 65_520),
        "First of 16 UDP ports, so that 16 nodes of one machine have one each; the same on all nodes."
    ),
    key!(
        cluster.discovery.addresses,
        Kind::Addresses,
        "Where announcements go, broadcast addresses included, each with the 15 ports after it; empty = \
         255.255.255.255 and loopback on `port`, and without a secret loopback alone."
    ),
    key!(
        cluster.discovery.interval,
        time(Duration::from_millis(10), Duration::from_secs(60)),
        "Time between announcements; a node is forgotten after five without one."
    ),
    not_built("security.tls.enabled", Kind::Bool, Today::Bool(false), "Whether clients connect by TLS."),
    not_built("security.tls.cert_path", Kind::Text, Today::Text(""), "Certificate chain, PEM."),
    not_built("security.tls.key_path", Kind::Text, Today::Text(""), "Private key, PEM."),
    not_built("security.tls.ca_cert_path", Kind::Text, Today::Text(""), "Authority of client certificates."),
    not_built(
        "security.tls.require_client_cert",
        Kind::Bool,
        Today::Bool(false),
        "Whether clients need a certificate.",
    ),
    key!(
        limits.max_batch_request_bytes,
        size(KIB, GIB),
        "Largest bulk request, decoded; at most pipeline.ingest_bytes_max."
    ),
    key!(limits.max_connections, int(1, 1_000_000), "Open client connections."),
    key!(
        limits.max_requests_per_client_per_sec,
        int(0, u32::MAX as u64),
        "Requests a second from one client address; 0 = unlimited."
    ),
    key!(
        limits.read_timeout,
        time(Duration::from_millis(10), HOUR),
        "How long a client may take to send a request's head, or to let its body pause."
    ),
    key!(
        limits.write_timeout,
        time(Duration::from_millis(10), HOUR),
        "How long a write may wait for its outcome before it is answered 504."
    ),
    key!(
        limits.idempotency_window_secs,
        int(1, MONTH_SECS),
        "How long an idempotency outcome is kept; seeds the cluster setting of a new ledger."
    ),
    key!(
        limits.idempotency_keys_max,
        int(1, 100_000_000),
        "How many idempotency outcomes are kept; seeds the cluster setting of a new ledger."
    ),
    key!(
        limits.clock_skew_max_ms,
        int(1, MONTH_SECS * 1_000),
        "How far the clock may jump or be behind the ledger's last timestamp; beyond it entries' times approach it slowly, and a ledger from the future takes no writes."
    ),
    key!(
        limits.shutdown_timeout,
        time(Duration::ZERO, HOUR),
        "How long a stopping node waits for requests under way."
    ),
    key!(
        logging.level,
        Kind::LogFilter,
        "off, error, warn, info, debug, trace, or directives as RUST_LOG takes them."
    ),
    key!(logging.format, Kind::OneOf { names: &["text", "json"], planned: &[] }, "text or json."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::kind::Raw;

    #[test]
    fn names_and_variables_are_distinct_and_sections_are_known() {
        let mut names = BTreeSet::new();
        let mut variables = BTreeSet::new();
        for key in KEYS {
            for (spelling, _) in key.spellings() {
                assert!(names.insert(spelling), "{spelling} twice");
            }
            assert!(variables.insert(environment_name(key.name)), "{} twice in the environment", key.name);
            assert!(key.section().is_empty() || is_section(key.section()), "{}", key.name);
            assert!(!is_section(key.name), "{} is a section too", key.name);
            assert!(key.doc.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn every_default_is_one_that_the_key_accepts() {
        for key in KEYS {
            let value = key.value_in(&Config::default());
            let written = key.kind.write(&value);
            let table: toml::Table = toml::from_str(&format!("v = {written}")).unwrap();
            let raw = match &table["v"] {
                toml::Value::String(text) => Raw::Text(text.clone()),
                toml::Value::Integer(number) => Raw::Int(i128::from(*number)),
                toml::Value::Boolean(value) => Raw::Bool(*value),
                toml::Value::Array(_) => Raw::List(Vec::new()),
                other => panic!("{}: {other}", key.name),
            };
            assert_eq!(key.kind.read(&raw), Some(value), "{} = {written}", key.name);
        }
    }

    #[test]
    fn bounds_fit_the_fields_that_hold_them() {
        for key in KEYS {
            let (Kind::Int { min, max } | Kind::Size { min, max, .. }) = key.kind else { continue };
            let Held::Config { set, get } = key.held else { continue };
            for value in [min, max] {
                let mut config = Config::default();
                set(&mut config, &Value::Int(value));
                assert_eq!(get(&config), Value::Int(value), "{}", key.name);
            }
        }
    }
}
