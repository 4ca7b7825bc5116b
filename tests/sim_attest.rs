//! Members compare what they have sealed: one whose copy has diverged notices and stops, the others go on. And members
//! of two versions: nothing new is in the log before all understand it. And they sign each other's checkpoints, if they
//! hold the same.
//!
//! Three real nodes in one process, on simulated disks, clocks and cables. A copy diverges on its way: one bit of a value
//! in what the leader sends to one member.
//!
//! `SIM_SEED=… cargo test --test sim_attest` plays one seed again.

#[path = "common/sim_member.rs"]
mod sim_member;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use scribe_ledger::{
    env::{Env, Lane, Network, PeerHandler, Rng},
    error::{Error, Result},
    node::{Ended, Node},
    proof::{checkpoint::Checkpoint, note::Note},
    sim::{self, SimIo, SimNetwork, SimRng},
    state::{batch::Draft, settings::FEATURE_LEVEL},
    types::{NodeId, SegmentId, Seq},
    wal::{Driver, WalOptions},
};
use tokio::time::{Instant, sleep, timeout};

use self::sim_member::{MemberClock, founding};

const MEMBERS: [NodeId; 3] = [1, 2, 3];
const SEEDS: u64 = 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// As members are configured.
const SEGMENT_BYTES: u64 = 4 << 10;

/// What a copy diverges by.
const MARK: &[u8] = b"spoil me";

/// The network, but one member gets other bytes than the leader sent it.
#[derive(Debug)]
struct Spoiling {
    inner: Arc<dyn Network>,
    victim: Arc<AtomicU64>,
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
        mut request: Bytes,
    ) -> BoxFuture<'static, std::io::Result<Bytes>> {
        if lane == Lane::Append && peer == self.victim.load(Relaxed) {
            let marks = request.windows(MARK.len()).enumerate().filter(|(_, bytes)| *bytes == MARK);
            let marks: Vec<usize> = marks.map(|(at, _)| at).collect();
            let mut bytes = request.to_vec();
            marks.into_iter().for_each(|at| bytes[at] ^= 1);
            request = bytes.into();
        }
        self.inner.call(peer, address, lane, request)
    }

    fn feature_level(&self, peer: NodeId) -> Option<u32> {
        self.inner.feature_level(peer)
    }
}

struct Group {
    disks: Vec<SimIo>,
    network: SimNetwork,
    rng: SimRng,
    nodes: BTreeMap<NodeId, Node>,
    /// Whose copy diverges.
    victim: Arc<AtomicU64>,
    answered: BTreeMap<String, Seq>,
    started: Instant,
}

impl Group {
    /// Three members of these feature levels.
    async fn start(seed: u64, loses_one_in: u64, levels: [u32; 3]) -> Self {
        let rng = SimRng::new(seed);
        let mut group = Self {
            disks: MEMBERS.iter().map(|_| SimIo::new(rng.next_u64())).collect(),
            network: SimNetwork::new(rng.next_u64(), loses_one_in),
            rng,
            nodes: BTreeMap::new(),
            victim: Arc::default(),
            answered: BTreeMap::new(),
            started: Instant::now(),
        };
        let starts = MEMBERS.into_iter().zip(levels).map(|(id, level)| group.starting(id, level));
        let starts: Vec<_> = starts.collect();
        let started = timeout(PATIENCE, futures_util::future::join_all(starts)).await;
        let started = started.expect("the group forms").into_iter();
        group.nodes = MEMBERS.into_iter().zip(started.map(Result::unwrap)).collect();
        group
    }

