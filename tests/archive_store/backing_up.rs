//! `scribe backup` beside a node that is being written to, and of one over HTTP.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
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

/// Segments are as they are in a node's directory.
fn is_bit_for_bit(copy: &Path, data_dir: &Path) {
    for entry in fs::read_dir(copy).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        let original = data_dir.join("segments").join(name);
        match name.to_str() {
            Some("checkpoint" | "copy.lock") => {}
            _ => {
                assert!(
                    fs::read(&path).unwrap() == fs::read(original).unwrap(),
                    "{} is another",
                    path.display()
                )
            }
        }
    }
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
    is_bit_for_bit(&copy, dir.path());

    // What is no copy of it is left as it is.
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("mine.txt"), "mine").unwrap();
    let arguments =
        ["backup", "--data-dir", dir.path().to_str().unwrap(), "--to", other.path().to_str().unwrap()];
    let told = exits_with(&scribe(&arguments, &[]), 2);
    assert!(told.contains("mine.txt, which is no segment"), "{told}");
}

/// Passes on what clients and a server say to each other, and ends each connection when so many bytes of answers have
/// come.
struct Wire {
    url: String,
    cuts: Arc<AtomicU64>,
}

fn wire_that_breaks(server: SocketAddr, every: usize) -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let wire = Wire { url: format!("http://{}", listener.local_addr().unwrap()), cuts: Arc::default() };
    let cuts = wire.cuts.clone();
    thread::spawn(move || {
        for mut near in listener.incoming().map_while(Result::ok) {
            let (mut far, cuts) = (TcpStream::connect(server).unwrap(), cuts.clone());
            let (mut asks, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut asks, &mut to));
            thread::spawn(move || {
                let mut left = every;
                let mut some = vec![0; 4 << 10];
                while let Ok(count @ 1..) = far.read(&mut some) {
                    if near.write_all(&some[..count.min(left)]).is_err() {
                        break;
                    }
                    left = left.saturating_sub(count);
                    if left == 0 {
                        cuts.fetch_add(1, SeqCst);
                        break;
                    }
                }
                let _ = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
            });
        }
    });
    wire
}

fn ask(url: &str, to: &Path, code: i32) -> String {
    let to = to.to_str().unwrap();
    exits_with(&scribe(&["backup", "--server", url, "--to", to, "--format", "json"], &[]), code)
}

fn copied(url: &str, to: &Path) -> Json {
    serde_json::from_str(&ask(url, to, 0)).unwrap()
}

fn verified(copy: &Path) -> Json {
    let told = exits_with(&scribe(&["verify", copy.to_str().unwrap(), "--format", "json"], &[]), 0);
    serde_json::from_str(&told).unwrap()
}

