//! What it costs to make one group of the log durable, by its size and by the writer that does it.
//!
//! Why: which writer `wal.io` should be is a question of group size, and the answer differs from disk to disk.
//! `auto` and the profiles stand on these figures, so they have to be easy to take again. Each iteration appends
//! one entry that fills a group of that size and waits until it is durable; old entries are purged as it goes, so
//! that files are recycled as in a node that has run for a while. Run with `cargo bench --bench wal`; the files
//! are below the target directory, whose disk is the one measured.

use std::{path::Path, sync::mpsc, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use scribe_ledger::{
    config::{WalConfig, WalIo},
    env::real::real_env,
    types::LogIndex,
    wal::{
        Completion, Driver, LogEntry, LogId, Wal, WalOptions,
        format::{GROUP_HEADER_BYTES, RECORD_HEADER_BYTES},
    },
};

const KIB: usize = 1 << 10;
const WRITERS: [(&str, WalIo); 3] =
    [("direct", WalIo::Direct), ("buffered", WalIo::Buffered), ("uring", WalIo::Uring)];
const GROUPS: [(&str, usize); 5] = [
    ("4 KiB", 4 * KIB),
    ("64 KiB", 64 * KIB),
    ("256 KiB", 256 * KIB),
    ("1 MiB", 1024 * KIB),
    ("4 MiB", 4096 * KIB),
];

/// Bytes appended between purges.
const PURGE_EVERY_BYTES: usize = 64 << 20;

fn open(dir: &Path, io: WalIo) -> Wal {
    let config = WalConfig { io, tail_bytes_max: 0, disk_free_bytes_min: 0, ..WalConfig::default() };
    Wal::open(&real_env(), dir, WalOptions::new(config, Driver::Thread)).expect("the disk works")
}

fn id(index: u64) -> LogId {
    LogId { term: 1, index: LogIndex(index) }
}

fn append(c: &mut Criterion) {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is writable");
    let (sender, durable) = mpsc::channel();
    let done = || -> Completion {
        let sender = sender.clone();
        Box::new(move |result| drop(sender.send(result)))
    };
    for (size, bytes) in GROUPS {
        let mut group = c.benchmark_group(format!("append/{size}"));
        group
            .throughput(Throughput::Bytes(bytes as u64))
            .sampling_mode(SamplingMode::Flat)
            .sample_size(50)
            .warm_up_time(Duration::from_millis(1_000))
            .measurement_time(Duration::from_millis(3_000));
        let payload = Bytes::from(vec![b'v'; bytes - GROUP_HEADER_BYTES - RECORD_HEADER_BYTES]);
        for (name, io) in WRITERS {
            let dir = home.path().join(format!("{name}-{bytes}"));
            let wal = open(&dir, io);
            if wal.metrics().writer != name {
                eprintln!("{name} cannot be used on this machine; its figures are left out");
                continue;
            }
            let (mut index, mut since_purge) = (0, 0);
            group.bench_function(name, |b| {
                b.iter(|| {
                    wal.append(vec![LogEntry { id: id(index), payload: payload.clone() }], done())
                        .expect("the log is open");
                    durable.recv().expect("the writer answers").expect("the disk works");
                    index += 1;
                    since_purge += bytes;
                    if since_purge >= PURGE_EVERY_BYTES {
                        since_purge = 0;
                        // It rides in the next group.
                        wal.purge(id(index - 1), Box::new(|_| {})).expect("the log is open");
                    }
                });
            });
            wal.close().expect("the disk works");
            std::fs::remove_dir_all(&dir).expect("the directory is ours");
        }
        group.finish();
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
