//! Files of segments leave for stubs, and come back as blocks: whatever the disk and the store do meanwhile, everything
//! can be read, and nothing wrong is.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use scribe_ledger::{
    archive::{
        Epoch, ObjectRef, Staged, Store, StoreError, Trouble,
        cold::ColdCacheOptions,
        fetched,
        name::Name,
        store::{Body, Object, Page, Put, Result as StoreResult, Swap, Version},
    },
    env::{Io, OpenMode},
    error::{Code, Error, Result},
    index::IndexOptions,
    sealed::{Sealed, SealedOptions, thaw::Thaw},
    segment::{BlockCache, Packing, Segment, StubObject, file_name, stub_name},
    sim::{self, Failure, Fault, Op, SimIo},
    types::{Record, SegmentId, Seq},
};

use tokio::time::Instant;

use crate::{
    ledger::{Ledger, bytes_of, ledger},
    simulated_directory,
};

const DATA: &str = "/data";

/// A ledger whose segments are in an archive, too.
struct Archived {
    ledger: Ledger,
    disk: SimIo,
    store: Arc<dyn Store>,
    objects: Vec<ObjectRef>,
}

async fn archived(records: &[u64], packing: Packing) -> Archived {
    let ledger = ledger(records);
    let disk = SimIo::new(5);
    let store = simulated_directory(&disk);
    let mut objects = Vec::new();
    for segment in &ledger.segments {
        let io: Arc<dyn Io> = Arc::new(ledger.io.clone());
        let staged = Staged::pack(io, segment, packing, Epoch::FIRST, Path::new("/pack")).unwrap();
        staged.upload(&*store).await.unwrap();
        objects.push(*staged.object());
    }
    Archived { ledger, disk, store, objects }
}

fn write(io: &SimIo, path: &Path, bytes: &[u8]) {
    let file = io.open(path, OpenMode::Buffered).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    io.sync_dir(path.parent().unwrap()).unwrap();
}

impl Archived {
    /// A node's disk with all segments.
    fn node(&self, seed: u64) -> SimIo {
        let io = SimIo::new(seed);
        let dir = Path::new(DATA).join("segments");
        io.create_dir_all(&dir).unwrap();
        io.sync_dir(Path::new(DATA)).unwrap();
        for id in 0..self.objects.len() as u64 {
            write(&io, &dir.join(file_name(SegmentId(id))), &self.ledger.file(id));
        }
        io
    }

    /// A node that keeps no copies, whose first segment has left for a store that may fail.
    async fn without_cache(&self) -> (Arc<Sealed>, Arc<Spoiling>, Thaw) {
        let sealed = open(&self.node(1), 0).unwrap();
        self.evict(&sealed, 0).await.unwrap();
        let store = Spoiling::of(self);
        let thaw = Thaw::new(sealed.clone(), Ok(store.clone()));
        (sealed, store, thaw)
    }

    async fn evict(&self, sealed: &Sealed, id: u64) -> Result<u64> {
        let object = &self.objects[id as usize];
        let file = fetched::fetch(&*self.store, object).await?;
        let name = object.name();
        let packed = Segment::from_file(file, Path::new(name.as_str()), Arc::new(BlockCache::new(1 << 20)))?;
        sealed.evict(SegmentId(id), &packed, &stub_object(object))
    }

    fn record(&self, seq: u64) -> Record {
        let of = |segment: &&Segment| segment.summary().end_seq > Seq(seq);
        self.ledger.segments.iter().find(of).unwrap().record(Seq(seq)).unwrap().record
    }

    fn records(&self) -> u64 {
        self.ledger.segments.last().unwrap().summary().end_seq.0
    }

    /// Every record is what it was.
    async fn check(&self, sealed: &Sealed, thaw: &Thaw) {
        for seq in 0..self.records() {
            assert_eq!(read(sealed, thaw, seq).await.unwrap(), self.record(seq));
        }
    }
}

