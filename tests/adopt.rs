//! What a program's own ledger and a server's have in common: the files. Whose they are is marked, and a server
//! takes them over only when it is told to.

mod common;

use std::process::Command;

use common::{
    Server, Setup,
    node::{start, start_in},
};
use scribe_ledger::{Ledger, error::Code, types::Seq};

#[test]
fn a_server_takes_an_embedded_ledger_over_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.put("a", "1").unwrap();
    ledger.put("a", "2").unwrap();
    ledger.close().unwrap();

    let refused = Command::new(env!("CARGO_BIN_EXE_scribe-node"))
        .args(["--http-port", "0", "--data-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    for part in [&*dir.path().to_string_lossy(), "--adopt-embedded", "node.adopt_embedded"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    Ledger::open(dir.path()).expect("it is what it was").close().unwrap();

    for setup in [Setup { adopt_embedded: true, ..Setup::default() }, Setup::default()] {
        let mut node = start_in(dir.path(), &setup);
        let mut client = node.client();
        assert_eq!(client.get("/a").is(200).body, b"2");
        let history = client.get("/api/v1/kv/a/history").is(200).json();
        assert_eq!(history["versions"].as_array().map(Vec::len), Some(2));
        client.call("PUT", "/by-the-server", &[], b"3").is(201);
        assert!(node.stop());
    }
    let error = Ledger::open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::InvalidConfig);
    assert!(error.message().contains("belongs to node 1 of a server"), "{error}");
}

#[test]
fn a_running_servers_directory_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let _node = start_in(dir.path(), &Setup::default());
    let error = Ledger::open(dir.path()).unwrap_err();
    assert_eq!(error.code(), Code::Io);
    assert!(error.message().contains(&*dir.path().to_string_lossy()), "{error}");
}

/// Told to adopt what is its own already, a server has nothing to do.
#[test]
fn the_flag_changes_nothing_elsewhere() {
    let setup = Setup { adopt_embedded: true, ..Setup::default() };
    let node = start(&setup);
    node.client().call("PUT", "/a", &[], b"1").is(201);
    let ledger = Ledger::temp().unwrap();
    assert_eq!(ledger.put("a", "1").unwrap(), Seq(0));
}
