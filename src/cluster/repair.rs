//! Repairs sealed segments whose files do not give back what was written: from wherever else they are.
//!
//! ```text
//!  read ─► damage in segment n ─► repair(n)       who comes meanwhile waits for the same one
//!                                    │  still damaged?
//!                                    ▼  source after source
//!             segment-n.seg.part ◄── fetch ── another member, …
//!                                    │  synced, the same segment, every byte verified
//!                                    ▼
//!  read, again ◄── replace ◄── segment-n.seg      named over the damaged file
//! ```
//!
//! Takes errors that name a damaged segment, gives back when its file is whole again, or why it is not. What a segment
//! has to be is known here: its summary was checked when it was opened, and nothing that another member says is
//! believed. A crash leaves the old file or the new one. It does not own which sources there are, nor who reads.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    archive::cold::Held,
    env::{File, Io, OpenMode},
    error::{Code, Error, Result},
    runtime::{HEAVY_BYTES, without_blocking_others},
    sealed::{Sealed, thaw::Thaw},
    segment::{BlockCache, Segment, SegmentSummary, file_name, partial_name, remove},
    types::SegmentId,
};

/// How long a reader waits for a repair. It goes on without him.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a repair that failed is not tried again: whoever reads meanwhile is told the same.
const REST: Duration = Duration::from_secs(1);

/// What is verified goes around the cache; opening it needs one all the same.
const CACHE_BYTES: u64 = 1 << 20;

/// Another place where a segment may be.
pub trait SegmentSource: Send + Sync {
    /// What a person calls it.
    fn name(&self) -> String;

    /// Whether it is the archive: what is damaged there is sought at the others.
    fn is_archive(&self) -> bool {
        false
    }

    /// Writes the file of this segment, from its first byte to its last. What it writes is verified by whoever asked.
    ///
    /// # Errors
    /// [`Code::NotFound`] when it is not there, [`Code::Unavailable`] when nobody answers, and those of the file.
    fn fetch<'a>(
        &'a self,
        wanted: &'a SegmentSummary,
        file: &'a Arc<dyn File>,
        path: &'a Path,
    ) -> BoxFuture<'a, Result<()>>;
}

/// The places where segments may be at this moment, the best first.
pub type Elsewhere = Box<dyn Fn() -> Vec<Box<dyn SegmentSource>> + Send + Sync>;

/// What is damaged of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// What this node has of it: its file, or its stub.
    OfFile,
    /// Its object in the archive, while this node has nothing but a stub.
    OfObject,
}

/// What a repair has come to; none while it runs.
type Outcome = Option<Result<()>>;

/// See the head of this file. Cheap to clone.
#[derive(Clone)]
pub struct Repairs {
    inner: Arc<Inner>,
    thaw: Option<Thaw>,
}

/// What a read needs that is made again: keep it until then.
#[derive(Debug, Default)]
pub struct Mended(#[expect(dead_code, reason = "it is there to be kept")] Vec<Arc<Held>>);

struct Inner {
    sealed: Arc<Sealed>,
    elsewhere: Elsewhere,
    /// Free space to leave on the disk: the log needs it more.
    free_bytes_min: u64,
    runtime: Handle,
    state: Mutex<State>,
    repaired: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Those that run, and those that have failed and when.
    repairs: BTreeMap<SegmentId, (watch::Receiver<Outcome>, Option<Instant>)>,
    tasks: JoinSet<()>,
    is_stopped: bool,
}

impl fmt::Debug for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} segments repaired", self.repaired())
    }
}

impl Repairs {
    /// Repairs of what is `sealed`, from `elsewhere`, on the current runtime. Stages that meet damage are served, too.
    #[must_use]
    pub fn new(sealed: Arc<Sealed>, elsewhere: Elsewhere, free_bytes_min: u64) -> Self {
        let (state, repaired, runtime) = (Mutex::default(), AtomicU64::new(0), Handle::current());
        let inner = Arc::new(Inner { sealed, elsewhere, free_bytes_min, runtime, state, repaired });
        let mender = Arc::downgrade(&inner);
        inner.sealed.set_mender(Box::new(move |damage| {
            let Some(inner) = mender.upgrade() else { return false };
            damage.damaged_segment().is_some_and(|id| begin(&inner, id, Damage::OfFile).is_some())
        }));
        Self { inner, thaw: None }
    }

    /// And so many have been fetched before, by the start.
    #[must_use]
    pub fn begun_with(self, repaired: u64) -> Self {
        self.inner.repaired.fetch_add(repaired, Relaxed);
        self
    }

    /// And cold blocks are fetched.
    #[must_use]
    pub fn with_thaw(self, thaw: Thaw) -> Self {
        Self { thaw: Some(thaw), ..self }
    }

