//! Disks that are full: the leader's alone, and everyone's.

use std::{path::Path, sync::Arc, time::Duration};

use scribe_ledger::{
    config::Config,
    env::{Io, Rng},
    error::Code,
    node::Node,
    raft::Consistency,
    sim::{self, SimIo, SimNetwork, SimRng},
    state::batch::Draft,
    types::{NodeId, Seq},
};
use tokio::time::{Instant, sleep, timeout};

use super::{Answered, MEMBERS, PATIENCE, check, leader, settled, start_on};

/// What is left of a full disk: more than is written here after writes are refused.
const FREE_BYTES: u64 = 3 << 20;

fn with_watermark(id: NodeId) -> Config {
    let mut config = super::config(id);
    config.wal.disk_free_bytes_min = FREE_BYTES + (1 << 20);
    config
}

async fn start(
    disks: &[SimIo],
    config: fn(NodeId) -> Config,
    network: &SimNetwork,
    rng: &SimRng,
) -> Vec<Node> {
    let disks: Vec<Arc<dyn Io>> = disks.iter().map(|disk| Arc::new(disk.clone()) as _).collect();
    start_on(&disks, config, network, rng, 0).await
}

/// Leaves a member's disk with so many free bytes.
fn leave_free(disk: &SimIo, bytes: u64) {
    let all = 1 << 40;
    disk.set_capacity(Some(all));
    let used = all - disk.free_bytes(Path::new("/ledger")).unwrap();
    disk.set_capacity(Some(used + bytes));
}

/// Answered or refused within simulated seconds, where the write timeout is longer.
async fn put_soon(node: &Node, key: &str) -> Result<Seq, Code> {
    let mut draft = Draft::new();
    draft.put(key.as_bytes(), &[7; 2_000]).unwrap();
    let submit = async { node.ingest().permit(0)?.submit(draft).await };
    let answer = timeout(Duration::from_secs(4), submit).await.expect("it is answered soon");
    answer.map(|written| written.first_seq).map_err(|error| error.code())
}

async fn wait_written(node: &Node, key: &str) -> Seq {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match put_soon(node, key).await {
            Ok(seq) => return seq,
            Err(code) => assert!(Instant::now() < give_up, "{key} is not written: {code:?}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A full leader once refused writes for as long as its disk was full, and the others' clients with them.
#[test]
fn a_leader_without_room_hands_over() {
    // Below the watermark, with room for what is on its way; and without a byte left.
    for (config, free) in [(with_watermark as fn(NodeId) -> Config, FREE_BYTES), (super::config, 0)] {
        let runtime = sim::runtime(1);
        runtime.block_on(async {
            let rng = SimRng::new(1);
            let disks: Vec<SimIo> = MEMBERS.iter().map(|_| SimIo::new(rng.next_u64())).collect();
            let network = SimNetwork::new(1, 0);
            let nodes = start(&disks, config, &network, &rng).await;
            settled(&nodes).await;
            let old = leader(&nodes).unwrap();
            let followers = [(old + 1) % 3, (old + 2) % 3];
            for (n, node) in nodes.iter().enumerate() {
                put_soon(node, &format!("before-{n}")).await.unwrap();
            }
            leave_free(&disks[old], free);
            let began = Instant::now();
            let mut n = 0;
            while leader(&nodes[..]) == Some(old) {
                let answer = put_soon(&nodes[followers[n % 2]], &format!("during-{n}")).await;
                assert!(
                    matches!(answer, Ok(_) | Err(Code::DiskFull | Code::OutcomeUnknown | Code::NoQuorum)),
                    "{answer:?}"
                );
                n += 1;
                assert!(began.elapsed() < PATIENCE, "it leads on");
                sleep(Duration::from_millis(20)).await;
            }
            for (n, at) in followers.into_iter().enumerate() {
                wait_written(&nodes[at], &format!("after-{n}")).await;
            }
            if free > 0 {
                wait_written(&nodes[old], "by the full one").await;
                assert_eq!(
                    nodes[old].reader().barrier(Consistency::Linearizable).await.map_err(|e| e.code()),
                    Ok(())
                );
            }
            disks[old].set_capacity(None);
            wait_written(&nodes[old], "freed").await;
            settled(&nodes).await;
            check(&nodes, &Answered::default());
        });
    }
}

#[test]
fn where_nobody_has_room_leadership_stays_and_writes_go_on_when_there_is() {
    let runtime = sim::runtime(1);
    runtime.block_on(async {
        let rng = SimRng::new(1);
        let disks: Vec<SimIo> = MEMBERS.iter().map(|_| SimIo::new(rng.next_u64())).collect();
        let network = SimNetwork::new(1, 0);
        let nodes = start(&disks, with_watermark, &network, &rng).await;
        settled(&nodes).await;
        disks.iter().for_each(|disk| leave_free(disk, FREE_BYTES));
        // It is noticed once a second.
        sleep(Duration::from_secs(2)).await;
        let position = |node: &Node| (node.info().positions().leader_id, node.info().positions().term);
        let before = position(&nodes[0]);
        for n in 0..60 {
            for node in &nodes {
                assert_eq!(put_soon(node, &format!("refused-{n}")).await, Err(Code::DiskFull));
            }
            sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(position(&nodes[0]), before, "nobody can do better, so nobody else is asked to");
        disks.iter().for_each(|disk| disk.set_capacity(None));
        for (n, node) in nodes.iter().enumerate() {
            wait_written(node, &format!("freed-{n}")).await;
        }
        settled(&nodes).await;
        check(&nodes, &Answered::default());
    });
}
