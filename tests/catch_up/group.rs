//! Three members that are started again when they ask for it, or when their disk or power failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use scribe_ledger::{
    config::{Config, WalConfig},
    env::{Env, Lane, Network, PeerHandler, Rng},
    node::{Ended, Node},
    segment::{BlockCache, Segment, file_name},
    sim::{SimIo, SimNetwork, SimRng},
    state::batch::Draft,
    types::{NodeId, SegmentId, Seq},
    verify::Chain,
    wal::{Driver, WalOptions},
};
use tokio::time::{Instant, sleep, timeout};

use super::sim_member::{self, MemberClock, founding};

pub const MEMBERS: [NodeId; 3] = [1, 2, 3];

/// Simulated time within which a group that can work again has to.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const DATA: &str = "/ledger";

/// The network, but one answer in so many of those with bytes of segments comes with a flipped bit.
#[derive(Debug)]
pub struct Spoiling {
    pub inner: Arc<dyn Network>,
    pub rng: SimRng,
    pub one_in: u64,
    pub spoiled: Arc<AtomicU64>,
    pub fetched: Arc<AtomicU64>,
}

impl Network for Spoiling {
    fn serve(&self, lane: Lane, handler: PeerHandler) {
        self.inner.serve(lane, handler);
    }

    fn call(
        &self,
        peer: NodeId,
        address: &str,
        lane: Lane,
        request: Bytes,
    ) -> BoxFuture<'static, std::io::Result<Bytes>> {
        let is_for_segments = sim_member::is_for_segments(lane, &request);
        let answer = self.inner.call(peer, address, lane, request);
        let spoils = is_for_segments && self.one_in > 0 && self.rng.one_in(self.one_in);
        let (at, spoiled, fetched) = (self.rng.next_u64(), self.spoiled.clone(), self.fetched.clone());
        Box::pin(async move {
            let answer = answer.await?;
            fetched.fetch_add(u64::from(is_for_segments), Relaxed);
            if !spoils || answer.len() < 2 {
                return Ok(answer);
            }
            spoiled.fetch_add(1, Relaxed);
            Ok(sim_member::spoiled(&answer, at))
        })
    }
}

pub struct Group {
    pub disks: Vec<SimIo>,
    pub network: SimNetwork,
    pub rng: SimRng,
    pub nodes: Vec<Option<Node>>,
    /// How often each asked to be started again.
    pub restarts: [u64; 3],
    pub keep_bytes_for_followers: u64,
    /// One part in so many is spoiled; none for 0.
    pub spoils_one_in: u64,
    pub spoiled: Arc<AtomicU64>,
    /// Answers about segments.
    pub fetched: Arc<AtomicU64>,
    pub answered: BTreeMap<String, Seq>,
    started: Instant,
}

impl Group {
    /// A group of three, running; the network loses one message in so many.
    pub async fn start(seed: u64, loses_one_in: u64, change: impl FnOnce(&mut Self)) -> Self {
        let rng = SimRng::new(seed);
        let mut group = Self {
            disks: MEMBERS.iter().map(|_| SimIo::new(rng.next_u64())).collect(),
            network: SimNetwork::new(rng.next_u64(), loses_one_in),
            rng,
            nodes: MEMBERS.iter().map(|_| None).collect(),
            restarts: [0; 3],
            keep_bytes_for_followers: 0,
            spoils_one_in: 0,
            spoiled: Arc::default(),
            fetched: Arc::default(),
            answered: BTreeMap::new(),
            started: Instant::now(),
        };
        change(&mut group);
        group.start_missing().await;
        group
    }

    fn config(&self, id: NodeId) -> Config {
        let mut config = sim_member::config(id);
        config.wal = WalConfig {
            file_bytes: 16 << 10,
            tail_bytes_max: 4 << 10,
            keep_bytes: 0,
            keep_bytes_for_followers: self.keep_bytes_for_followers,
            ..config.wal
        };
        config
    }

