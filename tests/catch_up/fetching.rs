//! Fetching alone, from a member's segments to another's disk: every operation of that disk fails in every way, the
//! power goes, bytes come spoiled; after each, what is in place is whole, and the next try fetches the rest.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use scribe_ledger::{
    cluster::{
        fetch::{FetchOptions, Fetcher},
        segments::{self, SaysHowItIs},
        switch::Switch,
        vitals::Vitals,
    },
    config::{Config, WalConfig},
    env::Io,
    error::{Code, Result},
    index::IndexOptions,
    node::{Founding, Node},
    raft::{Ahead, Member},
    sealed::{Sealed, SealedOptions},
    sim::{self, Failure, Fault, Op, SimIo, SimNetwork, SimRng, sim_env},
    state::batch::Draft,
    types::{LogId, LogIndex},
    wal::{Driver, WalOptions},
};

use super::group::{DATA, Spoiling, sealed};

const SEGMENTS: usize = 4;

pub fn open(disk: &SimIo) -> Result<Arc<Sealed>> {
    let index = IndexOptions { cache_bytes: 0, hash_seed: 1 };
    let options = SealedOptions { block_cache_bytes: 0, hot_cache_bytes: 0, index, cold: Default::default() };
    Sealed::open(Arc::new(disk.clone()), Path::new(DATA), options).map(Arc::new)
}

/// The sole member of its group, on this disk.
async fn start(disk: &SimIo) -> Result<Node> {
    let mut config = Config::default();
    config.node.data_dir = DATA.into();
    config.storage.tiering.enable_auto_archival = false;
    config.wal = WalConfig { file_bytes: 64 << 10, disk_free_bytes_min: 0, ..WalConfig::default() };
    config.storage.segment_size = 4 << 10;
    let founding = Founding::alone(1, Member::default());
    let options = WalOptions::new(config.wal.clone(), Driver::Task);
    Node::start(sim_env(disk, disk.ops()), &config, founding, options).await
}

/// A disk with segments that a node has sealed, one of them with a value in a block of its own.
pub fn leaders_disk() -> SimIo {
    let disk = SimIo::new(1);
    sim::runtime(1).block_on(async {
        let node = start(&disk).await.unwrap();
        let mut number = 0;
        while node.info().sealed_sizes().segments < SEGMENTS as u64 {
            number += 1;
            let mut draft = Draft::new();
            let value = vec![number as u8; if number == 30 { 20_000 } else { 200 }];
            draft.put(format!("key-{number}").as_bytes(), &value).unwrap();
            node.ingest().permit(0).unwrap().submit(draft).await.unwrap();
        }
        node.stop().await.unwrap();
    });
    disk
}

/// One try to fetch everything onto a disk; `spoils_one_in` of the parts come spoiled, none for 0.
pub fn fetch(
    from: &SimIo,
    to: &SimIo,
    seed: u64,
    spoils_one_in: u64,
    options: FetchOptions,
) -> (u64, Result<()>, u64) {
    sim::runtime(seed).block_on(async {
        let cables = SimNetwork::new(seed, 0);
        let leaders = open(from).unwrap();
        let vitals: Arc<SaysHowItIs> = Arc::new(Vitals::default);
        segments::serve(&cables.link(1), &leaders, &vitals, std::sync::Weak::new());
        let spoiling = Spoiling {
            inner: Arc::new(cables.link(2)),
            rng: SimRng::new(seed),
            one_in: spoils_one_in,
            spoiled: Arc::default(),
            fetched: Arc::default(),
        };
        let spoiled = spoiling.spoiled.clone();
        let mut installed = 0;
        let fetched = match open(to) {
            Ok(mine) => {
                let switch = Switch::new(Arc::new(to.clone()), Path::new(DATA));
                let fetcher = Fetcher::new(Arc::new(spoiling), mine, switch, options);
                let boundary = LogId { term: 1, index: LogIndex(1) };
                let ahead = Ahead { leader: 1, address: String::new(), boundary };
                fetcher.fetch_all(&ahead, &mut installed).await
            }
            Err(error) => Err(error),
        };
        (installed, fetched, spoiled.load(Relaxed))
    })
}

/// What a disk may do at any of its operations.
pub const FAILURES: [(Failure, Op); 4] = [
    (Failure::NotDone, Op::Any),
    (Failure::Done, Op::Any),
    (Failure::NoSpace, Op::Write),
    (Failure::Crash, Op::Any),
];

pub const SMALL_PARTS: FetchOptions = FetchOptions { part_bytes: 1_000, ..FetchOptions::new(0) };

#[test]
fn every_operation_fails_and_nothing_half_is_ever_in_place() {
    let leader = leaders_disk();
    let right = sealed(&leader).unwrap();
    let mut broken_off = 0;
    for nth in 0..120 {
        for (failure, op) in FAILURES {
            let what = format!("{failure:?} at {nth}");
            let disk = SimIo::new(nth);
            disk.arm(Fault { op, nth, failure });
            let (installed, fetched, _) = fetch(&leader, &disk, nth, 0, SMALL_PARTS);
            broken_off += u64::from(fetched.is_err());
            disk.disarm();
            let here = sealed(&disk).unwrap_or_else(|_| Vec::new());
            assert_eq!(here, right[..here.len()], "{what}");
            assert!(disk.is_down() || here.len() as u64 >= installed, "{what}");
            if disk.is_down() || nth % 2 == 0 {
                disk.crash();
                disk.restart();
            }
            let here = sealed(&disk).unwrap_or_else(|why| panic!("{what}: {why}"));
            assert!(here == right[..here.len()] && here.len() as u64 >= installed, "{what}");
            let (rest, fetched, _) = fetch(&leader, &disk, nth, 0, SMALL_PARTS);
            fetched.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(here.len() as u64 + rest, SEGMENTS as u64, "{what}");
            disk.crash();
            disk.restart();
            assert_eq!(sealed(&disk).unwrap(), right, "{what}");
        }
    }
    assert!(broken_off > 200, "{broken_off} tries were broken off");
}

