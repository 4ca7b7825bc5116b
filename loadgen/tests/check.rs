//! `scribe-loadgen check` with stand-ins for the node: shell scripts that say where a stub listens.

mod stub;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::stub::{Fault, Stub};

const DEADLINE: Duration = Duration::from_secs(60);

const TARGETS: &str = r#"
    [[target]]
    name = "reads"
    what = "reads of what was written before"
    kind = "get"
    key_space = 500
    fill = true
    duration = 0.2
    records_per_sec_min = 1e12
    and_then = { records_per_sec_min = 2e12 }

    [[target]]
    name = "on-three"
    what = "what cannot be run"
    kind = "put"
    nodes = 3
    needs = "cluster"
    p99_ms_max = 1
"#;

/// Written by another process: a program cannot be started while it is open for writing, and a fork of
/// another test would keep it so.
fn script(path: &Path, text: &str) {
    let write = "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\" && chmod +x \"$0\"";
    assert!(Command::new("sh").args(["-c", write]).arg(path).arg(text).status().unwrap().success());
}

/// A node that leaves its process id and says that it is ready at this address, if it is given one.
fn node(dir: &Path, address: Option<&str>) -> PathBuf {
    let path = dir.join("node");
    let ready = address.map_or_else(String::new, |address| {
        format!("echo '{{\"message\":\"ready\",\"http_addr\":\"{address}\"}}';")
    });
    let pid_file = dir.join("pid").display().to_string();
    let text = format!(
        "trap 'exit 0' TERM; echo $$ > '{pid_file}.new'; mv '{pid_file}.new' '{pid_file}'; {ready} while :; do sleep 0.01; done"
    );
    script(&path, &text);
    path
}

fn check(dir: &Path, node: &Path, more: &[&str]) -> Child {
    let targets = dir.join("targets.toml");
    fs::write(&targets, TARGETS).unwrap();
    Command::new(env!("CARGO_BIN_EXE_scribe-loadgen"))
        .args(["check", "--targets", targets.to_str().unwrap(), "--node-binary", node.to_str().unwrap()])
        .args(more)
        .env("TMPDIR", dir)
        .env_remove("SCRIBE_SERVER")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn output(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

/// The node of this directory is gone, and so is what it was given.
fn assert_nothing_is_left(dir: &Path) {
    let pid = fs::read_to_string(dir.join("pid")).unwrap();
    assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists(), "the node still runs");
    let left: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("scribe-check"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn right_answers_are_enough_for_a_quick_check() {
    let (_stub, address) = Stub::start([], "127.0.0.1:0").await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), Some(&address.to_string()));
    let page = dir.path().join("page.html");
    let more = ["--quick", "--report", page.to_str().unwrap()];
    let output = output(check(dir.path(), &node, &more)).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        text.contains("right    reads") && text.contains("not yet  on-three            needs cluster"),
        "{text}"
    );
    assert!(text.ends_with("1 right, 1 not yet\n"), "{text}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("reads of what was written before") && page.contains("Latency by percentile"));
    assert_nothing_is_left(dir.path());
}

#[tokio::test]
async fn a_target_that_is_missed_fails_the_check() {
    let (_stub, address) = Stub::start([], "127.0.0.1:0").await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), Some(&address.to_string()));
    let output = output(check(dir.path(), &node, &["--json"])).await;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["missed"], &json["not_yet"]), (&1.into(), &1.into()));
    let target = &json["targets"][0];
    assert_eq!(
        (&target["verdict"], &target["records_per_sec"]["reached"]),
        (&"missed".into(), &false.into())
    );
    assert!(target["run"]["records"].as_u64() > Some(0), "{target}");
    assert_nothing_is_left(dir.path());
}

#[tokio::test]
async fn wrong_answers_fail_a_quick_check() {
    let (_stub, address) = Stub::start([Fault::BreakBefore], "127.0.0.1:0").await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), Some(&address.to_string()));
    let output = output(check(dir.path(), &node, &["--quick", "--only", "reads"])).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("BROKEN   reads"), "{text}");
    assert_nothing_is_left(dir.path());
}

#[tokio::test]
async fn an_interrupted_check_leaves_no_node_behind() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), None);
    let child = check(dir.path(), &node, &["--quick"]);
    let deadline = Instant::now() + DEADLINE;
    while !dir.path().join("pid").exists() {
        assert!(Instant::now() < deadline, "the node was not started");
        thread::sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let output = output(child).await;
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    assert_nothing_is_left(dir.path());
}

#[tokio::test]
async fn what_cannot_begin_is_a_mistake_of_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), None);
    for (more, part) in [
        (&["--only", "nope"][..], "there are reads, on-three"),
        (&["--only", "on-three"], "nothing can be judged: on-three needs cluster"),
        (&["--spawn", "4"], "--spawn"),
    ] {
        let output = output(check(dir.path(), &node, more)).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(part), "{part} in {text}");
    }
    let missing = dir.path().join("nothing");
    let output = output(check(dir.path(), &missing, &[])).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--node-binary"));
}
