//! Archives whose end was cut, and checkpoints that are not what they were: nothing of it is called verified.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use scribe_ledger::{
    archive::{DirectoryStore, Epoch, Store, layout},
    env::real::RealIo,
    proof::{Hash, checkpoint::Checkpoint, key::Signer},
    types::SegmentId,
};
use serde_json::Value;

use crate::{
    carrying::begin,
    exits_with,
    ledger::{Ledger, ledger},
    scribe,
    verifying::archive,
};

const RECORDS: [u64; 6] = [30, 20, 0, 15, 9, 10];
const END: u64 = 84;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn in_directory(dir: &Path) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::new(Arc::new(RealIo::new()), dir, 1))
}

/// An archive of six segments, one without records.
struct Archive {
    home: tempfile::TempDir,
    ledger: Ledger,
}

impl Archive {
    fn new() -> Self {
        let (home, ledger) = (tempfile::tempdir().unwrap(), ledger(&RECORDS));
        runtime().block_on(archive(in_directory(&home.path().join("archive")), &ledger));
        Self { home, ledger }
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("archive")
    }

    fn entry(&self, id: u64) -> PathBuf {
        self.dir().join(layout::entry(Epoch::FIRST, SegmentId(id)).as_str())
    }

    fn remove_entries(&self, from: u64) {
        (from..6).for_each(|id| fs::remove_file(self.entry(id)).unwrap());
    }

    fn files(&self, dir: String) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            fs::read_dir(self.dir().join(dir)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }

    fn checkpoints(&self) -> Vec<PathBuf> {
        self.files(layout::checkpoints(Epoch::FIRST))
    }

    #[track_caller]
    fn verify(&self, code: i32) -> String {
        exits_with(&scribe(&["verify", "--archive", self.dir().to_str().unwrap()], &[]), code)
    }

    #[track_caller]
    fn restore(&self, code: i32) -> String {
        let (from, to) = (self.dir(), tempfile::tempdir().unwrap());
        let (from, to) = (from.to_str().unwrap(), to.path().to_str().unwrap());
        exits_with(&scribe(&["restore", "--from", from, "--data-dir", to], &[]), code)
    }

