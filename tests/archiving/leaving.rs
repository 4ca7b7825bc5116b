//! Files leave members only for an archive that all of them have, and everything can be read afterwards.

use std::{path::Path, sync::atomic::Ordering::Relaxed, time::Duration};

use scribe_ledger::{
    error::Code,
    node::Node,
    segment::stub_name,
    sim::{self, Failure, Fault, Op},
    types::Seq,
};
use tokio::time::{Instant, sleep};

use crate::group::{Group, PATIENCE};

fn cold(node: &Node) -> u64 {
    node.info().sealed_sizes().cold_segments
}

/// Reads every record of a member, as the server does: what is cold is fetched.
async fn read_all(node: &Node, tag: &str) -> u64 {
    let (reader, repairs) = (node.reader(), node.repairs());
    let sealed = node.info().sealed();
    for seq in 0..sealed.0 {
        let mut kept = Vec::new();
        let record = loop {
            match reader.record(Seq(seq)) {
                Err(error) if kept.len() < 4 => kept.push(repairs.mend(error).await.unwrap()),
                found => break found.unwrap().unwrap(),
            }
        };
        assert_eq!(record.seq, Seq(seq));
        assert!(record.value.starts_with(tag.as_bytes()), "record {seq}: {record:?}");
    }
    sealed.0
}

/// Waits until every member's files have left, but the newest.
async fn wait_cold(group: &mut Group) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        group.tend().await;
        let left: Vec<_> =
            group.nodes.iter().flatten().map(|node| (cold(node), node.proofs().segments().len())).collect();
        // The newest stays; one that holds no records has nothing to leave.
        if left.len() == group.nodes.len()
            && left.iter().all(|(cold, all)| *cold >= 3 && cold + 4 >= *all as u64)
        {
            return;
        }
        assert!(Instant::now() < deadline, "files do not leave: {left:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// However long the archive was away, nobody waits longer than `archival_check_interval_secs` once it is back.
#[test]
fn files_leave_soon_after_the_archive_is_back() {
    sim::runtime(14).block_on(async {
        let mut group = Group::tiered(14, 1, true, 1).await;
        group.disks[0].route.is_cut.store(true, Relaxed);
        group.write("one", 400).await;
        sleep(Duration::from_secs(600)).await;
        let info = group.nodes[0].as_ref().unwrap().info();
        assert_eq!((cold(group.nodes[0].as_ref().unwrap()), info.archived()), (0, Seq(0)));
        group.disks[0].route.is_cut.store(false, Relaxed);
        let back = Instant::now();
        wait_cold(&mut group).await;
        // One wait of the stage that copies, and one of the stage whose files leave.
        assert!(back.elapsed() < Duration::from_secs(12), "{:?}", back.elapsed());
    });
}

#[test]
fn members_with_private_archives_never_let_a_file_go() {
    sim::runtime(11).block_on(async {
        let mut group = Group::tiered(11, 3, false, 1).await;
        for round in 0..4 {
            group.write("private", 80).await;
            group.settle().await;
            sleep(Duration::from_secs(20)).await;
            group.tend().await;
            for node in group.nodes.iter().flatten() {
                assert_eq!(cold(node), 0, "round {round}");
                assert_eq!(read_all(node, "private").await, node.info().sealed().0);
            }
            let leader = group.leader().unwrap();
            group.power_cut(leader).await;
            sleep(Duration::from_secs(3)).await;
        }
    });
}

#[test]
fn members_with_one_archive_let_files_go_and_read_them_there() {
    for seed in 0..4 {
        sim::runtime(seed).block_on(async {
            let mut group = Group::tiered(seed, 3, true, 1).await;
            for round in 0..5 {
                let at = group.rng.below(3) as usize;
                match group.rng.below(5) {
                    0 => group.power_cut(at).await,
                    1 => group.disks[at].route.is_cut.store(true, Relaxed),
                    2 | 3 => {
                        let failure = [Failure::Crash, Failure::NotDone][group.rng.below(2) as usize];
                        let op = [Op::SyncDir, Op::Any][group.rng.below(2) as usize];
                        // A log's failed sync ends the member; the power is what is tried here.
                        let failure = if op == Op::Any { Failure::Crash } else { failure };
                        group.disks[at].own.arm(Fault { op, nth: group.rng.below(80), failure });
                    }
                    _ => {}
                }
                let _ = round;
                group.write("one", 60).await;
                sleep(Duration::from_millis(group.rng.below(4_000))).await;
                group.disks.iter().for_each(|disks| disks.own.disarm());
                group.tend().await;
                group.disks.iter().for_each(|disks| disks.route.is_cut.store(false, Relaxed));
            }
            group.settle().await;
            wait_cold(&mut group).await;
            for node in group.nodes.iter().flatten() {
                assert!(read_all(node, "one").await > 200);
            }
            group.check_archive(0, true).await;
            // All of them off and on: what starts has stubs.
            for at in 0..3 {
                group.power_cut(at).await;
            }
            group.tend().await;
            group.settle().await;
            for node in group.nodes.iter().flatten() {
                assert!(cold(node) >= 3 && read_all(node, "one").await > 200);
            }
            // A stub that the disk has spoiled: the file comes back from the archive.
            let at = group.rng.below(3) as usize;
            let node = group.nodes[at].as_ref().unwrap();
            let find = |node: &Node| {
                node.proofs().segments().iter().find(|segment| segment.stub().is_some()).unwrap().clone()
            };
            let damaged = find(node);
            let (id, seq) = (damaged.summary().id(), damaged.summary().head.first_seq);
            let path = Path::new("/ledger/segments").join(stub_name(id));
            group.disks[at].own.flip_bit(&path, 64 + group.rng.below(32), 2).unwrap();
            let damage = damaged.leaf_hash(seq).unwrap_err();
            assert_eq!(damage.damaged_segment(), Some(id));
            let _mended = node.repairs().mend(damage).await.unwrap();
            assert!(node.info().repaired_segments() > 0);
            node.proofs().segments()[id.0 as usize].leaf_hash(seq).unwrap();
            // And leaves again.
            wait_cold(&mut group).await;
            // Away is what is cold, and it says so.
            let node = group.nodes[0].as_ref().unwrap();
            group.disks[0].route.is_cut.store(true, Relaxed);
            let coldest = find(node);
            let seq = coldest.summary().head.first_seq;
            if let Err(error) = node.reader().record(seq) {
                let error = node.repairs().mend(error).await.unwrap_err();
                assert_eq!(error.code(), Code::Unavailable);
                assert!(error.message().contains("not reached"), "{error}");
            }
        });
    }
}
