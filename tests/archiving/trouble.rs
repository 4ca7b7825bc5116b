//! Stores that are away, full, another ledger's or gone: said, tried again, and in nobody's way.

use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use scribe_ledger::{
    api::NodeView,
    archive::{Entry, LedgerId, Marker, marker::StoreId},
    env::{Io, OpenMode},
    sim::{self, SimIo},
    types::Seq,
};
use tokio::time::{Instant, sleep};

use crate::{
    disks::ARCHIVE,
    group::{Group, PATIENCE},
};

async fn wait_until(group: &Group, what: &str, is_so: impl Fn(&Group) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so(group) {
        let status = group.nodes[0].as_ref().unwrap().info().status();
        assert!(Instant::now() < deadline, "{what}: {status:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A member on its own that has archived 300 records, the archive's disk, and what is there.
async fn archived(seed: u64) -> (Group, SimIo, Vec<Entry>) {
    let mut group = Group::start(seed, 1, true).await;
    group.write("first", 300).await;
    group.settle().await;
    let entries = group.check_archive(0, true).await;
    let disk = group.disks[0].archive.clone();
    (group, disk, entries)
}

fn state(group: &Group) -> &'static str {
    group.nodes[0].as_ref().unwrap().info().status().archive.state
}

fn applied(group: &Group) -> u64 {
    group.nodes[0].as_ref().unwrap().info().applied().0
}

fn marker() -> PathBuf {
    Path::new(ARCHIVE).join("ledger.id")
}

#[test]
fn a_store_that_was_away_is_caught_up_with() {
    sim::runtime(1).block_on(async {
        let mut group = Group::start(1, 1, true).await;
        group.disks[0].route.is_cut.store(true, Relaxed);
        group.write("away", 400).await;
        assert_eq!(applied(&group), 400, "writes do not wait for the archive");
        wait_until(&group, "it is said", |group| state(group) == "away").await;
        let info = group.nodes[0].as_ref().unwrap().info();
        let behind = info.archive_lag();
        assert!(behind.segments > 5 && behind.bytes > 0 && info.archived() == Seq(0), "{behind:?}");
        let status = info.status();
        assert_eq!(status.stages["archive"].depth, behind.segments);
        assert!(status.archive.error.unwrap().contains("not reached"));
        let errors = |name| info.archive().errors().iter().find(|(kind, _)| kind.name() == name).unwrap().1;
        assert!(errors("away") > 0 && errors("broken") == 0);
        group.disks[0].route.is_cut.store(false, Relaxed);
        group.settle().await;
        assert_eq!(state(&group), "ok");
        assert_eq!(info.archive_lag(), Default::default());
        assert_eq!(info.archive().uploaded().objects as usize, group.check_archive(0, true).await.len());
    });
}

#[test]
fn a_ledger_without_records_leaves_no_mark_in_its_archive() {
    sim::runtime(2).block_on(async {
        let mut group = Group::start(2, 1, true).await;
        wait_until(&group, "it has been seen", |group| state(group) == "ok").await;
        sleep(Duration::from_secs(5)).await;
        // It may still make way for another ledger, whose archive this is then.
        assert!(group.disks[0].archive.open(&marker(), OpenMode::Read).is_err());
        group.write("first", 1).await;
        group.settle().await;
        assert!(group.disks[0].archive.open(&marker(), OpenMode::Read).is_ok());
    });
}

/// Also while there is nothing to do.
#[test]
fn an_archive_that_goes_away_is_noticed_within_the_interval() {
    sim::runtime(7).block_on(async {
        let mut group = Group::start(7, 1, true).await;
        group.write("first", 100).await;
        group.settle().await;
        group.disks[0].route.is_cut.store(true, Relaxed);
        wait_until(&group, "it is said", |group| state(group) == "away").await;
        group.disks[0].route.is_cut.store(false, Relaxed);
        wait_until(&group, "it is back", |group| state(group) == "ok").await;
    });
}

fn mark(disk: &SimIo, ledger: LedgerId) {
    let marker_text = Marker { ledger, store: StoreId(ledger.0) }.encode();
    disk.create_dir_all(Path::new(ARCHIVE)).unwrap();
    disk.open(&marker(), OpenMode::Buffered).unwrap().write_at(marker_text.as_bytes(), 0).unwrap();
}

#[test]
fn another_ledgers_archive_is_left_alone_until_that_is_put_right() {
    sim::runtime(3).block_on(async {
        let mut group = Group::start(3, 1, true).await;
        let disk = group.disks[0].archive.clone();
        mark(&disk, LedgerId([9; 16]));
        group.write("first", 200).await;
        wait_until(&group, "it is refused", |group| state(group) == "refused").await;
        let status = group.nodes[0].as_ref().unwrap().info().status();
        assert!(status.archive.error.unwrap().contains("is the archive of the ledger 0909"));
        sleep(Duration::from_secs(20)).await;
        let names = disk.list(Path::new(ARCHIVE)).unwrap();
        // Nobody's yet, it may have been tried out.
        let names: Vec<_> = names.into_iter().filter(|name| name != "probe").collect();
        assert_eq!(names, ["ledger.id"], "nothing is written there");
        assert_eq!(applied(&group), 200);
        disk.remove(&marker()).unwrap();
        group.settle().await;
    });
}

#[test]
fn an_archive_that_is_not_mounted_any_more_is_not_begun_anew() {
    sim::runtime(4).block_on(async {
        let mut group = Group::start(4, 1, true).await;
        group.write("first", 100).await;
        group.settle().await;
        let (disk, before) = (group.disks[0].archive.clone(), group.check_archive(0, true).await);
        // An empty directory is where the archive was.
        let ledger = LedgerId::parse(&group.cluster_id).unwrap();
        let fence = Path::new(ARCHIVE).join("writer.fence");
        disk.remove(&marker()).unwrap();
        disk.remove(&fence).unwrap();
        group.write("second", 100).await;
        wait_until(&group, "it is refused", |group| state(group) == "refused").await;
        // Nor does an audit claim what is there.
        for _ in 0..40 {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(state(&group), "refused");
        }
        assert!(disk.open(&fence, OpenMode::Read).is_err());
        assert_eq!(group.check_archive(0, true).await, before);
        // Nor is it by the next process.
        group.power_cut(0).await;
        group.start_missing().await;
        wait_until(&group, "it is refused", |group| state(group) == "refused").await;
        let why = group.nodes[0].as_ref().unwrap().info().status().archive.error.unwrap();
        assert!(why.contains("is it mounted") && why.contains("archive.known"), "{why}");
        // Another one of this ledger is mounted in its place: it is completed.
        mark(&disk, ledger);
        group.settle().await;
        assert!(group.check_archive(0, true).await.len() > before.len());
        // And one of another ledger is not touched, although its fence might let us.
        disk.remove(&marker()).unwrap();
        mark(&disk, LedgerId([9; 16]));
        wait_until(&group, "it is refused", |group| state(group) == "refused").await;
        let why = group.nodes[0].as_ref().unwrap().info().status().archive.error.unwrap();
        assert!(why.contains("is the archive of the ledger 0909"), "{why}");
    });
}

#[test]
fn an_object_that_the_archive_has_lost_is_put_back_by_who_begins_to_lead() {
    sim::runtime(8).block_on(async {
        let (mut group, disk, before) = archived(8).await;
        let lost = Path::new(ARCHIVE).join(before[1].object.name().as_str());
        disk.remove(&lost).unwrap();
        disk.set_capacity(Some(1));
        group.power_cut(0).await;
        group.start_missing().await;
        wait_until(&group, "there is no room for it", |group| state(group) == "full").await;
        disk.set_capacity(None);
        wait_until(&group, "it is back", |_| disk.open(&lost, OpenMode::Read).is_ok()).await;
        wait_until(&group, "all is well", |group| state(group) == "ok").await;
        // Every object is read and compared with its name.
        assert_eq!(group.check_archive(0, true).await, before);
    });
}

#[test]
fn an_object_that_goes_under_a_leader_is_put_back() {
    sim::runtime(9).block_on(async {
        let (mut group, disk, before) = archived(9).await;
        let lost = Path::new(ARCHIVE).join(before[0].object.name().as_str());
        disk.remove(&lost).unwrap();
        wait_until(&group, "it is back", |_| disk.open(&lost, OpenMode::Read).is_ok()).await;
        group.write("second", 100).await;
        group.settle().await;
        assert_eq!(group.check_archive(0, true).await[..before.len()], before);
    });
}

#[test]
fn an_object_that_nobody_can_put_back_is_told_and_holds_up_nothing() {
    sim::runtime(10).block_on(async {
        let (mut group, disk, before) = archived(10).await;
        let damaged = Path::new(ARCHIVE).join(before[0].object.name().as_str());
        let file = disk.open(&damaged, OpenMode::Buffered).unwrap();
        let mut whole = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut whole, 0).unwrap();
        file.set_len(7).unwrap();
        wait_until(&group, "it is told", |group| state(group) == "broken").await;
        let why = group.nodes[0].as_ref().unwrap().info().status().archive.error.unwrap();
        assert!(why.contains(before[0].object.name().as_str()) && why.contains("remove it"), "{why}");
        group.write("second", 100).await;
        wait_until(&group, "what is new is archived", |group| {
            let info = group.nodes[0].as_ref().unwrap().info();
            info.archived() == info.applied()
        })
        .await;
        assert_eq!(state(&group), "broken");
        file.write_at(&whole, 0).unwrap();
        wait_until(&group, "it is there again", |group| state(group) == "ok").await;
        assert_eq!(group.check_archive(0, true).await[..before.len()], before);
    });
}

#[test]
fn what_is_not_this_ledger_stops_the_archive_and_nothing_else() {
    sim::runtime(5).block_on(async {
        let mut group = Group::start(5, 1, true).await;
        group.write("first", 100).await;
        group.settle().await;
        let entries = group.check_archive(0, true).await;
        let next = format!("epoch-0000000001/manifest/{:020}.entry", entries.len());
        let (path, disk) = (Path::new(ARCHIVE).join(next), group.disks[0].archive.clone());
        disk.open(&path, OpenMode::Buffered).unwrap().write_at(b"no entry", 0).unwrap();
        group.write("second", 100).await;
        wait_until(&group, "it is said", |group| state(group) == "broken").await;
        assert_eq!(applied(&group), 200);
        sleep(Duration::from_secs(20)).await;
        assert_eq!(group.nodes[0].as_ref().unwrap().info().archived(), entries.last().unwrap().end_seq);
        disk.remove(&path).unwrap();
        group.settle().await;
        assert!(group.check_archive(0, true).await.len() > entries.len());
    });
}

#[test]
fn a_full_archive_is_said_and_goes_on_when_there_is_room() {
    sim::runtime(6).block_on(async {
        let mut group = Group::start(6, 1, true).await;
        let disk = group.disks[0].archive.clone();
        disk.set_capacity(Some(3 << 10));
        group.write("first", 200).await;
        wait_until(&group, "it is full", |group| state(group) == "full").await;
        assert_eq!(applied(&group), 200);
        disk.set_capacity(None);
        group.settle().await;
    });
}
