//! The real program with the settings it comes with: the archive is in its data directory.

use std::sync::Arc;

use scribe_ledger::{archive::Entry, env::real::RealIo, proof::key::VerifierKey};
use serde_json::Value;

use crate::{
    bucket,
    disks::ReadOnly,
    process::{Node, Spec},
    wait::{wait_for, wait_until},
    way::Behind,
};

pub const RECORDS: u64 = 200_000;
pub const BATCH: u64 = 5_000;

/// Records from `first` on as one bulk body.
fn frames(first: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for n in first..first + BATCH {
        let (key, value) =
            (format!("key-{:05}", n % 30_000), format!("value {n}, {}", "like the others ".repeat(5)));
        body.extend([1, 0]);
        body.extend((key.len() as u16).to_le_bytes());
        body.extend((value.len() as u32).to_le_bytes());
        body.extend(key.as_bytes());
        body.extend(value.as_bytes());
    }
    body
}

pub fn write(node: &Node, records: std::ops::Range<u64>) {
    let headers = [("content-type", "application/vnd.scribe.batch")];
    for first in records.step_by(BATCH as usize) {
        node.call("POST", "/api/v1/batch", &headers, &frames(first)).is(200);
    }
}

pub fn wait_archived(node: &Node, records: u64) -> Value {
    wait_for("all that is written is sealed and archived", || {
        let status = node.status()?;
        let at = |name: &str| status["records"][name].as_u64();
        (at("sealed") == Some(records) && at("archived") == Some(records)).then_some(status)
    })
}

/// Waits until the archive is in this state, and gives why.
#[track_caller]
pub fn wait_state(node: &Node, state: &str) -> String {
    wait_for(&format!("the archive is {state}"), || {
        let status = node.status()?;
        let why = status["archive"]["error"].as_str().unwrap_or_default().to_owned();
        (status["archive"]["state"] == state).then_some(why)
    })
}

fn read_bucket(node: &Node, cluster_id: &str) -> Vec<Entry> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let keys = node.get("/api/v1/keys").is(200).json();
    let keys = keys["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().parse().unwrap());
    let keys: Vec<VerifierKey> = keys.collect();
    let dir = node.spec.dir.join("archive");
    runtime.block_on(async {
        let entries =
            bucket::readable(Arc::new(Behind::new(ReadOnly(RealIo::new()))), &dir, cluster_id).await;
        bucket::is_signed(Arc::new(Behind::new(ReadOnly(RealIo::new()))), &dir, cluster_id, &entries, &keys)
            .await;
        let mut next = 0;
        for entry in &entries {
            for value in bucket::values(Arc::new(Behind::new(ReadOnly(RealIo::new()))), &dir, entry).await {
                assert!(value.starts_with(format!("value {next}, ").as_bytes()), "record {next}");
                next += 1;
            }
        }
        assert_eq!(next, entries.last().unwrap().end_seq.0);
        entries
    })
}

#[test]
fn a_node_without_set_up_archives_in_its_directory_and_goes_on_after_a_kill() {
    let home = tempfile::tempdir().unwrap();
    let settings = [("STORAGE_SEGMENT_SIZE", "1MiB"), ("STORAGE_TIERING_MAX_LAG_SECS", "1")];
    let mut node = Spec::new(home.path(), 1).with(&settings).start_ready();
    write(&node, 0..RECORDS);
    let status = wait_archived(&node, RECORDS);
    let cluster_id = status["cluster_id"].as_str().unwrap().to_owned();
    assert_eq!(status["archive"]["state"], "ok", "{status}");
    assert_eq!(status["stages"]["archive"]["depth"], 0, "{status}");
    let entries = read_bucket(&node, &cluster_id);
    assert!(entries.len() > 10, "{}", entries.len());

    let segments = node.get("/api/v1/segments").is(200).json();
    for (entry, row) in entries.iter().zip(segments.as_array().unwrap()) {
        assert_eq!(
            (&row["state"], row["object"].as_str()),
            (&"both".into(), Some(entry.object.name().as_str()))
        );
    }
    let metrics = String::from_utf8(node.get("/metrics/prometheus").is(200).body).unwrap();
    for name in ["objects_total", "raw_bytes_total", "stored_bytes_total"] {
        let line = metrics.lines().find(|line| line.starts_with(&format!("scribe_archive_{name} "))).unwrap();
        assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() > 0.0, "{line}");
    }
    assert!(metrics.contains("\nscribe_archive_lag_seconds 0\n"), "{metrics}");
    assert!(metrics.contains("scribe_archive_errors_total{kind=\"away\"} 0\n"));

    // Killed while it archives.
    write(&node, RECORDS..2 * RECORDS);
    node.kill();
    node.restart();
    node.wait_ready();
    wait_archived(&node, 2 * RECORDS);
    let after = read_bucket(&node, &cluster_id);
    assert_eq!(after[..entries.len()], entries[..], "what is archived stays as it is");
    wait_until("its rows have their objects again", || {
        let segments = node.get("/api/v1/segments").is(200).json();
        segments.as_array().unwrap().iter().all(|row| row["state"] == "both" && row["object"].is_string())
    });
    node.stop();
}
