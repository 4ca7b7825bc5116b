//! What the archive stage does away from the tasks that serve clients: each is one piece of work with a store.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::known::Known;
use crate::{
    archive::{
        Epoch, LedgerId, Manifest, Marker, ObjectRef, Staged, Store, Tip,
        fence::{Claim, claim},
        layout,
        manifest::{Fork, Gap},
        marker::StoreId,
        probe::{Report, probe},
        store::Trouble,
    },
    env::{Io, Rng},
    error::{Code, Error, Result},
    sealed::Segments,
    segment::{Packing, Segment, StubObject},
    types::{SegmentId, Seq},
};

/// Where a segment is packed before it is uploaded.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) io: Arc<dyn Io>,
    pub(super) path: PathBuf,
    pub(super) packing: Packing,
    pub(super) free_bytes_min: u64,
}

/// What became of a segment that was to be archived.
#[derive(Debug)]
pub(super) enum Added {
    /// It is in the archive.
    Archived {
        /// Where the manifest ends now.
        tip: Tip,
        object: ObjectRef,
        /// Whether this node has uploaded it; else it was there.
        is_new: bool,
    },
    /// The store is not the one that it was.
    OtherStore,
}

/// Finds out what a store is. Where this node has archived before it begins no archive a second time; `has_left` is whether
/// files of segments have left this node for one.
pub(super) async fn probed(
    store: Arc<dyn Store>,
    ledger: LedgerId,
    rng: Arc<dyn Rng>,
    (known, has_left): (Known, bool),
) -> Result<Report> {
    let before = known.read(store.place())?;
    if before.is_some() {
        marker(&*store).await.map_err(|error| known.advise(error, has_left))?;
    }
    let mut report = probe(&*store, ledger, &*rng).await?;
    if before.is_some_and(|before| before != report.store) {
        report.warnings.push(format!(
            "{} is another store than the one that this node has archived into there: what is not in it is archived anew",
            store.place()
        ));
    }
    known.write(store.place(), report.store)?;
    Ok(report)
}

/// Looks whether a store answers; whether it is still the one that was probed.
pub(super) async fn look(store: Arc<dyn Store>, known: Option<StoreId>) -> Result<bool> {
    match known {
        Some(known) => Ok(marker(&*store).await? == known),
        None => {
            store.list("", None).await?;
            Ok(true)
        }
    }
}

/// What a leader has read of the manifest.
#[derive(Debug)]
pub(super) struct Followed {
    /// Entries that it begins with and did not have before: those of the epoch before.
    pub(super) carried: u64,
    /// Where its entries end, or a gap is.
    pub(super) tip: Tip,
    /// The objects that it names, those before what was known left out.
    pub(super) objects: Vec<ObjectRef>,
    /// Whether entries are behind that.
    pub(super) has_gap: bool,
}

/// Claims the archive, and reads the manifest behind `tip`; nothing where it is another store than the `known` one. What
/// it says of segments that are sealed here has to be of the same ones. The manifest of a restored ledger begins with what
/// the epoch before it has.
pub(super) async fn read(
    (store, known, claimed): (Arc<dyn Store>, Option<StoreId>, Claim),
    manifest: Manifest,
    tip: Tip,
    segments: Segments,
) -> Result<Option<Followed>> {
    // Not a byte is written into what has taken the archive's place, or where nothing is mounted any more.
    let there = marker(&*store).await?;
    if known.is_some_and(|known| known != there) {
        return Ok(None);
    }
    claim(&*store, claimed).await?;
    let own = |id: SegmentId| {
        let summary = segments.get(usize::try_from(id.0).ok()?)?.summary();
        Some((summary.digest, summary.end_seq))
    };
    let (carried, forks) = match tip.next {
        SegmentId(0) => manifest.carry_over(own).await?,
        _ => (0, Vec::new()),
    };
    let (archive, epoch) = (store.place(), claimed.epoch.0);
    warn_of(archive, epoch, &forks);
    let mut objects = Vec::new();
    let (tip, gap) = manifest
        .follow_to_gap(tip, |entry| {
            let id = entry.object.segment;
            match own(id) {
                Some((digest, _)) if digest != entry.digest => Err(other_ledger(id)),
                _ => {
                    objects.push(entry.object);
                    Ok(())
                }
            }
        })
        .await?;
    if let Some(Gap { missing, there }) = &gap {
        tracing::warn!(
            archive,
            "the archive has lost {missing}, and {there} is there: its segment is to be entered again"
        );
    }
    Ok(Some(Followed { carried, tip, objects, has_gap: gap.is_some() }))
}

/// Puts the checkpoints of the manifest's end where the archive lacks them.
pub(super) async fn keep_checkpoint(
    manifest: Manifest,
    known: Option<StoreId>,
    (end, checkpoints): (Seq, Vec<Bytes>),
) -> Result<()> {
    is_same(&**manifest.store(), known).await?;
    if manifest.keep_checkpoint(end, &checkpoints).await? {
        let archive = manifest.store().place();
        tracing::info!(
            archive,
            records = end.0,
            "the archive lacks a checkpoint of its end: it is put there"
        );
    }
    Ok(())
}

