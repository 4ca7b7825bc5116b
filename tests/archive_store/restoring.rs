//! `scribe restore`: a directory out of an archive, whatever breaks off on the way, and a node on it that goes on.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use scribe_ledger::{
    archive::{
        DirectoryStore, Epoch, LedgerId, Manifest, Staged, Store, Tip, fence, object::packing, probe::probe,
    },
    config::{Config, LedgerConfig, WalConfig},
    env::{Io, OpenMode, real::RealIo},
    error::{Code, Error, Result},
    node::{self, Origin, Restore, Restored},
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
    let restore = Restore::begin(&env, Path::new(DATA), 3, Origin::of_archive(&archived)?)?;
    let report = archived.verify(runtime.handle(), &notes, 2, &Progress::default(), &restore)?;
    let config = WalConfig { file_bytes: 64 << 10, disk_free_bytes_min: 0, ..WalConfig::default() };
    let options = WalOptions::new(config, Driver::Task);
    runtime.block_on(restore.finish(&report, options, &LedgerConfig::default()))
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
        // Who cannot write its key may read it, and go on behind it.
        let by_key = client.get("/api/v1/kv/%00scribe%00epoch%2F0000000002").is(200).json();
        assert_eq!(by_key["seq"], end);
        client.put("/%00scribe%00epoch%2F0000000002", "mine").is(400);
        let page = client.get("/api/v1/kv?limit=1&keys_only=true").is(200).json();
        assert_eq!(page["items"][0]["key"], by_key["key"]);
        let cursor = page["next_cursor"].as_str().unwrap();
        let next = client.get(&format!("/api/v1/kv?limit=1&keys_only=true&cursor={cursor}")).is(200).json();
        assert_eq!(next["items"][0]["key"], "key-0");
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

/// Nor is it called verified, although all that is there is whole.
#[test]
fn half_a_restore_is_not_verified() {
    let home = tempfile::tempdir().unwrap();
    let (place, data) = (home.path().join("archive"), home.path().join("data"));
    let store: Arc<dyn Store> = Arc::new(DirectoryStore::new(Arc::new(RealIo::new()), &place, 1));
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(archive(store, &ledger(&[90, 0, 40])));
    restored_from(&place, &data, 0, &[]);
    let verify = |more: &[&str]| scribe(&[&["verify", data.to_str().unwrap()], more].concat(), &[]);
    exits_with(&verify(&[]), 0);
    // As before its last step: the link is not there yet, nor an identity.
    fs::remove_file(data.join("identity.json")).unwrap();
    fs::remove_dir_all(data.join("wal")).unwrap();
    fs::remove_file(data.join("segments").join(file_name(SegmentId(3)))).unwrap();
    fs::write(data.join("restoring"), "what and who").unwrap();
    let told = exits_with(&verify(&[]), 3);
    assert!(told.contains("verified 130 records") && told.contains("Run `scribe restore` again"), "{told}");
    let told: serde_json::Value = serde_json::from_slice(&verify(&["--format", "json"]).stdout).unwrap();
    assert_eq!((&told["verified"], &told["records"]), (&serde_json::Value::Null, &130.into()));
    // Segments come in any order.
    fs::remove_file(data.join("segments").join(file_name(SegmentId(0)))).unwrap();
    let told = exits_with(&verify(&[]), 3);
    assert!(told.contains("not all of its segments are there yet"), "{told}");
    // Nothing but the first step.
    fs::remove_dir_all(data.join("segments")).unwrap();
    exits_with(&verify(&[]), 3);
}

fn restored_from(from: &Path, to: &Path, code: i32, more: &[&str]) -> String {
    let arguments = ["restore", "--from", from.to_str().unwrap(), "--data-dir", to.to_str().unwrap()];
    exits_with(&scribe(&[&arguments[..], more].concat(), &[]), code)
}

