//! Copying what a node has sealed, beside it while it runs.
//!
//! ```text
//! a segment of the original ─► one that the copy has: the same digest?     one that it has not: .part ─► verified ─► its name
//! ```
//!
//! Sealed segments never change, so nothing has to be stopped or locked, and a copy that has been made before only gets
//! what is new; they are taken in order, so that a copy is the beginning of a ledger whenever it breaks off. What is not
//! sealed yet, the signing key and the index are left out; a segment whose records are in the archive alone is copied from
//! there. A signed checkpoint may lie beside the segments.
//!
//! Takes a directory to copy into, and segments of whoever has them: [`backup`] those of a directory, `scribe backup`
//! those of a server. It does not own whether the ledger is whole: `scribe verify` says that of the copy, as of the
//! original.

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::identity;
use crate::{
    archive::{Epoch, ObjectRef, object::unpack},
    env::{File, Io, OpenMode},
    error::{Code, Error, Result},
    segment::{
        BlockCache, Segment, SegmentSummary, StubObject, file_name, is_unfinished, parse_name, partial_name,
        remove,
    },
    types::{SegmentId, Seq},
    verify::{CHECKPOINT_FILE, COPY_LOCK_FILE, Listing},
};

const CACHE_BYTES: u64 = 1 << 20;

const CHECKPOINT_DRAFT: &str = "checkpoint.tmp";

/// What a copy has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackedUp {
    /// Segments in it.
    pub segments: u64,
    /// Those that were copied this time.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// One past the last record in it.
    pub end_seq: Seq,
}

/// A copy that is brought up to date, segment by segment.
pub struct Backup {
    io: Arc<dyn Io>,
    to: PathBuf,
    there: BTreeSet<SegmentId>,
    cache: Arc<BlockCache>,
    done: BackedUp,
    _lock: Box<dyn Send + Sync>,
}

impl Backup {
    /// Opens the copy of a ledger, or begins one. Nobody else does until this is dropped.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when the directory holds other things, is a running node's, or somebody else is copying
    /// into it; [`Code::Io`].
    pub fn open(io: &Arc<dyn Io>, to: &Path) -> Result<Self> {
        let failed = |what: &str, e| Error::io(format!("{what} {}", to.display()), &e);
        let refused = |what: &str| Error::new(Code::InvalidConfig, format!("{} {what}", to.display()));
        let parent = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = io.list(parent).unwrap_or_default();
        if beside.iter().any(|name| name == identity::FILE) {
            return Err(refused("is within the data directory of a node: copy into a directory of its own"));
        }
        io.create_dir_all(to).map_err(|e| failed("creating", e))?;
        let lock = io.lock(&to.join(COPY_LOCK_FILE)).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => refused("is being copied into: wait for the other backup to end"),
            _ => failed("locking", e),
        })?;
        let names = io.list(to).map_err(|e| failed("listing", e))?;
        let is_ours = |name: &String| {
            parse_name(name).is_some()
                || is_unfinished(name)
                || [CHECKPOINT_FILE, CHECKPOINT_DRAFT, COPY_LOCK_FILE].contains(&name.as_str())
        };
        if let Some(other) = names.iter().find(|name| !is_ours(name)) {
            return Err(refused(&format!(
                "holds {other}, which is no segment: copy into a directory of its own"
            )));
        }
        let there: BTreeSet<SegmentId> = names.iter().filter_map(|name| parse_name(name)).collect();
        // What was begun of the segment that comes next is gone on with.
        let next = (0..).map(SegmentId).find(|id| !there.contains(id)).map(partial_name);
        for name in names.iter().filter(|name| is_unfinished(name) && next.as_ref() != Some(name)) {
            remove(&**io, &to.join(name))?;
        }
        let cache = Arc::new(BlockCache::new(CACHE_BYTES));
        Ok(Self {
            io: io.clone(),
            to: to.to_path_buf(),
            there,
            cache,
            done: BackedUp::default(),
            _lock: lock,
        })
    }

    /// Whether the copy has the segment with this digest. One that cannot be opened any more it does not have.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when it has another one; [`Code::Io`].
    pub fn has(&mut self, id: SegmentId, digest: &[u8; 32]) -> Result<bool> {
        if !self.there.contains(&id) {
            return Ok(false);
        }
        let path = self.to.join(file_name(id));
        let segment = match Segment::open(&*self.io, &path, self.cache.clone()) {
            Err(error) if error.code() == Code::Corrupt => {
                tracing::warn!(%error, "what the copy has is damaged: it is copied again");
                remove(&*self.io, &path)?;
                return Ok(false);
            }
            opened => opened?,
        };
        if segment.summary().digest != *digest {
            let what = format!("{} is of another ledger: copy into a directory of its own", path.display());
            return Err(Error::new(Code::InvalidConfig, what));
        }
        self.note(segment.summary());
        Ok(true)
    }

    /// The file that a segment is copied into, with what was copied before.
    ///
    /// # Errors
    /// [`Code::Io`].
    pub fn partial(&self, id: SegmentId) -> Result<Arc<dyn File>> {
        let path = self.to.join(partial_name(id));
        let file = self.io.open(&path, OpenMode::Buffered);
        file.map_err(|e| Error::io(format!("writing into {}", path.display()), &e))
    }

    /// Verifies a segment that was copied, and gives it its name. It is synced before.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when it is not the segment with this digest; [`Code::Io`].
    pub fn keep(&mut self, id: SegmentId, digest: &[u8; 32]) -> Result<()> {
        let partial = self.to.join(partial_name(id));
        let failed = |e| Error::io(format!("writing into {}", self.to.display()), &e);
        let segment = Segment::open(&*self.io, &partial, self.cache.clone())?;
        if segment.summary().digest != *digest || segment.summary().id() != id {
            let what = format!("{} is not the segment {id} that was asked for", partial.display());
            return Err(Error::new(Code::Corrupt, what));
        }
        segment.verify(|_| {})?;
        let file = self.partial(id)?;
        file.sync().map_err(failed)?;
        self.io.rename(&partial, &self.to.join(file_name(id))).map_err(failed)?;
        // From here on it is a part of the copy; after the next line, also behind a crash.
        self.io.sync_dir(&self.to).map_err(failed)?;
        self.done.copied += 1;
        self.done.copied_bytes += segment.summary().file_bytes;
        self.note(segment.summary());
        Ok(())
    }

    fn note(&mut self, summary: &SegmentSummary) {
        self.done.segments += 1;
        self.done.end_seq = summary.end_seq;
    }

    /// Puts a signed checkpoint beside the segments, in place of an older one.
    ///
    /// # Errors
    /// [`Code::Io`].
    pub fn put_checkpoint(&self, note: &[u8]) -> Result<()> {
        let draft = self.to.join(CHECKPOINT_DRAFT);
        let write = || {
            let file = self.io.open(&draft, OpenMode::Buffered)?;
            file.set_len(0)?;
            file.write_at(note, 0)?;
            file.sync()?;
            self.io.rename(&draft, &self.to.join(CHECKPOINT_FILE))?;
            self.io.sync_dir(&self.to)
        };
        write().map_err(|e| Error::io(format!("writing the checkpoint into {}", self.to.display()), &e))
    }

    /// What it has now, where `original` has no more segments.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when the copy has more.
    pub fn done(&self, original: impl fmt::Display) -> Result<BackedUp> {
        match self.there.last() {
            Some(last) if last.0 >= self.done.segments => Err(Error::new(
                Code::InvalidConfig,
                format!(
                    "{} has more segments than {original}, which is behind, or not what was copied before",
                    self.to.display()
                ),
            )),
            _ => Ok(self.done),
        }
    }
}

