//! Sealed files rot under a running node, and under one that is stopped: whoever reads gets what was written, or is told.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{process::Node, trio::Trio, wait::wait_until};

const SETTINGS: [(&str, &str); 3] =
    [("STORAGE_SEGMENT_SIZE", "64KiB"), ("STORAGE_MAX_CACHE_SIZE", "1MiB"), ("WAL_KEEP_BYTES", "0")];

const KEYS: usize = 4_000;

/// Unlike for every key, so that no other record has the bytes that are asked for.
fn value(n: usize) -> String {
    format!("value-{n:06}-").repeat(15)
}

fn fill(node: &Node) {
    for batch in 0..KEYS / 200 {
        let line = |n: usize| format!("{{\"key\":\"key-{n}\",\"value\":\"{}\"}}\n", value(n));
        let body: String = (batch * 200..(batch + 1) * 200).map(line).collect();
        node.call("POST", "/api/v1/batch", &[("Content-Type", "application/x-ndjson")], body.as_bytes())
            .is(200);
    }
}

/// The files of its sealed segments.
fn segments(node: &Node) -> Vec<PathBuf> {
    let dir = node.spec.dir.join("segments");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    files.sort();
    files
}

/// Flips a byte in every few kilobytes of the first half of a file: of its records and their leaf hashes.
fn rot(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let bytes = file.metadata().unwrap().len();
    for at in (2_000..bytes / 2).step_by(5_000) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }
}

/// Reads everything in every way; what is answered is right. How many answers were problems.
fn read_all(node: &Node) -> Vec<String> {
    let mut problems = Vec::new();
    let mut read = |path: &str, check: &dyn Fn(&[u8])| {
        let answer = node.get(path);
        match answer.status {
            200 => check(&answer.body),
            status => problems.push(format!("{status} {}", String::from_utf8_lossy(&answer.body))),
        }
    };
    for n in (0..KEYS).step_by(3) {
        let expected = value(n);
        read(&format!("/key-{n}?consistency=stale"), &|body| assert_eq!(body, expected.as_bytes()));
    }
    for n in (0..KEYS).step_by(101) {
        let is_right = |record: &Value| assert_eq!(record["value"], value(n), "{record}");
        let parse = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap();
        read(&format!("/api/v1/records/{n}?consistency=stale"), &|body| is_right(&parse(body)));
        read(&format!("/api/v1/proofs/inclusion/{n}"), &|_| ());
        read(&format!("/api/v1/kv/key-{n}/history?consistency=stale"), &|body| {
            assert_eq!(parse(body)["versions"].as_array().unwrap().len(), 1);
        });
    }
    for tile in 0..KEYS / 256 {
        read(&format!("/tile/0/{tile:03}"), &|body| assert_eq!(body.len(), 256 * 32));
        read(&format!("/tile/entries/{tile:03}"), &|body| assert_eq!(body.len(), 256 * 93));
    }
    let mut cursor = String::new();
    let mut seen = 0;
    loop {
        let mut next = None;
        let page = node.get(&format!("/api/v1/kv?limit=500&consistency=stale&cursor={cursor}"));
        if page.status == 200 {
            let page = page.json();
            seen += page["items"].as_array().unwrap().len();
            next = page["next_cursor"].as_str().map(str::to_owned);
            assert!(next.is_some() || seen == KEYS, "{seen} keys");
        } else {
            problems.push(format!("{} {}", page.status, String::from_utf8_lossy(&page.body)));
        }
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    problems
}

fn repaired(node: &Node) -> u64 {
    node.look("/metrics").unwrap()["storage"]["repaired_segments_total"].as_f64().unwrap() as u64
}

/// Waits until all have sealed the same number of segments, several of them.
#[track_caller]
fn wait_sealed(trio: &Trio) -> usize {
    wait_until("all seal the same", || {
        let counts: Vec<usize> = trio.nodes.iter().map(|node| segments(node).len()).collect();
        counts[0] > 8 && counts.iter().all(|count| *count == counts[0])
    });
    segments(&trio.nodes[0]).len()
}

#[test]
fn rot_is_repaired_from_another_member_and_never_served() {
    let mut trio = Trio::start(&SETTINGS);
    let [rotten, other] = trio.followers();
    fill(&trio.nodes[rotten]);
    trio.wait_same_trees();
    let count = wait_sealed(&trio);
    let whole: Vec<Vec<u8>> =
        segments(&trio.nodes[other]).iter().map(|path| fs::read(path).unwrap()).collect();
    let is_whole = |node: &Node, places: &[usize]| {
        let files = segments(node);
        places.iter().all(|place| fs::read(&files[*place]).unwrap() == whole[*place])
    };

    // It runs: what it has in memory is right anyhow.
    let places = [0, 2, 3, count / 2];
    places.iter().for_each(|place| rot(&segments(&trio.nodes[rotten])[*place]));
    assert_eq!(read_all(&trio.nodes[rotten]), [""; 0]);

    // It is started over the damage.
    trio.nodes[rotten].stop();
    let places = [0, 1, 3, count / 2];
    places.iter().for_each(|place| rot(&segments(&trio.nodes[rotten])[*place]));
    // Two that cannot even be opened: the start itself takes them from the others.
    let places = [&places[..], &[4, count - 1]].concat();
    for place in [4, count - 1] {
        let file = OpenOptions::new().write(true).open(&segments(&trio.nodes[rotten])[place]).unwrap();
        file.set_len(file.metadata().unwrap().len() - 7).unwrap();
    }
    assert!(!is_whole(&trio.nodes[rotten], &places));
    trio.nodes[rotten].restart();
    trio.wait_same_trees();
    assert_eq!(read_all(&trio.nodes[rotten]), [""; 0]);
    assert!(is_whole(&trio.nodes[rotten], &places), "the repaired files are the others'");
    assert_eq!(repaired(&trio.nodes[rotten]), places.len() as u64);
    assert_eq!(repaired(&trio.nodes[other]), 0);
    trio.nodes[rotten].wait_says("a damaged segment was repaired");

    // Nobody else is there: a clear error, and nothing that was not written.
    trio.nodes[rotten].stop();
    let (place, path) = (1, segments(&trio.nodes[rotten])[1].clone());
    rot(&path);
    trio.nodes[rotten].restart();
    trio.wait_same_trees();
    let leader = (0..3).find(|place| ![rotten, other].contains(place)).unwrap();
    for place in [other, leader] {
        trio.nodes[place].kill();
    }
    let record = trio.nodes[rotten].get("/api/v1/records/400?consistency=stale");
    let (status, said) = (record.status, String::from_utf8(record.body).unwrap());
    let name = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(status, 500, "{said}");
    for part in [name, "damaged at offset", "segment 1 could not be repaired now", "start the other members"]
    {
        assert!(said.contains(part), "{said}");
    }
    // They come back, and so does the record.
    for place in [other, leader] {
        trio.nodes[place].restart();
    }
    trio.wait_same_trees();
    wait_until("it is repaired", || {
        let read = trio.nodes[rotten].get("/api/v1/records/400?consistency=stale");
        read.status == 200 && read.json()["value"] == value(400)
    });
    assert!(is_whole(&trio.nodes[rotten], &[place]));
}
