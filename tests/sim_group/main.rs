//! Three real nodes in one process, on simulated disks, clocks and cables: what one voter promises, three
//! keep. Leaders are cut off, messages are lost, the power goes everywhere at once, and afterwards all three
//! hold the same ledger with everything in it that was answered.
//!
//! `SIM_SEED=… cargo test --test sim_group` plays one seed again.

mod full;
#[path = "../common/sim_member.rs"]
mod sim_member;
mod slow;
#[path = "../common/way.rs"]
mod way;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use scribe_ledger::{
    config::Config,
    env::{Env, Io, Rng},
    error::Code,
    node::Node,
    raft::Consistency,
    sim::{self, SimIo, SimNetwork, SimRng},
    state::batch::{Condition, Draft},
    types::{NodeId, Seq},
    wal::{Driver, WalOptions},
};
use tokio::time::{Instant, sleep, timeout};

use self::sim_member::{MemberClock, config, founding};

const MEMBERS: [NodeId; 3] = [1, 2, 3];
const SEEDS: u64 = 100;
/// Simulated time within which a group that can work again has to.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answered writes: value and position.
type Answered = Arc<Mutex<BTreeMap<String, Seq>>>;

async fn start_all(disks: &[SimIo], network: &SimNetwork, rng: &SimRng, ahead_ms: u64) -> Vec<Node> {
    let disks: Vec<Arc<dyn Io>> = disks.iter().map(|disk| Arc::new(disk.clone()) as _).collect();
    start_on(&disks, config, network, rng, ahead_ms).await
}

/// Three members with nothing in their ledger and no trouble ahead.
async fn three() -> (SimNetwork, Vec<Node>) {
    let rng = SimRng::new(1);
    let disks: Vec<SimIo> = MEMBERS.iter().map(|_| SimIo::new(rng.next_u64())).collect();
    let network = SimNetwork::new(1, 0);
    let nodes = start_all(&disks, &network, &rng, 0).await;
    (network, nodes)
}

async fn start_on(
    disks: &[Arc<dyn Io>],
    config: fn(NodeId) -> Config,
    network: &SimNetwork,
    rng: &SimRng,
    ahead_ms: u64,
) -> Vec<Node> {
    let started = Instant::now();
    let starts = MEMBERS.iter().zip(disks).map(|(&id, disk)| {
        let env = Env {
            io: disk.clone(),
            clock: Arc::new(MemberClock { started, ahead_ms }),
            rng: Arc::new(rng.fork()),
            network: Arc::new(network.link(id)),
        };
        let founding = founding(id, MEMBERS);
        async move {
            let config = config(id);
            let options = WalOptions::new(config.wal.clone(), Driver::Task);
            Node::start(env, &config, founding, options).await.unwrap()
        }
    });
    timeout(PATIENCE, futures_util::future::join_all(starts)).await.expect("the group forms")
}

fn leader(nodes: &[Node]) -> Option<usize> {
    let leads = |node: &Node| node.info().positions().role == "leader";
    // A leader that was cut off may not know yet; the highest term is the one that counts.
    (0..nodes.len()).filter(|&n| leads(&nodes[n])).max_by_key(|&n| nodes[n].info().positions().term)
}

/// Writes values that nobody else writes, each to some member, until `count` were tried.
async fn write_some(nodes: &[Node], rng: &SimRng, answered: &Answered, tag: &str, count: u64) {
    for n in 0..count {
        sleep(Duration::from_micros(rng.below(30_000))).await;
        let value = format!("{tag}-{n}");
        let mut draft = Draft::new();
        draft.put(format!("key-{}", rng.below(8)).as_bytes(), value.as_bytes()).unwrap();
        let at = rng.below(3) as usize;
        let Ok(permit) = nodes[at].ingest().permit(0) else { continue };
        if let Ok(Ok(written)) = timeout(Duration::from_secs(3), permit.submit(draft)).await {
            answered.lock().unwrap().insert(value, written.first_seq);
        }
    }
}

