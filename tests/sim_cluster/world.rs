//! Members that start, lose their power and start again, each by itself, while the others go on.
//!
//! Takes a seed and bugs to plant, gives handles of whoever runs. It does not own what goes wrong (`storm`), who
//! writes (`clients`), nor what must be true afterwards (`checks`).

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use scribe_ledger::{
    config::{Config, WalConfig},
    env::{Env, Io, Lane, Network, PeerHandler, Rng},
    node::{Ended, Node, NodeInfo},
    pipeline::ingest::Ingest,
    proof::{Hash, checkpoint::Checkpoint, note::Note},
    raft::Sabotage,
    read::{Proofs, Reader},
    sim::{SimIo, SimNetwork, SimRng},
    types::{NodeId, Seq},
    wal::{self, Driver, WalOptions},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use crate::{
    sim_member::{self, BASE_MS, MemberClock, founding},
    way::{Behind, Call, Way},
};

/// Bugs to find.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    pub raft: Sabotage,
    pub wal: wal::Sabotage,
}

/// A member's handles while it runs.
#[derive(Clone)]
pub struct Running {
    pub info: NodeInfo,
    pub ingest: Ingest,
    pub reader: Reader,
    pub proofs: Proofs,
}

/// One member's machine.
struct Machine {
    disk: SimIo,
    /// How far its clock is ahead of the simulation's, in milliseconds.
    ahead_ms: u64,
    power: Notify,
    /// For how long the power stays off the next time, in milliseconds.
    off_ms: AtomicU64,
}

pub struct World {
    pub rng: SimRng,
    pub network: SimNetwork,
    planted: Planted,
    /// Those that found the group: 1 up to this number. The one behind them comes later.
    pub founders: NodeId,
    machines: BTreeMap<NodeId, Machine>,
    running: Mutex<BTreeMap<NodeId, Running>>,
    /// One answer in so many of those with parts of segments comes with a flipped bit; none for 0.
    spoils_one_in: u64,
    keep_bytes_for_followers: u64,
    started: Instant,
    /// What no fault excuses.
    failures: Mutex<Vec<String>>,
    /// Roots that were signed or computed for a size, by anybody at any time.
    roots: Mutex<BTreeMap<Seq, Hash>>,
    over: AtomicBool,
    /// One administrator at a time.
    pub administrator: tokio::sync::Mutex<()>,
}

impl World {
    pub fn start(seed: u64, planted: Planted) -> Arc<Self> {
        let rng = SimRng::new(seed);
        let founders = [3, 3, 5][rng.below(3) as usize];
        let machine = |_| Machine {
            disk: SimIo::new(rng.next_u64()),
            ahead_ms: rng.below(500),
            power: Notify::new(),
            off_ms: AtomicU64::new(0),
        };
        let machines = (1..=founders + 1).map(|id| (id, machine(id))).collect();
        let network = SimNetwork::new(rng.next_u64(), [0, 0, 50, 200][rng.below(4) as usize]);
        network.repeat_one_in([0, 10][rng.below(2) as usize]);
        let world = Arc::new(Self {
            spoils_one_in: [0, 3][rng.below(2) as usize],
            keep_bytes_for_followers: [0, 4 << 10, 1 << 20][rng.below(3) as usize],
            rng,
            network,
            planted,
            founders,
            machines,
            running: Mutex::default(),
            started: Instant::now(),
            failures: Mutex::default(),
            roots: Mutex::default(),
            over: AtomicBool::new(false),
            administrator: tokio::sync::Mutex::default(),
        });
        for id in 1..=founders + 1 {
            tokio::spawn(world.clone().supervise(id));
        }
        world
    }

    /// Simulated time since 1970.
    pub fn now_ms(&self) -> u64 {
        BASE_MS + self.started.elapsed().as_millis() as u64
    }

