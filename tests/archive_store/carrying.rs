//! The manifest of a restored ledger: it begins with what the epoch before has, all at once for whoever looks.

use std::{path::Path, sync::Arc};

use scribe_ledger::{
    archive::{
        DirectoryStore, Entry, Epoch, LedgerId, Manifest, Store, Tip, fence, layout, manifest::Own,
        name::Name, probe::probe,
    },
    env::Io,
    error::{Code, Result},
    sim::{Failure, Fault, Op, SimIo, SimRng, runtime},
    types::SegmentId,
    verify::Archived,
};

use crate::{
    ledger::{LEDGER, Ledger, ledger},
    objects::add_all,
    simulated_directory,
    verifying::archive,
};

const SECOND: Epoch = Epoch(2);

fn own(ledger: &Ledger, id: SegmentId) -> Option<Own> {
    ledger.segments.get(id.0 as usize).map(|segment| (segment.summary().digest, segment.summary().end_seq))
}

/// What a leader of the new epoch does before it archives anything.
pub async fn begin(store: Arc<dyn Store>, epoch: Epoch, ledger: &Ledger) -> Result<u64> {
    fence::claim(&*store, fence::Claim { epoch, cluster: LedgerId([7; 16]) }).await?;
    Ok(Manifest::new(store, LEDGER, epoch).carry_over(|id| own(ledger, id)).await?.0)
}

async fn entries(store: Arc<dyn Store>, epoch: Epoch) -> Vec<Entry> {
    let mut entries = Vec::new();
    let manifest = Manifest::new(store, LEDGER, epoch);
    let follow = manifest.follow(Tip::default(), |entry| {
        entries.push(entry.clone());
        Ok(())
    });
    follow.await.unwrap();
    entries
}

#[test]
fn wherever_it_breaks_off_the_archive_tells_the_whole_ledger() {
    let ledger = ledger(&[30, 0, 20]);
    let filled = |seed| {
        let disk = SimIo::new(seed);
        runtime(seed).block_on(archive(simulated_directory(&disk), &ledger));
        disk
    };
    let steps = {
        let disk = filled(0);
        let before = disk.ops();
        assert_eq!(runtime(0).block_on(begin(simulated_directory(&disk), SECOND, &ledger)).unwrap(), 3);
        disk.ops() - before
    };
    let (mut of_old, mut of_new) = (0, 0);
    for nth in 0..steps {
        for failure in [Failure::NotDone, Failure::Done, Failure::Crash] {
            let disk = filled(nth);
            disk.arm(Fault { op: Op::Any, nth, failure });
            let _ = runtime(nth).block_on(begin(simulated_directory(&disk), SECOND, &ledger));
            disk.disarm();
            disk.crash();
            disk.restart();
            let open = || runtime(nth).block_on(Archived::open(simulated_directory(&disk))).unwrap();
            let seen = open();
            assert_eq!((seen.records(), seen.notes().len()), (50, 1), "{nth} {failure:?}");
            *if seen.epoch() == SECOND { &mut of_new } else { &mut of_old } += 1;
            // The next leader goes on with it; whoever comes later finds it done.
            let carried = runtime(nth).block_on(begin(simulated_directory(&disk), SECOND, &ledger)).unwrap();
            assert_eq!(carried, if seen.epoch() == SECOND { 0 } else { 3 }, "{nth} {failure:?}");
            let seen = open();
            assert_eq!((seen.epoch(), seen.records(), seen.notes().len()), (SECOND, 50, 1));
            assert!(seen.entries().iter().all(|entry| entry.object.epoch == Epoch::FIRST));
            assert_eq!((seen.next_epoch(), seen.cluster()), (Some(Epoch(3)), Some(LedgerId([7; 16]))));
        }
    }
    assert!(of_old > 10 && of_new > 1, "{of_old} {of_new}");
}

