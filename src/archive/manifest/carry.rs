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

use super::{Manifest, Tip, checkpoint_size};
use crate::{
    archive::{
        entry::Entry,
        layout::{self, Epoch},
        store::{Put, Trouble},
    },
    error::{Code, Error, Result},
    types::SegmentId,
};

/// The most earlier epochs that are looked at: a number in an archive must not keep a node busy for ever.
const EPOCHS_MAX: u32 = 1_000;

impl Manifest {
    /// Takes over what the newest earlier epoch has of this ledger, unless this one has begun already; the checkpoints
    /// that were signed of that, too. `digest_of` tells the digests of the segments that are sealed here. How many entries
    /// there were. It can be called again after any failure, and by several nodes at once.
    ///
    /// # Errors
    /// As the store's; [`Code::Corrupt`] for an earlier manifest that is damaged.
    pub async fn carry_over(&self, digest_of: impl Fn(SegmentId) -> Option<[u8; 32]>) -> Result<u64> {
        if self.epoch == Epoch::FIRST || self.entry(SegmentId(0)).await?.is_some() {
            return Ok(0);
        }
        for epoch in (Epoch::FIRST.0..self.epoch.0).rev().take(EPOCHS_MAX as usize).map(Epoch) {
            let earlier = Self { epoch, ..self.clone() };
            let entries = earlier.shared(&digest_of).await?;
            if let Some(last) = entries.last() {
                let notes = earlier.checkpoints(last.end_seq).await?;
                self.put_notes(&notes).await?;
                self.put_entries(&entries).await?;
                return Ok(entries.len() as u64);
            }
        }
        Ok(0)
    }

    /// The entries from the first on that are of segments sealed here, and whose objects are there.
    async fn shared(&self, digest_of: &impl Fn(SegmentId) -> Option<[u8; 32]>) -> Result<Vec<Entry>> {
        let mut shared = Vec::new();
        if self.entry(SegmentId(0)).await?.is_none() {
            return Ok(shared);
        }
        let mut goes_on = true;
        let follow = self.follow(Tip::default(), |entry| {
            goes_on = goes_on && digest_of(entry.object.segment) == Some(entry.digest);
            if goes_on {
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

    /// Puts signed checkpoints, each under the name that its bytes give it.
    pub(super) async fn put_notes(&self, notes: &[Bytes]) -> Result<()> {
        for note in notes {
            let size = checkpoint_size(note).map_err(|what| Error::new(Code::Internal, what))?;
            let name = layout::checkpoint(self.epoch, size, blake3::hash(note).as_bytes());
            if self.store.put_once(&name, note.clone().into()).await? == Put::Conflict {
                return Err(self.damaged(&name, "its bytes are not those that its name stands for"));
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
                return Err(self.damaged(&name, "it is of another segment than this node has sealed"));
            }
        }
        // From here on the epoch has begun, with all that it goes on from.
        Ok(())
    }
}
