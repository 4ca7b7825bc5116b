//! The walk through an archive's objects: each is fetched once, verified, and handed to who keeps it.
//!
//! Takes entries that fit together, gives what their segments say where they are all whole, or the first thing that is
//! wrong. Threads take segments in order and finish them in any; the chain is followed behind them without a gap. It does
//! not own what roots are held against.

use std::{collections::BTreeMap, sync::Arc};

use tokio::runtime::Handle;

use super::{Archived, Keeper};
use crate::{
    archive::{Entry, fetched, layout},
    error::{Code, Error, Result},
    proof::Hash,
    segment::{Segment, SegmentSummary},
    verify::{
        chain::Chain,
        directory::{Progress, TICK_RECORDS},
        in_turn,
        links::{self, Links},
        roots::Roots,
    },
};

/// Objects at once, at least: a slow store must not halve the speed.
const THREADS_MIN: usize = 2;

/// What a segment says of itself, the roots that checkpoints need, and its links.
type Verified = (SegmentSummary, Vec<(u64, Hash)>, Links);

/// Verifies every segment on `threads` threads, two at least. What was found, where nothing is wrong.
///
/// # Errors
/// [`Code::Corrupt`] with the first object that is damaged; others as the store's and those of `keeper`.
pub(super) fn all(
    archived: &Archived,
    (runtime, threads): (&Handle, usize),
    sizes: Vec<u64>,
    progress: &Progress,
    keeper: &impl Keeper,
) -> Result<Found> {
    let walk = Walk { archived, runtime, keeper, sizes, progress };
    let mut found = Found::default();
    let segment = |number| walk.segment(walk.entry(number)?);
    in_turn::all(archived.entries.len() as u64, threads.max(THREADS_MIN), segment, |number, verified| {
        let (summary, roots, links) = verified;
        found.roots.extend(roots);
        found.links.extend(links);
        found.raw_bytes = found.raw_bytes.saturating_add(summary.raw_bytes);
        found.waiting.insert(number, summary);
        walk.follow(&mut found)
    })?;
    Ok(found)
}

/// What threads share.
struct Walk<'a, K> {
    archived: &'a Archived,
    runtime: &'a Handle,
    keeper: &'a K,
    sizes: Vec<u64>,
    progress: &'a Progress,
}

/// What a walk has found.
#[derive(Default)]
pub(super) struct Found {
    /// Roots in the middle of segments.
    pub(super) roots: BTreeMap<u64, Hash>,
    pub(super) links: Links,
    /// Where the segments end that have been verified without a gap.
    pub(super) chain: Chain,
    /// Those behind a gap.
    waiting: BTreeMap<u64, SegmentSummary>,
    /// Bytes of keys and values.
    pub(super) raw_bytes: u64,
}

impl<K: Keeper> Walk<'_, K> {
    fn entry(&self, number: u64) -> Result<&Entry> {
        let entry = usize::try_from(number).ok().and_then(|at| self.archived.entries.get(at));
        entry.ok_or_else(|| Error::new(Code::Internal, format!("there is no entry {number}")))
    }

    /// Goes on behind the last one without a gap.
    fn follow(&self, found: &mut Found) -> Result<(), (u64, Error)> {
        loop {
            let number = found.chain.segments;
            let Some(summary) = found.waiting.remove(&number) else { return Ok(()) };
            let path = self.entry(number).map(|entry| self.archived.path(entry));
            path.and_then(|path| found.chain.follow(&summary, &path)).map_err(|error| (number, error))?;
        }
    }

    /// Verifies an entry's segment.
    fn segment(&self, entry: &Entry) -> Result<Verified> {
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

    fn verify(&self, entry: &Entry, segment: &Segment) -> Result<Verified> {
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
        Ok((summary, roots.found(), links::within(segment, &self.archived.path(entry))?))
    }
}
