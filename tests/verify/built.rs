//! Ledgers on disk, made by the real segment writer, the same in every run; and the real `scribe` beside them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use scribe_ledger::{
    env::real::RealIo,
    proof::{Hash, growth::Growth, leaf::Leaf},
    segment::{COMMITMENT_BYTES_MIN, FinishInfo, RecordRef, SegmentHead, SegmentWriter, file_name},
    types::{LogId, LogIndex, Op, SegmentId, Seq},
};

pub const SEGMENTS: u64 = 4;
pub const SEGMENT_RECORDS: u64 = 700;

/// A directory of segments and what is in it.
pub struct Built {
    pub dir: tempfile::TempDir,
    /// The root at every size.
    pub roots: Vec<Hash>,
}

impl Built {
    /// Four segments with values of every size class, and tombstones.
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// Another ledger of the same shape.
    pub fn with_seed(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Growth::default();
        let mut roots = vec![tree.root()];
        for id in 0..SEGMENTS {
            write_segment(dir.path(), id, seed, &mut tree, &mut roots);
        }
        Self { dir, roots }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn segment(&self, id: u64) -> PathBuf {
        self.path().join(file_name(SegmentId(id)))
    }

    pub fn records(&self) -> u64 {
        self.roots.len() as u64 - 1
    }

    pub fn root(&self) -> Hash {
        self.roots[self.roots.len() - 1]
    }
}

fn value(seq: u64, seed: u64) -> Vec<u8> {
    let bytes = match seq % 350 {
        7 => 20_000,
        8 => COMMITMENT_BYTES_MIN,
        _ => 20 + (seq % 60) as usize,
    };
    (0..bytes as u64).map(|at| (at * 31 + seq * 7 + seed) as u8).collect()
}

fn write_segment(dir: &Path, id: u64, seed: u64, tree: &mut Growth, roots: &mut Vec<Hash>) {
    let first = id * SEGMENT_RECORDS;
    let head =
        SegmentHead { id: SegmentId(id), first_seq: Seq(first), feature_level: 1, segment_bytes: 1 << 16 };
    let path = dir.join(file_name(SegmentId(id)));
    let mut writer = SegmentWriter::create(Arc::new(RealIo::new()), &path, head).unwrap();
    let frontier_before = tree.frontier().encode();
    let (mut subtrees, mut high_subtrees) = (Vec::new(), Vec::new());
    for seq in first..first + SEGMENT_RECORDS {
        let op = if seq % 11 == 5 { Op::Delete } else { Op::Put };
        let key = format!("key-{}", seq * 7919 % 1_000);
        let value = if op == Op::Put { value(seq, seed) } else { Vec::new() };
        let timestamp_ms = 1_700_000_000_000 + seq / 10;
        let leaf = Leaf::of(op, Seq(seq), timestamp_ms, key.as_bytes(), &value);
        let value_commitment = (value.len() >= COMMITMENT_BYTES_MIN).then_some(&leaf.value_commit.0);
        let (key, value) = (key.as_bytes(), &value[..]);
        let record = RecordRef { seq: Seq(seq), op, timestamp_ms, key, value, value_commitment };
        writer.push(&record, &leaf.hash().0).unwrap();
        tree.append(leaf.hash(), |level, root| match level {
            1 => subtrees.push(root.0),
            _ => high_subtrees.push(root.0),
        });
        roots.push(tree.root());
    }
    let log = |index| LogId { term: 1, index: LogIndex(index) };
    writer
        .finish(FinishInfo {
            first_log: log(id * 70),
            last_log: log(id * 70 + 69),
            frontier_before: &frontier_before,
            root_after: tree.root().0,
            subtrees: &subtrees,
            high_subtrees: &high_subtrees,
            idempotency: b"outcomes of requests with a key",
            boundary: b"boundary",
        })
        .unwrap();
}

/// Runs the real program, away from the configuration of whoever runs the test.
pub fn scribe(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_scribe"))
        .args(arguments)
        .env_remove("SCRIBE_SERVER")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("HOME")
        .output()
        .unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
pub fn exits_with(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", stdout(output), stderr(output));
}
