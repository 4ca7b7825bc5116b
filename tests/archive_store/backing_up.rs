//! `scribe backup` beside a node that is being written to.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use serde_json::Value as Json;

use crate::{
    common::{self, Server, Setup},
    exits_with, scribe,
};

fn backup(data_dir: &Path, to: &Path) -> Json {
    let (data_dir, to) = (data_dir.to_str().unwrap(), to.to_str().unwrap());
    let told =
        exits_with(&scribe(&["backup", "--data-dir", data_dir, "--to", to, "--format", "json"], &[]), 0);
    serde_json::from_str(&told).unwrap()
}

#[test]
fn a_running_node_is_copied_and_the_next_time_only_what_is_new() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let setup = Setup { segment_size: Some("16KiB"), ..Setup::default() };
    let mut node = common::node::start_in(dir.path(), &setup);
    let copy = home.path().join("copy");
    let write = |from: u64| {
        let mut client = node.client();
        (from..from + 400).for_each(|n| drop(client.put(&format!("/key-{n}"), vec![b'x'; 200]).is(201)));
    };
    write(0);
    let is_done = AtomicBool::new(false);
    let (first, second) = thread::scope(|scope| {
        scope.spawn(|| {
            write(400);
            write(800);
            is_done.store(true, SeqCst);
        });
        let first = backup(dir.path(), &copy);
        exits_with(&scribe(&["verify", copy.to_str().unwrap()], &[]), 0);
        let mut last = backup(dir.path(), &copy);
        while !is_done.load(SeqCst) {
            last = backup(dir.path(), &copy);
        }
        (first, last)
    });
    assert!(first["copied"] == first["segments"] && first["segments"].as_u64() > Some(0), "{first}");
    assert!(second["records"].as_u64() > first["records"].as_u64(), "{second}");
    let third = backup(dir.path(), &copy);
    let fourth = backup(dir.path(), &copy);
    assert!(fourth["copied"].as_u64() <= Some(1) && fourth["records"].as_u64() >= third["records"].as_u64());
    let told = exits_with(&scribe(&["verify", copy.to_str().unwrap()], &[]), 0);
    assert!(told.contains("not covered"), "{told}");
    assert!(node.stop());
    for entry in fs::read_dir(&copy).unwrap() {
        let path = entry.unwrap().path();
        let original = dir.path().join("segments").join(path.file_name().unwrap());
        assert!(fs::read(&path).unwrap() == fs::read(original).unwrap(), "{} is another", path.display());
    }

    // What is no copy of it is left as it is.
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("mine.txt"), "mine").unwrap();
    let arguments =
        ["backup", "--data-dir", dir.path().to_str().unwrap(), "--to", other.path().to_str().unwrap()];
    let told = exits_with(&scribe(&arguments, &[]), 2);
    assert!(told.contains("mine.txt, which is no segment"), "{told}");
}