    /// Starts all that do not run.
    pub async fn start_missing(&mut self) {
        let missing = (0..3).filter(|at| self.nodes[*at].is_none());
        let starts: Vec<_> = missing
            .map(|at| {
                let id = MEMBERS[at];
                let network = Spoiling {
                    inner: Arc::new(self.network.link(id)),
                    rng: self.rng.fork(),
                    one_in: self.spoils_one_in,
                    spoiled: self.spoiled.clone(),
                    fetched: self.fetched.clone(),
                };
                let env = Env {
                    io: Arc::new(self.disks[at].clone()),
                    clock: Arc::new(MemberClock { started: self.started, ahead_ms: 0 }),
                    rng: Arc::new(self.rng.fork()),
                    network: Arc::new(network),
                };
                let founding = founding(id, MEMBERS);
                let config = self.config(id);
                let options = WalOptions::new(config.wal.clone(), Driver::Task);
                let disk = self.disks[at].clone();
                async move {
                    tokio::select! {
                        biased;
                        () = power_gone(&disk) => (at, None),
                        node = Node::start(env, &config, founding, options) => (at, Some(node)),
                    }
                }
            })
            .collect();
        let mut starts = std::pin::pin!(futures_util::future::join_all(starts));
        let started = match timeout(Duration::from_secs(10), &mut starts).await {
            Ok(started) => started,
            Err(_) => {
                // It was cut off, and nobody else goes on while this waits for it.
                self.network.heal();
                timeout(PATIENCE, starts).await.expect("members start")
            }
        };
        for (at, node) in started {
            match node {
                Some(Ok(node)) => self.nodes[at] = Some(node),
                // An accident that was still to come; it is tried again.
                Some(Err(error)) if error.message().contains("injected") => {
                    self.disks[at].crash();
                    self.power_back(at).await;
                }
                None => self.power_back(at).await,
                Some(Err(_)) if self.disks[at].is_down() => self.power_back(at).await,
                Some(Err(error)) => panic!("member {} does not start: {error}", MEMBERS[at]),
            }
        }
    }

    /// Gives a member its power back, when all that ran there has met that it was gone.
    async fn power_back(&self, at: usize) {
        self.network.unplug(MEMBERS[at]);
        sleep(Duration::from_secs(1)).await;
        self.disks[at].restart();
    }

    /// Cuts a member's power, and gives it back.
    pub async fn power_cut(&mut self, at: usize) {
        self.network.unplug(MEMBERS[at]);
        self.disks[at].crash();
        if let Some(node) = self.nodes[at].take() {
            // Nothing reaches its disk any more; this only ends its tasks.
            let _ = node.stop().await;
        }
        self.power_back(at).await;
    }

    /// Starts again who asks for it, or whose disk has failed.
    pub async fn tend(&mut self) {
        for (at, id) in MEMBERS.into_iter().enumerate() {
            let Some(node) = &self.nodes[at] else { continue };
            match node.ended().now_or_never() {
                _ if self.disks[at].is_down() => self.power_cut(at).await,
                None => {}
                Some(Ended::Failed(why)) => {
                    assert!(why.contains("injected"), "member {id} has failed: {why}");
                    self.power_cut(at).await;
                }
                Some(Ended::Restart(_)) => {
                    self.restarts[at] += 1;
                    self.network.unplug(id);
                    let stopped = self.nodes[at].take().unwrap().stop().await;
                    if self.disks[at].is_down() || stopped.is_err() {
                        self.disks[at].crash();
                        self.power_back(at).await;
                    }
                }
            }
        }
        self.start_missing().await;
    }

    pub fn leader(&self) -> Option<usize> {
        let position = |at: usize| self.nodes[at].as_ref().map(|node| node.info().positions());
        let leads = |at: &usize| position(*at).is_some_and(|position| position.role == "leader");
        (0..3).filter(leads).max_by_key(|at| position(*at).map(|position| position.term))
    }