fn stub_object(object: &ObjectRef) -> StubObject {
    StubObject { epoch: object.epoch.0, bytes: object.bytes, hash: object.hash }
}

fn open(io: &SimIo, bytes_max: u64) -> Result<Arc<Sealed>> {
    let index = IndexOptions { cache_bytes: 0, hash_seed: 1 };
    let cold = ColdCacheOptions { bytes_max, free_bytes_min: 0 };
    let options = SealedOptions { block_cache_bytes: 0, hot_cache_bytes: 0, index, cold };
    Sealed::open(Arc::new(io.clone()), Path::new(DATA), options).map(Arc::new)
}

async fn read(sealed: &Sealed, thaw: &Thaw, seq: u64) -> Result<Record> {
    let mut held = Vec::new();
    loop {
        match sealed.record(Seq(seq)) {
            // The record's block, and that of its value.
            Err(error) if !error.cold_blocks().is_empty() && held.len() < 2 => {
                held.push(thaw.thaw(error.cold_blocks()).await?);
            }
            found => return found.map(Option::unwrap),
        }
    }
}

#[test]
fn what_has_left_reads_back_however_it_was_packed() {
    sim::runtime(1).block_on(async {
        for packing in [Packing::None, Packing::Lz4, Packing::Zstd(3)] {
            let archived = archived(&[300, 1, 400, 20], packing).await;
            let io = archived.node(1);
            let sealed = open(&io, 1 << 20).unwrap();
            let thaw = Thaw::new(sealed.clone(), Ok(archived.store.clone()));
            let before: Vec<_> = sealed.segments().iter().map(|segment| segment.summary().clone()).collect();
            for id in 0..3 {
                let freed = archived.evict(&sealed, id).await.unwrap();
                assert!(id == 1 || freed > 1_000, "{freed}");
                assert_eq!(
                    archived.evict(&sealed, id).await.unwrap_err().code(),
                    Code::NotFound,
                    "it has left"
                );
            }
            for reopened in [false, true] {
                let sealed = if reopened { open(&io, 1 << 20).unwrap() } else { sealed.clone() };
                let thaw = if reopened {
                    Thaw::new(sealed.clone(), Ok(archived.store.clone()))
                } else {
                    thaw.clone()
                };
                assert_eq!((sealed.sizes().cold_segments, sealed.sizes().segments), (3, 4));
                for (original, segment) in archived.ledger.segments.iter().zip(sealed.segments().iter()) {
                    let range = original.summary().head.first_seq..original.summary().end_seq;
                    // What stays needs no archive.
                    assert_eq!(
                        segment.leaf_hashes(range.clone()).unwrap(),
                        original.leaf_hashes(range).unwrap()
                    );
                    assert_eq!(segment.subtrees().unwrap(), original.subtrees().unwrap());
                    assert!(segment.keys().map(Result::unwrap).eq(original.keys().map(Result::unwrap)));
                    segment.verify(|_| ()).unwrap();
                }
                archived.check(&sealed, &thaw).await;
                let summaries: Vec<_> =
                    sealed.segments().iter().map(|segment| segment.summary().clone()).collect();
                assert_eq!(summaries, before);
            }
            assert_eq!(thaw.downloads().errors, 0);
            // A repair brings a file back, and takes the stub away.
            let dir = Path::new(DATA).join("segments");
            write(&io, &dir.join(file_name(SegmentId(0))), &archived.ledger.file(0));
            sealed.replace(SegmentId(0)).unwrap();
            assert_eq!(sealed.sizes().cold_segments, 2);
            assert!(!io.list(&dir).unwrap().contains(&stub_name(SegmentId(0))));
            assert!(sealed.record(Seq(3)).is_ok());
        }
    });
}