/// The way back from `scribe backup`, twice: each time another epoch of the same ledger.
#[test]
fn a_copy_of_a_backup_brings_the_ledger_back() {
    let home = tempfile::tempdir().unwrap();
    let setup = Setup { segment_size: Some("16KiB"), ..Setup::default() };
    let mut dir = home.path().join("first");
    let mut ledger = String::new();
    let mut links = Vec::new();
    let mut written = 0;
    for epoch in 1..=3 {
        let mut node = common::node::start_in(&dir, &setup);
        let mut client = node.client();
        for n in 0..written {
            assert!(client.get(&format!("/key-{n}")).is(200).body == value(n), "key {n} in epoch {epoch}");
        }
        for (seq, epoch) in &links {
            let link = client.get(&format!("/api/v1/records/{seq}")).is(200).json();
            let link = Link::decode(link["value"].as_str().unwrap().as_bytes()).unwrap();
            assert_eq!((link.size, link.epoch, &link.ledger), (*seq, *epoch, &ledger));
            assert_eq!(link.origin.rsplit('/').next(), Some(&*(epoch - 1).to_string()), "{link:?}");
        }
        let status = client.get("/api/v1/status").json();
        if epoch == 1 {
            ledger = status["cluster_id"].as_str().unwrap().to_owned();
        } else {
            assert!(status["cluster_id"].as_str().unwrap().ends_with(&format!("-{epoch}")), "{status}");
        }
        (written..written + 200).for_each(|n| drop(client.put(&format!("/key-{n}"), value(n)).is(201)));
        written += 200;
        let copy = home.path().join(format!("copy-{epoch}"));
        let url = format!("http://{}", node.addr());
        let wanted = written + links.len();
        wait_for("all that is written is sealed and copied", || {
            let to = copy.to_str().unwrap();
            let told =
                exits_with(&scribe(&["backup", "--server", &url, "--to", to, "--format", "json"], &[]), 0);
            let told: serde_json::Value = serde_json::from_str(&told).unwrap();
            // A segment closes by size: what fills the next one is written until it does.
            drop(client.put("/filler", vec![b'x'; 4_000]));
            (told["records"].as_u64() >= Some(wanted as u64)).then_some(())
        });
        assert!(node.stop());
        if epoch == 1 {
            // What is none is refused, and what is damaged, too.
            let nowhere = home.path().join("nowhere");
            let told = restored_from(&dir, &nowhere, 2, &[]);
            assert!(told.contains("scribe backup --data-dir"), "{told}");
            assert!(!nowhere.exists());
            let spoiled = copy.join(file_name(SegmentId(1)));
            let whole = fs::read(&spoiled).unwrap();
            let mut bytes = whole.clone();
            bytes[3_000] ^= 1;
            fs::write(&spoiled, bytes).unwrap();
            let to = home.path().join("second");
            let told = restored_from(&copy, &to, 1, &[]);
            assert!(told.contains("is damaged at offset"), "{told}");
            // Whole again, it is gone on with.
            fs::write(&spoiled, whole).unwrap();
        }
        dir = home.path().join(["second", "third", "fourth"][epoch as usize - 1]);
        let told = restored_from(&copy, &dir, 0, &[]);
        assert!(
            told.contains("proven up to record") && told.contains(&format!("in epoch {}", epoch + 1)),
            "{told}"
        );
        restored_from(&copy, &dir, 2, &[]);
        exits_with(&scribe(&["verify", dir.to_str().unwrap()], &[]), 0);
        let plan = Plan::open(Arc::new(RealIo::new()), &dir).unwrap();
        links.push((plan.records() - 1, epoch as u32 + 1));
    }
}

/// A ledger with a name of its own does not tell whose it is: whoever restores it does.
#[test]
fn a_copy_that_does_not_say_whose_it_is_needs_to_be_told() {
    let (ledger, home) = (ledger(&[30, 20]), tempfile::tempdir().unwrap());
    let copy = home.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for id in 0..2 {
        fs::write(copy.join(file_name(SegmentId(id))), ledger.file(id)).unwrap();
    }
    let to = home.path().join("to");
    let told = restored_from(&copy, &to, 2, &[]);
    assert!(told.contains("--cluster-id"), "{told}");
    restored_from(&copy, &to, 2, &["--cluster-id", "mine"]);
    let told = restored_from(&copy, &to, 0, &["--cluster-id", &LEDGER.to_string()]);
    assert!(told.contains("record 50 links it to scribe/test/1"), "{told}");
}
