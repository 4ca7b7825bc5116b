//! A cluster grows from one node, shrinks, and changes its leader, by its HTTP interface.

use serde_json::{Value, json};

use super::{
    process::{Node, Spec, free_port},
    trio::{Trio, common_leader, wait_members, wait_same_trees},
    wait::wait_until,
};

fn add(to: &Node, id: impl Into<Value>, address: impl ToString) -> super::client::Answer {
    to.post("/api/v1/cluster/nodes", &json!({ "node_id": id.into(), "address": address.to_string() }))
}

fn voters(node: &Node) -> Vec<u64> {
    let members = node.members();
    members.into_iter().filter(|(_, role)| role != "learner").map(|(id, _)| id).collect()
}

fn detail(problem: &Value) -> &str {
    problem["detail"].as_str().unwrap()
}

#[test]
fn lone_nodes_are_added_and_those_with_records_are_not() {
    let home = tempfile::tempdir().unwrap();
    let founder = Spec::new(home.path(), 1).flags(&["--bootstrap"]).start_ready();
    founder.put("key", "value");
    let [two, three, own] = [2, 3, 4].map(|id| Spec::new(home.path(), id).start());
    for lone in [&two, &three, &own] {
        lone.wait_ready();
        // Each is the leader of a ledger of its own.
        assert_eq!(lone.members(), [(lone.id(), "leader".to_owned())]);
    }
    own.put("mine", "stays");

    add(&founder, 2, &two.spec.raft).is(200);
    wait_members(&[&founder, &two], &[1, 2]);
    assert_eq!(voters(&founder), [1, 2]);
    two.wait_ready();
    assert_eq!(two.get("/key").is(200).body, b"value");
    // Any member takes the wish, an id may be written in words, and the HTTP address does as well.
    add(&two, "node3", three.spec.http).is(200);
    wait_members(&[&founder, &two, &three], &[1, 2, 3]);
    three.wait_ready();
    assert_eq!(three.get("/key").is(200).body, b"value");
    for (id, node) in [(2, &two), (3, &three)] {
        add(&founder, id, &node.spec.raft).is(200);
        add(node, id, &node.spec.raft).is(200);
    }

    let refused = add(&founder, 4, &own.spec.raft).is_problem(409, "conflict");
    assert!(detail(&refused).contains("records"), "{refused}");
    assert_eq!(own.get("/mine").is(200).body, b"stays");
    let refused = add(&two, 5, &three.spec.raft).is_problem(409, "conflict");
    assert!(detail(&refused).contains("is node 3, not 5"), "{refused}");
    let nobody = format!("127.0.0.1:{}", free_port());
    let refused = add(&two, 6, &nobody);
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(detail(&refused.json()).contains(&nobody), "{refused:?}");
    add(&founder, 0, &nobody).is_problem(400, "malformed");
    wait_members(&[&founder, &two, &three], &[1, 2, 3]);

    three.put("last", "value");
    wait_same_trees(&[&founder, &two, &three]);
    // Three are a cluster: it goes on without the founder.
    drop(founder);
    common_leader(&[&two, &three]);
    two.put("without the founder".replace(' ', "-").as_str(), "value");
}

#[test]
fn the_same_by_the_names_that_scripts_of_others_use() {
    let home = tempfile::tempdir().unwrap();
    let nodes = [1, 2, 3].map(|id| Spec::new(home.path(), id).start());
    nodes.iter().for_each(Node::wait_ready);
    nodes[0].post("/init", &json!({})).is(200);
    nodes[0].post("/init", &json!([])).is(200);
    for node in &nodes[1..] {
        let (id, http) = (node.id(), node.spec.http.to_string());
        let learner = json!({ "node_id": id, "rpc_addr": http, "api_addr": http });
        nodes[0].post("/add-learner", &learner).is(200);
        nodes[0].post("/add-learner", &learner).is(200);
    }
    wait_members(&[&nodes[0]], &[1, 2, 3]);
    assert_eq!(voters(&nodes[0]), [1]);
    for _ in 0..2 {
        nodes[0].post("/change-membership", &json!([1, "2", "node3"])).is(200);
    }
    assert_eq!(voters(&nodes[0]), [1, 2, 3]);
    for node in &nodes {
        node.wait_ready();
        node.put(&format!("key-{}", node.id()), "value");
    }
    wait_same_trees(&nodes.iter().collect::<Vec<_>>());
    nodes[0].post("/change-membership", &json!([1, 2, 9])).is_problem(409, "conflict");
    nodes[0].post("/change-membership", &json!([])).is_problem(409, "conflict");
}

