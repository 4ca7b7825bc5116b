//! The real program on its own, with the archive it comes with: what rots of its segments comes back from there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    process::{Node, Spec},
    real::wait_archived,
    trio::{specs, wait_same_trees},
    wait::wait_until,
};

const RECORDS: u64 = 6_000;
const BATCH: u64 = 100;

fn write(node: &Node) {
    for first in (0..RECORDS).step_by(BATCH as usize) {
        let line =
            |n| format!("{{\"key\":\"key-{n}\",\"value\":\"value {n}, {}\"}}\n", "and more ".repeat(12));
        let body: String = (first..first + BATCH).map(line).collect();
        node.call("POST", "/api/v1/batch", &[("content-type", "application/x-ndjson")], body.as_bytes())
            .is(200);
    }
}

/// The files of a node's segments, in order.
fn files(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.spec.dir.join("segments")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn repaired(node: &Node) -> u64 {
    node.look("/metrics").unwrap()["storage"]["repaired_segments_total"].as_f64().unwrap() as u64
}

#[track_caller]
fn reads_all(node: &Node) {
    for n in (0..RECORDS).step_by(97) {
        let record = node.get(&format!("/api/v1/records/{n}")).is(200).json();
        assert!(record["value"].as_str().unwrap().starts_with(&format!("value {n}, ")), "{record}");
    }
}

#[track_caller]
fn is_whole(node: &Node, whole: &[Vec<u8>]) {
    for (path, whole) in files(node).iter().zip(whole) {
        assert!(fs::read(path).unwrap() == *whole, "{}", path.display());
    }
    let verify =
        Command::new(env!("CARGO_BIN_EXE_scribe")).arg("verify").arg(&node.spec.dir).output().unwrap();
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
}

#[test]
fn a_node_on_its_own_repairs_its_segments_from_its_archive() {
    let home = tempfile::tempdir().unwrap();
    let settings =
        [("STORAGE_SEGMENT_SIZE", "64KiB"), ("STORAGE_TIERING_MAX_LAG_SECS", "1"), ("WAL_KEEP_BYTES", "0")];
    let mut node = Spec::new(home.path(), 1).with(&settings).start_ready();
    write(&node);
    wait_archived(&node, RECORDS);
    node.stop();
    let paths = files(&node);
    let whole: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let last = whole.len() - 1;
    assert!(last > 8, "{last}");

    // A block of records is spoiled: whoever reads it waits until it is whole again.
    flip(&paths[1], 9_000);
    node.restart();
    reads_all(&node);
    node.wait_says("a damaged segment was repaired");
    assert_eq!(repaired(&node), 1);
    is_whole(&node, &whole);

    // What says what they are is spoiled, or they are gone: the start brings them back, the newest one, too.
    node.stop();
    flip(&paths[0], 20);
    flip(&paths[2], whole[2].len() - 1);
    flip(&paths[3], whole[3].len() - 100);
    fs::write(&paths[4], &whole[4][..whole[4].len() / 2]).unwrap();
    fs::remove_file(&paths[6]).unwrap();
    fs::write(&paths[last], b"").unwrap();
    node.restart();
    assert_eq!(repaired(&node), 6);
    reads_all(&node);
    is_whole(&node, &whole);

    // Where nobody has it, the node says what to do, and leaves what is there of it.
    node.stop();
    flip(&paths[2], 20);
    let (archive, away) = (node.spec.dir.join("archive"), node.spec.dir.join("archive.away"));
    fs::rename(&archive, &away).unwrap();
    let refused = node.spec.start();
    assert_ne!(refused.wait_ended(), Some(0));
    let said = refused.said();
    let name = paths[2].to_str().unwrap();
    for part in [name, "is damaged at offset", "there is no archive", "curl -fo", "/api/v1/segments/2/file"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(fs::read(&paths[2]).unwrap().len(), whole[2].len(), "the damaged file stays");
    // Another ledger's archive is none for it.
    let other = Spec::new(home.path(), 2).with(&settings).start_ready();
    write(&other);
    wait_archived(&other, RECORDS);
    other.stop();
    let copied =
        Command::new("cp").arg("-r").arg(other.spec.dir.join("archive")).arg(&archive).status().unwrap();
    assert!(copied.success());
    let refused = node.spec.start();
    assert_ne!(refused.wait_ended(), Some(0));
    assert!(refused.said().contains("another cluster has archived"), "{}", refused.said());
    fs::remove_dir_all(&archive).unwrap();
    fs::rename(&away, &archive).unwrap();
    node.restart();
    reads_all(&node);
    is_whole(&node, &whole);
}

/// Of three members with one archive two have let their files go. What is spoiled there is read from the third's.
#[test]
fn what_is_spoiled_in_the_archive_comes_from_a_member_that_has_it() {
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("archive");
    let settings = [
        ("STORAGE_SEGMENT_SIZE", "64KiB"),
        ("STORAGE_MAX_CACHE_SIZE", "1MiB"),
        ("STORAGE_TIERING_MAX_LAG_SECS", "1"),
        ("STORAGE_TIERING_AGE_THRESHOLD_SECS", "0"),
        ("STORAGE_ARCHIVE_DIR", archive.to_str().unwrap()),
    ];
    let has_room = |n: usize| [("STORAGE_TIERING_LOCAL_BYTES_MAX", if n == 2 { "1GiB" } else { "1" })];
    let specs = specs(home.path(), &settings).into_iter().enumerate();
    let mut nodes: Vec<Node> = specs.map(|(n, spec)| spec.with(&has_room(n)).start()).collect();
    nodes.iter().for_each(Node::wait_ready);
    write(&nodes[0]);
    wait_same_trees(&nodes.iter().collect::<Vec<_>>());
    let cold = |node: &Node| {
        let rows = node.get("/api/v1/segments").is(200).json();
        rows.as_array().unwrap().iter().filter(|row| row["state"] == "archived").count()
    };
    wait_until("files leave", || nodes[..2].iter().all(|node| files(node).len() <= 2 && cold(node) > 8));
    assert_eq!(cold(&nodes[2]), 0);

    let objects = archive.join("epoch-0000000001/segments");
    for object in fs::read_dir(objects).unwrap().map(|entry| entry.unwrap().path()) {
        for at in (100..fs::metadata(&object).unwrap().len() as usize / 2).step_by(1_000) {
            flip(&object, at);
        }
    }
    // Nothing of it is in its memory.
    nodes[0].stop();
    nodes[0].restart();
    let read = |node: &Node, n: u64| node.get(&format!("/api/v1/records/{n}?consistency=stale"));
    let came_back = repaired(&nodes[0]);
    for n in (0..RECORDS).step_by(997) {
        let record = read(&nodes[0], n).is(200).json();
        assert!(record["value"].as_str().unwrap().starts_with(&format!("value {n}, ")), "{record}");
    }
    assert!(repaired(&nodes[0]) > came_back);
    nodes[0].wait_says("another member is asked for it");

    // Where nobody has it any more, whoever asks is told, and may ask again.
    nodes[2].stop();
    nodes[1].stop();
    nodes[1].restart();
    let mut problems = 0;
    for n in (0..RECORDS).step_by(97) {
        let answer = read(&nodes[1], n);
        if answer.status == 200 {
            assert!(answer.json()["value"].as_str().unwrap().starts_with(&format!("value {n}, ")));
        } else {
            let problem = answer.is_problem(503, "unavailable");
            assert!(problem["detail"].as_str().unwrap().contains("could not be repaired now"), "{problem}");
            problems += 1;
        }
    }
    assert!(problems > 0);
}
