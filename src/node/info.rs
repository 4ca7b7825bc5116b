//! What a running node can tell about itself, and whether it is well.
//!
//! Takes handles of its parts, gives what they say, at once and from memory. It changes nothing, and keeps nothing running
//! but its parts' memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::Identity;
use crate::{
    archive::{Progress, cold::ColdCacheSizes, progress::Failure},
    cluster::{
        fetch::Progress as FetchProgress,
        repair::Repairs,
        segments::SaysHowItIs,
        vitals::{Others, Vitals},
    },
    env::{Clock, Network, Traffic},
    error::{Code, Error, Result},
    pipeline::{Gauges, gauge::Reading},
    proof::Hash,
    raft::{Consensus, Positions},
    read::LiveKeys,
    sealed::{
        SealedSizes,
        thaw::{Downloads, Thaw},
    },
    state::{Sizes, State, settings::Settings},
    tree::Tree,
    types::Seq,
    wal::{Wal, WalHealth, WalMetrics},
};

/// The role of a node that leads.
const LEADER: &str = "leader";

/// The role of a node whose consensus has stopped.
const SHUTDOWN: &str = "shutdown";

/// What a running node can tell about itself. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Who it is.
    pub identity: Identity,
    /// Name of its configuration profile.
    pub profile: String,
    pub(super) consensus: Consensus,
    pub(super) state: Arc<State>,
    pub(super) wal: Wal,
    pub(super) gauges: Gauges,
    pub(super) live_keys: LiveKeys,
    pub(super) tree: Arc<Tree>,
    pub(super) others: Others,
    pub(super) network: Arc<dyn Network>,
    pub(super) disputes: Arc<AtomicU64>,
    pub(super) repairs: Repairs,
    pub(super) thaw: Thaw,
    pub(super) archive: Arc<Progress>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started: Instant,
}