    fn json(&self) -> Value {
        let place = self.dir();
        let output = scribe(&["verify", "--format", "json", "--archive", place.to_str().unwrap()], &[]);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn a_whole_archive_says_what_tells_of_its_end() {
    let archive = Archive::new();
    let told = archive.verify(0);
    assert!(told.contains("84 records of scribe/test/1, signed by"), "{told}");
    assert!(told.contains("agrees with 4 earlier checkpoints in it"), "{told}");
    assert!(told.contains("whether segments at the end were taken away; --checkpoint"), "{told}");
    assert!(!told.contains("under no signature"), "{told}");
    let told = archive.json();
    assert_eq!((&told["earlier_checkpoints"], &told["checkpoints_left_out"]), (&4.into(), &0.into()));
    assert_eq!((&told["open_end"], &told["not_covered"]["unsigned"]), (&Value::Null, &Value::Null));
    // Held against one that was kept elsewhere, the end is what it was.
    let note = archive.home.path().join("kept.note");
    fs::write(&note, &archive.ledger.checkpoints[5]).unwrap();
    let (place, note) = (archive.dir(), note.to_str().unwrap());
    let held = ["verify", "--archive", place.to_str().unwrap(), "--checkpoint", note];
    let told = exits_with(&scribe(&held, &[]), 0);
    assert!(!told.contains("whether segments at the end"), "{told}");
}

/// As after a kill: whoever leads next puts it right. Or as after a theft.
#[test]
fn one_entry_that_is_gone_leaves_a_doubt() {
    let archive = Archive::new();
    archive.remove_entries(5);
    let told = archive.verify(3);
    let missing = layout::entry(Epoch::FIRST, SegmentId(5));
    assert!(told.contains("verified 74 records in 5 segments"), "{told}");
    assert!(told.contains(missing.as_str()) && told.contains("cannot tell yet"), "{told}");
    let json = archive.json();
    assert_eq!((&json["verified"], &json["records"]), (&Value::Null, &74.into()));
    assert!(json["open_end"].as_str().unwrap().contains(missing.as_str()), "{json}");
    // All that is left is brought back, and said to be perhaps not all.
    let told = archive.restore(0);
    assert!(told.contains(missing.as_str()) && told.contains("proven up to record 74"), "{told}");
    // Without a checkpoint it is as if the object had only just come.
    fs::remove_file(archive.checkpoints().pop().unwrap()).unwrap();
    let told = archive.verify(0);
    assert!(told.contains("left out: epoch-0000000001/segments/00000000000000000005-"), "{told}");
}

#[test]
fn more_entries_that_are_gone_are_damage() {
    for from in [1, 3, 4] {
        let archive = Archive::new();
        archive.remove_entries(from);
        let missing = layout::entry(Epoch::FIRST, SegmentId(from));
        let told = archive.verify(1);
        assert!(
            told.contains(missing.as_str()) && told.contains("is missing, and perhaps later ones"),
            "{told}"
        );
        assert!(archive.restore(1).contains(missing.as_str()));
        // Checkpoints alone tell it, too; and objects alone.
        for file in archive.files(layout::segments(Epoch::FIRST)).split_off(from as usize) {
            fs::remove_file(file).unwrap();
        }
        archive.verify(1);
        let archive = Archive::new();
        archive.remove_entries(from);
        archive.checkpoints().iter().for_each(|note| fs::remove_file(note).unwrap());
        archive.verify(1);
    }
}

#[test]
fn a_manifest_without_entries_beside_objects_is_not_verified() {
    let archive = Archive::new();
    archive.remove_entries(0);
    let told = archive.verify(1);
    assert!(told.contains(layout::entry(Epoch::FIRST, SegmentId(0)).as_str()), "{told}");
    archive.restore(1);
    // One object is what the first kill leaves; one checkpoint, too.
    archive.files(layout::segments(Epoch::FIRST))[1..].iter().for_each(|file| fs::remove_file(file).unwrap());
    archive.checkpoints()[1..].iter().for_each(|file| fs::remove_file(file).unwrap());
    assert!(archive.verify(3).contains("verified 0 records"));
    fs::remove_file(&archive.checkpoints()[0]).unwrap();
    archive.verify(3);
    fs::remove_file(&archive.files(layout::segments(Epoch::FIRST))[0]).unwrap();
    // Also with nothing left: that is no ledger of no records.
    assert!(archive.verify(3).contains("nothing is archived there"));
}

/// The newest epoch's manifest is gone: the one before it is whole, and not the ledger.
#[test]
fn a_later_epoch_without_its_manifest_is_missed() {
    let archive = Archive::new();
    let store = in_directory(&archive.dir());
    let second = Epoch(2);
    runtime().block_on(begin(store.clone(), second, &archive.ledger)).unwrap();
    archive.verify(0);
    let entries = archive.files(layout::entries(second));
    let object = archive.dir().join(layout::segment(second, SegmentId(6), &[7; 32]).as_str());
    fs::create_dir_all(object.parent().unwrap()).unwrap();
    fs::write(&object, "packed").unwrap();
    entries.iter().for_each(|entry| fs::remove_file(entry).unwrap());
    let told = archive.verify(1);
    assert!(told.contains(layout::entry(second, SegmentId(0)).as_str()), "{told}");
    // Before its first object it may have been killed on its way, and the one before is all there is.
    fs::remove_file(object).unwrap();
    assert!(archive.verify(0).contains("verified 84 records"));
}

#[test]
fn records_behind_the_newest_checkpoint_are_under_no_signature() {
    let archive = Archive::new();
    let mut checkpoints = archive.checkpoints();
    fs::remove_file(checkpoints.pop().unwrap()).unwrap();
    let told = archive.verify(0);
    assert!(told.contains("records 74 to 83 are under no signature"), "{told}");
    let unsigned = &archive.json()["not_covered"]["unsigned"];
    assert_eq!(*unsigned, serde_json::json!({ "from": 74, "end": END }));
    checkpoints.iter().for_each(|note| fs::remove_file(note).unwrap());
    let told = archive.verify(3);
    assert!(told.contains("records 0 to 83 are under no signature"), "{told}");
    assert!(told.contains("no signed checkpoint is there"), "{told}");
    // One that was kept is as good.
    let (place, note) = (archive.dir(), archive.home.path().join("kept.note"));
    fs::write(&note, &archive.ledger.checkpoints[5]).unwrap();
    let held = ["verify", "--archive", place.to_str().unwrap(), "--checkpoint", note.to_str().unwrap()];
    exits_with(&scribe(&held, &[]), 0);
}

#[test]
fn every_checkpoint_is_looked_at() {
    let archive = Archive::new();
    let put = |size: u64, note: &[u8]| {
        let path = layout::checkpoint(Epoch::FIRST, size, blake3::hash(note).as_bytes());
        let path = archive.dir().join(path.as_str());
        fs::write(&path, note).unwrap();
        path
    };
    let refused = |path: &Path, says: &str| {
        let told = archive.verify(1);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(told.contains(name) && told.contains(says), "{says}: {told}");
    };
    for path in archive.checkpoints() {
        let whole = fs::read(&path).unwrap();
        fs::write(&path, "junk").unwrap();
        refused(&path, "not those that its name stands for");
        fs::write(&path, whole).unwrap();
    }
    let signed = |signer: &Signer, size: u64, root: Hash| {
        Bytes::from(Checkpoint::new(signer.name(), size, root).unwrap().sign(signer).unwrap().to_string())
    };
    let (ours, stranger) = (&archive.ledger.signer, Signer::from_seed("scribe/test/1", &[3; 32]).unwrap());
    let root = |at: usize| Hash(archive.ledger.segments[at].summary().root_after);
    let wrong = [
        (30, Bytes::from_static(b"whoever reads this believes it"), "is damaged"),
        (30, signed(&stranger, 30, root(0)), "none of those who are known has signed it"),
        (30, signed(ours, 30, root(1)), "was signed for other records"),
        (31, signed(ours, 31, root(1)), "was signed for other records"),
        (30, signed(ours, 50, root(1)), "it is of 50 records"),
    ];
    for (size, note, says) in wrong {
        let path = put(size, &note);
        refused(&path, says);
        fs::remove_file(path).unwrap();
    }
    // Another member's is as good, whose key a given one is.
    let path = put(30, &signed(&stranger, 30, root(0)));
    let place = archive.dir();
    let keys = [ours.verifier_key(), stranger.verifier_key()].map(ToString::to_string);
    let given = ["verify", "--archive", place.to_str().unwrap(), "--key", &keys[0], "--key", &keys[1]];
    let told = exits_with(&scribe(&given, &[]), 0);
    assert!(told.contains("agrees with 5 earlier checkpoints in it"), "{told}");
    fs::remove_file(path).unwrap();
    archive.verify(0);
}

/// What a later epoch has of an earlier one is signed by those who were members then.
#[test]
fn checkpoints_of_what_epochs_share_are_looked_at() {
    let archive = Archive::new();
    runtime().block_on(begin(in_directory(&archive.dir()), Epoch(2), &archive.ledger)).unwrap();
    assert!(archive.verify(0).contains("agrees with 5 earlier checkpoints in it"));
    let path = &archive.checkpoints()[1];
    fs::write(path, "junk").unwrap();
    assert!(archive.verify(1).contains(path.file_name().unwrap().to_str().unwrap()));
}
