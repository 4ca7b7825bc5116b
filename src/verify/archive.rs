//! Verifying an archive: first how its entries fit together, then every record of every object.
//!
//! ```text
//! marker ─► newest epoch's entries, in order ─► last object's footer: who signs
//!                     │
//!                     ▼ threads, an object each
//!           fetched once, hashed ─► Segment::verify ─► as its entry says? ─► Keeper
//!                                                          │ in order
//!                                                          ▼
//!                                                        chain ─► Report
//! ```
//!
//! Takes a store, gives a [`Report`] or the first thing that is wrong, by its object's name. Memory is an object for
//! each thread (large ones lie in a file meanwhile), its keys, and the manifest's entries. There are two threads at
//! least: while one object is on its way another one is verified. Objects that no entry names are left out and told.
//!
//! It does not own what becomes of a verified segment: a [`Keeper`] may put it somewhere, or have it already.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::{
    chain::Chain,
    directory::{CACHE_BYTES, Note, Progress, Report, TICK_RECORDS},
    roots::Roots,
};
use crate::{
    archive::{
        Cold, Entry, Epoch, LedgerId, Manifest, Marker, Store, Tip, Trouble,
        fence::{self, Claim},
        fetched, layout, manifest,
    },
    error::{Code, Error, Result},
    proof::{Hash, checkpoint::Checkpoint, note},
    segment::{BlockCache, Segment, SegmentSummary},
};

/// Objects at once, at least: a slow store must not halve the speed.
const THREADS_MIN: usize = 2;

/// Objects that no entry names, told by name.
const STRAY_NAMES_MAX: usize = 100;

/// What becomes of verified segments.
pub trait Keeper: Sync {
    /// The entry's segment, if it is at hand already; it is verified like any other, and where it is not whole,
    /// fetched.
    ///
    /// # Errors
    /// Whatever ends the walk.
    fn at_hand(&self, entry: &Entry) -> Result<Option<Segment>>;

    /// A segment that was fetched and has been verified.
    ///
    /// # Errors
    /// Whatever ends the walk.
    fn keep(&self, entry: &Entry, segment: &Segment) -> Result<()>;
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct LookOnly;

impl Keeper for LookOnly {
    fn at_hand(&self, _: &Entry) -> Result<Option<Segment>> {
        Ok(None)
    }

    fn keep(&self, _: &Entry, _: &Segment) -> Result<()> {
        Ok(())
    }
}

/// An archive whose entries fit together, and whose objects are to be verified.
#[derive(Debug)]
pub struct Archived {
    store: Arc<dyn Store>,
    marker: Marker,
    epoch: Epoch,
    entries: Vec<Entry>,
    boundary: Vec<u8>,
    notes: Vec<(String, Bytes)>,
    unnamed: Vec<String>,
    cache: Arc<BlockCache>,
    /// Who may write to it.
    holder: Option<Claim>,
}

impl Archived {
    /// Reads the marker, every entry of the newest epoch, the newest checkpoints and the end of the last object, and
    /// checks that each entry continues the one before it.
    ///
    /// # Errors
    /// [`Code::Malformed`] when there is no archive; [`Code::Corrupt`] with the first object that is missing, damaged
    /// or out of place; others as the store's.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self> {
        let marker = read_marker(&*store).await?;
        let epoch = manifest::newest_epoch(&*store).await?.unwrap_or(Epoch::FIRST);
        let holder = fence::holder(&*store).await?;
        let manifest = Manifest::new(store.clone(), marker.ledger, epoch);
        let mut entries = Vec::new();
        let tip = manifest.follow(Tip::default(), |entry| {
            entries.push(entry.clone());
            Ok(())
        });
        let tip = tip.await?;
        let boundary = match entries.last() {
            Some(last) => {
                Cold::open(store.clone(), &last.object, &last.digest).await?.summary().boundary.clone()
            }
            None => Vec::new(),
        };
        let notes = manifest.checkpoints(tip.end_seq).await?;
        let named = |note: Bytes| {
            // It has been read as one before.
            let size = note::Note::parse(&note).and_then(|note| note.text().parse::<Checkpoint>());
            let size = size.map_or(0, |checkpoint| checkpoint.size());
            let name = layout::checkpoint(epoch, size, blake3::hash(&note).as_bytes());
            (format!("{name} in {}", store.place()), note)
        };
        let notes = notes.into_iter().map(named).collect();
        let unnamed = unnamed(&*store, epoch, &entries).await?;
        let cache = Arc::new(BlockCache::new(CACHE_BYTES));
        Ok(Self { store, marker, epoch, entries, boundary, notes, unnamed, cache, holder })
    }

    /// Whose archive it is, and which one.
    #[must_use]
    pub const fn marker(&self) -> &Marker {
        &self.marker
    }

