//! One node: the only place that opens, recovers, wires and stops.
//!
//! Takes the seams and a configuration, gives the handles that servers need. It does not own sockets.
//!
//! ```text
//! data_dir/LOCK            held while a process uses the directory
//! data_dir/identity.json   node id and cluster id, written once
//! data_dir/wal/            the log
//! ```

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    config::Config,
    env::{Env, OpenMode},
    error::{Code, Error, Result},
    pipeline::{Gauges, Pipeline, apply::Apply, gauge::Reading, ingest::Ingest},
    raft::{Consensus, Member, Positions},
    read::{LiveKeys, Reader},
    state::{
        Sizes, State,
        settings::{FEATURE_LEVEL, Settings},
    },
    types::{NodeId, Seq},
    wal::{Wal, WalHealth, WalMetrics, WalOptions},
};

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the directory's layout.
    pub format: u32,
    /// The member that owns it.
    pub node_id: NodeId,
    /// The ledger it is a part of: 128 random bits in hex, drawn by its founder.
    pub cluster_id: String,
}

/// Where a member without a log gets its ledger from. One that has a log goes on with it.
#[derive(Clone, Debug)]
pub enum Founding {
    /// It founds a ledger of its own.
    Alone {
        /// Where it tells clients to go.
        http_addr: String,
    },
    /// It founds a ledger with these members, itself among them, all of them voters.
    Group(BTreeMap<NodeId, Member>),
    /// It waits for a leader that counts it in.
    Join,
}

/// Version of the directory's layout that this build writes.
const DIRECTORY_FORMAT: u32 = 1;

/// What a running node can tell about itself. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Who it is.
    pub identity: Identity,
    /// Name of its configuration profile.
    pub profile: String,
    consensus: Consensus,
    state: Arc<State>,
    wal: Wal,
    gauges: Gauges,
    live_keys: LiveKeys,
    started: Instant,
}

impl NodeInfo {
    /// Where it stands in its group.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.consensus.positions()
    }

    /// One past the newest applied record.
    #[must_use]
    pub fn applied(&self) -> Seq {
        self.state.applied()
    }

    /// Sizes of what it holds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.state.sizes()
    }

    /// How many keys are not deleted; of a large ledger, as of some time ago.
    #[must_use]
    pub fn live_keys(&self) -> u64 {
        self.live_keys.get()
    }

    /// What every stage holds.
    #[must_use]
    pub fn stages(&self) -> Vec<Reading> {
        self.gauges.read()
    }

    /// How long things stayed in every stage, in microseconds.
    #[must_use]
    pub fn stage_stays_us(&self) -> Vec<(&'static str, Histogram<u64>)> {
        self.gauges.stays_us()
    }

    /// How its log fares.
    #[must_use]
    pub fn wal(&self) -> (WalHealth, WalMetrics) {
        (self.wal.health(), self.wal.metrics())
    }

    /// Time since it was started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Digest of the replicated state; equal on members that have applied the same log.
    #[must_use]
    pub fn state_digest(&self) -> [u8; 32] {
        self.state.digest()
    }
}

/// A running node.
pub struct Node {
    info: NodeInfo,
    pipeline: Pipeline,
    reader: Reader,
    shutdown_timeout: Duration,
    _lock: Box<dyn Send + Sync>,
}

