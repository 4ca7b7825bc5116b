//! The real program with a bucket: an S3 server in the test's process, with signature checks.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use scribe_ledger::{
    archive::{Entry, Store, s3::S3Store},
    types::SegmentId,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    process::{Node, Spec},
    real::{wait_archived, wait_state},
    server::{BUCKET, Conditions, Server},
};

pub const PREFIX: &str = "some/prefix";

/// A runtime that goes on beside the test, for the server.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A node with small segments, which archives into this server.
pub fn spec(home: &Path, server: &Server) -> Spec {
    let settings = server.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Spec::new(home, 1)
        .with(&[
            ("STORAGE_SEGMENT_SIZE", "32KiB"),
            ("STORAGE_TIERING_MAX_LAG_SECS", "1"),
            ("STORAGE_TIERING_ARCHIVAL_CHECK_INTERVAL_SECS", "1"),
        ])
        .with(&settings)
}

/// Writes records `key-N` in batches of a hundred.
pub fn write(node: &Node, numbers: std::ops::Range<u64>) {
    try_write(node, numbers).unwrap_or_else(|(at, error)| panic!("writing from key-{at}: {error}"));
}

/// Writes as [`write`] does, until the node ends: then, how far it has answered.
pub fn try_write(node: &Node, numbers: std::ops::Range<u64>) -> Result<(), (u64, io::Error)> {
    let numbers: Vec<u64> = numbers.collect();
    for some in numbers.chunks(100) {
        let line = |n: &u64| {
            let value = format!("value {n} {}", "and so on ".repeat(10));
            format!("{}\n", json!({"op": "put", "key": format!("key-{n}"), "value": value}))
        };
        let body: String = some.iter().map(line).collect();
        let headers = [("content-type", "application/x-ndjson")];
        let answer = node.try_call("POST", "/api/v1/batch", &headers, body.as_bytes());
        answer.map_err(|error| (some[0], error))?.is(200);
    }
    Ok(())
}

/// The command line, which knows the server as an operator's would.
pub fn scribe(server: &Server, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_scribe"))
        .args(["--format", "json"])
        .args(arguments)
        .env_remove("SCRIBE_SERVER")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("HOME")
        .envs(server.environment())
        .output()
        .unwrap()
}

#[track_caller]
pub fn told(output: &Output) -> Value {
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told} {said}");
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

pub fn place() -> String {
    format!("s3://{BUCKET}/{PREFIX}")
}

/// The bucket has a ledger of so many records, each segment once, each object what its name says, and nothing beside
/// but what a leader was about to name. How many segments.
#[track_caller]
pub fn is_whole(server: &Server, records: u64) -> u64 {
    let report = told(&scribe(server, &["verify", "--archive", &place()]));
    assert_eq!(report["records"], records, "{report}");
    assert_eq!(report["checkpoints"][0]["size"], records, "{report}");
    let epoch = server.bucket().join(PREFIX).join("epoch-0000000001");
    let mut named = BTreeMap::new();
    for entry in fs::read_dir(epoch.join("manifest")).unwrap().map(Result::unwrap) {
        // The server keeps what it writes under another name until it is whole.
        if !entry.file_name().to_str().unwrap().ends_with(".entry") {
            continue;
        }
        let entry = Entry::decode(&fs::read(entry.path()).unwrap()).unwrap();
        assert!(named.insert(entry.object.segment, entry).is_none());
    }
    for (number, entry) in named.values().enumerate() {
        assert_eq!(entry.object.segment, SegmentId(number as u64));
    }
    for object in fs::read_dir(epoch.join("segments")).unwrap().map(Result::unwrap) {
        let name = object.file_name().into_string().unwrap();
        let Some((id, hash)) = name.strip_suffix(".seg").and_then(|name| name.split_once('-')) else {
            continue;
        };
        let bytes = fs::read(object.path()).unwrap();
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), hash, "{name} has another name than its bytes");
        let entry = &named[&SegmentId(id.parse().unwrap())];
        assert_eq!(entry.object.name().last(), name, "a segment is there twice");
    }
    named.len() as u64
}

#[test]
fn a_node_archives_into_a_bucket_and_comes_back_from_it() {
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    let server = runtime.block_on(Server::start());
    let node = spec(home.path(), &server).start_ready();
    write(&node, 0..3_000);
    let status = wait_archived(&node, 3_000);
    assert_eq!((&status["archive"]["state"], &status["archive"]["place"]), (&"ok".into(), &place().into()));
    assert!(is_whole(&server, 3_000) > 5);
    let segments = node.get("/api/v1/segments").is(200).json();
    for row in segments.as_array().unwrap() {
        let object = server.bucket().join(PREFIX).join(row["object"].as_str().unwrap());
        assert!(object.is_file(), "{row}");
    }
    node.stop();

    let second = home.path().join("second");
    let restored =
        told(&scribe(&server, &["restore", "--from", &place(), "--data-dir", second.to_str().unwrap()]));
    assert_eq!((&restored["records"], &restored["proven_to"]), (&3_000.into(), &3_000.into()));
    let mut spec = spec(home.path(), &server);
    spec.dir = second;
    let node = spec.start_ready();
    write(&node, 3_000..3_500);
    wait_archived(&node, 3_501);
    for n in [0, 1_234, 2_999, 3_499] {
        let answer = node.get(&format!("/key-{n}")).is(200);
        assert!(answer.body.starts_with(format!("value {n} ").as_bytes()));
    }
    let report = told(&scribe(&server, &["verify", "--archive", &place()]));
    assert_eq!(report["records"], 3_501, "{report}");
    // It is the bucket, and not what lies on this disk, that tells it.
    assert!(!node.spec.dir.join("archive").exists());
    node.stop();
}

