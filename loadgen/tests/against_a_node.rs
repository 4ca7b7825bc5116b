//! The built program against a real node: what the journal says is what must be there, whoever was killed.

mod tool;

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use scribe_ledger::{
    archive::{
        DirectoryStore, Epoch, LedgerId,
        fence::{self, Claim},
    },
    env::real::RealIo,
};

use crate::tool::{document, end_of, json, loadgen, signal, start, stderr, stdout, until};

/// A program of the server's, beside ours.
fn program(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_scribe-loadgen")).with_file_name(name);
    assert!(program.exists(), "{} is missing: run `cargo build --workspace` first", program.display());
    program
}

struct Node {
    process: Child,
    url: String,
}

impl Node {
    /// Starts it on its directory, and waits until it is ready.
    async fn start(dir: &Path, life: u32) -> Self {
        let log = dir.join(format!("log-{life}"));
        let process = Command::new(program("scribe-node"))
            .args(["--http-port", "0", "--log-format", "json", "--data-dir"])
            .arg(dir.join("data"))
            .env("SCRIBE_STORAGE_TIERING_MAX_LAG_SECS", "1")
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut node = Self { process, url: String::new() };
        until("the node is ready", || {
            let text = fs::read_to_string(&log).unwrap();
            let address = text.split_once("\"http_addr\":\"").and_then(|(_, rest)| rest.split_once('"'));
            node.url = address.map_or_else(String::new, |(address, _)| format!("http://{address}"));
            !node.url.is_empty()
        })
        .await;
        node
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn both_are_killed_and_everything_acknowledged_is_there() {
    let workloads: [&[&str]; 4] = [
        &["put", "--connections", "8", "--pipeline", "2"],
        &["bulk", "--batch", "50", "--keys", "zipfian", "--value-bytes", "10..200"],
        &["mixed", "--http", "2", "--connections", "2", "--keys", "uniform", "--key-space", "300"],
        &["cas", "--connections", "8", "--key-space", "20"],
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut journals = Vec::new();
    for (life, workload) in (0..).zip(workloads) {
        let mut node = Node::start(dir.path(), life).await;
        let journal = dir.path().join(format!("journal-{life}")).to_str().unwrap().to_owned();
        let more = ["--url", &node.url, "--duration", "600", "--journal", &journal];
        let mut child = start(&[workload, &more].concat());
        until("the journal has grown", || fs::metadata(&journal).is_ok_and(|file| file.len() > 8_000)).await;
        node.process.kill().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        journals.push(journal);
    }
    let node = Node::start(dir.path(), 9).await;
    for journal in journals {
        let verified = json(&loadgen(&["verify", "--journal", &journal, "--url", &node.url, "--json"]).await);
        assert_eq!((&verified["lost"], &verified["wrong"]), (&0.into(), &0.into()), "{verified}");
        assert!(verified["acknowledged"].as_u64() > Some(100), "{verified}");
    }
}

#[tokio::test]
async fn a_node_that_is_stopped_for_a_second_shows_in_an_open_loop() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), 0).await;
    let journal = dir.path().join("journal").to_str().unwrap().to_owned();
    let words = "put --rate 500 --duration 4 --connections 4 --verify --json";
    let words: Vec<&str> = words.split(' ').chain(["--journal", &journal, "--url", &node.url]).collect();
    let child = start(&words);
    until("the run is under way", || fs::metadata(&journal).is_ok_and(|file| file.len() > 3_000)).await;
    signal(node.pid(), "STOP");
    tokio::time::sleep(Duration::from_secs(1)).await;
    signal(node.pid(), "CONT");
    let report = json(&end_of(child).await);
    assert!(report["write_latency_us"]["p99_9"].as_u64() > Some(950_000), "{}", report["write_latency_us"]);
    assert_eq!((&report["records"], &report["errors"]), (&2_000.into(), &serde_json::json!({})));
    assert_eq!((&report["truth"]["acknowledged"], &report["truth"]["good"]), (&2_000.into(), &true.into()));
    assert_eq!(report["server"]["pid"], node.pid());
}

#[tokio::test]
async fn a_file_of_puts_and_deletes_is_looked_for_too() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), 0).await;
    let (file, journal) = (dir.path().join("records.ndjson"), dir.path().join("journal"));
    let lines: String = (0..100)
        .map(|n| match n % 3 {
            2 => format!("{{\"op\":\"delete\",\"key\":\"k{}\"}}\n", n / 9),
            _ => format!("{{\"key\":\"k{}\",\"value\":\"v{n}\"}}\n", n / 9),
        })
        .collect();
    fs::write(&file, lines).unwrap();
    let (file, journal) = (file.to_str().unwrap(), journal.to_str().unwrap());
    let words = "bulk --count 450 --batch 7 --verify --json";
    let words = words.split(' ').chain(["--file", file, "--journal", journal, "--url", &node.url]);
    let report = json(&loadgen(&words.collect::<Vec<_>>()).await);
    assert_eq!((&report["truth"]["acknowledged"], &report["truth"]["good"]), (&450.into(), &true.into()));
    let verified = json(&loadgen(&["verify", "--journal", journal, "--json", "--url", &node.url]).await);
    assert_eq!((&verified["acknowledged"], &verified["lost"]), (&450.into(), &0.into()), "{verified}");
}

