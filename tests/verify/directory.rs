//! `scribe verify DIR`, and what it is made of.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use scribe_ledger::{
    Ledger,
    config::Config,
    env::real::RealIo,
    error::{Code, Error},
    proof::{Hash, checkpoint::Checkpoint, key::Signer},
    segment::file_name,
    types::SegmentId,
    verify::{Note, Plan, Progress, Report},
};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::built::{Built, SEGMENT_RECORDS, SEGMENTS, exits_with, scribe, stderr, stdout};

const FLIPS: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn verify(dir: &Path) -> Result<Report, Error> {
    let progress = Progress::default();
    let plan = Plan::open(Arc::new(RealIo::new()), dir)?;
    let report = plan.verify(&[], 2, &progress)?;
    assert_eq!(progress.records(), report.records.0, "progress ends at the end");
    Ok(report)
}

#[track_caller]
fn refused(dir: &Path, says: &str) {
    let error = verify(dir).expect_err("damage is found");
    assert_eq!(error.code(), Code::Corrupt, "{error}");
    assert!(error.message().contains(says), "{error}\nsays nothing of {says}");
}

/// A linear congruential generator: the same places in every run.
fn places(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[test]
fn a_whole_ledger_is_verified_with_its_root() {
    let built = Built::new();
    let report = verify(built.path()).unwrap();
    assert_eq!((report.records.0, report.segments), (SEGMENTS * SEGMENT_RECORDS, SEGMENTS));
    assert_eq!(report.root, built.root());
    assert_eq!((report.stray, report.unfinished, report.wal), (vec![], vec![], None));
}

/// What a person and a script see; frozen, since both rely on it.
#[test]
fn the_verdict_is_that_of_the_golden_file() {
    let built = Built::new();
    fs::write(built.path().join("notes.txt"), "mine").unwrap();
    fs::write(built.path().join(format!("{}.tmp", file_name(SegmentId(4)))), "half").unwrap();
    let dir = built.path().to_str().unwrap();
    let table = scribe(&["verify", dir]);
    exits_with(&table, 0);
    let document = scribe(&["verify", dir, "--format", "json"]);
    exits_with(&document, 0);
    let seen = format!("{}{}", stdout(&table), stdout(&document));
    let golden = format!("{}/tests/golden/verified-v1.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        fs::write(&golden, &seen).unwrap();
    }
    assert_eq!(seen, fs::read_to_string(&golden).unwrap());
    assert!(seen.contains(&format!("root {}", built.root())), "{seen}");
}

#[test]
fn a_flipped_bit_is_named_wherever_it_is() {
    let built = Built::new();
    let files: Vec<_> =
        (0..SEGMENTS).map(|id| (built.segment(id), fs::read(built.segment(id)).unwrap())).collect();
    let mut place = places(4);
    for flip in 0..FLIPS {
        let (path, bytes) = &files[place(SEGMENTS) as usize];
        // Every other one in the last part of the file, where small things lie close together.
        let last = bytes.len() as u64 / 20;
        let at = if flip % 2 == 0 { place(bytes.len() as u64) } else { bytes.len() as u64 - 1 - place(last) };
        let mut damaged = bytes.clone();
        damaged[at as usize] ^= 1 << place(8);
        fs::write(path, &damaged).unwrap();
        let error = verify(built.path()).expect_err(&format!("byte {at} of {}", path.display()));
        let message = error.message();
        assert_eq!(error.code(), Code::Corrupt, "byte {at}: {message}");
        assert!(message.contains(&*path.to_string_lossy()) && message.contains("offset"), "{at}: {message}");
        fs::write(path, bytes).unwrap();
    }
    verify(built.path()).unwrap();
}

#[test]
fn of_several_that_are_damaged_the_first_is_named() {
    let built = Built::new();
    for id in [1, 2, 3] {
        let mut bytes = fs::read(built.segment(id)).unwrap();
        bytes[5_000] ^= 1;
        fs::write(built.segment(id), bytes).unwrap();
    }
    for _ in 0..20 {
        refused(built.path(), &file_name(SegmentId(1)));
    }
}

#[test]
fn files_that_are_missing_cut_or_in_the_wrong_place_are_named() {
    let fresh = |spoil: &dyn Fn(&Built)| {
        let built = Built::new();
        spoil(&built);
        built
    };
    let name = |id| file_name(SegmentId(id));
    let missing = fresh(&|built| fs::remove_file(built.segment(1)).unwrap());
    refused(missing.path(), &format!("{} is missing", name(1)));
    let missing = fresh(&|built| fs::remove_file(built.segment(0)).unwrap());
    refused(missing.path(), &format!("{} is missing", name(0)));

    let swapped = fresh(&|built| {
        fs::rename(built.segment(1), built.path().join("x")).unwrap();
        fs::rename(built.segment(2), built.segment(1)).unwrap();
        fs::rename(built.path().join("x"), built.segment(2)).unwrap();
    });
    refused(swapped.path(), "it is segment 2, not 1");
    let twice = fresh(&|built| {
        fs::copy(built.segment(3), built.segment(4)).unwrap();
    });
    refused(twice.path(), "it is segment 3, not 4");

    // Whole, and of a ledger of the same shape: only the tree tells.
    let foreign = fresh(&|built| {
        fs::copy(Built::with_seed(1).segment(2), built.segment(2)).unwrap();
    });
    refused(foreign.path(), &format!("{} does not continue", name(2)));

    for bytes in [0, 1, 63, 200, 5_000] {
        let cut = fresh(&|built| {
            let whole = fs::read(built.segment(2)).unwrap();
            fs::write(built.segment(2), &whole[..bytes]).unwrap();
        });
        refused(cut.path(), &name(2));
    }
    let longer = fresh(&|built| {
        let whole = fs::read(built.segment(2)).unwrap();
        fs::write(built.segment(2), [&whole[..], &[0]].concat()).unwrap();
    });
    refused(longer.path(), &name(2));
}

fn note(signer: &Signer, size: u64, root: Hash) -> String {
    Checkpoint::new("log", size, root).unwrap().sign(signer).unwrap().to_string()
}

#[test]
fn checkpoints_have_to_agree() {
    let built = Built::new();
    let signer = Signer::from_seed("log", &[1; 32]).unwrap();
    let keys = [signer.verifier_key().clone()];
    let plan = Plan::open(Arc::new(RealIo::new()), built.path()).unwrap();
    let check = |size: u64, root: Hash| {
        let note = Note::read("note", note(&signer, size, root).as_bytes(), &keys).unwrap();
        plan.verify(&[note], 2, &Progress::default())
    };
    let end = built.records();
    // At every kind of place: nothing, within, at the ends of segments and beside them.
    for size in [0, 1, 699, 700, 701, 1_400, 1_777, end - 1, end] {
        let report = check(size, built.roots[size as usize]).unwrap();
        assert_eq!((report.checkpoints.len(), report.checkpoints[0].size), (1, size));
        let error = check(size, Hash::of(b"x")).unwrap_err();
        assert!(error.message().contains("signed for other records"), "{error}");
    }
    let report = check(end + 1, built.root()).unwrap();
    assert_eq!((report.checkpoints.len(), report.ahead[0].size), (0, end + 1), "{report:?}");
}

/// Every member adds a line: one that is known has to be right, and no known one may be wrong.
#[test]
fn checkpoints_of_several_members_are_believed_by_whoever_knows_one() {
    let built = Built::new();
    let [one, two, three] = [1, 2, 3].map(|seed| Signer::from_seed("log", &[seed; 32]).unwrap());
    let checkpoint = Checkpoint::new("log", 1_234, built.roots[1_234]).unwrap();
    let mut signed = checkpoint.sign(&one).unwrap();
    signed.add(two.sign(signed.text()));
    let known = |signers: &[&Signer]| -> Vec<_> {
        signers.iter().map(|signer| signer.verifier_key().clone()).collect()
    };
    let read = |note: &str, signers: &[&Signer]| Note::read("note", note.as_bytes(), &known(signers));
    let right = signed.to_string();
    for signers in [&[&one][..], &[&two], &[&one, &two], &[&three, &two]] {
        read(&right, signers).unwrap();
    }
    assert!(read(&right, &[&three]).is_err(), "nobody knows it");
    signed.add(two.sign("another text\n"));
    let wrong = signed.to_string();
    read(&wrong, &[&one]).unwrap();
    assert!(read(&wrong, &[&one, &two]).is_err(), "a known key's line is wrong");
}

#[test]
fn checkpoints_are_read_from_files_and_their_signatures_checked() {
    let built = Built::new();
    let home = tempfile::tempdir().unwrap();
    let signer = Signer::from_seed("log", &[1; 32]).unwrap();
    let (path, key) = (home.path().join("checkpoint"), signer.verifier_key().to_string());
    fs::write(&path, note(&signer, 1_234, built.roots[1_234])).unwrap();
    let (dir, path) = (built.path().to_str().unwrap(), path.to_str().unwrap());
    let with_key = |key: &str| scribe(&["verify", dir, "--checkpoint", path, "--key", key]);

    let agreed = with_key(&key);
    exits_with(&agreed, 0);
    let id = signer.verifier_key().id();
    let says = format!("agrees with {path}: 1234 records of log, signed by log+{id}\n");
    assert!(stdout(&agreed).contains(&says), "{}", stdout(&agreed));

    let stranger = Signer::from_seed("log", &[2; 32]).unwrap().verifier_key().to_string();
    let refused = with_key(&stranger);
    exits_with(&refused, 1);
    assert!(stderr(&refused).contains("no known key has signed"), "{}", stderr(&refused));
    exits_with(&scribe(&["verify", dir, "--key", &key]), 2);
    let unnamed = scribe(&["verify", dir, "--checkpoint", path]);
    exits_with(&unnamed, 2);
    assert!(stderr(&unnamed).contains("does not say who signs for it: give --key"), "{}", stderr(&unnamed));
    exits_with(&scribe(&["verify", dir, "--checkpoint", "/nowhere", "--key", &key]), 2);
}

/// It was once told as a loss is.
#[test]
fn a_checkpoint_of_what_is_not_sealed_yet_proves_nothing_yet() {
    let built = Built::new();
    let home = tempfile::tempdir().unwrap();
    let signer = Signer::from_seed("log", &[1; 32]).unwrap();
    let key = signer.verifier_key().to_string();
    let (old, fresh) = (home.path().join("old"), home.path().join("fresh"));
    fs::write(&old, note(&signer, 1_234, built.roots[1_234])).unwrap();
    fs::write(&fresh, note(&signer, built.records() + 5, Hash::of(b"not known yet"))).unwrap();
    let dir = built.path().to_str().unwrap();
    let with = |format: &str| {
        let (old, fresh) = (old.to_str().unwrap(), fresh.to_str().unwrap());
        let notes = ["--checkpoint", old, "--checkpoint", fresh, "--key", &key, "--format", format];
        scribe(&[&["verify", dir], &notes[..]].concat())
    };
    let undecided = with("json");
    exits_with(&undecided, 3);
    let document: Json = serde_json::from_str(&stdout(&undecided)).unwrap();
    assert_eq!(document["verified"], Json::Null);
    let says = format!("a checkpoint covers more: {} in {}", built.records() + 5, fresh.display());
    assert!(document["problem"].as_str().unwrap().contains(&says), "{document}");
    assert!(stderr(&with("table")).contains("cannot tell yet: the 2800 records here are whole"));
    // What is wrong is wrong whatever else cannot be told.
    fs::write(&old, note(&signer, 1_234, built.roots[1_233])).unwrap();
    exits_with(&with("table"), 1);
    fs::write(&old, note(&signer, 1_234, built.roots[1_234])).unwrap();
    let mut bytes = fs::read(built.segment(2)).unwrap();
    bytes[5_000] ^= 1;
    fs::write(built.segment(2), bytes).unwrap();
    exits_with(&with("table"), 1);
}

/// It was once told as wrong use is: a ledger that is younger than its first segment does not say who signs for it.
#[test]
fn a_checkpoint_of_a_ledger_of_which_nothing_is_sealed_proves_nothing_yet() {
    let home = tempfile::tempdir().unwrap();
    let (dir, fresh) = (home.path().join("data"), home.path().join("fresh"));
    for name in ["wal", "segments"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let signer = Signer::from_seed("log", &[1; 32]).unwrap();
    let key = signer.verifier_key().to_string();
    fs::write(&fresh, note(&signer, 7, Hash::of(b"not known yet"))).unwrap();
    let (dir, fresh) = (dir.to_str().unwrap(), fresh.to_str().unwrap());
    for keys in [&[][..], &["--key", &key]] {
        let output = scribe(&[&["verify", dir, "--checkpoint", fresh], keys].concat());
        exits_with(&output, 3);
        assert!(stderr(&output).contains("cannot tell yet"), "{}", stderr(&output));
    }
    exits_with(&scribe(&["verify", dir]), 0);
}

#[test]
fn a_directory_in_the_place_of_a_segment_is_named() {
    let built = Built::new();
    fs::remove_file(built.segment(1)).unwrap();
    fs::create_dir(built.segment(1)).unwrap();
    let output = scribe(&["verify", built.path().to_str().unwrap()]);
    exits_with(&output, 1);
    let says = format!("{} is a directory and no segment: ", built.segment(1).display());
    assert!(stderr(&output).contains(&says) && stderr(&output).contains("restore"), "{}", stderr(&output));
}

#[test]
fn the_exit_codes_are_told() {
    let help = stdout(&scribe(&["verify", "--help"]));
    for says in ["0  verified", "1  wrong", "2  the arguments", "3  cannot tell yet"] {
        assert!(help.contains(says), "{help}");
    }
}

#[test]
fn the_exit_code_tells_damage_from_wrong_use() {
    let built = Built::new();
    let empty = tempfile::tempdir().unwrap();
    for wrong in [empty.path(), Path::new("/nowhere/at/all")] {
        exits_with(&scribe(&["verify", wrong.to_str().unwrap()]), 2);
    }
    fs::remove_file(built.segment(1)).unwrap();
    let output = scribe(&["verify", built.path().to_str().unwrap(), "--format", "json"]);
    exits_with(&output, 1);
    let document: Json = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(document["verified"], json!(false));
    assert!(document["problem"].as_str().unwrap().contains("is missing"), "{document}");
    assert!(stderr(&output).contains("is missing"));
}

/// Ends the writer however the test ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While a ledger is written to, its directory verifies again and again, ever further.
#[test]
fn the_directory_of_a_running_ledger_is_verified_beside_it() {
    let home = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.node.data_dir = home.path().to_path_buf();
    config.storage.segment_size = 64 << 10;
    let ledger = Ledger::open_with(&config).unwrap();
    let is_done = AtomicBool::new(false);
    let value = vec![b'v'; 500];
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                let mut batch = ledger.batch();
                for n in 0..50u64 {
                    batch.put(format!("key-{n}"), &value).unwrap();
                }
                ledger.apply_batch(batch).unwrap();
            }
        });
        let _ends = Ends(&is_done);
        let (deadline, mut last, mut grown) = (Instant::now() + PATIENCE, 0, 0);
        while grown < 3 {
            assert!(Instant::now() < deadline, "segments are sealed");
            let report = verify(home.path()).unwrap();
            assert!(report.records.0 >= last);
            assert!(report.wal.is_some_and(|wal| wal.files > 0 && wal.bytes > 0), "{report:?}");
            grown += u64::from(report.records.0 > last);
            last = report.records.0;
        }
    });
    drop(ledger);
    let before = files(home.path());
    let output = scribe(&["verify", home.path().to_str().unwrap()]);
    exits_with(&output, 0);
    let says = "not covered: records that are not sealed yet; they are in the write-ahead log only";
    assert!(stdout(&output).contains(says), "{}", stdout(&output));
    assert_eq!(files(home.path()), before, "nothing was written");
}

/// Every name below a directory, and when it was last written.
fn files(dir: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        found.push((entry.path(), entry.metadata().unwrap().modified().unwrap()));
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        }
    }
    found.sort();
    found
}