/// Whether a node can do its work, reads at least.
fn health(consensus: &Consensus, wal: &Wal) -> Result<()> {
    let no_quorum = |why: &str| Err(Error::new(Code::NoQuorum, why));
    if let WalHealth::Poisoned { why } = wal.health() {
        return Err(Error::new(Code::Unavailable, format!("the write-ahead log has failed: {why}")));
    }
    match consensus.positions() {
        Positions { role: SHUTDOWN, .. } => Err(Error::new(Code::Unavailable, "consensus has stopped")),
        _ if consensus.is_led() => Ok(()),
        Positions { role: LEADER, .. } => no_quorum("this node leads, and no quorum answers it"),
        Positions { leader_id: Some(leader), .. } => no_quorum(&format!(
            "no leader is known: the last was member {leader}, which is not heard any more"
        )),
        Positions { leader_id: None, .. } => no_quorum("no leader is known"),
    }
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

    /// The replicated settings in force; `None` before the first entry.
    #[must_use]
    pub fn settings(&self) -> Option<Settings> {
        self.state.settings()
    }

    /// Sizes of what it holds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.state.sizes()
    }

    /// Tells whether anything of the node is still in use, without keeping it so.
    pub fn watch_use(&self) -> impl Fn() -> bool + use<> {
        let state = Arc::downgrade(&self.state);
        move || state.strong_count() > 0
    }

    /// Size and root of the tree over all records that are proven.
    #[must_use]
    pub fn tree_head(&self) -> (Seq, Hash) {
        self.tree.head()
    }

    /// How often this member and another were found to have different trees; none if all is well.
    #[must_use]
    pub fn disputes(&self) -> u64 {
        self.disputes.load(Relaxed)
    }

    /// How many damaged segments have been taken anew from elsewhere.
    #[must_use]
    pub fn repaired_segments(&self) -> u64 {
        self.repairs.repaired()
    }

    /// One past the newest sealed record.
    #[must_use]
    pub fn sealed(&self) -> Seq {
        self.state.sealed().end_seq()
    }

    /// One past the newest record that is archived, by what the log says, and sealed here.
    #[must_use]
    pub fn archived(&self) -> Seq {
        Seq(self.state.archived().end_seq).min(self.sealed())
    }

    /// How its archive fares.
    #[must_use]
    pub fn archive(&self) -> &Progress {
        &self.archive
    }

    /// What is sealed and not archived; nothing where nothing is to be.
    #[must_use]
    pub fn archive_lag(&self) -> ArchiveLag {
        let segments = self.state.sealed().segments();
        let archived = usize::try_from(self.state.archived().end).unwrap_or(usize::MAX);
        let behind = segments.get(archived..).filter(|_| self.archive.is_on()).unwrap_or_default();
        let with_records = behind.iter().map(|segment| segment.summary()).find(|of| of.records() > 0);
        let age_ms = with_records.map_or(0, |of| self.clock.now_ms().saturating_sub(of.first_timestamp_ms));
        ArchiveLag {
            segments: behind.len() as u64,
            bytes: behind.iter().map(|segment| segment.summary().file_bytes).sum(),
            oldest: Duration::from_millis(age_ms),
        }
    }

    /// Sizes of what is sealed.
    #[must_use]
    pub fn sealed_sizes(&self) -> SealedSizes {
        self.state.sealed().sizes()
    }

    /// What is kept of what was read from the archive, and what was fetched from there.
    #[must_use]
    pub fn cold(&self) -> (ColdCacheSizes, Downloads) {
        (self.state.sealed().cold().sizes(), self.thaw.downloads())
    }

    /// What has kept reads from the archive since that was last seen to do what it is asked, if anything has.
    #[must_use]
    pub fn cold_trouble(&self) -> Option<(Failure, String)> {
        let (at, failure, why) = self.thaw.trouble()?;
        (self.archive.ok_at() < Some(at)).then_some((failure, why))
    }

    /// How many keys are not deleted; of a large ledger, as of some time ago, and none before they are counted for the
    /// first time.
    #[must_use]
    pub fn live_keys(&self) -> Option<u64> {
        self.live_keys.get()
    }

    /// Consensus, for whoever administers the cluster.
    #[must_use]
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// What every stage holds.
    #[must_use]
    pub fn stages(&self) -> Vec<Reading> {
        let mut stages = self.gauges.read();
        // It takes one segment at a time out of what waits on the disk.
        if let Some(archive) = stages.last_mut() {
            let ArchiveLag { segments, bytes, oldest } = self.archive_lag();
            *archive = Reading { depth: segments, bytes, oldest, ..archive.clone() };
        }
        stages
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

    /// Whether it can do its work, reads at least.
    ///
    /// # Errors
    /// Why not.
    pub fn healthy(&self) -> Result<()> {
        health(&self.consensus, &self.wal).map_err(|error| match error.code() {
            Code::NoQuorum => Error::new(Code::NoQuorum, error.message().to_owned() + &self.who_is_silent()),
            _ => error,
        })
    }

    /// Which voters have not been heard lately, as the end of a sentence; nothing when all have.
    fn who_is_silent(&self) -> String {
        let Positions { voters, members, .. } = self.positions();
        let me = self.identity.node_id;
        let silent = voters.into_iter().filter(|id| *id != me && self.others.newest(*id).is_none());
        let names = silent.map(|id| {
            let address = members.get(&id).map_or("?", |member| &member.raft_addr);
            let why = self.network.refusal(id).map_or_else(String::new, |why| format!(" ({why})"));
            format!("{id} at {address}{why}")
        });
        match names.collect::<Vec<_>>().join(", ") {
            silent if silent.is_empty() => silent,
            silent => format!("; not reached: member {silent}; start them, or see that they can be reached"),
        }
    }

    /// Whether somebody leads who can, this node or another.
    #[must_use]
    pub fn is_led(&self) -> bool {
        self.consensus.is_led()
    }

    /// What the other members say of themselves.
    #[must_use]
    pub fn others(&self) -> &Others {
        &self.others
    }

    /// What has gone over its connections to other members.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.network.traffic()
    }

    /// Time since it was started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Digest of the replicated state; equal on members that have applied the same log.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn state_digest(&self) -> Result<[u8; 32]> {
        self.state.digest()
    }
}

/// What is sealed and not archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveLag {
    /// Segments.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Age of the oldest record in them.
    pub oldest: Duration,
}

/// What the node says of itself from now on.
pub(super) fn vitals(
    consensus: &Consensus,
    wal: &Wal,
    progress: FetchProgress,
    serves: Arc<AtomicBool>,
) -> Arc<SaysHowItIs> {
    let (consensus, wal) = (consensus.clone(), wal.clone());
    Arc::new(move || {
        let catching_up = progress.get();
        let trouble = match catching_up {
            Some(_) => Some("it is far behind and fetches segments".to_owned()),
            None if !serves.load(Relaxed) => Some("it does not serve yet".to_owned()),
            None => health(&consensus, &wal).err().map(|error| error.message().to_owned()),
        };
        Vitals { trouble, applied: consensus.positions().applied, catching_up }
    })
}
