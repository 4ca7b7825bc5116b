//! The manifest: which objects are the ledger's segments, in order.
//!
//! ```text
//! add      entry there? ─► its object is checked, nothing is uploaded
//!          not there:      object: put, read back ─► checkpoint: put ─► entry: put          a crash between any two
//!                                                                                           leaves the ledger before
//! enter    as add, where the object is known to be there and the file is not here any more
//! follow   list entries ─► get each ─► it continues the one before ─► the caller; up to a gap, which a writer fills
//! ```
//!
//! Takes packed segments and signed checkpoints, gives entries. Two leaders may add the same segment at once: one
//! entry wins, and both go on from it. It does not own which node archives, nor the tree: that a root is right is for
//! whoever verifies segments to say.

mod carry;
mod fork;

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

pub use self::fork::{Fork, Own};
use super::{
    entry::Entry,
    fence,
    layout::{self, Epoch},
    marker::LedgerId,
    name::Name,
    object::{self, Cold, ObjectRef, Staged},
    store::{Put, Store, Trouble},
};
use crate::{
    error::{Code, Error, Result},
    proof::{checkpoint::Checkpoint, note::Note},
    segment::SegmentSummary,
    types::{SegmentId, Seq},
};

/// Entries that are read at once: each is a request of its own.
const ENTRIES: usize = 16;

/// The most earlier epochs that are looked at: a number in an archive must not keep anybody busy for ever.
const EPOCHS_MAX: u32 = 1_000;

/// The manifest of one epoch of a ledger.
#[derive(Clone, Debug)]
pub struct Manifest {
    store: Arc<dyn Store>,
    ledger: LedgerId,
    epoch: Epoch,
}

/// Where a segment's object comes from.
enum Source {
    /// It is to be uploaded.
    Staged(Staged),
    /// It is there.
    There(ObjectRef),
}

impl Source {
    const fn object(&self) -> &ObjectRef {
        match self {
            Self::Staged(staged) => staged.object(),
            Self::There(object) => object,
        }
    }
}

/// Where the entries so far end, and the next one has to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tip {
    /// The segment that comes next.
    pub next: SegmentId,
    /// One past the last record: `archived`.
    pub end_seq: Seq,
    /// Digest of the last segment; zeros before the first.
    pub digest: [u8; 32],
}

/// A hole in a manifest: somebody has taken an entry away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The entry that comes next, and is missing.
    pub missing: Name,
    /// One behind it.
    pub there: Name,
}

impl Tip {
    /// Goes on behind an entry.
    ///
    /// # Errors
    /// What does not continue.
    pub fn follow(&mut self, entry: &Entry) -> Result<(), &'static str> {
        if entry.object.segment != self.next {
            return Err("it is another segment's");
        }
        if entry.first_seq != self.end_seq || entry.digest_before != self.digest {
            return Err("it does not continue the entry before it");
        }
        *self = Self {
            next: SegmentId(self.next.0.saturating_add(1)),
            end_seq: entry.end_seq,
            digest: entry.digest,
        };
        Ok(())
    }
}

/// The newest epoch that has a manifest; `None` for an archive without entries.
///
/// # Errors
/// As the store's.
pub async fn newest_epoch(store: &dyn Store) -> Result<Option<Epoch>> {
    let mut newest = None;
    let is_there = async |epoch| match store.head(&layout::entry(epoch, SegmentId(0))).await {
        Ok(_) => Ok(true),
        Err(error) if error.trouble() == Trouble::NotFound => Ok(false),
        Err(error) => Err(Error::from(error)),
    };
    for epoch in (Epoch::FIRST.0..).map(Epoch) {
        // Every epoch's manifest begins with the first segment, whichever epoch archived that.
        if !is_there(epoch).await? {
            break;
        }
        newest = Some(epoch);
    }
    // A restored cluster that archives elsewhere begins with a later one.
    match fence::holder(store).await? {
        Some(holder) if Some(holder.epoch) > newest && is_there(holder.epoch).await? => {
            Ok(Some(holder.epoch))
        }
        _ => Ok(newest),
    }
}

