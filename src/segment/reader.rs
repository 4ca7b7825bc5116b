//! Reading a sealed segment.
//!
//! Takes a file, gives what is in it by position and by key. Opening reads and checks both ends, the key index
//! and the filter, and keeps them: 1.3 bytes a key and 56 bytes a block. Everything else comes through the
//! [`BlockCache`], checked when it is loaded; what is handed out are slices of cached blocks. A block that is
//! not what was written is an error that names file and offset, and is not cached. It does not own
//! repair: the error says which segment needs one.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    BlockCache, HIGH_SUBTREE_LEAVES, KeyHash, LEAF_HASH_BYTES, LEAVES_PER_BLOCK, SUBTREE_LEAVES, SegmentHead,
    SegmentSummary, Version,
    cache::BlockKey,
    contents::Kind,
    directory::{Block, Directory},
    filter,
    format::{HEADER_BYTES, TRAILER_BYTES, Trailer, digest},
    key_block::{KeyBlockView, KeyIndexView},
    names::{file_name, parse_name, parse_stub_name, stub_name},
    record_block::{RecordBlockView, Row, ValuePlace},
    scan::{Keys, Records, Versions},
    stub::StubObject,
};
use crate::{
    env::{File, Io, OpenMode},
    error::{Code, Error, Result},
    runtime::{HEAVY_BYTES, without_blocking_others},
    types::{Record, SegmentId, Seq},
};

/// A record as a segment has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The record. Key and value are slices of a block: copy them to keep them long.
    pub record: Record,
    /// SHA-256 of a value over 4 KiB, so that its leaf can be rebuilt without hashing it again.
    pub value_commitment: Option<[u8; 32]>,
}

/// A sealed segment, open for reading by many threads.
pub struct Segment {
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    pub(super) directory: Directory,
    summary: SegmentSummary,
    /// Offset and size of the contents.
    contents_at: (u64, u32),
    key_index: Bytes,
    filter: Bytes,
    pub(super) cache: Arc<BlockCache>,
    number: u64,
    local_bytes: u64,
    /// Where its records are when they are not in the file.
    pub(super) stub: Option<StubObject>,
}

/// Both ends of a segment, read and checked.
pub(super) struct Parts {
    pub(super) head: SegmentHead,
    pub(super) directory: Directory,
    pub(super) digest: [u8; 32],
    /// Of the segment's whole file.
    pub(super) file_bytes: u64,
    /// Of what is here.
    pub(super) local_bytes: u64,
    /// Offset and size of the contents.
    pub(super) contents_at: (u64, u32),
    pub(super) stub: Option<StubObject>,
}

impl Segment {
    /// Opens a segment file.
    ///
    /// # Errors
    /// [`Code::Io`] when it cannot be read; [`Code::Corrupt`] when it is not a whole segment.
    pub fn open(io: &dyn Io, path: &Path, cache: Arc<BlockCache>) -> Result<Self> {
        let file = io.open(path, OpenMode::Read).map_err(|error| not_opened(path, &error))?;
        Self::from_file(file, path, cache)
    }

