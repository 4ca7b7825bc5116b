//! Opening what is sealed: the segments follow each other without a gap, or the node does not start.
//!
//! In two steps, for whoever has more to ask before anything on disk changes: [`Sealed::find`] reads the segments,
//! [`FoundSegments::open`] removes what a crash left unfinished and opens the index, which is begun anew where it is
//! not of these segments.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Sealed, hot::HotRecords};
use crate::{
    archive::cold::{ColdCache, ColdCacheOptions},
    env::Io,
    error::{Code, Error, Result},
    index::{Index, IndexError, IndexOptions},
    segment::{
        BlockCache, Segment, SegmentSummary, file_name, parse_name, parse_stub_name, remove,
        remove_unfinished, stub_name,
    },
    types::{SegmentId, Seq},
};

/// How what is sealed is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedOptions {
    /// Memory for blocks of segments.
    pub block_cache_bytes: u64,
    /// Memory for records that are asked for again and again.
    pub hot_cache_bytes: u64,
    /// The index's.
    pub index: IndexOptions,
    /// The disk for copies of cold blocks.
    pub cold: ColdCacheOptions,
}

/// The segments of a data directory, read and not changed.
pub struct FoundSegments {
    io: Arc<dyn Io>,
    data_dir: PathBuf,
    options: SealedOptions,
    cache: Arc<BlockCache>,
    cold: Arc<ColdCache>,
    segments: Vec<Arc<Segment>>,
}

impl Sealed {
    /// Reads the segments of a data directory; none, at first. Nothing is changed there.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when a segment is missing, damaged, or does not continue the one before;
    /// [`Code::Io`] when the disk fails.
    pub fn find(io: Arc<dyn Io>, data_dir: &Path, options: SealedOptions) -> Result<FoundSegments> {
        let cold = ColdCache::new(io.clone(), data_dir, options.cold);
        let cache = Arc::new(BlockCache::new(options.block_cache_bytes).with_cold(cold.clone()));
        let segments = open_segments(&*io, &data_dir.join("segments"), &cache)?;
        Ok(FoundSegments { io, data_dir: data_dir.to_path_buf(), options, cache, cold, segments })
    }

    /// [`Sealed::find`] and [`FoundSegments::open`] in one.
    ///
    /// # Errors
    /// As theirs.
    pub fn open(io: Arc<dyn Io>, data_dir: &Path, options: SealedOptions) -> Result<Self> {
        Self::find(io, data_dir, options)?.open()
    }
}

impl FoundSegments {
    /// The newest of them.
    #[must_use]
    pub fn newest(&self) -> Option<&SegmentSummary> {
        self.segments.last().map(|segment| segment.summary())
    }

    /// Makes the directory if it is missing, and opens the index.
    ///
    /// # Errors
    /// [`Code::Io`] when the disk fails. An index that is damaged is begun anew.
    pub fn open(self) -> Result<Sealed> {
        let Self { io, data_dir, options, cache, cold, segments } = self;
        let dir = data_dir.join("segments");
        let in_dir = |what: &str| format!("{what} {}", dir.display());
        io.create_dir_all(&dir).map_err(|e| Error::io(in_dir("creating"), &e))?;
        io.sync_dir(&data_dir).map_err(|e| Error::io(in_dir("making durable the name of"), &e))?;
        remove_unfinished(&*io, &dir)?;
        cold.clear()?;
        // A crash came before the file was gone, or while it came back: nothing is cold of it.
        for segment in segments.iter().filter(|segment| segment.stub().is_none()) {
            remove(&*io, &dir.join(stub_name(segment.summary().id())))?;
        }
        let index_dir = data_dir.join("index");
        // The index does its own I/O: where only a simulated disk is, it is in memory.
        let index_dir = io.native_path(&index_dir);
        let index = match &index_dir {
            Some(path) => open_index(path, options.index, &segments)?,
            None => Index::in_memory(options.index),
        };
        Ok(Sealed {
            io,
            dir,
            cache,
            cold,
            hot: HotRecords::new(options.hot_cache_bytes, options.index.hash_seed),
            segments: ArcSwap::from_pointee(segments),
            changing: Mutex::default(),
            mender: OnceLock::new(),
            index: ArcSwap::from_pointee(index),
            index_dir,
            index_options: options.index,
            doubted: AtomicBool::new(false),
        })
    }
}

fn open_segments(io: &dyn Io, dir: &Path, cache: &Arc<BlockCache>) -> Result<Vec<Arc<Segment>>> {
    let names = io.list(dir).map_err(|e| Error::io(format!("listing {}", dir.display()), &e))?;
    let ids: BTreeSet<SegmentId> =
        names.iter().filter_map(|name| parse_name(name).or_else(|| parse_stub_name(name))).collect();
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    for id in ids {
        let expected = SegmentId(segments.len() as u64);
        if id != expected {
            let missing = dir.join(file_name(expected));
            return Err(Error::new(
                Code::Corrupt,
                format!(
                    "{} is missing, and later segments are there: restore it from a backup, another member or \
                     the archive",
                    missing.display()
                ),
            )
            .of_damage(Some(expected)));
        }
        let segment = Segment::open_in(io, dir, id, Arc::clone(cache))?;
        check_follows(
            segments.last().map(|last| last.summary()),
            segment.summary(),
            &dir.join(file_name(id)),
        )?;
        segments.push(Arc::new(segment));
    }
    Ok(segments)
}

/// Checks that a segment continues the one before it: positions, log and tree.
pub(super) fn check_follows(last: Option<&SegmentSummary>, next: &SegmentSummary, path: &Path) -> Result<()> {
    let expected_id = last.map_or(0, |last| last.head.id.0 + 1);
    let expected_seq = last.map_or(Seq(0), |last| last.end_seq);
    let log_continues = last.is_none_or(|last| last.last_log.index < next.first_log.index);
    if next.head.id.0 == expected_id && next.head.first_seq == expected_seq && log_continues {
        return Ok(());
    }
    Err(Error::new(
        Code::Corrupt,
        format!(
            "{} does not continue the segment before it (number {} from position {}, expected {expected_id} from \
             {expected_seq}): it belongs to another ledger; restore the right one",
            path.display(),
            next.head.id,
            next.head.first_seq
        ),
    ))
}

/// Opens the index, or begins it anew when it is damaged or of other segments than these.
fn open_index(path: &Path, options: IndexOptions, segments: &[Arc<Segment>]) -> Result<Index> {
    let why = match Index::open(path, options) {
        Ok(index) if covers(&index, segments) => {
            if index.position().is_none() && !segments.is_empty() {
                tracing::info!(path = %path.display(), "the index is empty: it is built from the segments");
            }
            return Ok(index);
        }
        Ok(_) => "it is of other segments".to_owned(),
        Err(error @ IndexError::Damaged { .. }) => error.to_string(),
        Err(error) => return Err(error.into()),
    };
    tracing::warn!(path = %path.display(), why, "the index is built anew from the segments");
    Ok(Index::rebuild_from_scratch(path, options)?)
}

/// Whether the index ends with one of these segments.
fn covers(index: &Index, segments: &[Arc<Segment>]) -> bool {
    index.position().is_none_or(|position| {
        let last = segments.get(position.segment.0 as usize);
        last.is_some_and(|last| last.summary().end_seq == position.end_seq)
    })
}
