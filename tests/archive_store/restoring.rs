//! `scribe restore`: a directory out of an archive, whatever breaks off on the way, and a node on it that goes on.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use scribe_ledger::{
    archive::{
        DirectoryStore, Epoch, LedgerId, Manifest, Staged, Store, Tip, fence, object::packing, probe::probe,
    },
    config::{Config, WalConfig},
    env::{Io, OpenMode, real::RealIo},
    error::{Code, Error, Result},
    node::{self, Restore, Restored},
    proof::Hash,
    segment::{BlockCache, Segment, file_name},
    sim::{Failure, Fault, Op, SimIo, SimRng, runtime, sim_env},
    state::link::Link,
    types::{SegmentId, Seq},
    verify::{Archived, Note, Plan, Progress},
    wal::{Driver, WalOptions},
};

use crate::{
    common::{self, Server, Setup},
    exits_with,
    ledger::{LEDGER, Ledger, bytes_of, ledger},
    scribe, simulated_directory,
    verifying::archive,
};

const DATA: &str = "/data";

/// What is archived on one simulated disk is restored on another.
fn restore(store: Arc<dyn Store>, disk: &SimIo, ledger: &Ledger) -> Result<Restored> {
    // Names of log files are drawn anew by each process.
    let (env, runtime) = (sim_env(disk, disk.ops()), runtime(7));
    let archived = runtime.block_on(Archived::open(store))?;
    let (name, note) = &archived.notes()[0];
    let key = ledger.signer.verifier_key().clone();
    let notes = [Note::read(name, note, &[key]).unwrap()];
    let restore = Restore::begin(&env, Path::new(DATA), 3, &archived)?;
    let report = archived.verify(runtime.handle(), &notes, 2, &Progress::default(), &restore)?;
    let config = WalConfig { file_bytes: 64 << 10, disk_free_bytes_min: 0, ..WalConfig::default() };
    runtime.block_on(restore.finish(&report, WalOptions::new(config, Driver::Task)))
}

/// The directory is whole: the archived segments bit for bit, and the link behind them.
fn is_restored(disk: &SimIo, ledger: &Ledger) {
    let count = ledger.segments.len() as u64;
    for id in 0..count {
        let path = Path::new(DATA).join("segments").join(file_name(SegmentId(id)));
        assert!(bytes_of(disk, &path) == ledger.file(id), "segment {id} is another");
    }
    let plan = Plan::open(Arc::new(disk.clone()), Path::new(DATA)).unwrap();
    let report = plan.verify(&[], 1, &Progress::default()).unwrap();
    let last = ledger.segments.last().unwrap().summary();
    assert_eq!((report.records.0, report.segments), (last.end_seq.0 + 1, count + 1));
    let path = Path::new(DATA).join("segments").join(file_name(SegmentId(count)));
    let segment = Segment::open(disk, &path, Arc::new(BlockCache::new(1 << 20))).unwrap();
    let record = segment.record(last.end_seq).unwrap().record;
    assert_eq!(record.key, Link::key(2));
    let expected = Link {
        ledger: LEDGER.to_string(),
        epoch: 2,
        origin: "scribe/test/1".into(),
        size: last.end_seq.0,
        root: Hash(last.root_after),
    };
    assert_eq!(Link::decode(&record.value).unwrap(), expected);
    let found = node::look(&sim_env(disk, 1), Path::new(DATA)).unwrap().unwrap();
    assert_eq!((found.identity.node_id, found.identity.epoch(), found.has_log), (3, 2, true));
    assert_ne!(found.identity.cluster(), LEDGER.to_string());
}

fn archived() -> (Arc<dyn Store>, Ledger) {
    let (store, ledger) = (simulated_directory(&SimIo::new(1)), ledger(&[90, 0, 40]));
    runtime(1).block_on(archive(store.clone(), &ledger));
    (store, ledger)
}

#[test]
fn a_restore_that_breaks_off_anywhere_is_gone_on_with() {
    let (store, ledger) = archived();
    let steps = {
        let disk = SimIo::new(0);
        restore(store.clone(), &disk, &ledger).unwrap();
        is_restored(&disk, &ledger);
        disk.ops()
    };
    let mut broke_off = 0;
    for nth in 0..steps {
        for failure in [Failure::NotDone, Failure::Done, Failure::Crash] {
            let disk = SimIo::new(nth);
            disk.arm(Fault { op: Op::Any, nth, failure });
            let first = restore(store.clone(), &disk, &ledger);
            disk.disarm();
            disk.crash();
            disk.restart();
            broke_off += u64::from(first.is_err());
            match restore(store.clone(), &disk, &ledger) {
                Ok(_) => assert!(first.is_err(), "{nth} {failure:?}: a directory was restored over"),
                // It was done, and what it said was lost.
                Err(error) => assert_eq!(error.code(), Code::InvalidConfig, "{nth} {failure:?}: {error}"),
            }
            is_restored(&disk, &ledger);
        }
    }
    assert!(broke_off > steps, "faults were met: {broke_off} of {steps} steps");
}

