//! Real nodes on directories of their own, which end with whoever started them.
//!
//! Takes a program, gives its address. Nodes are in one list that the end of the check and a signal both
//! empty: each is asked to stop by SIGTERM, waited for, and killed only if it does not. It does not know
//! what nodes are used for.

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

/// How long a node may take to become ready, and to stop.
const READY_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of a log, what is shown when something went wrong.
const LOG_LINES: usize = 5;

/// All nodes that run.
#[derive(Clone)]
pub struct Nodes {
    program: PathBuf,
    profile: Option<String>,
    running: Arc<Mutex<Vec<Running>>>,
}

/// A node that is ready.
#[derive(Clone, Debug)]
pub struct Node {
    pub url: String,
    pub pid: u32,
    /// How it was started.
    pub command: Vec<String>,
}

/// A node that is not ready yet.
struct Launched {
    pid: u32,
    log: PathBuf,
    command: Vec<String>,
}

struct Running {
    child: Child,
    dir: Directory,
}

/// A new directory, gone when this is dropped.
struct Directory(PathBuf);

impl Nodes {
    /// Nodes of this program. `profile` is one of the node's own.
    pub fn new(program: &Path, profile: Option<&str>) -> Result<Self, String> {
        // The nodes work in directories of their own, where a relative path would mean something else.
        let program = program
            .canonicalize()
            .map_err(|error| format!("{}: {error} (--node-binary PATH)", program.display()))?;
        Ok(Self { program, profile: profile.map(str::to_owned), running: Arc::default() })
    }

    /// Starts a node and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start or does not become ready; the message ends with what it said.
    pub fn start(&self) -> Result<Node, String> {
        self.launch(&[]).and_then(|launched| self.ready(launched))
    }

    /// Starts nodes that form one ledger, and waits until all are ready.
    ///
    /// # Errors
    /// As [`Nodes::start`], for any of them; the others are stopped with the check.
    pub fn start_group(&self, count: u16) -> Result<Vec<Node>, String> {
        if count <= 1 {
            return self.start().map(|node| vec![node]);
        }
        let ports = free_ports(count).map_err(|error| format!("ports for the nodes: {error}"))?;
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let peers = ports.iter().map(address).collect::<Vec<_>>().join(",");
        let launch = |(port, id): (&u16, u16)| {
            let flags = ["--node-id", &id.to_string(), "--raft-addr", &address(port), "--peers", &peers];
            self.launch(&flags.map(str::to_owned))
        };
        // None of them is ready before the others are there.
        let launched = ports.iter().zip(1..).map(launch).collect::<Result<Vec<_>, _>>()?;
        launched.into_iter().map(|launched| self.ready(launched)).collect()
    }

    fn ready(&self, Launched { pid, log, command }: Launched) -> Result<Node, String> {
        Ok(Node { url: self.wait_until_ready(pid, &log)?, pid, command })
    }

    fn launch(&self, more: &[String]) -> Result<Launched, String> {
        let dir = Directory::new().map_err(|error| format!("a directory for the node: {error}"))?;
        let log = dir.0.join("log");
        let failed = |error: io::Error| format!("starting {}: {error}", self.program.display());
        let out = File::create(&log).map_err(failed)?;
        let mut arguments: Vec<String> =
            ["--data-dir".to_owned(), dir.0.join("data").display().to_string()].into();
        arguments
            .extend(["--http-port", "0", "--log-format", "json", "--log-level", "info"].map(str::to_owned));
        if let Some(profile) = &self.profile {
            arguments.extend(["--profile".to_owned(), profile.clone()]);
        }
        arguments.extend_from_slice(more);
        let mut command = Command::new(&self.program);
        command
            .args(&arguments)
            .current_dir(&dir.0)
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(failed)?)
            .stderr(out);
        // What this shell is set up for must not change what is measured.
        let ours = std::env::vars_os().map(|(name, _)| name);
        for name in ours.filter(|name| name.as_encoded_bytes().starts_with(b"SCRIBE_") || name == "RUST_LOG")
        {
            command.env_remove(name);
        }
        // There is no flag for it.
        let founders =
            more.iter().filter(|argument| argument.contains(',')).map(|peers| peers.split(',').count());
        command.env("SCRIBE_CLUSTER_BOOTSTRAP_EXPECT", founders.max().unwrap_or(1).to_string());
        let pid = {
            let mut running = lock(&self.running);
            let child = command.spawn().map_err(failed)?;
            let pid = child.id();
            running.push(Running { child, dir });
            pid
        };
        let command = std::iter::once(self.program.display().to_string()).chain(arguments).collect();
        Ok(Launched { pid, log, command })
    }

    fn wait_until_ready(&self, pid: u32, log: &Path) -> Result<String, String> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            let said = fs::read_to_string(log).unwrap_or_default();
            if let Some(address) = said.lines().find_map(ready_address) {
                return Ok(format!("http://{address}"));
            }
            let ended = self.ended(pid);
            if ended.is_some() || Instant::now() >= deadline {
                let why = ended.map_or_else(
                    || format!("the node was not ready within {} s", READY_MAX.as_secs()),
                    |status| format!("the node ended before it was ready ({status})"),
                );
                self.stop_one(pid);
                return Err(format!("{why}{}", last_lines(&said)));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// How a node has ended, if it has by itself.
    fn ended(&self, pid: u32) -> Option<ExitStatus> {
        let mut running = lock(&self.running);
        let running = running.iter_mut().find(|running| running.child.id() == pid)?;
        running.child.try_wait().ok().flatten()
    }

    /// Stops a node.
    ///
    /// # Errors
    /// When it had ended by itself, or did not end well; the message ends with what it said.
    pub fn stop(&self, node: &Node) -> Result<(), String> {
        let ended = self.ended(node.pid);
        let Some((status, said)) = self.stop_one(node.pid) else { return Ok(()) };
        match ended {
            Some(status) => Err(format!("the node ended by itself ({status}){}", last_lines(&said))),
            None if status.is_some_and(|status| status.success()) => Ok(()),
            None => {
                let status = status.map_or_else(|| "killed".to_owned(), |status| status.to_string());
                Err(format!("the node did not stop as it should ({status}){}", last_lines(&said)))
            }
        }
    }

    /// Takes a node out of the list and ends it. Gives how it ended, unless it had to be killed, and its log.
    fn stop_one(&self, pid: u32) -> Option<(Option<ExitStatus>, String)> {
        let mut running = lock(&self.running);
        let at = running.iter().position(|running| running.child.id() == pid)?;
        let mut node = running.remove(at);
        let status = node.end();
        let said = fs::read_to_string(node.dir.0.join("log")).unwrap_or_default();
        Some((status, said))
    }

    /// Ends all of them: at the end of a check, and when it is interrupted.
    pub fn stop_all(&self) {
        let mut running = lock(&self.running);
        // All at once, then one after the other.
        running.iter().for_each(Running::terminate);
        for mut node in running.drain(..) {
            node.end();
        }
    }
}