impl Node {
    /// Opens the data directory, recovers, and takes part. Returns when it is ready to serve.
    /// `founding` says who founds a new ledger; `wal_options` who drives the log's writer: a thread, or a task in a simulation.
    ///
    /// # Errors
    /// A directory that is in use, belongs to another node or is damaged; a disk that fails.
    pub async fn start(
        env: Env,
        config: &Config,
        founding: Founding,
        wal_options: WalOptions,
    ) -> Result<Self> {
        let started = Instant::now();
        let data_dir = config.node.data_dir.as_path();
        let in_dir = |what: &str| format!("{what} {}", data_dir.display());
        env.io.create_dir_all(data_dir).map_err(|e| Error::io(in_dir("creating data directory"), &e))?;
        let lock = env.io.lock(&data_dir.join("LOCK")).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => Error::new(
                Code::Io,
                in_dir("another process uses the data directory") + ": stop it, or choose another --data-dir",
            ),
            _ => Error::io(in_dir("locking data directory"), &e),
        })?;
        let identity = open_identity(&env, data_dir, config.node.id)?;
        let log_files =
            env.io.list(&data_dir.join("wal")).map_err(|e| Error::io(in_dir("reading the log of"), &e))?;
        if identity.is_old && !log_files.iter().any(|name| name.starts_with("wal-")) {
            tracing::warn!(
                data_dir = %data_dir.display(),
                "the directory belongs to a node but holds no log: unless its first start was cut off, its records are gone"
            );
        }
        let identity = identity.identity;

        let wal = Wal::open(&env, &data_dir.join("wal"), wal_options)?;
        let gauges = Gauges::default();
        let state = Arc::new(State::new(env.rng.next_u64()));
        let replica = Arc::new(Apply::new(state.clone(), gauges.apply.clone()));
        let founders = match founding {
            Founding::Alone { http_addr } => {
                let network = &config.network;
                let raft_addr = format!("{}:{}", network.raft_listen_addr, network.raft_tcp_port);
                BTreeMap::from([(config.node.id, Member { raft_addr, http_addr })])
            }
            Founding::Group(members) => members,
            Founding::Join => BTreeMap::new(),
        };
        let consensus =
            Consensus::start(&env, config.node.id, founders, &config.consensus, wal.clone(), replica).await?;
        let settings = wanted_settings(config);
        match state.settings() {
            None if consensus.is_leader() => propose_settings(&consensus, settings).await?,
            Some(in_force) if in_force != settings => tracing::warn!(
                ?in_force,
                configured = ?settings,
                "the ledger keeps the cluster settings it was founded with; this node's configuration differs"
            ),
            // A follower learns them from the log.
            None | Some(_) => {}
        }

        let reader = Reader::new(consensus.clone(), state.clone());
        let (clock, limits) = (env.clock.clone(), &config.limits);
        let pipeline = Pipeline::start(
            &config.pipeline,
            limits,
            clock,
            wal.clone(),
            consensus.clone(),
            state.clone(),
            &gauges,
        );
        let live_keys = LiveKeys::of(state.clone());
        let profile = config.profile.clone();
        let info = NodeInfo { identity, profile, consensus, state, wal, gauges, live_keys, started };
        Ok(Self { info, pipeline, reader, shutdown_timeout: config.limits.shutdown_timeout, _lock: lock })
    }

    /// The way in.
    #[must_use]
    pub fn ingest(&self) -> Ingest {
        self.pipeline.ingest()
    }

    /// The way out.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// What it can tell about itself.
    #[must_use]
    pub fn info(&self) -> NodeInfo {
        self.info.clone()
    }

    /// Waits until the node cannot go on and says why.
    pub async fn failed(&mut self) -> String {
        let (consensus, wal) = (self.info.consensus.clone(), self.info.wal.clone());
        tokio::select! {
            biased;
            why = consensus.stopped() => why.unwrap_or_else(|| "consensus stopped".into()),
            why = self.pipeline.stopped() => why.unwrap_or_else(|| "the pipeline stopped".into()),
            // Nobody was waiting for it: the log met its disk's failure while it was idle.
            why = wal.poisoned() => why,
        }
    }

    /// Refuses new writes, answers those admitted, and closes the log so that a restart need not doubt its
    /// tail.
    ///
    /// # Errors
    /// A stage that panicked or a log that cannot be closed; what was answered is on disk all the same.
    pub async fn stop(self) -> Result<()> {
        // What waits for a disk that is full or dead may wait for ever; after this it is answered as unknown.
        let stage = match tokio::time::timeout(self.shutdown_timeout, self.pipeline.stop()).await {
            Ok(stage) => stage,
            Err(_) => {
                tracing::warn!("some writes were not finished within limits.shutdown_timeout");
                None
            }
        };
        self.info.consensus.stop().await;
        self.info.wal.close().map_err(|e| Error::io("closing the write-ahead log", &e))?;
        stage.map_or(Ok(()), |why| Err(Error::new(Code::Internal, why)))
    }
}