async fn settled(nodes: &[Node]) {
    let same = async {
        loop {
            let applied: BTreeSet<u64> = nodes.iter().map(|node| node.info().positions().applied).collect();
            let proposed: BTreeSet<u64> = nodes.iter().map(|node| node.info().positions().proposed).collect();
            if leader(nodes).is_some() && applied.len() == 1 && applied == proposed {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let positions = || nodes.iter().map(|node| node.info().positions()).collect::<Vec<_>>();
    let same = timeout(PATIENCE, same).await;
    assert!(same.is_ok(), "members do not come to the same position after the faults: {:#?}", positions());
}

fn check(nodes: &[Node], answered: &Answered) {
    let digests: BTreeSet<_> = nodes.iter().map(|node| node.info().state_digest().unwrap()).collect();
    assert_eq!(digests.len(), 1, "members that applied the same log hold different ledgers");
    for node in nodes {
        for (value, seq) in answered.lock().unwrap().iter() {
            let record = node.reader().record(*seq).unwrap().map(|record| record.value);
            assert_eq!(record.as_deref(), Some(value.as_bytes()), "answered at {seq} and not there");
        }
    }
}

fn play(seed: u64) -> (usize, Vec<u64>) {
    let rng = SimRng::new(seed);
    let disks: Vec<SimIo> = MEMBERS.iter().map(|_| SimIo::new(rng.next_u64())).collect();
    let answered = Answered::default();
    for life in 0..2 + rng.below(2) {
        let runtime = sim::runtime(rng.next_u64());
        runtime.block_on(async {
            let network = SimNetwork::new(rng.next_u64(), [0, 50, 200][rng.below(3) as usize]);
            let nodes = start_all(&disks, &network, &rng, life * 1_000_000).await;
            for round in 0..3 {
                match (rng.below(3), leader(&nodes)) {
                    // The leader hears and is heard by nobody.
                    (0, Some(old)) => {
                        let old = MEMBERS[old];
                        for other in MEMBERS.into_iter().filter(|&other| other != old) {
                            network.cut(old, other);
                            network.cut(other, old);
                        }
                    }
                    // One direction of one cable.
                    (1, _) => {
                        let from = rng.below(3);
                        network.cut(MEMBERS[from as usize], MEMBERS[((from + 1) % 3) as usize]);
                    }
                    _ => {}
                }
                write_some(&nodes, &rng, &answered, &format!("{life}-{round}"), 12).await;
                network.heal();
            }
            settled(&nodes).await;
            check(&nodes, &answered);
            // A linearizable read anywhere but at the leader is refused or right, never stale.
            let at = leader(&nodes).unwrap();
            nodes[at]
                .reader()
                .barrier(Consistency::Linearizable)
                .await
                .expect("the leader confirms that it leads");
            if rng.one_in(2) {
                for node in nodes {
                    node.stop().await.unwrap();
                }
            }
        });
        drop(runtime);
        for disk in &disks {
            disk.crash();
            disk.restart();
        }
    }
    let count = answered.lock().unwrap().len();
    (count, disks.iter().map(SimIo::trace).collect())
}

#[test]
fn three_members_keep_what_was_answered() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("SIM_SEED") {
        Some(seed) => {
            // What led there can be read with RUST_LOG.
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            tracing_subscriber::fmt().without_time().with_env_filter(filter).init();
            seed..seed + 1
        }
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let played = std::panic::catch_unwind(|| play(seed));
        let (answered, _) =
            played.unwrap_or_else(|_| panic!("play it again: SIM_SEED={seed} cargo test --test sim_group"));
        assert!(answered > 0, "seed {seed}: not one write was answered");
    }
}

#[test]
fn a_seed_is_the_same_history_every_time() {
    assert_eq!(play(5), play(5));
}

#[test]
fn every_member_takes_writes_and_answers_linearizable_reads() {
    let runtime = sim::runtime(1);
    runtime.block_on(async {
        let (_network, nodes) = three().await;
        for (n, node) in nodes.iter().enumerate() {
            let value = format!("value-{n}");
            let mut draft = Draft::new();
            draft.put(b"key", value.as_bytes()).unwrap();
            let written = node.ingest().permit(0).unwrap().submit(draft).await.unwrap();
            for reader in nodes.iter().map(Node::reader) {
                reader.barrier(Consistency::Linearizable).await.unwrap();
                let newest = reader.newest(b"key").unwrap().unwrap();
                assert_eq!((&newest.value[..], newest.seq), (value.as_bytes(), written.first_seq));
            }
        }
    });
}

#[test]
fn a_write_refused_by_condition_is_told_so_through_a_follower() {
    let runtime = sim::runtime(1);
    runtime.block_on(async {
        let (_network, nodes) = three().await;
        settled(&nodes).await;
        let follower = &nodes[(leader(&nodes).unwrap() + 1) % 3];
        let put = |condition| async move {
            let mut draft = Draft::new();
            draft.put(b"key", b"value").unwrap();
            draft.set_condition(condition);
            follower.ingest().permit(0).unwrap().submit(draft).await
        };
        let written = put(Condition::Absent).await.unwrap();
        let refused = put(Condition::Absent).await.unwrap_err();
        assert_eq!(refused.code(), Code::PreconditionFailed);
        put(Condition::At(written.first_seq.0)).await.unwrap();
    });
}

#[test]
fn members_that_are_cut_off_refuse_reads_and_writes() {
    let runtime = sim::runtime(1);
    runtime.block_on(async {
        let (network, nodes) = three().await;
        settled(&nodes).await;
        for at in 0..3 {
            for other in MEMBERS.into_iter().filter(|&other| other != MEMBERS[at]) {
                network.cut(MEMBERS[at], other);
                network.cut(other, MEMBERS[at]);
            }
            let read = timeout(PATIENCE, nodes[at].reader().barrier(Consistency::Linearizable)).await;
            let refused = read.expect("it gives up within its patience").unwrap_err();
            assert_eq!(refused.code(), Code::NoQuorum, "{refused}");
            let mut draft = Draft::new();
            draft.put(b"key", b"value").unwrap();
            let write = timeout(PATIENCE, nodes[at].ingest().permit(0).unwrap().submit(draft)).await;
            if let Ok(written) = write {
                let refused = written.unwrap_err().code();
                assert!(matches!(refused, Code::NoQuorum | Code::OutcomeUnknown), "{refused:?}");
            }
            network.heal();
            settled(&nodes).await;
        }
    });
}
