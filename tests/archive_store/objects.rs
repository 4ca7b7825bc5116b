//! Segments as objects, and the manifest: what goes in comes out bit for bit, whatever way it is stored; what is not
//! what was written is refused; and the bucket alone tells the ledger.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use scribe_ledger::{
    archive::{
        Cold, Entry, Epoch, LedgerId, Manifest, Staged, Store, Tip, layout,
        manifest::newest_epoch,
        object::{self, packing},
    },
    env::{Io, OpenMode},
    error::{Code, Result},
    segment::{Packing, Segment},
    sim::SimIo,
    types::{SegmentId, Seq},
};

use crate::{
    ledger::{LEDGER, Ledger, bytes_of, ledger},
    real_directory, simulated_directory,
};

const PACKINGS: [Packing; 4] = [Packing::None, Packing::Lz4, Packing::Zstd(1), Packing::Zstd(9)];

fn stage(ledger: &Ledger, segment: &Segment, packing: Packing, epoch: Epoch) -> Result<Staged> {
    let path = Path::new("/staging/segment.pack");
    Staged::pack(Arc::new(ledger.io.clone()), segment, packing, epoch, path)
}

/// Adds every segment with its checkpoint.
pub async fn add_all(manifest: &Manifest, ledger: &Ledger, tip: &mut Tip) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (segment, checkpoint) in ledger.segments.iter().zip(&ledger.checkpoints).skip(tip.next.0 as usize) {
        let pack = || stage(ledger, segment, Packing::Lz4, manifest.epoch());
        let checkpoints = std::slice::from_ref(checkpoint);
        entries.push(manifest.add(tip, segment.summary(), checkpoints, pack).await?);
    }
    Ok(entries)
}