#[test]
fn what_cannot_be_done_is_refused_with_its_reason() {
    const SECRET: (&str, &str) = ("CLUSTER_SECRET", "the members' secret");
    let trio = Trio::start(&[SECRET]);
    let node = &trio.nodes[0];
    let home = trio.home.path();
    let nodes = "/api/v1/cluster/nodes";

    for (body, says) in [
        (json!({ "node_id": 4, "address": "nowhere" }), "\"address\" is \"nowhere\""),
        (json!({ "node_id": 4, "address": "127.0.0.1:99999" }), "\"address\""),
        (json!({ "node_id": "four", "address": "127.0.0.1:9" }), "\"node_id\" is \"four\""),
        (json!({ "node_id": 4 }), "\"address\" is missing"),
        (json!([4, "127.0.0.1:9", false]), "not an object"),
    ] {
        let refused = node.post(nodes, &body).is_problem(400, "malformed");
        assert!(detail(&refused).contains(says) && !detail(&refused).contains("struct"), "{refused}");
    }
    node.post("/api/v1/cluster/transfer-leader", &json!([2])).is_problem(400, "malformed");
    node.post("/add-learner", &json!([4, "127.0.0.1:9"])).is_problem(400, "malformed");
    node.post("/change-membership", &json!({ "voters": [1] })).is_problem(400, "malformed");
    node.call("POST", "/init", &[], b"{broken").is_problem(400, "malformed");
    node.call("POST", "/init", &[], b"").is(200);

    // Nobody there.
    let nobody = format!("127.0.0.1:{}", free_port());
    let refused = add(node, 4, &nobody).is_problem(503, "unreachable");
    assert!(detail(&refused).contains(&nobody) && detail(&refused).contains("start it there"), "{refused}");
    // An id that is taken, whether the stranger answers or not.
    let refused = add(node, 2, &nobody).is_problem(409, "conflict");
    assert!(detail(&refused).contains("node id 2 is taken"), "{refused}");
    let mut double = Spec::new(home, 2).with(&[SECRET]);
    double.dir = home.join("double");
    let double = double.start_ready();
    let refused = add(node, 2, &double.spec.raft).is_problem(409, "conflict");
    assert!(detail(&refused).contains("belongs to another member"), "{refused}");
    // Another secret, and another cluster.
    let thief = Spec::new(home, 5).with(&[("CLUSTER_SECRET", "a guess")]).start_ready();
    let refused = add(node, 5, &thief.spec.raft).is_problem(409, "conflict");
    assert!(detail(&refused).contains("another cluster secret"), "{refused}");
    let other = Spec::new(home, 6).flags(&["--bootstrap"]).with(&[SECRET]).start_ready();
    other.put("mine", "stays");
    let refused = add(node, 6, &other.spec.raft).is_problem(409, "conflict");
    assert!(detail(&refused).contains("records of its own"), "{refused}");

    // What is so already is said to be no change.
    let again = add(node, 2, &trio.nodes[1].spec.raft).is(200).json();
    assert_eq!((&again["node_id"], &again["changed"]), (&json!(2), &json!(false)), "{again}");
    let replica = json!({ "node_id": 2, "address": trio.nodes[1].spec.raft, "learner": true });
    let refused = node.post(nodes, &replica).is_problem(409, "conflict");
    assert!(detail(&refused).contains("votes"), "{refused}");
    let unknown = node.call("DELETE", "/api/v1/cluster/nodes/9", &[], b"").is_problem(404, "not-found");
    assert!(detail(&unknown).contains("node 9"), "{unknown}");

    // The leader removes itself, and is not in its own answer; its id is gone for good.
    let leader = &trio.nodes[trio.leader()];
    let rest: Vec<&Node> = trio.nodes.iter().filter(|other| other.id() != leader.id()).collect();
    let path = format!("{nodes}/{}", leader.id());
    let left = leader.call("DELETE", &path, &[], b"").is(200).json();
    assert_eq!(left["changed"], true);
    let listed = left["members"].as_array().unwrap();
    assert!(listed.len() == 2 && listed.iter().all(|member| member["node_id"] != leader.id()), "{left}");
    wait_members(&rest, &rest.iter().map(|node| node.id()).collect::<Vec<_>>());
    let again = rest[0].call("DELETE", &path, &[], b"").is(200).json();
    assert_eq!(again["changed"], false);
    let refused = add(rest[1], leader.id(), &leader.spec.raft).is_problem(409, "conflict");
    assert!(detail(&refused).contains("was removed"), "{refused}");
}

#[test]
fn leadership_is_handed_to_who_is_asked_for() {
    let trio = Trio::start(&[]);
    let nodes: Vec<_> = trio.nodes.iter().collect();
    for _ in 0..2 {
        for asked in &nodes {
            for to in &nodes {
                asked.post("/api/v1/cluster/transfer-leader", &json!({ "to": to.id() })).is(200);
                wait_until("it leads", || common_leader(&nodes) == to.id());
                asked.put("key", "value");
            }
        }
    }
    let refused = nodes[0].post("/api/v1/cluster/transfer-leader", &json!({ "to": 9 }));
    refused.is_problem(409, "conflict");
}
