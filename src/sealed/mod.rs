//! Everything that is sealed, as one layer: the segments from the first record on, and the index over them.
//!
//! ```text
//! newest(key)   hot records ─► segments that are not in the index yet, newest first, by their filters
//!               ─► index ─► record
//! older(key)    segments from the position downwards, by their filters
//! record(seq)   the segment that holds it
//! keys(range)   index ⊕ key tables of the segments that are not in it
//!
//! install(segment) ─► list of segments (ArcSwap) … feed_index: several key tables merged into one run
//! ```
//!
//! Takes finished segments in order, gives records and positions. Nothing in here ever changes, so a reader that
//! has the list needs no lock. It does not own what is not sealed yet (`state`), the tree, or when a segment is
//! cut. The index may be lost at any time: it is built again from the segments, whose key tables answer
//! meanwhile.

mod evict;
mod feed;
mod hot;
mod open;
mod scan;
pub mod thaw;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::hot::HotRecords;
pub use self::{
    open::{FoundSegments, SealedOptions},
    scan::Keys,
};
use crate::{
    archive::cold::ColdCache,
    env::Io,
    error::{Code, Error, Result},
    index::{Index, IndexError, IndexOptions},
    segment::{BlockCache, KeyHash, Segment, file_name, remove, stub_name},
    types::{ColdBlock, Op, Record, SegmentId, Seq, Versions},
};

/// The segments in order: number `n` is at `n`, and each begins where the one before ends.
pub type Segments = Arc<Vec<Arc<Segment>>>;

/// Has the segment repaired that an error is about; whether that is being tried.
pub type Mender = Box<dyn Fn(&Error) -> bool + Send + Sync>;

/// See the head of this module.
pub struct Sealed {
    io: Arc<dyn Io>,
    dir: PathBuf,
    cache: Arc<BlockCache>,
    /// Copies of blocks whose segments are in the archive alone.
    cold: Arc<ColdCache>,
    hot: HotRecords,
    segments: ArcSwap<Vec<Arc<Segment>>>,
    /// Held by whoever changes the list.
    changing: Mutex<()>,
    /// Who repairs segments, once somebody does.
    mender: OnceLock<Mender>,
    index: ArcSwap<Index>,
    /// Where the index is; none for one in memory.
    index_dir: Option<PathBuf>,
    index_options: IndexOptions,
    /// Whether an answer of the index could not be had: it is to be built anew.
    doubted: AtomicBool,
}

/// What is sealed at one moment.
pub struct Pinned {
    segments: Segments,
    index: Arc<Index>,
    /// Segments below this are in the index.
    indexed: usize,
}

impl Pinned {
    fn end_seq(&self) -> Seq {
        end_of(&self.segments)
    }
}

/// What a read that goes on finds cold: all of it is asked for at once.
#[derive(Debug, Default)]
pub struct Missing(Vec<ColdBlock>);

/// The most blocks that one read asks for at once.
const MISSING_MAX: usize = 64;

impl Missing {
    /// What was read; none where it is cold.
    ///
    /// # Errors
    /// Any other than that.
    pub fn without<T>(&mut self, read: Result<T>) -> Result<Option<T>> {
        match read {
            Err(error) if !error.cold_blocks().is_empty() => {
                self.0.extend_from_slice(error.cold_blocks());
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// How many are cold so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is time to fetch them.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= MISSING_MAX
    }

    /// Nothing was cold.
    ///
    /// # Errors
    /// [`Error::cold`] otherwise.
    pub fn done(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::cold(self.0)) }
    }
}

fn end_of(segments: &[Arc<Segment>]) -> Seq {
    segments.last().map_or(Seq(0), |segment| segment.summary().end_seq)
}

impl Sealed {
    /// The directory of the segments.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disk they are on.
    #[must_use]
    pub fn io(&self) -> &Arc<dyn Io> {
        &self.io
    }

    /// Copies of blocks that are in the archive alone.
    #[must_use]
    pub const fn cold(&self) -> &Arc<ColdCache> {
        &self.cold
    }

    /// All segments, in order.
    #[must_use]
    pub fn segments(&self) -> Segments {
        self.segments.load_full()
    }

    /// One past the last sealed record.
    #[must_use]
    pub fn end_seq(&self) -> Seq {
        end_of(&self.segments.load())
    }

    /// The number of the next segment.
    #[must_use]
    pub fn next_id(&self) -> SegmentId {
        SegmentId(self.segments.load().len() as u64)
    }

