//! Copying what a node has sealed, beside it while it runs.
//!
//! ```text
//! data_dir/segments ─► one that the copy has: the same digest?        one that it has not: .part ─► verified ─► its name
//! ```
//!
//! Sealed segments never change, so nothing has to be stopped or locked, and a copy that has been made before only gets
//! what is new. A segment whose records are in the archive alone is not copied from there: the archive is a copy. What is not sealed yet, the signing key and the index are left out. Takes two
//! directories, gives how much was copied; it does not own whether the ledger is whole: `scribe verify` says that of
//! the copy, as of the original.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    archive::object::unpack,
    env::{Io, OpenMode},
    error::{Code, Error, Result},
    segment::{BlockCache, Segment, file_name, is_unfinished, parse_name, partial_name, remove_unfinished},
    types::{SegmentId, Seq},
    verify::Listing,
};

const CACHE_BYTES: u64 = 1 << 20;

/// What a copy has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackedUp {
    /// Segments in it.
    pub segments: u64,
    /// Those that were copied this time.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// One past the last record in it.
    pub end_seq: Seq,
}

/// Brings a copy up to what is sealed in a data directory, or in a directory of segments.
///
/// # Errors
/// [`Code::Malformed`] when there is no ledger; [`Code::InvalidConfig`] when the copy is of another one, or its
/// directory holds other things; [`Code::Corrupt`] when a segment is damaged; [`Code::Io`], [`Code::DiskFull`]. What
/// has been copied until then stays.
pub fn backup(io: &Arc<dyn Io>, data_dir: &Path, to: &Path) -> Result<BackedUp> {
    let from = Listing::of(&**io, data_dir)?;
    let failed = |what: &str, e| Error::io(format!("{what} {}", to.display()), &e);
    io.create_dir_all(to).map_err(|e| failed("creating", e))?;
    let there = io.list(to).map_err(|e| failed("listing", e))?;
    if let Some(other) = there.iter().find(|name| parse_name(name).is_none() && !is_unfinished(name)) {
        let what =
            format!("{} holds {other}, which is no segment: copy into a directory of its own", to.display());
        return Err(Error::new(Code::InvalidConfig, what));
    }
    remove_unfinished(&**io, to)?;
    let there: BTreeSet<SegmentId> = there.iter().filter_map(|name| parse_name(name)).collect();
    if there.last().is_some_and(|last| last.0 >= from.segments) {
        let what =
            format!("{} has more segments than {}: it is no copy of it", to.display(), data_dir.display());
        return Err(Error::new(Code::InvalidConfig, what));
    }
    let cache = Arc::new(BlockCache::new(CACHE_BYTES));
    let open = |path: PathBuf| Segment::open(&**io, &path, cache.clone());
    // Before anything is copied: a copy with a gap is none.
    for id in (0..from.segments).map(SegmentId).filter(|id| !there.contains(id)) {
        if from.open(&**io, id.0, cache.clone())?.stub().is_some() {
            return Err(cold(id, data_dir));
        }
    }
    let mut done = BackedUp::default();
    for id in (0..from.segments).map(SegmentId) {
        let original = from.open(&**io, id.0, cache.clone())?;
        let (summary, path) = (original.summary(), to.join(file_name(id)));
        if there.contains(&id) {
            if open(path.clone())?.summary().digest != summary.digest {
                let what =
                    format!("{} is of another ledger: copy into a directory of its own", path.display());
                return Err(Error::new(Code::InvalidConfig, what));
            }
        } else {
            if original.stub().is_some() {
                return Err(cold(id, data_dir));
            }
            let partial = to.join(partial_name(id));
            let file = io.open(&partial, OpenMode::Buffered).map_err(|e| failed("writing into", e))?;
            io.sync_dir(to).map_err(|e| failed("syncing", e))?;
            unpack(&original, file)?;
            open(partial.clone())?.verify(|_| {})?;
            io.rename(&partial, &path).map_err(|e| failed("writing into", e))?;
            // From here on it is a part of the copy; after the next line, also behind a crash.
            io.sync_dir(to).map_err(|e| failed("syncing", e))?;
            done.copied += 1;
            done.copied_bytes += summary.file_bytes;
        }
        done.segments += 1;
        done.end_seq = summary.end_seq;
    }
    Ok(done)
}

/// Why a segment cannot be copied.
fn cold(id: SegmentId, data_dir: &Path) -> Error {
    let what = format!(
        "the records of segment {id} are in the archive alone, and not in {}: copy the archive, or restore it into a \
         directory (scribe restore) and copy that",
        data_dir.display()
    );
    Error::new(Code::Unavailable, what)
}
