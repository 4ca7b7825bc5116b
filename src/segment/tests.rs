//! A forger who knows the format: every hash is right and what it covers is not. Nothing may panic, whatever is
//! read. (Damage that hashes catch, and the model, are in `tests/segment.rs`.)

use std::{fs, path::Path, sync::Arc};

use proptest::prelude::*;
use rkyv::rancor;

use super::{
    contents::{Contents, Places},
    format::{HEADER_BYTES, TRAILER_BYTES, Trailer, digest},
    stored::Stored,
    *,
};
use crate::{
    env::real::RealIo,
    proof::{Hash, frontier::Frontier},
    types::{LogIndex, VALUE_BYTES_MAX},
};

fn write(path: &Path, records: u64) {
    let head = SegmentHead { id: SegmentId(0), first_seq: Seq(5), feature_level: 1, segment_bytes: 1 << 20 };
    let mut writer = SegmentWriter::create(Arc::new(RealIo::new()), path, head).unwrap();
    for number in 0..records {
        let value = vec![number as u8; if number % 10 == 3 { INLINE_VALUE_BYTES_MAX + 1 } else { 20 }];
        let key = format!("key-{}", number % 13);
        let record = RecordRef {
            seq: Seq(5 + number),
            op: Op::Put,
            timestamp_ms: number / 7,
            key: key.as_bytes(),
            value: &value,
            value_commitment: (value.len() >= COMMITMENT_BYTES_MIN).then_some(&[1; 32]),
        };
        writer.push(&record, &[2; 32]).unwrap();
    }
    let log_id = LogId { term: 1, index: LogIndex(1) };
    let mut frontier = Frontier::default();
    frontier.extend(&[Hash::default(); 5]);
    let info = FinishInfo {
        first_log: log_id,
        last_log: log_id,
        frontier_before: &frontier.encode(),
        root_after: [3; 32],
        subtrees: &[],
        high_subtrees: &[],
        idempotency: b"outcomes",
        boundary: b"boundary",
    };
    writer.finish(info).unwrap();
}

/// The file with one byte changed and every hash above it made anew; `None` when the change cannot be hidden.
fn forge(mut bytes: Vec<u8>, at: usize, change: u8) -> Option<Vec<u8>> {
    let size = bytes.len() as u64;
    let trailer = Trailer::decode(bytes.last_chunk::<TRAILER_BYTES>()?, size).ok()?;
    let contents_at = trailer.contents_offset as usize;
    let places_at = contents_at + trailer.contents_bytes as usize;
    let trailer_at = bytes.len() - TRAILER_BYTES;
    let at = at % trailer_at;
    bytes[at] ^= change;
    if at < contents_at {
        let places = rkyv::from_bytes::<Places, rancor::Error>(&bytes[places_at..trailer_at]).ok()?;
        let mut contents =
            rkyv::from_bytes::<Contents, rancor::Error>(&bytes[contents_at..places_at]).ok()?;
        for (sum, place) in contents.blocks.iter_mut().zip(&places.blocks) {
            let block = &bytes[place.offset as usize..][..place.stored_bytes as usize];
            sum.hash = *blake3::hash(block).as_bytes();
        }
        let contents = rkyv::to_bytes::<rancor::Error>(&contents).ok()?;
        bytes[contents_at..places_at].copy_from_slice(&contents);
    }
    let forged = Trailer {
        digest: digest(bytes.first_chunk::<HEADER_BYTES>()?, &bytes[contents_at..places_at]),
        places_hash: *blake3::hash(&bytes[places_at..trailer_at]).as_bytes(),
        ..trailer
    };
    bytes[trailer_at..].copy_from_slice(&forged.encode());
    Some(bytes)
}

/// Reads a file as one that is somewhere else.
fn read_stored(bytes: &[u8]) -> Option<()> {
    let size = bytes.len() as u64;
    let (header, trailer) = (bytes.first_chunk()?, bytes.last_chunk()?);
    let footer = Stored::footer(trailer, size).ok()?;
    let footer = bytes[footer.start as usize..footer.end as usize].to_vec();
    let stored = Stored::decode(header, footer.into(), trailer, size).ok()?;
    for number in 0..stored.blocks() {
        let place = stored.place(number)?;
        let _ = stored.block(number, &bytes[place.start as usize..place.end as usize]);
    }
    for seq in 0..100 {
        assert!(stored.block_of(Seq(seq)).is_none_or(|block| block < stored.blocks()));
    }
    Some(())
}

/// Reads a file in every way.
fn read_all(path: &Path) {
    read_stored(&fs::read(path).unwrap());
    let cache = Arc::new(BlockCache::new(1 << 20));
    let Ok(segment) = Segment::open(&RealIo::new(), path, cache) else { return };
    let summary = segment.summary().clone();
    let end = summary.end_seq.0.min(summary.head.first_seq.0 + 1_000);
    for seq in (summary.head.first_seq.0..end).map(Seq) {
        let _ = segment.leaf_hash(seq);
        let Ok(stored) = segment.record(seq) else { continue };
        assert!(stored.record.value.len() <= VALUE_BYTES_MAX);
        assert!(
            segment.versions(&stored.record.key, summary.end_seq).count() <= summary.records() as usize + 1
        );
    }
    assert!(segment.keys().take(1_000_000).count() < 1_000_000);
    let _ = (segment.records(summary.head.first_seq..summary.end_seq).count(), segment.idempotency().is_ok());
    let _ = segment.pack(Packing::Lz4, &mut std::io::sink());
    let _ = segment.verify(|_| ());
}

proptest! {
    #[test]
    fn a_forged_segment_is_read_without_a_panic(
        records in 0u64..60, places in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..20),
    ) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("forged.seg");
        write(&path, records);
        let whole = fs::read(&path).unwrap();
        for (at, change) in places {
            // Half of the changes go to the footer, which is small and decides most.
            let from = if change % 2 == 0 { 0 } else { whole.len().saturating_sub(3_000) };
            let Some(forged) = forge(whole.clone(), from + at.index(whole.len() - from), change) else { continue };
            fs::write(&path, forged).unwrap();
            read_all(&path);
        }
    }
}
