//! The built program against a stand-in for the server that fails in the ways a server does.

mod stub;
mod tool;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    stub::{Fault, Stub},
    tool::{json, loadgen, stderr, stdout},
};

/// A file of records with keys that need care: blanks, slashes, the server's own names, non-ASCII.
fn write_file(dir: &Path, records: usize) -> PathBuf {
    let path = dir.join("records.ndjson");
    let lines: String = (0..records)
        .map(|n| {
            let key = ["day/%d", "a b?c#d", "api/x", "\u{e4}/../\u{1f40c}", "//"][n % 5];
            format!(
                "{}\n",
                serde_json::json!({"key": format!("{key}{n}"), "value": format!("{{\"n\":\"{n}\"}}")})
            )
        })
        .collect();
    fs::write(&path, lines).unwrap();
    path
}

#[tokio::test]
async fn a_load_goes_through_every_fault_exactly_once() {
    use Fault::*;
    let faults = [None, Refuse, BreakAfter, None, HangAfter, UnknownAfter, BreakBefore, Refuse, Refuse];
    let (stub, address) = Stub::start(faults, "127.0.0.1:0").await;
    let url = format!("http://{address}");
    let dir = tempfile::tempdir().unwrap();
    let file = write_file(dir.path(), 1_003);
    let file = file.to_str().unwrap();

    let load = ["load", file, "--url", &url, "--chunk-records", "100", "--timeout", "0.3", "--json"];
    let loaded = json(&loadgen(&load).await);
    assert_eq!((&loaded["records"], &loaded["chunks"]), (&1_003.into(), &11.into()));
    assert_eq!((&loaded["retries"], &loaded["replays"]), (&7.into(), &2.into()), "{loaded}");
    assert_eq!(loaded["in_file_order"], true);
    assert_eq!(stub.total(), 1_003);

    let verified = loadgen(&["verify", file, "--url", &url, "--in-order"]).await;
    assert_eq!(
        stdout(&verified),
        "1003 records: 0 missing, 0 wrong, seqs 0..1002\n",
        "{}",
        stderr(&verified)
    );

    // A whole rerun stores nothing again.
    let again = json(&loadgen(&load).await);
    assert_eq!((&again["replays"], stub.total()), (&11.into(), 1_003));
}

#[tokio::test]
async fn several_connections_load_everything_once_too() {
    let (_stub, address) = Stub::start([Fault::None, Fault::BreakAfter], "127.0.0.1:0").await;
    let url = format!("http://{address}");
    let dir = tempfile::tempdir().unwrap();
    let file = write_file(dir.path(), 500);
    let file = file.to_str().unwrap();
    let load = ["load", file, "--url", &url, "--chunk-records", "7", "--connections", "5", "--json"];
    assert_eq!(json(&loadgen(&load).await)["last_seq"], 499);
    assert!(loadgen(&["verify", file, "--url", &url]).await.status.success());
}

#[tokio::test]
async fn verify_names_what_differs() {
    let (stub, address) = Stub::start([], "127.0.0.1:0").await;
    let url = format!("http://{address}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("three.ndjson");
    fs::write(
        &path,
        "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":\"2\"}\n{\"key\":\"c\",\"value\":\"3\"}\n",
    )
    .unwrap();
    stub.put(b"a", b"1");
    stub.put(b"c", b"4");
    let output = loadgen(&["verify", path.to_str().unwrap(), "--url", &url]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.starts_with("3 records: 1 missing, 1 wrong, "), "{text}");
    for part in ["\"b\": missing", "\"c\", seq 1: 1 bytes where 1", "total_records 2, expected 3"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn a_refused_chunk_names_its_lines() {
    let (stub, address) = Stub::start([], "127.0.0.1:0").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.ndjson");
    fs::write(&path, "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"b\"\n").unwrap();
    let output = loadgen(&["load", path.to_str().unwrap(), "--url", &format!("http://{address}")]).await;
    assert_eq!((output.status.code(), stub.total()), (Some(1), 0));
    assert!(stderr(&output).contains("lines 1 to 3 of"), "{}", stderr(&output));
    assert!(stderr(&output).contains("400 malformed"));
}

#[tokio::test]
async fn every_workload_counts_what_it_did() {
    let (stub, address) = Stub::start([], "127.0.0.1:0").await;
    let url = format!("http://{address}");
    let report =
        json(&loadgen(&["put", "--url", &url, "--count", "500", "--connections", "9", "--json"]).await);
    assert_eq!((&report["records"], &report["requests"], stub.total()), (&500.into(), &500.into(), 500));
    assert_eq!(report["errors"], serde_json::json!({}));
    assert_eq!(report["server"]["pid"], std::process::id());

    let bulk = ["bulk", "--url", &url, "--count", "10001", "--batch", "1000", "--keys", "uniform", "--json"];
    let report = json(&loadgen(&bulk).await);
    assert_eq!((&report["records"], &report["requests"], stub.total()), (&10_001.into(), &11.into(), 10_501));

    let get = ["get", "--url", &url, "--count", "700", "--key-space", "10001", "--threads", "2", "--json"];
    let report = json(&loadgen(&get).await);
    assert_eq!(
        (&report["read_latency_us"]["requests"], &report["errors"]),
        (&700.into(), &serde_json::json!({}))
    );

    let mixed = [
        "mixed",
        "--url",
        &url,
        "--duration",
        "0.3",
        "--warmup",
        "0.1",
        "--fill",
        "--key-space",
        "20000",
        "--json",
    ];
    let report = json(&loadgen(&mixed).await);
    assert!(
        report["read_latency_us"]["p50"].as_u64() > Some(0)
            && report["write_latency_us"]["p50"].as_u64() > Some(0)
    );
    assert_eq!(report["errors"], serde_json::json!({}));

    let missing =
        loadgen(&["get", "--url", &url, "--count", "5", "--key-bytes", "3", "--key-space", "9"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(stdout(&missing).contains("5 × 404 not-found"), "{}", stdout(&missing));
}

#[tokio::test]
async fn trouble_has_a_message_and_an_exit_code() {
    let nobody = loadgen(&["put", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("is scribe-node running at http://127.0.0.1:1?"), "{}", stderr(&nobody));
    let dir = tempfile::tempdir().unwrap();
    let file = write_file(dir.path(), 1);
    let load = ["load", file.to_str().unwrap(), "--url", "http://127.0.0.1:1", "--give-up", "0.2"];
    let given_up = loadgen(&load).await;
    assert_eq!(given_up.status.code(), Some(1));
    assert!(stderr(&given_up).contains("given up after 0.2 s"), "{}", stderr(&given_up));
    let no_file = loadgen(&["load", "/no/such/file", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(no_file.status.code(), Some(1));
    for usage in [
        &["put", "--url", "nowhere"][..],
        &["bulk", "--batch", "0"],
        &["fly"],
        &["load", "x", "--in-order", "--connections", "2"],
    ] {
        assert_eq!(loadgen(usage).await.status.code(), Some(2), "{usage:?}");
    }
}
