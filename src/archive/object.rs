//! A segment as an object: packed, uploaded, checked, and read again by ranges of blocks.
//!
//! ```text
//! header │ block block block … │ contents │ places │ trailer        drawn in segment::format, version 1
//!          └ each stored as its place says: as it is, LZ4, or zstd
//! ```
//!
//! It is the segment's own format; only the places differ, and the bytes of blocks. So its digest is the segment's,
//! each block can be fetched, decompressed and checked alone, and unpacking gives the local file again, bit for bit.
//! The name has the BLAKE3 of the object's bytes.
//!
//! Takes open segments, gives objects in a [`Store`]; takes an object's name, gives blocks and whole files, of which
//! every byte was checked. Memory is some megabytes, whatever the segment's size, unless one block is larger. It does
//! not own the order in which objects are written.

use std::{
    fmt,
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};

use super::{
    layout::{self, Epoch},
    name::Name,
    store::{Body, Put, RANGE_BYTES_MAX, Store},
    writer::Writer,
};
use crate::{
    env::{File, Io, OpenMode, ReadAhead},
    error::{Code, Error, Result},
    runtime::without_blocking_others,
    segment::{
        Packing, Segment, SegmentSummary,
        format::{HEADER_BYTES, TRAILER_BYTES},
        remove,
        stored::Stored,
    },
    types::{SegmentId, Seq},
};

/// Which object, and what its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// In whose directory it is.
    pub epoch: Epoch,
    /// Which segment it is.
    pub segment: SegmentId,
    /// How many bytes it has.
    pub bytes: u64,
    /// BLAKE3 of all of them.
    pub hash: [u8; 32],
}

impl ObjectRef {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> Name {
        layout::segment(self.epoch, self.segment, &self.hash)
    }
}

/// How blocks are stored, as the settings `enable_compression` and `compression_level` say it: 0 is LZ4, 1 to 9 are
/// zstd's levels.
#[must_use]
pub const fn packing(enable_compression: bool, compression_level: u8) -> Packing {
    match (enable_compression, compression_level) {
        (false, _) => Packing::None,
        (true, 0) => Packing::Lz4,
        (true, level) => Packing::Zstd(level),
    }
}

/// A packed segment in a file of this node, to be uploaded; the file's name goes when it is dropped. What is uploaded to a
/// directory of the same file system is that file, so nothing is written to it any more.
#[derive(Debug)]
pub struct Staged {
    object: ObjectRef,
    digest: [u8; 32],
    file: Arc<dyn File>,
    io: Arc<dyn Io>,
    path: PathBuf,
}

/// A segment's file by its name, to be read once; none where nothing has that name any more. Each block is checked: damage
/// that the disk has done since is found, although an older handle may still be given what was there before.
fn ahead(io: &dyn Io, segment: &Segment) -> Option<ReadAhead> {
    let open = |mode| io.open(segment.path(), mode);
    ReadAhead::new(open(OpenMode::ReadDirect).ok()?, open(OpenMode::Read).ok()?).ok()
}

impl Staged {
    /// Packs a segment into the file at `path`, which is written anew. Blocks; every block is checked on the way.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when the segment is damaged; [`Code::Io`], [`Code::DiskFull`].
    pub fn pack(
        io: Arc<dyn Io>,
        segment: &Segment,
        packing: Packing,
        epoch: Epoch,
        path: &Path,
    ) -> Result<Self> {
        remove(&*io, path)?;
        let failed = |error| Error::io(format!("packing a segment into {}", path.display()), &error);
        let file = io.open(path, OpenMode::Buffered).map_err(failed)?;
        let past_cache = io.open(path, OpenMode::Direct).map_err(failed)?;
        let summary = segment.summary();
        let object = ObjectRef { epoch, segment: summary.id(), bytes: 0, hash: [0; 32] };
        // From here on the file goes with this, whole or not.
        let mut staged = Self { object, digest: summary.digest, file, io, path: path.to_path_buf() };
        let mut writer = Writer::past_cache(past_cache, staged.file.clone());
        match ahead(&*staged.io, segment) {
            Some(file) => segment.pack_from(&file, packing, &mut writer)?,
            None => segment.pack(packing, &mut writer)?,
        }
        (staged.object.bytes, staged.object.hash) = writer.finish().map_err(failed)?;
        Ok(staged)
    }

    /// What it is.
    #[must_use]
    pub const fn object(&self) -> &ObjectRef {
        &self.object
    }

