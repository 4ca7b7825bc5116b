//! One node: the only place that opens, recovers, wires and stops.
//!
//! Takes the seams and a configuration, gives the handles that servers need. It does not own sockets.
//!
//! ```text
//! data_dir/LOCK            held while a process uses the directory
//! data_dir/identity.json   node id and cluster id, written once
//! data_dir/signing.key     what this member signs checkpoints with
//! data_dir/proven          how far the ledger had come, to know when files are missing
//! data_dir/wal/            the log
//! data_dir/segments/       what is sealed
//! data_dir/index/          where the newest version of every sealed key is
//! data_dir/archive/        sealed segments as objects, unless the archive is elsewhere
//! data_dir/cold.cache      copies of blocks that are in the archive alone; begun anew with every start
//! data_dir/archiving.pack  only while a segment is on its way there
//! data_dir/archive.known   which store it has archived into
//! data_dir/restoring       only while an archive or a copy is restored into the directory
//! data_dir/catching-up     only while fetched segments take the log's place
//! ```

mod archiving;
mod backup;
mod claim;
mod identity;
mod info;
mod reindex;
mod restore;
mod signing;
mod start_note;
mod whole;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};

use self::{
    archiving::Archiving,
    identity::{Claim, Fresh},
    info::vitals,
};
pub use self::{
    backup::{BackedUp, Backup, FromObject, backup},
    claim::{Found, abandon, claim, look},
    identity::Identity,
    info::{ArchiveLag, NodeInfo},
    reindex::{Reindexed, reindex},
    restore::{Origin, Restore, Restored},
    start_note::StartNote,
};

use crate::{
    archive::{Epoch, LedgerId, cold::ColdCacheOptions},
    cluster::{
        attest::attest_what_is_sealed,
        catch_up::CatchUp,
        cosign::gather_signatures,
        elsewhere::members_and_archive,
        enrol::enrol_own_key,
        fetch::{FetchOptions, Fetcher},
        from_archive::FromArchive,
        level::raise_feature_level,
        reinstate::Reinstate,
        repair::Repairs,
        segments::{self, SaysHowItIs},
        sign::Desk,
        switch::Switch,
        vitals::{Others, keep_asking},
    },
    config::{Config, LedgerConfig},
    env::{Env, Io},
    error::{Code, Error, Result},
    index::IndexOptions,
    pipeline::{
        Gauges, Ground, Pipeline, apply::Apply, archive::Apart, background::Background, ingest::Ingest,
    },
    raft::{Consensus, Member, Sabotage},
    read::{LiveKeys, Proofs, Reader},
    sealed::{SealedOptions, thaw::Thaw},
    state::{
        State, StateOptions,
        settings::{FEATURE_LEVEL, Settings},
    },
    tree::{Tree, Witness},
    types::NodeId,
    wal::WalOptions,
};

/// Where a member without a log gets its ledger from. One that has a log goes on with it.
#[derive(Clone, Debug)]
pub enum Founding {
    /// It founds a ledger with these members, itself among them, all of them voters.
    Group(BTreeMap<NodeId, Member>),
    /// It comes to a ledger that others have founded, and waits for a leader that counts it in.
    Join {
        /// Which ledger.
        cluster_id: String,
        /// What the others know this node's directory by; drawn where nobody has been told.
        incarnation: Option<u64>,
    },
    /// It founds a ledger for the process it is a part of, which nobody else reaches.
    Embedded,
}

impl Founding {
    /// A ledger with one member.
    #[must_use]
    pub fn alone(id: NodeId, member: Member) -> Self {
        Self::Group(BTreeMap::from([(id, member)]))
    }

