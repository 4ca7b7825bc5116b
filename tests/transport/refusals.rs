//! Who is refused, and that both ends learn why.

use std::{collections::BTreeMap, io::ErrorKind, sync::Mutex};

use scribe_ledger::{
    cluster::transport::{Admission, PeerHello},
    env::{ANYBODY, Lane},
    types::NodeId,
};

use crate::{Node, Plan, node, plan, until};

/// Calls, and is refused for this reason, which the dialer's status page shows and both ends count.
async fn refused(from: &Node, to: &Node, wanted: NodeId, why: &str) {
    let error = from.call_at(wanted, &to.address, Lane::Control, "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected, "nothing was seen");
    assert!(error.to_string().contains(why), "{error}");
    if wanted != ANYBODY {
        let shown = from.peer(wanted).unwrap().last_refusal.unwrap();
        assert!(shown.contains(why), "{shown}");
    }
    assert!(from.traffic().refused > 0);
    until("it is counted there, too", || to.traffic().refused > 0).await;
    assert_eq!((from.traffic().connects, to.traffic().connects), (0, 0));
}

#[tokio::test]
async fn another_secret() {
    let (one, two) = (Plan { secret: Some(b"another"), ..plan(1) }.start().await, node(2).await);
    refused(&one, &two, 2, "node 1 has another cluster secret").await;
}

#[tokio::test]
async fn a_secret_on_one_side_only() {
    let (one, two) = (Plan { secret: None, ..plan(1) }.start().await, node(2).await);
    refused(&one, &two, 2, "node 2 has a cluster secret, node 1 has none").await;
}

#[tokio::test]
async fn no_secret_on_either_side_will_do_on_one_machine() {
    let [one, two] = [1, 2].map(|id| Plan { secret: None, ..plan(id) });
    let (one, two) = (one.start().await, two.start().await);
    assert_eq!(one.call(&two, Lane::Control, "hi").await.unwrap(), "Control 1 hi");
}

#[tokio::test]
async fn no_secret_and_another_machine_is_not_even_dialed() {
    let one = Plan { secret: None, ..plan(1) }.start().await;
    // An address for documentation: whoever connects to it waits for long, and this does not.
    let error = one.call_at(2, "192.0.2.1:9001", Lane::Control, "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert!(error.to_string().contains("without a cluster secret"), "{error}");
}

#[tokio::test]
async fn another_cluster_unless_one_side_has_none() {
    let (one, two) = (Plan { cluster_id: "c9", ..plan(1) }.start().await, node(2).await);
    refused(&one, &two, 2, "node 1 belongs to cluster c9, node 2 to cluster c1").await;

    let three = Plan { cluster_id: "", ..plan(3) }.start().await;
    assert_eq!(three.call(&two, Lane::Control, "may I?").await.unwrap(), "Control 3 may I?");
    assert_eq!(two.call(&three, Lane::Control, "do").await.unwrap(), "Control 2 do");
    // From when it belongs somewhere, that is what it says.
    three.cluster_id.send("c9".to_owned()).unwrap();
    assert_eq!(three.call(&one, Lane::Urgent, "you").await.unwrap(), "Urgent 3 you");
    let error = three.call(&two, Lane::Urgent, "").await.unwrap_err();
    assert!(error.to_string().contains("node 3 belongs to cluster c9"), "{error}");
}

#[tokio::test]
async fn another_node_than_was_expected() {
    let (one, five) = (node(1).await, node(5).await);
    let why = format!("node 2 was expected at {}, node 5 answers there", five.address);
    refused(&one, &five, 2, &why).await;
    assert_eq!(one.call_at(ANYBODY, &five.address, Lane::Control, "").await.unwrap(), "Control 1 ");
}

#[tokio::test]
async fn a_node_with_the_same_id() {
    let (one, other) = (node(2).await, Plan { incarnation: 1, ..plan(2) }.start().await);
    refused(&one, &other, ANYBODY, "both nodes have id 2").await;
    let error = one.call_at(ANYBODY, &one.address, Lane::Control, "").await.unwrap_err();
    assert!(error.to_string().contains("both nodes have id 2"), "{error}");
}

/// Admits the first incarnation of each id.
fn first_incarnations() -> Admission {
    let known = Mutex::new(BTreeMap::new());
    std::sync::Arc::new(move |peer: &PeerHello| {
        let mut known = known.lock().unwrap();
        if *known.entry(peer.node_id).or_insert(peer.incarnation) == peer.incarnation {
            return Ok(());
        }
        Err(format!("id {} belongs to another node", peer.node_id))
    })
}

#[tokio::test]
async fn an_id_that_is_used_again_whoever_dials() {
    let (one, two) = (node(1).await, node(2).await);
    one.transport.set_admission(first_incarnations());
    two.call(&one, Lane::Control, "").await.unwrap();
    one.call(&two, Lane::Control, "").await.unwrap();

    let again = Plan { incarnation: 9, ..plan(2) }.start().await;
    let error = again.call(&one, Lane::Control, "").await.unwrap_err();
    assert!(error.to_string().contains("it refuses: id 2 belongs to another node"), "{error}");
    let error = one.call_at(2, &again.address, Lane::Control, "").await.unwrap_err();
    assert!(error.to_string().contains("id 2 belongs to another node"), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    until("it was told", || again.traffic().refused == 2).await;
    // The first one is not disturbed.
    assert_eq!(two.call(&one, Lane::Control, "me").await.unwrap(), "Control 2 me");
    assert_eq!(one.peer(2).unwrap().seen, Some((3, 102)));
}