#[test]
fn what_is_in_place_is_verified_again_and_mended() {
    let (store, ledger) = archived();
    let disk = SimIo::new(3);
    // It breaks off when all segments are in place.
    disk.arm(Fault { op: Op::Sync, nth: 5, failure: Failure::NotDone });
    restore(store.clone(), &disk, &ledger).unwrap_err();
    disk.disarm();
    let path = Path::new(DATA).join("segments").join(file_name(SegmentId(0)));
    disk.flip_bit(&path, 5_000, 3).unwrap();
    restore(store, &disk, &ledger).unwrap();
    is_restored(&disk, &ledger);
}

#[test]
fn only_an_empty_directory_or_the_same_restore_is_taken() {
    let (store, ledger) = archived();
    let (other, others) = (simulated_directory(&SimIo::new(2)), crate::ledger::ledger(&[10]));
    runtime(1).block_on(async {
        probe(&*other, LEDGER, &SimRng::new(6)).await.unwrap();
        let manifest = Manifest::new(other.clone(), LEDGER, Epoch::FIRST);
        crate::objects::add_all(&manifest, &others, &mut Tip::default()).await.unwrap();
    });
    let refused = |disk: &SimIo, store: &Arc<dyn Store>, says: &str| {
        let before = disk.contents_hash();
        let error = restore(store.clone(), disk, &ledger).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig, "{error}");
        assert!(error.message().contains(says), "{error}");
        assert_eq!(disk.contents_hash(), before, "nothing was changed");
    };
    let disk = SimIo::new(1);
    disk.open(&Path::new(DATA).join("mine.txt"), OpenMode::Buffered).unwrap().write_at(b"mine", 0).unwrap();
    refused(&disk, &store, "is not empty");
    let disk = SimIo::new(1);
    disk.arm(Fault { op: Op::Sync, nth: 2, failure: Failure::NotDone });
    restore(store.clone(), &disk, &ledger).unwrap_err();
    disk.disarm();
    refused(&disk, &other, "of another archive");
    restore(store.clone(), &disk, &ledger).unwrap();
    refused(&disk, &store, "is not empty");
}

#[test]
fn a_restore_begins_the_epoch_behind_the_newest_that_was_claimed() {
    let (store, ledger) = archived();
    let claim = fence::Claim { epoch: Epoch(4), cluster: LedgerId([9; 16]) };
    runtime(1).block_on(fence::claim(&*store, claim)).unwrap();
    let restored = restore(store, &SimIo::new(1), &ledger).unwrap();
    assert_eq!((restored.link.epoch, restored.identity.epoch()), (5, 5));
}

/// A node's sealed segments, and a checkpoint that they cover.
fn archive_of_node(data_dir: &Path, place: &Path, note: &[u8], size: u64) -> u64 {
    let io: Arc<dyn Io> = Arc::new(RealIo::new());
    let store: Arc<dyn Store> = Arc::new(DirectoryStore::new(io.clone(), place, 1));
    let identity: serde_json::Value =
        serde_json::from_slice(&fs::read(data_dir.join("identity.json")).unwrap()).unwrap();
    let ledger = LedgerId::parse(identity["cluster_id"].as_str().unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        probe(&*store, ledger, &SimRng::new(2)).await.unwrap();
        let (manifest, mut tip) = (Manifest::new(store, ledger, Epoch::FIRST), Tip::default());
        let cache = Arc::new(BlockCache::new(1 << 20));
        for id in 0.. {
            let path = data_dir.join("segments").join(file_name(SegmentId(id)));
            if !path.exists() {
                break;
            }
            let segment = Segment::open(&*io, &path, cache.clone()).unwrap();
            let notes: &[Bytes] =
                if segment.summary().end_seq >= Seq(size) { &[Bytes::copy_from_slice(note)] } else { &[] };
            let staged = || {
                let path = place.join("staged.tmp");
                Staged::pack(io.clone(), &segment, packing(true, 0), Epoch::FIRST, &path)
            };
            manifest.add(&mut tip, segment.summary(), notes, staged).await.unwrap();
        }
        tip.end_seq.0
    })
}