    /// Waits until what a read has failed at is put right: damage repaired, cold blocks fetched. A segment whose object in
    /// the archive is damaged or gone comes back from a member that still has its file.
    ///
    /// # Errors
    /// As [`Repairs::repair`] and [`Thaw::thaw`]; the error itself when it is neither.
    pub async fn mend(&self, error: Error) -> Result<Mended> {
        match &self.thaw {
            Some(thaw) if !error.cold_blocks().is_empty() => match thaw.thaw(error.cold_blocks()).await {
                Err(lost) if lost.damaged_segment().is_some() => {
                    self.put_right(lost, Damage::OfObject).await.map(|()| Mended::default())
                }
                thawed => thawed.map(Mended),
            },
            _ => self.repair(error).await.map(|()| Mended::default()),
        }
    }

    /// How many segments have been fetched anew.
    #[must_use]
    pub fn repaired(&self) -> u64 {
        self.inner.repaired.load(Relaxed)
    }

    /// Waits until the segment that an error is about is whole again, for a while.
    ///
    /// # Errors
    /// The error itself when it is about no segment, or there is nowhere else to take it from; [`Code::Corrupt`] with
    /// why it cannot be repaired; [`Code::Unavailable`] when it takes longer.
    pub async fn repair(&self, damage: Error) -> Result<()> {
        self.put_right(damage, Damage::OfFile).await
    }

    async fn put_right(&self, damage: Error, of: Damage) -> Result<()> {
        let Some(id) = damage.damaged_segment() else { return Err(damage) };
        let Some(mut outcome) = begin(&self.inner, id, of) else { return Err(damage) };
        let outcome = timeout(PATIENCE, outcome.wait_for(Option::is_some)).await;
        match outcome {
            Ok(Ok(outcome)) => match &*outcome {
                Some(Err(why)) => {
                    let what = format!(
                        "{damage}; segment {id} could not be repaired now: {why}; start the other members, make the \
                         archive reachable, or copy the file from a member or a backup while this node is stopped"
                    );
                    let error = Error::new(damage.code(), what);
                    Err(damage.retry_delay().into_iter().fold(error, Error::retry_after))
                }
                _ => Ok(()),
            },
            // It has been stopped.
            Ok(Err(_)) => Err(damage),
            Err(_) => {
                let what = format!("{damage}; segment {id} is being repaired: ask again");
                Err(Error::new(Code::Unavailable, what).retry_after(REST))
            }
        }
    }

    /// Ends what is under way.
    pub fn stop(&self) {
        let mut state = self.inner.state.lock();
        state.is_stopped = true;
        state.tasks.abort_all();
    }
}

/// Begins a repair, or joins the one that runs; none where there is no other place.
fn begin(inner: &Arc<Inner>, id: SegmentId, of: Damage) -> Option<watch::Receiver<Outcome>> {
    let mut sources = (inner.elsewhere)();
    sources.retain(|source| of == Damage::OfFile || !source.is_archive());
    let mut state = inner.state.lock();
    if sources.is_empty() || state.is_stopped {
        return None;
    }
    if let Some((outcome, failed)) = state.repairs.get(&id)
        && failed.is_none_or(|failed| failed.elapsed() < REST)
    {
        return Some(outcome.clone());
    }
    let (tell, outcome) = watch::channel(None);
    state.repairs.insert(id, (outcome.clone(), None));
    while state.tasks.try_join_next().is_some() {}
    let repair = {
        let inner = Arc::clone(inner);
        async move {
            let result = inner.repair(id, of, &sources).await;
            let mut state = inner.state.lock();
            match (&result, state.repairs.get_mut(&id)) {
                (Err(error), Some((_, failed))) => {
                    tracing::error!(segment = %id, %error, "a damaged segment could not be repaired");
                    *failed = Some(Instant::now());
                }
                _ => drop(state.repairs.remove(&id)),
            }
            tell.send_replace(Some(result));
        }
    };
    let runtime = inner.runtime.clone();
    state.tasks.spawn_on(repair, &runtime);
    Some(outcome)
}

