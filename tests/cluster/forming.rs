//! Three nodes that know each other's addresses become one cluster, and any of them serves any call.

use serde_json::json;

use super::{
    trio::{Trio, wait_members},
    wait::wait_until,
};

#[test]
fn three_nodes_form_one_cluster_that_each_of_them_serves() {
    let trio = Trio::start(&[]);
    let nodes: Vec<_> = trio.nodes.iter().collect();

    let leader = trio.nodes[trio.leader()].id();
    wait_members(&nodes, &[1, 2, 3]);
    let cluster_id = nodes[0].status().unwrap()["cluster_id"].clone();
    assert!(cluster_id.is_string());
    for node in &nodes {
        wait_until("the leader is the same by all its names", || {
            let status = node.status().unwrap();
            let role = if node.id() == leader { "leader" } else { "follower" };
            assert_eq!(status["cluster_id"], cluster_id);
            status["leader_id"] == leader && status["role"] == role
        });
        for path in ["/cluster/leader", "/cluster/leader/info", "/leader"] {
            let answer = node.get(path).is(200).json();
            let http_addr = trio.nodes[leader as usize - 1].spec.http.to_string();
            assert_eq!((&answer["leader_id"], &answer["http_addr"]), (&json!(leader), &json!(http_addr)));
        }
        for path in ["/cluster/members", "/cluster/nodes", "/api/v1/cluster/nodes", "/cluster/status"] {
            let members = node.get(path).is(200).json()["members"].clone();
            for (member, other) in members.as_array().unwrap().iter().zip(&nodes) {
                assert_eq!(member["http_addr"], other.spec.http.to_string());
                assert_eq!(member["raft_addr"], other.spec.raft);
            }
        }
    }

    for node in &nodes {
        let id = node.id();
        // A write, and a change of it, here; both read everywhere.
        let key = format!("a-{id}");
        let seq = node.put(&key, "one");
        for reader in &nodes {
            for consistency in ["linearizable", "lease"] {
                let read = reader.get(&format!("/{key}?consistency={consistency}")).is(200);
                assert_eq!(
                    (&read.body[..], read.header("scribe-seq")),
                    (&b"one"[..], Some(&*seq.to_string()))
                );
            }
            assert!(matches!(reader.get(&format!("/{key}?consistency=stale")).status, 200 | 404));
        }
        let etag = format!("\"{seq}\"");
        let put = |headers: &[(&str, &str)], value: &str| {
            node.call("PUT", &format!("/{key}"), headers, value.as_bytes())
        };
        put(&[("If-None-Match", "*")], "no").is_problem(412, "precondition-failed");
        let changed = put(&[("If-Match", &etag)], "two").is(201).json()["seq"].as_u64().unwrap();
        put(&[("If-Match", &etag)], "three").is_problem(412, "precondition-failed");
        for reader in &nodes {
            assert_eq!(reader.get(&format!("/{key}")).is(200).body, b"two");
            assert_eq!(reader.get(&format!("/{key}?at={seq}")).is(200).body, b"one");
        }

        // A batch, and a tombstone of one of its keys.
        let batch = format!(
            "{{\"key\":\"b-{id}\",\"value\":\"1\"}}\n{{\"key\":\"c-{id}\",\"value\":\"2\"}}\n{{\"op\":\"delete\",\"key\":\"{key}\"}}\n"
        );
        let written = node
            .call("POST", "/api/v1/batch", &[("Content-Type", "application/x-ndjson")], batch.as_bytes())
            .is(200)
            .json();
        assert_eq!(written["count"], 3);
        assert_eq!(written["first_seq"].as_u64().unwrap() + 2, written["last_seq"].as_u64().unwrap());
        assert!(written["first_seq"].as_u64().unwrap() > changed);
        node.call("DELETE", &format!("/c-{id}"), &[], b"").is(200);
        for reader in &nodes {
            reader.get(&format!("/{key}")).is_problem(404, "not-found");
            reader.get(&format!("/c-{id}")).is_problem(404, "not-found");
            assert_eq!(reader.get(&format!("/b-{id}")).is(200).body, b"1");
        }

        // A retry is answered by whichever node it comes to.
        let retried = [("Idempotency-Key", &*format!("key-{id}"))];
        let mut first = None;
        for to in [node].into_iter().chain(nodes.iter()) {
            let answer = to.call("PUT", &format!("/d-{id}"), &retried, b"once").is(201);
            assert_eq!(answer.header("idempotency-replayed"), first.is_some().then_some("true"));
            let seq = answer.json()["seq"].clone();
            assert_eq!(*first.get_or_insert(seq.clone()), seq);
        }
        let other = nodes[id as usize % 3].call("PUT", &format!("/d-{id}"), &retried, b"twice");
        other.is_problem(422, "idempotency-mismatch");
    }

    let size = trio.wait_same_trees();
    assert_eq!(size, 3 * 7);
    for node in &nodes {
        assert_eq!(node.get("/b-1?consistency=stale").is(200).body, b"1");
        let notes: Vec<_> =
            node.get("/checkpoint").is(200).body.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        assert_eq!(notes[1], size.to_string().into_bytes());
    }
}

/// What is stopped whole comes back whole.
#[test]
fn a_cluster_that_was_stopped_goes_on_with_the_same_ledger() {
    let mut trio = Trio::start(&[]);
    let seq = trio.nodes[1].put("key", "value");
    trio.nodes.iter().for_each(super::process::Node::terminate);
    for node in &mut trio.nodes {
        assert_eq!(node.wait_ended(), Some(0));
    }
    // Two of three are a quorum; the third comes later.
    for place in [2, 0] {
        trio.nodes[place] = trio.nodes[place].spec.start();
    }
    for place in [2, 0] {
        trio.nodes[place].wait_ready();
        assert_eq!(trio.nodes[place].get("/key").is(200).header("scribe-seq"), Some(&*seq.to_string()));
    }
    let next = trio.nodes[2].put("key", "another");
    trio.nodes[1].restart();
    assert_eq!(trio.nodes[1].get("/key").is(200).header("scribe-seq"), Some(&*next.to_string()));
    trio.wait_same_trees();
}
