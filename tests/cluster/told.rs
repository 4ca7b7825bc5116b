//! What members say of each other: to the log a line for each thing that happens, to clients in words for them.

use serde_json::json;

use super::{
    process::{Node, Spec},
    trio::{Trio, common_leader, wait_members, wait_voters},
    wait::wait_until,
};

/// What nobody outside of consensus' own code can make use of.
const FOR_DEVELOPERS: [&str; 5] = ["openraft", "Config {", "LogId", "QuorumNotEnough", "forward request"];

fn times(node: &Node, text: &str) -> usize {
    node.said().matches(text).count()
}

#[test]
fn what_happens_to_the_cluster_is_told_once() {
    let mut trio = Trio::start(&[]);
    let place = trio.leader();
    let leader = trio.nodes[place].id();
    trio.nodes[place].wait_says("this member leads");

    let home = trio.home.path();
    let mut fourth = Spec::new(home, 4).start_ready();
    let body = json!({ "node_id": 4, "address": fourth.spec.raft });
    trio.nodes[place].post("/api/v1/cluster/nodes", &body).is(200);
    for node in &trio.nodes {
        node.wait_says("added=[4] promoted=[] removed=[]");
        node.wait_says("added=[] promoted=[4] removed=[]");
    }
    trio.nodes[place].call("DELETE", "/api/v1/cluster/nodes/4", &[], b"").is(200);
    for node in &trio.nodes {
        node.wait_says("added=[] promoted=[] removed=[4]");
        assert_eq!(times(node, "removed=[4]"), 1);
    }
    fourth.kill();

    // A member is lost, another leads, it comes back.
    trio.nodes[place].kill();
    let others: Vec<&Node> = trio.nodes.iter().filter(|node| node.id() != leader).collect();
    let heir = common_leader(&others);
    let heir = others.into_iter().find(|node| node.id() == heir).unwrap();
    heir.wait_says("this member leads");
    // Lost, or found to be away where nothing was said to it before.
    let name = format!("node {leader} at {}", trio.nodes[place].spec.raft);
    let told_away = |node: &Node| {
        times(node, &format!("{name} was lost")) + times(node, &format!("{name} is not connected"))
    };
    wait_until("its absence is told", || told_away(heir) > 0);
    let (heir, before) =
        (trio.nodes.iter().position(|node| node.id() == heir.id()).unwrap(), told_away(heir));
    trio.nodes[place].restart();
    trio.nodes[heir].wait_says(&format!("{name} is connected"));
    assert!(before <= 2 && told_away(&trio.nodes[heir]) <= 2, "{}", trio.nodes[heir].said());

    // Without a quorum clients are told so, in words.
    let alone = trio.leader();
    for other in 0..3 {
        if other != alone {
            trio.nodes[other].kill();
        }
    }
    for (method, path) in [("GET", "/key"), ("PUT", "/key"), ("DELETE", "/api/v1/cluster/nodes/9")] {
        let refused = trio.nodes[alone].call(method, path, &[], b"");
        assert!(matches!(refused.status, 503 | 504), "{method} {path}: {refused:?}");
        let text = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(FOR_DEVELOPERS.iter().all(|word| !text.contains(word)), "{method} {path}: {text}");
    }
    for node in &trio.nodes {
        assert!(!node.said().contains("openraft"), "node {}: {}", node.id(), node.said());
    }
}

/// A follower compared what the leader had applied a second ago with what it knows now.
#[test]
fn nobody_lags_where_nothing_is_written_any_more() {
    let home = tempfile::tempdir().unwrap();
    let founder = Spec::new(home.path(), 1).flags(&["--bootstrap"]).start_ready();
    let joined: Vec<Node> = [2, 3].map(|id| Spec::new(home.path(), id).start_ready()).into();
    for node in &joined {
        let body = json!({ "node_id": node.id(), "address": node.spec.raft });
        founder.post("/api/v1/cluster/nodes", &body).is(200);
    }
    for node in [&founder, &joined[0], &joined[1]] {
        wait_members(&[node], &[1, 2, 3]);
        wait_voters(node, &[1, 2, 3]);
    }
    for node in &joined {
        let lag = || node.look("/cluster/members").map(|list| list["members"][0]["lag"].clone());
        // The leader had applied what a follower knows to be committed, whenever it was asked.
        for _ in 0..20 {
            let lag = lag().unwrap();
            assert!(lag.is_null() || lag == 0, "node {} says that the leader lags by {lag}", node.id());
        }
        wait_until("it is known", || lag() == Some(json!(0)));
    }
}