    /// The epoch whose entries these are.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The epoch that a restore begins; `None` when there is no further one.
    #[must_use]
    pub fn next_epoch(&self) -> Option<Epoch> {
        let newest = self.holder.map_or(self.epoch, |holder| holder.epoch.max(self.epoch));
        newest.0.checked_add(1).map(Epoch)
    }

    /// The cluster that has archived in this epoch, where it is known.
    #[must_use]
    pub fn cluster(&self) -> Option<LedgerId> {
        match self.holder.filter(|holder| holder.epoch == self.epoch) {
            Some(holder) => Some(holder.cluster),
            None => (self.epoch == Epoch::FIRST).then_some(self.marker.ledger),
        }
    }

    /// Its entries.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many records there are to verify.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.entries.last().map_or(0, |last| last.end_seq.0)
    }

    /// The state that the last segment ends with; see [`Plan::boundary`](super::Plan::boundary).
    #[must_use]
    pub fn boundary(&self) -> &[u8] {
        &self.boundary
    }

    /// The newest signed checkpoints in it, and what to call them; who has signed them is for [`Note::read`] to say.
    #[must_use]
    pub fn notes(&self) -> &[(String, Bytes)] {
        &self.notes
    }

    /// Verifies every record on `threads` threads, two at least, and that every note agrees that covers no more than
    /// these. `runtime` drives the store; it has a thread of its own.
    ///
    /// # Errors
    /// [`Code::Corrupt`] with the first object that is damaged, or the first note that does not agree; others as the
    /// store's and those of `keeper`.
    pub fn verify(
        &self,
        runtime: &Handle,
        notes: &[Note],
        threads: usize,
        progress: &Progress,
        keeper: &impl Keeper,
    ) -> Result<Report> {
        let (notes, ahead): (Vec<&Note>, Vec<&Note>) =
            notes.iter().partition(|note| note.checkpoint.size() <= self.records());
        let sizes = notes.iter().map(|note| note.checkpoint.size()).collect();
        let (next, found) = (AtomicU64::new(0), Mutex::default());
        let walk = Walk { archived: self, runtime, keeper, sizes, progress, next, found };
        thread::scope(|scope| {
            let mut started = Ok(());
            for number in 0..threads.max(THREADS_MIN).min(self.entries.len()) {
                let thread = thread::Builder::new().name("verify".to_owned());
                match thread.spawn_scoped(scope, || walk.run()) {
                    Err(error) if number == 0 => started = Err(Error::io("starting a thread", &error)),
                    // Fewer take longer.
                    _ => {}
                }
            }
            started
        })?;
        let Found { roots, failed, chain, raw_bytes, .. } = walk.found.into_inner();
        if let Some((_, error)) = failed {
            return Err(error);
        }
        let checkpoints = notes
            .iter()
            .map(|note| note.check(self.known_root(note.checkpoint.size(), &roots).as_ref()))
            .collect::<Result<_>>()?;
        Ok(Report {
            records: chain.end_seq,
            segments: chain.segments,
            cold: Vec::new(),
            root: chain.root,
            last_log: chain.last_log,
            last_timestamp_ms: chain.last_timestamp_ms,
            raw_bytes,
            file_bytes: self.entries.iter().map(|entry| entry.object.bytes).sum(),
            checkpoints,
            ahead: ahead.into_iter().map(Note::told).collect(),
            unfinished: self.unnamed.clone(),
            stray: Vec::new(),
            wal: None,
        })
    }

    fn known_root(&self, size: u64, roots: &BTreeMap<u64, Hash>) -> Option<Hash> {
        let at_an_end = || self.entries.iter().find(|entry| entry.end_seq.0 == size);
        match size {
            0 => Some(Hash::EMPTY_ROOT),
            _ => roots.get(&size).copied().or_else(|| at_an_end().map(|entry| Hash(entry.root_after))),
        }
    }

    /// What errors call an entry's object.
    fn path(&self, entry: &Entry) -> PathBuf {
        Path::new(self.store.place()).join(entry.object.name().as_str())
    }
}

async fn read_marker(store: &dyn Store) -> Result<Marker> {
    let (name, place) = (layout::marker(), store.place());
    let object = match store.get(&name).await {
        Ok(object) => object,
        Err(error) if error.trouble() == Trouble::NotFound => {
            let what = format!("{place} holds no archive: it has no {name}");
            return Err(Error::new(Code::Malformed, what));
        }
        Err(error) => return Err(error.into()),
    };
    Marker::decode(&object.bytes).ok_or_else(|| {
        let what = format!("{name} in {place} is damaged: it says whose archive this is; write it anew");
        Error::new(Code::Corrupt, what)
    })
}

