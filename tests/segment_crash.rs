//! A segment is there whole or not there, whatever fails while it is written.
//!
//! Every operation that changes the disk fails once in every way: it did not happen, it happened but nobody was
//! told, the disk was full, the power went. Afterwards the process or the power is gone, unsynced sectors and
//! names are kept, dropped or torn by the seed, and the next life must find no segment or the right one, and be
//! able to write it again by the same road. Planted bugs show that the harness sees what it should.

#[path = "common/careless.rs"]
mod careless;
#[path = "common/way.rs"]
mod way;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use scribe_ledger::{
    env::Io,
    error::Result,
    proof::{
        growth::Growth,
        leaf::{leaf, leaf_hash},
    },
    segment::{
        BlockCache, FinishInfo, RecordRef, Segment, SegmentHead, SegmentSummary, SegmentWriter, file_name,
        remove_unfinished,
    },
    sim::{Failure, Fault, Op as DiskOp, SimIo},
    types::{LogId, LogIndex, Op, SegmentId, Seq},
};

use crate::{careless::Careless, way::Behind};

const DIR: &str = "/segments";
const ID: SegmentId = SegmentId(0);

fn path() -> PathBuf {
    Path::new(DIR).join(file_name(ID))
}

/// Enough to take several writes: large values go to the file at once.
fn write(io: &Arc<dyn Io>) -> Result<SegmentSummary> {
    let head = SegmentHead { id: ID, first_seq: Seq(0), feature_level: 1, segment_bytes: 1 << 20 };
    let mut writer = SegmentWriter::create(io.clone(), &path(), head)?;
    let mut tree = Growth::default();
    for number in 0..40 {
        let value = vec![number as u8; if number % 20 == 7 { 1 << 20 } else { 100 }];
        let commitment = <sha2::Sha256 as sha2::Digest>::digest(&value).into();
        let record = RecordRef {
            seq: Seq(number),
            op: Op::Put,
            timestamp_ms: number,
            key: &number.to_be_bytes(),
            value: &value,
            value_commitment: (value.len() > 4_096).then_some(&commitment),
        };
        let hash = leaf_hash(&leaf(Op::Put, Seq(number), number, record.key, &value));
        writer.push(&record, &hash.0)?;
        tree.append(hash, |_, _| ());
    }
    let log_id = LogId { term: 1, index: LogIndex(1) };
    writer.finish(FinishInfo {
        first_log: log_id,
        last_log: log_id,
        frontier_before: &Growth::default().frontier().encode(),
        root_after: tree.root().0,
        subtrees: &[],
        high_subtrees: &[],
        idempotency: &[],
        boundary: b"boundary",
    })
}

/// Whether the segment is there; if so it must be the right one.
fn find(io: &dyn Io, right: &SegmentSummary) -> Result<bool, String> {
    remove_unfinished(io, Path::new(DIR)).map_err(|error| error.to_string())?;
    let names = io.list(Path::new(DIR)).map_err(|error| error.to_string())?;
    if names.is_empty() {
        return Ok(false);
    }
    if names != [file_name(ID)] {
        return Err(format!("strange files: {names:?}"));
    }
    let segment =
        Segment::open(io, &path(), Arc::new(BlockCache::new(1 << 20))).map_err(|e| e.to_string())?;
    segment.verify(|_| ()).map_err(|error| error.to_string())?;
    if segment.summary() == right { Ok(true) } else { Err("another segment".into()) }
}

/// One history: a fault, what follows it, and the next lives. What went wrong, if anything.
fn history(
    seed: u64,
    fault: Fault,
    wrap: &dyn Fn(SimIo) -> Arc<dyn Io>,
    right: &SegmentSummary,
) -> Result<(), String> {
    let sim = SimIo::new(seed);
    let io = wrap(sim.clone());
    sim.arm(fault);
    let first = write(&io);
    let told = first.is_ok();
    if sim.is_down() {
        sim.restart();
    } else if seed.is_multiple_of(3) {
        sim.kill();
    } else {
        sim.crash();
        sim.restart();
    }
    let found = find(&sim, right)?;
    if told && !found {
        return Err("finished, and gone".into());
    }
    write(&io).map_err(|error| format!("cannot be written again: {error}"))?;
    sim.crash();
    sim.restart();
    if find(&sim, right)? { Ok(()) } else { Err("finished the second time, and gone".into()) }
}

/// The first history that goes wrong.
fn hunt(seeds: u64, wrap: &dyn Fn(SimIo) -> Arc<dyn Io>) -> Option<String> {
    let sim = SimIo::new(0);
    let right = write(&(Arc::new(sim.clone()) as Arc<dyn Io>)).unwrap();
    let ops = sim.ops();
    assert!(ops > 6, "{ops} operations");
    for nth in 0..=ops {
        for failure in [Failure::NotDone, Failure::Done, Failure::NoSpace, Failure::Crash] {
            for seed in 0..seeds {
                let fault = Fault { op: DiskOp::Any, nth, failure };
                if let Err(what) = history(seed, fault, wrap, &right) {
                    return Some(format!("seed {seed}, operation {nth} {failure:?}: {what}"));
                }
            }
        }
    }
    None
}

#[test]
fn a_segment_is_there_whole_or_not_there() {
    assert_eq!(hunt(12, &|sim| Arc::new(sim)), None);
}

#[test]
fn planted_bugs_are_caught() {
    for (syncs_files, syncs_names) in [(false, true), (true, false)] {
        let found = hunt(4, &|sim| Arc::new(Behind::new(Careless { sim, syncs_files, syncs_names })));
        assert!(
            found.is_some(),
            "files synced {syncs_files}, names synced {syncs_names}: nothing went wrong"
        );
    }
}
