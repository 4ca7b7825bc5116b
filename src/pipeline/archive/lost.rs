//! Objects that the manifest names and that the archive has lost: put back where this node has the segment's file.
//!
//! ```text
//! the manifest's objects ─► there, of their size? ─► packed again, as they were ─► put, read back
//! ```
//!
//! Takes some of the objects that a leader has read of the manifest, and asks for the size of each, a request for each and
//! none of their bytes: one that has other bytes is for `scribe verify --archive` to find, and for an operator to remove.
//! Gives what was found of each. It does not own when that is asked, nor when it is asked again.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::work::{Staging, is_same};
use crate::{
    archive::{ObjectRef, Staged, Store, Trouble, marker::StoreId},
    error::{Error, Result},
    sealed::Segments,
    segment::Packing,
};

/// Objects that are looked for at once.
pub(super) const REQUESTS: usize = 16;

/// What was found of an object.
#[derive(Debug)]
pub(super) enum Found {
    /// It is there.
    There,
    /// It was not, and is again.
    PutBack,
    /// It is lost or damaged, and this node can do nothing about it: what an operator can.
    Lost(String),
    /// This could not be told, or done, now.
    Failed(Error),
}

/// Looks for each object, and puts back what is lost.
///
/// # Errors
/// Where the archive's place is another store's than the `known` one, or empty: nothing is known of any object then.
pub(super) async fn look_for(
    (store, known): (Arc<dyn Store>, Option<StoreId>),
    objects: Vec<ObjectRef>,
    segments: Segments,
    staging: Staging,
) -> Result<Vec<(ObjectRef, Found)>> {
    let look = |object: ObjectRef| {
        let store = &store;
        async move { (object, store.head(&object.name()).await) }
    };
    is_same(&*store, known).await?;
    let looked: Vec<_> = stream::iter(objects).map(look).buffered(REQUESTS).collect().await;
    let mut found = Vec::with_capacity(looked.len());
    for (object, size) in looked {
        let is = match size {
            Ok(bytes) if bytes == object.bytes => Found::There,
            Ok(bytes) => Found::Lost(format!(
                "{} in {} is damaged, it has {bytes} bytes instead of {}: remove it; a leader that has its segment's file \
                 puts it back at the next audit, or when it is started again",
                object.name(),
                store.place(),
                object.bytes
            )),
            Err(error) if error.trouble() == Trouble::NotFound => {
                put_back((&*store, known), &object, &segments, &staging).await
            }
            Err(error) => Found::Failed(error.into()),
        };
        found.push((object, is));
    }
    Ok(found)
}

async fn put_back(
    (store, known): (&dyn Store, Option<StoreId>),
    object: &ObjectRef,
    segments: &Segments,
    staging: &Staging,
) -> Found {
    let lost = |why: &str| {
        let what = format!(
            "{} is gone from {}, and {why}: bring it back from a copy of the archive, or let a member lead that still has \
             its segment's file; until then its records cannot be read where that has left",
            object.name(),
            store.place()
        );
        Found::Lost(what)
    };
    let done = match pack(object, segments, staging) {
        // Packing took its time.
        Ok(Again::Packed(staged)) => match is_same(store, known).await {
            Ok(()) => staged.upload(store).await,
            Err(error) => Err(error),
        },
        Ok(Again::Cannot(why)) => return lost(why),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => Found::PutBack,
        // It is repaired, and packed then.
        Err(error) if error.damaged_segment().is_some() => Found::Failed(error),
        Err(error) => {
            let what = format!(
                "{} is gone from {}, and cannot be put back now: {error}",
                object.name(),
                store.place()
            );
            Found::Failed(Error::new(error.code(), what))
        }
    }
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
    Ok(Again::Cannot("its segment cannot be packed as it was, which another build has done"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        archive::{DirectoryStore, Epoch, LedgerId, probe::probe},
        sim::{SimIo, SimRng, runtime},
        types::SegmentId,
    };

    #[test]
    fn nothing_is_looked_for_where_the_archive_is_not() {
        let io = Arc::new(SimIo::new(1));
        let store: Arc<dyn Store> = Arc::new(DirectoryStore::new(io.clone(), Path::new("/archive"), 1));
        let object = ObjectRef { epoch: Epoch::FIRST, segment: SegmentId(0), bytes: 9, hash: [1; 32] };
        let look = async |known| {
            let staging = Staging {
                io: io.clone(),
                path: "/staging".into(),
                packing: Packing::None,
                free_bytes_min: 0,
            };
            look_for((store.clone(), Some(known)), vec![object], Segments::default(), staging).await
        };
        runtime(1).block_on(async {
            let error = look(StoreId([7; 16])).await.unwrap_err();
            assert!(error.message().contains("is it mounted"), "{error}");
            let there = probe(&*store, LedgerId([2; 16]), &SimRng::new(1)).await.unwrap().store;
            let error = look(StoreId([7; 16])).await.unwrap_err();
            assert!(error.message().contains("another store"), "{error}");
            let found = look(there).await.unwrap();
            assert!(matches!(&found[..], [(_, Found::Lost(_))]), "{found:?}");
        });
    }
}
