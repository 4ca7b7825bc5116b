//! Segment files against a model: whatever was written reads back, and whatever is damaged is never served.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use proptest::prelude::*;
use scribe_ledger::{
    env::{File, Io, OpenMode},
    error::{Code, Result},
    proof::{
        Hash,
        growth::Growth,
        leaf::{leaf, leaf_hash},
    },
    segment::{
        BlockCache, COMMITMENT_BYTES_MIN, FinishInfo, KeyHash, Packing, RecordRef, Segment, SegmentHead,
        SegmentSummary, SegmentWriter, Version, stored::Stored,
    },
    sim::SimIo,
    types::{LogId, LogIndex, Op, SegmentId, Seq},
};
use sha2::{Digest, Sha256};

const FIRST_SEQ: u64 = 1_000;
const PATH: &str = "/segments/one.seg";
const IDEMPOTENCY: &[u8] = b"outcomes of requests with a key";

/// Operation, time, key, value.
type Model = Vec<(Op, u64, Vec<u8>, Vec<u8>)>;

fn head() -> SegmentHead {
    SegmentHead { id: SegmentId(3), first_seq: Seq(FIRST_SEQ), feature_level: 1, segment_bytes: 64 << 20 }
}

fn log_id(index: u64) -> LogId {
    LogId { term: 2, index: LogIndex(index) }
}

fn info(gained: &Gained) -> FinishInfo<'_> {
    FinishInfo {
        first_log: log_id(10),
        last_log: log_id(20),
        frontier_before: &gained.frontier_before,
        root_after: gained.root_after,
        subtrees: &gained.subtrees,
        high_subtrees: &gained.high_subtrees,
        idempotency: IDEMPOTENCY,
        boundary: b"boundary",
    }
}

/// What the tree gains by these leaves behind `first` others.
struct Gained {
    frontier_before: Vec<u8>,
    root_after: [u8; 32],
    subtrees: Vec<[u8; 32]>,
    high_subtrees: Vec<[u8; 32]>,
}

fn gained(first: u64, leaves: impl IntoIterator<Item = Hash>) -> Gained {
    let mut tree = Growth::default();
    (0..first).for_each(|_| tree.append(Hash::default(), |_, _| ()));
    let frontier_before = tree.frontier().encode();
    let (mut subtrees, mut high_subtrees) = (Vec::new(), Vec::new());
    for leaf in leaves {
        tree.append(
            leaf,
            |level, root| if level == 1 { subtrees.push(root.0) } else { high_subtrees.push(root.0) },
        );
    }
    Gained { frontier_before, root_after: tree.root().0, subtrees, high_subtrees }
}

fn leaf_of(number: usize, (op, time, key, value): &(Op, u64, Vec<u8>, Vec<u8>)) -> Hash {
    leaf_hash(&leaf(*op, Seq(FIRST_SEQ + number as u64), *time, key, value))
}

fn write(io: &SimIo, model: &Model) -> Result<SegmentSummary> {
    let mut writer = SegmentWriter::create(Arc::new(io.clone()), Path::new(PATH), head())?;
    for (number, record) in model.iter().enumerate() {
        let (op, timestamp_ms, key, value) = record;
        let commitment: [u8; 32] = Sha256::digest(value).into();
        let seq = Seq(FIRST_SEQ + number as u64);
        let value_commitment = (value.len() >= COMMITMENT_BYTES_MIN).then_some(&commitment);
        let view = RecordRef { seq, op: *op, timestamp_ms: *timestamp_ms, key, value, value_commitment };
        writer.push(&view, &leaf_of(number, record).0)?;
    }
    let leaves = model.iter().enumerate().map(|(number, record)| leaf_of(number, record));
    writer.finish(info(&gained(FIRST_SEQ, leaves)))
}

fn open(io: &SimIo) -> Result<Segment> {
    Segment::open(io, Path::new(PATH), Arc::new(BlockCache::new(1 << 20)))
}

/// The bytes of a file, in memory.
#[derive(Debug)]
struct Memory(Vec<u8>);

impl File for Memory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let bytes = from.checked_add(buffer.len()).and_then(|to| self.0.get(from..to));
        buffer.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> std::io::Result<()> {
        unreachable!("a segment is only read")
    }

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn set_len(&self, _: u64) -> std::io::Result<()> {
        unreachable!("a segment is only read")
    }
}

