//! One of each kind of read of a ledger, asked while all of its files are here, and again when they are not.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{client::Answer, process::Node, wait::wait_until};

/// Keys that are written again and again.
pub const KEYS: u64 = 400;
/// Records that are written before anything leaves.
pub const RECORDS: u64 = 3_000;

pub fn value(n: u64) -> String {
    format!("value {n} {}", "and so on ".repeat(10))
}

pub fn key(n: u64) -> String {
    format!("key-{:04}", n % KEYS)
}

/// Writes records, each key again and again.
pub fn write(node: &Node, numbers: std::ops::Range<u64>) {
    let numbers: Vec<u64> = numbers.collect();
    for some in numbers.chunks(200) {
        let line = |n: &u64| format!("{}\n", json!({"op": "put", "key": key(*n), "value": value(*n)}));
        let body: String = some.iter().map(line).collect();
        let headers = [("content-type", "application/x-ndjson")];
        node.call("POST", "/api/v1/batch", &headers, body.as_bytes()).is(200);
    }
}

/// Settings with which all that can leave does, and nothing is kept of what is fetched.
pub const ALL_LEAVES: [(&str, &str); 4] = [
    ("STORAGE_MAX_CACHE_SIZE", "0"),
    ("STORAGE_TIERING_LOCAL_BYTES_MAX", "1"),
    ("STORAGE_TIERING_AGE_THRESHOLD_SECS", "0"),
    ("STORAGE_TIERING_CACHE_DISK_SIZE", "0"),
];

/// Settings with which everything stays.
pub const ALL_STAYS: [(&str, &str); 1] = [("STORAGE_TIERING_LOCAL_BYTES_MAX", "0")];

/// Waits until only the newest segment's file is left; how many have gone.
pub fn wait_cold(node: &Node) -> usize {
    let mut gone = 0;
    wait_until("the files have left", || {
        let rows = node.get("/api/v1/segments").is(200).json();
        let (newest, older) = rows.as_array().unwrap().split_last().unwrap();
        gone = older.len();
        newest["state"] == "both" && older.iter().all(|row| row["state"] == "archived")
    });
    let seg_files = || {
        let names = std::fs::read_dir(node.spec.dir.join("segments")).unwrap();
        names.filter(|name| name.as_ref().unwrap().path().extension().is_some_and(|it| it == "seg")).count()
    };
    wait_until("and their names are gone", || seg_files() == 1);
    gone
}

/// One of each kind of read, for records spread over the ledger; none is of what stays.
pub fn paths() -> Vec<String> {
    let of = |n: u64| {
        let key = key(n);
        [
            format!("/api/v1/records/{n}"),
            format!("/{key}?at={n}"),
            format!("/{key}?at={n}&consistency=stale"),
            format!("/api/v1/kv/{key}/history?limit=3&before={}", n + 1),
            format!("/api/v1/kv/{key}/history"),
            format!("/api/v1/proofs/inclusion/{n}?size={RECORDS}"),
            format!("/api/v1/kv?start={key}&limit=7"),
            format!("/{key}"),
        ]
    };
    let tiles = (0..RECORDS / 256).map(|tile| format!("/tile/entries/{tile:03}"));
    (0..RECORDS - KEYS).step_by(173).flat_map(of).chain(tiles).collect()
}

/// What an answer says of the ledger: a cursor also says how long the ledger is.
fn said(answer: &Answer) -> Vec<u8> {
    let is_json = answer.header("content-type") == Some("application/json");
    match is_json.then(|| answer.json()) {
        Some(Value::Object(mut document)) => {
            document.remove("next_cursor");
            serde_json::to_vec(&document).unwrap()
        }
        _ => answer.body.clone(),
    }
}

/// What a reader is told by a node whose files are all here.
pub fn expected(node: &Node) -> BTreeMap<String, Vec<u8>> {
    let answers = paths().into_iter().map(|path| {
        let answer = node.get(&path).is(200);
        (path, said(&answer))
    });
    let answers: BTreeMap<_, _> = answers.collect();
    let of = |n: u64| String::from_utf8(answers[&format!("/{}?at={n}", key(n))].clone()).unwrap();
    assert!((0..RECORDS - KEYS).step_by(173).all(|n| of(n) == value(n)));
    answers
}

/// Whether a read gave what was expected; why not, if it was refused as it should be.
#[track_caller]
pub fn is_right(node: &Node, path: &str, expected: &[u8]) -> Result<(), String> {
    let answer = node.get(path);
    if answer.status == 200 {
        assert!(said(&answer) == expected, "{path}: {}", String::from_utf8_lossy(&answer.body));
        return Ok(());
    }
    let problem = answer.is_problem(503, "unavailable");
    assert!(answer.header("retry-after").is_some_and(|secs| secs.parse::<u64>().is_ok()), "{answer:?}");
    Err(problem["detail"].as_str().unwrap().to_owned())
}

/// All of it is right: in the end, as nothing is wrong any more.
#[track_caller]
pub fn all_is_right(node: &Node, expected: &BTreeMap<String, Vec<u8>>) {
    for (path, body) in expected {
        if let Err(why) = is_right(node, path, body) {
            panic!("{path}: {why}");
        }
    }
}

/// One number of many.
pub fn metric(node: &Node, name: &str) -> f64 {
    let text = String::from_utf8(node.get("/metrics/prometheus").is(200).body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name}")).parse().unwrap()
}