    fn claim(&self, config: &Config) -> (Claim, Fresh) {
        let server = Claim::Server { adopt: config.node.adopt_embedded };
        match self {
            Self::Embedded => (Claim::Embedded, Fresh::default()),
            Self::Group(members) => {
                let incarnation = members.get(&config.node.id).map(|me| me.incarnation);
                (server, Fresh { joins: None, incarnation: incarnation.filter(|known| *known != 0) })
            }
            Self::Join { cluster_id, incarnation } => {
                (server, Fresh { joins: Some(cluster_id.clone()), incarnation: *incarnation })
            }
        }
    }
}

/// Why a node does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It cannot.
    Failed(String),
    /// It is to be stopped and started again, from the same directory: what it lacked is there.
    Restart(String),
}

/// What is not as in a node of this build, where it is tried how others get on with that.
#[derive(Clone, Copy, Debug)]
struct Build {
    /// The newest feature level that it understands.
    level: u32,
    sabotage: Sabotage,
}

impl Default for Build {
    fn default() -> Self {
        Self { level: FEATURE_LEVEL, sabotage: Sabotage::default() }
    }
}

/// How long a leader that stops waits for another to take over.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);

/// A running node.
pub struct Node {
    info: NodeInfo,
    pipeline: Pipeline,
    background: Background,
    catch_up: CatchUp,
    /// What it does for the ledger as a whole, with other members, and to know of them; ends with it.
    tasks: JoinSet<()>,
    /// Where segments are archived.
    archiving: Option<Arc<Apart>>,
    /// Members that ask are told for as long as this is here.
    _vitals: Arc<SaysHowItIs>,
    /// Where other members have their checkpoints signed.
    _desk: Option<Arc<Desk>>,
    witness: Witness,
    reader: Reader,
    proofs: Proofs,
    shutdown_timeout: Duration,
    _lock: Box<dyn Send + Sync>,
}

impl Node {
    /// Opens the data directory, recovers, and takes part. Returns when it is ready to serve.
    /// `founding` says who founds a new ledger; `wal_options` who drives the log's writer: a thread, or a task in a simulation.
    ///
    /// A member that is too far behind for the log fetches segments first, and begins again behind them.
    ///
    /// # Errors
    /// A directory that is in use, belongs to another node or is damaged; a disk that fails, or is full.
    pub async fn start(
        env: Env,
        config: &Config,
        founding: Founding,
        wal_options: WalOptions,
    ) -> Result<Self> {
        Self::start_noting(env, config, founding, wal_options, &StartNote::default()).await
    }