    /// The segment's digest.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Puts it into the store and reads all of it back.
    ///
    /// # Errors
    /// As the store's, and [`Code::Corrupt`] when what is there is not what was sent.
    pub async fn upload(&self, store: &dyn Store) -> Result<()> {
        let name = self.object.name();
        let (file, path) = (self.file.clone(), Some(self.path.clone()));
        let body = Body::File { file, bytes: self.object.bytes, path };
        if store.put_once(&name, body).await? == Put::Conflict {
            return Err(not_itself(store, &name));
        }
        check(store, &self.object).await
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What is left of it is removed before the next one is written.
        let _ = self.io.remove(&self.path);
    }
}

/// Reads all of an object and compares it with its name.
///
/// # Errors
/// As the store's, and [`Code::Corrupt`] when it has other bytes.
pub async fn check(store: &dyn Store, object: &ObjectRef) -> Result<()> {
    let name = object.name();
    if store.head(&name).await? != object.bytes {
        return Err(not_itself(store, &name));
    }
    let mut hasher = blake3::Hasher::new();
    let mut pieces = pin!(pieces(store, &name, object.bytes));
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        without_blocking_others(piece.len(), || hasher.update(&piece));
    }
    if *hasher.finalize().as_bytes() == object.hash { Ok(()) } else { Err(not_itself(store, &name)) }
}

/// Writes the file that a node keeps of a segment, wherever it was opened, and syncs it. The file is new. Every block
/// is checked on the way. Blocks.
///
/// # Errors
/// [`Code::Corrupt`] when the segment is damaged; [`Code::Io`], [`Code::DiskFull`] of either.
pub fn unpack(segment: &Segment, file: Arc<dyn File>) -> Result<()> {
    let failed = |error| Error::io("writing a segment that was fetched", &error);
    let mut writer = Writer::new(file.clone());
    segment.pack(Packing::None, &mut writer)?;
    writer.finish().map_err(failed)?;
    file.sync().map_err(failed)
}

/// The error for an object that its name does not stand for.
pub(super) fn not_itself(store: &dyn Store, name: &Name) -> Error {
    damaged(store, name, "its bytes are not those that its name stands for")
}

fn damaged(store: &dyn Store, name: &Name, what: &str) -> Error {
    let advice = "read it again, in case it was spoiled on its way; if it stays so, remove it, and let a member \
                  that has the segment archive it again";
    Error::new(Code::Corrupt, format!("{name} in {} is damaged: {what}; {advice}", store.place()))
}

/// Pieces of an object that are under way at once.
const PIECES: usize = 3;

/// All of an object that has so many bytes, piece by piece and in order: while one is dealt with the next are coming.
pub(super) fn pieces<'a>(
    store: &'a dyn Store,
    name: &'a Name,
    bytes: u64,
) -> impl Stream<Item = super::store::Result<Bytes>> + 'a {
    let step = u64::from(RANGE_BYTES_MAX);
    let piece = move |number| {
        let offset = number * step;
        store.get_range(name, offset, (bytes - offset).min(step) as u32)
    };
    stream::iter(0..bytes.div_ceil(step)).map(piece).buffered(PIECES)
}

/// Reads a range of an object in pieces that a store gives at once. Memory grows as they come.
///
/// # Errors
/// As the store's.
pub async fn read(store: &dyn Store, name: &Name, range: Range<u64>) -> Result<Bytes> {
    let mut out = BytesMut::new();
    let mut offset = range.start;
    while offset < range.end {
        let bytes = (range.end - offset).min(u64::from(RANGE_BYTES_MAX)) as u32;
        let piece = store.get_range(name, offset, bytes).await?;
        if offset == range.start && offset + u64::from(bytes) == range.end {
            return Ok(piece);
        }
        out.extend_from_slice(&piece);
        offset += u64::from(bytes);
    }
    Ok(out.freeze())
}

/// Read at an object's end at first: all of the footer, mostly.
const END_BYTES: u64 = 512 << 10;

/// A segment in a store, whose directory has been read and whose blocks have not.
pub struct Cold {
    store: Arc<dyn Store>,
    name: Name,
    stored: Stored,
}

