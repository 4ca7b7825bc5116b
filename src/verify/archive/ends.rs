//! What lies in an archive behind the end of its manifest, and what that tells of the manifest.
//!
//! ```text
//! a writer, segment after segment:   object ─► checkpoint ─► entry ─► object ─► …
//!                                          └──────┴── killed here: one of them behind the end
//! ```
//!
//! So whoever dies leaves at most the next segment's object and its checkpoint without an entry, and the next writer
//! goes on with those. Anything further behind was written after entries that are not there any more. And what a later
//! epoch has written beyond its checkpoint, it has written behind entries of its own.
//!
//! Takes the end of a manifest, gives nothing, a doubt, or damage. It does not look into what it finds: names tell.

use crate::{
    archive::{Epoch, Manifest, layout, name::Name},
    error::{Code, Error, Result},
    types::{SegmentId, Seq},
};

/// Names behind the end of a manifest, so many as tell.
#[derive(Debug, Default)]
struct Behind {
    /// The first checkpoint behind the end.
    checkpoint: Option<Name>,
    /// The object of the next segment.
    object: Option<Name>,
    /// What only stands behind further entries.
    further: Option<Name>,
}

/// Compares the end of a manifest, segment `next` and record `end`, with what lies behind it, of its epoch and of the
/// `later` ones, which have no manifest. Why it may not be the end, if something says so.
///
/// # Errors
/// [`Code::Corrupt`] where entries have been taken away, naming the first; others as the store's.
pub(super) async fn judge(
    manifest: &Manifest,
    (next, end): (SegmentId, Seq),
    later: &[Epoch],
) -> Result<Option<String>> {
    let place = manifest.store().place();
    let found = behind(manifest, next, end).await?;
    let entry = layout::entry(manifest.epoch(), next);
    if let Some(name) = found.further {
        // It may have grown since its entries were read.
        return match manifest.entry(next).await? {
            None => Err(taken(place, &entry, &name)),
            Some(_) => Ok(None),
        };
    }
    // Without a manifest there is to be nothing at all.
    let mut doubt = match next {
        SegmentId(0) => found.checkpoint.or(found.object).map(|name| (entry, name)),
        _ => found.checkpoint.map(|name| (entry, name)),
    };
    for epoch in later {
        let later = Manifest::new(manifest.store().clone(), manifest.ledger(), *epoch);
        let found = behind(&later, SegmentId(0), end).await?;
        let entry = layout::entry(*epoch, SegmentId(0));
        let one = found.object.or(found.checkpoint);
        // What it goes on from is carried over before its first object.
        let (certain, perhaps) =
            if next.0 > 0 { (found.further.or(one), None) } else { (found.further, one) };
        if certain.is_none() && perhaps.is_none() || later.entry(SegmentId(0)).await?.is_some() {
            continue;
        }
        if let Some(name) = certain {
            return Err(taken(place, &entry, &name));
        }
        doubt = doubt.or(perhaps.map(|name| (entry, name)));
    }
    Ok(doubt.map(|(entry, name)| {
        format!(
            "{name} is in {place}, and {entry} is not: a node that was killed, or is at it, leaves that, and whoever leads \
             next puts it right. If it stays so, the entry was taken away, and perhaps later ones"
        )
    }))
}

fn taken(place: &str, entry: &Name, name: &Name) -> Error {
    let what = format!(
        "{entry} in {place} is missing, and perhaps later ones: {name} is there, which is written behind it only. Start \
         a node of the cluster, which enters its segments again when it leads; if all are lost, take a copy of the \
         archive, remove what its manifest does not name, and restore what is left"
    );
    Error::new(Code::Corrupt, what)
}

/// What lies behind segment `next` and record `end`.
async fn behind(manifest: &Manifest, next: SegmentId, end: Seq) -> Result<Behind> {
    let (store, epoch) = (manifest.store(), manifest.epoch());
    let mut found = Behind::default();
    let mut after = next.0.checked_sub(1).map(|last| format!("{last:020}."));
    'objects: loop {
        let page = store.list(&layout::segments(epoch), after.as_deref()).await?;
        for name in page.names {
            match layout::parse_segment(&name) {
                Some(id) if id > next => {
                    found.further = Some(name);
                    break 'objects;
                }
                Some(id) if id == next => found.object = Some(name),
                _ => {}
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let (mut after, mut size_behind) = (Some(format!("{:020}.", end.0)), None);
    loop {
        let page = store.list(&layout::checkpoints(epoch), after.as_deref()).await?;
        for name in page.names {
            let Some((size, _)) = layout::parse_checkpoint(&name).filter(|(size, _)| *size > end.0) else {
                continue;
            };
            if *size_behind.get_or_insert(size) != size {
                found.further.get_or_insert(name);
                return Ok(found);
            }
            found.checkpoint = Some(name);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}