    /// As [`Node::start`], and `note` says what it waits for.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_noting(
        env: Env,
        config: &Config,
        founding: Founding,
        wal_options: WalOptions,
        note: &StartNote,
    ) -> Result<Self> {
        Self::open(env, config, founding, (wal_options, Build::default()), note).await
    }

    /// As [`Node::start`], with bugs planted.
    ///
    /// # Errors
    /// As [`Node::start`].
    #[doc(hidden)]
    pub async fn start_sabotaged(
        env: Env,
        config: &Config,
        founding: Founding,
        wal_options: WalOptions,
        sabotage: Sabotage,
    ) -> Result<Self> {
        let as_build = Build { sabotage, ..Build::default() };
        Self::open(env, config, founding, (wal_options, as_build), &StartNote::default()).await
    }

    /// As [`Node::start`], but as a build that understands no more than feature level `level`: how members of two
    /// versions get on is then tried with one.
    ///
    /// # Errors
    /// As [`Node::start`]; [`Code::Internal`] for a ledger of a higher level.
    pub async fn start_at_level(
        env: Env,
        config: &Config,
        founding: Founding,
        wal_options: WalOptions,
        level: u32,
    ) -> Result<Self> {
        let as_build = Build { level, ..Build::default() };
        Self::open(env, config, founding, (wal_options, as_build), &StartNote::default()).await
    }

    async fn open(
        env: Env,
        config: &Config,
        founding: Founding,
        options: (WalOptions, Build),
        note: &StartNote,
    ) -> Result<Self> {
        let io = env.io.clone();
        let started = Self::open_until_ready(env, config, founding, options, note).await;
        started.map_err(|error| match error.code() {
            Code::DiskFull => whole::no_room_to_start(&*io, config, &error),
            _ => error,
        })
    }

    async fn open_until_ready(
        env: Env,
        config: &Config,
        founding: Founding,
        options: (WalOptions, Build),
        note: &StartNote,
    ) -> Result<Self> {
        let started = Instant::now();
        loop {
            let start = Self::try_start(&env, config, founding.clone(), options.clone(), (started, note));
            match start.await? {
                Started::Node(node) => return Ok(*node),
                Started::Again(why) => tracing::info!(why, "the start begins again"),
            }
        }
    }

    async fn try_start(
        env: &Env,
        config: &Config,
        founding: Founding,
        (wal_options, Build { level, sabotage }): (WalOptions, Build),
        (started, note): (Instant, &StartNote),
    ) -> Result<Started> {
        note.say("it is recovering its log");
        let data_dir = config.node.data_dir.as_path();
        let in_dir = |what: &str| format!("{what} {}", data_dir.display());
        env.io.create_dir_all(data_dir).map_err(|e| Error::io(in_dir("creating data directory"), &e))?;
        let lock = lock(&*env.io, data_dir)?;
        let (claim, fresh) = founding.claim(config);
        let identity = identity::open(env, data_dir, config.node.id, claim, fresh)?;
        let driver = wal_options.driver;
        let switch = Switch::new(env.io.clone(), data_dir);
        let store = archiving::store(env, config, &identity);
        let reached = store.as_ref().and_then(|store| store.as_ref().ok());
        let from_archive = reached.map(|store| FromArchive::new(store.clone(), Epoch(identity.epoch())));
        let reinstate = Reinstate {
            io: &env.io,
            dir: &data_dir.join("segments"),
            me: identity.node_id,
            cluster: LedgerId::parse(identity.cluster()),
            archive: from_archive.clone(),
            network: &env.network,
            peers: &config.cluster.peers,
            free_bytes_min: config.wal.disk_free_bytes_min,
        };
        let (segments, reinstated) =
            whole::segments(env, data_dir, sealed_options(config, env), &reinstate).await?;
        let (log, expected) = whole::read(env, data_dir, &segments, wal_options, &switch)?;

        let sealed = Arc::new(segments.open()?);
        let gauges = Gauges::default();
        let tree = Arc::new(Tree::open(sealed.clone())?);
        let state = Arc::new(State::open(sealed.clone(), state_options(config, env))?);
        state.settings().map_or(Ok(()), |settings| settings.check_known(level))?;
        if sabotage.forget_answers {
            state.forget_answers();
        }
        let wal = log.begin()?;
        let witness = Witness::new(env.io.clone(), data_dir.to_path_buf(), wal.clone());
        let signer = match founding {
            Founding::Embedded => None,
            _ => Some(signing::open(env, data_dir, &origin_of(&config.ledger, &identity))?),
        };
        let background = Background::start(
            state.clone(),
            tree.clone(),
            signer.clone(),
            (witness.clone(), expected),
            (wal.clone(), driver),
            &gauges,
        )?;
        let replica = Arc::new(Apply::new(
            state.clone(),
            gauges.apply.clone(),
            background.bell.clone(),
            level,
            config.storage.unsealed_bytes_max,
        ));
        let founders = match founding {
            // A node that has come to others' ledger never founds one, whatever it is told now.
            Founding::Join { .. } => BTreeMap::new(),
            _ if identity.joined => BTreeMap::new(),
            Founding::Group(members) => members,
            Founding::Embedded => BTreeMap::from([(config.node.id, Member::default())]),
        };
        let boundaries = background.boundaries.clone();
        let newest = boundaries.borrow().as_ref().map(|newest| newest.log);
        switch.finish(&wal, sealed.dir(), newest).await?;
        let consensus =
            Consensus::start(env, config, founders, wal.clone(), replica, boundaries, sabotage).await?;
        switch.end()?;
        let disputes = Arc::<AtomicU64>::default();
        let desk = signer.clone().map(|signer| {
            Arc::new(Desk {
                signer,
                tree: tree.clone(),
                checkpoints: background.checkpoint.subscribe(),
                state: state.clone(),
                consensus: consensus.clone(),
                disputes: disputes.clone(),
                disputed: Mutex::default(),
            })
        });
        let options = FetchOptions {
            skip_verification: sabotage.skip_verification,
            bytes_per_sec: config.cluster.catch_up_bytes_per_sec,
            ..FetchOptions::new(config.wal.disk_free_bytes_min)
        };
        let elsewhere = members_and_archive(consensus.clone(), env.network.clone(), from_archive.clone());
        let thaw = Thaw::new(sealed.clone(), archiving::cold_store(store.as_ref()));
        let repairs = Repairs::new(sealed.clone(), elsewhere, config.wal.disk_free_bytes_min);
        let repairs = repairs.begun_with(reinstated).with_thaw(thaw.clone());
        let fetcher = Fetcher::new(env.network.clone(), sealed.clone(), switch, options);
        let fetcher = fetcher.with_archive(from_archive);
        let serves = Arc::<AtomicBool>::default();
        let vitals = vitals(&consensus, &wal, fetcher.progress(), serves.clone());
        let signs = desk.as_ref().map_or_else(Weak::new, Arc::downgrade);
        segments::serve(&*env.network, &sealed, &vitals, signs);
        let catch_up = CatchUp::start(fetcher, consensus.too_far_ahead());
        note.say("it waits for a leader of its cluster to say what it lacks, and gets that");
        let has_records = state.settings().is_some();
        let patience = config.consensus.leader_patience;
        let (is_recovered, wish) = tokio::select! {
            biased;
            recovered = consensus.recovered() => recovered.map(|()| (true, None))?,
            why = wal.poisoned() => return Err(Error::new(Code::Io, why)),
            why = catch_up.wants_restart() => (false, Some(why)),
            () = nobody_leads_for(patience, &consensus), if has_records => (false, None),
        };
        if let Some(why) = wish {
            catch_up.stop().await;
            consensus.stop().await;
            let failed = background.stop().await;
            wal.close().map_err(|e| Error::io("closing the write-ahead log", &e))?;
            return failed.map_or(Ok(Started::Again(why)), |why| Err(Error::new(Code::Internal, why)));
        }
        if let Some(expected) = expected.filter(|_| consensus.positions().voters.len() == 1) {
            whole::check_records(data_dir, expected.size, state.applied())?;
        }
        let mut tasks = JoinSet::new();
        let recovery = background.recovery();
        if is_recovered || expected.is_some_and(|expected| state.applied() >= expected.size) {
            recovery.note();
        } else {
            let consensus = consensus.clone();
            tasks.spawn(async move {
                if consensus.recovered().await.is_ok() {
                    recovery.note();
                }
            });
        }
        if !is_recovered {
            tracing::warn!("nobody leads the cluster: stale reads are served, all else waits for a quorum");
        }
        let settings = Settings { feature_level: level, ..wanted_settings(config) };
        match state.settings() {
            None if consensus.is_leader() => propose_settings(&consensus, settings).await?,
            // The feature level follows the members by itself.
            Some(in_force) if Settings { feature_level: level, ..in_force } != settings => tracing::warn!(
                ?in_force,
                configured = ?settings,
                "the ledger keeps the cluster settings it was founded with; this node's configuration differs"
            ),
            // A follower learns them from the log.
            None | Some(_) => {}
        }

        let reader = Reader::new(consensus.clone(), state.clone());
        let stands_on = (&consensus, &state, signer.clone());
        let Archiving { progress: archive, apart: archiving, stage, tier } =
            Archiving::open(env, config, &identity, (store, driver), stands_on, gauges.archive.clone())?;
        let own_key = signer.as_ref().map(|signer| signer.verifier_key().clone());
        let checkpoints = background.checkpoint.subscribe();
        let proofs = Proofs::new(state.clone(), tree.clone(), checkpoints, signer, archive.clone());
        let ground = Ground {
            clock: env.clock.clone(),
            wal: wal.clone(),
            consensus: consensus.clone(),
            state: state.clone(),
            boundaries: background.boundaries.clone(),
            network: env.network.clone(),
            disk_is_full: background.disk_is_full.clone(),
        };
        let pipeline = Pipeline::start(config, ground, &gauges);
        let network = env.network.clone();
        tasks.spawn(raise_feature_level(consensus.clone(), state.clone(), network.clone(), level));
        tasks.spawn(attest_what_is_sealed(consensus.clone(), state.clone(), network.clone()));
        let others = Others::default();
        tasks.spawn(keep_asking(config.node.id, consensus.clone(), network.clone(), others.clone()));
        if let Some(key) = own_key {
            let (consensus, state) = (consensus.clone(), state.clone());
            let me = (identity.node_id, identity.incarnation);
            tasks.spawn(enrol_own_key(consensus.clone(), state.clone(), network.clone(), me, key));
            let shown = background.checkpoint.clone();
            tasks.spawn(gather_signatures(consensus, state, network.clone(), shown, disputes.clone()));
        }
        if let Some(stage) = stage {
            tasks.spawn(stage.run());
        }
        if let Some(tier) = tier {
            tasks.spawn(tier.run());
        }
        let live_keys = LiveKeys::of(state.clone());
        let profile = config.profile.clone();
        let info = NodeInfo {
            identity,
            profile,
            consensus,
            state,
            wal,
            gauges,
            live_keys,
            tree,
            others,
            network,
            disputes,
            repairs,
            thaw,
            archive,
            clock: env.clock.clone(),
            started,
        };
        serves.store(true, Relaxed);
        Ok(Started::Node(Box::new(Self {
            info,
            pipeline,
            background,
            catch_up,
            tasks,
            archiving,
            _vitals: vitals,
            _desk: desk,
            witness,
            reader,
            proofs,
            shutdown_timeout: config.limits.shutdown_timeout,
            _lock: lock,
        })))
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

    /// What repairs segments that readers find damaged.
    #[must_use]
    pub fn repairs(&self) -> Repairs {
        self.info.repairs.clone()
    }

    /// What it gives to whoever checks it.
    #[must_use]
    pub fn proofs(&self) -> Proofs {
        self.proofs.clone()
    }

    /// What it can tell about itself.
    #[must_use]
    pub fn info(&self) -> NodeInfo {
        self.info.clone()
    }

    /// Waits until the node does not go on as it is, and says why.
    pub async fn ended(&self) -> Ended {
        let Self { info, pipeline, background, catch_up, .. } = self;
        let failed = |why: Option<String>, what: &str| Ended::Failed(why.unwrap_or_else(|| what.into()));
        tokio::select! {
            biased;
            why = info.consensus.stopped() => failed(why, "consensus stopped"),
            why = pipeline.stopped() => failed(why, "the pipeline stopped"),
            why = background.stopped() => failed(why, "a stage behind the answer stopped"),
            // Nobody was waiting for it: the log met its disk's failure while it was idle.
            why = info.wal.poisoned() => Ended::Failed(why),
            why = catch_up.wants_restart() => Ended::Restart(why),
        }
    }

    /// Refuses new writes, answers those admitted, and closes the log so that a restart need not doubt its
    /// tail.
    ///
    /// # Errors
    /// A stage that panicked or a log that cannot be closed; what was answered is on disk all the same.
    pub async fn stop(mut self) -> Result<()> {
        self.tasks.shutdown().await;
        if let Some(archiving) = &self.archiving {
            archiving.stop().await;
        }
        self.info.repairs.stop();
        self.info.thaw.stop();
        self.catch_up.stop().await;
        // What waits for a disk that is full or dead may wait for ever; after this it is answered as unknown.
        let stage = match tokio::time::timeout(self.shutdown_timeout, self.pipeline.stop()).await {
            Ok(stage) => stage,
            Err(_) => {
                tracing::warn!("some writes were not finished within limits.shutdown_timeout");
                None
            }
        };
        self.info.consensus.hand_over(HAND_OVER_PATIENCE).await;
        self.info.consensus.stop().await;
        let background = self.background.stop().await;
        let (size, root) = self.info.tree.head();
        if size == self.info.applied() {
            // Without it the next start expects less, and finds all the same.
            let _ = self.witness.write(size, &root);
        }
        self.info.wal.close().map_err(|e| Error::io("closing the write-ahead log", &e))?;
        stage.or(background).map_or(Ok(()), |why| Err(Error::new(Code::Internal, why)))
    }
}