/// What this node's configuration asks of a ledger that it founds.
fn wanted_settings(config: &Config) -> Settings {
    Settings {
        feature_level: FEATURE_LEVEL,
        segment_bytes: config.storage.segment_size,
        idempotency_window_ms: config.limits.idempotency_window_secs.saturating_mul(1_000),
        idempotency_keys_max: config.limits.idempotency_keys_max,
    }
}

/// Proposes the settings of a new ledger: its first entry, before any client's.
async fn propose_settings(consensus: &Consensus, settings: Settings) -> Result<()> {
    let (told, outcome) = tokio::sync::oneshot::channel();
    consensus.propose(settings.encode()?.into(), move |result| drop(told.send(result))).await;
    match outcome.await {
        Ok(Ok(_)) => Ok(()),
        other => {
            Err(Error::new(Code::Internal, format!("the cluster settings could not be agreed on: {other:?}")))
        }
    }
}

/// Whose directory it is, and whether it was before this start.
struct Owner {
    identity: Identity,
    is_old: bool,
}

/// Reads who the directory belongs to, or claims an empty one.
fn open_identity(env: &Env, data_dir: &Path, node_id: NodeId) -> Result<Owner> {
    let path = data_dir.join("identity.json");
    let doing = |what: &str| format!("{what} {}", path.display());
    let names = env.io.list(data_dir).map_err(|e| Error::io(doing("looking for"), &e))?;
    if names.iter().any(|name| name == "identity.json") {
        let file = env.io.open(&path, OpenMode::Read).map_err(|e| Error::io(doing("opening"), &e))?;
        let mut bytes =
            vec![0; file.len().map_err(|e| Error::io(doing("reading"), &e))?.min(1 << 16) as usize];
        file.read_at(&mut bytes, 0).map_err(|e| Error::io(doing("reading"), &e))?;
        let identity: Identity = serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(
                Code::Corrupt,
                format!("{} is damaged ({e}): restore it from a backup", path.display()),
            )
        })?;
        if identity.format != DIRECTORY_FORMAT {
            return Err(Error::new(
                Code::Corrupt,
                format!(
                    "{} has layout {}, this build knows {DIRECTORY_FORMAT}",
                    path.display(),
                    identity.format
                ),
            ));
        }
        if identity.node_id != node_id {
            return Err(Error::new(
                Code::InvalidConfig,
                format!(
                    "{} belongs to node {}, but node.id is {node_id}: use its id, or another --data-dir",
                    data_dir.display(),
                    identity.node_id
                ),
            ));
        }
        return Ok(Owner { identity, is_old: true });
    }
    if env.io.list(&data_dir.join("wal")).is_ok_and(|files| !files.is_empty()) {
        return Err(Error::new(
            Code::Corrupt,
            format!("{} holds a log but no identity.json: restore it from a backup", data_dir.display()),
        ));
    }
    let cluster_id = format!("{:016x}{:016x}", env.rng.next_u64(), env.rng.next_u64());
    let identity = Identity { format: DIRECTORY_FORMAT, node_id, cluster_id };
    let write = || -> std::io::Result<()> {
        let draft = data_dir.join("identity.json.new");
        let file = env.io.open(&draft, OpenMode::Buffered)?;
        let bytes = serde_json::to_vec_pretty(&identity)?;
        file.set_len(0)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        env.io.rename(&draft, &path)?;
        // From here on the directory is this node's, also after a crash.
        env.io.sync_dir(data_dir)
    };
    write().map_err(|e| Error::io(doing("writing"), &e))?;
    Ok(Owner { identity, is_old: false })
}