#[test]
fn a_range_asks_for_what_comes_next_and_a_history_for_all_of_it() {
    sim::runtime(1).block_on(async {
        let archived = archived(&[2_000, 2_000, 1], Packing::Lz4).await;
        let io = archived.node(1);
        let sealed = open(&io, 1 << 20).unwrap();
        for id in 0..2 {
            archived.evict(&sealed, id).await.unwrap();
        }
        let segment = sealed.segments()[0].clone();
        let error = segment.records(Seq(0)..Seq(2_000)).next().unwrap().unwrap_err();
        assert!(
            error.code() == Code::Unavailable && error.cold_blocks().len() > 3,
            "{:?}",
            error.cold_blocks()
        );
        let one = segment.records(Seq(5)..Seq(6)).next().unwrap().unwrap_err();
        assert_eq!(one.cold_blocks().len(), 1);
        let mut versions = scribe_ledger::types::Versions::at_most(50, usize::MAX);
        let error = sealed.versions_below(b"key-3", Seq(4_000), &mut versions).unwrap_err();
        let blocks = error.cold_blocks();
        assert!(blocks.iter().any(|block| block.segment == SegmentId(0)), "{blocks:?}");
        assert!(blocks.iter().any(|block| block.segment == SegmentId(1)), "{blocks:?}");
        let thaw = Thaw::new(sealed.clone(), Ok(archived.store.clone()));
        let (mut held, mut missing) = (Vec::new(), blocks.to_vec());
        let versions = loop {
            assert!(held.len() < 3, "records first, and then their values");
            held.push(thaw.thaw(&missing).await.unwrap());
            let mut versions = scribe_ledger::types::Versions::at_most(50, usize::MAX);
            match sealed.versions_below(b"key-3", Seq(4_000), &mut versions) {
                Err(error) => missing = error.cold_blocks().to_vec(),
                Ok(()) => break versions,
            }
        };
        assert_eq!(versions.into_records().len(), 50);
    });
}

#[test]
fn the_disk_fails_at_every_step_of_leaving() {
    sim::runtime(2).block_on(async {
        let archived = archived(&[60, 60, 5], Packing::Lz4).await;
        let whole = archived.node(0);
        let before = whole.ops();
        let sealed = open(&whole, 0).unwrap();
        archived.evict(&sealed, 0).await.unwrap();
        let ops = whole.ops() - before;
        assert!(ops > 6, "{ops}");
        let (mut left, mut stayed) = (0, 0);
        for nth in 0..ops {
            for failure in [Failure::NotDone, Failure::Done, Failure::NoSpace, Failure::Crash] {
                for seed in 0..4 {
                    let io = archived.node(seed);
                    io.arm(Fault { op: Op::Any, nth, failure });
                    let sealed = open(&io, 0);
                    if let Ok(sealed) = &sealed {
                        let _ = archived.evict(sealed, 0).await;
                        if !io.is_down() {
                            // Whatever has failed: it goes on as it is.
                            let thaw = Thaw::new(sealed.clone(), Ok(archived.store.clone()));
                            archived.check(sealed, &thaw).await;
                        }
                    }
                    if seed != 0 && !io.is_down() {
                        io.crash();
                    }
                    if io.is_down() {
                        io.restart()
                    } else {
                        io.kill()
                    }
                    io.disarm();
                    let sealed = open(&io, 0).unwrap();
                    let thaw = Thaw::new(sealed.clone(), Ok(archived.store.clone()));
                    match sealed.sizes().cold_segments {
                        0 => stayed += 1,
                        _ => left += 1,
                    }
                    archived.check(&sealed, &thaw).await;
                    for id in 0..2 {
                        let again = archived.evict(&sealed, id).await;
                        assert!(again.is_ok() || again.unwrap_err().code() == Code::NotFound);
                    }
                    archived.check(&sealed, &thaw).await;
                    let names = io.list(&Path::new(DATA).join("segments")).unwrap();
                    assert_eq!(
                        names,
                        [stub_name(SegmentId(0)), stub_name(SegmentId(1)), file_name(SegmentId(2))]
                    );
                }
            }
        }
        assert!(left > 0 && stayed > left, "{left} {stayed}");
    });
}