/// Consistent up to a signed checkpoint, over a wire that breaks, under writes, twice; and what broke off is gone on with.
#[test]
fn a_running_server_is_copied_up_to_a_signed_checkpoint_and_the_next_time_only_what_is_new() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let setup = Setup { segment_size: Some("16KiB"), ..Setup::default() };
    let mut node = common::node::start_in(dir.path(), &setup);
    let wire = wire_that_breaks(node.addr(), 40_000);
    let copy = home.path().join("copy");
    let write = |from: u64| {
        let mut client = node.client();
        (from..from + 400).for_each(|n| drop(client.put(&format!("/key-{n}"), vec![b'x'; 200]).is(201)));
    };
    write(0);
    let is_done = AtomicBool::new(false);
    let (first, last) = thread::scope(|scope| {
        scope.spawn(|| {
            (1..6).for_each(|n| write(n * 400));
            is_done.store(true, SeqCst);
        });
        let first = copied(&wire.url, &copy);
        let report = verified(&copy);
        assert_eq!(report["records"], first["records"]);
        assert_eq!(report["checkpoints"][0]["size"], first["records"], "{report}");
        let mut last = copied(&wire.url, &copy);
        while !is_done.load(SeqCst) {
            last = copied(&wire.url, &copy);
            assert_eq!(verified(&copy)["checkpoints"][0]["size"], last["records"]);
        }
        (first, last)
    });
    assert!(first["copied"] == first["segments"] && first["segments"].as_u64() > Some(0), "{first}");
    assert!(last["records"].as_u64() > first["records"].as_u64(), "{last}");
    assert!(wire.cuts.load(SeqCst) > 3, "{}", wire.cuts.load(SeqCst));
    // What was written last is sealed by and by.
    assert!((0..100).any(|_| copied(&wire.url, &copy)["copied"] == 0), "what is there is not copied again");

    // It broke off in the middle of a segment, and a crash has left rubbish in the middle of another.
    let names: Vec<_> =
        fs::read_dir(dir.path().join("segments")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let mut names: Vec<_> =
        names.iter().map(|name| name.to_str().unwrap()).filter(|n| n.ends_with(".seg")).collect();
    names.sort_unstable();
    for rubbish in [false, true] {
        let name = names[names.len() - 2];
        let (kept, part) = (copy.join(name), copy.join(format!("{name}.part")));
        let mut bytes = fs::read(&kept).unwrap();
        bytes.truncate(bytes.len() / 2);
        if rubbish {
            bytes.fill(0);
        }
        fs::write(&part, bytes).unwrap();
        fs::remove_file(&kept).unwrap();
        assert!(copied(&wire.url, &copy)["copied"].as_u64() >= Some(1));
        assert!(kept.exists() && !part.exists());
    }
    let told = exits_with(&scribe(&["verify", copy.to_str().unwrap()], &[]), 0);
    assert!(told.contains("agrees with") && !told.contains("not covered"), "{told}");
    is_bit_for_bit(&copy, dir.path());

    // What was signed holds: neither less nor other records pass for it, and another server's are not mixed in.
    let names: Vec<_> = names.iter().map(|name| copy.join(name)).filter(|path| path.exists()).collect();
    let end = fs::read(names.last().unwrap()).unwrap();
    fs::remove_file(names.last().unwrap()).unwrap();
    let told = exits_with(&scribe(&["verify", copy.to_str().unwrap()], &[]), 3);
    assert!(told.contains("a checkpoint covers more"), "{told}");
    fs::write(names.last().unwrap(), end).unwrap();
    let note = fs::read_to_string(copy.join("checkpoint")).unwrap();
    let (head, tail) = note.split_once("— ").unwrap();
    fs::write(copy.join("checkpoint"), format!("{}— {tail}", head.replacen('\n', "x\n", 1))).unwrap();
    exits_with(&scribe(&["verify", copy.to_str().unwrap()], &[]), 1);
    let mut other = common::node::start(&setup);
    let mut client = other.client();
    (0..600).for_each(|n| drop(client.put(&format!("/other-{n}"), vec![b'y'; 200]).is(201)));
    let told = ask(&format!("http://{}", other.addr()), &copy, 2);
    assert!(told.contains("another ledger"), "{told}");
    assert!(other.stop() && node.stop());
    let told = ask(&format!("http://{}", node.addr()), &copy, 1);
    assert!(told.contains("goes on where it was"), "{told}");
}

/// Two at once, one that breaks, places that are none: the copy is good, or it is said why there is none.
#[test]
fn a_copy_is_one_backup_at_a_time_and_mends_what_it_cannot_open() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let setup = Setup { segment_size: Some("16KiB"), ..Setup::default() };
    let mut node = common::node::start_in(dir.path(), &setup);
    let (url, copy) = (format!("http://{}", node.addr()), home.path().join("copy"));
    assert!(ask(&url, &home.path().join("empty"), 0).contains("\"segments\":0"));
    let mut client = node.client();
    (0..2_000).for_each(|n| drop(client.put(&format!("/key-{n}"), vec![b'x'; 200]).is(201)));

    let arguments = ["backup", "--server", &url, "--to", copy.to_str().unwrap(), "--format", "json"];
    for _ in 0..5 {
        let _ = fs::remove_dir_all(&copy);
        let ended = thread::scope(|scope| {
            let other = scope.spawn(|| scribe(&arguments, &[]));
            [scribe(&arguments, &[]), other.join().unwrap()]
        });
        assert!(ended.iter().any(|ended| ended.status.success()), "{ended:?}");
        for ended in ended.iter().filter(|ended| !ended.status.success()) {
            assert!(exits_with(ended, 2).contains("is being copied into"));
        }
        verified(&copy);
    }

    let first = copy.join("segment-00000000000000000000.seg");
    fs::write(&first, "").unwrap();
    assert_eq!(copied(&url, &copy)["copied"].as_u64().map(|copied| copied > 0), Some(true));
    verified(&copy);
    is_bit_for_bit(&copy, dir.path());

    let within = dir.path().join("segments");
    assert!(ask(&url, &within, 2).contains("within the data directory of a node"));
    let told = exits_with(&scribe(&["backup", "--server", &url, "--to", "s3://a/b"], &[]), 2);
    assert!(told.contains("a directory of this machine, not of s3://"), "{told}");
    assert!(node.stop());
}