/// Writes the file of a segment whose records are in the archive alone, by its object and its digest.
pub type FromObject<'a> = &'a dyn Fn(&ObjectRef, &[u8; 32], Arc<dyn File>) -> Result<()>;

/// Brings a copy up to what is sealed in a data directory, or in a directory of segments. What has left that for the
/// archive comes `from_object`.
///
/// # Errors
/// [`Code::Malformed`] when there is no ledger; [`Code::InvalidConfig`] when the copy is of another one, or its
/// directory holds other things; [`Code::Corrupt`] when a segment is damaged; [`Code::Unavailable`] when records are in
/// an archive that nobody has named; [`Code::Io`], [`Code::DiskFull`]. What has been copied until then stays.
pub fn backup(
    io: &Arc<dyn Io>,
    data_dir: &Path,
    to: &Path,
    from_object: Option<FromObject<'_>>,
) -> Result<BackedUp> {
    let from = Listing::of(&**io, data_dir)?;
    let mut copy = Backup::open(io, to)?;
    for id in (0..from.segments).map(SegmentId) {
        let original = from.open(&**io, id.0, copy.cache.clone())?;
        let digest = original.summary().digest;
        if !copy.has(id, &digest)? {
            let file = copy.partial(id)?;
            file.set_len(0).map_err(|e| Error::io(format!("writing into {}", to.display()), &e))?;
            match (original.stub(), from_object) {
                (None, _) => unpack(&original, file)?,
                (Some(StubObject { epoch, bytes, hash }), Some(from_object)) => {
                    let object = ObjectRef { epoch: Epoch(*epoch), segment: id, bytes: *bytes, hash: *hash };
                    from_object(&object, &digest, file)?;
                }
                (Some(_), None) => return Err(cold(id, data_dir)),
            }
            copy.keep(id, &digest)?;
        }
    }
    copy.done(data_dir.display())
}

/// Why a segment cannot be copied.
fn cold(id: SegmentId, data_dir: &Path) -> Error {
    let what = format!(
        "the records of segment {id} are in the archive alone, and not in {}: name the archive with --archive DIR or \
         --archive s3://bucket/prefix, or copy the running node, which reads it, with --server URL",
        data_dir.display()
    );
    Error::new(Code::Unavailable, what)
}
