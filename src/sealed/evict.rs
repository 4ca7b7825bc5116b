//! Letting a segment's file go: what stays is its stub, and records are read from the archive.
//!
//! ```text
//! stub.tmp: written, synced, opened, verified ─► named .stub, durable ─► readers go there ─► .seg removed
//!                                                │                                        │
//!   a crash before: the file counts, .tmp goes   └─ here: the file counts, the stub goes  └─ the stub counts
//! ```
//!
//! Takes a segment and its packed copy as it was read from the archive, gives back how much room that made. It does not
//! own whether the archive can be relied on, nor which segment goes when.

use super::Sealed;
use crate::{
    archive::writer::Writer,
    env::OpenMode,
    error::{Code, Error, Result},
    segment::{Segment, StubObject, file_name, remove, stub_name, unfinished},
    types::SegmentId,
};

impl Sealed {
    /// Puts a stub in the place of a segment's file. `packed` is the copy in the archive, every block of which has been
    /// read and checked. How many bytes of the disk that has freed. Blocks.
    ///
    /// # Errors
    /// [`Code::NotFound`] when there is no such segment with a file; [`Code::Io`], [`Code::DiskFull`],
    /// [`Code::Corrupt`] of either. The segment can be read as before then.
    pub fn evict(&self, id: SegmentId, packed: &Segment, object: &StubObject) -> Result<u64> {
        let segments = self.segments();
        let segment = usize::try_from(id.0).ok().and_then(|at| segments.get(at));
        let segment = segment.filter(|segment| segment.stub().is_none());
        let segment = segment
            .ok_or_else(|| Error::new(Code::NotFound, format!("segment {id} has no file that could go")))?;
        let path = self.dir.join(stub_name(id));
        let being_written = unfinished(&path);
        let doing = |what: &str| format!("{what} {}", being_written.display());
        // An older one may have pages that a failed sync lost and that look clean: never write over it.
        remove(&*self.io, &being_written)?;
        let written = || {
            let file = self.io.open(&being_written, OpenMode::Buffered);
            let file = file.map_err(|error| Error::io(doing("creating"), &error))?;
            let mut out = Writer::new(file.clone());
            segment.write_stub(packed, object, &mut out)?;
            out.finish().map_err(|error| Error::io(doing("writing"), &error))?;
            file.sync().map_err(|error| Error::io(doing("syncing"), &error))?;
            let file = self.io.open(&being_written, OpenMode::Read);
            let file = file.map_err(|error| Error::io(doing("opening"), &error))?;
            let stub = Segment::from_stub(file, &path, self.cache.clone())?;
            if stub.summary() != segment.summary() {
                return Err(Error::new(Code::Corrupt, doing("another segment is in")));
            }
            stub.verify(|_| ())?;
            Ok(stub)
        };
        let stub = match written() {
            Ok(stub) => stub,
            Err(error) => {
                // What is left of it is removed by the next try or the next start.
                let _ = remove(&*self.io, &being_written);
                return Err(error);
            }
        };
        let freed = segment.local_bytes().saturating_sub(stub.local_bytes());
        let named = |error| Error::io(format!("naming {}", path.display()), &error);
        self.io.rename(&being_written, &path).map_err(named)?;
        self.io.sync_dir(&self.dir).map_err(named)?;
        self.swap(stub, &path)?;
        // From here on readers need the archive; a start does once the file's name is gone, too. Those who are at the
        // file finish with it.
        let file = self.dir.join(file_name(id));
        remove(&*self.io, &file)?;
        self.io
            .sync_dir(&self.dir)
            .map_err(|error| Error::io(format!("removing {}", file.display()), &error))?;
        Ok(freed)
    }
}