    pub fn disk(&self, id: NodeId) -> &SimIo {
        &self.machines[&id].disk
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    /// Whoever runs.
    pub fn running(&self) -> BTreeMap<NodeId, Running> {
        self.running.lock().clone()
    }

    /// A member's handles, if it runs.
    pub fn member(&self, id: NodeId) -> Option<Running> {
        self.running.lock().get(&id).cloned()
    }

    /// The member of the highest term that believes to lead.
    pub fn leader(&self) -> Option<(NodeId, Running)> {
        let leads = |(id, node): (&NodeId, &Running)| {
            let positions = node.info.positions();
            (positions.role == "leader").then(|| (positions.term, *id, node.clone()))
        };
        let running = self.running.lock();
        running
            .iter()
            .filter_map(leads)
            .max_by_key(|(term, id, _)| (*term, *id))
            .map(|(_, id, node)| (id, node))
    }

    /// Cuts a member's power for so long.
    pub fn power_cut(&self, id: NodeId, off: Duration) {
        let machine = &self.machines[&id];
        machine.off_ms.store(off.as_millis() as u64, Relaxed);
        machine.disk.crash();
        self.network.unplug(id);
        machine.power.notify_one();
    }

    pub fn fail(&self, why: String) {
        self.failures.lock().push(why);
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }

    pub fn end(&self) {
        self.over.store(true, Release);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Acquire)
    }

    /// Notes the root that somebody gives for a size.
    pub fn note_root(&self, id: NodeId, size: Seq, root: Hash) {
        let first = *self.roots.lock().entry(size).or_insert(root);
        if first != root {
            self.fail(format!("member {id} gives another root of {size} records than was given before"));
        }
    }

    /// Notes the newest checkpoint of everybody.
    pub fn note_checkpoints(&self) {
        for (id, node) in self.running() {
            if let Some(signed) = node.proofs.checkpoint() {
                self.note_root(id, signed.size, signed.root);
                // One line that is wrong, and verifiers refuse all of it.
                let note = Note::parse(signed.note.as_bytes());
                let opened = note.and_then(|note| {
                    let keys = node.proofs.keys();
                    Checkpoint::open(&note, &keys).map(|(of, signers)| (of.size(), *of.root(), signers.len()))
                });
                if opened != Ok((signed.size.0, signed.root, 1 + signed.cosigners.len())) {
                    self.fail(format!("member {id} shows {signed:?}, of which verifiers say {opened:?}"));
                }
            }
        }
    }

    fn config(&self, id: NodeId) -> Config {
        let mut config = sim_member::config(id);
        // Whoever founds alone names the log after a cluster that the others have not heard of.
        config.ledger.origin = "sim".into();
        config.wal = WalConfig {
            file_bytes: 16 << 10,
            tail_bytes_max: 4 << 10,
            keep_bytes: 0,
            keep_bytes_for_followers: self.keep_bytes_for_followers,
            ..config.wal
        };
        config.consensus.heartbeat_interval_ms = 75;
        config.consensus.leader_patience = Duration::from_secs(1);
        config.limits.write_timeout = Duration::from_secs(2);
        config.limits.shutdown_timeout = Duration::from_millis(200);
        config
    }

    /// Waits until a member's power is off.
    async fn power_gone(&self, id: NodeId) {
        let machine = &self.machines[&id];
        while !machine.disk.is_down() {
            // A fault of the disk that takes the power with it notifies nobody.
            let _ = timeout(Duration::from_millis(100), machine.power.notified()).await;
        }
    }

    /// Lets a member run, and starts it again whenever it can be.
    async fn supervise(self: Arc<Self>, id: NodeId) {
        let disk = self.disk(id).clone();
        loop {
            let alive = Arc::new(AtomicBool::new(true));
            let config = self.config(id);
            let mut options = WalOptions::new(config.wal.clone(), Driver::Task);
            options.sabotage = self.planted.wal;
            let start = Node::start_sabotaged(
                self.env(id, &alive),
                &config,
                founding(id, 1..=self.founders),
                options,
                self.planted.raft,
            );
            let started = tokio::select! {
                biased;
                () = self.power_gone(id) => None,
                started = start => Some(started),
            };
            match started {
                Some(Ok(node)) => self.run(id, node, &alive).await,
                Some(Err(error)) if !disk.is_down() => {
                    self.excuse(id, "does not start", error.message());
                    disk.crash();
                }
                _ => {}
            }
            alive.store(false, Release);
            self.network.unplug(id);
            if disk.is_down() {
                sleep(Duration::from_millis(5 + self.machines[&id].off_ms.load(Relaxed))).await;
                disk.restart();
            }
        }
    }