    /// As [`Segment::open`], from wherever its bytes are; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn from_file(file: Arc<dyn File>, name: &Path, cache: Arc<BlockCache>) -> Result<Self> {
        let source = Source::new(&*file, name);
        let file_bytes = file.len().map_err(|error| source.failed("measuring", &error))?;
        if file_bytes < (HEADER_BYTES + TRAILER_BYTES) as u64 {
            return Err(source.corrupt(0, "the file is too short to be a segment"));
        }
        let trailer_at = file_bytes - TRAILER_BYTES as u64;
        let trailer = Trailer::decode(&source.array(trailer_at)?, file_bytes)
            .map_err(|what| source.corrupt(trailer_at, what))?;
        let header: [u8; HEADER_BYTES] = source.array(0)?;
        let contents = source.read(trailer.contents_offset, trailer.contents_bytes as usize)?;
        if digest(&header, &contents) != trailer.digest {
            let what = "header and contents do not match the segment's digest";
            return Err(source.corrupt(trailer.contents_offset, what));
        }
        let head = SegmentHead::decode(&header).map_err(|what| source.corrupt(0, what))?;
        let places_at = trailer.contents_offset + u64::from(trailer.contents_bytes);
        let places = source.read(places_at, trailer.places_bytes as usize)?;
        if *blake3::hash(&places).as_bytes() != trailer.places_hash {
            return Err(source.corrupt(places_at, "the places of blocks do not match their hash"));
        }
        let directory = Directory::decode(&contents, &places, trailer.contents_offset)
            .map_err(|what| source.corrupt(trailer.contents_offset, what))?;
        if head.first_seq.0.checked_add(u64::from(directory.facts.records)).is_none() {
            return Err(source.corrupt(0, "the segment's positions go beyond the last one"));
        }
        let parts = Parts {
            head,
            directory,
            digest: trailer.digest,
            file_bytes,
            local_bytes: file_bytes,
            contents_at: (trailer.contents_offset, trailer.contents_bytes),
            stub: None,
        };
        Self::assemble(file.clone(), name, cache, parts)
    }

    /// Opens a segment whose ends have been read.
    pub(super) fn assemble(
        file: Arc<dyn File>,
        name: &Path,
        cache: Arc<BlockCache>,
        parts: Parts,
    ) -> Result<Self> {
        let Parts { head, directory, digest, file_bytes, local_bytes, contents_at, stub } = parts;
        let source = Source::new(&*file, name);
        let index_at = directory.block(directory.key_index);
        let key_index = source.load(index_at)?;
        KeyIndexView::check(&key_index, directory.keys.len())
            .map_err(|what| source.corrupt(index_at.offset, what))?;
        let filter_at = directory.block(directory.filter);
        let filter = source.load(filter_at)?;
        if !filter::fits(&filter, u64::from(directory.facts.keys)) {
            return Err(source.corrupt(filter_at.offset, "the key filter has another size than its keys"));
        }
        let summary = directory.facts.clone().summary(head, digest, file_bytes);
        let subtrees_at = directory.block(directory.subtrees);
        let closing = |leaves: u64| {
            let (first, records) = (head.first_seq.0, u64::from(directory.facts.records));
            ((first + records) / leaves - first / leaves) as usize
        };
        if subtrees_at.bytes as usize != closing(SUBTREE_LEAVES) * LEAF_HASH_BYTES
            || directory.facts.high_subtrees.len() != closing(HIGH_SUBTREE_LEAVES)
        {
            return Err(
                source.corrupt(subtrees_at.offset, "there are more or fewer subtrees than close here")
            );
        }
        let number = cache.next_file();
        Ok(Self {
            path: name.to_path_buf(),
            file,
            directory,
            summary,
            contents_at,
            key_index,
            filter,
            cache,
            number,
            local_bytes,
            stub,
        })
    }

    /// Opens what a directory has of a segment: its file, or the stub in place of it.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn open_in(io: &dyn Io, dir: &Path, id: SegmentId, cache: Arc<BlockCache>) -> Result<Self> {
        let path = dir.join(file_name(id));
        match io.open(&path, OpenMode::Read) {
            Ok(file) => Self::from_file(file, &path, cache),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let stub = dir.join(stub_name(id));
                match io.open(&stub, OpenMode::Read) {
                    Ok(file) => Self::from_stub(file, &stub, cache),
                    Err(other) if other.kind() == std::io::ErrorKind::NotFound => {
                        Err(not_opened(&path, &error))
                    }
                    Err(other) => Err(not_opened(&stub, &other)),
                }
            }
            Err(error) => Err(not_opened(&path, &error)),
        }
    }

    /// Bytes that it has on this node's disk.
    #[must_use]
    pub const fn local_bytes(&self) -> u64 {
        self.local_bytes
    }

    /// Where the contents begin in the file.
    pub(super) const fn contents_offset(&self) -> u64 {
        self.contents_at.0
    }

    /// What it is and holds.
    #[must_use]
    pub const fn summary(&self) -> &SegmentSummary {
        &self.summary
    }

    /// Bytes it keeps in memory for as long as it is open, blocks in the cache aside.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let blocks = &self.directory;
        let numbers = (blocks.records.len() + blocks.leaves.len() + blocks.keys.len()) * size_of::<u32>();
        (self.key_index.len() + self.filter.len() + blocks.blocks.len() * size_of::<Block>() + numbers) as u64
    }

    /// The record at a position.
    ///
    /// # Errors
    /// [`Code::NotFound`] when the position is not one of this segment's; [`Code::Io`], [`Code::Corrupt`].
    pub fn record(&self, seq: Seq) -> Result<StoredRecord> {
        let number = self.number_of(seq)?;
        let (block_number, slot) = self.directory.record_block(number).ok_or_else(|| self.not_here(seq))?;
        let block = self.block(block_number)?;
        self.stored(seq, block_number, &block, slot)
    }

    /// The records of a range, in order; positions that are not this segment's are left out.
    #[must_use]
    pub fn records(&self, range: Range<Seq>) -> Records<'_> {
        let first = self.summary.head.first_seq.0;
        let end = range.end.0.clamp(first, self.summary.end_seq.0) - first;
        let start = (range.start.0.max(first) - first).min(end);
        Records::new(self, start as u32..end as u32)
    }

    /// The leaf hash of the record at a position.
    ///
    /// # Errors
    /// As [`Segment::record`].
    pub fn leaf_hash(&self, seq: Seq) -> Result<[u8; LEAF_HASH_BYTES]> {
        let number = self.number_of(seq)? as usize;
        let hashes = self.leaves(number..number + 1)?;
        hashes.first_chunk().copied().ok_or_else(|| self.not_here(seq))
    }

    /// The leaf hashes of a range, one behind the other; without a copy when they are all in one leaf block, as
    /// a level-0 tile is when the segment begins at a multiple of 256.
    ///
    /// # Errors
    /// [`Code::NotFound`] when not all of the range is this segment's; [`Code::Io`], [`Code::Corrupt`].
    pub fn leaf_hashes(&self, range: Range<Seq>) -> Result<Bytes> {
        if range.end <= range.start {
            return Ok(Bytes::new());
        }
        let first = self.number_of(range.start)? as usize;
        self.leaves(first..self.number_of(Seq(range.end.0 - 1))? as usize + 1)
    }

    /// The leaf hashes of a range of numbers that are all here.
    fn leaves(&self, range: Range<usize>) -> Result<Bytes> {
        let blocks = range.start / LEAVES_PER_BLOCK..range.end.div_ceil(LEAVES_PER_BLOCK);
        let mut joined = Vec::new();
        for at in blocks.clone() {
            // The directory has a leaf block for every record, of the size of its leaves.
            let block = self.block(self.directory.leaves[at])?;
            let from = range.start.saturating_sub(at * LEAVES_PER_BLOCK) * LEAF_HASH_BYTES;
            let to = (range.end - at * LEAVES_PER_BLOCK).min(LEAVES_PER_BLOCK) * LEAF_HASH_BYTES;
            if blocks.len() == 1 {
                return Ok(block.slice(from..to));
            }
            joined.extend_from_slice(&block[from..to]);
        }
        Ok(joined.into())
    }

    /// Roots of the complete subtrees of [`SUBTREE_LEAVES`] leaves whose last leaf is here, one behind the other;
    /// the first is that of subtree number first seq / [`SUBTREE_LEAVES`].
    ///
    /// # Errors
    /// [`Code::Io`], [`Code::Corrupt`].
    pub fn subtrees(&self) -> Result<Bytes> {
        self.block(self.directory.subtrees)
    }

    /// Whether it may hold versions of this key; `false` is certain. Reads nothing.
    #[must_use]
    pub fn may_contain(&self, key: KeyHash) -> bool {
        filter::may_contain(&self.filter, key)
    }

    /// The versions of a key at positions below `before`, newest first. Ask [`Segment::may_contain`] first: it
    /// costs no read.
    #[must_use]
    pub fn versions<'a>(&'a self, key: &'a [u8], before: Seq) -> Versions<'a> {
        let first = self.summary.head.first_seq.0;
        let end = before.0.clamp(first, self.summary.end_seq.0) - first;
        Versions::new(self, key, end as u32)
    }

    /// The newest version of a key at a position below `before`.
    ///
    /// # Errors
    /// [`Code::Io`], [`Code::Corrupt`].
    pub fn newest(&self, key: &[u8], before: Seq) -> Result<Option<Version>> {
        self.versions(key, before).next().transpose()
    }

    /// All keys in byte order, each with its newest version here. Goes around the cache: a run that is merged
    /// into the index is read once.
    #[must_use]
    pub fn keys(&self) -> Keys<'_> {
        Keys::new(self)
    }

    /// Keys in byte order from `start` on, each with its newest version here, through the cache.
    ///
    /// # Errors
    /// [`Code::Io`], [`Code::Corrupt`] when the first block cannot be read; later errors come as items.
    pub fn keys_from(&self, start: &[u8]) -> Result<Keys<'_>> {
        Keys::from(self, start)
    }

    /// The idempotency outcomes, as the caller gave them. Not kept.
    ///
    /// # Errors
    /// [`Code::Io`], [`Code::Corrupt`].
    pub fn idempotency(&self) -> Result<Bytes> {
        self.load(self.directory.idempotency)
    }

    pub(super) fn key_index(&self) -> Result<KeyIndexView<'_>> {
        let offset = self.directory.block(self.directory.key_index).offset;
        KeyIndexView::open(&self.key_index).map_err(|what| self.corrupt(offset, what))
    }

    /// The number of a position within the segment.
    fn number_of(&self, seq: Seq) -> Result<u32> {
        let here = self.summary.head.first_seq <= seq && seq < self.summary.end_seq;
        if here { Ok((seq.0 - self.summary.head.first_seq.0) as u32) } else { Err(self.not_here(seq)) }
    }

    /// A record of a block that is already there.
    pub(super) fn stored(
        &self,
        seq: Seq,
        block_number: u32,
        block: &Bytes,
        slot: usize,
    ) -> Result<StoredRecord> {
        let damaged = |what| self.corrupt(self.directory.block(block_number).offset, what);
        let view = RecordBlockView::open(block).map_err(damaged)?;
        let Row { op, timestamp_ms, key, value, value_commitment } =
            view.row(slot).ok_or_else(|| damaged("a record points outside its block"))?;
        let value = match value {
            ValuePlace::Inline(value) => block.slice_ref(value),
            ValuePlace::Block(number, bytes) => {
                let at = self.directory.blocks.get(number as usize);
                if at.is_none_or(|at| at.kind != Kind::Value || at.bytes != bytes) {
                    return Err(damaged("a record points to a value that is not there"));
                }
                self.block(number)?
            }
        };
        let record = Record { seq, op, timestamp_ms, key: block.slice_ref(key), value };
        Ok(StoredRecord { record, value_commitment: value_commitment.copied() })
    }

    /// Where its file was opened; it may have another name, or none, by now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A block, checked, from the cache or the file.
    pub(super) fn block(&self, number: u32) -> Result<Bytes> {
        self.cache.get(BlockKey { file: self.number, block: number }, || self.load(number))
    }

    /// A block from the file: the only way in, and where it is checked.
    pub(super) fn load(&self, number: u32) -> Result<Bytes> {
        self.load_from(self.source(), number)
    }

    /// As [`Segment::load`], where the file is read through another handle.
    pub(super) fn load_from(&self, source: Source<'_>, number: u32) -> Result<Bytes> {
        let at = self.directory.block(number);
        let block = match at.kind.is_payload() && self.stub.is_some() {
            true => self.load_cold(number)?,
            false => source.load(at)?,
        };
        match at.kind {
            Kind::Records => RecordBlockView::check(&block, self.directory.records_in(number)).map(drop),
            Kind::Keys => KeyBlockView::check(&block).map(drop),
            Kind::Value
            | Kind::Leaves
            | Kind::Idempotency
            | Kind::KeyIndex
            | Kind::Filter
            | Kind::Subtrees => Ok(()),
        }
        .map_err(|what| self.corrupt(at.offset, what))?;
        Ok(block)
    }

    /// The contents as they stand in the file.
    pub(super) fn contents(&self) -> Result<Vec<u8>> {
        let (offset, bytes) = self.contents_at;
        let contents = self.source().read(offset, bytes as usize)?;
        if digest(&self.summary.head.encode(), &contents) != self.summary.digest {
            return Err(self.corrupt(offset, "the contents do not match the segment's digest"));
        }
        Ok(contents)
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source::new(&*self.file, &self.path)
    }

    pub(super) fn corrupt(&self, offset: u64, what: &str) -> Error {
        self.source().corrupt(offset, what)
    }

    fn not_here(&self, seq: Seq) -> Error {
        let Range { start, end } = self.summary.head.first_seq..self.summary.end_seq;
        let message = format!("position {seq} is not in {}, which holds {start}..{end}", self.path.display());
        Error::new(Code::NotFound, message)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why a file cannot be opened as a segment.
fn not_opened(path: &Path, error: &std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::IsADirectory {
        let what = format!(
            "{} is a directory and no segment: move it away, and restore the file from a backup, another member or the \
             archive",
            path.display()
        );
        return Error::new(Code::Corrupt, what);
    }
    Error::io(format!("opening {}", path.display()), error)
}

/// Bytes of a file, read and checked, and how to say that they are wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    file: &'a dyn File,
    path: &'a Path,
}

