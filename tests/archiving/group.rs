//! Members on simulated disks with one archive, through storms: whoever leads archives, and whatever happens to it, its
//! successor goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::FutureExt;
use scribe_ledger::{
    archive::Entry,
    config::{Config, WalConfig},
    env::{Clock, Env, Io, Rng},
    node::{Ended, Founding, Node, claim},
    raft::Member,
    sim::{self, Failure, Fault, Op, SimIo, SimNetwork, SimRng},
    state::batch::Draft,
    types::{NodeId, Seq},
    wal::{Driver, WalOptions},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    bucket,
    disks::{ARCHIVE, Disks, ReadOnly},
    way::Behind,
};

/// Simulated time within which what can work again has to.
pub const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug)]
struct GroupClock(Instant);

impl Clock for GroupClock {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.elapsed().as_millis() as u64
    }
}

pub struct Group {
    pub disks: Vec<Disks>,
    pub network: SimNetwork,
    pub rng: SimRng,
    pub nodes: Vec<Option<Node>>,
    pub cluster_id: String,
    /// Members' bound for segments on their disks; none where no file ever leaves.
    local_bytes_max: u64,
    /// How much of the ledger was seen to be archived, by member: it never shrinks while the member lives.
    seen: Vec<Seq>,
    started: Instant,
}

/// What a member's configuration is.
pub fn config(id: NodeId) -> Config {
    let mut config = Config::default();
    config.node.id = id;
    config.node.data_dir = "/ledger".into();
    config.wal = WalConfig {
        file_bytes: 16 << 10,
        group_bytes_max: 16 << 10,
        tail_bytes_max: 4 << 10,
        disk_free_bytes_min: 0,
        ..WalConfig::default()
    };
    config.storage.segment_size = 4 << 10;
    config.storage.segment_age_max = Duration::from_secs(2);
    config.storage.archive_dir = ARCHIVE.into();
    config.storage.tiering.archival_check_interval_secs = 4;
    config.storage.tiering.audit_interval_secs = 30;
    config.consensus.election_timeout_ms = 300;
    config.consensus.heartbeat_interval_ms = 50;
    config
}

impl Group {
    /// So many members; they share an archive, or each has its own.
    pub async fn start(seed: u64, count: u64, shared: bool) -> Self {
        Self::tiered(seed, count, shared, 0).await
    }

    /// The same, with a bound for segments on each member's disk.
    pub async fn tiered(seed: u64, count: u64, shared: bool, local_bytes_max: u64) -> Self {
        let rng = SimRng::new(seed);
        let archive = SimIo::new(rng.next_u64());
        let disks = (0..count).map(|_| {
            let theirs = if shared { archive.clone() } else { SimIo::new(rng.next_u64()) };
            Disks::new(SimIo::new(rng.next_u64()), theirs)
        });
        let mut group = Self {
            disks: disks.collect(),
            network: SimNetwork::new(rng.next_u64(), [0, 200][rng.below(2) as usize]),
            rng,
            nodes: (0..count).map(|_| None).collect(),
            cluster_id: String::new(),
            local_bytes_max,
            seen: vec![Seq(0); count as usize],
            started: Instant::now(),
        };
        group.cluster_id = claim(&group.env(0), &config(1), &group.founding(0)).unwrap().cluster_id;
        group.start_missing().await;
        group
    }

    fn env(&self, at: usize) -> Env {
        Env {
            io: Arc::new(Behind::new(self.disks[at].clone())),
            clock: Arc::new(GroupClock(self.started)),
            rng: Arc::new(self.rng.fork()),
            network: Arc::new(self.network.link(at as u64 + 1)),
        }
    }

    fn founding(&self, at: usize) -> Founding {
        let member = |id: u64| Member { raft_addr: format!("sim:{id}"), ..Member::default() };
        match at {
            0 => Founding::Group((1..=self.disks.len() as u64).map(|id| (id, member(id))).collect()),
            _ => Founding::Join { cluster_id: self.cluster_id.clone(), incarnation: None },
        }
    }

