//! What is in an archive, seen by somebody who has nothing else.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use scribe_ledger::{
    archive::{Cold, DirectoryStore, Entry, Epoch, LedgerId, Manifest, Store, Tip, object},
    env::{Io, OpenMode},
    proof::{checkpoint::Checkpoint, key::VerifierKey, note::Note},
    segment::{BlockCache, Segment},
    sim::SimIo,
    types::{SegmentId, Seq},
};

/// Everything that the manifest names is there, whole, once, and nothing else but what a leader was about to name. Its
/// entries, in order.
pub async fn readable(io: Arc<dyn Io>, dir: &Path, cluster_id: &str) -> Vec<Entry> {
    let store: Arc<dyn Store> = Arc::new(DirectoryStore::new(io, dir, 99));
    let ledger = LedgerId::parse(cluster_id).unwrap();
    let manifest = Manifest::new(store.clone(), ledger, Epoch::FIRST);
    let mut entries = Vec::new();
    let tip = manifest
        .follow(Tip::default(), |entry| {
            entries.push(entry.clone());
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(tip.next, SegmentId(entries.len() as u64));
    let named: BTreeMap<_, _> =
        entries.iter().map(|entry| (entry.object.name().last().to_owned(), entry)).collect();
    assert_eq!(named.len(), entries.len(), "a segment is there twice");
    let (mut after, mut strangers) = (None::<String>, Vec::new());
    loop {
        let page = store.list("epoch-0000000001/segments", after.as_deref()).await.unwrap();
        strangers.extend(
            page.names.iter().map(|name| name.last().to_owned()).filter(|last| !named.contains_key(last)),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(strangers.len() <= 1, "objects that nobody names: {strangers:?}");
    let next = format!("{:020}-", entries.len());
    assert!(strangers.iter().all(|name| name.starts_with(&next)), "{strangers:?}, and {next} is next");
    for entry in &entries {
        object::check(&*store, &entry.object).await.unwrap();
        let cold = Cold::open(store.clone(), &entry.object, &entry.digest).await.unwrap();
        assert_eq!(cold.summary().end_seq, entry.end_seq);
        assert_eq!(cold.summary().root_after, entry.root_after);
    }
    entries
}

/// The records of a segment of the archive, each as the bytes of its value.
pub async fn values(io: Arc<dyn Io>, dir: &Path, entry: &Entry) -> Vec<Vec<u8>> {
    let store: Arc<dyn Store> = Arc::new(DirectoryStore::new(io, dir, 99));
    let disk = SimIo::new(1);
    let path = Path::new("/segment.seg");
    let file = disk.open(path, OpenMode::Buffered).unwrap();
    Cold::open(store, &entry.object, &entry.digest).await.unwrap().rebuild(file).await.unwrap();
    let segment = Segment::open(&disk, path, Arc::new(BlockCache::new(0))).unwrap();
    segment.records(Seq(0)..Seq(u64::MAX)).map(|stored| stored.unwrap().record.value.to_vec()).collect()
}

/// The newest checkpoint of the archive is of all that is in it, and signed by one of these.
pub async fn is_signed(
    io: Arc<dyn Io>,
    dir: &Path,
    cluster_id: &str,
    entries: &[Entry],
    keys: &[VerifierKey],
) {
    let store: Arc<dyn Store> = Arc::new(DirectoryStore::new(io, dir, 99));
    let manifest = Manifest::new(store, LedgerId::parse(cluster_id).unwrap(), Epoch::FIRST);
    let last = entries.last().unwrap();
    let notes = manifest.checkpoints(last.end_seq).await.unwrap();
    assert!(!notes.is_empty());
    for note in notes {
        let note = Note::parse(&note).unwrap();
        let checkpoint: Checkpoint = note.text().parse().unwrap();
        assert_eq!((checkpoint.size(), checkpoint.root().0), (last.end_seq.0, last.root_after));
        assert!(
            note.verify(keys).is_ok_and(|signed| !signed.is_empty()),
            "nobody that is known has signed it"
        );
    }
}
