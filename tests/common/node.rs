//! The real program on a directory of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{Server, Setup};

/// A running `scribe-node`.
pub struct Node {
    child: Child,
    addr: SocketAddr,
    writer: String,
    /// A directory that goes with the node.
    dir: Option<tempfile::TempDir>,
}

/// Starts a node on a directory of its own and waits for its "ready".
pub fn start(setup: &Setup) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let mut node = start_in(dir.path(), setup);
    node.dir = Some(dir);
    node
}

/// Starts a node on this directory and waits for its "ready".
pub fn start_in(dir: &Path, setup: &Setup) -> Node {
    let program = env!("CARGO_BIN_EXE_scribe-node");
    let mut command = match setup.locked_kib_max {
        None => Command::new(program),
        Some(kib) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -l {kib} && exec \"$0\" \"$@\""), program]);
            shell
        }
    };
    command
        .arg("--data-dir")
        .arg(dir)
        .args(["--http-port", "0", "--log-format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let millis = |duration: Duration| format!("{}ms", duration.as_millis());
    for (name, value) in [
        ("READ_TIMEOUT", setup.read_timeout.map(millis)),
        ("MAX_BATCH_REQUEST_BYTES", setup.max_batch_request_bytes.map(|n| n.to_string())),
        ("MAX_CONNECTIONS", setup.max_connections.map(|n| n.to_string())),
        ("MAX_REQUESTS_PER_CLIENT_PER_SEC", setup.max_requests_per_client_per_sec.map(|n| n.to_string())),
    ] {
        if let Some(value) = value {
            command.env(format!("SCRIBE_LIMITS_{name}"), value);
        }
    }
    if setup.adopt_embedded {
        command.arg("--adopt-embedded");
    }
    if let Some(size) = setup.segment_size {
        command.env("SCRIBE_STORAGE_SEGMENT_SIZE", size);
    }
    if let Some(io) = setup.wal_io {
        command.env("SCRIBE_WAL_IO", io);
    }
    let mut child = command.spawn().unwrap();
    let (sender, receiver) = mpsc::channel();
    // Log lines may come on either stream; both are read to their end so that the node never blocks.
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    for stream in [Box::new(out) as Box<dyn std::io::Read + Send>, Box::new(err)] {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some(ready) = ready(&line) {
                    let _ = sender.send(ready);
                }
                eprintln!("node: {line}");
            }
        });
    }
    let ready = receiver.recv_timeout(Duration::from_secs(60));
    let (addr, writer) = ready.expect("the node says that it is ready");
    Node { child, addr, writer, dir: None }
}

/// What the line that says "ready" tells: the address, and how the log is written.
fn ready(line: &str) -> Option<(SocketAddr, String)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    // tracing's JSON puts what an event says under "fields" unless it is told to flatten.
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")? != "ready" {
        return None;
    }
    Some((fields.get("http_addr")?.as_str()?.parse().ok()?, fields.get("wal")?.as_str()?.to_owned()))
}

impl Server for Node {
    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn stop(&mut self) -> bool {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().success()
    }
}

impl Node {
    /// Memory that the process holds, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// How the node says that it writes its log.
    pub fn writer(&self) -> &str {
        &self.writer
    }

    /// Ends the process with SIGKILL, as a crash does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
