//! The archive's stores, and what is built on them: the same checks on a directory, on a simulated disk, and on a
//! real S3 server with signature checks; then every trouble that each of them can make.

mod backing_up;
#[path = "../common/careless.rs"]
mod careless;
mod carrying;
#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod crash;
mod ends;
#[cfg(feature = "s3")]
mod faults;
mod forked;
mod ledger;
mod links;
mod objects;
mod restoring;
#[cfg(feature = "s3")]
#[allow(dead_code, reason = "tests/archiving shares it")]
mod server;
mod tiering;
mod verifying;
#[path = "../common/way.rs"]
mod way;

use std::{path::Path, process::Output, sync::Arc};

use scribe_ledger::{
    archive::{DirectoryStore, Store},
    env::real::RealIo,
    sim::SimIo,
};

/// A directory on this machine's disk, for as long as the guard lives.
fn real_directory() -> (Arc<dyn Store>, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    (Arc::new(DirectoryStore::new(Arc::new(RealIo::new()), &home.path().join("archive"), 1)), home)
}

/// A directory on a simulated disk.
fn simulated_directory(io: &SimIo) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::new(Arc::new(io.clone()), Path::new("/archive"), 1))
}

/// Runs the real program, away from the configuration of whoever runs the test.
fn scribe(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_scribe"))
        .args(arguments)
        .env_remove("SCRIBE_SERVER")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("HOME")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[track_caller]
fn exits_with(output: &Output, code: i32) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}
