//! Members are removed, the leader among them, and do not come back by themselves.

use serde_json::json;

use super::{
    process::Spec,
    trio::{Trio, common_leader, wait_members, wait_same_trees},
    writers::{Writers, check_has},
};

#[test]
fn a_follower_and_then_the_leader_are_removed_and_their_ids_are_not_used_again() {
    let trio = Trio::start(&[]);
    let leader = trio.leader();
    let [leaves, stays] = trio.followers();
    let (peers, leaver_id) = (trio.peers(), trio.nodes[leaves].id());
    let writers = Writers::start("key", &[&trio.nodes[leader], &trio.nodes[stays]]);
    writers.wait_more(50);

    let remove =
        |at: usize, id: &str| trio.nodes[at].call("DELETE", &format!("/api/v1/cluster/nodes/{id}"), &[], b"");
    remove(stays, &format!("node{leaver_id}")).is(200);
    let left = [&trio.nodes[leader], &trio.nodes[stays]];
    let mut ids = left.map(|node| node.id());
    ids.sort();
    wait_members(&left, &ids);
    // It hears of it, and does not go on as if it belonged.
    trio.nodes[leaves].wait_says(&format!("node {leaver_id} was removed from this cluster"));
    assert_eq!(trio.nodes[leaves].wait_ended(), Some(1));
    // It is gone already.
    remove(leader, &leaver_id.to_string()).is(200);
    remove(leader, "77").is_problem(404, "not-found");
    remove(leader, "zero").is_problem(400, "malformed");
    writers.wait_more(50);

    // Asked of the leader itself: it hands over first, and the others' clients go on.
    let leader_id = trio.nodes[leader].id();
    let heard = writers.stop();
    assert!(heard.wrong.is_empty(), "{:?}", heard.wrong);
    let writers = Writers::start("other", &[&trio.nodes[stays]]);
    writers.wait_more(50);
    remove(leader, &leader_id.to_string()).is(200);
    assert_eq!(common_leader(&[&trio.nodes[stays]]), trio.nodes[stays].id());
    wait_members(&[&trio.nodes[stays]], &[trio.nodes[stays].id()]);
    writers.wait_more(50);
    let others = writers.stop();
    println!("removing the leader: longest pause {:?}, retried {:?}", others.longest_pause, others.retried);
    assert!(others.wrong.is_empty(), "{:?}", others.wrong);
    // Nobody would have the ledger.
    remove(stays, &trio.nodes[stays].id().to_string()).is_problem(409, "conflict");

    // Nor when it is started again, on its own directory or on another.
    let again = trio.nodes[leaves].spec.start();
    again.wait_says("start it with --rejoin and a new --node-id");
    assert_eq!(again.wait_ended(), Some(1));
    let mut again = Spec::new(trio.home.path(), leaver_id).flags(&["--peers", &peers]);
    again.dir = trio.home.path().join("another");
    let again = again.start();
    again.wait_says(&format!("node {leaver_id} was removed from this cluster"));
    assert!(matches!(again.wait_ended(), Some(1 | 2)));

    // Somebody new takes the place.
    let new = Spec::new(trio.home.path(), 4).flags(&["--peers", &trio.nodes[stays].spec.raft]).start_ready();
    wait_members(&[&trio.nodes[stays], &new], &[trio.nodes[stays].id(), 4]);
    wait_same_trees(&[&trio.nodes[stays], &new]);
    check_has(&new, &heard);
    check_has(&new, &others);
    let taken = json!({ "node_id": leaver_id, "address": new.spec.raft });
    trio.nodes[stays].post("/api/v1/cluster/nodes", &taken).is_problem(409, "conflict");
}
