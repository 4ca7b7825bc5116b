//! The real program with hardly any room for segments: their files leave, and every record can be read all the same.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    client::Answer,
    process::{Node, Spec},
    real::{RECORDS, wait_archived, write},
    sse::{Sent, Watcher},
    wait::wait_until,
};

const KEYS: u64 = 30_000;

fn value(n: u64) -> String {
    format!("value {n}, {}", "like the others ".repeat(5))
}

fn names(dir: &Path, suffix: &str) -> usize {
    let names = fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().ends_with(suffix)).count()
}

fn metric(node: &Node, name: &str) -> f64 {
    let text = String::from_utf8(node.get("/metrics/prometheus").is(200).body).unwrap();
    let line =
        text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

fn scribe(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_scribe")).args(arguments).output().unwrap()
}

/// Waits until only what never leaves is left, and nothing else is under way.
fn wait_cold(node: &Node) {
    wait_until("the files have left", || {
        let rows = node.get("/api/v1/segments").is(200).json();
        let rows = rows.as_array().unwrap();
        let (newest, older) = rows.split_last().unwrap();
        newest["state"] == "both"
            && older.iter().all(|row| row["state"] == "archived" && row["object"].is_string())
    });
    wait_until("and their names are gone", || names(&node.spec.dir, ".seg") == 1);
}

fn record(node: &Node, n: u64) -> Answer {
    node.get(&format!("/api/v1/records/{n}"))
}

/// All records, as a watcher gets them.
fn watch_all(node: &Node) {
    let mut watcher = Watcher::start(node.spec.http, "/api/v1/watch?from=0", &[]).unwrap();
    let mut next = 0;
    while next < RECORDS {
        match watcher.next() {
            Sent::Event { id, data, .. } => {
                assert_eq!((id, data["key"].as_str()), (next, Some(&*format!("key-{:05}", next % KEYS))));
                next += 1;
            }
            Sent::Comment(_) => {}
            Sent::End => panic!("it ends at {next}"),
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn everything_can_be_read_when_its_files_have_left() {
    let home = tempfile::tempdir().unwrap();
    let settings = [
        ("STORAGE_SEGMENT_SIZE", "1MiB"),
        ("STORAGE_MAX_CACHE_SIZE", "8MiB"),
        ("STORAGE_TIERING_MAX_LAG_SECS", "1"),
        ("STORAGE_TIERING_LOCAL_BYTES_MAX", "1"),
        ("STORAGE_TIERING_AGE_THRESHOLD_SECS", "0"),
        ("STORAGE_TIERING_CACHE_DISK_SIZE", "2MiB"),
    ];
    let mut node = Spec::new(home.path(), 1).with(&settings).start_ready();
    write(&node, 0..RECORDS);
    wait_archived(&node, RECORDS);
    wait_cold(&node);
    let dir = node.spec.dir.clone();
    let tree = node.tree();
    let (all, local) =
        (metric(&node, "scribe_storage_segment_bytes"), metric(&node, "scribe_storage_local_bytes"));
    eprintln!("{local} of {all} bytes are left");
    assert!(local < all / 2.0, "{local} of {all}");

    // Nothing is in memory any more.
    node.kill();
    node.restart();
    node.wait_ready();
    assert_eq!(node.tree(), tree);
    for n in (0..RECORDS).step_by(4_999) {
        let row = record(&node, n).is(200).json();
        assert_eq!(row["seq"], n, "{row}");
        let key = format!("key-{:05}", n % KEYS);
        let at = node.get(&format!("/{key}?at={n}")).is(200);
        assert_eq!(String::from_utf8(at.body).unwrap(), value(n));
        let newest = n % KEYS + (RECORDS - 1 - n % KEYS) / KEYS * KEYS;
        assert_eq!(String::from_utf8(node.get(&format!("/{key}")).is(200).body).unwrap(), value(newest));
        let history = node.get(&format!("/api/v1/kv/{key}/history")).is(200).json();
        let versions = history["versions"].as_array().unwrap();
        assert!(
            versions
                .iter()
                .map(|version| version["seq"].as_u64().unwrap())
                .eq((0..=newest).rev().filter(|seq| seq % KEYS == n % KEYS))
        );
        node.get(&format!("/api/v1/proofs/inclusion/{n}")).is(200);
    }
    node.get("/tile/entries/005").is(200);
    // Spread so far that hardly any two are in one block.
    let mut took: Vec<_> = (0..400)
        .map(|n| {
            let began = Instant::now();
            record(&node, (n * 7_919 + 17) % RECORDS).is(200);
            began.elapsed()
        })
        .collect();
    took.sort_unstable();
    eprintln!("400 cold point reads: p50 {:?}, p99 {:?}", took[200], took[396]);
    assert!(took[200] < Duration::from_millis(200), "{:?}", took[200]);
    let (mut cursor, mut seen) = (String::new(), 0);
    loop {
        let page = node.get(&format!("/api/v1/kv?limit=1000{cursor}")).is(200).json();
        for item in page["items"].as_array().unwrap() {
            assert_eq!(item["key"], format!("key-{seen:05}"));
            seen += 1;
        }
        match &page["next_cursor"] {
            Value::String(next) => cursor = format!("&cursor={next}"),
            _ => break,
        }
    }
    assert_eq!(seen, KEYS);
    watch_all(&node);
    assert!(metric(&node, "scribe_archive_cache_bytes") <= f64::from(2 << 20));
    assert!(metric(&node, "scribe_archive_downloads_total") > 10.0);
    assert!(metric(&node, "scribe_archive_cache_misses_total") > 10.0);
    assert!(metric(&node, "scribe_archive_cache_hits_total") > 0.0);
    assert_eq!(metric(&node, "scribe_archive_download_errors_total"), 0.0);

    // Away is what is cold, and nothing else.
    node.kill();
    node.restart();
    node.wait_ready();
    let (archive, away) = (dir.join("archive"), dir.join("archive.away"));
    fs::rename(&archive, &away).unwrap();
    let problem = record(&node, 3).is_problem(503, "unavailable");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("archive") && detail.contains(".seg"), "{detail}");
    node.get("/api/v1/kv?limit=1000").is_problem(503, "unavailable");
    let seq = node.put("new", "still written");
    assert_eq!(node.get("/new").is(200).body, b"still written");
    record(&node, seq).is(200);
    node.get("/api/v1/kv?limit=1000&keys_only=true");
    node.get("/tile/0/005").is(200);
    node.get("/livez").is(200);
    node.get("/health").is(200);
    fs::remove_dir_all(&archive).ok();
    fs::rename(&away, &archive).unwrap();
    wait_until("it is back", || record(&node, 3).status == 200);

    // What others say of the directory.
    let of = dir.to_str().unwrap();
    let verified = scribe(&["verify", of]);
    let said =
        String::from_utf8_lossy(&verified.stdout).into_owned() + &String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.contains("in the archive alone"), "{said}");
    assert!(scribe(&["verify", "--archive", archive.to_str().unwrap()]).status.success());
    // A copy has everything: of the running node, and of the directory, with its archive and without.
    let copy = |name: &str, arguments: &[&str]| {
        let to = home.path().join(name);
        let output = scribe(&[&["backup", "--to", to.to_str().unwrap()], arguments].concat());
        (to, output)
    };
    let url = format!("http://{}", node.spec.http);
    let (asked, output) = copy("asked", &["--server", &url]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (beside, output) = copy("beside", &["--data-dir", of]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&archive, &away).unwrap();
    let (_, output) = copy("without", &["--data-dir", of]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--archive DIR"), "{said}");
    let (told, output) = copy("told", &["--data-dir", of, "--archive", away.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir_all(&archive).ok();
    fs::rename(&away, &archive).unwrap();
    for copy in [&asked, &beside, &told] {
        let verified = scribe(&["verify", copy.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        assert!(!said.contains("in the archive alone"), "{said}");
        for entry in fs::read_dir(&asked).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            let is_segment = name.to_str().unwrap().ends_with(".seg");
            assert!(
                !is_segment || fs::read(entry.path()).unwrap() == fs::read(copy.join(&name)).unwrap(),
                "{name:?}"
            );
        }
    }
    node.stop();
    let reindexed = scribe(&["reindex", "--data-dir", of]);
    assert!(reindexed.status.success(), "{}", String::from_utf8_lossy(&reindexed.stderr));
}