impl fmt::Debug for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cold").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Cold {
    /// Reads the ends of an object, in three requests at most.
    ///
    /// # Errors
    /// As the store's, and [`Code::Corrupt`] when it is not the segment with this digest.
    pub async fn open(store: Arc<dyn Store>, object: &ObjectRef, digest: &[u8; 32]) -> Result<Self> {
        let name = object.name();
        let damaged = |what| damaged(&*store, &name, what);
        if object.bytes < (HEADER_BYTES + TRAILER_BYTES) as u64 {
            return Err(damaged("it is too short to be a segment"));
        }
        let end_at = object.bytes.saturating_sub(END_BYTES);
        let end = read(&*store, &name, end_at..object.bytes).await?;
        let too_short = || damaged("it is too short to be a segment");
        let trailer = end.last_chunk::<TRAILER_BYTES>().ok_or_else(too_short)?;
        let footer_at = Stored::footer(trailer, object.bytes).map_err(damaged)?;
        // The footer may begin before what was read.
        let from = footer_at.start.saturating_sub(end_at) as usize;
        let rest = end.slice(from..end.len() - TRAILER_BYTES);
        let footer = if footer_at.start < end_at {
            let begin = read(&*store, &name, footer_at.start..end_at).await?;
            Bytes::from([&begin[..], &rest[..]].concat())
        } else {
            rest
        };
        let header =
            if end_at == 0 { end.clone() } else { read(&*store, &name, 0..HEADER_BYTES as u64).await? };
        let header = header.first_chunk::<HEADER_BYTES>().ok_or_else(too_short)?;
        let stored = Stored::decode(header, footer, trailer, object.bytes).map_err(damaged)?;
        let summary = stored.summary();
        if summary.digest != *digest || summary.id() != object.segment {
            return Err(damaged("it is another segment"));
        }
        Ok(Self { store, name, stored })
    }

    /// What the segment is and holds; its size is the object's.
    #[must_use]
    pub const fn summary(&self) -> &SegmentSummary {
        self.stored.summary()
    }

    /// How many blocks it has.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.stored.blocks()
    }

    /// The block with the record at a position; `None` when that is not one of this segment's.
    #[must_use]
    pub fn block_of(&self, seq: Seq) -> Option<u32> {
        self.stored.block_of(seq)
    }

    /// The blocks from `first` on that one request can bring, and at least that one; empty behind the last.
    #[must_use]
    pub fn stretch(&self, first: u32) -> Range<u32> {
        let Some(start) = self.stored.place(first).map(|place| place.start) else { return first..first };
        let fits = |number: &u32| {
            self.stored.place(*number).is_some_and(|place| place.end - start <= u64::from(RANGE_BYTES_MAX))
        };
        first..(first + 1..self.blocks()).take_while(fits).last().map_or(first + 1, |last| last + 1)
    }

    /// Fetches blocks that lie behind each other, decompressed and checked. Memory is that of all of them.
    ///
    /// # Errors
    /// As the store's; [`Code::Corrupt`] when a block is not what was written; [`Code::NotFound`] when there are no
    /// such blocks.
    pub async fn fetch(&self, blocks: Range<u32>) -> Result<Vec<Bytes>> {
        let places: Option<Vec<_>> = blocks.clone().map(|block| self.stored.place(block)).collect();
        let places = places.ok_or_else(|| {
            let what = format!("{} has {} blocks, not {blocks:?}", self.name, self.blocks());
            Error::new(Code::NotFound, what)
        })?;
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(Vec::new()) };
        let (start, end) = (first.start, last.end);
        let bytes = read(&*self.store, &self.name, start..end).await?;
        let decode = |(number, place): (u32, &Range<u64>)| {
            let stored = &bytes[(place.start - start) as usize..(place.end - start) as usize];
            let block = self.stored.block(number, stored);
            block.map_err(|what| {
                damaged(&*self.store, &self.name, &format!("at offset {}, {what}", place.start))
            })
        };
        without_blocking_others(bytes.len(), || blocks.zip(&places).map(decode).collect())
    }

    /// Writes the file that a node keeps of this segment, bit for bit, and syncs it. The file is new; when this
    /// fails, what is in it is of no use.
    ///
    /// # Errors
    /// As [`Cold::fetch`]; [`Code::Io`], [`Code::DiskFull`] of the file.
    pub async fn rebuild(&self, file: Arc<dyn File>) -> Result<()> {
        let failed = |error| Error::io(format!("writing what {} holds", self.name), &error);
        let mut out = Writer::new(file.clone());
        let mut rebuild = self.stored.rebuild(&mut out).map_err(failed)?;
        while let Some(next) = rebuild.next() {
            let blocks = self.fetch(self.stretch(next)).await?;
            let bytes = blocks.iter().map(Bytes::len).sum();
            without_blocking_others(bytes, || {
                blocks.iter().try_for_each(|block| rebuild.block(block, &mut out))
            })
            .map_err(failed)?;
        }
        rebuild.finish(&mut out)?;
        let sync = || {
            out.flush()?;
            file.sync()
        };
        without_blocking_others(crate::runtime::HEAVY_BYTES, sync).map_err(failed)
    }
}