/// A stub of twenty records, as bytes.
async fn small_stub() -> Vec<u8> {
    let archived = archived(&[20, 1], Packing::Lz4).await;
    let io = archived.node(1);
    archived.evict(&open(&io, 0).unwrap(), 0).await.unwrap();
    bytes_of(&io, &Path::new(DATA).join("segments").join(stub_name(SegmentId(0))))
}

fn open_stub(bytes: &[u8]) -> Result<Segment> {
    let (io, path) = (SimIo::new(1), Path::new("/s").join(stub_name(SegmentId(0))));
    io.create_dir_all(Path::new("/s")).unwrap();
    write(&io, &path, bytes);
    Segment::open_in(&io, Path::new("/s"), SegmentId(0), Arc::new(BlockCache::new(1 << 16)))
}

#[test]
fn a_stub_is_the_golden_one() {
    let stub = sim::runtime(1).block_on(small_stub());
    let golden = format!("{}/tests/golden/segment-stub-v1.stub", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        std::fs::write(&golden, &stub).unwrap();
    }
    let golden = std::fs::read(golden).unwrap();
    assert!(golden == stub, "the format of stubs has changed");
    let segment = open_stub(&golden).unwrap();
    segment.verify(|_| ()).unwrap();
    assert_eq!((segment.summary().records(), segment.local_bytes()), (20, golden.len() as u64));
}

#[test]
fn a_flip_of_any_byte_of_a_stub_is_found() {
    let stub = sim::runtime(1).block_on(small_stub());
    open_stub(&stub).unwrap().verify(|_| ()).unwrap();
    for at in 0..stub.len() {
        let mut bytes = stub.clone();
        bytes[at] ^= 1 << (at % 8);
        let found = open_stub(&bytes).and_then(|segment| segment.verify(|_| ()));
        assert_eq!(found.unwrap_err().damaged_segment(), Some(SegmentId(0)), "byte {at} of {}", stub.len());
    }
    for bytes in (0..stub.len()).step_by(7) {
        assert!(open_stub(&stub[..bytes]).is_err(), "{bytes} bytes");
    }
}

/// How long a store's client waits for an answer that never comes.
const HANGS: Duration = Duration::from_secs(30);

/// A store whose answers to reads of ranges are not what they were, some of the time.
#[derive(Debug)]
struct Spoiling {
    store: Arc<dyn Store>,
    /// So many answers are spoiled.
    spoils: AtomicU64,
    /// So many are not given.
    away: AtomicU64,
    /// So many come to nothing after [`HANGS`].
    hangs: AtomicU64,
    asked: AtomicU64,
}

impl Spoiling {
    fn of(archived: &Archived) -> Arc<Self> {
        let [spoils, away, hangs, asked] = Default::default();
        Arc::new(Self { store: archived.store.clone(), spoils, away, hangs, asked })
    }
}

impl Store for Spoiling {
    fn place(&self) -> &str {
        self.store.place()
    }

    fn put_once<'a>(&'a self, name: &'a Name, body: Body) -> BoxFuture<'a, StoreResult<Put>> {
        self.store.put_once(name, body)
    }

    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, StoreResult<Object>> {
        self.store.get(name)
    }

    fn get_range<'a>(&'a self, name: &'a Name, offset: u64, bytes: u32) -> BoxFuture<'a, StoreResult<Bytes>> {
        let takes = |left: u64| left.checked_sub(1);
        Box::pin(async move {
            self.asked.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
            if self.away.fetch_update(Relaxed, Relaxed, takes).is_ok() {
                return Err(StoreError::new(Trouble::Away, "it does not answer"));
            }
            if self.hangs.fetch_update(Relaxed, Relaxed, takes).is_ok() {
                tokio::time::sleep(HANGS).await;
                return Err(StoreError::new(Trouble::Away, "it stands still"));
            }
            let mut range = self.store.get_range(name, offset, bytes).await?.to_vec();
            if self.spoils.fetch_update(Relaxed, Relaxed, takes).is_ok() {
                range[bytes as usize / 2] ^= 1;
            }
            Ok(range.into())
        })
    }