fn bytes_of(io: &SimIo) -> Vec<u8> {
    let file = io.open(Path::new(PATH), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn open_bytes(bytes: Vec<u8>) -> Result<Segment> {
    let cache = Arc::new(BlockCache::new(1 << 20));
    Segment::from_file(Arc::new(Memory(bytes)), Path::new("memory.seg"), cache)
}

/// The file of a model, without a disk to remember.
fn file_of(model: &Model) -> Vec<u8> {
    let io = SimIo::new(1);
    write(&io, model).unwrap();
    bytes_of(&io)
}

/// Reads everything there is in every way there is; every answer must be the model's or an error. How many
/// errors there were.
fn read_all(segment: &Segment, model: &Model) -> usize {
    let mut errors = 0;
    let mut check = |right: Result<bool>| match right {
        Ok(right) => assert!(right, "something was read that was not written"),
        Err(error) => {
            assert_eq!(error.code(), Code::Corrupt, "{error}");
            errors += 1;
        }
    };
    let mut newest: BTreeMap<&[u8], Vec<Version>> = BTreeMap::new();
    for (number, written) in model.iter().enumerate() {
        let seq = Seq(FIRST_SEQ + number as u64);
        let (op, timestamp_ms, key, value) = written;
        check(segment.record(seq).map(|seen| {
            let record = &seen.record;
            let commitment = (value.len() >= COMMITMENT_BYTES_MIN).then(|| Sha256::digest(value).into());
            (record.seq, record.op, record.timestamp_ms) == (seq, *op, *timestamp_ms)
                && record.key == key[..]
                && record.value == value[..]
                && seen.value_commitment == commitment
        }));
        check(segment.leaf_hash(seq).map(|seen| seen == leaf_of(number, written).0));
        newest.entry(key).or_default().push(Version { seq, op: *op });
    }
    let end = Seq(FIRST_SEQ + model.len() as u64);
    for (key, versions) in &newest {
        assert!(segment.may_contain(KeyHash::of(key)));
        let seen: Result<Vec<_>> = segment.versions(key, end).collect();
        check(seen.map(|seen| seen.iter().rev().eq(versions)));
    }
    let seen: Result<Vec<_>> = segment.keys().collect();
    check(seen.map(|seen| {
        let expected = newest.iter().map(|(key, versions)| (*key, versions[versions.len() - 1]));
        seen.iter().map(|entry| (&entry.key[..], entry.newest)).eq(expected)
    }));
    let seen: Result<Vec<_>> = segment.records(Seq(0)..Seq(u64::MAX)).collect();
    check(seen.map(|seen| {
        let records = seen.iter().map(|seen| (seen.record.op, &seen.record.key[..], &seen.record.value[..]));
        records.eq(model.iter().map(|(op, _, key, value)| (*op, &key[..], &value[..])))
    }));
    check(segment.idempotency().map(|seen| seen == IDEMPOTENCY));
    errors
}

fn verify(segment: &Segment, model: &Model) -> Result<()> {
    let mut leaves = Vec::new();
    segment.verify(|leaf| leaves.push(*leaf))?;
    let expected: Vec<_> = model.iter().enumerate().map(|(number, record)| leaf_of(number, record)).collect();
    assert_eq!(leaves, expected);
    Ok(())
}

fn any_model() -> impl Strategy<Value = Model> {
    let key = prop_oneof![
        3 => prop::collection::vec(0u8..3, 1..4),
        1 => prop::collection::vec(any::<u8>(), 1..1_025),
    ];
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..100),
        1 => (4_000..40_000usize).prop_map(|bytes| (0..bytes).map(|n| (n * 7 / 3) as u8).collect()),
    ];
    let record = (any::<bool>(), 0u64..2, key, value);
    prop::collection::vec(record, 0..120).prop_map(|records| {
        let mut now = 1_700_000_000_000;
        let step = |(put, later, key, value)| {
            now += later;
            let op = if put { Op::Put } else { Op::Delete };
            (op, now, key, if put { value } else { Vec::new() })
        };
        records.into_iter().map(step).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_reads_back(model in any_model(), before in any::<prop::sample::Index>()) {
        let io = SimIo::new(1);
        let summary = write(&io, &model).unwrap();
        let segment = open(&io).unwrap();
        prop_assert_eq!(segment.summary(), &summary);
        prop_assert_eq!(read_all(&segment, &model), 0);
        verify(&segment, &model).unwrap();
        prop_assert_eq!(summary.records(), model.len() as u64);
        prop_assert_eq!(&summary.boundary, b"boundary");
        prop_assert_eq!((summary.first_log, summary.last_log), (log_id(10), log_id(20)));
        let raw: usize = model.iter().map(|(_, _, key, value)| key.len() + value.len()).sum();
        prop_assert_eq!(summary.raw_bytes, raw as u64);
        // A bound in the middle cuts versions off, and a range cuts records out.
        let before = before.index(model.len() + 1);
        let bound = Seq(FIRST_SEQ + before as u64);
        for (_, _, key, _) in &model {
            let expected = model[..before].iter().rposition(|(_, _, other, _)| other == key);
            let seen = segment.newest(key, bound).unwrap();
            prop_assert_eq!(seen.map(|version| version.seq.0 - FIRST_SEQ), expected.map(|at| at as u64));
        }
        let range = segment.records(bound..Seq(u64::MAX)).collect::<Result<Vec<_>>>().unwrap();
        prop_assert_eq!(range.len(), model.len() - before);
    }

    #[test]
    fn equal_records_give_equal_files_and_packed_ones_equal_digests(model in any_model()) {
        let bytes = file_of(&model);
        prop_assert!(bytes == file_of(&model));
        let segment = open_bytes(bytes.clone()).unwrap();
        for packing in [Packing::None, Packing::Lz4, Packing::Zstd(1), Packing::Zstd(9)] {
            let mut packed = Vec::new();
            segment.pack(packing, &mut packed).unwrap();
            prop_assert!(packing != Packing::None || packed == bytes);
            prop_assert!(rebuilt(&packed).unwrap() == bytes);
            let packed = open_bytes(packed).unwrap();
            let mut unpacked = Vec::new();
            packed.pack(Packing::None, &mut unpacked).unwrap();
            prop_assert!(unpacked == bytes);
            prop_assert_eq!(packed.summary().digest, segment.summary().digest);
            prop_assert_eq!(read_all(&packed, &model), 0);
            verify(&packed, &model).unwrap();
        }
    }
}

/// The local file again, from the blocks of a packed one that are fetched one by one.
fn rebuilt(packed: &[u8]) -> Result<Vec<u8>, &'static str> {
    let size = packed.len() as u64;
    let (header, trailer) = (packed.first_chunk().unwrap(), packed.last_chunk().unwrap());
    let footer = Stored::footer(trailer, size)?;
    let footer = packed[footer.start as usize..footer.end as usize].to_vec();
    let stored = Stored::decode(header, footer.into(), trailer, size)?;
    let mut out = Vec::new();
    let mut rebuild = stored.rebuild(&mut out).unwrap();
    while let Some(number) = rebuild.next() {
        let place = stored.place(number).unwrap();
        let block = stored.block(number, &packed[place.start as usize..place.end as usize])?;
        rebuild.block(&block, &mut out).unwrap();
    }
    rebuild.finish(&mut out).unwrap();
    assert!(stored.place(stored.blocks()).is_none() && stored.block(stored.blocks(), &[]).is_err());
    Ok(out)
}

fn put(key: &str, value: &[u8]) -> (Op, u64, Vec<u8>, Vec<u8>) {
    (Op::Put, 1_700_000_000_000, key.into(), value.into())
}

/// A bit of everything: versions, a tombstone, an empty value, a big value and one in a block of its own.
fn small_model() -> Model {
    vec![
        put("alpha", b"one"),
        put("beta", b""),
        (Op::Delete, 1_700_000_000_001, b"alpha".to_vec(), vec![]),
        (Op::Put, 1_700_000_000_001, b"big".to_vec(), (0..5_000).map(|n| (n % 251) as u8).collect()),
        (Op::Put, 1_700_000_000_002, b"large".to_vec(), (0..17_000).map(|n| (n % 13) as u8).collect()),
        (Op::Put, 1_700_000_000_002, b"alpha".to_vec(), b"two".to_vec()),
        (Op::Delete, 1_700_000_000_003, b"never written".to_vec(), vec![]),
    ]
}

/// Enough records for several blocks of every kind.
fn large_model() -> Model {
    (0..6_000)
        .map(|number| {
            let key = format!("key-{:08}", (number * 7_919) % 4_001);
            let value = if number % 997 == 0 { vec![number as u8; 20_000] } else { vec![number as u8; 60] };
            let op = if number % 11 == 0 { Op::Delete } else { Op::Put };
            (
                op,
                1_700_000_000_000 + number / 100,
                key.into_bytes(),
                if op == Op::Put { value } else { vec![] },
            )
        })
        .collect()
}

/// A damaged file must be refused by `verify`, and every read of it be right or refused.
fn expect_damage(bytes: Vec<u8>, model: &Model, what: &str) {
    let Ok(segment) = open_bytes(bytes) else { return };
    read_all(&segment, model);
    let error = segment.verify(|_| ()).expect_err(what);
    assert_eq!(error.code(), Code::Corrupt, "{what}");
    assert!(error.message().contains("damaged at offset"), "{what}: {error}");
}

#[test]
fn a_flip_of_any_bit_is_found_and_never_served() {
    let model: Model = small_model().into_iter().filter(|(_, _, key, _)| key != b"large").collect();
    let whole = file_of(&model);
    assert_eq!(read_all(&open_bytes(whole.clone()).unwrap(), &model), 0);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            expect_damage(bytes, &model, &format!("bit {bit} of byte {at}"));
        }
    }
}

