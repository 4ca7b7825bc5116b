//! The write-ahead log on the real disk of this machine, with every writer and driver that a node uses.
//!
//! Where io_uring is forbidden its writer falls back, and the same checks hold for what it falls back to.

use std::{path::Path, sync::mpsc, time::Duration};

use bytes::Bytes;
use scribe_ledger::{
    config::{WalConfig, WalIo},
    env::{Env, real::real_env},
    sim::{SimIo, sim_env},
    types::LogIndex,
    wal::{Driver, LogEntry, LogId, Wal, WalHealth, WalOptions},
};
use tokio::time::Instant;

const KIB: usize = 1 << 10;

const WRITERS: [WalIo; 3] = [WalIo::Auto, WalIo::Buffered, WalIo::Uring];

fn config(io: WalIo) -> WalConfig {
    WalConfig {
        io,
        file_bytes: 256 << 10,
        tail_bytes_max: 64 << 10,
        idle_close: Duration::from_millis(20),
        disk_free_bytes_min: 0,
        ..WalConfig::default()
    }
}

fn open(env: &Env, dir: &Path, io: WalIo) -> Wal {
    Wal::open(env, dir, WalOptions::new(config(io), Driver::Thread)).unwrap()
}

fn id(index: u64) -> LogId {
    LogId { term: 1, index: LogIndex(index) }
}

fn entry(index: u64, bytes: usize) -> LogEntry {
    LogEntry { id: id(index), payload: Bytes::from(vec![index as u8; bytes]) }
}

/// Appends and waits until it is durable.
fn append(wal: &Wal, entries: Vec<LogEntry>) {
    let (sender, receiver) = mpsc::channel();
    wal.append(entries, Box::new(move |result| sender.send(result).unwrap())).unwrap();
    receiver.recv().unwrap().unwrap();
}

/// A lone caller may write for itself: what it wrote is durable when it returns, what others queue meanwhile
/// keeps its order, and the last group is certified although the thread slept through it.
#[test]
fn one_that_appends_alone_may_write_it_at_once() {
    let home = tempfile::tempdir().unwrap();
    let (env, dir) = (real_env(), home.path().join("wal"));
    let wal = open(&env, &dir, WalIo::Auto);
    let (sender, receiver) = mpsc::channel();
    let mut at_once = 0;
    let count = 400;
    for index in 0..count {
        let told = sender.clone();
        let done = Box::new(move |result: std::io::Result<()>| told.send(result.map(|()| index)).unwrap());
        // Some are followed by others before they are done, some are too large to be written here.
        let entries = vec![entry(index, if index % 50 == 0 { 100 * KIB } else { 100 })];
        if index % 7 == 0 { wal.append(entries, done) } else { wal.append_here(entries, done) }.unwrap();
        if index % 3 != 0 {
            let durable = receiver.try_recv();
            at_once += u64::from(durable.is_ok());
            let mut last = durable.ok();
            while last.as_ref().is_none_or(|last| *last.as_ref().unwrap() != index) {
                last = Some(receiver.recv_timeout(Duration::from_secs(60)).unwrap());
            }
        }
    }
    eprintln!("{at_once} of {count} were durable at once");
    let groups = wal.metrics().groups;
    let deadline = Instant::now() + Duration::from_secs(60);
    while wal.metrics().groups == groups {
        assert!(Instant::now() < deadline, "no closing group");
        std::thread::yield_now();
    }
    // The process dies.
    drop(wal);
    let wal = open(&env, &dir, WalIo::Auto);
    assert_eq!(wal.state().last, Some(id(count - 1)));
    let read = wal.read(0..count, usize::MAX).unwrap();
    assert!(read.iter().enumerate().all(|(n, e)| e.payload[0] == n as u8) && read.len() as u64 == count);
}

