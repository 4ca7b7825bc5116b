//! A ledger whose files have left is lost and restored, twice: in each life files leave for objects of all epochs, what
//! binds the epochs stays, and everything is read as it was before the first.

use std::{fs, path::Path, process::Command};

use scribe_ledger::state::link::Link;
use serde_json::Value;

use crate::{
    asked::{ALL_LEAVES, ALL_STAYS, RECORDS, all_is_right, expected, write},
    process::{Node, Spec},
    real::wait_archived,
    wait::{wait_for, wait_until},
};

const BESIDE: u64 = 300;

fn spec(home: &Path, name: &str) -> Spec {
    let mut spec = Spec::new(home, 1).with(&[
        ("STORAGE_SEGMENT_SIZE", "32KiB"),
        ("STORAGE_TIERING_MAX_LAG_SECS", "1"),
        ("STORAGE_TIERING_ARCHIVAL_CHECK_INTERVAL_SECS", "1"),
        ("STORAGE_ARCHIVE_DIR", home.join("archive").to_str().unwrap()),
    ]);
    spec.dir = home.join(name);
    spec
}

/// The next life of what is in the archive.
fn restore(home: &Path, name: &str, records: u64) -> Spec {
    let (from, to) = (home.join("archive"), home.join(name));
    let arguments = ["restore", "--from", from.to_str().unwrap(), "--data-dir", to.to_str().unwrap()];
    let output =
        Command::new(env!("CARGO_BIN_EXE_scribe")).arg("--format=json").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["records"], records, "{told}");
    spec(home, name).with(&ALL_LEAVES)
}

/// Waits until all has left but the newest segment and the one with the link at `link`; the epochs of the objects that
/// are read instead.
fn wait_cold_but(node: &Node, link: u64) -> Vec<u32> {
    wait_for("all that can has left", || {
        let rows = node.get("/api/v1/segments").is(200).json();
        let (newest, older) = rows.as_array().unwrap().split_last().unwrap();
        let has_link = |row: &Value| {
            (row["first_seq"].as_u64().unwrap()..row["end_seq"].as_u64().unwrap()).contains(&link)
        };
        let stays = |row: &Value| has_link(row) || row["first_seq"] == row["end_seq"];
        let is_cold = |row: &Value| row["state"] == if stays(row) { "both" } else { "archived" };
        let is_done = newest["state"] == "both" && older.iter().all(is_cold) && older.iter().any(has_link);
        is_done.then(|| {
            let gone = older.iter().filter(|row| !stays(row));
            let epoch = |row: &Value| row["object"].as_str().unwrap()[6..16].parse().unwrap();
            gone.map(epoch).collect()
        })
    })
}

fn write_beside(node: &Node, life: &str) {
    let line = |n| {
        format!(
            "{{\"op\":\"put\",\"key\":\"a-{life}-{n:03}\",\"value\":\"{}\"}}\n",
            "of this life ".repeat(20)
        )
    };
    let body: String = (0..BESIDE).map(line).collect();
    node.call("POST", "/api/v1/batch", &[("content-type", "application/x-ndjson")], body.as_bytes()).is(200);
}

fn link(node: &Node, seq: u64) -> Link {
    let record = node.get(&format!("/api/v1/records/{seq}")).is(200).json();
    Link::decode(record["value"].as_str().unwrap().as_bytes()).unwrap()
}

#[test]
fn what_has_left_in_one_epoch_is_read_in_all_later_ones() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let first = spec(home, "first").with(&ALL_STAYS).start_ready();
    write(&first, 0..RECORDS);
    wait_archived(&first, RECORDS);
    let expected = expected(&first);
    let ledger = first.status().unwrap()["cluster_id"].as_str().unwrap().to_owned();
    first.stop();

    let mut second = restore(home, "second", RECORDS).start_ready();
    wait_archived(&second, RECORDS + 1);
    write_beside(&second, "2");
    write_beside(&second, "2-again");
    let second_end = RECORDS + 1 + 2 * BESIDE;
    wait_archived(&second, second_end);
    let epochs = wait_cold_but(&second, RECORDS);
    assert!(epochs.iter().filter(|epoch| **epoch == 1).count() >= 6 && epochs.contains(&2), "{epochs:?}");
    for _ in 0..2 {
        all_is_right(&second, &expected);
        assert_eq!((link(&second, RECORDS).epoch, link(&second, RECORDS).ledger), (2, ledger.clone()));
        // Nothing is in memory any more.
        second.kill();
        second.restart();
    }
    // The archive is away: what it is known by is not, and it goes on by itself.
    let (archive, away) = (home.join("archive"), home.join("away"));
    fs::rename(&archive, &away).unwrap();
    second.kill();
    second.restart();
    second.get("/api/v1/records/1").is_problem(503, "unavailable");
    assert_eq!(link(&second, RECORDS).size, RECORDS);
    second.put("a-away", "written");
    let _ = fs::remove_dir_all(&archive);
    fs::rename(&away, &archive).unwrap();
    wait_until("it is back", || second.get("/api/v1/records/1").status == 200);
    let second_end = second_end + 1;
    wait_archived(&second, second_end);
    all_is_right(&second, &expected);
    wait_cold_but(&second, RECORDS);
    second.stop();

    // Its link is a record like others to the third, whose own stays.
    let third = restore(home, "third", second_end).start_ready();
    wait_archived(&third, second_end + 1);
    write_beside(&third, "3");
    write_beside(&third, "3-again");
    wait_archived(&third, second_end + 1 + 2 * BESIDE);
    let epochs = wait_cold_but(&third, second_end);
    for epoch in 1..=3 {
        assert!(epochs.contains(&epoch), "{epochs:?}");
    }
    all_is_right(&third, &expected);
    assert_eq!((link(&third, RECORDS).epoch, link(&third, second_end).epoch), (2, 3));
    assert_eq!(third.get("/a-away").is(200).body, b"written");
    let (url, state) = (format!("http://{}", third.spec.http), home.join("visit.json"));
    let visit = ["verify", "--url", &url, "--samples", "64", "--state", state.to_str().unwrap()];
    for arguments in [
        &visit[..],
        &["verify", "--archive", archive.to_str().unwrap()],
        &["verify", third.spec.dir.to_str().unwrap()],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_scribe")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
    third.stop();
}
