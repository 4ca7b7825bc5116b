//! Writing a segment.
//!
//! Takes records in order and their leaf hashes, gives a durable file under its final name, or nothing that a
//! reader would take for a segment. Records, values and leaf hashes are written past the page cache: most are in memory
//! as long as they are new, and are read seldom later. Memory is one block of records, one of leaf hashes, four
//! megabytes on their way to the file, and every record's key (48 bytes and the key). It blocks, and does not own a
//! thread; it does not know the tree.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rkyv::rancor;

use super::{
    BLOCK_BYTES, COMMITMENT_BYTES_MIN, IDEMPOTENCY_BYTES_MAX, INLINE_VALUE_BYTES_MAX, LEAF_HASH_BYTES,
    LEAVES_PER_BLOCK, RECORDS_MAX, RecordRef, SegmentHead, SegmentSummary,
    contents::{Contents, Facts, Kind, Places},
    format::{HEADER_BYTES, Trailer, digest},
    key_block::PackedVersion,
    key_table::KeyTable,
    names::{remove, unfinished},
    record_block::RecordBlock,
    sink::Sink,
};
use crate::{
    env::{Appender, Io, OpenMode},
    error::{Code, Error, Result},
    types::{KEY_BYTES_MAX, LogId, Op, TimestampMs, VALUE_BYTES_MAX},
};

/// What the end of a segment adds to its records.
#[derive(Clone, Copy, Debug)]
pub struct FinishInfo<'a> {
    /// The first entry of the log that belongs to it.
    pub first_log: LogId,
    /// The last one.
    pub last_log: LogId,
    /// The tree's frontier before its first record.
    pub frontier_before: &'a [u8],
    /// Root of the tree of all records up to its end.
    pub root_after: [u8; 32],
    /// Roots of the complete subtrees of [`SUBTREE_LEAVES`](super::SUBTREE_LEAVES) leaves whose last leaf is
    /// here, in order.
    pub subtrees: &'a [[u8; LEAF_HASH_BYTES]],
    /// The same of [`HIGH_SUBTREE_LEAVES`](super::HIGH_SUBTREE_LEAVES) leaves.
    pub high_subtrees: &'a [[u8; LEAF_HASH_BYTES]],
    /// The idempotency outcomes to carry, at most [`IDEMPOTENCY_BYTES_MAX`].
    pub idempotency: &'a [u8],
    /// What else a restart at the end of this segment begins from; opaque.
    pub boundary: &'a [u8],
}

/// A segment being written. One that is dropped leaves an unfinished file, which the next writer of the same
/// segment, or [`remove_unfinished`](super::remove_unfinished), removes.
#[derive(Debug)]
pub struct SegmentWriter {
    io: Arc<dyn Io>,
    path: PathBuf,
    unfinished: PathBuf,
    head: SegmentHead,
    header: [u8; HEADER_BYTES],
    sink: Sink,
    block: RecordBlock,
    leaves: Vec<u8>,
    keys: KeyTable,
    /// Records pushed.
    records: u32,
    deletes: u32,
    raw_bytes: u64,
    first_timestamp_ms: Option<TimestampMs>,
    last_timestamp_ms: TimestampMs,
}