    fn head<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, StoreResult<u64>> {
        self.store.head(name)
    }

    fn list<'a>(&'a self, dir: &'a str, after: Option<&'a str>) -> BoxFuture<'a, StoreResult<Page>> {
        self.store.list(dir, after)
    }

    fn compare_and_set<'a>(
        &'a self,
        name: &'a Name,
        expected: Option<&'a Version>,
        bytes: Bytes,
    ) -> BoxFuture<'a, StoreResult<Swap>> {
        self.store.compare_and_set(name, expected, bytes)
    }
}

#[test]
fn a_store_that_lies_or_is_away_is_an_error_that_says_so_and_nothing_else_is() {
    sim::runtime(3).block_on(async {
        let archived = archived(&[300, 300, 10], Packing::Lz4).await;
        let io = archived.node(1);
        let sealed = open(&io, 1 << 20).unwrap();
        archived.evict(&sealed, 0).await.unwrap();
        let store = Spoiling::of(&archived);
        let thaw = Thaw::new(sealed.clone(), Ok(store.clone()));
        // Once: it is fetched again, and nobody notices.
        store.spoils.store(1, Relaxed);
        assert_eq!(read(&sealed, &thaw, 1).await.unwrap(), archived.record(1));
        assert_eq!(thaw.downloads().errors, 1);
        // Twice, or not there.
        let away = |error: Error, says: &str| {
            assert_eq!(error.code(), Code::Unavailable);
            assert!(error.message().contains(archived.objects[0].name().as_str()), "{error}");
            assert!(error.message().contains("/archive") && error.message().contains(says), "{error}");
            assert!(error.retry_delay().is_some());
        };
        store.spoils.store(2, Relaxed);
        away(read(&sealed, &thaw, 290).await.unwrap_err(), "a block");
        store.away.store(1, Relaxed);
        away(read(&sealed, &thaw, 290).await.unwrap_err(), "it does not answer");
        let object = Path::new("/archive").join(archived.objects[0].name().as_str());
        let bytes = bytes_of(&archived.disk, &object);
        archived.disk.remove(&object).unwrap();
        away(read(&sealed, &thaw, 290).await.unwrap_err(), "");
        // What is not cold, and what has been fetched, can be read all the time.
        for seq in [1, 300, 599, 605] {
            assert_eq!(read(&sealed, &thaw, seq).await.unwrap(), archived.record(seq));
        }
        let nowhere = Thaw::new(sealed.clone(), Err(StoreError::new(Trouble::Denied, "no archive here")));
        let error = read(&sealed, &nowhere, 290).await.unwrap_err();
        assert!(error.code() == Code::Unavailable && error.message().contains("no archive here"), "{error}");
        write(&archived.disk, &object, &bytes);
        archived.check(&sealed, &thaw).await;
    });
}