/// Fetches with spoiled parts until all is there, or what is there is not sound.
fn fetch_spoiled(leader: &SimIo, seed: u64, options: FetchOptions) -> std::result::Result<u64, String> {
    let (disk, right) = (SimIo::new(seed), sealed(leader).unwrap());
    let mut refused = 0;
    for attempt in 0..60 {
        let (_, fetched, spoiled) = fetch(leader, &disk, seed * 100 + attempt, 12, options);
        let here = sealed(&disk)?;
        if here != right[..here.len()] {
            return Err("other segments than the leader's are in place".into());
        }
        match fetched {
            Ok(()) if here.len() == right.len() => return Ok(refused),
            // The list said less.
            Ok(()) => {}
            Err(error) => {
                assert!(spoiled > 0, "{error}");
                assert!(
                    matches!(
                        error.code(),
                        Code::Corrupt | Code::Malformed | Code::Io | Code::DiskFull | Code::Unavailable
                    ),
                    "{error}"
                );
                refused += 1;
            }
        }
    }
    Err("it never gets them all".into())
}

#[test]
fn what_was_spoiled_on_the_way_is_never_in_place() {
    let leader = leaders_disk();
    let refused: u64 = (0..20).map(|seed| fetch_spoiled(&leader, seed, SMALL_PARTS).unwrap()).sum();
    assert!(refused > 20, "{refused} tries were refused");
}

#[test]
fn putting_segments_in_place_as_they_came_is_caught() {
    let leader = leaders_disk();
    let options = FetchOptions { skip_verification: true, ..SMALL_PARTS };
    let caught = (0..20).filter(|seed| fetch_spoiled(&leader, *seed, options).is_err()).count();
    assert!(caught > 10, "{caught} of 20 were caught");
}

#[test]
fn a_full_disk_keeps_what_the_log_needs() {
    let leader = leaders_disk();
    let disk = SimIo::new(1);
    disk.set_capacity(Some(100 << 10));
    let options = FetchOptions { free_bytes_min: 90 << 10, ..SMALL_PARTS };
    let (installed, fetched, _) = fetch(&leader, &disk, 1, 0, options);
    assert_eq!(fetched.unwrap_err().code(), Code::DiskFull);
    assert!((1..SEGMENTS as u64).contains(&installed), "{installed}");
    disk.set_capacity(None);
    fetch(&leader, &disk, 1, 0, options).1.unwrap();
    assert_eq!(sealed(&disk).unwrap(), sealed(&leader).unwrap());
}

/// Starts on a disk that has segments which its log does not reach.
fn start_behind(disk: &SimIo) -> Result<u64> {
    sim::runtime(1).block_on(async {
        let node = start(disk).await?;
        let applied = node.info().applied().0;
        node.stop().await?;
        Ok(applied)
    })
}

#[test]
fn only_the_marker_excuses_a_log_that_ends_early_and_nothing_one_that_is_gone() {
    let leader = leaders_disk();
    let disk = SimIo::new(2);
    assert_eq!(start_behind(&disk).unwrap(), 0);
    let (installed, fetched, _) = fetch(&leader, &disk, 1, 0, SMALL_PARTS);
    fetched.unwrap();
    assert_eq!(installed, SEGMENTS as u64);
    let switch = Switch::new(Arc::new(disk.clone()), Path::new(DATA));
    switch.end().unwrap();
    let refused = start_behind(&disk).unwrap_err();
    assert_eq!(refused.code(), Code::Corrupt);
    assert!(refused.message().contains("the log ends before entry"), "{refused}");

    let newest = open(&disk).unwrap().segments().last().unwrap().summary().clone();
    let before = LogId { index: LogIndex(newest.last_log.index.0 - 1), ..newest.last_log };
    switch.announce(before).unwrap();
    assert!(start_behind(&disk).is_err(), "the marker says nothing of the newest segment");
    switch.announce(newest.last_log).unwrap();
    let wal = Path::new(DATA).join("wal");
    let names = disk.list(&wal).unwrap();
    assert!(!names.is_empty());
    let aside =
        |name: &String, from: &Path, to: &Path| disk.rename(&from.join(name), &to.join(name)).unwrap();
    let elsewhere = Path::new("/elsewhere");
    names.iter().for_each(|name| aside(name, &wal, elsewhere));
    // Its votes are gone with it.
    let refused = start_behind(&disk).unwrap_err();
    assert!(refused.message().contains("no write-ahead log"), "{refused}");
    names.iter().for_each(|name| aside(name, elsewhere, &wal));
    assert_eq!(start_behind(&disk).unwrap(), newest.end_seq.0);
    assert!(!disk.list(Path::new(DATA)).unwrap().contains(&"catching-up".to_owned()));
    assert_eq!(start_behind(&disk).unwrap(), newest.end_seq.0, "and again, without the marker");
}