    /// Starts all that do not run.
    pub async fn start_missing(&mut self) {
        let missing: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].is_none()).collect();
        let starts = missing.into_iter().map(|at| {
            let (env, founding, mut config) = (self.env(at), self.founding(at), config(at as u64 + 1));
            config.storage.tiering.local_bytes_max = self.local_bytes_max;
            config.storage.tiering.age_threshold_secs = 0;
            // What was just sealed is not kept in memory.
            config.storage.max_cache_size =
                if self.local_bytes_max > 0 { 0 } else { config.storage.max_cache_size };
            let disk = self.disks[at].own.clone();
            async move {
                let options = WalOptions::new(config.wal.clone(), Driver::Task);
                let gone = async {
                    while !disk.is_down() {
                        sleep(Duration::from_millis(50)).await;
                    }
                };
                tokio::select! {
                    biased;
                    () = gone => (at, None),
                    node = Node::start(env, &config, founding, options) => (at, Some(node)),
                }
            }
        });
        let starts: Vec<_> = starts.collect();
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
                _ if self.disks[at].own.is_down() => self.power_back(at).await,
                Some(Err(error)) => panic!("member {} does not start: {error}", at + 1),
                None => {}
            }
        }
    }

    async fn power_back(&self, at: usize) {
        self.network.unplug(at as u64 + 1);
        sleep(Duration::from_secs(1)).await;
        self.disks[at].route.dies_after.store(0, Relaxed);
        self.disks[at].own.restart();
    }

    /// Cuts a member's power, and gives it back.
    pub async fn power_cut(&mut self, at: usize) {
        self.network.unplug(at as u64 + 1);
        self.disks[at].own.crash();
        if let Some(node) = self.nodes[at].take() {
            // Nothing reaches its disk any more; this only ends its tasks.
            let _ = node.stop().await;
        }
        self.seen[at] = Seq(0);
        self.power_back(at).await;
    }

    /// Starts again whose power has gone. Nobody ends for any other reason.
    pub async fn tend(&mut self) {
        for at in 0..self.nodes.len() {
            if self.disks[at].own.is_down() {
                self.power_cut(at).await;
            } else if let Some(node) = &self.nodes[at] {
                match node.ended().now_or_never() {
                    None => {}
                    Some(Ended::Restart(_)) => self.power_cut(at).await,
                    Some(Ended::Failed(why)) => panic!("member {} has failed: {why}", at + 1),
                }
            }
        }
        self.start_missing().await;
    }

    pub fn leader(&self) -> Option<usize> {
        let position = |at: usize| self.nodes[at].as_ref().map(|node| node.info().positions());
        let leads = |at: &usize| position(*at).is_some_and(|position| position.role == "leader");
        (0..self.nodes.len()).filter(leads).max_by_key(|at| position(*at).map(|position| position.term))
    }

    /// Cuts a member off from all others.
    pub fn cut_off(&self, at: usize) {
        let me = at as u64 + 1;
        for other in (1..=self.nodes.len() as u64).filter(|other| *other != me) {
            self.network.cut(other, me);
            self.network.cut(me, other);
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
            let Some(node) = &self.nodes[self.leader().unwrap_or(0)] else { continue };
            let Ok(permit) = node.ingest().permit(0) else {
                sleep(Duration::from_millis(5)).await;
                continue;
            };
            // Whether it was written is another test's concern.
            let _ = timeout(Duration::from_secs(2), permit.submit(draft)).await;
        }
    }

    /// What is in the archive that this member has: a ledger, whose segments are those of every member, and no member
    /// says that more is there.
    pub async fn check_archive(&mut self, at: usize, claims: bool) -> Vec<Entry> {
        // Its power may have gone meanwhile.
        if self.disks[at].archive.is_down() {
            self.disks[at].archive.restart();
        }
        let archive: Arc<dyn Io> = Arc::new(Behind::new(ReadOnly(self.disks[at].archive.clone())));
        let claimed: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                node.as_ref()
                    .map(|node| (node.proofs().archived_end(), node.info().archived(), node.info().sealed()))
            })
            .collect();
        // What is read after what was claimed has it all.
        let entries = bucket::readable(archive, Path::new(ARCHIVE), &self.cluster_id).await;
        for (member, claimed) in claimed.into_iter().enumerate() {
            let Some((end, archived, sealed)) = claimed else { continue };
            assert!(archived <= sealed, "{archived} are archived and {sealed} sealed");
            assert!(archived >= self.seen[member], "the archive of member {} has shrunk", member + 1);
            self.seen[member] = archived;
            assert!(
                !claims || end.0 <= entries.len() as u64,
                "{end} are said to be there of {}",
                entries.len()
            );
        }
        for node in self.nodes.iter().flatten() {
            for (entry, segment) in entries.iter().zip(node.proofs().segments().iter()) {
                assert_eq!(entry.digest, segment.summary().digest, "segment {}", entry.object.segment);
            }
        }
        entries
    }

    /// Waits until all members have sealed the same and know that it is archived.
    pub async fn settle(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.tend().await;
            let of = |node: &Node| (node.info().applied(), node.info().sealed(), node.info().archived());
            let all: Vec<_> = self.nodes.iter().map(|node| node.as_ref().map(of)).collect();
            let same: BTreeSet<_> = all.iter().flatten().collect();
            let is_done =
                same.iter().all(|(applied, sealed, archived)| sealed == archived && applied == sealed);
            if all.iter().all(Option::is_some) && same.len() == 1 && is_done && self.leader().is_some() {
                return;
            }
            let why: BTreeMap<_, _> = self
                .nodes
                .iter()
                .flatten()
                .map(|node| (node.info().identity.node_id, node.info().archive().now()))
                .collect();
            assert!(Instant::now() < deadline, "what is sealed is not archived: {all:?} {why:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Three members with one archive, through whatever happens.
fn play(seed: u64) -> (u64, u64) {
    sim::runtime(seed).block_on(async {
        let mut group = Group::start(seed, 3, true).await;
        let (mut accidents, mut leaders) = (0, BTreeSet::new());
        for round in 0..8 {
            let (at, leader) = (group.rng.below(3) as usize, group.leader());
            leaders.extend(leader);
            accidents += 1;
            match (group.rng.below(7), leader) {
                (0, Some(leader)) => group.cut_off(leader),
                (1, Some(leader)) => group.power_cut(leader).await,
                // Somewhere between the first write of an object and the entry that names it.
                (2 | 3, Some(leader)) => {
                    group.disks[leader].route.dies_after.store(1 + group.rng.below(60), Relaxed);
                }
                (4, _) => group.disks[at].route.is_cut.store(true, Relaxed),
                (5, _) => {
                    let failure =
                        [Failure::NotDone, Failure::Done, Failure::NoSpace][group.rng.below(3) as usize];
                    group.disks[0].archive.arm(Fault { op: Op::Any, nth: group.rng.below(60), failure });
                }
                (6, _) => {
                    let failure = Failure::Crash;
                    group.disks[0].archive.arm(Fault { op: Op::Any, nth: group.rng.below(60), failure });
                }
                _ => accidents -= 1,
            }
            group.write(&format!("{round}"), 60).await;
            sleep(Duration::from_millis(group.rng.below(3_000))).await;
            if group.disks[0].archive.is_down() {
                group.disks[0].archive.restart();
            }
            group.tend().await;
            group.check_archive(0, true).await;
            if group.rng.one_in(2) {
                group.network.heal();
                group.disks.iter().for_each(|disks| disks.route.is_cut.store(false, Relaxed));
            }
        }
        group.network.heal();
        group.disks[0].archive.disarm();
        group.disks.iter().for_each(|disks| disks.route.is_cut.store(false, Relaxed));
        group.settle().await;
        let entries = group.check_archive(0, true).await;
        let node = group.nodes[0].as_ref().unwrap();
        assert_eq!(entries.last().unwrap().end_seq, node.info().sealed());
        assert_eq!(entries.len(), node.proofs().segments().len());
        let (keys, archive) =
            (node.proofs().keys(), Arc::new(Behind::new(ReadOnly(group.disks[0].archive.clone()))));
        bucket::is_signed(archive, Path::new(ARCHIVE), &group.cluster_id, &entries, &keys).await;
        (accidents, leaders.len() as u64)
    })
}

#[test]
fn three_members_fill_one_archive_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("SIM_SEED") {
        Some(seed) => {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            tracing_subscriber::fmt().without_time().with_env_filter(filter).init();
            seed..seed + 1
        }
        None => 0..number("SIM_SEEDS").unwrap_or(12),
    };
    let (mut accidents, mut leaders) = (0, 0);
    for seed in seeds.clone() {
        let played = std::panic::catch_unwind(|| play(seed));
        let played =
            played.unwrap_or_else(|_| panic!("play it again: SIM_SEED={seed} cargo test --test archiving"));
        accidents += played.0;
        leaders += played.1;
    }
    let count = seeds.count() as u64;
    assert!(
        count < 2 || (accidents > 3 * count && leaders > count),
        "{accidents} accidents, {leaders} leaders"
    );
}

#[test]
fn members_with_private_archives_each_complete_their_own() {
    sim::runtime(9).block_on(async {
        let mut group = Group::start(9, 3, false).await;
        let mut filled = BTreeMap::new();
        for round in 0..6 {
            group.write(&format!("{round}"), 80).await;
            group.settle().await;
            let leader = group.leader().unwrap();
            // A leader completes its own, although what it lacks has been archived elsewhere.
            let deadline = Instant::now() + PATIENCE;
            let sealed = group.nodes[leader].as_ref().unwrap().proofs().segments().len();
            while group.check_archive(leader, false).await.len() < sealed {
                assert!(Instant::now() < deadline, "the archive of member {} stays behind", leader + 1);
                assert_eq!(group.leader(), Some(leader), "nothing has happened to it");
                sleep(Duration::from_millis(100)).await;
            }
            filled.insert(leader, sealed);
            group.power_cut(leader).await;
            sleep(Duration::from_secs(3)).await;
        }
        assert!(filled.len() > 1, "another one has led: {filled:?}");
    });
}
