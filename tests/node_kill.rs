//! The real program, killed with SIGKILL while clients write: what it answered is there when it comes back,
//! and a retry with the same idempotency key is answered, not written again.

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
};

use common::{
    Server, Setup,
    client::Client,
    node::{start, start_in},
};

const LIVES: usize = 3;
const CLIENTS: usize = 4;
/// Answers after which a life ends.
const ANSWERS: usize = 200;

/// What a key is given: most values are small, some are larger than a writer's piece.
fn value(key: &str) -> Vec<u8> {
    let large = key.contains("-0-") && key.ends_with('0');
    key.bytes().cycle().take(if large { 1_300_000 } else { key.len() }).collect()
}

#[test]
fn killed_in_the_middle_of_writes_it_keeps_every_answer() {
    keeps_every_answer(&Setup::default());
}

/// With several writes of a group under way when it is killed. Where io_uring is forbidden this is the fallback.
#[test]
fn killed_while_io_uring_writes_it_keeps_every_answer() {
    keeps_every_answer(&Setup { wal_io: Some("uring"), ..Setup::default() });
}

#[test]
fn without_io_uring_it_writes_as_it_would_have_without_asking_for_it() {
    // Memory that io_uring would have to lock; a container's seccomp profile has the same effect.
    let forbidden = Setup { wal_io: Some("uring"), locked_kib_max: Some(64), ..Setup::default() };
    let node = start(&forbidden);
    assert_eq!(node.writer(), start(&Setup::default()).writer());
    assert_ne!(node.writer(), "uring");
    let mut client = Client::connect(node.addr());
    client.call("PUT", "/key", &[], b"value").is(201);
    assert_eq!(client.get("/key").is(200).body, b"value");
}

fn keeps_every_answer(setup: &Setup) {
    let home = tempfile::tempdir().unwrap();
    let answered: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    for life in 0..LIVES {
        let node = start_in(home.path(), setup);
        let addr = node.addr();
        let before = answered.lock().unwrap().len();
        let writers: Vec<_> = (0..CLIENTS)
            .map(|writer| {
                let answered = answered.clone();
                thread::spawn(move || {
                    let mut client = Client::connect(addr);
                    for n in 0.. {
                        let key = format!("{life}-{writer}-{n}");
                        let value = value(&key);
                        let head = format!(
                            "PUT /{key} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n",
                            value.len()
                        );
                        // The end of the node is the end of this client.
                        let Ok(()) = client.send(&[head.as_bytes(), &value].concat()) else { return };
                        let Ok(answer) = client.answer(false) else { return };
                        let seq = answer.is(201).json()["seq"].as_u64().unwrap();
                        answered.lock().unwrap().insert(key, seq);
                    }
                })
            })
            .collect();
        while answered.lock().unwrap().len() < before + ANSWERS {
            thread::yield_now();
        }
        node.kill();
        for writer in writers {
            writer.join().unwrap();
        }
    }
    let node = start_in(home.path(), setup);
    let mut client = Client::connect(node.addr());
    let answered = answered.lock().unwrap();
    assert!(answered.len() >= LIVES * ANSWERS);
    for (key, seq) in answered.iter() {
        let read = client.get(&format!("/{key}")).is(200);
        assert!(read.body == value(key), "{key} reads back as something else");
        assert_eq!(read.header("scribe-seq"), Some(&seq.to_string()[..]));
    }
    // Every key once: those answered, and at most one a client and life whose answer was lost.
    let total = client.get("/metrics").is(200).json()["total_records"].as_u64().unwrap() as usize;
    assert!((answered.len()..=answered.len() + LIVES * CLIENTS).contains(&total), "{total} records");
    for (key, seq) in answered.iter().take(50) {
        let again = client.call("PUT", &format!("/{key}"), &[("Idempotency-Key", key)], &value(key)).is(201);
        assert_eq!(again.json()["seq"].as_u64(), Some(*seq), "a retry gets the first answer");
    }
    assert_eq!(client.get("/metrics").is(200).json()["total_records"].as_u64().unwrap() as usize, total);
}