    /// Opens the segment that has just been written and adds it.
    ///
    /// # Errors
    /// [`Code::Io`], [`Code::Corrupt`]: the disk did not
    /// give back what was written.
    pub fn install(&self, id: SegmentId) -> Result<Arc<Segment>> {
        let path = self.dir.join(file_name(id));
        let segment = Arc::new(Segment::open(&*self.io, &path, Arc::clone(&self.cache))?);
        let _nobody_else = self.changing.lock();
        let segments = self.segments.load();
        open::check_follows(segments.last().map(|last| last.summary()), segment.summary(), &path)?;
        let all = segments.iter().cloned().chain([Arc::clone(&segment)]).collect();
        // From here on readers find its records here.
        self.segments.store(Arc::new(all));
        Ok(segment)
    }

    /// Opens the file that has taken the place of a segment's: readers find its records there from now on. Those who
    /// are at the old one finish with that. What caches hold of it was checked, and stays.
    ///
    /// # Errors
    /// [`Code::Io`]; [`Code::Corrupt`] when it is not the same
    /// segment.
    pub fn replace(&self, id: SegmentId) -> Result<()> {
        let path = self.dir.join(file_name(id));
        let segment = Segment::open(&*self.io, &path, Arc::clone(&self.cache))?;
        self.swap(segment, &path)?;
        // What was here of it while its records were not is of no use any more; a start removes it, too.
        let _ = remove(&*self.io, &self.dir.join(stub_name(id)));
        Ok(())
    }

    /// Lets readers find a segment in another file of it.
    fn swap(&self, segment: Segment, path: &Path) -> Result<()> {
        let _nobody_else = self.changing.lock();
        let mut segments = self.segments.load().to_vec();
        let place = usize::try_from(segment.summary().id().0).ok().and_then(|at| segments.get_mut(at));
        match place.filter(|place| place.summary() == segment.summary()) {
            Some(place) => *place = Arc::new(segment),
            None => {
                let what = format!("{} is not the segment that was there", path.display());
                return Err(Error::new(Code::Corrupt, what));
            }
        }
        self.segments.store(Arc::new(segments));
        Ok(())
    }

    /// From now on `mender` hears of damage that stages meet. The first one counts.
    pub fn set_mender(&self, mender: Mender) {
        let _ = self.mender.set(mender);
    }

    /// Has the damage repaired that a stage has met; whether it is worth to try again later. Before somebody repairs, it
    /// is.
    #[must_use]
    pub fn mend(&self, error: &Error) -> bool {
        error.damaged_segment().is_some() && self.mender.get().is_none_or(|mender| mender(error))
    }

    /// The newest sealed version of a key, tombstones included.
    ///
    /// # Errors
    /// [`Code::Io`], [`Code::Corrupt`].
    pub fn newest(&self, key: &[u8]) -> Result<Option<(Seq, Op)>> {
        self.newest_in(&self.pin(), key)
    }

    /// What is sealed now.
    #[must_use]
    pub fn pin(&self) -> Pinned {
        let index = self.index.load_full();
        // The position first: segments that come in meanwhile are then looked at in vain, never passed over.
        let indexed = index.position().map_or(0, |position| position.segment.0 as usize + 1);
        Pinned { segments: self.segments(), index, indexed }
    }

    fn newest_in(&self, pinned: &Pinned, key: &[u8]) -> Result<Option<(Seq, Op)>> {
        let hash = KeyHash::of(key);
        let Pinned { segments, index, indexed } = pinned;
        for segment in segments.get(*indexed..).unwrap_or_default().iter().rev() {
            if segment.may_contain(hash)
                && let Some(version) = segment.newest(key, Seq(u64::MAX))?
            {
                return Ok(Some((version.seq, version.op)));
            }
        }
        match index.newest(key) {
            Ok(newest) => Ok(newest.map(|newest| (newest.seq, op_of(newest.is_tombstone)))),
            Err(error) => {
                self.doubt(&error);
                self.newest_without_index(segments, *indexed, key, hash)
            }
        }
    }

    /// Notes that the index did not answer.
    fn doubt(&self, error: &IndexError) {
        if !self.doubted.swap(true, Ordering::AcqRel) {
            tracing::warn!(%error, "the index does not answer; segments do in its place until it is built anew");
        }
    }

    /// The same from the key tables alone: slow, and right whatever has become of the index.
    fn newest_without_index(
        &self,
        segments: &Segments,
        below: usize,
        key: &[u8],
        hash: KeyHash,
    ) -> Result<Option<(Seq, Op)>> {
        for segment in segments.iter().take(below).rev().filter(|segment| segment.may_contain(hash)) {
            if let Some(version) = segment.newest(key, Seq(u64::MAX))? {
                return Ok(Some((version.seq, version.op)));
            }
        }
        Ok(None)
    }