/// Names of packed segments of an epoch that no entry names: on their way, or left behind by a crash.
async fn unnamed(store: &dyn Store, epoch: Epoch, entries: &[Entry]) -> Result<Vec<String>> {
    let named: BTreeSet<_> = entries.iter().map(|entry| entry.object.name()).collect();
    let (mut unnamed, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(&layout::segments(epoch), after.as_deref()).await?;
        let others = page.names.iter().filter(|name| !named.contains(*name)).map(ToString::to_string);
        unnamed.extend(others.take(STRAY_NAMES_MAX - unnamed.len()));
        match page.next {
            Some(next) if unnamed.len() < STRAY_NAMES_MAX => after = Some(next),
            _ => return Ok(unnamed),
        }
    }
}

/// What threads share.
struct Walk<'a, K> {
    archived: &'a Archived,
    runtime: &'a Handle,
    keeper: &'a K,
    sizes: Vec<u64>,
    progress: &'a Progress,
    next: AtomicU64,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    roots: BTreeMap<u64, Hash>,
    /// The first segment that is wrong, and how.
    failed: Option<(u64, Error)>,
    /// Where the segments end that have been verified without a gap.
    chain: Chain,
    /// Those behind a gap.
    waiting: BTreeMap<u64, SegmentSummary>,
    raw_bytes: u64,
}

impl<K: Keeper> Walk<'_, K> {
    /// Verifies one segment after the other until none is left that comes before one that is wrong.
    fn run(&self) {
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            let Some(entry) = usize::try_from(number).ok().and_then(|at| self.archived.entries.get(at))
            else {
                return;
            };
            if self.found.lock().failed.as_ref().is_some_and(|(first, _)| *first < number) {
                return;
            }
            let outcome = self.segment(entry);
            let mut found = self.found.lock();
            match outcome {
                Ok((summary, roots)) => {
                    found.roots.extend(roots);
                    found.raw_bytes = found.raw_bytes.saturating_add(summary.raw_bytes);
                    found.waiting.insert(number, summary);
                    self.follow(&mut found);
                }
                Err(error) => found.fail(number, error),
            }
        }
    }

    /// Goes on behind the last one without a gap.
    fn follow(&self, found: &mut Found) {
        loop {
            let number = found.chain.segments;
            let Some(summary) = found.waiting.remove(&number) else { return };
            let path = self.archived.path(&self.archived.entries[number as usize]);
            if let Err(error) = found.chain.follow(&summary, &path) {
                return found.fail(number, error);
            }
        }
    }

    /// Verifies an entry's segment; what it says of itself, and the roots that checkpoints need.
    fn segment(&self, entry: &Entry) -> Result<(SegmentSummary, Vec<(u64, Hash)>)> {
        if let Some(segment) = self.keeper.at_hand(entry)? {
            match self.verify(entry, &segment) {
                Err(error) if error.code() == Code::Corrupt => {
                    tracing::warn!(%error, "what was in place is damaged: it is fetched again");
                }
                outcome => return outcome,
            }
        }
        let Archived { store, cache, .. } = self.archived;
        let file = self.runtime.block_on(fetched::fetch(&**store, &entry.object))?;
        let segment = Segment::from_file(file, &self.archived.path(entry), Arc::clone(cache))?;
        let outcome = self.verify(entry, &segment)?;
        self.keeper.keep(entry, &segment)?;
        Ok(outcome)
    }

    fn verify(&self, entry: &Entry, segment: &Segment) -> Result<(SegmentSummary, Vec<(u64, Hash)>)> {
        let summary = segment.summary();
        let says = (entry.object.segment, entry.first_seq, entry.end_seq, entry.last_log, entry.digest);
        let is = (summary.id(), summary.head.first_seq, summary.end_seq, summary.last_log, summary.digest);
        if says != is || entry.root_after != summary.root_after {
            let name = layout::entry(self.archived.epoch, entry.object.segment);
            let what = format!(
                "{name} in {} says other things of its segment than the segment does: one of them was put in the \
                 place of another",
                self.archived.store.place()
            );
            return Err(Error::new(Code::Corrupt, what));
        }
        let mut roots = Roots::new(&summary.frontier_before, summary.end_seq.0, &self.sizes);
        let (mut seen, mut told) = (0, 0);
        let verified = segment.verify(|leaf_hash| {
            roots.leaf(leaf_hash);
            seen += 1;
            if seen - told == TICK_RECORDS {
                self.progress.add(TICK_RECORDS);
                told = seen;
            }
        });
        if let Err(error) = verified {
            self.progress.take_back(told);
            return Err(error);
        }
        self.progress.add(seen - told);
        let summary = SegmentSummary { high_subtrees: Vec::new(), boundary: Vec::new(), ..summary.clone() };
        Ok((summary, roots.found()))
    }
}

impl Found {
    fn fail(&mut self, number: u64, error: Error) {
        if self.failed.as_ref().is_none_or(|(first, _)| number < *first) {
            self.failed = Some((number, error));
        }
    }
}
