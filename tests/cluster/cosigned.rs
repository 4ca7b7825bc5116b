//! Checkpoints carry the signatures of all members, and every member names the same keys.

use std::{fs, process::Command};

use scribe_ledger::proof::{checkpoint::Checkpoint, key::VerifierKey, note::Note};

use super::{
    process::{Node, Spec},
    trio::Trio,
    wait::{wait_for, wait_until},
};

fn keys(node: &Node) -> Vec<VerifierKey> {
    let document = node.look("/api/v1/keys").unwrap_or_default();
    let keys = document["keys"].as_array().cloned().unwrap_or_default();
    keys.iter().map(|key| key.as_str().unwrap().parse().unwrap()).collect()
}

/// Waits until all of them name the same keys, so many of them.
#[track_caller]
fn wait_same_keys(nodes: &[&Node], count: usize) -> Vec<VerifierKey> {
    wait_for(&format!("all name the same {count} keys"), || {
        let first = keys(nodes[0]);
        let same = nodes.iter().all(|node| keys(node) == first);
        (same && first.len() == count).then_some(first)
    })
}

/// Waits until the node's checkpoint of `size` records has so many signatures; each of them is right, always.
#[track_caller]
fn wait_signed(node: &Node, keys: &[VerifierKey], size: u64, count: usize) -> Vec<u8> {
    wait_for(&format!("{count} members have signed {size} records for node {}", node.id()), || {
        let note = node.get("/checkpoint").is(200).body;
        let (checkpoint, signers) = Checkpoint::open(&Note::parse(&note).unwrap(), keys).unwrap();
        assert!(signers.len() <= count, "{signers:?}");
        (checkpoint.size() == size && signers.len() == count).then_some(note)
    })
}

fn scribe(arguments: &[&str]) -> (Option<i32>, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_scribe")).args(arguments).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn every_checkpoint_is_soon_signed_by_all_members() {
    let mut trio = Trio::start(&[("STORAGE_SEGMENT_SIZE", "16KiB")]);
    let all: Vec<&Node> = trio.nodes.iter().collect();
    let keys = wait_same_keys(&all, 3);
    for round in 0..5 {
        for n in 0..20 {
            trio.nodes[(round + n) % 3].put(&format!("key-{round}-{n}"), &"value".repeat(50));
        }
        let size = trio.wait_same_trees();
        trio.nodes.iter().for_each(|node| drop(wait_signed(node, &keys, size, 3)));
    }

    // Without one of them the others sign; when it is back, nothing has to be written for its line to come.
    let [away, here] = trio.followers();
    trio.nodes[away].stop();
    let size = trio.nodes[here].put("without-one", "value") + 1;
    let note = wait_signed(&trio.nodes[here], &keys, size, 2);
    trio.nodes[away].restart();
    trio.nodes.iter().for_each(|node| drop(wait_signed(node, &keys, size, 3)));
    assert_eq!(wait_same_keys(&trio.nodes.iter().collect::<Vec<_>>(), 3), keys);

    // A stranger who knows one of the keys believes, whichever it is; one who knows none does not.
    let home = trio.home.path().join("stranger");
    fs::create_dir(&home).unwrap();
    let url = format!("http://{}", trio.nodes[away].spec.http);
    for (n, key) in keys.iter().enumerate() {
        let (state, key) = (home.join(n.to_string()), key.to_string());
        let visit = ["verify", "--url", &url, "--key", &key, "--state", state.to_str().unwrap()];
        let (code, said) = scribe(&visit);
        assert_eq!(code, Some(0), "{said}");
    }
    let state = home.join("first");
    let (code, said) = scribe(&["verify", "--url", &url, "--state", state.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let signers = said.lines().find(|line| line.contains("signed by")).unwrap();
    assert!(keys.iter().all(|key| signers.contains(&key.id().to_string())), "{said}");

    // Files say whose keys they are: those of who has left, too.
    let sealed = |node: &Node| node.look("/api/v1/segments").unwrap().as_array().unwrap().len();
    let before = sealed(&trio.nodes[here]);
    for n in 0.. {
        trio.nodes[here].put(&format!("more-{n}"), &"value".repeat(200));
        if sealed(&trio.nodes[here]) > before + 1 {
            break;
        }
    }
    let path = home.join("checkpoint");
    fs::write(&path, note).unwrap();
    let dir = trio.nodes[here].spec.dir.to_str().unwrap();
    let (code, said) = scribe(&["verify", dir, "--checkpoint", path.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the directory's own word, 3 of them"), "{said}");
}

#[test]
fn keys_of_members_that_left_stay_and_those_of_new_ones_come() {
    let mut trio = Trio::start(&[]);
    let keys = wait_same_keys(&trio.nodes.iter().collect::<Vec<_>>(), 3);
    let [leaves, here] = trio.followers();
    let id = trio.nodes[leaves].id();
    trio.nodes[here].call("DELETE", &format!("/api/v1/cluster/nodes/{id}"), &[], b"").is(200);
    trio.nodes[leaves].kill();
    let size = trio.nodes[here].put("after", "value") + 1;
    let peers = trio.peers();
    let new = Spec::new(trio.home.path(), 4).flags(&["--rejoin", "--peers", &peers]).start_ready();
    let all: Vec<&Node> = trio.nodes.iter().filter(|node| node.id() != id).chain([&new]).collect();
    let now = wait_same_keys(&all, 4);
    assert_eq!(now[..3], keys, "in the order in which they came");
    wait_until("the new one has it all", || new.tree().is_some_and(|(at, _)| at == size));
    all.iter().for_each(|node| drop(wait_signed(node, &now, size, 3)));
}