#[tokio::test]
async fn what_a_restored_ledger_has_is_there_and_what_was_acknowledged_later_is_lost() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = Node::start(old.path(), 0).await;
    let scribe = |arguments: &[&str]| Command::new(program("scribe")).args(arguments).output().unwrap();
    let write = async |name: &str| {
        let journal = old.path().join(name).to_str().unwrap().to_owned();
        let words = "bulk --count 3000 --batch 100 --json".split(' ');
        let words = words.chain(["--journal", &journal, "--url", &node.url]);
        assert_eq!(json(&loadgen(&words.collect::<Vec<_>>()).await)["records"], 3_000);
        journal
    };
    let before = write("before").await;
    let status = || json(&scribe(&["--server", &node.url, "--format", "json", "status"]));
    until("all is archived", || status()["records"]["archived"] == 3_000).await;
    let (from, to) = (old.path().join("data/archive"), new.path().join("data"));
    // Somebody has restored it before, elsewhere: the epoch is not the next one.
    let store = DirectoryStore::new(Arc::new(RealIo::new()), &from, 1);
    fence::claim(&store, Claim { epoch: Epoch(4), cluster: LedgerId([9; 16]) }).await.unwrap();
    let restored = scribe(&["restore", "--from", from.to_str().unwrap(), "--data-dir", to.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", stderr(&restored));
    assert!(stdout(&restored).contains("in epoch 5"), "{}", stdout(&restored));
    let after = write("after").await;
    drop(node);

    let node = Node::start(new.path(), 1).await;
    let verify =
        async |journal: &str| loadgen(&["verify", "--journal", journal, "--url", &node.url, "--json"]).await;
    let (before, after) = (verify(&before).await, verify(&after).await);
    assert!(stderr(&before).contains("behind its first 3000 records"), "{}", stderr(&before));
    let verified = json(&before);
    assert_eq!((&verified["acknowledged"], &verified["lost"]), (&3_000.into(), &0.into()), "{verified}");
    let verified = document(&after);
    assert_eq!((&verified["acknowledged"], &verified["lost"]), (&3_000.into(), &3_000.into()), "{verified}");
    assert!(!after.status.success());
}

#[tokio::test]
async fn a_refusal_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), 0).await;
    let file = dir.path().join("records.ndjson");
    fs::write(&file, "{\"key\":\"k\",\"value\":\"v\"}\n{\"key\":\"no value\"}\n").unwrap();
    let words = ["bulk", "--file", file.to_str().unwrap(), "--url", &node.url, "--verify", "--quiet"];
    let output = loadgen(&words).await;
    assert_eq!(output.status.code(), Some(1));
    for part in ["1 × 400 malformed", "the first: ", "line 2", "NONE was acknowledged"] {
        assert!(stdout(&output).contains(part), "{part} in {}", stdout(&output));
    }
    assert!(stdout(&output).contains("nothing was acknowledged, nothing could"), "{}", stdout(&output));
    assert!(stderr(&output).contains("not one write was acknowledged"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_run_that_cannot_be_read_back_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path(), 0).await;
    let (journal, page) = (dir.path().join("journal"), dir.path().join("page.html"));
    let (journal, page) = (journal.to_str().unwrap(), page.to_str().unwrap());
    let words = "put --duration 1 --stall 500ms --verify --connections 4 --json";
    let more = ["--url", &node.url, "--journal", journal, "--report", page];
    let child = start(&words.split(' ').chain(more).collect::<Vec<_>>());
    until("the run is under way", || fs::metadata(journal).is_ok_and(|file| file.len() > 3_000)).await;
    node.process.kill().unwrap();
    let output = end_of(child).await;
    assert_eq!(output.status.code(), Some(1));
    let truth = &document(&output)["truth"];
    assert_eq!(truth["good"], false);
    assert!(truth["not_checked"].as_str().unwrap().contains("cannot connect"), "{truth}");
    assert!(fs::read_to_string(page).unwrap().contains("read back: not checked"));
}

#[tokio::test]
async fn a_key_that_was_deleted_since_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), 0).await;
    let (file, journal) = (dir.path().join("records.ndjson"), dir.path().join("journal"));
    fs::write(&file, "{\"key\":\"kept\",\"value\":\"1\"}\n{\"key\":\"gone\",\"value\":\"2\"}\n").unwrap();
    let (file, journal) = (file.to_str().unwrap(), journal.to_str().unwrap());
    json(&loadgen(&["bulk", "--file", file, "--journal", journal, "--json", "--url", &node.url]).await);
    let mut socket = TcpStream::connect(node.url.strip_prefix("http://").unwrap()).unwrap();
    socket.write_all(b"DELETE /gone HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let verified = json(&loadgen(&["verify", "--journal", journal, "--json", "--url", &node.url]).await);
    assert_eq!((&verified["acknowledged"], &verified["lost"]), (&2.into(), &0.into()), "{verified}");
}
