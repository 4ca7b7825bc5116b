//! Nodes that do not belong to the cluster, and what they and the members say of it.

use std::process::Command;

use super::{
    process::{Node, Spec},
    trio::Trio,
    wait::wait_until,
};

const SECRET: (&str, &str) = ("CLUSTER_SECRET", "the members' secret");

#[test]
fn strangers_are_refused_with_the_reason_and_the_cluster_goes_on() {
    let trio = Trio::start(&[SECRET]);
    trio.nodes[0].put("key", "value");
    let home = trio.home.path();
    let peers = trio.peers();

    // Another secret: it waits, and both ends say why.
    let thief = Spec::new(home, 4).flags(&["--peers", &peers]).with(&[("CLUSTER_SECRET", "a guess")]).start();
    thief.wait_says("another cluster secret");
    wait_until("a member says it, too", || trio.nodes.iter().any(|node| node.said().contains("secret")));
    let waits = thief.try_call("GET", "/readyz", &[], b"").unwrap();
    // Nobody keeps a connection to a node that waits: its server goes when it is ready.
    assert_eq!((waits.status, waits.header("connection")), (503, Some("close")));
    drop(thief);

    // An id that is taken.
    let mut double = Spec::new(home, 2).flags(&["--peers", &peers]).with(&[SECRET]);
    double.dir = home.join("double");
    let double = double.start();
    double.wait_says("node id 2 belongs to another member");
    assert!(matches!(double.wait_ended(), Some(1 | 2)));

    // A member of another cluster, with records, that was given the wrong peers.
    let other = Spec::new(home, 5).with(&[SECRET]);
    let lone = other.start_ready();
    lone.put("mine", "stays");
    lone.stop();
    let astray = other.clone().flags(&["--peers", &peers]).start();
    astray.wait_ready();
    assert_eq!(astray.get("/mine").is(200).body, b"stays");
    assert_eq!(astray.members(), [(5, "leader".to_owned())]);

    for node in &trio.nodes {
        assert_eq!(node.get("/key").is(200).body, b"value");
        assert_eq!(node.members().len(), 3);
        node.put("key", "value");
    }
}

#[test]
fn a_copy_of_a_member_s_directory_is_kept_out_while_the_member_is_there() {
    let mut trio = Trio::start(&[]);
    let [copied, other] = trio.followers();
    trio.nodes[copied].stop();
    let mut copy = trio.nodes[copied].spec.clone();
    (copy.dir, copy.http) = (trio.home.path().join("copy"), Spec::new(trio.home.path(), 9).http);
    copy.raft = Spec::new(trio.home.path(), 9).raft;
    let directories = [&trio.nodes[copied].spec.dir, &copy.dir];
    assert!(Command::new("cp").arg("-r").args(directories).status().unwrap().success());
    trio.nodes[copied].restart();
    let id = trio.nodes[copied].id();
    let sees = |node: &Node| {
        let document = node.look("/cluster/status").unwrap_or_default();
        let members = document["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|member| member["node_id"] == id && member["healthy"] == true)
    };
    wait_until("the member is back", || sees(&trio.nodes[other]));

    let why = format!("another process of node {id} is connected");
    let copy = copy.start();
    copy.wait_says(&why);
    wait_until("a member says it, too", || trio.nodes.iter().any(|node| node.said().contains(&why)));
    let ready = copy.try_call("GET", "/readyz", &[], b"");
    assert!(ready.is_ok_and(|answer| answer.status == 503));
    trio.nodes[other].put("key", "value");
    assert!(sees(&trio.nodes[other]), "the member is not disturbed");
}
