//! Segments to archive: a small ledger that goes on from one to the next, signed.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use scribe_ledger::{
    archive::LedgerId,
    env::{Io, OpenMode},
    proof::{
        Hash,
        checkpoint::Checkpoint,
        growth::Growth,
        key::Signer,
        leaf::{leaf, leaf_hash},
    },
    segment::{
        BlockCache, FinishInfo, INLINE_VALUE_BYTES_MAX, RecordRef, Segment, SegmentHead, SegmentWriter,
        file_name,
    },
    sim::SimIo,
    state::{boundary::Boundary, settings::Settings, signers::Enrolment},
    types::{LogId, LogIndex, Op, SegmentId, Seq},
};

pub const LEDGER: LedgerId = LedgerId([0x5c; 16]);

/// A ledger on a disk of its own.
pub struct Ledger {
    pub io: SimIo,
    pub segments: Vec<Segment>,
    pub signer: Signer,
    /// A signed checkpoint at the end of each segment.
    pub checkpoints: Vec<Bytes>,
}

/// Segments of this many records each.
pub fn ledger(records: &[u64]) -> Ledger {
    ledger_with(records, |_, _| None)
}

/// As [`ledger`]; some records are others, by their position and the root of the tree before them: key and value.
pub fn ledger_with(records: &[u64], other: impl Fn(u64, Hash) -> Option<(Vec<u8>, Vec<u8>)>) -> Ledger {
    let io = SimIo::new(77);
    let signer = Signer::from_seed("scribe/test/1", &[9; 32]).unwrap();
    let key = signer.verifier_key().clone();
    let boundary = Boundary {
        last_time_ms: 5_000,
        settings: Some(Settings { segment_bytes: 1 << 20, ..Settings::BUILT_IN }),
        signers: vec![Enrolment { member: 1, incarnation: 7, key }],
        ..Boundary::default()
    };
    let boundary = boundary.encode().unwrap();
    let mut tree = Growth::default();
    let (mut segments, mut checkpoints) = (Vec::new(), Vec::new());
    let mut seq = 0;
    for (id, count) in (0..).zip(records) {
        let path = Path::new("/segments").join(file_name(SegmentId(id)));
        let head =
            SegmentHead { id: SegmentId(id), first_seq: Seq(seq), feature_level: 1, segment_bytes: 1 << 20 };
        let mut writer = SegmentWriter::create(Arc::new(io.clone()), &path, head).unwrap();
        let frontier_before = tree.frontier().encode();
        let (mut subtrees, mut high_subtrees) = (Vec::new(), Vec::new());
        for _ in 0..*count {
            let usual = || (format!("key-{}", seq % 57).into_bytes(), value(seq));
            let (key, value) = other(seq, tree.root()).unwrap_or_else(usual);
            let commitment = Hash::of(&value).0;
            let record = RecordRef {
                seq: Seq(seq),
                op: Op::Put,
                timestamp_ms: seq,
                key: &key,
                value: &value,
                value_commitment: (value.len() > 4_096).then_some(&commitment),
            };
            let hash = leaf_hash(&leaf(Op::Put, Seq(seq), seq, &key, &value));
            writer.push(&record, &hash.0).unwrap();
            tree.append(
                hash,
                |level, root| {
                    if level == 1 { subtrees.push(root.0) } else { high_subtrees.push(root.0) }
                },
            );
            seq += 1;
        }
        let log = |index| LogId { term: 1, index: LogIndex(index) };
        let info = FinishInfo {
            first_log: log(id * 10),
            last_log: log(id * 10 + 9),
            frontier_before: &frontier_before,
            root_after: tree.root().0,
            subtrees: &subtrees,
            high_subtrees: &high_subtrees,
            idempotency: b"",
            boundary: &boundary,
        };
        writer.finish(info).unwrap();
        segments.push(Segment::open(&io, &path, Arc::new(BlockCache::new(1 << 20))).unwrap());
        let note = Checkpoint::new("scribe/test/1", seq, tree.root()).unwrap().sign(&signer).unwrap();
        checkpoints.push(Bytes::from(note.to_string()));
    }
    Ledger { io, segments, signer, checkpoints }
}

/// Small ones, noise and some that have a block of their own.
fn value(seq: u64) -> Vec<u8> {
    match seq % 50 {
        7 => blake3::Hasher::new().update(&seq.to_le_bytes()).finalize_xof().by_ref_bytes(40_000),
        13 => vec![seq as u8; INLINE_VALUE_BYTES_MAX + 1],
        _ => format!("the value of record {seq}, which is like the one before").into_bytes(),
    }
}

trait Noise {
    fn by_ref_bytes(self, count: usize) -> Vec<u8>;
}

impl Noise for blake3::OutputReader {
    fn by_ref_bytes(mut self, count: usize) -> Vec<u8> {
        let mut out = vec![0; count];
        self.fill(&mut out);
        out
    }
}

/// The bytes of a file.
pub fn bytes_of(io: &SimIo, path: &Path) -> Vec<u8> {
    let file = io.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

impl Ledger {
    /// The file of a segment.
    pub fn file(&self, id: u64) -> Vec<u8> {
        bytes_of(&self.io, &Path::new("/segments").join(file_name(SegmentId(id))))
    }
}
