//! The built program against three real nodes whose leaders are killed: what its journal says is what each of them has.

mod tool;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::tool::{document, end_of, json, loadgen, signal, start, until};

/// The server's program, beside ours.
fn node_program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_scribe-loadgen")).with_file_name("scribe-node");
    assert!(program.exists(), "{} is missing: run `cargo build --workspace` first", program.display());
    program
}

/// Ports that nothing listens at, below those that systems give out by themselves: a node comes back to its own.
fn free_ports(count: usize) -> Vec<u16> {
    let begin = 30_000 + (std::process::id() % 200) as u16 * 10;
    (begin..32_700).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect()
}

/// Bytes that the journal grows by before something happens: a few hundred requests.
const GROWTH_BYTES: u64 = 8_000;

struct Node {
    process: Child,
    command: Command,
    http: SocketAddr,
}

impl Node {
    fn restart(&mut self) {
        self.process = self.command.spawn().unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn url(&self) -> String {
        format!("http://{}", self.http)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three nodes that found a cluster together.
fn start_three(home: &Path) -> Vec<Node> {
    let ports = free_ports(6);
    let peers: Vec<String> = ports[3..].iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let node = |n: usize| {
        let http = SocketAddr::from(([127, 0, 0, 1], ports[n]));
        let mut command = Command::new(node_program());
        command
            .args(["--node-id", &(n + 1).to_string(), "--http-addr", &http.to_string()])
            .args(["--raft-addr", &peers[n], "--peers", &peers.join(",")])
            .arg("--data-dir")
            .arg(home.join(format!("node{n}")))
            .envs([
                ("SCRIBE_CLUSTER_BOOTSTRAP_EXPECT", "3"),
                ("SCRIBE_CONSENSUS_ELECTION_TIMEOUT_MS", "400"),
                ("SCRIBE_CONSENSUS_HEARTBEAT_INTERVAL_MS", "50"),
                ("SCRIBE_WAL_FILE_BYTES", "1MiB"),
                ("SCRIBE_WAL_DISK_FREE_BYTES_MIN", "0"),
            ])
            .stdout(Stdio::null())
            .stderr(fs::File::create(home.join(format!("log{n}"))).unwrap());
        Node { process: command.spawn().unwrap(), command, http }
    };
    (0..3).map(node).collect()
}

/// The document at a node's path, if it gives one.
async fn look(node: &Node, path: &str) -> Option<Value> {
    let client = scribe_ledger::client::Client::new(&node.url()).unwrap();
    client.get_json(path).await.ok()
}

/// The place of the leader that all nodes name, once they do.
async fn find_leader(nodes: &[Node]) -> usize {
    let found = async {
        loop {
            let mut named = Vec::new();
            for node in nodes {
                let ready = look(node, "/health").await;
                let answer = look(node, "/leader").await.filter(|_| ready.is_some());
                named.extend(answer.and_then(|answer| answer["leader_id"].as_u64()));
            }
            if named.len() == nodes.len() && named.iter().all(|id| *id == named[0]) {
                return named[0] as usize - 1;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), found).await.expect("all name the same leader")
}

#[tokio::test]
async fn leaders_are_killed_and_every_node_has_what_was_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let mut nodes = start_three(home.path());
    let workloads: [&[&str]; 3] = [
        &["put", "--connections", "9"],
        &["put", "--connections", "8", "--pipeline", "4", "--leader-aware", "--seed", "2"],
        &["bulk", "--connections", "3", "--batch", "50", "--keys", "zipfian", "--seed", "3"],
    ];
    let urls: Vec<String> = nodes.iter().map(Node::url).collect();
    let mut journals = Vec::new();
    for workload in workloads {
        let leader = find_leader(&nodes).await;
        let journal = home.path().join(format!("journal-{}", journals.len())).to_str().unwrap().to_owned();
        let more = ["--url", &urls.join(","), "--duration", "600", "--json", "--journal", &journal];
        let child = start(&[workload, &more].concat());
        let length = || fs::metadata(&journal).map_or(0, |file| file.len());
        until("the journal has begun", || length() > GROWTH_BYTES).await;
        nodes[leader].kill();
        let killed = length();
        until("writes are acknowledged without it", || length() > killed + GROWTH_BYTES).await;
        nodes[leader].restart();
        find_leader(&nodes).await;
        let back = length();
        until("writes are acknowledged with it", || length() > back + GROWTH_BYTES).await;
        signal(child.id(), "INT");
        let report = document(&end_of(child).await);
        journals.push((journal, report));
    }
    find_leader(&nodes).await;
    for (journal, report) in &journals {
        // Those of a connection to the one that was killed, at the least.
        let unknown: u64 =
            report["unknown"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert!(unknown > 0, "{report}");
        for url in &urls {
            let verified = json(&loadgen(&["verify", "--journal", journal, "--url", url, "--json"]).await);
            assert_eq!((&verified["lost"], &verified["wrong"]), (&0.into(), &0.into()), "{verified}");
            assert_eq!(verified["acknowledged"], report["records"], "{verified}");
            assert!(verified["unknown"].as_u64() >= Some(unknown), "{verified}");
        }
    }
}
