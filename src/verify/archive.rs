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
//! The walk is in `walk`; what is held against it besides the entries in `notes` (signed checkpoints) and `ends` (whether
//! there was more than the manifest tells).
//!
//! Takes a store, gives a [`Report`] or the first thing that is wrong, by its object's name. Memory is an object for
//! each thread (large ones lie in a file meanwhile), its keys, and the manifest's entries. There are two threads at
//! least: while one object is on its way another one is verified. Objects that no entry names are left out and told.
//!
//! It does not own what becomes of a verified segment: a [`Keeper`] may put it somewhere, or have it already.

mod ends;
mod notes;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::runtime::Handle;

use self::{notes::Places, walk::Found};
use super::{
    directory::{CACHE_BYTES, LeftBehind, Note, Progress, Report},
    links,
};
use crate::{
    archive::{
        Cold, Entry, Epoch, LedgerId, Manifest, Marker, Store, Tip, Trouble,
        fence::{self, Claim},
        layout,
        manifest::{self, Fork},
    },
    error::{Code, Error, Result},
    proof::{Hash, checkpoint::Checkpoint, note},
    segment::{BlockCache, Segment},
    types::{SegmentId, Seq},
};

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
    /// The newest epoch that has a manifest here.
    newest: Epoch,
    /// Where earlier epochs part from this one.
    forks: Vec<(Epoch, Result<Fork>)>,
    /// Later ones, which have claimed it or would be next, and have no manifest.
    later: Vec<Epoch>,
    /// Why there may be more than its entries tell.
    open_end: Option<String>,
    /// Where its checkpoints are, besides the newest.
    checkpoints: Places,
}

