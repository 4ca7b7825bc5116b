//! The checkpoints of an archive, all of them: each has to be what its name says, signed by somebody who is known, and
//! of the tree that is there.
//!
//! ```text
//! names of this epoch and of what it shares with earlier ones ─► each fetched, read ─► a Note ─► held against the walk
//!                                                                  └─ unknown signer? the segment that it covers names him
//! ```
//!
//! Whoever signed an old one may have left since: the segment at its end still names him, because a node archives no
//! checkpoint before its segments name its key. Takes names, gives notes. It does not own the roots, which come from the
//! segments' walk. Memory is bounded: of very many the newest are looked at, and the others counted.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{Archived, Note};
use crate::{
    archive::{Cold, Epoch, Manifest, Store, layout, name::Name},
    error::{Code, Error, Result},
    proof::{checkpoint::Checkpoint, key::VerifierKey, note},
    types::Seq,
};

/// The most checkpoints that are looked at; a quarter of a kilobyte each.
const CHECKPOINTS_MAX: usize = 1 << 16;

/// Fetched at once.
const FETCHES: usize = 16;

/// Where a checkpoint is, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    epoch: Epoch,
    size: u64,
    hash: [u8; 32],
}

impl Place {
    fn name(&self) -> Name {
        layout::checkpoint(self.epoch, self.size, &self.hash)
    }
}

/// Names of checkpoints, and how many more there are.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: VecDeque<Place>,
    pub(super) left_out: u64,
}

impl Places {
    /// Adds those of an epoch that cover no more than `end`.
    pub(super) async fn list(&mut self, store: &dyn Store, epoch: Epoch, end: Seq) -> Result<()> {
        let (dir, mut after) = (layout::checkpoints(epoch), None::<String>);
        loop {
            let page = store.list(&dir, after.as_deref()).await?;
            for (size, hash) in page.names.iter().filter_map(layout::parse_checkpoint) {
                if size > end.0 {
                    return Ok(());
                }
                self.places.push_back(Place { epoch, size, hash });
                if self.places.len() > CHECKPOINTS_MAX {
                    self.places.pop_front();
                    self.left_out += 1;
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Without those of the newest size of this epoch, which are read anyway.
    pub(super) fn before_newest(&mut self, epoch: Epoch) {
        let newest = self.places.iter().filter(|place| place.epoch == epoch).map(|place| place.size).max();
        self.places.retain(|place| place.epoch != epoch || Some(place.size) != newest);
    }
}

impl Archived {
    /// Reads its checkpoints before the newest. Each has to be signed by one of `keys`, or of those that the archive
    /// names: `named` reads them from the state at a segment's end. Where nobody is named, none is given.
    ///
    /// # Errors
    /// [`Code::Corrupt`] with the first one that is not what its name says, or that nobody has signed who is known;
    /// others as the store's.
    pub async fn earlier_notes(
        &self,
        keys: &[VerifierKey],
        named: impl Fn(&[u8]) -> Vec<VerifierKey>,
    ) -> Result<Vec<Note>> {
        let mut known = keys.to_vec();
        known.extend(named(&self.boundary));
        let fetch = async |place: Place| (place, self.store.get(&place.name()).await);
        let mut fetched = stream::iter(self.checkpoints.places.iter().copied()).map(fetch).buffered(FETCHES);
        let mut notes = Vec::new();
        while let Some((place, object)) = fetched.next().await {
            let (bytes, name) = (object?.bytes, format!("{} in {}", place.name(), self.store.place()));
            let damaged = |what: String| {
                let what = format!(
                    "{name} is damaged: {what}; where the newest checkpoint is whole that covers the same records, and this one may go"
                );
                Error::new(Code::Corrupt, what)
            };
            check(&place, &bytes).map_err(damaged)?;
            let note = match Note::read(&name, &bytes, &known) {
                Ok(note) => note,
                Err(_) => {
                    let more = self.keys_at(place.size, &named).await?;
                    known.extend(more.into_iter().filter(|key| !known.contains(key)).collect::<Vec<_>>());
                    if known.is_empty() {
                        continue;
                    }
                    let unknown = |error| format!("none of those who are known has signed it: {error}");
                    Note::read(&name, &bytes, &known).map_err(|error| damaged(unknown(error)))?
                }
            };
            notes.push(note.into_earlier());
        }
        Ok(notes)
    }

    /// The keys that are named by the segments at whose end a tree of this size is, or within one of which it is.
    async fn keys_at(
        &self,
        size: u64,
        named: impl Fn(&[u8]) -> Vec<VerifierKey>,
    ) -> Result<Vec<VerifierKey>> {
        let first = self.entries.partition_point(|entry| entry.end_seq.0 < size);
        let mut keys = Vec::new();
        for (number, entry) in self.entries[first..].iter().enumerate() {
            if number > 0 && entry.end_seq.0 > size {
                break;
            }
            let segment = Cold::open(self.store.clone(), &entry.object, &entry.digest).await?;
            keys.extend(named(&segment.summary().boundary));
        }
        Ok(keys)
    }
}

/// Where the checkpoints before the newest are: those of this epoch, which ends with record `end`, and those of the
/// `shared` parts of earlier ones, the newest first.
pub(super) async fn earlier(manifest: &Manifest, shared: &[(Epoch, Seq)], end: Seq) -> Result<Places> {
    let (store, mut places) = (&**manifest.store(), Places::default());
    for (epoch, shared) in shared.iter().rev() {
        places.list(store, *epoch, *shared).await?;
    }
    places.list(store, manifest.epoch(), end).await?;
    places.before_newest(manifest.epoch());
    Ok(places)
}

/// Whether a checkpoint is what its name says.
fn check(place: &Place, bytes: &Bytes) -> Result<(), String> {
    if *blake3::hash(bytes).as_bytes() != place.hash {
        return Err("its bytes are not those that its name stands for".to_owned());
    }
    let checkpoint: Result<Checkpoint, _> = note::Note::parse(bytes).and_then(|note| note.text().parse());
    match checkpoint {
        Ok(checkpoint) if checkpoint.size() == place.size => Ok(()),
        Ok(checkpoint) => Err(format!("it is of {} records", checkpoint.size())),
        Err(error) => Err(error.to_string()),
    }
}
