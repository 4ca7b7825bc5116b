//! Objects that the manifest names and that the archive has lost: put back where this node has the segment's file.
//!
//! ```text
//! the manifest's objects ─► there, of their size? ─► packed again, as they were ─► put, read back
//! ```
//!
//! Takes what a leader has read of the manifest when it begins, and now and then, and asks for the size of each object, a request for each
//! and none of their bytes: one that has other bytes is for `scribe verify --archive` to find, and for an operator to
//! remove. What cannot be put back is told, and nothing waits for it; what may pass is tried again.

use std::pin::pin;

use futures_util::{StreamExt, stream};

use super::work::Staging;
use crate::{
    archive::{ObjectRef, Staged, Store, Trouble},
    error::Result,
    sealed::Segments,
    segment::Packing,
};

/// Requests at once.
const REQUESTS: usize = 16;

/// What to do about an object that a member cannot put back.
const ADVICE: &str = "bring it back from a copy of the archive, or begin to lead where its segment's file still is; else \
                      stop the cluster, remove the manifest's entries from this segment on, and start it again: what \
                      they named is archived anew";

/// Looks for each object, and puts back what is lost.
///
/// # Errors
/// Whatever may pass: of the store, of this node's disk, of a segment that is damaged here.
pub(super) async fn put_back(
    store: &dyn Store,
    objects: Vec<ObjectRef>,
    segments: &Segments,
    staging: &Staging,
) -> Result<()> {
    let look = |object: ObjectRef| async move { (object, store.head(&object.name()).await) };
    let mut looks = pin!(stream::iter(objects).map(look).buffered(REQUESTS));
    while let Some((object, size)) = looks.next().await {
        let (archive, name) = (store.place(), object.name());
        match size {
            Ok(bytes) if bytes == object.bytes => {}
            Ok(bytes) => {
                let expected = object.bytes;
                tracing::error!(
                    archive, object = %name, bytes, expected,
                    "an object of the archive is damaged: remove it; the leader puts it back at its next audit, or when it is \
                     started again"
                );
            }
            Err(error) if error.trouble() == Trouble::NotFound => match pack(&object, segments, staging)? {
                Again::Packed(staged) => {
                    staged.upload(store).await?;
                    tracing::warn!(archive, object = %name, "the archive had lost an object: it is put back");
                }
                Again::Cannot(why) => {
                    tracing::error!(archive, object = %name, why, "the archive has lost an object: {ADVICE}");
                }
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// An object that is to be written a second time.
enum Again {
    Packed(Staged),
    /// Trying again will not help.
    Cannot(&'static str),
}

fn pack(object: &ObjectRef, segments: &Segments, staging: &Staging) -> Result<Again> {
    let segment = usize::try_from(object.segment.0).ok().and_then(|at| segments.get(at));
    let Some(segment) = segment.filter(|segment| segment.stub().is_none()) else {
        return Ok(Again::Cannot("this node does not have its segment's file"));
    };
    staging.check_room(segment.summary().file_bytes)?;
    // It may have been packed by another configuration.
    let others = [Packing::Lz4, Packing::None].into_iter().chain((1..=9).map(Packing::Zstd));
    let others = others.filter(|other| *other != staging.packing);
    for packing in [staging.packing].into_iter().chain(others) {
        let Staging { io, path, .. } = staging;
        let staged = Staged::pack(io.clone(), segment, packing, object.epoch, path)?;
        if staged.object() == object {
            return Ok(Again::Packed(staged));
        }
    }
    Ok(Again::Cannot("its segment cannot be packed as it was: another build has done it"))
}
