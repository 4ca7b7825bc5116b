//! Fetches cold blocks: what a read has not found on this node's disk.
//!
//! ```text
//!  read ─► cold: needs blocks ─► thaw ─► not held, not on its way ─► runs of neighbours ─► room, slot, memory
//!                                  └── on its way: wait                                         │
//!  read, again ◄── held ◄── cold.cache ◄── decoded, checked against the directory ◄── one range of the object
//! ```
//!
//! Takes the blocks that an error names, gives them held in memory, where the read finds them that is made again. A
//! block that is not what was sealed is fetched once more, and then is an error that names the object, and the segment as
//! damaged: another member may have it. Nothing wrong gets past this. A request that stands still is made once more
//! beside it, because a store that has lost track of one answers the next. Downloads go on when the reader who wanted
//! them has gone. Bounded are their number, the memory of
//! all that is on its way or held, and how long a reader waits; while the archive is away (`outage`), readers are told so
//! at once. It does not own the copies (`archive::cold`), nor when a read is made again.

mod outage;

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::select_ok;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, timeout},
};

use self::outage::{Failed, Outage, REST};
use super::Sealed;
use crate::{
    archive::{
        Epoch, ObjectRef, Store, StoreError,
        cold::{ColdCache, Held},
        name::Name,
        object::read,
        progress::Failure,
    },
    error::{Code, Error, Result},
    runtime::without_blocking_others,
    segment::{Segment, StubObject},
    types::ColdBlock,
};

/// Downloads at once.
const DOWNLOADS_MAX: usize = 16;

/// Memory of blocks on their way and held, in KiB. A larger block has all of it for itself.
const MEMORY_KIB: u32 = 128 << 10;

/// Bytes of an object that one download takes, unless one block is larger.
const RUN_BYTES_MAX: u64 = 1 << 20;

/// Bytes between two blocks that are rather fetched, too, than asked around: leaf hashes lie among records.
const GAP_BYTES_MAX: u64 = 128 << 10;

/// How long a request may stand still before it is made once more.
const STILL: Duration = Duration::from_secs(3);

/// How long a reader waits. The download goes on without him.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where cold blocks are, or why they cannot be had.
pub type ColdStore = Result<Arc<dyn Store>, StoreError>;

/// See the head of this file. Cheap to clone.
#[derive(Clone)]
pub struct Thaw(Arc<Inner>);

struct Inner {
    sealed: Arc<Sealed>,
    store: ColdStore,
    runtime: Handle,
    slots: Semaphore,
    memory: Arc<Semaphore>,
    state: Mutex<State>,
    downloads: AtomicU64,
    downloaded_bytes: AtomicU64,
    errors: AtomicU64,
    outage: Mutex<Outage>,
}

#[derive(Default)]
struct State {
    under_way: BTreeMap<ColdBlock, watch::Receiver<Outcome>>,
    tasks: JoinSet<()>,
    is_stopped: bool,
}

/// What a download has come to; none while it runs.
type Outcome = Option<Result<Vec<Arc<Held>>>>;

/// Cold blocks that lie behind each other in one object.
struct Run {
    segment: Arc<Segment>,
    object: StubObject,
    blocks: Vec<ColdBlock>,
    range: Range<u64>,
}

/// What has been fetched since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Downloads {
    /// Requests for ranges of objects that were answered.
    pub downloads: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that failed, or brought something else than was sealed.
    pub errors: u64,
}

impl Thaw {
    /// Fetches what is cold of `sealed` from `store`, on the current runtime.
    #[must_use]
    pub fn new(sealed: Arc<Sealed>, store: ColdStore) -> Self {
        let (downloads, downloaded_bytes, errors) = Default::default();
        Self(Arc::new(Inner {
            sealed,
            store,
            runtime: Handle::current(),
            slots: Semaphore::new(DOWNLOADS_MAX),
            memory: Arc::new(Semaphore::new(MEMORY_KIB as usize)),
            state: Mutex::default(),
            downloads,
            downloaded_bytes,
            errors,
            outage: Mutex::default(),
        }))
    }

    /// What has been fetched.
    #[must_use]
    pub fn downloads(&self) -> Downloads {
        Downloads {
            downloads: self.0.downloads.load(Relaxed),
            bytes: self.0.downloaded_bytes.load(Relaxed),
            errors: self.0.errors.load(Relaxed),
        }
    }

