//! What a segment costs: to write, to open, to read by position and by key.
//!
//! Why: sealing and reading share two cores with everything else. Records are those of the bulk benchmark, keys of
//! 16 and values of 100 bytes, 540,000 of them, about what a segment of default size holds. `write/memory` leaves
//! the disk out: it is the processor's share. Run with `cargo bench --bench segment`; files are below the target
//! directory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use scribe_ledger::{
    env::{File, Io, OpenMode, real::RealIo},
    proof::{
        Hash,
        growth::Growth,
        leaf::{leaf, leaf_hash},
    },
    segment::{
        BlockCache, FinishInfo, KeyHash, Packing, RecordRef, Segment, SegmentHead, SegmentSummary,
        SegmentWriter,
    },
    types::{LogId, LogIndex, Op, SegmentId, Seq},
};

const RECORDS: u64 = 540_000;

/// A disk that takes everything and keeps nothing.
#[derive(Debug)]
struct Nowhere;

impl Io for Nowhere {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn open(&self, _: &Path, _: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Self))
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
}

impl File for Nowhere {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
    fn write_at(&self, bytes: &[u8], _: u64) -> io::Result<()> {
        std::hint::black_box(bytes);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Keys in no order: a multiplier that is odd visits all numbers below a power of two.
fn key(number: u64) -> [u8; 16] {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
    let mut key = *b"key-000000000000";
    let mut rest = mixed;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

const VALUE: [u8; 100] = [b'v'; 100];

/// What sealing hands over with each record; hashing it is not the segment's work.
fn leaves() -> Vec<Hash> {
    let leaf_of = |number| leaf_hash(&leaf(Op::Put, Seq(number), number / 1_000, &key(number), &VALUE));
    (0..RECORDS).map(leaf_of).collect()
}

fn write(io: Arc<dyn Io>, path: &Path, leaves: &[Hash]) -> SegmentSummary {
    let head = SegmentHead { id: SegmentId(0), first_seq: Seq(0), feature_level: 1, segment_bytes: 64 << 20 };
    let mut writer = SegmentWriter::create(io, path, head).expect("the disk works");
    for (number, leaf) in (0..).zip(leaves) {
        let record = RecordRef {
            seq: Seq(number),
            op: Op::Put,
            timestamp_ms: number / 1_000,
            key: &key(number),
            value: &VALUE,
            value_commitment: None,
        };
        writer.push(&record, &leaf.0).expect("the disk works");
    }
    let log_id = LogId { term: 1, index: LogIndex(1) };
    let (mut tree, mut subtrees, mut high_subtrees) = (Growth::default(), Vec::new(), Vec::new());
    for leaf in leaves {
        tree.append(
            *leaf,
            |level, root| if level == 1 { subtrees.push(root.0) } else { high_subtrees.push(root.0) },
        );
    }
    let info = FinishInfo {
        first_log: log_id,
        last_log: log_id,
        frontier_before: &Growth::default().frontier().encode(),
        root_after: tree.root().0,
        subtrees: &subtrees,
        high_subtrees: &high_subtrees,
        idempotency: &[],
        boundary: &[],
    };
    writer.finish(info).expect("the disk works")
}

fn writing(c: &mut Criterion, dir: &Path) -> PathBuf {
    let path = dir.join("bench.seg");
    let leaves = leaves();
    let mut group = c.benchmark_group("write");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(RECORDS));
    group.bench_function("memory", |b| b.iter(|| write(Arc::new(Nowhere), &path, &leaves)));
    group.bench_function("disk", |b| b.iter(|| write(Arc::new(RealIo::new()), &path, &leaves)));
    group.finish();
    path
}

fn reading(c: &mut Criterion, path: &Path) {
    let open = |bytes| {
        Segment::open(&RealIo::new(), path, Arc::new(BlockCache::new(bytes))).expect("the segment is whole")
    };
    let summary = open(0).summary().clone();
    eprintln!(
        "{} bytes a record in the file, {:.2} resident a key",
        summary.file_bytes / RECORDS,
        open(0).resident_bytes() as f64 / summary.keys as f64
    );
    c.bench_function("open", |b| b.iter(|| open(0)));
    let mut group = c.benchmark_group("read");
    let mut number = 0u64;
    let mut next = || {
        number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        number % RECORDS
    };
    let warm = open(1 << 30);
    assert_eq!(warm.records(Seq(0)..Seq(RECORDS)).filter(Result::is_ok).count() as u64, RECORDS);
    group.bench_function("record, cached", |b| b.iter(|| warm.record(Seq(next())).expect("it is there")));
    let cold = open(0);
    group.bench_function("record, from the page cache", |b| {
        b.iter(|| cold.record(Seq(next())).expect("it is there"));
    });
    let newest = |segment: &Segment, key: &[u8]| segment.newest(key, Seq(RECORDS)).expect("the disk works");
    group.bench_function("newest, cached", |b| b.iter(|| newest(&warm, &key(next())).expect("it is there")));
    group.bench_function("newest, from the page cache", |b| {
        b.iter(|| newest(&cold, &key(next())).expect("it is there"));
    });
    group.bench_function("newest of a key that is not there", |b| {
        b.iter(|| {
            let key = key(next() + (1 << 40));
            warm.may_contain(KeyHash::of(&key)) && newest(&warm, &key).is_some()
        });
    });
    group.finish();
    let mut group = c.benchmark_group("walk");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(RECORDS));
    group.bench_function("records", |b| b.iter(|| warm.records(Seq(0)..Seq(RECORDS)).count()));
    group.bench_function("keys", |b| b.iter(|| warm.keys().count()));
    group.bench_function("verify", |b| b.iter(|| warm.verify(|_| ()).expect("the segment is whole")));
    group.bench_function("pack lz4", |b| b.iter(|| warm.pack(Packing::Lz4, &mut io::sink())));
    group.finish();
}

fn segment(c: &mut Criterion) {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is writable");
    let path = writing(c, home.path());
    reading(c, &path);
}

criterion_group!(benches, segment);
criterion_main!(benches);
