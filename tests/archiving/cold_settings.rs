//! What each setting of tiering says is so.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    asked::{ALL_LEAVES, ALL_STAYS, RECORDS, all_is_right, expected, metric, wait_cold, write},
    process::{Node, Spec},
    real::wait_archived,
    wait::{wait_for, wait_until},
};

fn spec(home: &Path) -> Spec {
    Spec::new(home, 1)
        .with(&[("STORAGE_SEGMENT_SIZE", "32KiB"), ("STORAGE_TIERING_MAX_LAG_SECS", "1")])
        .with(&ALL_STAYS)
}

fn rows(node: &Node) -> Vec<Value> {
    node.get("/api/v1/segments").is(200).json().as_array().unwrap().clone()
}

fn objects(dir: &Path) -> usize {
    fs::read_dir(dir.join("archive/epoch-0000000001/segments")).unwrap().count()
}

#[test]
fn without_auto_archival_nothing_is_copied_nor_leaves_and_what_has_left_is_read() {
    let home = tempfile::tempdir().unwrap();
    let spec = spec(home.path());
    let node = spec.start_ready();
    write(&node, 0..RECORDS);
    wait_archived(&node, RECORDS);
    let expected = expected(&node);
    node.stop();
    let leaves = spec.clone().with(&ALL_LEAVES);
    let node = leaves.start_ready();
    let gone = wait_cold(&node);
    node.stop();
    let (dir, copied) = (node.spec.dir.clone(), objects(&node.spec.dir));

    let off = [("STORAGE_TIERING_ENABLE_AUTO_ARCHIVAL", "false"), ("STORAGE_SEGMENT_AGE_MAX", "1s")];
    let node = spec.with(&ALL_LEAVES).with(&ALL_STAYS).with(&off).start_ready();
    all_is_right(&node, &expected);
    let line = |n| format!("{{\"op\":\"put\",\"key\":\"a-{n:03}\",\"value\":\"{}\"}}\n", "more ".repeat(30));
    let body: String = (0..400).map(line).collect();
    node.call("POST", "/api/v1/batch", &[("content-type", "application/x-ndjson")], body.as_bytes()).is(200);
    let status = wait_for("it is sealed", || {
        node.status().filter(|status| status["records"]["sealed"] == RECORDS + 400)
    });
    assert_eq!(
        (&status["archive"]["state"], &status["records"]["archived"]),
        (&"off".into(), &RECORDS.into())
    );
    assert_eq!(objects(&dir), copied);
    let states = rows(&node).into_iter().skip(gone + 1).map(|row| row["state"].clone()).collect::<Vec<_>>();
    assert!(!states.is_empty() && states.iter().all(|state| state == "local"), "{states:?}");
    all_is_right(&node, &expected);
    assert!(!dir.join("cold.cache").exists(), "no disk is given to copies");
    // The archive is away: it is said as where archiving is on.
    fs::rename(dir.join("archive"), dir.join("away")).unwrap();
    let problem = node.get("/api/v1/records/1").is_problem(503, "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("epoch-0000000001/segments"), "{problem}");
    fs::rename(dir.join("away"), dir.join("archive")).unwrap();
    node.get("/api/v1/records/1").is(200);
    node.stop();

    let node = leaves.start_ready();
    wait_archived(&node, RECORDS + 400);
    assert!(wait_cold(&node) > gone && objects(&dir) > copied);
    all_is_right(&node, &expected);
    node.stop();
}

#[test]
fn the_oldest_files_leave_until_the_rest_fits() {
    let home = tempfile::tempdir().unwrap();
    let spec = spec(home.path());
    let node = spec.start_ready();
    write(&node, 0..RECORDS);
    wait_archived(&node, RECORDS);
    node.stop();
    let local = |node: &Node| metric(node, "scribe_storage_local_bytes");
    let bounded =
        [("STORAGE_TIERING_LOCAL_BYTES_MAX", "300KiB"), ("STORAGE_TIERING_AGE_THRESHOLD_SECS", "0")];
    let node = spec.with(&bounded).start_ready();
    let largest = rows(&node).iter().map(|row| row["bytes"].as_u64().unwrap()).max().unwrap() as f64;
    let bound = f64::from(300 << 10);
    wait_until("the rest fits", || local(&node) <= bound);
    let left = local(&node);
    assert!(left > bound - largest, "no more leaves than has to: {left}, of {largest} at most");
    let states: Vec<_> = rows(&node).iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect();
    let gone = states.iter().take_while(|state| *state == "archived").count();
    assert!(gone > 0 && states[gone..].iter().all(|state| state == "both"), "{states:?}");
    assert!(gone + 1 < states.len(), "{states:?}");
    node.stop();
}

#[test]
fn no_file_leaves_before_its_records_are_old_enough() {
    const AGE_SECS: u64 = 4;
    let home = tempfile::tempdir().unwrap();
    let age = AGE_SECS.to_string();
    let young = [("STORAGE_TIERING_LOCAL_BYTES_MAX", "1"), ("STORAGE_TIERING_AGE_THRESHOLD_SECS", &*age)];
    let node = spec(home.path()).with(&young).start_ready();
    write(&node, 0..RECORDS);
    // The oldest, and the last that may.
    let watched = wait_for("several are sealed", || {
        let rows = rows(&node);
        (rows.len() > 3).then(|| [rows[0].clone(), rows[rows.len() - 2].clone()])
    });
    let at = |seq: u64| {
        node.get(&format!("/api/v1/records/{seq}")).is(200).json()["timestamp_ms"].as_u64().unwrap()
    };
    for row in watched {
        let (id, newest) = (row["id"].as_u64().unwrap() as usize, row["end_seq"].as_u64().unwrap() - 1);
        let written_at = at(newest);
        wait_until("it leaves", || rows(&node)[id]["state"] == "archived");
        // The node's own clock says when that was.
        let seen_at = at(node.put("a-now", "seen"));
        assert!(seen_at >= written_at + AGE_SECS * 1_000, "{id}: {written_at} {seen_at}");
    }
    node.stop();
}