impl Inner {
    async fn repair(&self, id: SegmentId, of: Damage, sources: &[Box<dyn SegmentSource>]) -> Result<()> {
        let segments = self.sealed.segments();
        let segment = usize::try_from(id.0).ok().and_then(|at| segments.get(at));
        let segment =
            segment.ok_or_else(|| Error::new(Code::NotFound, format!("there is no segment {id}")))?;
        let wanted = segment.summary();
        if of == Damage::OfObject && segment.stub().is_some() {
            tracing::warn!(segment = %id, "a segment cannot be read in the archive: another member is asked for it");
        } else {
            let verified = without_blocking_others(wanted.file_bytes as usize, || segment.verify(|_| ()));
            // Whoever was at the old file has only now said so; or the disk has thought better of it.
            let Err(damage) = verified else { return Ok(()) };
            tracing::warn!(segment = %id, %damage, "a sealed segment is damaged: it is taken from elsewhere");
        }
        let mut said = Vec::new();
        for source in sources {
            match self.take(&**source, wanted).await {
                Ok(()) => {
                    self.repaired.fetch_add(1, Relaxed);
                    let (from, bytes) = (source.name(), wanted.file_bytes);
                    tracing::info!(segment = %id, from, bytes, "a damaged segment was repaired");
                    return Ok(());
                }
                Err(error) => said.push(format!("{}: {error}", source.name())),
            }
        }
        Err(Error::new(Code::Corrupt, said.join("; ")))
    }

    /// Takes a segment from one place, and puts it in the place of the damaged file.
    async fn take(&self, source: &dyn SegmentSource, wanted: &SegmentSummary) -> Result<()> {
        let place =
            Place { io: &**self.sealed.io(), dir: self.sealed.dir(), free_bytes_min: self.free_bytes_min };
        let (file, path) = place.make_room(wanted.id(), wanted.file_bytes)?;
        let fetched = source.fetch(wanted, &file, &path).await;
        let is_wanted = |segment: &Segment| match segment.summary() == wanted {
            true => Ok(()),
            false => Err(Error::new(Code::Corrupt, "it is not the segment that was here")),
        };
        place.settle(wanted.id(), &*file, fetched, is_wanted)?;
        self.sealed.replace(wanted.id())
    }
}

/// Where segments are, and how one that was fetched takes the place of a damaged one.
pub(super) struct Place<'a> {
    pub(super) io: &'a dyn Io,
    pub(super) dir: &'a Path,
    /// Free space to leave on the disk: the log needs it more.
    pub(super) free_bytes_min: u64,
}

impl Place<'_> {
    /// The file, and its path, to fetch a segment of so many bytes into, beside what is there of it.
    ///
    /// # Errors
    /// [`Code::DiskFull`], [`Code::Io`].
    pub(super) fn make_room(&self, id: SegmentId, bytes: u64) -> Result<(Arc<dyn File>, PathBuf)> {
        let Self { io, dir, free_bytes_min } = *self;
        let partial = dir.join(partial_name(id));
        let doing = |what: &str| format!("{what} {}", partial.display());
        let free = io.free_bytes(dir).map_err(|e| Error::io(doing("looking for space for"), &e))?;
        if free.saturating_sub(free_bytes_min) < bytes {
            let what = format!("its {bytes} bytes would leave too little free space");
            return Err(Error::new(Code::DiskFull, what));
        }
        // An older one may have pages that a failed sync lost and that look clean: never write over it.
        remove(io, &partial)?;
        let file = io.open(&partial, OpenMode::Buffered).map_err(|e| Error::io(doing("creating"), &e))?;
        Ok((file, partial))
    }

    /// Gives what was fetched the segment's name, durably, once every byte of it is verified and `is_wanted` agrees.
    /// What becomes of its stub is for the caller. Blocks.
    ///
    /// # Errors
    /// What `fetched` says, or `is_wanted`; [`Code::Corrupt`] when it is not whole; [`Code::Io`]. What was there before
    /// is as it was, unless the disk fails in naming the new one.
    pub(super) fn settle(
        &self,
        id: SegmentId,
        file: &dyn File,
        fetched: Result<()>,
        is_wanted: impl FnOnce(&Segment) -> Result<()>,
    ) -> Result<()> {
        let Self { io, dir, .. } = *self;
        let (partial, path) = (dir.join(partial_name(id)), dir.join(file_name(id)));
        let check = || {
            file.sync().map_err(|e| Error::io(format!("syncing {}", partial.display()), &e))?;
            let segment = Segment::open(io, &partial, Arc::new(BlockCache::new(CACHE_BYTES)))?;
            is_wanted(&segment)?;
            segment.verify(|_| ())
        };
        if let Err(error) = fetched.and_then(|()| without_blocking_others(HEAVY_BYTES, check)) {
            // What is left of it is removed by the next try or the next start.
            let _ = remove(io, &partial);
            return Err(error);
        }
        let named = |e| Error::io(format!("naming {}", path.display()), &e);
        io.rename(&partial, &path).map_err(named)?;
        // From here on a start finds the whole file; until its name lasts, it may find the damaged one.
        io.sync_dir(dir).map_err(named)
    }
}