#[test]
fn a_log_outlives_closing_dropping_and_purging() {
    for io in WRITERS {
        let home = tempfile::tempdir().unwrap();
        let (env, dir) = (real_env(), home.path().join("wal"));
        let mut next = 0;
        for life in 0..4 {
            let wal = open(&env, &dir, io);
            assert_eq!(wal.state().last, (next > 0).then(|| id(next - 1)), "life {life}");
            for _ in 0..40 {
                append(&wal, vec![entry(next, 5 * KIB), entry(next + 1, 9 * KIB)]);
                next += 2;
            }
            let first = wal.state().purged.map_or(0, |purged| purged.index.0 + 1);
            let mut at = first;
            while at < next {
                for seen in wal.read(at..next, 100 * KIB).unwrap() {
                    assert_eq!(seen.id, id(at));
                    assert!(seen.payload.iter().all(|byte| *byte == at as u8));
                    at += 1;
                }
            }
            assert!(wal.metrics().tail_bytes <= 64 * KIB);
            let (sender, receiver) = mpsc::channel();
            wal.purge(id(next - 20), Box::new(move |result| sender.send(result).unwrap())).unwrap();
            receiver.recv().unwrap().unwrap();
            // Every other life ends without a word, as a killed process does.
            if life % 2 == 0 {
                wal.close().unwrap();
                assert!(wal.append(vec![entry(next, 1)], Box::new(|_| {})).is_err());
            }
        }
        let files = std::fs::read_dir(&dir).unwrap().count();
        assert!(files < 14, "{files} files are left of {} KiB", next * 7);
    }
}

#[test]
fn every_writer_goes_by_its_own_name() {
    let home = tempfile::tempdir().unwrap();
    let writer = |io| open(&real_env(), &home.path().join(format!("{io:?}")), io).metrics().writer;
    let direct = writer(WalIo::Auto);
    assert!(["direct", "buffered"].contains(&direct), "{direct}");
    assert_eq!(writer(WalIo::Buffered), "buffered");
    let uring = writer(WalIo::Uring);
    if uring != "uring" {
        eprintln!("io_uring cannot be used here: these tests see its fallback, {uring}");
        assert_eq!(uring, direct, "it falls back to what there is");
    }
}

#[test]
fn entries_larger_than_pieces_and_files_read_back() {
    for io in WRITERS {
        let home = tempfile::tempdir().unwrap();
        let (env, dir) = (real_env(), home.path().join("wal"));
        let wal = open(&env, &dir, io);
        // One that fills a file, some around the sizes of pieces, and one that is larger than any buffer.
        let sizes = [10, 255 << 10, 256 << 10, (257 << 10) + 1, 4_194_200, 9_000_001, 10];
        let entries: Vec<LogEntry> = sizes
            .iter()
            .zip(0..)
            .map(|(bytes, n)| {
                let payload: Vec<u8> = (0..*bytes).map(|at: usize| (at * 31 + n as usize) as u8).collect();
                LogEntry { id: id(n), payload: payload.into() }
            })
            .collect();
        for entry in &entries {
            append(&wal, vec![entry.clone()]);
        }
        let next = entries.len() as u64;
        append(&wal, vec![entry(next, 10), entry(next + 1, 700 << 10), entry(next + 2, 10)]);
        drop(wal);
        let wal = open(&env, &dir, io);
        assert!(wal.read(0..next, usize::MAX).unwrap() == entries, "{io:?}");
        assert!(wal.read(5..6, 0).unwrap() == entries[5..6]);
        assert_eq!(wal.read(0..99, usize::MAX).unwrap().len(), entries.len() + 3);
    }
}

#[test]
fn an_idle_log_certifies_itself_once_and_then_sleeps() {
    WRITERS.into_iter().for_each(is_certified_when_idle);
}

fn is_certified_when_idle(io: WalIo) {
    let home = tempfile::tempdir().unwrap();
    let (env, dir) = (real_env(), home.path().join("wal"));
    let wal = open(&env, &dir, io);
    append(&wal, vec![entry(0, 10)]);
    wal.save_committed(id(0)).unwrap();
    let on_disk = || scribe_ledger::wal::groups(&env, &dir).unwrap();
    let certified = || on_disk().last().unwrap().closing;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !certified() {
        assert!(tokio::time::Instant::now() < deadline, "an idle log certifies its last group");
        std::thread::yield_now();
    }
    let groups = on_disk().len();
    #[expect(clippy::disallowed_methods, reason = "that nothing happens shows only while time passes")]
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(on_disk().len(), groups, "an idle log writes nothing");
    assert!(certified());
    assert_eq!(wal.health(), WalHealth::Ok);
    drop(wal);
    assert_eq!(open(&env, &dir, io).state().committed, Some(id(0)));
}

