//! Members that are left alone: they say so, serve what they have, and make nobody wait for what does not come.

use std::{thread, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::{process::call, trio::Trio, wait::wait_until};

/// How soon a write without a quorum has an answer: once it is noticed, and after `consensus.leader_patience`.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn one_of_three_that_starts_alone_serves_what_it_has_and_says_what_it_waits_for() {
    let mut trio = Trio::start(&[("CONSENSUS_LEADER_PATIENCE", "1s")]);
    let leader = trio.leader();
    trio.nodes[leader].put("key", "value");
    trio.wait_same_trees();
    let [away, alone] = trio.followers();
    for node in &trio.nodes {
        node.stop();
    }
    trio.nodes[alone] = trio.nodes[alone].spec.start();
    let node = &trio.nodes[alone];
    wait_until("it serves stale reads", || {
        node.try_call("GET", "/key?consistency=stale", &[], b"").is_ok_and(|answer| answer.status == 200)
    });
    let checkpoint = node.get("/checkpoint");
    assert_eq!(checkpoint.status, 200, "{}", String::from_utf8_lossy(&checkpoint.body));
    for (method, path) in [("GET", "/readyz"), ("GET", "/cluster/leader"), ("GET", "/key"), ("PUT", "/key")] {
        node.call(method, path, &[], b"other").is_problem(503, "no-quorum");
    }
    let why = node.get("/readyz").json()["detail"].as_str().unwrap().to_owned();
    for other in [leader, away] {
        let other = &trio.nodes[other];
        assert!(why.contains(&format!("{} at {}", other.id(), other.spec.raft)), "{why}");
    }
    assert_eq!(node.look("/is-leader").unwrap()["is_leader"], false);

    trio.nodes[away] = trio.nodes[away].spec.start_ready();
    trio.nodes[alone].wait_ready();
    trio.nodes[alone].get("/key").is(200);
    assert_eq!(trio.nodes[alone].get("/key").body, b"value");
}

#[test]
fn a_leader_that_nobody_answers_any_more_says_so_and_lets_nobody_wait() {
    let trio = Trio::start(&[("CONSENSUS_LEADER_PATIENCE", "1s")]);
    let leader = &trio.nodes[trio.leader()];
    let followers = trio.followers().map(|at| &trio.nodes[at]);
    leader.put("before", "value");
    followers.iter().for_each(|node| node.pause());
    // The first may have been proposed before anybody could know; each has an answer soon.
    let asked = Instant::now();
    let writers: Vec<_> = (0..6)
        .map(|n| {
            let addr = leader.spec.http;
            thread::spawn(move || call(addr, ANSWERED_WITHIN, "PUT", &format!("/key{n}"), &[], b"value"))
        })
        .collect();
    for writer in writers {
        let answer = writer.join().unwrap().unwrap();
        let kind = answer.json()["type"].as_str().unwrap_or_default().to_owned();
        assert!(["outcome-unknown", "no-quorum"].contains(&&*kind), "{} {kind}", answer.status);
    }
    println!("answered after {:?}", asked.elapsed());
    wait_until("the leader says that it is alone", || {
        leader.look("/is-leader").is_some_and(|answer| answer["is_leader"] == false)
    });
    leader.get("/readyz").is_problem(503, "no-quorum");
    leader.get("/cluster/leader").is_problem(503, "no-quorum");
    leader.get("/before?consistency=stale").is(200);

    followers.iter().for_each(|node| node.go_on());
    trio.nodes.iter().for_each(|node| node.wait_ready());
    trio.nodes[0].put("after", "value");
}

#[test]
fn a_follower_that_lost_the_others_says_so_too() {
    let mut trio = Trio::start(&[("CONSENSUS_LEADER_PATIENCE", "1s")]);
    trio.nodes[0].put("key", "value");
    trio.wait_same_trees();
    let (leader, [away, left]) = (trio.leader(), trio.followers());
    // Its system goes on to take what is sent to it, so that nothing is refused.
    trio.nodes[leader].pause();
    trio.nodes[away].kill();
    let node = &trio.nodes[left];
    wait_until("it says that there is no quorum", || {
        node.try_call("GET", "/readyz", &[], b"").is_ok_and(|answer| answer.status == 503)
    });
    node.get("/readyz").is_problem(503, "no-quorum");
    node.get("/cluster/leader").is_problem(503, "no-quorum");
    node.get("/key?consistency=stale").is(200);
    trio.nodes[leader].go_on();
    trio.nodes[left].wait_ready();
}

#[test]
fn a_member_that_is_refused_says_why_and_serves_what_it_has() {
    let settings = [("CONSENSUS_LEADER_PATIENCE", "1s"), ("CLUSTER_SECRET", "the members' secret")];
    let trio = Trio::start(&settings);
    let at = trio.followers()[0];
    trio.nodes[0].put("key", "value");
    trio.wait_same_trees();
    trio.nodes[at].stop();
    let other = trio.nodes[at].spec.clone().with(&[("CLUSTER_SECRET", "another one")]).start();
    wait_until("it serves stale reads", || {
        other.try_call("GET", "/key?consistency=stale", &[], b"").is_ok_and(|answer| answer.status == 200)
    });
    wait_until("it says why it is refused", || {
        let ready = other.get("/readyz");
        ready.status == 503 && String::from_utf8_lossy(&ready.body).contains("another cluster secret")
    });
}

#[test]
fn leadership_is_not_given_to_the_dead_and_the_last_quorum_is_not_removed() {
    let mut trio = Trio::start(&[]);
    let leader = trio.leader();
    let [dead, lives] = trio.followers();
    let (dead_id, lives_id) = (trio.nodes[dead].id(), trio.nodes[lives].id());
    trio.nodes[dead].kill();
    let leads = &trio.nodes[leader];
    leads.post("/api/v1/cluster/transfer-leader", &json!({ "to": dead_id })).is_problem(409, "conflict");
    assert_eq!(leads.look("/is-leader").unwrap()["is_leader"], true, "it leads on");
    // Two would vote, one of them dead.
    leads.call("DELETE", &format!("/api/v1/cluster/nodes/{lives_id}"), &[], b"").is_problem(409, "conflict");
    leads.put("key", "value");
    leads.call("DELETE", &format!("/api/v1/cluster/nodes/{dead_id}"), &[], b"").is(200);
    leads.post("/api/v1/cluster/transfer-leader", &json!({ "to": lives_id })).is(200);
    assert_eq!(trio.nodes[lives].look("/is-leader").unwrap()["is_leader"], true);
}