#[test]
fn a_request_that_stands_still_holds_nobody_up_and_a_store_that_does_is_said() {
    sim::runtime(6).block_on(async {
        let archived = archived(&[300, 10], Packing::Lz4).await;
        let (sealed, store, thaw) = archived.without_cache().await;
        let within = Duration::from_secs(5);
        store.hangs.store(1, Relaxed);
        let began = Instant::now();
        assert_eq!(read(&sealed, &thaw, 1).await.unwrap(), archived.record(1));
        assert!(began.elapsed() < within && store.asked.load(Relaxed) == 2, "{:?}", began.elapsed());
        // The second one fails at once: the first may still come, and nothing is asked for a third time.
        store.hangs.store(1, Relaxed);
        let last = store.clone();
        let spoil = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            last.away.store(1, Relaxed);
        };
        let (failed, ()) = futures_util::join!(read(&sealed, &thaw, 1), spoil);
        assert!(failed.unwrap_err().message().contains("takes long"));
        assert_eq!(store.asked.load(Relaxed), 4);
        tokio::time::sleep(HANGS).await;
        assert_eq!(read(&sealed, &thaw, 1).await.unwrap(), archived.record(1));
        // All of them: whoever asks is told in time, and what is under way is asked for by nobody else.
        let before = store.asked.load(Relaxed);
        store.hangs.store(u64::MAX, Relaxed);
        let began = Instant::now();
        for error in join_all((0..40).map(|_| read(&sealed, &thaw, 1))).await {
            let error = error.unwrap_err();
            assert!(error.code() == Code::Unavailable && error.retry_delay().is_some(), "{error}");
            assert!(error.message().contains("takes long"), "{error}");
        }
        assert!(began.elapsed() < 3 * within && store.asked.load(Relaxed) == before + 2);
        store.hangs.store(0, Relaxed);
        tokio::time::sleep(2 * HANGS).await;
        archived.check(&sealed, &thaw).await;
    });
}

#[test]
fn a_store_that_is_away_is_left_alone_and_asked_again_now_and_then() {
    sim::runtime(7).block_on(async {
        let archived = archived(&[2_000, 10], Packing::Lz4).await;
        let (sealed, store, thaw) = archived.without_cache().await;
        // A record of each of some blocks.
        let block_of = |seq: &u64| sealed.record(Seq(*seq)).unwrap_err().cold_blocks().to_vec();
        let mut numbers: Vec<u64> = (0..2_000).collect();
        numbers.dedup_by_key(|seq| block_of(seq));
        assert!(numbers.len() > 3, "{numbers:?}");
        // What each read found, and how long that took.
        let reads = || {
            join_all(numbers.iter().map(async |seq| {
                let began = Instant::now();
                (read(&sealed, &thaw, *seq).await, began.elapsed())
            }))
        };
        let waited = |reads: Vec<(Result<Record>, Duration)>| {
            let errors = reads.iter().map(|(read, _)| read.as_ref().unwrap_err());
            for error in errors {
                assert!(error.code() == Code::Unavailable && error.retry_delay().is_some(), "{error}");
            }
            reads.iter().filter(|(_, took)| *took > Duration::from_secs(1)).count()
        };
        store.hangs.store(u64::MAX, Relaxed);
        assert_eq!(waited(reads().await), numbers.len());
        // They are over when the store's client has given them up.
        tokio::time::sleep(2 * HANGS).await;
        for _ in 0..10 {
            let asked = store.asked.load(Relaxed);
            assert!(waited(reads().await) <= 1, "one finds out");
            // It is made once more where it stands still.
            assert!(store.asked.load(Relaxed) <= asked + 2);
            assert!(thaw.trouble().is_some());
        }
        store.hangs.store(0, Relaxed);
        tokio::time::sleep(2 * HANGS).await;
        // Whoever comes first finds that it is back.
        assert_eq!(read(&sealed, &thaw, 1_900).await.unwrap(), archived.record(1_900));
        assert!(thaw.trouble().is_none());
        for (seq, (record, _)) in numbers.iter().zip(reads().await) {
            assert_eq!(record.unwrap(), archived.record(*seq));
        }
    });
}

#[test]
fn readers_of_one_block_share_a_download_and_the_next_needs_none() {
    sim::runtime(4).block_on(async {
        let archived = archived(&[300, 10], Packing::Lz4).await;
        let io = archived.node(1);
        let sealed = open(&io, 1 << 20).unwrap();
        archived.evict(&sealed, 0).await.unwrap();
        let store = Spoiling::of(&archived);
        let thaw = Thaw::new(sealed.clone(), Ok(store.clone()));
        let all = join_all((0..50).map(|_| read(&sealed, &thaw, 1))).await;
        assert!(all.into_iter().all(|record| record.unwrap() == archived.record(1)));
        assert_eq!(store.asked.load(Relaxed), 1);
        assert_eq!(read(&sealed, &thaw, 2).await.unwrap(), archived.record(2));
        assert_eq!((store.asked.load(Relaxed), thaw.downloads().downloads), (1, 1));
        assert!(sealed.cold().sizes().hits > 0 && sealed.cold().sizes().bytes > 0);
        // A copy that the disk has spoiled is fetched again.
        let cache = Path::new(DATA).join("cold.cache");
        io.flip_bit(&cache, 100, 3).unwrap();
        assert_eq!(read(&sealed, &thaw, 2).await.unwrap(), archived.record(2));
        assert_eq!(store.asked.load(Relaxed), 2);
    });
}

