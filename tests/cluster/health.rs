//! What members know of each other.

use serde_json::Value;

use super::{trio::Trio, wait::wait_until};

fn member(of: &super::process::Node, id: u64) -> Value {
    let document = of.look("/cluster/status").unwrap_or_default();
    let members = document["members"].as_array().cloned().unwrap_or_default();
    members.into_iter().find(|member| member["node_id"] == id).unwrap_or_default()
}

#[test]
fn every_member_says_how_the_others_are() {
    let mut trio = Trio::start(&[]);
    trio.nodes[0].put("key", "value");
    for node in &trio.nodes {
        for id in 1..=3 {
            wait_until(&format!("node {} knows that member {id} is well", node.id()), || {
                let seen = member(node, id);
                seen["healthy"] == true && seen["lag"] == 0 && seen["catching_up"].is_null()
            });
        }
        let status = node.status().unwrap();
        assert_eq!(status["members"].as_array().map(Vec::len), Some(3), "{status}");
    }
    let away = trio.followers()[0];
    trio.nodes[away].kill();
    let id = trio.nodes[away].id();
    for node in trio.nodes.iter().filter(|node| node.id() != id) {
        wait_until(&format!("node {} knows that member {id} is away", node.id()), || {
            member(node, id)["healthy"] == false
        });
        node.put(&format!("without-it-{}", node.id()), "value");
        let metrics = node.call("GET", "/metrics", &[("Accept", "text/plain")], b"").is(200);
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let says = |what: &str| assert!(text.lines().any(|line| line == what), "no {what:?} in {text}");
        says(&format!("scribe_members_healthy{{member=\"{id}\"}} 0"));
        says(&format!("scribe_members_healthy{{member=\"{}\"}} 1", node.id()));
        assert!(text.contains("scribe_network_peer_sent_bytes_total"), "{text}");
    }
    trio.nodes[away].restart();
    for node in &trio.nodes {
        wait_until(&format!("node {} knows that member {id} is back", node.id()), || {
            let seen = member(node, id);
            seen["healthy"] == true && seen["lag"] == 0
        });
    }
}