impl SegmentWriter {
    /// Begins the segment that will be at `path`.
    ///
    /// # Errors
    /// [`Code::Io`] when the file cannot be created.
    pub fn create(io: Arc<dyn Io>, path: &Path, head: SegmentHead) -> Result<Self> {
        let unfinished = unfinished(path);
        // An older one may have pages that a failed sync lost and that look clean: never write over it.
        remove(&*io, &unfinished)?;
        let open = |mode| {
            let opened = io.open(&unfinished, mode);
            opened.map_err(|error| Error::io(format!("creating {}", unfinished.display()), &error))
        };
        let file = open(OpenMode::Buffered)?;
        let file = Appender::past_cache(open(OpenMode::Direct)?, file);
        // The new file has the unfinished name for good before it gets the final one: a file system that does not
        // keep such steps in order could else give the final name to what an earlier process left half written.
        sync_dir_of(&*io, path)?;
        let header = head.encode();
        Ok(Self {
            sink: Sink::new(file, unfinished.clone(), &header)?,
            io,
            path: path.to_path_buf(),
            unfinished,
            head,
            header,
            block: RecordBlock::default(),
            leaves: Vec::with_capacity(LEAVES_PER_BLOCK * LEAF_HASH_BYTES),
            keys: KeyTable::default(),
            records: 0,
            deletes: 0,
            raw_bytes: 0,
            first_timestamp_ms: None,
            last_timestamp_ms: 0,
        })
    }

    /// Appends the next record with its leaf hash.
    ///
    /// # Errors
    /// [`Code::Internal`] when the record is not one that can follow the last, with nothing appended;
    /// [`Code::Io`] when the disk fails: then the writer is of no more use.
    pub fn push(&mut self, record: &RecordRef<'_>, leaf_hash: &[u8; LEAF_HASH_BYTES]) -> Result<()> {
        self.check(record)?;
        let mut value_block = None;
        if record.value.len() > INLINE_VALUE_BYTES_MAX {
            value_block = Some(self.sink.next_block());
            self.sink.block(Kind::Value, 0, record.value)?;
        }
        self.block.push(record, value_block);
        self.leaves.extend_from_slice(leaf_hash);
        self.keys.push(record.key, PackedVersion::new(self.records, record.op));
        self.records += 1;
        self.deletes += u32::from(record.op == Op::Delete);
        self.raw_bytes += (record.key.len() + record.value.len()) as u64;
        self.first_timestamp_ms.get_or_insert(record.timestamp_ms);
        self.last_timestamp_ms = record.timestamp_ms;
        if self.block.bytes() >= BLOCK_BYTES {
            self.close_block()?;
        }
        if self.leaves.len() >= LEAVES_PER_BLOCK * LEAF_HASH_BYTES {
            self.close_leaves()?;
        }
        Ok(())
    }

