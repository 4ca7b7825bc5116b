//! The same on the machine's own disk and clock, with threads: what a simulation cannot show is whether a node lets
//! go of its files before it begins again in the same process.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use scribe_ledger::{
    config::Config,
    env::{Env, real::real_env},
    node::{Ended, Founding, Node},
    raft::Member,
    sim::SimNetwork,
    state::batch::Draft,
    types::NodeId,
    wal::{Driver, WalOptions},
};
use tokio::time::{Instant, sleep, timeout};

use super::group::{MEMBERS, PATIENCE};

async fn start(id: NodeId, dir: &Path, network: &SimNetwork) -> Node {
    let members: BTreeMap<NodeId, Member> =
        MEMBERS.iter().map(|id| (*id, Member { raft_addr: format!("{id}"), ..Member::default() })).collect();
    let mut config = Config::default();
    config.node.id = id;
    config.node.data_dir = dir.to_path_buf();
    config.storage.tiering.enable_auto_archival = false;
    config.wal.file_bytes = 256 << 10;
    config.wal.keep_bytes = 0;
    config.wal.keep_bytes_for_followers = 256 << 10;
    config.wal.disk_free_bytes_min = 0;
    config.storage.segment_size = 64 << 10;
    let env = Env { network: Arc::new(network.link(id)), ..real_env() };
    let founding = if id == 1 {
        Founding::Group(members)
    } else {
        Founding::Join { cluster_id: "test".into(), incarnation: None }
    };
    let options = WalOptions::new(config.wal.clone(), Driver::Thread);
    Node::start(env, &config, founding, options).await.unwrap()
}

async fn write(node: &Node, records: u64) {
    for number in 0..records / 100 {
        let mut draft = Draft::new();
        for op in 0..100 {
            draft.put(format!("key-{number}-{op}").as_bytes(), &[7; 100]).unwrap();
        }
        node.ingest().permit(0).unwrap().submit(draft).await.unwrap();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_node_begins_again_in_the_same_process() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dirs: Vec<_> = MEMBERS.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    runtime.block_on(async {
        let network = SimNetwork::new(1, 0);
        let starts = MEMBERS.iter().zip(&dirs).map(|(id, dir)| start(*id, dir.path(), &network));
        let mut nodes = futures_util::future::join_all(starts).await;
        let leads = |nodes: &[Node]| nodes.iter().position(|node| node.info().positions().role == "leader");
        until("a leader", || leads(&nodes).is_some()).await;
        let leader = leads(&nodes).unwrap();
        let follower = (leader + 1) % 3;
        for other in MEMBERS.into_iter().filter(|other| *other != MEMBERS[follower]) {
            network.cut(other, MEMBERS[follower]);
            network.cut(MEMBERS[follower], other);
        }
        // Enough segments for several runs of the index.
        write(&nodes[leader], 20_000).await;
        let info = nodes[leader].info();
        until("a short log", || info.wal().1.entries < 150 && info.sealed_sizes().segments > 20).await;
        network.heal();
        let ended = timeout(PATIENCE, nodes[follower].ended()).await.expect("it gets segments");
        let Ended::Restart(why) = ended else { panic!("{ended:?}") };
        assert!(why.contains("segments of member"), "{why}");
        nodes.remove(follower).stop().await.unwrap();
        let again = start(MEMBERS[follower], dirs[follower].path(), &network).await;
        nodes.insert(follower, again);
        let leader = leads(&nodes).unwrap();
        write(&nodes[leader], 1_000).await;
        let positions = |nodes: &[Node]| nodes.iter().map(|node| node.info().applied().0).collect::<Vec<_>>();
        until("the same position", || positions(&nodes) == [21_000; 3]).await;
        let digest = |node: &Node| node.info().state_digest().unwrap();
        assert_eq!(digest(&nodes[leader]), digest(&nodes[follower]));
        let newest = nodes[follower].reader().newest(b"key-199-99").unwrap().unwrap();
        assert_eq!(&newest.value[..], [7; 100]);
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}
