//! Opens the archive that the configuration names, and makes the stage that fills it.
//!
//! Takes the configuration and the environment's credentials, gives a store, which nobody has asked anything yet. It does
//! not own the stage (`pipeline::archive`), nor the probe of the store, for which no start waits.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::Identity;
use crate::{
    archive::{DirectoryStore, Epoch, LedgerId, Progress, Store, StoreError, Trouble, object::packing},
    config::Config,
    env::Env,
    error::{Error, Result},
    pipeline::{
        archive::{Apart, Archive, Footing, Options},
        gauge::Gauge,
        tier::{Tier, TierFooting, TierOptions},
    },
    proof::key::Signer,
    raft::Consensus,
    sealed::thaw::ColdStore,
    segment::parse_stub_name,
    state::State,
    wal::Driver,
};

/// The default archive, in the data directory.
const DIR: &str = "archive";

/// Where a segment is packed, in the data directory.
pub(super) const STAGING_FILE: &str = "archiving.pack";

/// Which store was archived into, in the data directory.
const KNOWN_FILE: &str = "archive.known";

/// A store that nobody has asked anything yet, or why there can be none.
pub(super) type Opened = Result<Arc<dyn Store>, StoreError>;

/// The archive of a node.
pub(super) struct Archiving {
    /// How it fares.
    pub(super) progress: Arc<Progress>,
    /// Where its work is done; ended with the node.
    pub(super) apart: Option<Arc<Apart>>,
    /// The stage, until it runs; none where nothing is archived.
    pub(super) stage: Option<Archive>,
    /// The stage that lets files go, until it runs; none where none go.
    pub(super) tier: Option<Tier>,
}

impl Archiving {
    /// A node that archives nothing.
    fn off(progress: Arc<Progress>) -> Self {
        Self { progress, apart: None, stage: None, tier: None }
    }

    /// The archive that the configuration asks for, in its store, if there is to be one. A store that cannot be used is
    /// said, and does not keep the node from starting.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io) when the system has no thread left.
    pub(super) fn open(
        env: &Env,
        config: &Config,
        identity: &Identity,
        (store, driver): (Option<Opened>, Driver),
        (consensus, state, signer): (&Consensus, &Arc<State>, Option<Signer>),
        gauge: Arc<Gauge>,
    ) -> Result<Self> {
        let tiering = &config.storage.tiering;
        let Some(store) = store.filter(|_| tiering.enable_auto_archival) else {
            return Ok(Self::off(Progress::off()));
        };
        let opened = store.and_then(|store| {
            let cluster = LedgerId::parse(identity.cluster()).ok_or_else(|| {
                let what =
                    format!("the cluster's id {:?} is none that an archive is known by", identity.cluster_id);
                StoreError::new(Trouble::Denied, what)
            });
            Ok((store, cluster?))
        });
        let (store, cluster) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let (place, error) = (place(config), Error::from(error));
                tracing::error!(%error, archive = place, "nothing is archived until this is put right");
                let progress = Progress::of(place);
                progress.note_failure(&error);
                return Ok(Self::off(progress));
            }
        };
        let progress = Progress::of(store.place());
        let apart = Arc::new(Apart::start(driver)?);
        let tier = (tiering.local_bytes_max > 0).then(|| {
            let on = TierFooting {
                consensus: consensus.clone(),
                state: state.clone(),
                store: store.clone(),
                node: identity.node_id,
                cluster,
                epoch: Epoch(identity.epoch()),
                apart: apart.clone(),
                clock: env.clock.clone(),
            };
            let options = TierOptions {
                local_bytes_max: tiering.local_bytes_max,
                age_min: Duration::from_secs(tiering.age_threshold_secs),
                retry_max: Duration::from_secs(tiering.archival_check_interval_secs),
            };
            Tier::new(on, options)
        });
        let on = Footing {
            consensus: consensus.clone(),
            state: state.clone(),
            store,
            cluster,
            epoch: Epoch(identity.epoch()),
            signer,
            gauge,
            progress: progress.clone(),
            apart: apart.clone(),
            rng: env.rng.clone(),
            io: env.io.clone(),
        };
        let options = Options {
            packing: packing(tiering.enable_compression, tiering.compression_level),
            staging: config.node.data_dir.join(STAGING_FILE),
            known: config.node.data_dir.join(KNOWN_FILE),
            free_bytes_min: config.wal.disk_free_bytes_min,
            retry_max: Duration::from_secs(tiering.archival_check_interval_secs),
            audit_every: Duration::from_secs(tiering.audit_interval_secs),
        };
        Ok(Self { progress, apart: Some(apart), stage: Some(Archive::new(on, options)), tier })
    }
}

/// The store of the archive; none for a node that neither archives nor has anything there alone.
pub(super) fn store(env: &Env, config: &Config, identity: &Identity) -> Option<Opened> {
    // What has left is read also where nothing more is copied.
    let has_left = || {
        let names = env.io.list(&config.node.data_dir.join("segments")).unwrap_or_default();
        names.iter().any(|name| parse_stub_name(name).is_some())
    };
    let is_needed = config.storage.tiering.enable_auto_archival || has_left();
    // An embedded ledger is its program's to copy.
    if !is_needed || identity.embedded {
        return None;
    }
    Some(match config.storage.s3.bucket.is_empty() {
        true => Ok(Arc::new(DirectoryStore::new(env.io.clone(), &directory(config), identity.node_id))),
        false => bucket(config),
    })
}

/// The store as readers of cold records have it, or why they have none.
pub(super) fn cold_store(store: Option<&Opened>) -> ColdStore {
    match store {
        Some(store) => store.clone(),
        None => {
            let what =
                "this ledger has no archive, and was started with all that it has here: start it again";
            Err(StoreError::new(Trouble::Denied, what))
        }
    }
}

fn directory(config: &Config) -> PathBuf {
    match config.storage.archive_dir.as_os_str().is_empty() {
        true => config.node.data_dir.join(DIR),
        false => config.storage.archive_dir.clone(),
    }
}

fn place(config: &Config) -> String {
    match config.storage.s3.bucket.as_str() {
        "" => directory(config).display().to_string(),
        bucket => [&format!("s3://{bucket}"), config.storage.s3.prefix.as_str()]
            .join("/")
            .trim_end_matches('/')
            .to_owned(),
    }
}

#[cfg(feature = "s3")]
fn bucket(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    use crate::archive::s3::{Credentials, S3Options, S3Store};
    let s3 = config.storage.s3.clone();
    let credentials = Credentials {
        access_key_id: s3.access_key_id,
        secret_access_key: s3.secret_access_key,
        ..Credentials::default()
    };
    let credentials = credentials.or_environment(|name| std::env::var(name).ok())?;
    let options = S3Options {
        prefix: s3.prefix,
        endpoint: s3.endpoint,
        path_style: s3.path_style,
        ..S3Options::new(s3.bucket, s3.region, credentials)
    };
    Ok(Arc::new(S3Store::new(options)?))
}

#[cfg(not(feature = "s3"))]
fn bucket(_: &Config) -> Result<Arc<dyn Store>, StoreError> {
    let what = "this scribe-node was built without the feature s3: take a directory, or another build";
    Err(StoreError::new(Trouble::Denied, what))
}