#[test]
fn flips_in_a_larger_file_are_found_and_never_served() {
    let model = large_model();
    for packing in [Packing::None, Packing::Lz4, Packing::Zstd(3)] {
        let (local, mut whole) = (file_of(&model), Vec::new());
        open_bytes(local.clone()).unwrap().pack(packing, &mut whole).unwrap();
        for number in 0..60usize {
            let at = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % whole.len();
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (number % 8);
            // Fetched block by block, what is flipped is refused or carries nothing.
            if let Ok(again) = rebuilt(&bytes) {
                assert!(again == local, "byte {at}");
            }
            expect_damage(bytes, &model, &format!("byte {at}"));
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = file_of(&small_model());
    for len in 0..whole.len() {
        let error = open_bytes(whole[..len].to_vec()).expect_err("a part is no segment");
        assert_eq!(error.code(), Code::Corrupt, "{len}: {error}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert_eq!(open_bytes(longer).unwrap_err().code(), Code::Corrupt);
}

#[test]
fn positions_outside_are_not_found() {
    let segment = open_bytes(file_of(&small_model())).unwrap();
    for seq in [0, FIRST_SEQ - 1, FIRST_SEQ + 7, u64::MAX] {
        assert_eq!(segment.record(Seq(seq)).unwrap_err().code(), Code::NotFound);
        assert_eq!(segment.leaf_hash(Seq(seq)).unwrap_err().code(), Code::NotFound);
        assert_eq!(segment.records(Seq(seq)..Seq(seq)).count(), 0);
    }
    assert_eq!(segment.newest(b"alpha", Seq(0)).unwrap(), None);
    assert_eq!(segment.newest(b"other", Seq(u64::MAX)).unwrap(), None);
    assert!(segment.leaf_hashes(Seq(5)..Seq(5)).unwrap().is_empty());
}

/// A block of leaf hashes is full where no block of records ends, and a block of records has more than fit in one.
#[test]
fn segments_of_any_mixture_of_sizes_verify() {
    let sizes: [&dyn Fn(usize) -> usize; 4] = [
        &|number| if number == 0 { 5 } else { 100 },
        &|number| 1 + number * 7_919 % 200,
        &|number| if number % 1_000 == 999 { 20_000 } else { number % 3 },
        &|_| 0,
    ];
    for size in sizes {
        let record = |number: usize| put(&format!("{number:x}"), &vec![number as u8; size(number)]);
        let model: Model = (0..6_000).map(record).collect();
        let io = SimIo::new(1);
        write(&io, &model).unwrap();
        verify(&open(&io).unwrap(), &model).unwrap();
    }
}

#[test]
fn leaf_hashes_come_in_ranges() {
    let model = large_model();
    let segment = open_bytes(file_of(&model)).unwrap();
    let all: Vec<u8> =
        model.iter().enumerate().flat_map(|(number, record)| leaf_of(number, record).0).collect();
    for (from, to) in [(0, 256), (0, 6_000), (2_047, 2_049), (2_048, 4_096), (5_999, 6_000)] {
        let seen = segment.leaf_hashes(Seq(FIRST_SEQ + from)..Seq(FIRST_SEQ + to)).unwrap();
        assert!(seen == all[from as usize * 32..to as usize * 32], "{from}..{to}");
    }
}

#[test]
fn an_open_segment_keeps_little_and_the_cache_keeps_its_bound() {
    let model = large_model();
    let bytes = file_of(&model);
    let cache = Arc::new(BlockCache::new(200_000));
    let path = Path::new("memory.seg");
    let segment = Segment::from_file(Arc::new(Memory(bytes)), path, cache.clone()).unwrap();
    assert_eq!(read_all(&segment, &model), 0);
    assert!(cache.bytes() <= 200_000 && cache.blocks() > 0);
    assert!(segment.resident_bytes() < 4 * segment.summary().keys, "{}", segment.resident_bytes());
}

#[test]
fn records_that_cannot_follow_are_refused() {
    let io = SimIo::new(1);
    let mut writer = SegmentWriter::create(Arc::new(io), Path::new(PATH), head()).unwrap();
    let right = RecordRef {
        seq: Seq(FIRST_SEQ),
        op: Op::Put,
        timestamp_ms: 5,
        key: b"k",
        value: b"v",
        value_commitment: None,
    };
    let long = [0; COMMITMENT_BYTES_MIN];
    for wrong in [
        RecordRef { seq: Seq(FIRST_SEQ + 1), ..right },
        RecordRef { key: b"", ..right },
        RecordRef { key: &[0; 1_025], ..right },
        RecordRef { op: Op::Delete, ..right },
        RecordRef { value: &long, ..right },
        RecordRef { value_commitment: Some(&[0; 32]), ..right },
    ] {
        assert_eq!(writer.push(&wrong, &[0; 32]).unwrap_err().code(), Code::Internal, "{wrong:?}");
    }
    writer.push(&right, &[0; 32]).unwrap();
    let earlier = RecordRef { seq: Seq(FIRST_SEQ + 1), timestamp_ms: 4, ..right };
    assert_eq!(writer.push(&earlier, &[0; 32]).unwrap_err().code(), Code::Internal);
    assert_eq!(writer.records(), 1);
}

/// What `verify` finds beyond hashes: a writer that was given a wrong leaf hash or a wrong commitment.
#[test]
fn leaves_and_commitments_that_are_not_the_records_are_found() {
    let value = vec![7; COMMITMENT_BYTES_MIN];
    let good: [u8; 32] = Sha256::digest(&value).into();
    let seq = Seq(FIRST_SEQ);
    let right_leaf = leaf_hash(&leaf(Op::Put, seq, 5, b"k", &value));
    for (commitment, leaf, right) in
        [(good, right_leaf, true), ([1; 32], right_leaf, false), (good, Hash([1; 32]), false)]
    {
        let io = SimIo::new(1);
        let mut writer = SegmentWriter::create(Arc::new(io.clone()), Path::new(PATH), head()).unwrap();
        let value_commitment = Some(&commitment);
        let record =
            RecordRef { seq, op: Op::Put, timestamp_ms: 5, key: b"k", value: &value, value_commitment };
        writer.push(&record, &leaf.0).unwrap();
        writer.finish(info(&gained(FIRST_SEQ, [leaf]))).unwrap();
        assert_eq!(open(&io).unwrap().verify(|_| ()).is_ok(), right);
    }
}

/// Segments lie on disks and in archives for ever: these bytes may be added to, never changed.
#[test]
fn files_are_those_of_the_golden_ones() {
    for (name, model) in [("segment-v1.seg", small_model()), ("segment-empty-v1.seg", Model::new())] {
        let bytes = file_of(&model);
        let golden = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            std::fs::write(&golden, &bytes).unwrap();
        }
        assert!(std::fs::read(&golden).unwrap() == bytes, "{name}: the format of segments has changed");
        assert_eq!(read_all(&open_bytes(bytes).unwrap(), &model), 0);
    }
}

#[test]
fn keys_begin_anywhere() {
    let model: Model = (0..4_000u64)
        .map(|n| (Op::Put, n, format!("{:04}", n * 7 % 1_999).into_bytes(), vec![1; 30]))
        .collect();
    let segment = open_bytes(file_of(&model)).unwrap();
    let all: Vec<_> = segment.keys().map(Result::unwrap).collect();
    for start in ["", "0", "0000", "0777x", "1200", "1998", "1999", "z"] {
        let expected = all.iter().filter(|entry| entry.key[..] >= *start.as_bytes());
        let from: Vec<_> = segment.keys_from(start.as_bytes()).unwrap().map(Result::unwrap).collect();
        assert!(from.iter().eq(expected), "from {start}");
    }
}