/// Makes sure that nothing is written into another store than the one that was probed, nor where nothing is mounted any
/// more: an empty directory is there then.
pub(super) async fn is_same(store: &dyn Store, known: Option<StoreId>) -> Result<()> {
    let there = marker(store).await?;
    if known.is_some_and(|known| known != there) {
        let what = format!("another store has taken the place of the archive {}", store.place());
        return Err(Error::new(Code::Io, what));
    }
    Ok(())
}

/// Says what lies in earlier epochs and is not in this ledger: a cluster that still wrote while another was restored.
fn warn_of(archive: &str, epoch: u32, forks: &[(Epoch, Result<Fork>)]) {
    for (earlier, fork) in forks {
        let earlier = earlier.0;
        match fork {
            Ok(fork) if fork.leaves_records() => {
                let (from, to) = (fork.shared.0, fork.end.0 - 1);
                tracing::warn!(
                    archive,
                    epoch,
                    records = to - from + 1,
                    "epoch {earlier} of the archive holds records {from} to {to}, which are not in this ledger: it was \
                     restored before the cluster of epoch {earlier} had archived them. If they matter, stop this one, and \
                     restore anew: scribe restore --epoch {earlier}"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(
                archive,
                epoch,
                %error,
                "whether epoch {earlier} of the archive holds records that are not in this ledger cannot be told"
            ),
        }
    }
}

fn other_ledger(id: SegmentId) -> Error {
    let what = format!(
        "the archive has another segment {id} than this node has sealed: one of the two has diverged; compare them \
         (scribe verify) before anything is archived"
    );
    Error::new(Code::Corrupt, what)
}

/// Archives a segment, whose predecessor has this digest. One whose file has left is in the store already: it has lost its
/// entry, and gets it again.
pub(super) async fn add(
    (store, known, own): (Arc<dyn Store>, Option<StoreId>, Claim),
    manifest: Manifest,
    mut tip: Tip,
    (segment, before): (Arc<Segment>, [u8; 32]),
    checkpoints: Vec<Bytes>,
    staging: Staging,
) -> Result<Added> {
    let id = segment.summary().id();
    // Where nothing is mounted any more an empty directory is, and a name may lead elsewhere from now on.
    let there = marker(&*store).await?;
    if known.is_some_and(|known| known != there) {
        return Ok(Added::OtherStore);
    }
    // Before the upload: that would be in vain. Whoever claims the archive meanwhile has an epoch of its own, in which
    // nothing is that this writes.
    claim(&*store, own).await?;
    // What a leader before has archived may have been sealed here since it was read.
    if tip.digest != before {
        return Err(other_ledger(SegmentId(id.0.saturating_sub(1))));
    }
    let mut is_new = false;
    let stage = || {
        is_new = true;
        staging.check_room(segment.summary().file_bytes)?;
        let Staging { io, path, packing, .. } = &staging;
        Staged::pack(io.clone(), &segment, *packing, manifest.epoch(), path)
    };
    let entry = match left(&segment) {
        Some(object) => manifest.enter(&mut tip, segment.summary(), &checkpoints, object).await?,
        None => manifest.add(&mut tip, segment.summary(), &checkpoints, stage).await?,
    };
    Ok(Added::Archived { tip, object: entry.object, is_new })
}

/// The object of a segment whose file has left this node.
fn left(segment: &Segment) -> Option<ObjectRef> {
    let StubObject { epoch, bytes, hash } = segment.stub()?;
    Some(ObjectRef { epoch: Epoch(*epoch), segment: segment.summary().id(), bytes: *bytes, hash: *hash })
}

/// Which store it is, by its marker.
async fn marker(store: &dyn Store) -> Result<StoreId> {
    let place = store.place();
    let gone = |what: &str| {
        let what =
            format!("the archive's marker {} {what} {place}: is it mounted, and the same?", layout::marker());
        Error::new(Code::Io, what)
    };
    match store.get(&layout::marker()).await {
        Ok(object) => {
            let marker = Marker::decode(&object.bytes).ok_or_else(|| gone("is damaged in"))?;
            Ok(marker.store)
        }
        Err(error) if error.trouble() == Trouble::NotFound => Err(gone("is gone from")),
        Err(error) => Err(error.into()),
    }
}

impl Staging {
    /// Room for a packed segment, and for its object in an archive on the same disk, beside what the log needs.
    pub(super) fn check_room(&self, bytes: u64) -> Result<()> {
        let dir = self.path.parent().unwrap_or(&self.path);
        let failed = |error| Error::io(format!("asking for the free space of {}", dir.display()), &error);
        let free = self.io.free_bytes(dir).map_err(failed)?;
        let needed = self.free_bytes_min.saturating_add(bytes.saturating_mul(2));
        if free >= needed {
            return Ok(());
        }
        let what = format!(
            "{free} bytes are free in {}, and archiving a segment takes {needed} with what is the log's: free some \
             space",
            dir.display()
        );
        Err(Error::new(Code::DiskFull, what))
    }
}