#[test]
fn what_a_start_finds_wrong_with_a_bucket_is_said_and_the_node_serves_on() {
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    let server = runtime.block_on(Server::start());
    let good = spec(home.path(), &server);
    let cases = [
        (
            ("STORAGE_S3_SECRET_ACCESS_KEY", "guessed"),
            "refused",
            "set storage.s3.access_key_id and storage.s3.secret",
        ),
        (
            ("STORAGE_S3_ACCESS_KEY_ID", "nobody"),
            "refused",
            "set storage.s3.access_key_id and storage.s3.secret",
        ),
        (("STORAGE_S3_BUCKET", "no-such-bucket"), "refused", "there is no such bucket"),
        (("STORAGE_S3_ENDPOINT", "http://127.0.0.1:9"), "away", "storage.s3.endpoint"),
    ];
    let mut written = 0;
    for (setting, state, says) in cases {
        let node = good.clone().with(&[setting]).start_ready();
        write(&node, written..written + 300);
        written += 300;
        let why = wait_state(&node, state);
        assert!(why.contains(says) && !why.contains("guessed"), "{setting:?}: {why}");
        let level = if state == "refused" { "ERROR" } else { "WARN" };
        node.wait_says(says);
        let said = node.said();
        assert!(said.lines().any(|line| line.contains(level) && line.contains(says)), "{setting:?}");
        assert!(!said.contains("guessed"), "a secret is shown");
        // It serves, and says how it is to whoever asks.
        node.get("/key-0").is(200);
        node.get("/readyz").is(200);
        let metrics = String::from_utf8(node.get("/metrics/prometheus").is(200).body).unwrap();
        let errors = format!("scribe_archive_errors_total{{kind=\"{state}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&errors)).unwrap();
        assert!(count.parse::<f64>().unwrap() > 0.0, "{count}");
        assert_eq!(node.status().unwrap()["records"]["archived"], 0);
        node.stop();
    }
    assert_eq!(fs::read_dir(server.bucket()).unwrap().count(), 0, "nothing was written");
    let node = good.start_ready();
    wait_archived(&node, written);
    is_whole(&server, written);
    node.stop();

    // The command line says it, too.
    let guessed = [("SCRIBE_STORAGE_S3_SECRET_ACCESS_KEY", "guessed")];
    for arguments in [
        vec!["verify", "--archive", &place()],
        vec!["restore", "--from", &place(), "--data-dir", home.path().join("new").to_str().unwrap()],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_scribe"))
            .args(&arguments)
            .envs(server.environment())
            .envs(guessed)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("storage.s3.secret_access_key") && !said.contains("guessed"), "{said}");
    }
}

#[test]
fn a_bucket_without_conditions_is_warned_of_and_filled() {
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    let server = runtime.block_on(Server::with(Conditions::Ignored));
    let mut node = spec(home.path(), &server).start_ready();
    write(&node, 0..500);
    wait_archived(&node, 500);
    node.wait_says("does not honour If-None-Match");
    assert!(
        node.said().lines().any(|line| line.contains("WARN") && line.contains("does not honour If-Match"))
    );
    node.kill();
    node.restart();
    write(&node, 500..900);
    wait_archived(&node, 900);
    is_whole(&server, 900);
    node.stop();
}

/// Another ledger's place in a bucket is left alone.
#[test]
fn a_bucket_of_another_ledger_is_refused() {
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    let server = runtime.block_on(Server::start());
    let node = spec(home.path(), &server).start_ready();
    write(&node, 0..300);
    wait_archived(&node, 300);
    node.stop();
    let mut other = spec(home.path(), &server);
    other.dir = home.path().join("other");
    let other = other.start_ready();
    write(&other, 0..300);
    let why = wait_state(&other, "refused");
    assert!(why.contains("is the archive of the ledger") && why.contains("take another bucket"), "{why}");
    other.stop();
    is_whole(&server, 300);
    // Beside it, under a name of its own, it is welcome.
    let other = other.spec.clone().with(&[("STORAGE_S3_PREFIX", "other")]).start_ready();
    wait_archived(&other, 300);
    let store: Arc<dyn Store> = Arc::new(
        S3Store::new(scribe_ledger::archive::s3::S3Options { prefix: "other".into(), ..server.options() })
            .unwrap(),
    );
    assert!(!runtime.block_on(store.list("epoch-0000000001/manifest", None)).unwrap().names.is_empty());
    other.stop();
}