impl Archived {
    /// Reads the marker, every entry of the newest epoch, the newest checkpoints and the end of the last object, and
    /// checks that each entry continues the one before it.
    ///
    /// # Errors
    /// [`Code::Malformed`] when there is no archive; [`Code::Corrupt`] with the first object that is missing, damaged
    /// or out of place; others as the store's.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self> {
        Self::open_epoch(store, None).await
    }

    /// As [`Archived::open`], of an epoch that need not be the newest.
    ///
    /// # Errors
    /// As [`Archived::open`]; [`Code::Malformed`] for an epoch that has not archived here.
    pub async fn open_epoch(store: Arc<dyn Store>, epoch: Option<Epoch>) -> Result<Self> {
        let marker = read_marker(&*store).await?;
        let newest = manifest::newest_epoch(&*store).await?.unwrap_or(Epoch::FIRST);
        let unknown = |epoch: Epoch| {
            let (place, newest) = (store.place(), newest.0);
            let what = format!("epoch {} has no manifest in {place}: the newest is {newest}", epoch.0);
            Err(Error::new(Code::Malformed, what))
        };
        let epoch = match epoch {
            Some(epoch) if epoch == Epoch(0) || epoch > newest => return unknown(epoch),
            chosen => chosen.unwrap_or(newest),
        };
        let holder = fence::holder(&*store).await?;
        let manifest = Manifest::new(store.clone(), marker.ledger, epoch);
        let mut entries = Vec::new();
        let tip = manifest.follow(Tip::default(), |entry| {
            entries.push(entry.clone());
            Ok(())
        });
        let tip = tip.await?;
        if entries.is_empty() && epoch < newest {
            return unknown(epoch);
        }
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
        let own = |id: SegmentId| {
            entries.get(usize::try_from(id.0).ok()?).map(|entry| (entry.digest, entry.end_seq))
        };
        let forks = manifest.forks(own).await?;
        let shared: Vec<_> = forks
            .iter()
            .filter_map(|(epoch, fork)| fork.as_ref().ok().map(|fork| (*epoch, fork.shared)))
            .collect();
        let checkpoints = notes::earlier(&manifest, &shared, tip.end_seq).await?;
        let mut later: Vec<Epoch> = newest.0.checked_add(1).map(Epoch).into_iter().collect();
        later.extend(holder.map(|holder| holder.epoch).filter(|claimed| !later.contains(claimed)));
        // An earlier one was chosen by somebody who knows that there are others.
        later.retain(|later| *later > newest && epoch == newest);
        let open_end = ends::judge(&manifest, (tip.next, tip.end_seq), &later).await?;
        let cache = Arc::new(BlockCache::new(CACHE_BYTES));
        Ok(Self {
            store,
            marker,
            epoch,
            entries,
            boundary,
            notes,
            unnamed,
            cache,
            holder,
            newest,
            forks,
            later,
            open_end,
            checkpoints,
        })
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
        let newest = self.holder.map_or(self.newest, |holder| holder.epoch.max(self.newest));
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
        // Whoever opens a segment knows the root at its end already.
        let sizes = notes.iter().map(|note| note.checkpoint.size());
        let mut sizes: Vec<u64> = sizes.filter(|size| self.root_at_end(*size).is_none()).collect();
        sizes.sort_unstable();
        let Found { roots, links, chain, raw_bytes, .. } =
            walk::all(self, (runtime, threads), sizes, progress, keeper)?;
        // Which names a log had before its last one is its operator's affair.
        let newest: Vec<&Note> = notes.iter().copied().filter(|note| !note.is_earlier).collect();
        links::check_order(&links, &newest, Some(&self.marker.ledger.to_string()))?;
        let (mut checkpoints, mut earlier_checkpoints) = (Vec::new(), 0);
        for note in notes {
            let checked = note.check(self.known_root(note.checkpoint.size(), &roots).as_ref())?;
            match note.is_earlier {
                true => earlier_checkpoints += 1,
                false => checkpoints.push(checked),
            }
        }
        let open_end = self.open_end(runtime)?;
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
            earlier_checkpoints,
            checkpoints_left_out: self.checkpoints.left_out,
            open_end,
            epoch: Some(self.epoch.0),
            left_behind: self.left_behind(),
            damaged_earlier: self.damaged_earlier(),
        })
    }

    /// Records of earlier epochs that this one does not go on from.
    fn left_behind(&self) -> Vec<LeftBehind> {
        let forks = self.forks.iter().filter_map(|(_, fork)| fork.as_ref().ok());
        let left = forks.filter(|fork| fork.leaves_records());
        left.map(|fork| LeftBehind { epoch: fork.epoch.0, from: fork.shared, end: fork.end }).collect()
    }

    fn damaged_earlier(&self) -> Vec<String> {
        let damaged = self.forks.iter().filter_map(|(_, fork)| fork.as_ref().err());
        damaged.map(ToString::to_string).collect()
    }

    fn known_root(&self, size: u64, roots: &BTreeMap<u64, Hash>) -> Option<Hash> {
        match size {
            0 => Some(Hash::EMPTY_ROOT),
            _ => roots.get(&size).copied().or_else(|| self.root_at_end(size)),
        }
    }

    /// The root of a tree that ends with a segment, as its entry says; it is true when the segment has been verified.
    fn root_at_end(&self, size: u64) -> Option<Hash> {
        let first = self.entries.partition_point(|entry| entry.end_seq.0 < size);
        let entry = self.entries.get(first).filter(|entry| entry.end_seq.0 == size);
        entry.map(|entry| Hash(entry.root_after))
    }

    /// Why there may be more, if it is still so: a node that was at it has come further by now.
    fn open_end(&self, runtime: &Handle) -> Result<Option<String>> {
        if self.open_end.is_none() {
            return Ok(None);
        }
        let end = self.entries.last().map_or((SegmentId(0), Seq(0)), |last| {
            (SegmentId(last.object.segment.0.saturating_add(1)), last.end_seq)
        });
        runtime.block_on(async {
            let manifest = Manifest::new(self.store.clone(), self.marker.ledger, self.epoch);
            if manifest.entry(end.0).await?.is_some() {
                return Ok(None);
            }
            ends::judge(&manifest, end, &self.later).await
        })
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
