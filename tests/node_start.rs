//! The real program while it starts: it answers that it is starting, and it can be stopped.

mod common;

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::client::Client;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

/// A signal once had to wait until a replay of many gigabytes was done.
#[cfg(unix)]
#[test]
fn a_start_that_takes_long_can_be_stopped() {
    let home = tempfile::tempdir().unwrap();
    // A pipe that nobody writes to: the start waits for its first byte.
    let pipe = home.path().join("identity.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut node = Command::new(env!("CARGO_BIN_EXE_scribe-node"))
        .arg("--data-dir")
        .arg(home.path())
        .args(["--http-port", &port.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "the node does not listen");
        thread::yield_now();
    }
    for (path, status) in [("/livez", 200), ("/readyz", 503)] {
        let answer = Client::connect(([127, 0, 0, 1], port).into()).get(path).is(status);
        // Its server makes room for another one soon, which no client is to notice while it sends.
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert!(Command::new("kill").args(["-TERM", &node.id().to_string()]).status().unwrap().success());
    let status = loop {
        if let Some(status) = node.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            node.kill().unwrap();
            panic!("the node does not stop while it starts");
        }
        thread::yield_now();
    };
    assert!(status.success(), "{status}");
}
