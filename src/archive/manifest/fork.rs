//! Where an earlier epoch and this ledger part: what the one has that the other does not go on from.
//!
//! ```text
//! epoch 1   0 ─── 1 ─── 2 ─── 3 ─── 4        written after the restore had read up to 2
//!                       │     └─────┴── records from 3 on are in no later epoch
//! epoch 2   0 ─── 1 ─── 2 ─── link ─── …
//! ```
//!
//! Entries are chained by digests: where one is the same in both, all before it are. So a listing tells how far an epoch
//! goes, and a few entries where it parts, however long it is.
//!
//! Takes the segments of a ledger, gives a [`Fork`] for each earlier epoch of its archive. It does not own what is said of
//! one, nor whether anybody misses the records.

use super::{EPOCHS_MAX, Manifest};
use crate::{
    archive::{
        entry::Entry,
        layout::{self, Epoch},
    },
    error::{Code, Error, Result},
    types::{SegmentId, Seq},
};

/// How far an earlier epoch is this ledger, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The earlier one.
    pub epoch: Epoch,
    /// How many segments both have.
    pub segments: u64,
    /// One past the last record that both have.
    pub shared: Seq,
    /// One past the last record of the earlier one.
    pub end: Seq,
}

impl Fork {
    /// Whether it has records that are not in this ledger.
    #[must_use]
    pub fn leaves_records(&self) -> bool {
        self.end > self.shared
    }
}

/// What a manifest is compared with: the digest of a segment, and one past its last record.
pub type Own = ([u8; 32], Seq);

impl Manifest {
    /// The forks of all earlier epochs that have archived here, the newest first. One whose entries are damaged is given
    /// as that: it is not needed to read this one.
    ///
    /// # Errors
    /// As the store's.
    pub async fn forks(
        &self,
        own: impl Fn(SegmentId) -> Option<Own>,
    ) -> Result<Vec<(Epoch, Result<Fork, Error>)>> {
        let mut forks = Vec::new();
        for epoch in (Epoch::FIRST.0..self.epoch.0).rev().take(EPOCHS_MAX as usize).map(Epoch) {
            let earlier = Self { epoch, ..self.clone() };
            match earlier.fork(&own).await {
                Ok(None) => {}
                Ok(Some(fork)) => forks.push((epoch, Ok(fork))),
                Err(error) if error.code() == Code::Corrupt => forks.push((epoch, Err(error))),
                Err(error) => return Err(error),
            }
        }
        Ok(forks)
    }

    /// Where this manifest, of an earlier epoch, parts; none where it has not begun.
    async fn fork(&self, own: &impl Fn(SegmentId) -> Option<Own>) -> Result<Option<Fork>> {
        let Some(last) = self.newest().await? else { return Ok(None) };
        // One that a restored cluster had only begun to carry over has the rest of its entries, and not that one.
        if self.epoch > Epoch::FIRST && self.entry(SegmentId(0)).await?.is_none() {
            return Ok(None);
        }
        let end = self.there(last).await?.end_seq;
        // Below `same` both are one, from `other` on they are not.
        let (mut same, mut other, mut shared) = (0, last.0.saturating_add(1), Seq(0));
        let mut at = last.0;
        while same < other {
            let id = SegmentId(at);
            let entry = self.there(id).await?;
            match own(id).filter(|(digest, _)| *digest == entry.digest) {
                Some((_, end)) => (same, shared) = (at + 1, end),
                None => other = at,
            }
            at = same + (other - same) / 2;
        }
        Ok(Some(Fork { epoch: self.epoch, segments: same, shared, end }))
    }

    /// The segment of the last entry, by names alone.
    async fn newest(&self) -> Result<Option<SegmentId>> {
        let (dir, mut newest, mut after) = (layout::entries(self.epoch), None, None::<String>);
        loop {
            let page = self.store.list(&dir, after.as_deref()).await?;
            newest = page.names.iter().rev().find_map(layout::parse_entry).or(newest);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(newest),
            }
        }
    }

    async fn there(&self, id: SegmentId) -> Result<Entry> {
        let missing = || self.gone(&layout::entry(self.epoch, id), "later ones are there");
        self.entry(id).await?.ok_or_else(missing)
    }
}
