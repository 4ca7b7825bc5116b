//! What a restored ledger has in the archive from its start: the segments of the epoch before.
//!
//! ```text
//! epoch 1   0 ─── 1 ─── 2 ─── 3 ─── …        what the old cluster added after the restore is not gone on from
//!           ▲     ▲     ▲
//! epoch 2   0 ◄── 1 ◄── 2     link ─── …     the same objects; the last entry is written first
//! ```
//!
//! Every manifest begins with the first segment, so that each tells the whole ledger, and is checked from one end to
//! the other by whoever knows nothing of epochs. Entries cost a quarter of a kilobyte for each segment; no object is
//! copied. An epoch is there for those who restore as soon as its entry 0 is: so that one is the last to be written, and
//! until then the archive's newest epoch is the one before, whole.
//!
//! Takes the manifest of a new epoch and what is sealed here, gives entries. It does not own the objects' contents: they
//! were verified by the restore that made this node.

use bytes::Bytes;

use super::{Fork, Manifest, Own, Tip, checkpoint_size};
use crate::{
    archive::{
        entry::Entry,
        layout::{self, Epoch},
        store::{Put, Trouble},
    },
    error::{Code, Error, Result},
    types::{SegmentId, Seq},
};

impl Manifest {
    /// Takes over what the earlier epoch has of this ledger that has most of it, unless this one has begun already; the
    /// checkpoints that were signed of that, too. `own` tells the segments that are sealed here. How many entries there
    /// were, and where the earlier epochs part from this ledger. It can be called again after any failure, and by several
    /// nodes at once.
    ///
    /// # Errors
    /// As the store's; [`Code::Corrupt`] where all earlier manifests are damaged.
    pub async fn carry_over(
        &self,
        own: impl Fn(SegmentId) -> Option<Own>,
    ) -> Result<(u64, Vec<(Epoch, Result<Fork>)>)> {
        if self.epoch == Epoch::FIRST {
            return Ok((0, Vec::new()));
        }
        let forks = self.forks(&own).await?;
        if self.entry(SegmentId(0)).await?.is_some() {
            return Ok((0, forks));
        }
        let mut good: Vec<&Fork> = forks.iter().filter_map(|(_, fork)| fork.as_ref().ok()).collect();
        if let ([], Some((_, Err(error)))) = (&good[..], forks.first()) {
            return Err(error.clone());
        }
        // Of equal ones the newest, which comes first.
        good.sort_by_key(|fork| std::cmp::Reverse(fork.segments));
        for Fork { epoch, segments, .. } in good {
            let earlier = Self { epoch: *epoch, ..self.clone() };
            let entries = earlier.shared(*segments).await?;
            if let Some(last) = entries.last() {
                match self.carry_notes(&earlier, last.end_seq).await {
                    // What is signed there stays there, and the new cluster signs all of it anew.
                    Err(error) if error.code() == Code::Corrupt => {
                        tracing::warn!(%error, "a checkpoint of the epoch before is not taken over");
                    }
                    carried => carried?,
                }
                self.put_entries(&entries).await?;
                return Ok((entries.len() as u64, forks));
            }
        }
        Ok((0, forks))
    }

    /// The entries of its first `segments` segments, up to the first whose object is not there.
    async fn shared(&self, segments: u64) -> Result<Vec<Entry>> {
        let mut shared = Vec::new();
        let follow = self.follow(Tip::default(), |entry| {
            if entry.object.segment.0 < segments {
                shared.push(entry.clone());
            }
            Ok(())
        });
        follow.await?;
        for at in 0..shared.len() {
            let object = &shared[at].object;
            let is_there = match self.store.head(&object.name()).await {
                Ok(bytes) => bytes == object.bytes,
                Err(error) if error.trouble() == Trouble::NotFound => false,
                Err(error) => return Err(error.into()),
            };
            if !is_there {
                tracing::warn!(
                    object = %object.name(),
                    archive = self.store.place(),
                    "the archive has lost an object: its segment, and those behind it, are archived again"
                );
                shared.truncate(at);
                break;
            }
        }
        Ok(shared)
    }

    async fn carry_notes(&self, earlier: &Self, end: Seq) -> Result<()> {
        self.put_notes(&earlier.checkpoints(end).await?).await
    }

    /// Puts signed checkpoints, each under the name that its bytes give it.
    pub(super) async fn put_notes(&self, notes: &[Bytes]) -> Result<()> {
        for note in notes {
            let size = checkpoint_size(note).map_err(|what| Error::new(Code::Internal, what))?;
            let name = layout::checkpoint(self.epoch, size, blake3::hash(note).as_bytes());
            if self.store.put_once(&name, note.clone().into()).await? == Put::Conflict {
                return Err(self.spoiled(&name, "its bytes are not those that its name stands for"));
            }
        }
        Ok(())
    }

    /// Puts the entries of an earlier epoch into this one, from the last to the first.
    async fn put_entries(&self, entries: &[Entry]) -> Result<()> {
        for entry in entries.iter().rev() {
            let name = layout::entry(self.epoch, entry.object.segment);
            let entry = Entry { epoch: self.epoch, ..entry.clone() };
            let put = self.store.put_once(&name, Bytes::copy_from_slice(&entry.encode()).into()).await?;
            if put == Put::Conflict {
                // It was lost and entered again before, by an object of this epoch.
                let there = self.entry(entry.object.segment).await?;
                if there.is_none_or(|there| there.digest != entry.digest) {
                    return Err(self.damaged(&name, "it is of another segment than this node has sealed"));
                }
            }
        }
        // From here on the epoch has begun, with all that it goes on from.
        Ok(())
    }
}
