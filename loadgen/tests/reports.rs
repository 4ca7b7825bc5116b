//! What the built program shows of a run: one line of JSON, a table, a page, and nothing else in between.

mod stub;

use std::process::{Command, Output};

use serde_json::Value;

use crate::stub::Stub;

async fn loadgen(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scribe-loadgen"));
    command.args(arguments).env_remove("SCRIBE_SERVER");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_report_says_what_the_server_counted_from_the_first_request_on() {
    let (_stub, address) = Stub::start([], "127.0.0.1:0").await;
    let url = format!("http://{address}");
    for _ in 0..5 {
        let output = loadgen(&["bulk", "--url", &url, "--count", "5000", "--batch", "100", "--json"]).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let server = &report["servers"][0];
        assert_eq!((&report["records"], &server["records"]), (&5_000.into(), &5_000.into()), "{server}");
        assert_eq!((&server["syncs"], &server["stages"][0]["count"]), (&50.into(), &5_000.into()));
        assert_eq!(server["pid"], std::process::id());
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_page_is_written_beside_the_table() {
    let (_stub, address) = Stub::start([], "127.0.0.1:0").await;
    let url = format!("http://{address}");
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    let path = page.to_str().unwrap();
    let output = loadgen(&["put", "--url", &url, "--count", "300", "--quiet", "--report", path]).await;
    assert!(output.status.success() && output.stderr.is_empty());
    let table = String::from_utf8(output.stdout).unwrap();
    for line in ["throughput   ", "  writes ", "300 requests", "server       http://127.0.0.1:", "    apply "]
    {
        assert!(table.contains(line), "{line} in {table}");
    }
    let page = std::fs::read_to_string(page).unwrap();
    for part in ["<h1>put, 64 connections</h1>", "Throughput over time", "Stage by stage", "--report"] {
        assert!(page.contains(part), "{part}");
    }
    let nowhere =
        loadgen(&["put", "--url", &url, "--count", "1", "--report", "/no/such/dir/page.html"]).await;
    assert_eq!(nowhere.status.code(), Some(2), "nothing was sent for a report that cannot be written");
    assert!(String::from_utf8(nowhere.stderr).unwrap().contains("/no/such/dir/page.html"));
}
