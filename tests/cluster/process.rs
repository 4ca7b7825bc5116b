//! One `scribe-node` process: how it is started, asked, and ended.

use std::{
    io::{self, BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;

use super::{
    client::{Answer, Client},
    wait::{wait_for, wait_until},
};

/// How long an answer may take. Writes and reads wait for a leader, changes of the cluster for a member's catching up.
const ANSWER_PATIENCE: Duration = Duration::from_secs(90);

/// A port of this machine that nothing listens at. It lies below those that systems give out by themselves, so that
/// it is still free when a node that was stopped comes back to it.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Several test programs may run at once.
    let begin = (std::process::id() % 600) as u16 * 30;
    loop {
        let port = FIRST + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// How a node is started, again and again.
#[derive(Clone, Debug)]
pub struct Spec {
    pub id: u64,
    pub dir: PathBuf,
    pub http: SocketAddr,
    pub raft: String,
    flags: Vec<String>,
    settings: Vec<(String, String)>,
}

impl Spec {
    /// A node with its directory in `home`, and ports of its own.
    pub fn new(home: &Path, id: u64) -> Self {
        let settings = [
            ("CONSENSUS_ELECTION_TIMEOUT_MS", "400"),
            ("CONSENSUS_HEARTBEAT_INTERVAL_MS", "50"),
            ("WAL_FILE_BYTES", "1MiB"),
            ("WAL_DISK_FREE_BYTES_MIN", "0"),
        ];
        Self {
            id,
            dir: home.join(format!("node{id}")),
            http: SocketAddr::from(([127, 0, 0, 1], free_port())),
            raft: format!("127.0.0.1:{}", free_port()),
            flags: Vec::new(),
            settings: Vec::new(),
        }
        .with(&settings)
    }

    /// With these flags, too.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// With these settings, too: `("WAL_KEEP_BYTES", "0")`.
    pub fn with(mut self, settings: &[(&str, &str)]) -> Self {
        self.settings
            .extend(settings.iter().map(|(key, value)| (format!("SCRIBE_{key}"), (*value).to_owned())));
        self
    }

    /// With this in its environment, too.
    pub fn with_environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.settings.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// Starts it; it may not be ready for long, or ever.
    pub fn start(&self) -> Node {
        let mut child = Command::new(env!("CARGO_BIN_EXE_scribe-node"))
            .args(["--node-id", &self.id.to_string(), "--raft-addr", &self.raft])
            .args(["--http-addr", &self.http.to_string()])
            .arg("--data-dir")
            .arg(&self.dir)
            .args(&self.flags)
            .envs(self.settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::<Mutex<String>>::default();
        let (pipe, id, to) = (child.stderr.take().unwrap(), self.id, said.clone());
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                // Shown where the test fails.
                eprintln!("node {id}: {line}");
                *to.lock() += &(line + "\n");
            }
        });
        Node { spec: self.clone(), child: Mutex::new(child), said, reader: Mutex::new(Some(reader)) }
    }

    /// Starts it and waits until it serves clients.
    pub fn start_ready(&self) -> Node {
        let node = self.start();
        node.wait_ready();
        node
    }
}

/// A running process; killed when dropped.
pub struct Node {
    pub spec: Spec,
    child: Mutex<Child>,
    said: Arc<Mutex<String>>,
    reader: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Node {
    pub fn id(&self) -> u64 {
        self.spec.id
    }

    /// Asks it. The error is the connection's.
    pub fn try_call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        call(self.spec.http, ANSWER_PATIENCE, method, path, headers, body)
    }

    #[track_caller]
    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self.try_call(method, path, headers, body);
        answer.unwrap_or_else(|error| panic!("{method} {path} at node {}: {error}", self.id()))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn put(&self, key: &str, value: &str) -> u64 {
        let answer = self.call("PUT", &format!("/{key}"), &[], value.as_bytes()).is(201);
        answer.json()["seq"].as_u64().unwrap()
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// The document at `path`, if the node answers with one.
    pub fn look(&self, path: &str) -> Option<Value> {
        let answer = self.try_call("GET", path, &[], b"").ok().filter(|answer| answer.status == 200)?;
        Some(answer.json())
    }

    pub fn status(&self) -> Option<Value> {
        self.look("/api/v1/status")
    }

    /// The ids of the members it knows, with their roles.
    pub fn members(&self) -> Vec<(u64, String)> {
        let document = self.look("/cluster/members").unwrap_or_default();
        let members = document["members"].as_array().cloned().unwrap_or_default();
        let role = |member: &Value| member["role"].as_str().unwrap().to_owned();
        members.iter().map(|member| (member["node_id"].as_u64().unwrap(), role(member))).collect()
    }

    /// Size and root of its tree, once that covers all it has applied.
    pub fn tree(&self) -> Option<(u64, String)> {
        let status = self.status()?;
        let size = status["tree"]["size"].as_u64()?;
        let is_whole = status["records"]["applied"].as_u64() == Some(size);
        is_whole.then(|| (size, status["tree"]["root"].as_str().unwrap().to_owned()))
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        wait_until(&format!("node {} is ready", self.id()), || {
            if let Some(status) = self.ended() {
                panic!("node {} ended with {status}: {}", self.id(), self.said());
            }
            self.look("/readyz").is_some()
                || self.try_call("GET", "/readyz", &[], b"").is_ok_and(|a| a.status == 200)
        });
    }

    /// What it has logged so far.
    pub fn said(&self) -> String {
        self.said.lock().clone()
    }

    #[track_caller]
    pub fn wait_says(&self, text: &str) {
        wait_until(&format!("node {} says {text:?}", self.id()), || self.said.lock().contains(text));
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.lock().id()
    }

    /// Whether the process is no more.
    pub fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().try_wait().unwrap()
    }

    /// Waits until the process has ended, and for all that it has logged.
    #[track_caller]
    pub fn wait_ended(&self) -> Option<i32> {
        let status = wait_for(&format!("node {} ends", self.id()), || self.ended());
        if let Some(reader) = self.reader.lock().take() {
            reader.join().unwrap();
        }
        status.code()
    }

    /// SIGTERM, whose answer is a clean end.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Stops it as an operator does, and waits.
    #[track_caller]
    pub fn stop(&self) {
        self.terminate();
        assert_eq!(self.wait_ended(), Some(0), "node {} ends cleanly", self.id());
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self) {
        let mut child = self.child.lock();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGSTOP: it does nothing any more, and its system takes what is sent to it.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT: it goes on where it was.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.lock().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Begins another life, with `spec`'s flags.
    #[track_caller]
    pub fn restart(&mut self) {
        *self = self.spec.start();
        self.wait_ready();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut child = self.child.lock();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// One request on a connection of its own.
pub fn call(
    addr: SocketAddr,
    patience: Duration,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    ask(&mut connect(addr, patience)?, method, path, headers, body)
}

/// A connection whose answers may take so long.
pub fn connect(addr: SocketAddr, patience: Duration) -> io::Result<Client> {
    let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(Client { stream: BufReader::new(stream) })
}

/// One request on a connection that is there.
pub fn ask(
    client: &mut Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    client.send(&[request.as_bytes(), body].concat())?;
    client.answer(method == "HEAD")
}