fn lock(running: &Mutex<Vec<Running>>) -> MutexGuard<'_, Vec<Running>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Asks it to stop. It has not been waited for, so that its id is still its own.
    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Asks it to stop and waits; kills it when it does not, and then gives nothing.
    fn end(&mut self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        self.terminate();
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(LOOK_EVERY),
                Ok(Some(status)) => return Some(status),
                Err(_) => break,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl Directory {
    fn new() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        let mut number = 0u32;
        loop {
            let path = parent.join(format!("scribe-check-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                outcome => return outcome.map(|()| Self(path)),
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Ports that were free a moment ago.
fn free_ports(count: u16) -> io::Result<Vec<u16>> {
    // All are held until all are known, so that they differ.
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    held.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}

/// Where a node that is ready says that it listens.
fn ready_address(line: &str) -> Option<String> {
    let line: Json = serde_json::from_str(line).ok()?;
    (line.get("message")? == "ready").then_some(())?;
    Some(line.get("http_addr")?.as_str()?.to_owned())
}

fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| format!("\n    {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for the node: a shell script. Another process writes it: a program cannot be started
    /// while it is open for writing, and whatever another test forks at that moment holds our files open.
    fn program(script: &str) -> (Directory, PathBuf) {
        let dir = Directory::new().unwrap();
        let path = dir.0.join("node");
        let write = "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\" && chmod +x \"$0\"";
        let written = Command::new("sh").args(["-c", write]).arg(&path).arg(script).status();
        assert!(written.unwrap().success());
        (dir, path)
    }

    const READY: &str = r#"echo '{"message":"ready","http_addr":"127.0.0.1:7"}'"#;

    fn alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_node_is_started_found_and_stopped() {
        let script = format!("echo starting; {READY}; trap 'exit 0' TERM; while :; do sleep 0.01; done");
        let (_dir, path) = program(&script);
        let nodes = Nodes::new(&path, Some("odd")).unwrap();
        let node = nodes.start().unwrap();
        assert_eq!(node.url, "http://127.0.0.1:7");
        assert!(node.command.ends_with(&["--profile".to_owned(), "odd".to_owned()]));
        let data = PathBuf::from(&node.command[2]);
        assert!(data.parent().unwrap().is_dir() && alive(node.pid));
        nodes.stop(&node).unwrap();
        assert!(!data.parent().unwrap().exists() && !alive(node.pid));
        assert!(nodes.stop(&node).is_ok(), "a second stop finds nothing to do");
    }

    #[test]
    fn a_node_that_does_not_become_ready_says_why() {
        let (_dir, path) = program("echo 'no room at the inn'; exit 3");
        let error = Nodes::new(&path, None).unwrap().start().unwrap_err();
        assert!(error.contains("before it was ready") && error.contains("no room at the inn"), "{error}");
        assert!(Nodes::new(Path::new("/no/such/node"), None).err().unwrap().contains("--node-binary"));
    }

    #[test]
    fn a_node_that_ends_by_itself_or_badly_is_noticed() {
        let (_dir, path) = program(&format!("{READY}; echo 'disk on fire' >&2; exit 4"));
        let nodes = Nodes::new(&path, None).unwrap();
        let node = nodes.start().unwrap();
        let deadline = Instant::now() + READY_MAX;
        while nodes.ended(node.pid).is_none() {
            assert!(Instant::now() < deadline);
            thread::sleep(LOOK_EVERY);
        }
        let error = nodes.stop(&node).unwrap_err();
        assert!(error.contains("ended by itself") && error.contains("disk on fire"), "{error}");

        let (_dir, path) = program(&format!("{READY}; trap 'exit 9' TERM; while :; do sleep 0.01; done"));
        let nodes = Nodes::new(&path, None).unwrap();
        let node = nodes.start().unwrap();
        assert!(nodes.stop(&node).unwrap_err().contains("did not stop as it should"));
    }

    #[test]
    fn all_of_them_end_together() {
        let (_dir, path) = program(&format!("{READY}; trap 'exit 0' TERM; while :; do sleep 0.01; done"));
        let nodes = Nodes::new(&path, None).unwrap();
        let pids = [nodes.start().unwrap().pid, nodes.start().unwrap().pid];
        nodes.clone().stop_all();
        assert!(pids.iter().all(|pid| !alive(*pid)));
    }
}
