//! One node's disk becomes full, then everyone's, then there is room again.
//!
//! ```text
//!  free ─┬─ at the start
//!        ├─ node 1 takes no writes below this ◄── first filling
//!        ├─ the others neither                ◄── second filling
//!        └─ 0: nobody comes near
//! ```

use serde_json::json;
use tokio::time::Instant;

use super::{
    filling::{Disk, Filling, free_bytes},
    process::{Node, Spec},
    trio::{Trio, common_leader, founders},
    wait::wait_until,
    writers::{Writers, check_has},
};

/// How long a client waits for a refusal, where the configuration would let a write wait for ten times as long.
const SOON_MS: u128 = 5_000;

/// Three nodes, node 1 leading, of which node 1 is the first to run out of room; and the step to that.
fn start() -> (Trio, u64) {
    let Disk { home, step_bytes } = Disk::find();
    let free = free_bytes(home.path());
    let levels = |id| free - step_bytes * if id == 1 { 1 } else { 3 };
    let specs = founders(home.path(), 3, &[("LIMITS_WRITE_TIMEOUT", "50s")]);
    let start = |spec: &Spec| {
        let min = levels(spec.id).to_string();
        spec.clone().with(&[("WAL_DISK_FREE_BYTES_MIN", &min)]).start()
    };
    let nodes: Vec<Node> = specs.iter().map(start).collect();
    nodes.iter().for_each(Node::wait_ready);
    let trio = Trio { nodes, home };
    make_first_lead(&trio);
    (trio, step_bytes)
}

fn make_first_lead(trio: &Trio) {
    trio.nodes[1].post("/api/v1/cluster/transfer-leader", &json!({"to": 1})).is(200);
    wait_until("node 1 leads", || trio.leader() == 0);
}

fn term(node: &Node) -> u64 {
    node.status().unwrap()["term"].as_u64().unwrap()
}

#[test]
fn a_leader_without_room_hands_over_and_where_nobody_has_room_everybody_says_so() {
    let (trio, step_bytes) = start();
    let path = trio.home.path().join("filling");
    let all: Vec<&Node> = trio.nodes.iter().collect();
    let [first, others @ ..] = &all[..] else { unreachable!() };
    first.put("before", "value");

    let writers = Writers::start("one", &all);
    writers.wait_more(100);
    let filling = Filling::of(&path, 2 * step_bytes);
    let full = Instant::now();
    common_leader(others);
    println!("leadership passed {:?} after the disk was full", full.elapsed());
    // Those at the full node, too: it sends them on.
    writers.wait_more(300);
    let heard = writers.stop();
    println!("longest pause of a client {:?}, retried {:?}", heard.longest_pause, heard.retried);
    assert!(heard.wrong.is_empty(), "{:?}", heard.wrong);
    assert_eq!(heard.retried.get(&504), None, "whoever was refused was refused in time");
    assert_eq!(first.get("/before").is(200).body, b"value");
    first.put("at-the-full-one", "value");
    // It is given the lead, and does not keep it.
    others[0].post("/api/v1/cluster/transfer-leader", &json!({"to": 1}));
    wait_until("the full node does not lead", || common_leader(&all) != 1);
    trio.wait_same_trees();

    // From here on nobody can take over.
    let leader = common_leader(&all);
    let before = all.iter().map(|node| term(node)).max();
    drop(filling);
    let filling = Filling::of(&path, 4 * step_bytes);
    wait_until("writes are refused", || others[0].call("PUT", "/key", &[], b"value").status == 503);
    let refused_from = Instant::now();
    while refused_from.elapsed().as_secs() < 4 {
        for node in &all {
            let asked = Instant::now();
            let document = node.call("PUT", "/refused", &[], b"value").is_problem(503, "disk-full");
            assert!(document["detail"].as_str().unwrap().contains("nothing was written"), "{document}");
            assert!(asked.elapsed().as_millis() < SOON_MS, "{:?}", asked.elapsed());
            assert_eq!(node.get("/before").is(200).body, b"value");
        }
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
    assert_eq!(
        (common_leader(&all), all.iter().map(|node| term(node)).max()),
        (leader, before),
        "leadership is kept"
    );
    wait_until("the leader says why", || {
        all.iter().any(|node| node.said().contains("no other voter that has room"))
    });

    drop(filling);
    let freed = Instant::now();
    let writers = Writers::start("two", &all);
    writers.wait_more(100);
    println!("100 writes {:?} after there was room again", freed.elapsed());
    let more = writers.stop();
    assert!(more.wrong.is_empty(), "{:?}", more.wrong);
    make_first_lead(&trio);
    first.put("after", "value");
    trio.wait_same_trees();
    first.get("/refused").is_problem(404, "not-found");
    for node in &all {
        check_has(node, &heard);
        check_has(node, &more);
    }
}
