//! Fetching where there is an archive, too: what that has is not asked of the leader, and whatever is wrong with it
//! holds nobody up.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
};

use scribe_ledger::{
    archive::{DirectoryStore, Epoch, LedgerId, Manifest, Staged, Store, Tip, object::packing, probe::probe},
    cluster::{
        fetch::Fetcher,
        from_archive::FromArchive,
        segments::{self, SaysHowItIs},
        switch::Switch,
        vitals::Vitals,
    },
    env::{Io, OpenMode},
    error::Result,
    raft::Ahead,
    sim::{self, Failure, Fault, Op, SimIo, SimNetwork, SimRng},
    types::{LogId, LogIndex},
};

use super::{
    fetching::{SMALL_PARTS, leaders_disk, open},
    group::{DATA, Spoiling, sealed},
};

const LEDGER: LedgerId = LedgerId([3; 16]);

fn store(disk: &SimIo) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::new(Arc::new(disk.clone()), Path::new("/archive"), 1))
}

/// The first so many of a leader's segments, archived.
fn archive(leader: &SimIo, count: usize) -> SimIo {
    let disk = SimIo::new(5);
    sim::runtime(1).block_on(async {
        probe(&*store(&disk), LEDGER, &SimRng::new(1)).await.unwrap();
        let (manifest, mut tip) = (Manifest::new(store(&disk), LEDGER, Epoch::FIRST), Tip::default());
        for segment in open(leader).unwrap().segments().iter().take(count) {
            let pack = || {
                let path = Path::new("/staged.pack");
                Staged::pack(Arc::new(SimIo::new(6)), segment, packing(true, 0), Epoch::FIRST, path)
            };
            manifest.add(&mut tip, segment.summary(), &[], pack).await.unwrap();
        }
    });
    disk
}

/// Fetches everything onto a disk; how often the leader was asked.
fn fetch(leader: &SimIo, archive: &SimIo, to: &SimIo) -> (Result<()>, u64) {
    sim::runtime(1).block_on(async {
        let cables = SimNetwork::new(1, 0);
        let leaders = open(leader).unwrap();
        let vitals: Arc<SaysHowItIs> = Arc::new(Vitals::default);
        segments::serve(&cables.link(1), &leaders, &vitals, Weak::new());
        let network = Spoiling {
            inner: Arc::new(cables.link(2)),
            rng: SimRng::new(1),
            one_in: 0,
            spoiled: Arc::default(),
            fetched: Arc::default(),
        };
        let asked = network.fetched.clone();
        let switch = Switch::new(Arc::new(to.clone()), Path::new(DATA));
        let here = match open(to) {
            Ok(here) => here,
            Err(error) => return (Err(error), 0),
        };
        let fetcher = Fetcher::new(Arc::new(network), here, switch, SMALL_PARTS)
            .with_archive(Some(FromArchive::new(store(archive), Epoch::FIRST)));
        let boundary = LogId { term: 1, index: LogIndex(1) };
        let ahead = Ahead { leader: 1, address: String::new(), boundary };
        let fetched = fetcher.fetch_all(&ahead, &mut 0).await;
        (fetched, asked.load(Relaxed))
    })
}

/// What is there when everything has been fetched is what the leader has; how often he was asked.
#[track_caller]
fn brings_all(leader: &SimIo, archive: &SimIo, what: &str) -> u64 {
    let disk = SimIo::new(9);
    let (fetched, asked) = fetch(leader, archive, &disk);
    fetched.unwrap_or_else(|error| panic!("{what}: {error}"));
    disk.crash();
    disk.restart();
    assert_eq!(sealed(&disk).unwrap(), sealed(leader).unwrap(), "{what}");
    asked
}

/// What there is, and that there is no more.
const LISTS: u64 = 2;

#[test]
fn what_is_archived_is_not_asked_of_the_leader() {
    let leader = leaders_disk();
    let count = sealed(&leader).unwrap().len();
    assert_eq!(brings_all(&leader, &archive(&leader, count), "all of it"), LISTS);
    let all = brings_all(&leader, &SimIo::new(1), "no archive");
    let half = brings_all(&leader, &archive(&leader, 2), "half of it");
    assert!(LISTS < half && half < all, "{half} of {all}");
    // The archive of another epoch, or ledger, has nothing to give either.
    let others = SimIo::new(2);
    sim::runtime(1).block_on(probe(&*store(&others), LedgerId([4; 16]), &SimRng::new(1))).unwrap();
    assert_eq!(brings_all(&leader, &others, "another ledger's"), all);
}

fn files(disk: &SimIo, dir: &str) -> Vec<PathBuf> {
    let dir = Path::new("/archive/epoch-0000000001").join(dir);
    disk.list(&dir).unwrap().iter().map(|name| dir.join(name)).collect()
}

#[test]
fn a_damaged_archive_is_passed_over() {
    let leader = leaders_disk();
    let count = sealed(&leader).unwrap().len();
    let mut passed_over = 0;
    for seed in 0..60 {
        let (disk, rng) = (archive(&leader, count), SimRng::new(seed));
        let dir = if seed % 3 == 0 { "manifest" } else { "segments" };
        let paths = files(&disk, dir);
        let path = &paths[rng.below(paths.len() as u64) as usize];
        let bytes = disk.open(path, OpenMode::Read).unwrap().len().unwrap();
        disk.flip_bit(path, rng.below(bytes), (seed % 8) as u8).unwrap();
        passed_over += u64::from(brings_all(&leader, &disk, &format!("seed {seed}")) > LISTS);
    }
    assert!(passed_over > 40, "{passed_over}");
}

#[test]
fn nothing_half_is_in_place_when_the_own_disk_fails() {
    let leader = leaders_disk();
    let count = sealed(&leader).unwrap().len();
    let disk = archive(&leader, count);
    let right = sealed(&leader).unwrap();
    let mut broken_off = 0;
    for nth in 0..60 {
        for failure in [Failure::NotDone, Failure::Done, Failure::Crash] {
            let own = SimIo::new(nth);
            own.arm(Fault { op: Op::Any, nth, failure });
            broken_off += u64::from(fetch(&leader, &disk, &own).0.is_err());
            own.disarm();
            own.crash();
            own.restart();
            let here = sealed(&own).unwrap();
            assert_eq!(here, right[..here.len()], "{failure:?} at {nth}");
            fetch(&leader, &disk, &own).0.unwrap();
            assert_eq!(sealed(&own).unwrap(), right, "{failure:?} at {nth}");
        }
    }
    assert!(broken_off > 40, "{broken_off}");
}
