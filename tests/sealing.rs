//! What becomes of records behind the answer: segments, and a log that is given up behind them.

#[path = "common/damage.rs"]
mod damage;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use damage::Original;
use scribe_ledger::{Ledger, config::Config, ledger::Batch};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(data_dir: &Path) -> Config {
    let mut config = Config::default();
    config.node.data_dir = data_dir.to_path_buf();
    config.wal.file_bytes = 64 << 10;
    config.wal.keep_bytes = 16 << 10;
    config.wal.disk_free_bytes_min = 0;
    config.storage.segment_size = 32 << 10;
    config
}

fn bytes_in(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn segments_in(data_dir: &Path) -> usize {
    let names = fs::read_dir(data_dir.join("segments")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".seg")).count()
}

#[expect(clippy::disallowed_methods, reason = "a real process is waited for")]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_segment_ends_by_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.storage.segment_age_max = Duration::from_millis(20);
    let ledger = Ledger::open_with(&config).unwrap();
    for number in 0..3 {
        ledger.put("key", number.to_string()).unwrap();
        wait_until("a segment", || segments_in(dir.path()) > number);
        assert_eq!(ledger.get("key").unwrap().unwrap(), number.to_string().as_bytes());
    }
    ledger.close().unwrap();
    // An empty segment does not end, however old it is.
    let segments = segments_in(dir.path());
    let ledger = Ledger::open_with(&config).unwrap();
    assert_eq!(ledger.history("key").count(), 3);
    ledger.put("other", "").unwrap();
    wait_until("one more segment", || segments_in(dir.path()) == segments + 1);
}

#[test]
fn the_log_is_given_up_behind_segments_and_a_restart_needs_only_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("wal");
    let ledger = Ledger::open_with(&config(dir.path())).unwrap();
    let mut records = 0;
    for _ in 0..300 {
        let mut batch = Batch::new();
        for _ in 0..100 {
            batch.put(format!("key-{records:06}"), [7; 60]).unwrap();
            records += 1;
        }
        ledger.apply_batch(batch).unwrap();
    }
    wait_until("segments", || segments_in(dir.path()) > 50);
    // 3 MB were written; kept are 16 KiB, what is not sealed, and files that are filled ahead.
    wait_until("a short log", || bytes_in(&wal) < 600 << 10);
    ledger.close().unwrap();

    let ledger = Ledger::open_with(&config(dir.path())).unwrap();
    assert_eq!((ledger.len().unwrap(), ledger.next_seq().0), (records, records));
    assert_eq!(ledger.get("key-000000").unwrap().unwrap(), &[7; 60][..]);
    ledger.close().unwrap();

    // Without the segments that hold what the log no longer does, it does not start.
    let segments = dir.path().join("segments");
    let newest = fs::read_dir(&segments).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let kept = fs::read(&newest).unwrap();
    fs::remove_file(&newest).unwrap();
    if let Err(error) = Ledger::open_with(&config(dir.path())) {
        // The log may still hold the last segment's entries: then it is cut again, the same.
        assert!(error.to_string().contains("missing"), "{error}");
    } else {
        wait_until("the segment, cut again", || fs::read(&newest).is_ok_and(|bytes| bytes == kept));
    }
    fs::write(&newest, &kept).unwrap();
    let middle = segments.join("segment-00000000000000000010.seg");
    fs::remove_file(&middle).unwrap();
    let Err(error) = Ledger::open_with(&config(dir.path())) else { panic!("a segment is missing") };
    assert!(error.to_string().contains("segment-00000000000000000010.seg is missing"), "{error}");
}

/// A log that ended early was once taken for one that had never been longer.
#[test]
fn a_log_without_its_end_is_not_taken_for_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let wal = dir.path().join("wal");
    for life in 0..3 {
        let ledger = Ledger::open_with(&config).unwrap();
        ledger.put("key", life.to_string()).unwrap();
        ledger.close().unwrap();
    }
    let mut logs: Vec<_> = fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("wal-"));
    logs.sort();
    let newest = logs.last().unwrap().clone();
    for (lost, says) in [
        (vec![newest], "held 3 records, and its log reached entry"),
        (logs, "held 3 records and has no write-ahead log"),
    ] {
        let why = refused_without(&config, &lost);
        assert!(why.contains(says), "{why}");
    }
    assert_eq!(Ledger::open_with(&config).unwrap().history("key").count(), 3);
}

#[test]
fn a_ledger_without_records_has_lost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    Ledger::open_with(&config).unwrap().close().unwrap();
    assert!(dir.path().join("proven").exists());
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    assert!(Ledger::open_with(&config).unwrap().is_empty().unwrap());
}

/// Segments that the log no longer has, and the index that goes with them.
#[test]
fn a_start_without_the_newest_segments_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let ledger = Ledger::open_with(&config).unwrap();
    for batch in 0..200 {
        let mut records = Batch::new();
        for record in 0..100 {
            records.put(format!("key-{batch}-{record}"), [7; 60]).unwrap();
        }
        ledger.apply_batch(records).unwrap();
    }
    wait_until("a log that begins late", || segments_in(dir.path()) > 30);
    let records = ledger.next_seq();
    ledger.close().unwrap();
    let segments = fs::read_dir(dir.path().join("segments")).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = segments.collect();
    segments.sort();
    let why = refused_without(&config, &segments[10..]);
    assert!(why.contains("files of the write-ahead log or of segments are missing"), "{why}");
    let why = refused_without(&config, &segments[..1]);
    assert!(why.contains("segment-00000000000000000000.seg is missing"), "{why}");
    let ledger = Ledger::open_with(&config).unwrap();
    assert_eq!((ledger.next_seq(), ledger.len().unwrap()), (records, records.0));
}

/// Takes files away, starts, and puts them back; why it did not start. Each time it once was that the start had
/// written to the log: then the one after the files were back found two files of one number, and the next one entries
/// that were not there.
fn refused_without(config: &Config, lost: &[PathBuf]) -> String {
    let whole = Original::read(&config.node.data_dir);
    let kept: Vec<_> = lost.iter().map(|path| (path, fs::read(path).unwrap())).collect();
    lost.iter().for_each(|path| fs::remove_file(path).unwrap());
    let left = Original::read(&config.node.data_dir);
    let why = match Ledger::open_with(config) {
        Ok(_) => panic!("records are missing, and nobody says so"),
        Err(error) => error.to_string(),
    };
    assert!(left == Original::read(&config.node.data_dir), "something was changed: {why}");
    kept.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    assert!(whole == Original::read(&config.node.data_dir));
    why
}
