//! A cluster that still archived while another was restored from its archive: what the later one does not go on from is
//! told, by whoever verifies and by whoever restores, and can be brought back.

use std::{fs, path::Path, sync::Arc};

use scribe_ledger::{
    archive::{DirectoryStore, Epoch, Manifest, Store, Tip, layout},
    env::real::RealIo,
    error::Code,
    sim::SimIo,
    types::{SegmentId, Seq},
    verify::{Archived, LeftBehind},
};
use serde_json::Value;

use crate::{
    carrying::begin,
    exits_with,
    ledger::{LEDGER, ledger},
    objects::add_all,
    scribe, simulated_directory,
    verifying::{archive, verify},
};

/// The old cluster has five segments, the restore has seen three.
const OLD: [u64; 5] = [30, 0, 20, 10, 9];
const SEEN: [u64; 3] = [30, 0, 20];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn in_directory(dir: &Path) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::new(Arc::new(RealIo::new()), dir, 1))
}

fn forked(store: &Arc<dyn Store>) {
    runtime().block_on(async {
        archive(store.clone(), &ledger(&OLD)).await;
        assert_eq!(begin(store.clone(), Epoch(2), &ledger(&SEEN)).await.unwrap(), 3);
    });
}

#[test]
fn what_a_later_epoch_does_not_go_on_from_is_counted() {
    let store = simulated_directory(&SimIo::new(1));
    forked(&store);
    let left = |from, end| LeftBehind { epoch: 1, from: Seq(from), end: Seq(end) };
    assert_eq!(verify(store.clone()).unwrap().left_behind, [left(50, 69)]);
    // Another member's clock cut elsewhere: not one segment is the same.
    let other = simulated_directory(&SimIo::new(2));
    runtime().block_on(async {
        archive(other.clone(), &ledger(&OLD)).await;
        let ours = ledger(&[31]);
        assert_eq!(begin(other.clone(), Epoch(2), &ours).await.unwrap(), 0);
        let manifest = Manifest::new(other.clone(), LEDGER, Epoch(2));
        add_all(&manifest, &ours, &mut Tip::default()).await.unwrap();
    });
    assert_eq!(verify(other).unwrap().left_behind, [left(0, 69)]);

    // Third life, of what was left behind: it begins with all of the first epoch, and the second is told of.
    runtime().block_on(async {
        let old = ledger(&OLD);
        let longer = ledger(&[30, 0, 20, 1]);
        let manifest = Manifest::new(store.clone(), LEDGER, Epoch(2));
        let mut tip = manifest.follow(Tip::default(), |_| Ok(())).await.unwrap();
        add_all(&manifest, &longer, &mut tip).await.unwrap();
        assert_eq!(begin(store.clone(), Epoch(3), &old).await.unwrap(), 5);
        let archived = Archived::open(store.clone()).await.unwrap();
        assert_eq!((archived.epoch(), archived.records()), (Epoch(3), 69));
    });
    let left = LeftBehind { epoch: 2, from: Seq(50), end: Seq(51) };
    assert_eq!(verify(store).unwrap().left_behind, [left]);
}

/// Every length of what both have, with and without a rest.
#[test]
fn where_two_epochs_part_is_found() {
    let whole: Vec<u64> = (1..=9).collect();
    for seen in 1..=whole.len() {
        for end in seen..=whole.len() {
            let store = simulated_directory(&SimIo::new(1));
            runtime().block_on(async {
                archive(store.clone(), &ledger(&whole[..end])).await;
                begin(store.clone(), Epoch(2), &ledger(&whole[..seen])).await.unwrap();
            });
            let sum = |count: usize| Seq(whole[..count].iter().sum());
            let left = verify(store).unwrap().left_behind;
            let expected = LeftBehind { epoch: 1, from: sum(seen), end: sum(end) };
            assert_eq!(left, if end > seen { vec![expected] } else { Vec::new() }, "{seen} of {end}");
        }
    }
}

#[test]
fn people_and_scripts_are_told_and_can_have_it_back() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("archive");
    forked(&in_directory(&dir));
    let place = dir.to_str().unwrap();
    let says = "epoch 1 holds records 50 to 68, which epoch 2 does not go on from";
    let told = exits_with(&scribe(&["verify", "--archive", place], &[]), 3);
    assert!(told.contains("verified 50 records in 3 segments") && told.contains(says), "{told}");
    assert!(told.contains("archived 19 records after the one behind it was restored"), "{told}");
    let output = scribe(&["verify", "--archive", place, "--format", "json"], &[]);
    exits_with(&output, 3);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["verified"], &told["records"], &told["epoch"]), (&Value::Null, &50.into(), &2.into()));
    assert_eq!(told["left_behind"], serde_json::json!([{ "epoch": 1, "from": 50, "end": 69 }]));
    assert!(told["problem"].as_str().unwrap().contains("--epoch 1"), "{told}");
    let told = exits_with(&scribe(&["verify", "--archive", place, "--epoch", "1"], &[]), 0);
    assert!(told.contains("verified 69 records in 5 segments"), "{told}");
    for epoch in ["0", "3"] {
        let told = exits_with(&scribe(&["verify", "--archive", place, "--epoch", epoch], &[]), 2);
        assert!(told.contains(&format!("epoch {epoch} has no manifest")), "{told}");
    }
    exits_with(&scribe(&["verify", place, "--epoch", "1"], &[]), 2);

    let to = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let told = exits_with(&scribe(&["restore", "--from", place, "--data-dir", &to("new")], &[]), 0);
    assert!(
        told.contains("verified 50 records") && told.contains(says) && told.contains("in epoch 3"),
        "{told}"
    );
    let old = ["restore", "--from", place, "--data-dir", &to("old"), "--epoch", "1", "--format", "json"];
    let told: Value = serde_json::from_slice(&scribe(&old, &[]).stdout).unwrap();
    assert_eq!((&told["records"], &told["epoch"]), (&69.into(), &3.into()));
    assert_eq!(told["left_behind"], serde_json::json!([]));
    fs::remove_dir_all(dir.join("epoch-0000000001/manifest")).unwrap();
    let told = exits_with(&scribe(&["verify", "--archive", place, "--epoch", "1"], &[]), 2);
    assert!(told.contains("epoch 1 has no manifest"), "{told}");
}

#[test]
fn an_earlier_manifest_that_is_damaged_is_named_and_stands_in_nobodys_way() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("archive");
    forked(&in_directory(&dir));
    let name = layout::entry(Epoch::FIRST, SegmentId(4));
    fs::write(dir.join(name.as_str()), "junk").unwrap();
    let place = dir.to_str().unwrap();
    let told = exits_with(&scribe(&["verify", "--archive", place], &[]), 1);
    assert!(told.contains(name.as_str()), "{told}");
    let data = home.path().join("data");
    let told =
        exits_with(&scribe(&["restore", "--from", place, "--data-dir", data.to_str().unwrap()], &[]), 0);
    assert!(told.contains("not needed, and damaged") && told.contains(name.as_str()), "{told}");
    runtime().block_on(async {
        let store = in_directory(&dir);
        assert_eq!(begin(store.clone(), Epoch(3), &ledger(&SEEN)).await.unwrap(), 3);
        fs::write(dir.join(layout::entry(Epoch(2), SegmentId(2)).as_str()), "junk").unwrap();
        let error = begin(store, Epoch(4), &ledger(&SEEN)).await;
        // The third has it whole.
        assert_eq!(error.map_err(|error| (error.code() == Code::Corrupt, error)), Ok(3));
    });
}