    /// Gives a node's handles out until it has to end.
    async fn run(&self, id: NodeId, node: Node, alive: &AtomicBool) {
        let handles = Running {
            info: node.info(),
            ingest: node.ingest(),
            reader: node.reader(),
            proofs: node.proofs(),
        };
        self.running.lock().insert(id, handles);
        let ended = tokio::select! {
            biased;
            () = self.power_gone(id) => None,
            ended = node.ended() => Some(ended),
        };
        self.running.lock().remove(&id);
        let disk = self.disk(id);
        match ended {
            Some(Ended::Restart(_)) => {
                self.network.unplug(id);
                if node.stop().await.is_err() {
                    disk.crash();
                }
                return;
            }
            Some(Ended::Failed(why)) if !disk.is_down() => {
                self.excuse(id, "has failed", &why);
                disk.crash();
            }
            _ => {}
        }
        alive.store(false, Release);
        // Nothing reaches its disk or the others any more; this only ends its tasks.
        tokio::spawn(node.stop());
    }

    /// Only a fault that was injected excuses a member that does not go on.
    fn excuse(&self, id: NodeId, what: &str, why: &str) {
        let excused = ["injected", "power is off", "no space", "No space"];
        if !excused.iter().any(|excuse| why.contains(excuse)) {
            self.fail(format!("member {id} {what}: {why}"));
        }
    }

    fn env(self: &Arc<Self>, id: NodeId, alive: &Arc<AtomicBool>) -> Env {
        let cable = Cable {
            inner: Arc::new(self.network.link(id)),
            rng: self.rng.fork(),
            spoils_one_in: self.spoils_one_in,
            alive: alive.clone(),
        };
        Env {
            io: Arc::new(Behind::new(Mounted { disk: self.disk(id).clone(), alive: alive.clone() })),
            clock: Arc::new(MemberClock { started: self.started, ahead_ms: self.machines[&id].ahead_ms }),
            rng: Arc::new(self.rng.fork()),
            network: Arc::new(cable),
        }
    }
}

/// One life's way to the disk: what is left of it after a power cut must not reach the next life's files.
#[derive(Debug)]
struct Mounted {
    disk: SimIo,
    alive: Arc<AtomicBool>,
}

impl Way for Mounted {
    fn disk(&self, _: &Path) -> &dyn Io {
        &self.disk
    }

    fn pass<T>(&self, _: Call, _: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.alive.load(Acquire) { make() } else { Err(io::Error::other("the power is off")) }
    }
}

/// One life's end of the network: whoever has lost its power says nothing more. Parts of segments may be spoiled on
/// their way.
#[derive(Debug)]
struct Cable {
    inner: Arc<dyn Network>,
    rng: SimRng,
    spoils_one_in: u64,
    alive: Arc<AtomicBool>,
}

impl Network for Cable {
    fn serve(&self, lane: Lane, handler: PeerHandler) {
        if self.alive.load(Acquire) {
            self.inner.serve(lane, handler);
        }
    }

    fn call(
        &self,
        peer: NodeId,
        address: &str,
        lane: Lane,
        request: Bytes,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        if !self.alive.load(Acquire) {
            return Box::pin(async { Err(io::ErrorKind::ConnectionReset.into()) });
        }
        let is_for_segments = sim_member::is_for_segments(lane, &request);
        let answer = self.inner.call(peer, address, lane, request);
        if !is_for_segments || self.spoils_one_in == 0 || !self.rng.one_in(self.spoils_one_in) {
            return answer;
        }
        let at = self.rng.next_u64();
        Box::pin(async move { Ok(sim_member::spoiled(&answer.await?, at)) })
    }
}
