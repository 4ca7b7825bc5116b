//! `scribe reindex`: on a stopped node it builds the index anew, beside a running one it refuses.

use std::{fs, path::Path, time::Duration};

use scribe_ledger::{Ledger, config::Config};
use serde_json::Value as Json;
use tokio::time::Instant;

use super::built::{exits_with, scribe, stderr, stdout};

const KEYS: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(60);

fn open(dir: &Path) -> Ledger {
    let mut config = Config::default();
    config.node.data_dir = dir.to_path_buf();
    config.storage.segment_size = 64 << 10;
    Ledger::open_with(&config).unwrap()
}

fn sealed(dir: &Path) -> usize {
    fs::read_dir(dir.join("segments")).map_or(0, |names| {
        names.filter(|name| name.as_ref().unwrap().path().extension().is_some_and(|e| e == "seg")).count()
    })
}

fn reindex(dir: &Path) -> std::process::Output {
    scribe(&["reindex", "--data-dir", dir.to_str().unwrap(), "--format", "json"])
}

#[test]
fn a_stopped_nodes_index_is_built_anew_and_a_running_ones_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let ledger = open(home.path());
    let mut round = 0;
    let deadline = Instant::now() + PATIENCE;
    while sealed(home.path()) < 5 {
        assert!(Instant::now() < deadline, "segments are sealed");
        let mut batch = ledger.batch();
        for key in 0..KEYS {
            batch.put(format!("key-{key}"), format!("{round} {}", "v".repeat(200))).unwrap();
        }
        ledger.apply_batch(batch).unwrap();
        round += 1;
    }
    let refused = reindex(home.path());
    exits_with(&refused, 1);
    assert!(stderr(&refused).contains("uses the data directory"), "{}", stderr(&refused));
    let last = format!("{} {}", round - 1, "v".repeat(200));
    drop(ledger);

    // An index that cannot be opened, and one that can.
    for spoil in [true, false] {
        if spoil {
            fs::write(home.path().join("index/FORMAT"), "something else\n").unwrap();
        }
        let done = reindex(home.path());
        exits_with(&done, 0);
        let document: Json = serde_json::from_str(&stdout(&done)).unwrap();
        let segments = sealed(home.path()) as u64;
        assert_eq!(document["segments"], segments, "{document}");
        assert!(document["records"].as_u64().unwrap() > segments * 100, "{document}");
        assert!(document["index_bytes"].as_u64().unwrap() > 0, "{document}");
        let ledger = open(home.path());
        for key in 0..KEYS {
            assert_eq!(ledger.get(format!("key-{key}")).unwrap().unwrap(), last.as_bytes());
        }
        assert_eq!(ledger.len().unwrap(), KEYS);
    }
}

#[test]
fn what_is_no_data_directory_is_not_touched() {
    let home = tempfile::tempdir().unwrap();
    let refused = reindex(home.path());
    exits_with(&refused, 2);
    assert!(stderr(&refused).contains("is not the data directory of a node"), "{}", stderr(&refused));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "not even a lock");
}