impl Manifest {
    /// The manifest of this ledger and epoch in a store, be it empty or not.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, ledger: LedgerId, epoch: Epoch) -> Self {
        Self { store, ledger, epoch }
    }

    /// Which life of the ledger it is of.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whose it is.
    #[must_use]
    pub const fn ledger(&self) -> LedgerId {
        self.ledger
    }

    /// Where it is.
    #[must_use]
    pub const fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The entry of a segment, if it has one.
    ///
    /// # Errors
    /// As the store's; [`Code::Corrupt`] when it is not an entry of this manifest.
    pub async fn entry(&self, id: SegmentId) -> Result<Option<Entry>> {
        let name = layout::entry(self.epoch, id);
        let bytes = match self.store.get(&name).await {
            Ok(object) => object.bytes,
            Err(error) if error.trouble() == Trouble::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let entry = Entry::decode(&bytes).map_err(|what| self.spoiled(&name, what))?;
        if entry.ledger != self.ledger {
            return Err(self.damaged(&name, &format!("it is of the ledger {}", entry.ledger)));
        }
        if entry.epoch != self.epoch || entry.object.segment != id {
            return Err(self.spoiled(&name, "it stands in the place of another"));
        }
        Ok(Some(entry))
    }

    /// Reads all entries behind `tip`, in order, each checked against the one before it. Where they end.
    ///
    /// # Errors
    /// As the store's and those of `each`; [`Code::Corrupt`] for an entry that is damaged, does not continue, or is
    /// missing before one that is there.
    pub async fn follow(&self, tip: Tip, each: impl FnMut(&Entry) -> Result<()>) -> Result<Tip> {
        let (tip, gap) = self.follow_to_gap(tip, each).await?;
        gap.map_or(Ok(tip), |gap| Err(self.gone(&gap.missing, &format!("{} is there", gap.there))))
    }

    /// As [`Manifest::follow`], up to the first entry that is missing before one that is there.
    ///
    /// # Errors
    /// As [`Manifest::follow`], but for that.
    pub async fn follow_to_gap(
        &self,
        tip: Tip,
        mut each: impl FnMut(&Entry) -> Result<()>,
    ) -> Result<(Tip, Option<Gap>)> {
        let dir = layout::entries(self.epoch);
        let mut tip = tip;
        let mut after = tip.next.0.checked_sub(1).map(|last| layout::entry_last(SegmentId(last)));
        loop {
            let page = self.store.list(&dir, after.as_deref()).await?;
            let listed = page.names.into_iter().filter_map(|name| Some((layout::parse_entry(&name)?, name)));
            let read = |(id, name): (SegmentId, Name)| async move { (id, name, self.entry(id).await) };
            let mut entries = pin!(stream::iter(listed).map(read).buffered(ENTRIES));
            while let Some((id, there, entry)) = entries.next().await {
                if id != tip.next {
                    let missing = layout::entry(self.epoch, tip.next);
                    return Ok((tip, Some(Gap { missing, there })));
                }
                let Some(entry) = entry? else {
                    return Err(self.damaged(&there, "it was listed, and is not there"));
                };
                tip.follow(&entry).map_err(|what| self.damaged(&there, what))?;
                each(&entry)?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok((tip, None)),
            }
        }
    }

    /// Archives the segment behind `tip`: uploads it unless it has an entry already, reads it back, puts the signed
    /// checkpoints and at last the entry. Everything is in the store when this returns; it can be called again
    /// after any failure.
    ///
    /// `stage` packs the segment; it is called when there is something to upload. A checkpoint covers records up to
    /// the segment's end, not beyond.
    ///
    /// # Errors
    /// As the store's and those of `stage`; [`Code::Corrupt`] when the store has another segment in its place, or
    /// keeps other bytes than it was given; [`Code::Internal`] for a segment or a checkpoint that does not belong.
    pub async fn add(
        &self,
        tip: &mut Tip,
        segment: &SegmentSummary,
        checkpoints: &[Bytes],
        stage: impl FnOnce() -> Result<Staged>,
    ) -> Result<Entry> {
        self.add_from(tip, segment, checkpoints, || stage().map(Source::Staged)).await
    }

    /// As [`Manifest::add`], of a segment whose file has left this node: its object, which is known, has to be there, and
    /// is read back. So entries come again that were lost.
    ///
    /// # Errors
    /// As [`Manifest::add`]; [`Code::Corrupt`] when the object is not there, or another.
    pub async fn enter(
        &self,
        tip: &mut Tip,
        segment: &SegmentSummary,
        checkpoints: &[Bytes],
        object: ObjectRef,
    ) -> Result<Entry> {
        self.add_from(tip, segment, checkpoints, || Ok(Source::There(object))).await
    }

    async fn add_from(
        &self,
        tip: &mut Tip,
        segment: &SegmentSummary,
        checkpoints: &[Bytes],
        source: impl FnOnce() -> Result<Source>,
    ) -> Result<Entry> {
        let name = layout::entry(self.epoch, segment.id());
        let wrong = |what: String| Error::new(Code::Internal, format!("{name} cannot be added: {what}"));
        if let Some(entry) = self.entry(segment.id()).await? {
            return self.adopt(tip, segment, entry).await;
        }
        let sizes = checkpoints.iter().map(|note| checkpoint_size(note));
        let sizes = sizes.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        if let Some(size) = sizes.iter().find(|size| **size > segment.end_seq.0) {
            return Err(wrong(format!("a checkpoint is of size {size}, beyond its end")));
        }
        let source = source()?;
        let object = *source.object();
        let entry = Entry {
            ledger: self.ledger,
            epoch: self.epoch,
            first_seq: segment.head.first_seq,
            end_seq: segment.end_seq,
            last_log: segment.last_log,
            digest: segment.digest,
            digest_before: tip.digest,
            root_after: segment.root_after,
            object,
        };
        let mut after = *tip;
        after.follow(&entry).map_err(|what| wrong(what.into()))?;
        if object.segment != segment.id() {
            return Err(wrong("what was packed is another segment".into()));
        }
        match source {
            Source::Staged(staged) if *staged.digest() != segment.digest => {
                return Err(wrong("what was packed is another segment".into()));
            }
            Source::Staged(staged) => staged.upload(&*self.store).await?,
            Source::There(object) => {
                self.is_there(segment, &object).await.map_err(|error| self.cannot_enter(&object, error))?;
            }
        }
        // From here on the object is there, and nothing names it.
        self.put_notes(checkpoints).await?;
        let put = self.store.put_once(&name, Bytes::copy_from_slice(&entry.encode()).into()).await?;
        // From here on the ledger in the store ends with this segment, or with what another leader has made of it.
        let there = self.entry(segment.id()).await?;
        let Some(there) = there else { return Err(self.damaged(&name, "it was written, and is not there")) };
        if put != Put::Conflict && there == entry {
            *tip = after;
            return Ok(entry);
        }
        self.adopt(tip, segment, there).await
    }

    /// Reads an object back that is to be the segment's.
    async fn is_there(&self, segment: &SegmentSummary, object: &ObjectRef) -> Result<()> {
        object::check(&*self.store, object).await?;
        Cold::open(self.store.clone(), object, &segment.digest).await.map(|_| ())
    }

    /// Why an entry that was lost cannot be written again.
    fn cannot_enter(&self, object: &ObjectRef, error: Error) -> Error {
        if !matches!(error.code(), Code::NotFound | Code::Corrupt) {
            return error;
        }
        let what = format!(
            "the manifest in {} has no entry of segment {}, whose file has left this node, and its object {} is not there \
             to be entered again: {}. Bring the object back, or let a member lead that still has the file",
            self.store.place(),
            object.segment,
            object.name(),
            error.message()
        );
        Error::new(Code::Corrupt, what)
    }

    /// Goes on from an entry that is there, if it is of the same segment and its object is sound.
    async fn adopt(&self, tip: &mut Tip, segment: &SegmentSummary, entry: Entry) -> Result<Entry> {
        let name = layout::entry(self.epoch, segment.id());
        let mut after = *tip;
        after.follow(&entry).map_err(|what| self.damaged(&name, what))?;
        let same = (entry.digest, entry.end_seq, entry.root_after, entry.last_log)
            == (segment.digest, segment.end_seq, segment.root_after, segment.last_log);
        if !same {
            return Err(self.damaged(&name, "it is of another segment than this node has sealed"));
        }
        object::check(&*self.store, &entry.object).await?;
        *tip = after;
        Ok(entry)
    }

    /// The signed checkpoints of the largest size that is not beyond `end`; none signed, none given. Their
    /// signatures are for the caller to verify.
    ///
    /// # Errors
    /// As the store's; [`Code::Corrupt`] when one is not what its name says.
    pub async fn checkpoints(&self, end: Seq) -> Result<Vec<Bytes>> {
        let dir = layout::checkpoints(self.epoch);
        let mut newest: Vec<(u64, [u8; 32], Name)> = Vec::new();
        let mut after: Option<String> = None;
        'pages: loop {
            let page = self.store.list(&dir, after.as_deref()).await?;
            for name in page.names {
                let Some((size, hash)) = layout::parse_checkpoint(&name) else { continue };
                if size > end.0 {
                    break 'pages;
                }
                newest.retain(|(other, ..)| *other == size);
                // A size has as many as members sign it.
                if newest.len() < CHECKPOINTS_MAX {
                    newest.push((size, hash, name));
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut notes = Vec::with_capacity(newest.len());
        for (size, hash, name) in newest {
            notes.push(self.checkpoint((size, hash), &name).await?);
        }
        Ok(notes)
    }

    /// Puts the signed checkpoints of the manifest's end, `size` records, where none of that size is there. Whether
    /// they were put.
    ///
    /// # Errors
    /// As the store's; [`Code::Corrupt`] when one that is there is damaged; [`Code::Internal`] for what is no
    /// checkpoint.
    pub async fn keep_checkpoint(&self, size: Seq, notes: &[Bytes]) -> Result<bool> {
        if notes.is_empty() {
            return Ok(false);
        }
        let (dir, before) = (layout::checkpoints(self.epoch), format!("{:020}", size.0));
        let page = self.store.list(&dir, Some(&before)).await?;
        let named = |name| layout::parse_checkpoint(&name).map(|(size, hash)| (size, hash, name));
        let there = page.names.into_iter().filter_map(named).filter(|(there, ..)| *there == size.0);
        let mut is_there = false;
        for (size, hash, name) in there.take(CHECKPOINTS_MAX) {
            self.checkpoint((size, hash), &name).await?;
            is_there = true;
        }
        if !is_there {
            self.put_notes(notes).await?;
        }
        Ok(!is_there)
    }

    /// The checkpoint of this name, which stands for its size and its hash.
    async fn checkpoint(&self, (size, hash): (u64, [u8; 32]), name: &Name) -> Result<Bytes> {
        let note = self.store.get(name).await?.bytes;
        if *blake3::hash(&note).as_bytes() != hash || checkpoint_size(&note) != Ok(size) {
            return Err(self.spoiled(name, "its bytes are not those that its name stands for"));
        }
        Ok(note)
    }

    /// Two ledgers, or what no failure of a disk makes.
    fn damaged(&self, name: &Name, what: &str) -> Error {
        let advice = "compare the archive with a member's segments before anything is archived or restored";
        self.wrong(name, what, advice)
    }

    /// What a node can write again, but not over what is there.
    fn spoiled(&self, name: &Name, what: &str) -> Error {
        let advice = format!(
            "while the cluster of epoch {} runs, move it away, and {WRITES_AGAIN}; where that cluster is lost, {BRING_BACK}",
            self.epoch.0
        );
        self.wrong(name, what, &advice)
    }

    fn gone(&self, name: &Name, what: &str) -> Error {
        let advice = format!(
            "while the cluster of epoch {} runs, {WRITES_AGAIN}; where it is lost, {BRING_BACK}",
            self.epoch.0
        );
        self.wrong(name, &format!("it is missing, and {what}"), &advice)
    }

    fn wrong(&self, name: &Name, what: &str, advice: &str) -> Error {
        Error::new(Code::Corrupt, format!("{name} in {} is wrong: {what}; {advice}", self.store.place()))
    }
}

/// What becomes of entries and of the newest checkpoints that are not there, in the epoch that is archived.
const WRITES_AGAIN: &str =
    "its leader writes it anew when it starts, or at its next audit (storage.tiering.audit_interval_secs)";

/// Nobody else knows what was in it.
const BRING_BACK: &str =
    "bring it back from a copy of the archive, and remove nothing: records may be in no other entry";

/// The most checkpoints of one size that are read.
const CHECKPOINTS_MAX: usize = 64;

/// The size that a note's checkpoint says; its signatures are not looked at.
fn checkpoint_size(note: &[u8]) -> Result<u64, String> {
    let checkpoint: Result<Checkpoint, _> = Note::parse(note).and_then(|note| note.text().parse());
    checkpoint
        .map(|checkpoint| checkpoint.size())
        .map_err(|error| format!("a checkpoint is not one: {error}"))
}
