//! Every step of archiving fails in every way, at the store and at the node; then all of it is there.

use std::{path::Path, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use scribe_ledger::sim::{self, Failure, Fault, Op};
use tokio::time::sleep;

use crate::{
    bucket,
    disks::{ARCHIVE, ReadOnly},
    group::Group,
    way::Behind,
};

/// Writes three segments and has them archived, after an accident was prepared. How often the archive was changed.
fn archive_some(seed: u64, prepare: impl FnOnce(&Group)) -> u64 {
    sim::runtime(seed).block_on(async {
        let mut group = Group::start(seed, 1, true).await;
        prepare(&group);
        group.write("first", 80).await;
        for _ in 0..20 {
            sleep(Duration::from_millis(100)).await;
            if group.disks[0].archive.is_down() {
                group.disks[0].archive.restart();
            }
            group.tend().await;
            group.check_archive(0, true).await;
        }
        group.disks[0].archive.disarm();
        group.settle().await;
        let entries = group.check_archive(0, true).await;
        assert!(entries.len() >= 2, "{}", entries.len());
        let mut values = Vec::new();
        for entry in &entries {
            let archive = Arc::new(Behind::new(ReadOnly(group.disks[0].archive.clone())));
            values.extend(bucket::values(archive, Path::new(ARCHIVE), entry).await);
        }
        let node = group.nodes[0].as_ref().unwrap();
        assert_eq!(values.len() as u64, node.info().sealed().0);
        assert!(values.iter().all(|value| value.starts_with(b"first-")));
        group.disks[0].archive.ops()
    })
}

#[test]
fn every_operation_of_the_archives_disk_fails_in_every_way() {
    let ops = archive_some(1, |_| {});
    assert!(ops > 40, "{ops}");
    for nth in 0..ops {
        for failure in [Failure::NotDone, Failure::Done, Failure::NoSpace, Failure::Crash] {
            archive_some(1, |group| {
                group.disks[0].archive.arm(Fault { op: Op::Any, nth, failure });
            });
        }
    }
}

#[test]
fn a_node_dies_at_every_step_of_archiving() {
    let ops = archive_some(2, |_| {});
    for nth in 1..=ops {
        archive_some(2, |group| group.disks[0].route.dies_after.store(nth, Relaxed));
    }
}
