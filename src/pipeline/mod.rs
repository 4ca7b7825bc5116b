//! The way in: the story of one record, a chapter a file.
//!
//! ```text
//!            permit               ≤ ops, bytes          ≤ 4 entries in flight
//!  client ──────────► ingest ─────────────────► batch ─────────────────────────► replicate
//!  the room a request    │ ≤ pipeline.ingest_bytes_max                               │ Raft: log, sync,
//!  holds is given back   │ of requests, from here                                    │ quorum
//!  with its answer       ▼ to the answer                                             ▼
//!                      answer ◄──────────────────────────────────────────────────── apply
//!                      (nobody waits from here on)                              │ applied records
//!                                                                                    ▼
//!   segments ◄── index ◄── files ── seal ◄─────────────── full and proven ──────── prove ──► checkpoints
//!                     │               ≤ storage.unsealed_bytes_max in memory, or writes wait
//!                     └──────► archive ──► objects in a store, one segment at a time, on the leader
//! ```
//!
//! Positions, in this order always: proposed ≥ committed ≥ applied ≥ proven ≥ sealed ≥ archived.
//!
//! A stage knows its messages and the handle of the next stage, never another stage. Only `batch` has a
//! queue; what may wait in it is bounded in bytes by the permits of `ingest`.

mod age;
pub mod apply;
pub mod archive;
pub mod background;
pub mod batch;
pub mod budget;
pub mod entry_clock;
pub mod forward;
mod full_disk;
pub mod gauge;
mod hand_over;
pub mod index;
pub mod ingest;
pub mod message;
mod no_quorum;
pub mod prove;
pub mod replicate;
pub mod room;
pub mod seal;
pub mod stage;
pub mod tier;
pub mod unsealed;
pub mod worker;

use std::sync::{Arc, atomic::AtomicBool};

use hdrhistogram::Histogram;
use tokio::{sync::watch, task::JoinHandle};

use self::{
    batch::BatchStage,
    entry_clock::EntryClock,
    forward::{Accept, Forward, Proposer},
    gauge::{Gauge, Reading},
    ingest::Ingest,
    replicate::Replicate,
    room::DiskRoom,
    stage::Running,
    unsealed::Unsealed,
};
use crate::{
    config::Config,
    env::{Clock, Network},
    raft::{Boundaries, Consensus},
    state::State,
    wal::Wal,
};

/// The gauges of all stages, made before the stages so that replay is measured, too.
#[derive(Clone, Debug)]
pub struct Gauges {
    ingest: Arc<Gauge>,
    batch: Arc<Gauge>,
    replicate: Arc<Gauge>,
    /// For [`apply::Apply`], which Raft drives.
    pub apply: Arc<Gauge>,
    prove: Arc<Gauge>,
    seal: Arc<Gauge>,
    index: Arc<Gauge>,
    /// For [`archive::Archive`].
    pub archive: Arc<Gauge>,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            ingest: Gauge::new("ingest"),
            batch: Gauge::new("batch"),
            replicate: Gauge::new("replicate"),
            apply: Gauge::new("apply"),
            prove: Gauge::new("prove"),
            seal: Gauge::new("seal"),
            index: Gauge::new("index"),
            archive: Gauge::new("archive"),
        }
    }
}

impl Gauges {
    /// What every stage holds, in the order records meet them.
    #[must_use]
    pub fn read(&self) -> Vec<Reading> {
        self.all().map(|gauge| gauge.read()).into()
    }

    /// How long things stayed in every stage, in microseconds, in the same order.
    #[must_use]
    pub fn stays_us(&self) -> Vec<(&'static str, Histogram<u64>)> {
        self.all().map(|gauge| (gauge.name(), gauge.stays_us())).into()
    }

    fn all(&self) -> [&Arc<Gauge>; 8] {
        let Self { ingest, batch, replicate, apply, prove, seal, index, archive } = self;
        [ingest, batch, replicate, apply, prove, seal, index, archive]
    }
}

/// The running stages.
#[derive(Debug)]
pub struct Pipeline {
    ingest: Ingest,
    accept: Accept,
    batch: Running,
    age: JoinHandle<()>,
    full_disk: JoinHandle<()>,
    no_quorum: JoinHandle<()>,
    hand_over: JoinHandle<()>,
}

/// What the stages up to the answer stand on.
#[derive(Debug)]
pub struct Ground {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Asked whether it takes writes.
    pub wal: Wal,
    /// Where entries are proposed.
    pub consensus: Consensus,
    /// What they are applied to.
    pub state: Arc<State>,
    /// Tells of every segment that is sealed.
    pub boundaries: Boundaries,
    /// The way to the other members.
    pub network: Arc<dyn Network>,
    /// Whether the next segment has no room on the disk.
    pub disk_is_full: Arc<AtomicBool>,
}

impl Pipeline {
    /// Wires the stages, last first, and starts them on the current runtime.
    #[must_use]
    pub fn start(config: &Config, ground: Ground, gauges: &Gauges) -> Self {
        let Ground { clock, wal, consensus, state, boundaries, network, disk_is_full } = ground;
        let Config { pipeline, limits, storage, .. } = config;
        let (inbox, queue) = stage::inbox();
        let age = tokio::spawn(age::end_old_segments(
            consensus.clone(),
            state.clone(),
            clock.clone(),
            storage.segment_age(),
        ));
        let clock = Arc::new(EntryClock::new(clock, limits.clock_skew_max_ms));
        let unsealed = Unsealed::new(state.clone(), boundaries, disk_is_full, storage.unsealed_bytes_max);
        let (lost, watch_lost) = watch::channel(false);
        let proposer =
            Proposer::new(consensus.clone(), state.clone(), clock.clone(), wal.clone(), watch_lost);
        let room = DiskRoom::new(wal.clone(), unsealed.clone());
        let accept = Accept::serve(&*network, proposer.clone(), unsealed.clone(), room.clone());
        let bounds = forward::Bounds {
            leader_patience: config.consensus.leader_patience,
            outcome_patience: limits.write_timeout,
        };
        let forward = Forward::new(network, proposer, bounds);
        let hand_over =
            tokio::spawn(hand_over::hand_over_while_full(consensus.clone(), room, forward.clone()));
        let replicate =
            Replicate::new(consensus.clone(), state, clock, forward, inbox.clone(), gauges.replicate.clone());
        let batch = BatchStage::new(pipeline.into(), replicate, gauges.batch.clone());
        let batch = stage::spawn(batch, queue);
        let full_disk = tokio::spawn(full_disk::answer_who_waits(wal.clone(), inbox.clone()));
        let no_quorum = tokio::spawn(no_quorum::answer_who_waits(
            consensus.clone(),
            config.consensus.leader_patience,
            lost,
            inbox.clone(),
        ));
        let ingest =
            Ingest::new(pipeline.ingest_bytes_max, wal, consensus, inbox, gauges.ingest.clone(), unsealed);
        Self { ingest, accept, batch, age, full_disk, no_quorum, hand_over }
    }

    /// The entrance.
    #[must_use]
    pub fn ingest(&self) -> Ingest {
        self.ingest.clone()
    }

    /// Waits until a stage has stopped and says why, if there is a why.
    pub async fn stopped(&self) -> Option<String> {
        self.batch.stopped().await
    }

    /// Refuses new requests, answers those admitted, stops.
    pub async fn stop(self) -> Option<String> {
        self.age.abort();
        self.hand_over.abort();
        self.ingest.close();
        self.accept.close();
        let why = self.batch.stop().await;
        self.full_disk.abort();
        self.no_quorum.abort();
        why
    }
}