#[test]
fn what_the_old_cluster_added_later_is_left_out_and_a_lost_object_is_archived_again() {
    runtime(1).block_on(async {
        let (ours, disk) = (ledger(&[30, 0, 20]), SimIo::new(1));
        let store = simulated_directory(&disk);
        // The same first segments, and two that the restore did not see.
        archive(store.clone(), &ledger(&[30, 0, 20, 10, 9])).await;
        assert_eq!(begin(store.clone(), SECOND, &ours).await.unwrap(), 3);
        let second = entries(store.clone(), SECOND).await;
        assert_eq!(second.len(), 3);
        // Its newest checkpoint is of what both have.
        let archived = Archived::open(store.clone()).await.unwrap();
        assert!(archived.notes()[0].1 == ours.checkpoints[2], "{:?}", archived.notes());

        // Third life, of the second: by then its last object is gone.
        let lost = Path::new("/archive").join(second[2].object.name().as_str());
        disk.remove(&lost).unwrap();
        let third = Epoch(3);
        assert_eq!(begin(store.clone(), third, &ours).await.unwrap(), 2);
        let manifest = Manifest::new(store.clone(), LEDGER, third);
        let mut tip = manifest.follow(Tip::default(), |_| Ok(())).await.unwrap();
        assert_eq!(tip.next, SegmentId(2));
        let error = begin(store.clone(), SECOND, &ours).await.unwrap_err();
        assert_eq!(error.code(), Code::Io, "{error}");
        add_all(&manifest, &ours, &mut tip).await.unwrap();
        let archived = Archived::open(store).await.unwrap();
        assert_eq!((archived.epoch(), archived.records()), (third, 50));
    });
}

/// Entries that were lost, and entered again by objects of the new epoch; the first is lost later. A checkpoint that is
/// spoiled stays where it is.
#[test]
fn what_was_entered_again_in_the_new_epoch_is_gone_on_with() {
    runtime(1).block_on(async {
        let (ours, disk) = (ledger(&[30, 0, 20]), SimIo::new(1));
        let store = simulated_directory(&disk);
        archive(store.clone(), &ours).await;
        assert_eq!(begin(store.clone(), SECOND, &ours).await.unwrap(), 3);
        let remove = |name: &Name| disk.remove(&Path::new("/archive").join(name.as_str())).unwrap();
        let entry = |id| layout::entry(SECOND, SegmentId(id));
        [1, 2].into_iter().for_each(|id| remove(&entry(id)));
        let manifest = Manifest::new(store.clone(), LEDGER, SECOND);
        let mut tip = manifest.follow(Tip::default(), |_| Ok(())).await.unwrap();
        add_all(&manifest, &ours, &mut tip).await.unwrap();
        let before = entries(store.clone(), SECOND).await;
        let epochs: Vec<u32> = before.iter().map(|entry| entry.object.epoch.0).collect();
        assert_eq!(epochs, [1, 2, 2]);

        remove(&entry(0));
        let page = store.list(&layout::checkpoints(Epoch::FIRST), None).await.unwrap();
        let note = Path::new("/archive").join(page.names.last().unwrap().as_str());
        disk.flip_bit(&note, 0, 1).unwrap();
        assert_eq!(begin(store.clone(), SECOND, &ours).await.unwrap(), 3);
        assert_eq!(entries(store.clone(), SECOND).await, before);

        // The copy of it instead.
        disk.flip_bit(&note, 0, 1).unwrap();
        let page = store.list(&layout::checkpoints(SECOND), None).await.unwrap();
        for copy in page.names {
            disk.flip_bit(&Path::new("/archive").join(copy.as_str()), 0, 1).unwrap();
        }
        remove(&entry(0));
        assert_eq!(begin(store.clone(), SECOND, &ours).await.unwrap(), 3);
        assert_eq!(entries(store.clone(), SECOND).await, before);
    });
}

#[test]
fn a_store_without_earlier_epochs_has_nothing_to_carry() {
    runtime(1).block_on(async {
        let ours = ledger(&[30]);
        let store: Arc<dyn Store> =
            Arc::new(DirectoryStore::new(Arc::new(SimIo::new(1)), Path::new("/archive"), 1));
        probe(&*store, LEDGER, &SimRng::new(1)).await.unwrap();
        assert_eq!(begin(store.clone(), Epoch(u32::MAX), &ours).await.unwrap(), 0);
        assert!(store.list(&layout::entries(Epoch(u32::MAX)), None).await.unwrap().names.is_empty());
    });
}