    /// What kept the last read from what is in the archive, and when.
    #[must_use]
    pub fn trouble(&self) -> Option<(Instant, Failure, String)> {
        let outage = self.0.outage.lock();
        outage.last().map(|Failed { at, failure, told, .. }| (*at, *failure, told.clone()))
    }

    /// Ends what is under way.
    pub fn stop(&self) {
        let mut state = self.0.state.lock();
        state.is_stopped = true;
        state.tasks.abort_all();
        // Whoever waits for one that never began hears of it, too.
        state.under_way.clear();
    }

    /// Fetches blocks. A read that is made while what this gives is kept finds them, however full the cache is.
    ///
    /// # Errors
    /// [`Code::Unavailable`] with the reason: the store is away, it takes too long; or the object is missing or damaged,
    /// when the error is of its segment ([`Error::damaged_segment`]).
    pub async fn thaw(&self, blocks: &[ColdBlock]) -> Result<Vec<Arc<Held>>> {
        let Inner { sealed, store, .. } = &*self.0;
        let mut held = Vec::new();
        let mut waiting = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        {
            let mut state = self.0.state.lock();
            if state.is_stopped {
                return Err(given_up());
            }
            while state.tasks.try_join_next().is_some() {}
            let mut wanted = blocks.to_vec();
            wanted.sort_unstable();
            wanted.dedup();
            for block in wanted {
                if let Some(block) = sealed.cold().held(block) {
                    held.push(block);
                } else if let Some(outcome) =
                    state.under_way.get(&block).filter(|outcome| is_under_way(outcome))
                {
                    waiting.push(outcome.clone());
                } else if !sealed.cold().has(block) || blocks.len() == 1 {
                    // One that is here and asked for alone was found wrong, or is just being written over.
                    extend(&mut runs, sealed, block);
                }
            }
            for run in runs {
                let store = store.as_ref().map_err(|error| self.0.cannot(&run, error.clone().into()))?;
                let (tell, outcome) = watch::channel(None);
                for block in &run.blocks {
                    state.under_way.insert(*block, outcome.clone());
                }
                waiting.push(outcome);
                let (inner, store) = (self.0.clone(), store.clone());
                let download = async move {
                    let result = inner.download(&*store, &run).await;
                    let mut state = inner.state.lock();
                    run.blocks.iter().for_each(|block| drop(state.under_way.remove(block)));
                    drop(state);
                    tell.send_replace(Some(result));
                };
                state.tasks.spawn_on(download, &self.0.runtime);
            }
        }
        let all = async {
            for mut outcome in waiting {
                match outcome.wait_for(Option::is_some).await.as_deref() {
                    Ok(Some(Ok(blocks))) => held.extend(blocks.iter().cloned()),
                    Ok(Some(Err(error))) => return Err(error.clone()),
                    _ => return Err(given_up()),
                }
            }
            Ok(held)
        };
        timeout(PATIENCE, all).await.unwrap_or_else(|_| {
            let what = "the archive takes long to give what was asked for: ask again";
            Err(Error::new(Code::Unavailable, what).retry_after(REST))
        })
    }
}

/// Whether a download tells, or will: one that panicked never does.
fn is_under_way(outcome: &watch::Receiver<Outcome>) -> bool {
    outcome.borrow().is_some() || outcome.has_changed().is_ok()
}

fn given_up() -> Error {
    Error::new(Code::Unavailable, "nothing more is fetched from the archive: the node is stopping")
}

/// Puts a block into the run that it continues, or begins one.
fn extend(runs: &mut Vec<Run>, sealed: &Sealed, block: ColdBlock) {
    let segments = sealed.segments();
    let Some(segment) = usize::try_from(block.segment.0).ok().and_then(|at| segments.get(at)) else { return };
    // It may be here again.
    let (Some(object), Some(place)) = (segment.stub(), segment.cold_place(block.block)) else { return };
    if let Some(run) = runs.last_mut()
        && run.blocks.last().is_some_and(|last| last.segment == block.segment)
        && place.start <= run.range.end.saturating_add(GAP_BYTES_MAX)
        && place.end - run.range.start <= RUN_BYTES_MAX
    {
        run.blocks.push(block);
        run.range.end = place.end;
        return;
    }
    runs.push(Run { segment: segment.clone(), object: *object, blocks: vec![block], range: place });
}

