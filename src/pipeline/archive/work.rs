//! What the archive stage does away from the tasks that serve clients: each is one piece of work with a store.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::{
    archive::{
        LedgerId, Manifest, Marker, ObjectRef, Staged, Store, Tip,
        fence::{Claim, claim},
        layout,
        marker::StoreId,
        probe::{Report, probe},
        store::Trouble,
    },
    env::{Io, Rng},
    error::{Code, Error, Result},
    sealed::Segments,
    segment::{Packing, Segment},
    types::SegmentId,
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
    OtherStore(StoreId),
}

/// Finds out what a store is.
pub(super) async fn probed(store: Arc<dyn Store>, ledger: LedgerId, rng: Arc<dyn Rng>) -> Result<Report> {
    Ok(probe(&*store, ledger, &*rng).await?)
}

/// Claims the archive, and reads the manifest behind `tip`: where it ends, and the objects that it names. Those of
/// segments that are sealed here have to be of the same ones. The manifest of a restored ledger begins with what the
/// epoch before it has.
pub(super) async fn read(
    (store, own): (Arc<dyn Store>, Claim),
    manifest: Manifest,
    tip: Tip,
    segments: Segments,
) -> Result<(Tip, Vec<ObjectRef>)> {
    claim(&*store, own).await?;
    let digest_of = |id: SegmentId| Some(segments.get(usize::try_from(id.0).ok()?)?.summary().digest);
    let carried = match tip.next {
        SegmentId(0) => manifest.carry_over(digest_of).await?,
        _ => 0,
    };
    if carried > 0 {
        let (archive, epoch) = (store.place(), own.epoch.0);
        tracing::info!(archive, epoch, segments = carried, "the archive goes on behind the epoch before");
    }
    let mut objects = Vec::new();
    let tip = manifest
        .follow(tip, |entry| {
            let id = entry.object.segment;
            match digest_of(id) {
                Some(digest) if digest != entry.digest => Err(other_ledger(id)),
                _ => {
                    objects.push(entry.object);
                    Ok(())
                }
            }
        })
        .await?;
    Ok((tip, objects))
}

fn other_ledger(id: SegmentId) -> Error {
    let what = format!(
        "the archive has another segment {id} than this node has sealed: one of the two has diverged; compare them \
         (scribe verify) before anything is archived"
    );
    Error::new(Code::Corrupt, what)
}

/// Archives a segment, whose predecessor has this digest.
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
        return Ok(Added::OtherStore(there));
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
    let entry = manifest.add(&mut tip, segment.summary(), &checkpoints, stage).await?;
    Ok(Added::Archived { tip, object: entry.object, is_new })
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
    fn check_room(&self, bytes: u64) -> Result<()> {
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