#[test]
fn the_disk_fails_at_every_step_of_keeping_a_copy() {
    sim::runtime(5).block_on(async {
        let archived = archived(&[300, 10], Packing::Lz4).await;
        let node = |seed| {
            let io = archived.node(seed);
            (io.clone(), open(&io, 64 << 10).unwrap())
        };
        let (io, sealed) = node(0);
        archived.evict(&sealed, 0).await.unwrap();
        let before = io.ops();
        let thaw = Thaw::new(sealed.clone(), Ok(archived.store.clone()));
        archived.check(&sealed, &thaw).await;
        let ops = io.ops() - before;
        assert!(ops > 3, "{ops}");
        for nth in 0..ops {
            for failure in [Failure::NotDone, Failure::Done, Failure::NoSpace, Failure::Crash] {
                let (io, sealed) = node(nth);
                archived.evict(&sealed, 0).await.unwrap();
                io.arm(Fault { op: Op::Any, nth, failure });
                let thaw = Thaw::new(sealed.clone(), Ok(archived.store.clone()));
                for seq in 0..300 {
                    match read(&sealed, &thaw, seq).await {
                        Ok(record) => assert_eq!(record, archived.record(seq)),
                        Err(error) => assert!(io.is_down(), "{error}"),
                    }
                }
                io.crash();
                io.restart();
                let sealed = open(&io, 64 << 10).unwrap();
                let thaw = Thaw::new(sealed.clone(), Ok(archived.store.clone()));
                archived.check(&sealed, &thaw).await;
            }
        }
    });
}

/// A copy of the ledger is made of whole files, also where the node has no more than stubs.
#[test]
fn the_file_that_has_left_can_be_had_in_any_parts() {
    sim::runtime(3).block_on(async {
        let archived = archived(&[300, 1], Packing::Zstd(3)).await;
        let sealed = open(&archived.node(1), 0).unwrap();
        let thaw = Thaw::new(sealed.clone(), Ok(archived.store.clone()));
        for is_cold in [false, true] {
            if is_cold {
                for id in 0..2 {
                    archived.evict(&sealed, id).await.unwrap();
                }
            }
            for id in 0..2 {
                let whole = archived.ledger.file(id);
                let segment = sealed.segments()[id as usize].clone();
                let end = whole.len() as u64;
                let steps = [1_000, 4_096, 16_384, 70_001, end];
                for step in steps {
                    let (mut at, mut file) = (0, Vec::new());
                    while at < end {
                        let range = at..end.min(at + step);
                        let mut held = Vec::new();
                        file.extend_from_slice(&loop {
                            match segment.file_part(range.clone()) {
                                Err(error) if held.is_empty() && is_cold => {
                                    held.push(thaw.thaw(error.cold_blocks()).await.unwrap());
                                }
                                part => break part.unwrap(),
                            }
                        });
                        at = range.end;
                    }
                    assert!(file == whole, "segment {id} in parts of {step}");
                }
                assert_eq!(segment.file_part(3..3).unwrap(), "");
                let reversed = std::ops::Range { start: 5, end: 4 };
                for outside in [0..end + 1, end + 1..end + 1, u64::MAX..u64::MAX, reversed] {
                    assert_eq!(segment.file_part(outside).unwrap_err().code(), Code::NotFound);
                }
            }
        }
    });
}