impl Inner {
    async fn download(&self, store: &dyn Store, run: &Run) -> Result<Vec<Arc<Held>>> {
        let stopped = |_| given_up();
        let decoded = |block: &ColdBlock| run.segment.block_bytes(block.block).unwrap_or_default();
        let bytes: u64 = run.blocks.iter().map(|block| u64::from(decoded(block))).sum();
        // What is asked for twice may come twice.
        let kib =
            ((bytes + 2 * (run.range.end - run.range.start)) >> 10).clamp(1, u64::from(MEMORY_KIB)) as u32;
        let memory = Arc::new(self.memory.clone().acquire_many_owned(kib).await.map_err(stopped)?);
        let _slot = self.slots.acquire().await.map_err(stopped)?;
        let refused = self.outage.lock().refuse(Instant::now());
        if let Some(why) = refused {
            return Err(Error::new(Code::Unavailable, self.told(run, &why)).retry_after(REST));
        }
        let cache = self.sealed.cold();
        let rooms: Vec<_> = run.blocks.iter().map(|block| cache.reserve(*block, decoded(block))).collect();
        let mut tries_left = 2;
        let blocks = loop {
            tries_left -= 1;
            match self.fetch(store, run).await {
                Ok(blocks) => break blocks,
                Err(error) => {
                    self.errors.fetch_add(1, Relaxed);
                    // The store answers, and will give nothing else later.
                    let is_lost = matches!(error.code(), Code::Corrupt | Code::NotFound);
                    if error.code() != Code::Corrupt || tries_left == 0 {
                        let lost = is_lost.then(|| run.segment.summary().id());
                        return Err(self.cannot(run, error).of_damage(lost));
                    }
                }
            }
        };
        self.outage.lock().note_success();
        let keep = || {
            let kept = run.blocks.iter().zip(&rooms).zip(&blocks);
            kept.filter_map(|((_, room), bytes)| Some((room.as_ref()?, bytes)))
                .for_each(|(room, bytes)| cache.keep(room, bytes));
        };
        without_blocking_others(bytes as usize, keep);
        let hold = |(block, bytes): (&ColdBlock, _)| ColdCache::hold(cache, *block, bytes, memory.clone());
        Ok(run.blocks.iter().zip(blocks).map(hold).collect())
    }

    /// One range of an object, decoded and checked.
    async fn fetch(&self, store: &dyn Store, run: &Run) -> Result<Vec<Bytes>> {
        let name = object_ref(run).name();
        let stored = read_soon(store, &name, &run.range).await?;
        self.downloads.fetch_add(1, Relaxed);
        self.downloaded_bytes.fetch_add(stored.len() as u64, Relaxed);
        let decode = |block: &ColdBlock| {
            let place = run.segment.cold_place(block.block);
            let part = place.and_then(|place| {
                let from = place.start.checked_sub(run.range.start)? as usize;
                stored.get(from..from + (place.end - place.start) as usize)
            });
            let part = part.ok_or("it has fewer bytes than were asked for")?;
            run.segment.thaw(block.block, part)
        };
        let blocks: Result<_, &'static str> =
            without_blocking_others(stored.len(), || run.blocks.iter().map(decode).collect());
        blocks.map_err(|what| Error::new(Code::Corrupt, what))
    }

    /// Why what is cold cannot be read now.
    fn cannot(&self, run: &Run, error: Error) -> Error {
        let why = error.to_string();
        let told = self.told(run, &why);
        let (at, failure) = (Instant::now(), Failure::of(&error));
        if self.outage.lock().note_failure(Failed { at, failure, why, told: told.clone() }) {
            tracing::warn!("{told}; this is said once until the archive gives something again");
        }
        Error::new(Code::Unavailable, told).retry_after(REST)
    }

    /// What a reader is told.
    fn told(&self, run: &Run, why: &str) -> String {
        let place = self.store.as_ref().map_or("the archive", |store| store.place());
        let name = object_ref(run).name();
        format!("what was asked for is in {name} in {place} alone, and cannot be read there now: {why}")
    }
}

/// Reads a range. Where that stands still, whichever of two requests is answered first.
async fn read_soon(store: &dyn Store, name: &Name, range: &Range<u64>) -> Result<Bytes> {
    let mut first = Box::pin(read(store, name, range.clone()));
    match timeout(STILL, &mut first).await {
        Ok(done) => done,
        Err(_) => Ok(select_ok([first, Box::pin(read(store, name, range.clone()))]).await?.0),
    }
}

fn object_ref(run: &Run) -> ObjectRef {
    let StubObject { epoch, bytes, hash } = run.object;
    ObjectRef { epoch: Epoch(epoch), segment: run.segment.summary().id(), bytes, hash }
}

impl fmt::Debug for Thaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.downloads())
    }
}
