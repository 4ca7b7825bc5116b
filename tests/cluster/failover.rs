//! The leader is killed while clients write.

use super::{
    trio::{Trio, common_leader},
    wait::wait_until,
    writers::{Writers, check_has, value},
};

#[test]
fn writes_go_on_without_a_leader_that_was_killed() {
    let mut trio = Trio::start(&[]);
    let mut lives = Vec::new();
    for life in 0..2 {
        let leader = trio.leader();
        let [one, two] = trio.followers();
        let all: Vec<_> = trio.nodes.iter().collect();
        let writers = Writers::start(&format!("life-{life}"), &all);
        writers.wait_more(200);
        trio.nodes[leader].kill();
        let killed = tokio::time::Instant::now();
        writers.wait_more(100);
        println!("100 writes after the leader was killed: {:?}", killed.elapsed());
        let new = common_leader(&[&trio.nodes[one], &trio.nodes[two]]);
        assert_ne!(new, trio.nodes[leader].id());

        trio.nodes[leader].restart();
        writers.wait_more(100);
        let heard = writers.stop();
        assert!(heard.wrong.is_empty(), "{:?}", heard.wrong);
        println!("longest pause of a client {:?}, retried {:?}", heard.longest_pause, heard.retried);
        lives.push(heard);
    }
    let size = trio.wait_same_trees();
    let written: usize = lives.iter().map(|heard| heard.written.len()).sum();
    // Each key once: those answered, and at most one of each client whose last answer nobody waited for.
    assert!((written..=written + 6).contains(&(size as usize)), "{written} were answered, {size} are there");
    for node in &trio.nodes {
        lives.iter().for_each(|heard| check_has(node, heard));
    }
    // Leaders have changed since, and every retry gets its first answer.
    for (key, seq) in lives.iter().flat_map(|heard| heard.written.iter().step_by(20)) {
        for node in &trio.nodes {
            let idempotency = [("Idempotency-Key", key.as_str())];
            let again = node.call("PUT", &format!("/{key}"), &idempotency, value(key).as_bytes()).is(201);
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
            assert_eq!(again.json()["seq"].as_u64(), Some(*seq));
        }
    }
    assert_eq!(trio.wait_same_trees(), size);
}

/// Without a quorum nothing is written, and what is said of that is true.
#[test]
fn a_node_on_its_own_takes_nothing_and_says_so() {
    let mut trio = Trio::start(&[("CONSENSUS_LEADER_PATIENCE", "500ms"), ("LIMITS_WRITE_TIMEOUT", "2s")]);
    trio.nodes[0].put("before", "1");
    let [one, two] = trio.followers();
    let alone = trio.leader();
    trio.nodes[one].kill();
    trio.nodes[two].kill();
    let node = &trio.nodes[alone];
    for _ in 0..2 {
        node.get("/before").is_problem(503, "no-quorum");
    }
    for _ in 0..2 {
        node.call("PUT", "/refused", &[], b"3").is_problem(503, "no-quorum");
    }
    assert_eq!(node.get("/before?consistency=stale").is(200).body, b"1");
    assert_eq!(node.get("/livez").status, 200);

    trio.nodes[one].restart();
    wait_until("two of three take writes", || {
        trio.nodes[one].call("PUT", "/after", &[("Idempotency-Key", "after")], b"2").status == 201
    });
    assert_eq!(trio.nodes[alone].get("/after").is(200).body, b"2");
    trio.nodes[alone].get("/refused").is_problem(404, "not-found");
}
