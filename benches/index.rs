//! What the index costs: taking a run, merging key tables into one, and finding rows hot, cold and absent.
//!
//! Why: the index is the largest share of a record's CPU behind the answer (0.65 µs), and its layout in
//! tables (block size, filters, their partitioning, the runs that may wait) was chosen by these figures. One
//! that is merged on the side of a benchmark would measure the merging, so lookups are measured on an index
//! at rest, half with a cache that holds it all, half with one that holds a twentieth. Run with `cargo bench
//! --bench index`; the files are below the target directory, whose disk is the one measured.
//!
//! `INDEX_KEYS=20000000 cargo bench --bench index` measures none of that; it fills one index with that many
//! keys and reports the rate, the CPU a key, memory and disk: the figures that this design stands on, which
//! are too long for every day.

#![expect(clippy::print_stdout, reason = "a report is what is asked for")]

use std::{hint::black_box, path::Path, time::Duration};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group};
use scribe_ledger::{
    error::Error,
    index::{Index, IndexOptions, KeyRange, Newest, Position, Row, merge},
    types::{SegmentId, Seq},
};
use tokio::time::Instant;

const RUN_KEYS: u64 = 250_000;
const RUNS: u64 = 8;
const TABLES: u64 = 8;
const SCAN_ROWS: usize = 10_000;

const THIS_THREAD: &str = "/proc/thread-self/stat";

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// The key that record `seq` wrote: 16 bytes that look random.
fn key(seq: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(seq).to_be_bytes());
    key[8..].copy_from_slice(&mix(!seq).to_be_bytes());
    key
}

/// The rows of some records, sorted.
fn run(first: u64, keys: u64) -> Vec<Row> {
    let mut rows: Vec<Row> = (first..first + keys)
        .map(|seq| Row {
            key: Bytes::copy_from_slice(&key(seq)),
            newest: Newest { seq: Seq(seq), is_tombstone: false },
        })
        .collect();
    rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    rows
}

fn ingest(index: &Index, rows: impl IntoIterator<Item = Result<Row, Error>>, number: u64, run_keys: u64) {
    let to = Position { end_seq: Seq((number + 1) * run_keys), segment: SegmentId(number) };
    index.ingest(Seq(number * run_keys), to, rows).expect("the disk works");
}

fn open(path: &Path, cache_bytes: u64) -> Index {
    Index::open(path, IndexOptions { cache_bytes, hash_seed: 7 }).expect("the disk works")
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is writable")
}