    fn starting(&self, id: NodeId, level: u32) -> BoxFuture<'static, Result<Node>> {
        let founding = founding(id, MEMBERS);
        self.network.set_feature_level(id, level);
        let network = Spoiling { inner: Arc::new(self.network.link(id)), victim: self.victim.clone() };
        let env = Env {
            io: Arc::new(self.disks[id as usize - 1].clone()),
            clock: Arc::new(MemberClock { started: self.started, ahead_ms: 0 }),
            rng: Arc::new(self.rng.fork()),
            network: Arc::new(network),
        };
        let mut config = sim_member::config(id);
        // Whoever founds alone names the log after a cluster that the others have not heard of.
        config.ledger.origin = "sim".into();
        let options = WalOptions::new(config.wal.clone(), Driver::Task);
        Box::pin(async move { Node::start_at_level(env, &config, founding, options, level).await })
    }

    /// Begins a member again, that has been stopped.
    async fn restart(&mut self, id: NodeId, level: u32) {
        let node = timeout(PATIENCE, self.starting(id, level)).await.expect("it starts in time").unwrap();
        self.nodes.insert(id, node);
    }

    async fn stop(&mut self, id: NodeId) {
        self.network.unplug(id);
        if let Some(node) = self.nodes.remove(&id) {
            node.stop().await.unwrap();
        }
    }

    async fn power_cut(&mut self, id: NodeId) {
        self.network.unplug(id);
        self.disks[id as usize - 1].crash();
        if let Some(node) = self.nodes.remove(&id) {
            // Nothing reaches its disk any more; this only ends its tasks.
            let _ = node.stop().await;
        }
        sleep(Duration::from_secs(1)).await;
        self.disks[id as usize - 1].restart();
    }

    fn leader(&self) -> Option<NodeId> {
        let leads = |(_, node): &(&NodeId, &Node)| node.info().positions().role == "leader";
        let newest = self.nodes.iter().filter(leads).max_by_key(|(_, node)| node.info().positions().term);
        newest.map(|(id, _)| *id)
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let all: Vec<_> = self.nodes.values().map(|node| node.info().positions()).collect();
            let attested: Vec<_> = self.nodes.values().map(|node| node.proofs().attested_end()).collect();
            assert!(Instant::now() < deadline, "not in time: {what}; {attested:?} {all:#?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes about so many segments' worth of records to whoever leads.
    async fn write_segments(&mut self, tag: &str, count: u64) {
        for n in 0..count * SEGMENT_BYTES / 256 {
            self.write(&format!("{tag}-{n}-{}", "x".repeat(256))).await;
        }
    }

    async fn write(&mut self, value: &str) {
        let mut draft = Draft::new();
        draft.put(format!("key-{}", self.rng.below(8)).as_bytes(), value.as_bytes()).unwrap();
        let Some(node) = self.leader().and_then(|leader| self.nodes.get(&leader)) else {
            return sleep(Duration::from_millis(20)).await;
        };
        let Ok(permit) = node.ingest().permit(0) else { return };
        if let Ok(Ok(written)) = timeout(Duration::from_secs(3), permit.submit(draft)).await {
            self.answered.insert(value.to_owned(), written.first_seq);
        }
    }

    /// Waits until all that run have the same log, and every segment is attested everywhere.
    async fn settle(&self) {
        self.until("all apply the same", |group| {
            let positions = || group.nodes.values().map(|node| node.info().positions());
            let ends: BTreeSet<u64> = positions().flat_map(|at| [at.applied, at.proposed]).collect();
            group.leader().is_some() && ends.len() == 1
        })
        .await;
        self.until("all is attested", |group| {
            let newest = group.nodes.values().map(|node| node.proofs().segments().len()).max().unwrap();
            let attested = |node: &Node| node.proofs().attested_end() == SegmentId(newest as u64);
            group.nodes.values().all(attested)
        })
        .await;
    }

    /// Waits until every member's checkpoint of all there is has been signed by all that run; keys are the same.
    async fn settle_signatures(&self) {
        self.until("all have signed", |group| {
            group.nodes.iter().all(|(id, node)| {
                let others = group.nodes.keys().filter(|other| *other != id).copied();
                let signed = node.proofs().checkpoint();
                signed.is_some_and(|signed| {
                    signed.size == node.info().applied() && signed.cosigners == others.collect()
                })
            })
        })
        .await;
        let keys: Vec<_> = self.nodes.values().map(|node| node.proofs().keys()).collect();
        for node in self.nodes.values() {
            assert_eq!(node.proofs().keys(), keys[0], "members name different keys");
            let signed = node.proofs().checkpoint().unwrap();
            let note = Note::parse(signed.note.as_bytes()).unwrap();
            let (checkpoint, signers) = Checkpoint::open(&note, &keys[0]).unwrap();
            assert_eq!((checkpoint.size(), *checkpoint.root()), (signed.size.0, signed.root));
            assert_eq!(signers.len(), self.nodes.len(), "{note}");
        }
    }

    /// Those that run hold the same, and all that was answered.
    fn check(&self) {
        let digests: BTreeSet<_> =
            self.nodes.values().map(|node| node.info().state_digest().unwrap()).collect();
        assert_eq!(digests.len(), 1, "members that applied the same log hold different ledgers");
        for (value, seq) in &self.answered {
            for node in self.nodes.values() {
                let record = node.reader().record(*seq).unwrap().map(|record| record.value);
                assert_eq!(record.as_deref(), Some(value.as_bytes()), "answered at {seq} and not there");
            }
        }
    }
}

fn failed(node: &Node) -> Option<String> {
    match node.ended().now_or_never()? {
        Ended::Failed(why) => Some(why),
        Ended::Restart(why) => panic!("it wants to begin again: {why}"),
    }
}

fn expect_diverged(why: &str) {
    assert!(why.contains("this member's copy has diverged") && why.contains("--rejoin"), "{why}");
}

/// Plays a function with every seed, or with the one that is asked for.
fn with_seeds(play: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("SIM_SEED") {
        Some(seed) => {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            let _ = tracing_subscriber::fmt().without_time().with_env_filter(filter).try_init();
            seed..seed + 1
        }
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let played = std::panic::catch_unwind(|| play(seed));
        played.unwrap_or_else(|_| panic!("play it again: SIM_SEED={seed} cargo test --test sim_attest"));
    }
}

#[test]
fn a_member_that_has_diverged_stops_and_the_others_go_on() {
    with_seeds(|seed| {
        sim::runtime(seed).block_on(async {
            let mut group = Group::start(seed, [0, 200][seed as usize % 2], [FEATURE_LEVEL; 3]).await;
            group.write_segments("before", 2).await;
            group.until("there is a leader", |group| group.leader().is_some()).await;
            let leader = group.leader().unwrap();
            let others: Vec<NodeId> = MEMBERS.into_iter().filter(|id| *id != leader).collect();
            let victim = others[group.rng.below(2) as usize];
            group.victim.store(victim, Relaxed);
            let mark = std::str::from_utf8(MARK).unwrap();
            while !group.answered.contains_key(mark) {
                group.write(mark).await;
            }
            let spoiled_in = group.nodes[&leader].proofs().segments().len();
            // Or the quorum would be those who have it from the one that is wrong.
            let spoiled = group.answered[mark];
            let has_it = |node: &Node| node.info().applied() > spoiled;
            group.until("all have it", |group| group.nodes.values().all(has_it)).await;
            if group.rng.one_in(3) {
                // The one that is wrong leads: it is asked what it has like any other.
                let _ = group.nodes[&leader].info().consensus().transfer_leadership(victim, PATIENCE).await;
            }
            group
                .until("somebody sees that trees differ", |group| {
                    group.nodes.iter().any(|(id, node)| *id != victim && node.info().disputes() > 0)
                        || failed(&group.nodes[&victim]).is_some()
                })
                .await;
            for (id, node) in group.nodes.iter().filter(|(id, _)| **id != victim) {
                let signed = node.proofs().checkpoint().unwrap();
                let by_victim = signed.cosigners.contains(&victim);
                assert!(signed.size <= spoiled || !by_victim, "the other history is signed for {id}");
            }
            group.write_segments("after", 2).await;
            group.until("it stops", |group| failed(&group.nodes[&victim]).is_some()).await;
            let why = failed(&group.nodes[&victim]).unwrap();
            expect_diverged(&why);
            let segment = why.split("segment ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
            let segment: usize = segment.parse().unwrap();
            assert!(
                segment <= spoiled_in + 1,
                "noticed late, at segment {segment}, and spoiled in {spoiled_in}"
            );
            // What it was sent is on its disk: it does not come back.
            group.network.unplug(victim);
            let _ = group.nodes.remove(&victim).unwrap().stop().await;
            let again = timeout(PATIENCE, group.starting(victim, FEATURE_LEVEL)).await;
            match again.expect("the start comes to an end") {
                Err(error) => expect_diverged(error.message()),
                // It had not known that as much was committed, and hears it from the leader.
                Ok(node) => {
                    group.nodes.insert(victim, node);
                    group.until("it stops again", |group| failed(&group.nodes[&victim]).is_some()).await;
                    expect_diverged(&failed(&group.nodes[&victim]).unwrap());
                    group.network.unplug(victim);
                    let _ = group.nodes.remove(&victim).unwrap().stop().await;
                }
            }
            group.write_segments("without it", 1).await;
            group.settle().await;
            group.settle_signatures().await;
            group.check();
            assert!(group.answered.len() > 30, "the others did not go on");
        });
    });
}

#[test]
fn whole_copies_are_attested_whatever_happens_to_members() {
    with_seeds(|seed| {
        sim::runtime(seed).block_on(async {
            let mut group = Group::start(seed, [0, 50, 200][seed as usize % 3], [FEATURE_LEVEL; 3]).await;
            for round in 0..4 {
                let id = MEMBERS[group.rng.below(3) as usize];
                match group.rng.below(3) {
                    0 => group.power_cut(id).await,
                    1 => group.stop(id).await,
                    _ => MEMBERS.into_iter().for_each(|other| group.network.cut(id, other)),
                }
                group.write_segments(&format!("{round}"), 1 + group.rng.below(3)).await;
                group.network.heal();
                if !group.nodes.contains_key(&id) {
                    group.restart(id, FEATURE_LEVEL).await;
                }
                let why = group.nodes.values().find_map(failed);
                assert_eq!(why, None, "a member that holds the same has stopped");
            }
            group.write_segments("last", 2).await;
            group.settle().await;
            group.check();
            // What is attested is known again after everything has been started again.
            let attested = group.nodes[&1].proofs().attested_end();
            assert!(attested > SegmentId(2), "{attested}");
            for id in MEMBERS {
                group.power_cut(id).await;
                group.restart(id, FEATURE_LEVEL).await;
            }
            group.settle().await;
            assert!(group.nodes.values().all(|node| node.proofs().attested_end() >= attested));
            group.settle_signatures().await;
            let disputes: u64 = group.nodes.values().map(|node| node.info().disputes()).sum();
            assert_eq!(disputes, 0, "members that hold the same have different trees");
        });
    });
}

#[test]
fn nothing_new_is_in_the_log_until_all_members_are_upgraded() {
    with_seeds(|seed| {
        sim::runtime(seed).block_on(async {
            let mut group = Group::start(seed, [0, 200][seed as usize % 2], [1; 3]).await;
            let levels = |group: &Group| -> BTreeSet<u32> {
                let settings = group.nodes.values().map(|node| node.info().settings().unwrap());
                settings.map(|settings| settings.feature_level).collect()
            };
            group.write_segments("old", 2).await;
            let first = group.rng.below(3);
            for turn in 0..3 {
                assert_eq!(levels(&group), BTreeSet::from([1]), "a member is not upgraded yet");
                let attested = group.nodes.values().map(|node| node.proofs().attested_end());
                assert_eq!(attested.max(), Some(SegmentId(0)));
                for node in group.nodes.values() {
                    let signed = node.proofs().checkpoint();
                    let is_alone = signed.is_none_or(|signed| signed.cosigners.is_empty());
                    assert!(is_alone, "an old build would not understand the question");
                    assert_eq!(node.proofs().keys().len(), 1);
                }
                let id = MEMBERS[((first + turn) % 3) as usize];
                group.stop(id).await;
                group.write_segments(&format!("one away {turn}"), 1).await;
                // One that is away may come back as it was.
                sleep(Duration::from_secs(3)).await;
                assert_eq!(levels(&group), BTreeSet::from([1]), "a member is away");
                group.restart(id, FEATURE_LEVEL).await;
                group.write_segments(&format!("one new {turn}"), 1).await;
                if turn < 2 {
                    sleep(Duration::from_secs(3)).await;
                }
            }
            group.until("the level rises", |group| levels(group) == BTreeSet::from([FEATURE_LEVEL])).await;
            group.write_segments("new", 1).await;
            group.settle().await;
            group.settle_signatures().await;
            group.check();
            // There is no way back.
            let id = MEMBERS[group.rng.below(3) as usize];
            group.stop(id).await;
            let why = match timeout(PATIENCE, group.starting(id, 1)).await.expect("it comes to an end") {
                Err(error) => error,
                Ok(_) => panic!("an old build runs a ledger of level {FEATURE_LEVEL}"),
            };
            assert!(Error::message(&why).contains("run a newer scribe-node"), "{why}");
        });
    });
}

#[test]
fn an_old_build_does_not_take_part_in_a_newer_ledger() {
    sim::runtime(1).block_on(async {
        let rng = SimRng::new(1);
        let group = Group {
            disks: MEMBERS.iter().map(|_| SimIo::new(rng.next_u64())).collect(),
            network: SimNetwork::new(1, 0),
            rng,
            nodes: BTreeMap::new(),
            victim: Arc::default(),
            answered: BTreeMap::new(),
            started: Instant::now(),
        };
        let starts =
            [(1, FEATURE_LEVEL), (2, FEATURE_LEVEL), (3, 1)].map(|(id, level)| group.starting(id, level));
        let [one, two, old] = <[Result<Node>; 3]>::try_from(
            timeout(PATIENCE, futures_util::future::join_all(starts))
                .await
                .expect("all starts come to an end"),
        )
        .ok()
        .unwrap();
        let (mut group, why) = match old {
            Err(error) => (group, error.to_string()),
            // It has heard of the settings after it began.
            Ok(node) => {
                let why = timeout(PATIENCE, node.ended()).await.expect("it stops");
                (group, format!("{why:?}"))
            }
        };
        assert!(why.contains("run a newer scribe-node"), "{why}");
        group.network.unplug(3);
        group.nodes = [(1, one.unwrap()), (2, two.unwrap())].into();
        group.write_segments("without it", 2).await;
        group.settle().await;
        group.check();
    });
}