    /// The newest version of a key below `position`, tombstones included.
    ///
    /// # Errors
    /// As [`Sealed::newest`].
    pub fn version_below(&self, key: &[u8], position: Seq) -> Result<Option<Record>> {
        let pinned = self.pin();
        if pinned.end_seq() <= position {
            if let Some(record) = self.hot.get(key, &pinned.segments) {
                return Ok(Some(record));
            }
            match self.newest_in(&pinned, key)? {
                None => return Ok(None),
                Some((seq, _)) if seq < position => {
                    let record = self.record(seq)?;
                    record.iter().for_each(|record| self.hot.keep(record, &pinned.segments));
                    return Ok(record);
                }
                // The index has come further meanwhile, and knows a newer one than was asked for.
                Some(_) => {}
            }
        }
        let mut versions = Versions::at_most(1, usize::MAX);
        self.versions_below(key, position, &mut versions)?;
        Ok(versions.into_records().pop())
    }

    /// Adds a key's versions below `position` to `versions`, newest first, until it is full.
    ///
    /// # Errors
    /// As [`Sealed::newest`].
    pub fn versions_below(&self, key: &[u8], position: Seq, versions: &mut Versions) -> Result<()> {
        let hash = KeyHash::of(key);
        let segments = self.segments();
        let below = segments.partition_point(|segment| segment.summary().head.first_seq < position);
        let mut missing = Missing::default();
        'all: for segment in segments[..below].iter().rev().filter(|segment| segment.may_contain(hash)) {
            for version in segment.versions(key, position) {
                if versions.is_full() || missing.is_full() {
                    break 'all;
                }
                if let Some(stored) = missing.without(segment.record(version?.seq))? {
                    versions.push(stored.record);
                }
            }
        }
        missing.done()
    }

    /// The record at a sealed position; `None` beyond the last.
    ///
    /// # Errors
    /// [`Code::Io`], [`Code::Corrupt`].
    pub fn record(&self, seq: Seq) -> Result<Option<Record>> {
        self.segment_of(seq).map(|segment| Ok(segment.record(seq)?.record)).transpose()
    }

    /// The segment that holds a position; `None` beyond the last.
    #[must_use]
    pub fn segment_of(&self, seq: Seq) -> Option<Arc<Segment>> {
        let segments = self.segments.load();
        let at = segments.partition_point(|segment| segment.summary().end_seq <= seq);
        segments.get(at).cloned()
    }

    /// Sizes for status and metrics.
    #[must_use]
    pub fn sizes(&self) -> SealedSizes {
        let Pinned { segments, index, indexed } = self.pin();
        SealedSizes {
            segments: segments.len() as u64,
            segment_bytes: segments.iter().map(|segment| segment.summary().file_bytes).sum(),
            local_bytes: segments.iter().map(|segment| segment.local_bytes()).sum(),
            cold_segments: segments.iter().filter(|segment| segment.stub().is_some()).count() as u64,
            raw_bytes: segments.iter().map(|segment| segment.summary().raw_bytes).sum(),
            resident_bytes: segments.iter().map(|segment| segment.resident_bytes()).sum(),
            unindexed_segments: segments.len().saturating_sub(indexed) as u64,
            index_bytes: index.disk_bytes(),
            cache_bytes: self.cache.bytes() + self.hot.bytes(),
        }
    }

    /// Ends the index's work in the background.
    pub fn close(&self) {
        self.index.load().close();
    }
}

/// How much is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealedSizes {
    /// Segments.
    pub segments: u64,
    /// Bytes of their files, those that have gone among them.
    pub segment_bytes: u64,
    /// Bytes that they have on this node's disk.
    pub local_bytes: u64,
    /// Those whose records are in the archive alone.
    pub cold_segments: u64,
    /// Bytes of their keys and values.
    pub raw_bytes: u64,
    /// Bytes of their filters and directories in memory.
    pub resident_bytes: u64,
    /// Those that the index does not cover yet.
    pub unindexed_segments: u64,
    /// Bytes of the index's files.
    pub index_bytes: u64,
    /// Bytes of cached blocks and records.
    pub cache_bytes: u64,
}

fn op_of(is_tombstone: bool) -> Op {
    if is_tombstone { Op::Delete } else { Op::Put }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed")
            .field("dir", &self.dir)
            .field("end_seq", &self.end_seq())
            .finish_non_exhaustive()
    }
}