    /// How many records it has.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records as u64
    }

    fn check(&self, record: &RecordRef<'_>) -> Result<()> {
        let wrong = |what| {
            let message = format!("record {} cannot go into {}: {what}", record.seq, self.path.display());
            Err(Error::new(Code::Internal, message))
        };
        if self.head.first_seq.0.checked_add(u64::from(self.records)) != Some(record.seq.0) {
            return wrong("it does not follow the last one");
        }
        if record.timestamp_ms < self.last_timestamp_ms {
            return wrong("its time is before the last one's");
        }
        if !(1..=KEY_BYTES_MAX).contains(&record.key.len()) {
            return wrong("its key has an impossible size");
        }
        if record.value.len() > VALUE_BYTES_MAX || (record.op == Op::Delete && !record.value.is_empty()) {
            return wrong("its value has an impossible size");
        }
        if record.value_commitment.is_some() != (record.value.len() >= COMMITMENT_BYTES_MIN) {
            return wrong("its value commitment is missing or too many");
        }
        if self.records == RECORDS_MAX || !self.keys.has_room(record.key.len()) {
            return wrong("the segment is as large as its format can be");
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<()> {
        let first = self.records - self.block.len() as u32;
        self.sink.block_from(Kind::Records, first, |buffer| archive(&self.block, buffer))?;
        self.block.clear();
        Ok(())
    }

    fn close_leaves(&mut self) -> Result<()> {
        let first = self.records - (self.leaves.len() / LEAF_HASH_BYTES) as u32;
        self.sink.block(Kind::Leaves, first, &self.leaves)?;
        self.leaves.clear();
        Ok(())
    }

    /// Writes what remains, makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`Code::Io`] when the disk fails. Either the segment is not there or it is whole; a failed sync is
    /// never tried again, and the caller has to stop as for the log.
    pub fn finish(mut self, info: FinishInfo<'_>) -> Result<SegmentSummary> {
        if self.block.len() > 0 {
            self.close_block()?;
        }
        if !self.leaves.is_empty() {
            self.close_leaves()?;
        }
        if info.idempotency.len() > IDEMPOTENCY_BYTES_MAX {
            return Err(self.too_large("idempotency outcomes"));
        }
        self.sink.block(Kind::Idempotency, 0, info.idempotency)?;
        // The index is built from here on, at once.
        let sink = &mut self.sink;
        sink.go_on_through_cache()?;
        let table = std::mem::take(&mut self.keys).write(|block| sink.block(Kind::Keys, 0, block))?;
        sink.block(Kind::KeyIndex, 0, &table.index)?;
        sink.block(Kind::Filter, 0, &table.filter)?;
        sink.block(Kind::Subtrees, 0, info.subtrees.as_flattened())?;
        let facts = Facts {
            records: self.records,
            keys: table.keys,
            deletes: self.deletes,
            raw_bytes: self.raw_bytes,
            first_log: info.first_log.into(),
            last_log: info.last_log.into(),
            first_timestamp_ms: self.first_timestamp_ms.unwrap_or_default(),
            last_timestamp_ms: self.last_timestamp_ms,
            root_after: info.root_after,
            frontier_before: info.frontier_before.to_vec(),
            high_subtrees: info.high_subtrees.to_vec(),
            boundary: info.boundary.to_vec(),
        };
        let (facts, digest) = self.write_footer(facts)?;
        self.sink.sync()?;
        // From here on the file is whole; what a crash can still lose is its name.
        self.io
            .rename(&self.unfinished, &self.path)
            .map_err(|error| Error::io(format!("naming {}", self.path.display()), &error))?;
        // From here on this process finds the segment; after the next line every one does.
        sync_dir_of(&*self.io, &self.path)?;
        Ok(facts.summary(self.head, digest, self.sink.offset()))
    }

    fn too_large(&self, what: &str) -> Error {
        Error::new(Code::Internal, format!("the {what} of {} are too large", self.path.display()))
    }

    fn write_footer(&mut self, facts: Facts) -> Result<(Facts, [u8; 32])> {
        self.sink.align()?;
        let contents_offset = self.sink.offset();
        let contents = Contents { facts, blocks: std::mem::take(&mut self.sink.sums) };
        let places = Places { blocks: std::mem::take(&mut self.sink.places) };
        let contents_bytes = archive(&contents, Vec::new())?;
        let places_bytes = archive(&places, Vec::new())?;
        let trailer = Trailer {
            contents_offset,
            contents_bytes: u32::try_from(contents_bytes.len()).map_err(|_| self.too_large("contents"))?,
            places_bytes: u32::try_from(places_bytes.len()).map_err(|_| self.too_large("places"))?,
            digest: digest(&self.header, &contents_bytes),
            places_hash: *blake3::hash(&places_bytes).as_bytes(),
        };
        self.sink.write(&contents_bytes)?;
        self.sink.write(&places_bytes)?;
        self.sink.write(&trailer.encode())?;
        Ok((contents.facts, trailer.digest))
    }
}

/// Makes the names in a file's directory durable.
fn sync_dir_of(io: &dyn Io, path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    io.sync_dir(dir)
        .map_err(|error| Error::io(format!("making the name of {} durable", path.display()), &error))
}

type Serializer<'a> =
    rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, rancor::Error>;

/// Writes the archive of `value` behind the bytes of `buffer`.
fn archive<T>(value: &T, buffer: Vec<u8>) -> Result<Vec<u8>>
where
    T: for<'a> rkyv::Serialize<Serializer<'a>>,
{
    rkyv::api::high::to_bytes_in::<_, rancor::Error>(value, buffer)
        .map_err(|error| Error::new(Code::Internal, format!("building a block failed: {error}")))
}