impl<'a> Source<'a> {
    pub(super) const fn new(file: &'a dyn File, path: &'a Path) -> Self {
        Self { file, path }
    }

    /// Bytes that are known to be within the file: nothing beyond its size is ever allocated.
    pub(super) fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; bytes];
        self.read_into(offset, &mut out)?;
        Ok(out)
    }

    pub(super) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.read_into(offset, &mut out)?;
        Ok(out)
    }

    fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut read = || {
            if self.file.read_at_once(out, offset)? {
                return Ok(());
            }
            // The disk may take its time: what else this thread serves goes on elsewhere meanwhile.
            without_blocking_others(HEAVY_BYTES, || self.file.read_at(out, offset))
        };
        read().map_err(|error| {
            // A sector that cannot be read, or a file that has been cut short.
            self.failed(&format!("reading at offset {offset} of"), &error).of_damage(self.segment())
        })
    }

    /// A block whose bytes are those that were written.
    fn load(&self, at: &Block) -> Result<Bytes> {
        let stored = self.read(at.offset, at.stored_bytes as usize)?;
        let block = at.codec.decode(stored, at.bytes as usize);
        match block {
            Some(block) if *blake3::hash(&block).as_bytes() == at.hash => Ok(block.into()),
            _ => Err(self.corrupt(at.offset, "a block does not match its hash")),
        }
    }

    pub(super) fn corrupt(&self, offset: u64, what: &str) -> Error {
        let path = self.path.display();
        let advice = "take this segment from another member or the archive";
        let what = format!("{path} is damaged at offset {offset}: {what}; {advice}");
        Error::new(Code::Corrupt, what).of_damage(self.segment())
    }

    /// The segment that the file is by its name; none while it has another one.
    fn segment(&self) -> Option<SegmentId> {
        let name = self.path.file_name()?.to_str()?;
        parse_name(name).or_else(|| parse_stub_name(name))
    }

    pub(super) fn failed(&self, doing: &str, error: &std::io::Error) -> Error {
        Error::io(format!("{doing} {}", self.path.display()), error)
    }
}