/// Reads a manifest and everything that it names; all must be what the ledger has. How many segments there are.
pub async fn restore(store: &Arc<dyn Store>, ledger: &Ledger) -> Result<u64> {
    let manifest = Manifest::new(store.clone(), LEDGER, Epoch::FIRST);
    let mut entries = Vec::new();
    let tip = manifest
        .follow(Tip::default(), |entry| {
            entries.push(entry.clone());
            Ok(())
        })
        .await?;
    assert_eq!(entries.len() as u64, tip.next.0);
    for (id, entry) in (0..).zip(&entries) {
        let disk = SimIo::new(id);
        let file = disk.open("/restored.seg".as_ref(), OpenMode::Buffered).unwrap();
        Cold::open(store.clone(), &entry.object, &entry.digest).await?.rebuild(file).await?;
        assert!(bytes_of(&disk, "/restored.seg".as_ref()) == ledger.file(id), "segment {id} is another");
    }
    let newest = manifest.checkpoints(tip.end_seq).await?;
    match tip.next.0.checked_sub(1) {
        Some(last) => assert_eq!(newest, [ledger.checkpoints[last as usize].clone()]),
        None => assert!(newest.is_empty()),
    }
    Ok(tip.next.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_come_back_bit_for_bit_from_a_directory() {
    let (store, _home) = real_directory();
    segments_come_back(store).await;
}

#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread")]
async fn segments_come_back_bit_for_bit_from_a_bucket() {
    let server = crate::server::Server::start().await;
    segments_come_back(Arc::new(server.store())).await;
}

async fn segments_come_back(store: Arc<dyn Store>) {
    let ledger = ledger(&[700, 0, 3_000]);
    let mut sizes = Vec::new();
    for packing in PACKINGS {
        for (id, segment) in (0..).zip(&ledger.segments) {
            let staged = stage(&ledger, segment, packing, Epoch::FIRST).unwrap();
            let object = *staged.object();
            staged.upload(&*store).await.unwrap();
            // As after a crash before the entry: the same object, found and read back.
            staged.upload(&*store).await.unwrap();
            drop(staged);
            assert!(ledger.io.list(Path::new("/staging")).unwrap().is_empty(), "the staged file is gone");
            sizes.push(object.bytes);
            let cold = Cold::open(store.clone(), &object, &segment.summary().digest).await.unwrap();
            assert_eq!(cold.summary().root_after, segment.summary().root_after);
            assert_eq!(cold.summary().boundary, segment.summary().boundary);
            every_block_alone(&cold, segment).await;
            let disk = SimIo::new(3);
            let file = disk.open("/back.seg".as_ref(), OpenMode::Buffered).unwrap();
            cold.rebuild(file).await.unwrap();
            assert!(bytes_of(&disk, "/back.seg".as_ref()) == ledger.file(id), "{packing:?} {id}");
            let wrong = Cold::open(store.clone(), &object, &[0; 32]).await.unwrap_err();
            assert_eq!(wrong.code(), Code::Corrupt);
        }
    }
    let whole = ledger.file(2).len() as u64;
    assert!(sizes[2] == whole && sizes[5] < whole && sizes[8] < whole && sizes[11] <= sizes[8], "{sizes:?}");
}

/// Fetched alone and among its neighbours, a block is the same; and the records' blocks are found by position.
async fn every_block_alone(cold: &Cold, segment: &Segment) {
    let mut first = 0;
    let mut together = Vec::new();
    while first < cold.blocks() {
        let stretch = cold.stretch(first);
        first = stretch.end;
        together.extend(cold.fetch(stretch).await.unwrap());
    }
    for number in (0..cold.blocks()).step_by(7) {
        assert_eq!(cold.fetch(number..number + 1).await.unwrap(), together[number as usize..][..1]);
    }
    let summary = segment.summary();
    for seq in [summary.head.first_seq.0, summary.end_seq.0.saturating_sub(1)].map(Seq) {
        let block = cold.block_of(seq);
        assert_eq!(block.is_some(), summary.records() > 0);
        if let Some(block) = block {
            let key = segment.record(seq).unwrap().record.key;
            assert!(together[block as usize].windows(key.len()).any(|window| window == key));
        }
    }
    assert_eq!(cold.block_of(summary.end_seq), None);
    assert!(cold.fetch(3..3).await.unwrap().is_empty() && cold.stretch(cold.blocks()).is_empty());
    let error = cold.fetch(0..cold.blocks() + 1).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

/// Every bit of a packed segment, flipped in the store: the check finds it, and nothing wrong is ever given.
#[tokio::test]
async fn a_flip_of_any_byte_of_an_object_is_refused() {
    let ledger = ledger(&[12]);
    let segment = &ledger.segments[0];
    for packing in [Packing::Lz4, Packing::Zstd(3)] {
        let io = SimIo::new(5);
        let store = simulated_directory(&io);
        let staged = stage(&ledger, segment, packing, Epoch::FIRST).unwrap();
        staged.upload(&*store).await.unwrap();
        let object = *staged.object();
        let path = Path::new("/archive").join(object.name().as_str());
        for at in 0..object.bytes {
            let bit = (at % 8) as u8;
            io.flip_bit(&path, at, bit).unwrap();
            assert_eq!(object::check(&*store, &object).await.unwrap_err().code(), Code::Corrupt, "byte {at}");
            // Zeros between blocks carry nothing: they are made anew.
            if let Err(error) = rebuilt(&store, &object, segment, &ledger).await {
                assert_eq!(error.code(), Code::Corrupt, "byte {at}: {error}");
                assert!(error.message().contains(object.name().as_str()), "{error}");
            }
            io.flip_bit(&path, at, bit).unwrap();
        }
        rebuilt(&store, &object, segment, &ledger).await.unwrap();
    }
}

/// Rebuilds a segment; what is given must be right.
async fn rebuilt(
    store: &Arc<dyn Store>,
    object: &scribe_ledger::archive::ObjectRef,
    segment: &Segment,
    ledger: &Ledger,
) -> Result<()> {
    let disk = SimIo::new(6);
    let file = disk.open("/back.seg".as_ref(), OpenMode::Buffered).unwrap();
    Cold::open(store.clone(), object, &segment.summary().digest).await?.rebuild(file).await?;
    assert!(bytes_of(&disk, "/back.seg".as_ref()) == ledger.file(segment.summary().id().0));
    Ok(())
}

/// What lies in buckets for ever: an object of each kind of packing reads back in every later version. The
/// compressors' output may change with their versions; what they have written must stay readable.
#[tokio::test]
async fn objects_of_the_first_version_are_readable() {
    let ledger = ledger(&[40]);
    let segment = &ledger.segments[0];
    for (packing, name) in
        [(Packing::Lz4, "archive-object-lz4-v1.seg"), (Packing::Zstd(3), "archive-object-zstd-v1.seg")]
    {
        let golden = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("GOLDEN_WRITE").is_some() {
            let staged = stage(&ledger, segment, packing, Epoch::FIRST).unwrap();
            std::fs::write(&golden, bytes_of(&ledger.io, "/staging/segment.pack".as_ref())).unwrap();
            drop(staged);
        }
        let bytes = std::fs::read(&golden).unwrap();
        let hash = *blake3::hash(&bytes).as_bytes();
        let object = scribe_ledger::archive::ObjectRef {
            epoch: Epoch::FIRST,
            segment: SegmentId(0),
            bytes: bytes.len() as u64,
            hash,
        };
        let store = simulated_directory(&SimIo::new(8));
        store.put_once(&object.name(), Bytes::from(bytes).into()).await.unwrap();
        rebuilt(&store, &object, segment, &ledger).await.unwrap();
    }
}

#[test]
fn settings_say_how_blocks_are_stored() {
    assert_eq!(
        [(false, 0), (false, 9), (true, 0), (true, 7)].map(|(on, level)| packing(on, level)),
        [Packing::None, Packing::None, Packing::Lz4, Packing::Zstd(7)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_alone_tells_the_ledger() {
    let (store, _home) = real_directory();
    the_store_alone_tells_the_ledger(store).await;
}

#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_alone_tells_the_ledger() {
    let server = crate::server::Server::start().await;
    the_store_alone_tells_the_ledger(Arc::new(server.store())).await;
}

async fn the_store_alone_tells_the_ledger(store: Arc<dyn Store>) {
    let ledger = ledger(&[300, 20, 0, 500]);
    assert_eq!(newest_epoch(&*store).await.unwrap(), None);
    assert_eq!(restore(&store, &ledger).await.unwrap(), 0);
    let manifest = Manifest::new(store.clone(), LEDGER, Epoch::FIRST);
    let mut tip = Tip::default();
    let entries = add_all(&manifest, &ledger, &mut tip).await.unwrap();
    assert_eq!((tip.next, tip.end_seq), (SegmentId(4), Seq(820)));
    assert_eq!(restore(&store, &ledger).await.unwrap(), 4);
    assert_eq!(newest_epoch(&*store).await.unwrap(), Some(Epoch::FIRST));
    // A new leader finds all of it and uploads nothing.
    let mut again = Tip::default();
    for (segment, entry) in ledger.segments.iter().zip(&entries) {
        let nothing = || panic!("it is there already");
        assert_eq!(&manifest.add(&mut again, segment.summary(), &[], nothing).await.unwrap(), entry);
    }
    assert_eq!(again, tip);
    // From the middle on.
    let mut middle = Tip::default();
    entries[..2].iter().for_each(|entry| middle.follow(entry).unwrap());
    let mut seen = Vec::new();
    let end = manifest.follow(middle, |entry| {
        seen.push(entry.object.segment.0);
        Ok(())
    });
    assert_eq!((end.await.unwrap(), seen), (tip, vec![2, 3]));
    // Checkpoints below a position.
    assert_eq!(manifest.checkpoints(Seq(319)).await.unwrap(), ledger.checkpoints[..1]);
    assert!(manifest.checkpoints(Seq(299)).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_does_not_belong_is_not_added() {
    let ledger = ledger(&[30, 20]);
    let store = simulated_directory(&SimIo::new(1));
    let manifest = Manifest::new(store.clone(), LEDGER, Epoch::FIRST);
    let [first, second] = &ledger.segments[..] else { unreachable!() };
    let add = async |tip: &mut Tip, segment: &Segment, notes: &[Bytes], packed: &Segment| {
        let pack = || stage(&ledger, packed, Packing::Lz4, Epoch::FIRST);
        manifest.add(tip, segment.summary(), notes, pack).await.map(drop)
    };
    let note = &ledger.checkpoints[..1];
    let later = &ledger.checkpoints[1..];
    let nonsense = &[Bytes::from_static(b"signed, it says")];
    for (segment, notes, packed, says) in [
        (second, note, second, "another segment's"),
        (first, later, first, "a checkpoint is of size 50"),
        (first, nonsense, first, "a checkpoint is not one"),
        (first, note, second, "another segment"),
    ] {
        let mut tip = Tip::default();
        let error = add(&mut tip, segment, notes, packed).await.unwrap_err();
        assert_eq!((error.code(), tip), (Code::Internal, Tip::default()), "{error}");
        assert!(error.message().contains(says), "{says}: {error}");
    }
    assert_eq!(restore(&store, &ledger).await.unwrap(), 0, "nothing was named");
}

/// Two ledgers in one place, and a member that has diverged: what is there is kept, and the late one is told.
#[tokio::test]
async fn another_ledgers_entries_are_refused() {
    let (ours, theirs) = (ledger(&[30, 20]), ledger(&[31, 20]));
    let store = simulated_directory(&SimIo::new(1));
    let manifest = Manifest::new(store.clone(), LEDGER, Epoch::FIRST);
    add_all(&manifest, &ours, &mut Tip::default()).await.unwrap();
    let diverged = add_all(&manifest, &theirs, &mut Tip::default()).await.unwrap_err();
    assert!(diverged.code() == Code::Corrupt && diverged.message().contains("another segment"), "{diverged}");
    let other = Manifest::new(store.clone(), LedgerId([9; 16]), Epoch::FIRST);
    let other = add_all(&other, &theirs, &mut Tip::default()).await.unwrap_err();
    assert!(other.message().contains("it is of the ledger 5c5c"), "{other}");
    assert_eq!(restore(&store, &ours).await.unwrap(), 2);
}

/// Two leaders that pack differently add the same segments at once: one entry wins, both go on.
#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_at_once_agree() {
    let ledger = Arc::new(ledger(&[300, 20, 500]));
    let (store, _home) = real_directory();
    let archive = |number: usize| {
        let (store, ledger) = (store.clone(), ledger.clone());
        tokio::spawn(async move {
            let manifest = Manifest::new(store, LEDGER, Epoch::FIRST);
            let mut tip = Tip::default();
            let mut entries = Vec::new();
            for (segment, note) in ledger.segments.iter().zip(&ledger.checkpoints) {
                let pack = || {
                    let path = format!("/staging/{number}.pack");
                    let io = Arc::new(ledger.io.clone());
                    Staged::pack(io, segment, PACKINGS[number], Epoch::FIRST, path.as_ref())
                };
                let checkpoints = std::slice::from_ref(note);
                entries.push(manifest.add(&mut tip, segment.summary(), checkpoints, pack).await.unwrap());
            }
            entries
        })
    };
    let (one, two) = tokio::join!(archive(1), archive(2));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(restore(&store, &ledger).await.unwrap(), 3);
}

#[tokio::test]
async fn a_manifest_with_a_hole_or_a_damaged_entry_is_refused() {
    let ledger = ledger(&[10, 10, 10]);
    for (id, damage) in [(1, "gone"), (1, "flipped"), (0, "gone"), (2, "flipped"), (1, "swapped")] {
        let io = SimIo::new(1);
        let store = simulated_directory(&io);
        let manifest = Manifest::new(store.clone(), LEDGER, Epoch::FIRST);
        add_all(&manifest, &ledger, &mut Tip::default()).await.unwrap();
        let path = |id| Path::new("/archive").join(layout::entry(Epoch::FIRST, SegmentId(id)).as_str());
        match damage {
            "gone" => io.remove(&path(id)).unwrap(),
            "flipped" => io.flip_bit(&path(id), 30, 1).unwrap(),
            _ => io.rename(&path(id + 1), &path(id)).unwrap(),
        }
        let error = restore(&store, &ledger).await.unwrap_err();
        assert_eq!(error.code(), Code::Corrupt, "{id} {damage}: {error}");
        let name = layout::entry(Epoch::FIRST, SegmentId(id));
        assert!(error.message().contains(name.as_str()), "{error}");
    }
}
