//! The whole circle with the real program: a ledger is archived, lost, restored, goes on in the same archive as another
//! cluster, is lost and restored again; and whoever was thought lost comes back.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use scribe_ledger::{archive::Entry, state::link::Link};
use serde_json::{Value, json};

use crate::{
    process::{Node, Spec},
    real::wait_archived,
    trio::{common_leader, wait_members, wait_same_trees},
    wait::{wait_for, wait_until},
};

const BATCH: usize = 100;

fn value(n: u64) -> String {
    format!("value {n} {}", "and so on ".repeat(n as usize % 40))
}

/// Writes records `key-N`.
pub fn write(node: &Node, numbers: std::ops::Range<u64>) {
    let numbers: Vec<u64> = numbers.collect();
    for some in numbers.chunks(BATCH) {
        let line =
            |n: &u64| format!("{}\n", json!({"op": "put", "key": format!("key-{n}"), "value": value(*n)}));
        let body: String = some.iter().map(line).collect();
        let headers = [("content-type", "application/x-ndjson")];
        node.call("POST", "/api/v1/batch", &headers, body.as_bytes()).is(200);
    }
}

/// A node in a directory of this name, with small segments and this archive.
pub fn spec(home: &Path, name: &str, id: u64, archive: &Path) -> Spec {
    let archive = archive.to_str().unwrap();
    let settings = [
        ("STORAGE_SEGMENT_SIZE", "64KiB"),
        ("STORAGE_TIERING_MAX_LAG_SECS", "1"),
        ("STORAGE_TIERING_ARCHIVAL_CHECK_INTERVAL_SECS", "1"),
        ("STORAGE_ARCHIVE_DIR", archive),
    ];
    let mut spec = Spec::new(home, id).with(&settings);
    spec.dir = home.join(name);
    spec
}

/// A node of a new ledger, `old`, all of whose records are archived.
pub fn archived(home: &Path, archive: &Path, records: u64) -> Node {
    let node = spec(home, "old", 1, archive).start_ready();
    write(&node, 0..records);
    wait_archived(&node, records);
    node
}