/// What a start came to.
enum Started {
    Node(Box<Node>),
    /// What it lacked is in the directory now.
    Again(String),
}

/// Waits until no leader has been known for so long, in one stretch: there is no quorum then, and what this member has is
/// all that it will have for now.
async fn nobody_leads_for(patience: Duration, consensus: &Consensus) {
    let mut since = Instant::now();
    while since.elapsed() < patience {
        tokio::time::sleep(patience / 20).await;
        if consensus.is_led() {
            since = Instant::now();
        }
    }
}

/// Takes a data directory for this process, until the guard is dropped.
fn lock(io: &dyn Io, data_dir: &Path) -> Result<Box<dyn Send + Sync>> {
    let in_dir = |what: &str| format!("{what} {}", data_dir.display());
    io.lock(&data_dir.join("LOCK")).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Error::new(
            Code::Io,
            in_dir("another process, or an open ledger of this one, uses the data directory")
                + ": stop it, or choose another directory",
        ),
        _ => Error::io(in_dir("locking data directory"), &e),
    })
}

/// What the read caches have of `storage.max_cache_size`, in eighths: segments that were just sealed, as they were in
/// memory before; single records that are read again and again; rows of the index; blocks of segments.
const RECENT_PARTS: u64 = 3;
const HOT_PARTS: u64 = 3;
const INDEX_PARTS: u64 = 1;
const BLOCK_PARTS: u64 = 1;

