//! Nodes that do not belong to the cluster, and what they and the members say of it.

use super::{process::Spec, trio::Trio, wait::wait_until};

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
    assert_eq!(thief.try_call("GET", "/readyz", &[], b"").unwrap().status, 503);
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
