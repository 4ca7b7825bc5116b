//! The built load generator on a ledger in its own process.

mod tool;

use std::fs;

use tool::{json, loadgen, stderr, stdout};

#[tokio::test]
async fn a_run_without_servers_is_reported_as_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, page) = (dir.path().join("ledger"), dir.path().join("page.html"));
    let (ledger, page) = (ledger.to_str().unwrap(), page.to_str().unwrap());
    let mixed = ["embedded", "--read-ratio", "0.5", "--fill", "--key-space", "1000", "--count", "20000"];
    let output =
        loadgen(&[&mixed[..], &["--dir", ledger, "--verify", "--json", "--report", page]].concat()).await;
    let report = json(&output);
    assert_eq!((&report["command"], &report["records"]), (&"embedded".into(), &20_000.into()));
    assert_eq!((&report["server"], &report["servers"]), (&().into(), &serde_json::json!([])));
    assert_eq!(report["truth"]["good"], true);
    for kind in ["read_latency_us", "write_latency_us"] {
        assert!(report[kind]["p99"].as_u64() > Some(0), "{report}");
    }
    assert!(fs::read_to_string(page).unwrap().contains("Throughput over time"));

    let again = loadgen(&["embedded", "--dir", ledger, "--count", "1000", "--quiet"]).await;
    assert!(again.status.success() && stdout(&again).contains("1,000 records"), "{}", stdout(&again));
    let refused = loadgen(&["embedded", "--dir", page, "--count", "1"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains(page), "{}", stderr(&refused));
}

#[tokio::test]
async fn a_quick_check_judges_embedded_targets_without_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let targets = dir.path().join("targets.toml");
    let target = |name: &str, more: &str| {
        format!(
            "[[target]]\nname = \"{name}\"\nwhat = \"x\"\nkind = \"embedded\"\nrecords_per_sec_min = 1\n{more}\n"
        )
    };
    let text = target("writes", "") + &target("reads", "read_ratio = 1.0\nkey_space = 9000\nfill = true");
    fs::write(&targets, text).unwrap();
    // Nothing is started, so that any file will do.
    let targets = targets.to_str().unwrap();
    let output =
        loadgen(&["check", "--quick", "--targets", targets, "--node-binary", targets, "--json"]).await;
    let report = json(&output);
    assert_eq!((&report["reached"], &report["not_yet"]), (&2.into(), &0.into()), "{report}");
}