fn wait_for<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let give_up = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(it) = is() {
            return it;
        }
        assert!(tokio::time::Instant::now() < give_up, "waited for {what}");
        std::thread::yield_now();
    }
}

fn value(n: usize) -> Vec<u8> {
    format!("value {n} {}", "x".repeat(n % 900)).into_bytes()
}

#[test]
fn a_node_on_a_restored_directory_has_every_record_and_goes_on_as_a_new_cluster() {
    let (old, place, home) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let setup = Setup { segment_size: Some("64KiB"), ..Setup::default() };
    let mut node = common::node::start_in(old.path(), &setup);
    let mut client = node.client();
    (0..300).for_each(|n| drop(client.put(&format!("/key-{n}"), value(n)).is(201)));
    let note = wait_for("a checkpoint", || {
        let note = client.get("/checkpoint").body;
        let size: u64 = String::from_utf8_lossy(&note).lines().nth(1)?.parse().ok()?;
        (size >= 300).then_some((note, size))
    });
    (300..700).for_each(|n| drop(client.put(&format!("/key-{n}"), value(n)).is(201)));
    let old_id = client.get("/api/v1/status").json()["cluster_id"].clone();
    assert!(node.stop());
    let end = archive_of_node(old.path(), place.path(), &note.0, note.1) as usize;
    assert!(end > note.1 as usize, "{end} records are archived");

    let (from, dir) = (place.path().to_str().unwrap(), home.path().join("restored"));
    let dir_text = dir.to_str().unwrap();
    let told = exits_with(&scribe(&["restore", "--from", from, "--data-dir", dir_text], &[]), 0);
    assert!(told.contains(&format!("verified {end} records")), "{told}");
    assert!(told.contains(&format!("proven up to record {} by a checkpoint of scribe/", note.1)), "{told}");
    exits_with(&scribe(&["restore", "--from", from, "--data-dir", dir_text], &[]), 2);
    exits_with(&scribe(&["verify", dir_text], &[]), 0);

    for life in 0..2 {
        let mut node = common::node::start_in(&dir, &setup);
        let mut client = node.client();
        for n in 0..end {
            let answer = client.get(&format!("/key-{n}")).is(200);
            assert!(answer.body == value(n), "key {n} in life {life}");
        }
        assert_eq!(client.get(&format!("/key-{end}")).status, 404, "what was not archived is not there");
        let link = client.get(&format!("/api/v1/records/{end}")).is(200).json();
        let link = Link::decode(link["value"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!((link.size, link.epoch, link.origin.as_str()), (end as u64, 2, &*origin(&note.0)));
        let status = client.get("/api/v1/status").json();
        let cluster = status["cluster_id"].as_str().unwrap();
        assert!(cluster.ends_with("-2") && cluster != old_id, "{status}");
        client.put(&format!("/new-{life}"), "new").is(201);
        let signed = wait_for("a new checkpoint", || {
            let note = client.get("/checkpoint").body;
            let size: usize = String::from_utf8_lossy(&note).lines().nth(1)?.parse().ok()?;
            (size >= end + 2).then_some(note)
        });
        let (id, epoch) = cluster.split_once('-').unwrap();
        assert_eq!(origin(&signed), format!("scribe/{id}/{epoch}"), "it signs as another log");
        // A stranger visits it: signatures, growth, and records chosen by chance.
        let url = format!("http://{}", node.addr());
        let state = home.path().join("state.json");
        let visit = ["verify", "--url", &url, "--samples", "64", "--state", state.to_str().unwrap()];
        exits_with(&scribe(&visit, &[]), 0);
        assert!(node.stop());
    }
}

fn origin(note: &[u8]) -> String {
    String::from_utf8_lossy(note).lines().next().unwrap().to_owned()
}

/// What an unfinished restore holds is nobody's, and says what to do.
#[test]
fn no_node_starts_on_half_a_restore() {
    let (store, ledger) = archived();
    let disk = SimIo::new(4);
    disk.arm(Fault { op: Op::Sync, nth: 3, failure: Failure::NotDone });
    let error: Error = restore(store.clone(), &disk, &ledger).unwrap_err();
    disk.disarm();
    assert_eq!(error.code(), Code::Io, "{error}");
    let mut config = Config::default();
    config.node.data_dir = DATA.into();
    let founding = node::Founding::Embedded;
    let error = node::claim(&sim_env(&disk, 1), &config, &founding).unwrap_err();
    assert!(error.message().contains("run `scribe restore` again"), "{error}");
}