#[track_caller]
pub fn scribe(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_scribe"))
        .args(["--format", "json"])
        .args(arguments)
        .env_remove("SCRIBE_SERVER")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("HOME")
        .output()
        .unwrap();
    let (told, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {told} {said}");
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

pub fn restore(from: &Path, to: &Path) -> Value {
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    scribe(&["restore", "--from", from, "--data-dir", to])
}

/// An archive is verified without any node: so many records, and the newest checkpoint covers so many.
#[track_caller]
fn is_verified(archive: &Path, records: u64) -> Value {
    let report = scribe(&["verify", "--archive", archive.to_str().unwrap()]);
    assert_eq!(report["records"], records, "{report}");
    report
}

/// All files of an archive by their paths in it, with their bytes.
fn files(archive: &Path, under: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![archive.join(under)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            match entry.path().is_dir() {
                true => dirs.push(entry.path()),
                false => found.push((entry.path(), fs::read(entry.path()).unwrap())),
            }
        }
    }
    found.sort();
    found
}

/// The entries of an epoch's manifest.
fn entries(archive: &Path, epoch: u32) -> Vec<Entry> {
    let dir = format!("epoch-{epoch:010}/manifest");
    files(archive, &dir).iter().map(|(_, bytes)| Entry::decode(bytes).unwrap()).collect()
}

/// Every record `key-N` with its value, and a link of this epoch at this position.
pub fn has_all(node: &Node, numbers: std::ops::Range<u64>, links: &[(u64, u32)]) {
    for n in numbers {
        let answer = node.get(&format!("/key-{n}")).is(200);
        assert!(answer.body == value(n).as_bytes(), "key-{n}");
    }
    for (seq, epoch) in links {
        let record = node.get(&format!("/api/v1/records/{seq}")).is(200).json();
        let link = Link::decode(record["value"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!((link.size, link.epoch), (*seq, *epoch));
    }
    // A stranger visits: signatures, growth, and records chosen by chance with their proofs.
    let (url, state) = (format!("http://{}", node.spec.http), node.spec.dir.join("visit.json"));
    scribe(&["verify", "--url", &url, "--samples", "64", "--state", state.to_str().unwrap()]);
}

#[test]
fn a_ledger_is_lost_and_restored_twice_and_goes_on_in_its_archive() {
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("archive");
    let first = spec(home.path(), "first", 1, &archive).start_ready();
    write(&first, 0..3_000);
    let status = wait_archived(&first, 3_000);
    let ledger = status["cluster_id"].as_str().unwrap().to_owned();
    first.stop();
    is_verified(&archive, 3_000);
    let of_first = files(&archive, "epoch-0000000001");
    let begun = entries(&archive, 1).len();
    assert!(begun > 5, "{begun}");

    // Second life: it goes on in the same archive, in a manifest of its own that refers to what is there.
    let told = restore(&archive, &home.path().join("second"));
    assert_eq!(
        (&told["records"], &told["epoch"], &told["link_seq"]),
        (&3_000.into(), &2.into(), &3_000.into())
    );
    let second = spec(home.path(), "second", 1, &archive).start_ready();
    wait_archived(&second, 3_001);
    write(&second, 3_000..5_000);
    let status = wait_archived(&second, 5_001);
    assert_eq!(status["archive"]["state"], "ok", "{status}");
    let second_id = status["cluster_id"].as_str().unwrap().to_owned();
    assert!(second_id.ends_with("-2"), "{second_id}");
    let manifest = entries(&archive, 2);
    let epochs: Vec<u32> = manifest.iter().map(|entry| entry.object.epoch.0).collect();
    assert_eq!(epochs, [vec![1; begun], vec![2; manifest.len() - begun]].concat());
    assert!(manifest.iter().all(|entry| entry.ledger.to_string() == ledger && entry.epoch.0 == 2));
    assert!(manifest.len() > begun + 3);
    let report = is_verified(&archive, 5_001);
    assert_eq!(report["checkpoints"][0]["size"], 5_001, "{report}");
    assert!(files(&archive, "epoch-0000000001") == of_first, "what was there stays as it was");
    has_all(&second, 0..5_000, &[(3_000, 2)]);
    let segments = second.get("/api/v1/segments").is(200).json();
    for (row, entry) in segments.as_array().unwrap().iter().zip(&manifest) {
        assert_eq!(
            (&row["state"], row["object"].as_str()),
            (&"both".into(), Some(entry.object.name().as_str()))
        );
    }

    // Whoever was thought lost comes back: it serves, and archives no more.
    let first = spec(home.path(), "first", 1, &archive).start_ready();
    first.wait_says("belongs to epoch 2 of the ledger now");
    write(&first, 3_000..3_500);
    let status = wait_for("it says so, and is behind", || {
        let status = first.status()?;
        let is_said = status["archive"]["state"] == "refused" && status["records"]["sealed"] == 3_500;
        (is_said && status["stages"]["archive"]["depth"].as_u64() > Some(0)).then_some(status)
    });
    let why = status["archive"]["error"].as_str().unwrap();
    let second_cluster = second_id.trim_end_matches("-2");
    assert!(why.contains(second_cluster) && why.contains("archives no more"), "{why}");
    assert_eq!(status["records"]["archived"], 3_000);
    has_all(&first, 0..3_500, &[]);
    assert!(files(&archive, "epoch-0000000001") == of_first, "nothing is added to what was gone on from");
    // The second one does not mind.
    write(&second, 5_000..5_200);
    wait_archived(&second, 5_201);
    second.stop();

    // Third life, with an archive of its own: that has everything, too.
    let told = restore(&archive, &home.path().join("third"));
    assert_eq!(
        (&told["records"], &told["epoch"], &told["proven_to"]),
        (&5_201.into(), &3.into(), &5_201.into())
    );
    let other = home.path().join("other");
    let third = spec(home.path(), "third", 1, &other).start_ready();
    write(&third, 5_200..5_300);
    wait_archived(&third, 5_302);
    has_all(&third, 0..5_300, &[(3_000, 2), (5_201, 3)]);
    let third_manifest = entries(&other, 3);
    assert!(
        third_manifest.iter().all(|entry| entry.object.epoch.0 == 3 && entry.ledger.to_string() == ledger)
    );
    let report = is_verified(&other, 5_302);
    assert_eq!(report["checkpoints"][0]["size"], 5_302, "{report}");
    is_verified(&archive, 5_201);
    // The links name the logs that were gone on from.
    let link = third.get("/api/v1/records/5201").is(200).json();
    let link = Link::decode(link["value"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(link.origin, format!("scribe/{second_cluster}/2"));
}

/// Restored into one member, which then gets others: any of them goes on in the archive.
#[test]
fn a_restored_cluster_grows_and_whoever_leads_archives() {
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("archive");
    let lost = spec(home.path(), "lost", 1, &archive).start_ready();
    write(&lost, 0..1_500);
    wait_archived(&lost, 1_500);
    lost.stop();
    restore(&archive, &home.path().join("node1"));
    let mut nodes: Vec<Node> =
        (1..=3).map(|id| spec(home.path(), &format!("node{id}"), id, &archive).start_ready()).collect();
    wait_archived(&nodes[0], 1_501);
    for id in [2, 3] {
        let address = &nodes[id - 1].spec.raft;
        nodes[0].post("/api/v1/cluster/nodes", &json!({ "node_id": id, "address": address })).is(200);
    }
    wait_members(&nodes.iter().collect::<Vec<_>>(), &[1, 2, 3]);
    nodes.iter().for_each(Node::wait_ready);
    for joined in &nodes[1..] {
        // What lies behind the link comes from the archive: the leader sends the link's segment at most.
        let said = joined.said();
        let fetched = |from: &str| {
            said.lines().filter(|line| line.contains("a segment was fetched") && line.contains(from)).count()
        };
        let (from_archive, from_leader) = (fetched(archive.to_str().unwrap()), fetched("member 1"));
        assert!(from_archive > 2 && from_leader <= 1, "{from_archive} {from_leader}");
    }
    write(&nodes[0], 1_500..2_500);
    assert_eq!(wait_same_trees(&nodes.iter().collect::<Vec<_>>()), 2_501);
    wait_archived(&nodes[0], 2_501);
    let before = files(&archive, "epoch-0000000002/manifest");

    // Whoever leads is lost; another one goes on, and uploads nothing twice.
    let leader = common_leader(&nodes.iter().collect::<Vec<_>>());
    nodes.retain(|node| node.id() != leader);
    common_leader(&nodes.iter().collect::<Vec<_>>());
    write(&nodes[0], 2_500..3_000);
    wait_until("the next leader archives", || {
        nodes.iter().all(|node| node.status().is_some_and(|status| status["records"]["archived"] == 3_001))
    });
    let manifest = entries(&archive, 2);
    assert!(manifest.len() > before.len());
    assert!(files(&archive, "epoch-0000000002/manifest")[..before.len()] == before[..]);
    let named: BTreeSet<_> = manifest.iter().map(|entry| entry.object.name().as_str().to_owned()).collect();
    assert_eq!(named.len(), manifest.len(), "every segment is there once");
    let there = files(&archive, "epoch-0000000001/segments").len()
        + files(&archive, "epoch-0000000002/segments").len();
    assert_eq!(there, named.len());
    is_verified(&archive, 3_001);
    has_all(&nodes[0], 0..3_000, &[(1_500, 2)]);
}