fn feeding(c: &mut Criterion) {
    let mut group = c.benchmark_group("index");
    group
        .throughput(Throughput::Elements(RUN_KEYS))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .measurement_time(Duration::from_secs(5));
    let tables: Vec<Vec<Row>> =
        (0..TABLES).map(|table| run(table * RUN_KEYS / TABLES, RUN_KEYS / TABLES)).collect();
    group.bench_function("merge 8 key tables", |b| {
        b.iter_batched(
            || tables.clone(),
            |tables| {
                merge(tables.into_iter().map(|rows| rows.into_iter().map(Ok))).expect("no error").count()
            },
            BatchSize::LargeInput,
        );
    });
    let home = home();
    let index = open(home.path(), 64 << 20);
    let mut number = 0;
    group.bench_function("ingest a run", |b| {
        b.iter_batched(
            || {
                number += 1;
                (number - 1, run((number - 1) * RUN_KEYS, RUN_KEYS))
            },
            |(number, rows)| ingest(&index, rows.into_iter().map(Ok), number, RUN_KEYS),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn reading(c: &mut Criterion) {
    let home = home();
    {
        let index = open(home.path(), 16 << 20);
        for number in 0..RUNS {
            ingest(&index, run(number * RUN_KEYS, RUN_KEYS).into_iter().map(Ok), number, RUN_KEYS);
        }
        settle(&index);
    }
    let keys = RUNS * RUN_KEYS;
    for (cache, cache_bytes) in [("all cached", 256 << 20), ("a twentieth cached", 2 << 20)] {
        let index = open(home.path(), cache_bytes);
        let mut group = c.benchmark_group(format!("index/{cache}"));
        let mut at = 0;
        let mut next = |keys: u64| {
            at += 1;
            mix(at) % keys
        };
        group.bench_function("any key", |b| {
            b.iter(|| index.newest(&key(next(keys))).expect("the disk works").expect("it is there"));
        });
        group.bench_function("one of 10,000 keys", |b| {
            b.iter(|| index.newest(&key(next(10_000))).expect("the disk works").expect("it is there"));
        });
        group.bench_function("no key", |b| {
            b.iter(|| index.newest(&key(keys + next(keys))).expect("the disk works"));
        });
        group.throughput(Throughput::Elements(SCAN_ROWS as u64));
        group.bench_function("scan", |b| {
            b.iter(|| {
                let range = KeyRange::all().from(&key(next(keys))[..1]);
                index
                    .scan(&range)
                    .take(SCAN_ROWS)
                    .map(|row| row.expect("the disk works").newest.seq.0)
                    .sum::<u64>()
            });
        });
        group.finish();
    }
}

/// Waits until nothing has been merged for half a second.
fn settle(index: &Index) {
    let mut idle = 0;
    while idle < 50 {
        std::thread::park_timeout(Duration::from_millis(10));
        idle = if index.is_merging() { 0 } else { idle + 1 };
    }
}

/// User and system time, from the `stat` file of a process or thread.
fn cpu(stat: &str) -> Duration {
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// User and system time of this process, its memory now and at most, from Linux' `/proc`.
fn spent() -> (Duration, u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (cpu("/proc/self/stat"), kib("VmRSS:").unwrap_or(0) >> 10, kib("VmHWM:").unwrap_or(0) >> 10)
}

/// One large index, filled and read.
fn large(keys: u64, run_keys: u64, cache_bytes: u64) {
    let home = home();
    let index = open(home.path(), cache_bytes);
    let (mut taking, mut preparing) = (Duration::ZERO, Duration::ZERO);
    let begin = spent().0;
    let (mut rss, mut disk_bytes) = (0, 0);
    for number in 0..keys / run_keys {
        // Key tables are read block by block; here they are made up, which is not to be measured.
        let before = cpu(THIS_THREAD);
        let mut seqs: Vec<u64> = (number * run_keys..(number + 1) * run_keys).collect();
        seqs.sort_unstable_by_key(|&seq| key(seq));
        preparing += cpu(THIS_THREAD) - before;
        let rows = seqs.iter().map(|&seq| {
            let newest = Newest { seq: Seq(seq), is_tombstone: false };
            Ok(Row { key: Bytes::copy_from_slice(&key(seq)), newest })
        });
        let start = Instant::now();
        ingest(&index, rows, number, run_keys);
        taking += start.elapsed();
        rss = rss.max(spent().1);
        disk_bytes = disk_bytes.max(index.disk_bytes());
    }
    let start = Instant::now();
    settle(&index);
    let spent_cpu = (spent().0 - begin).saturating_sub(preparing);
    println!(
        "{keys} keys in runs of {run_keys}, cache {} MiB: {:.2}M keys/s taken, {:.3} µs CPU a key with all merging, \
         {:.1} s more until it was at rest",
        cache_bytes >> 20,
        keys as f64 / taking.as_secs_f64() / 1e6,
        spent_cpu.as_secs_f64() * 1e6 / keys as f64,
        start.elapsed().as_secs_f64() - 0.5,
    );
    println!(
        "memory {rss} MiB at most while filling ({} MiB of it the bench's own), disk {:.1} bytes a key ({:.1} at most)",
        (run_keys * 8) >> 20,
        index.disk_bytes() as f64 / keys as f64,
        disk_bytes as f64 / keys as f64,
    );
    let looks = 300_000;
    let probe = |what: &str, pick: &dyn Fn(u64) -> u64| {
        let (start, before) = (Instant::now(), spent().0);
        for look in 0..looks {
            black_box(index.newest(&key(pick(look))).expect("the disk works"));
        }
        println!(
            "{what}: {:.0}k/s, {:.2} µs CPU",
            f64::from(looks as u32) / start.elapsed().as_secs_f64() / 1e3,
            (spent().0 - before).as_secs_f64() * 1e6 / f64::from(looks as u32),
        );
    };
    probe("any key", &|look| mix(look) % keys);
    probe("one of 10,000 keys", &|look| mix(look) % 10_000);
    probe("one of 10,000 keys again", &|look| mix(look) % 10_000);
    probe("no key", &|look| keys + look);
    let start = Instant::now();
    let rows = index.scan(&KeyRange::all()).take(3_000_000).filter(Result::is_ok).count();
    println!("scan: {:.2}M rows/s", rows as f64 / start.elapsed().as_secs_f64() / 1e6);
    println!("memory {} MiB, {} MiB at most", spent().1, spent().2);
    drop(index);
    let start = Instant::now();
    let index = open(home.path(), cache_bytes);
    println!("open: {:.0} ms, {:?}", start.elapsed().as_secs_f64() * 1e3, index.position());
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

criterion_group!(benches, feeding, reading);

fn main() {
    match number("INDEX_KEYS") {
        Some(keys) => {
            let run_keys = number("INDEX_RUN_KEYS").unwrap_or(1_000_000);
            large(keys, run_keys, number("INDEX_CACHE_MIB").unwrap_or(64) << 20);
        }
        None => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}