fn cache_bytes(config: &Config, parts: u64) -> u64 {
    config.storage.max_cache_size / (RECENT_PARTS + HOT_PARTS + INDEX_PARTS + BLOCK_PARTS) * parts
}

fn sealed_options(config: &Config, env: &Env) -> SealedOptions {
    let index = IndexOptions { cache_bytes: cache_bytes(config, INDEX_PARTS), hash_seed: env.rng.next_u64() };
    SealedOptions {
        block_cache_bytes: cache_bytes(config, BLOCK_PARTS),
        hot_cache_bytes: cache_bytes(config, HOT_PARTS),
        index,
        cold: ColdCacheOptions {
            bytes_max: config.storage.tiering.cache_disk_size,
            free_bytes_min: config.wal.disk_free_bytes_min,
        },
    }
}

fn state_options(config: &Config, env: &Env) -> StateOptions {
    StateOptions { hash_seed: env.rng.next_u64(), recent_bytes_max: cache_bytes(config, RECENT_PARTS) }
}

/// The name of the log in its checkpoints, and of the keys that sign them. Another after each restore: two clusters
/// that go on from one archive are two logs.
fn origin_of(ledger: &LedgerConfig, identity: &Identity) -> String {
    match ledger.origin.as_str() {
        "" => format!("scribe/{}/{}", identity.cluster(), identity.epoch()),
        origin => origin.to_owned(),
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