    pub async fn await_leader(&mut self) -> usize {
        for _ in 0..6_000 {
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.tend().await;
            sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody leads");
    }

    /// A member that does not lead.
    pub fn follower(&self) -> usize {
        let leader = self.leader().unwrap_or(0);
        (leader + 1 + self.rng.below(2) as usize) % 3
    }

    /// Cuts a member off from all others.
    pub fn cut_off(&self, at: usize) {
        for other in MEMBERS.into_iter().filter(|other| *other != MEMBERS[at]) {
            self.network.cut(other, MEMBERS[at]);
            self.network.cut(MEMBERS[at], other);
        }
    }

    /// Writes records of about 100 bytes to whoever leads.
    pub async fn write(&mut self, tag: &str, count: u64) {
        for n in 0..count {
            if n % 8 == 0 {
                self.tend().await;
            }
            let value = format!("{tag}-{n}-{}", "x".repeat(80));
            let mut draft = Draft::new();
            draft.put(format!("key-{}", self.rng.below(16)).as_bytes(), value.as_bytes()).unwrap();
            let leader = self.leader().unwrap_or(0);
            let Some(node) = &self.nodes[leader] else { continue };
            let Ok(permit) = node.ingest().permit(0) else {
                sleep(Duration::from_millis(5)).await;
                continue;
            };
            if let Ok(Ok(written)) = timeout(Duration::from_secs(2), permit.submit(draft)).await {
                self.answered.insert(value, written.first_seq);
            }
        }
    }

    /// Begins writes, each an entry of its own, that nobody waits for.
    pub fn begin_writes(&self, at: usize, tag: &str, count: u64) -> Vec<tokio::task::JoinHandle<()>> {
        let node = self.nodes[at].as_ref().unwrap();
        let begin = |n: u64| {
            let (ingest, value) = (node.ingest(), format!("{tag}-{n}"));
            let pause = Duration::from_micros(n * 500);
            tokio::spawn(async move {
                sleep(pause).await;
                let mut draft = Draft::new();
                draft.put(b"key", value.as_bytes()).unwrap();
                if let Ok(permit) = ingest.permit(0) {
                    let _ = permit.submit(draft).await;
                }
            })
        };
        (0..count).map(begin).collect()
    }

    /// The first entry in a member's log.
    pub fn log_begin(&self, at: usize) -> u64 {
        let info = self.nodes[at].as_ref().unwrap().info();
        info.positions().proposed - info.wal().1.entries
    }

    /// Waits until all have applied the same.
    pub async fn settle(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.tend().await;
            let all: Vec<_> = self.nodes.iter().flatten().map(|node| node.info().positions()).collect();
            let applied: BTreeSet<u64> = all.iter().map(|position| position.applied).collect();
            let proposed: BTreeSet<u64> = all.iter().map(|position| position.proposed).collect();
            if all.len() == 3 && self.leader().is_some() && applied.len() == 1 && applied == proposed {
                return;
            }
            assert!(Instant::now() < deadline, "members do not come to the same position: {all:#?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything answered is everywhere, and everybody holds the same ledger, in memory and in files.
    pub fn check(&self) {
        let nodes = || self.nodes.iter().flatten();
        let digests: BTreeSet<_> = nodes().map(|node| node.info().state_digest().unwrap()).collect();
        assert_eq!(digests.len(), 1, "members that applied the same log hold different ledgers");
        for node in nodes() {
            for (value, seq) in &self.answered {
                let record = node.reader().record(*seq).unwrap().map(|record| record.value);
                assert_eq!(record.as_deref(), Some(value.as_bytes()), "answered at {seq} and not there");
            }
        }
        let sealed: Vec<_> = self.disks.iter().map(|disk| sealed(disk).unwrap()).collect();
        for other in &sealed[1..] {
            let both = sealed[0].len().min(other.len());
            assert_eq!(sealed[0][..both], other[..both], "members have different segments");
        }
    }
}

async fn power_gone(disk: &SimIo) {
    while !disk.is_down() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// The digests of a directory's segments, each of which is verified.
pub fn sealed(disk: &SimIo) -> Result<Vec<[u8; 32]>, String> {
    use scribe_ledger::env::{Io, OpenMode};
    let dir = Path::new(DATA).join("segments");
    let (mut chain, mut digests) = (Chain::new(), Vec::new());
    loop {
        let path = dir.join(file_name(SegmentId(chain.segments)));
        if disk.open(&path, OpenMode::Read).is_err() {
            return Ok(digests);
        }
        let cache = Arc::new(BlockCache::new(0));
        let segment = Segment::open(disk, &path, cache).map_err(|error| error.to_string())?;
        segment.verify(|_| ()).map_err(|error| error.to_string())?;
        chain.follow(segment.summary(), &path).map_err(|error| error.to_string())?;
        digests.push(segment.summary().digest);
    }
}