#[test]
fn many_appends_share_a_group() {
    WRITERS.into_iter().for_each(shares_groups);
}

fn shares_groups(io: WalIo) {
    let home = tempfile::tempdir().unwrap();
    let (env, dir) = (real_env(), home.path().join("wal"));
    let wal = open(&env, &dir, io);
    let (sender, receiver) = mpsc::channel();
    for index in 0..2_000 {
        let sender = sender.clone();
        wal.append(vec![entry(index, 100)], Box::new(move |result| sender.send((index, result)).unwrap()))
            .unwrap();
    }
    for expected in 0..2_000 {
        let (index, result) = receiver.recv().unwrap();
        result.unwrap();
        assert_eq!(index, expected, "completions come in order");
    }
    let metrics = wal.metrics();
    assert!(metrics.groups < 1_500, "{} groups for 2,000 appends", metrics.groups);
    assert_eq!((metrics.entries, metrics.queue_depth, metrics.queue_bytes), (2_000, 0, 0));
    assert!(!metrics.sync_us.is_empty());
    wal.close().unwrap();
}

#[test]
fn a_task_runs_the_same_writer() {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let io = SimIo::new(5);
        let env = sim_env(&io, 5);
        runtime.block_on(async {
            let wal = Wal::open(&env, Path::new("/wal"), WalOptions::new(config(WalIo::Auto), Driver::Task))
                .unwrap();
            for index in 0..20 {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                wal.append(vec![entry(index, 3 * KIB)], Box::new(move |r| sender.send(r).unwrap())).unwrap();
                receiver.await.unwrap().unwrap();
            }
            wal.close().unwrap();
        });
        drop(runtime);
        io.kill();
        let wal =
            Wal::open(&env, Path::new("/wal"), WalOptions::new(config(WalIo::Auto), Driver::Step)).unwrap();
        assert_eq!(wal.read(0..99, usize::MAX).unwrap().len(), 20);
        io.contents_hash()
    };
    assert_eq!(run(), run(), "the same seed is the same disk");
}

#[test]
fn starting_again_and_again_does_not_eat_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let (env, dir) = (real_env(), home.path().join("wal"));
    let size = || -> u64 {
        std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let start = |index| {
        let wal = open(&env, &dir, WalIo::Auto);
        append(&wal, vec![entry(index, 10)]);
        wal.close().unwrap();
    };
    (0..3).for_each(start);
    let after_three = size();
    (3..12).for_each(start);
    let grown = size() - after_three;
    assert!(grown <= 9 * 32 * 1_024, "nine starts with one small entry each took {grown} bytes");
}

#[test]
fn writes_stop_at_the_watermark_and_go_on_by_themselves() {
    let io = SimIo::new(1);
    let env = sim_env(&io, 1);
    let (file_bytes, min, capacity) = (64u64 << 10, 512u64 << 10, 2u64 << 20);
    io.set_capacity(Some(capacity));
    let config = WalConfig { file_bytes, disk_free_bytes_min: min, ..WalConfig::default() };
    let wal = Wal::open(&env, Path::new("/wal"), WalOptions::new(config, Driver::Thread)).unwrap();
    let mut index = 0;
    let full = loop {
        if let WalHealth::DiskFull(full) = wal.health() {
            break full;
        }
        append(&wal, vec![entry(index, 10_000)]);
        index += 1;
        assert!(index < 1_000, "the disk never gets full");
    };
    // It once said "58 MB are free, writes need 16 MB": what was missing was room for the next file above these.
    assert!(full.free < full.min + full.next_file, "{full}");
    assert!(full.to_string().contains("wal.file_bytes") == (full.next_file > 0), "{full}");
    let free = env.io.free_bytes(Path::new("/wal")).unwrap();
    assert!(free + file_bytes >= min, "{free} bytes are left of the {min} that should be");
    // What was admitted before goes into the room below, and is not refused.
    for _ in 0..20 {
        append(&wal, vec![entry(index, 10_000)]);
        index += 1;
    }
    io.set_capacity(None);
    assert_eq!(wal.health(), WalHealth::Ok, "room is noticed at once");
    append(&wal, vec![entry(index, 10_000)]);
}
