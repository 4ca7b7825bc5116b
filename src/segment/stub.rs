//! What stays of a segment whose file is gone, because the archive has it.
//!
//! ```text
//! header 64 │ blocks, but no records and no values │ contents │ the object's places │ tail 192
//!
//! tail  0        8    10    12          16                24               28             32           40
//!       | magic  | v  | 0 0 | epoch u32 | contents offset | contents bytes | places bytes | file bytes | object bytes |
//!       48                         56      64          96          128             160        192
//!       | the object's contents at | 0 … 0 | digest 32 | places 32 | object hash 32 | check 32 |
//! ```
//!
//! Header and contents are the segment's own, hence the digest, too; the blocks that stay are as they were, one behind
//! the other, each at a multiple of 16. `places` say where and how every block is stored in the object, `file bytes` is
//! the size of the file that went, and object hash with epoch the object's name. `check` is BLAKE3 of the tail before
//! it: nothing else is believed first. What stays is what a start, proofs, lookups of keys and the index need; what
//! went can be fetched block by block, and checked against the contents.
//!
//! Takes a segment and its packed copy, gives a stub's bytes; takes those, gives the segment again, as far as it is
//! here. It does not own when that is done, nor where the object is.

use std::{io::Write, ops::Range, path::Path, sync::Arc};

use bytes::Bytes;
use rkyv::rancor;

use super::{
    BlockCache, Segment, SegmentHead,
    codec::Codec,
    contents::{Place, Places},
    directory::Directory,
    format::{HEADER_BYTES, align, digest},
    reader::{Parts, Source},
};
use crate::{
    env::File,
    error::{Code, Error, Result},
    types::ColdBlock,
};

/// Size of the tail, in bytes.
const TAIL_BYTES: usize = 192;

const CHECKED_BYTES: usize = TAIL_BYTES - 32;

const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"SCRIBSTB";

/// Which object of the archive holds the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StubObject {
    /// In whose directory it is.
    pub epoch: u32,
    /// How many bytes it has.
    pub bytes: u64,
    /// BLAKE3 of all of them.
    pub hash: [u8; 32],
}

/// The tail of a stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tail {
    object: StubObject,
    contents_offset: u64,
    contents_bytes: u32,
    places_bytes: u32,
    file_bytes: u64,
    object_contents_at: u64,
    digest: [u8; 32],
    places_hash: [u8; 32],
}

impl Tail {
    fn encode(&self) -> [u8; TAIL_BYTES] {
        let mut out = [0; TAIL_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &self.object.epoch.to_le_bytes());
        put(16, &self.contents_offset.to_le_bytes());
        put(24, &self.contents_bytes.to_le_bytes());
        put(28, &self.places_bytes.to_le_bytes());
        put(32, &self.file_bytes.to_le_bytes());
        put(40, &self.object.bytes.to_le_bytes());
        put(48, &self.object_contents_at.to_le_bytes());
        put(64, &self.digest);
        put(96, &self.places_hash);
        put(128, &self.object.hash);
        let check = *blake3::hash(&out[..CHECKED_BYTES]).as_bytes();
        out[CHECKED_BYTES..].copy_from_slice(&check);
        out
    }

    /// Reads the tail of a stub of `stub_bytes` bytes.
    fn decode(bytes: &[u8; TAIL_BYTES], stub_bytes: u64) -> Result<Self, &'static str> {
        if bytes[..8] != MAGIC {
            return Err("the file does not end as a stub does: it was cut short or overwritten");
        }
        if *blake3::hash(&bytes[..CHECKED_BYTES]).as_bytes() != bytes[CHECKED_BYTES..] {
            return Err("the tail does not match its checksum");
        }
        if bytes[8..10] != VERSION.to_le_bytes() {
            return Err("the stub has a version that this build does not read");
        }
        if bytes[10..12] != [0; 2] || bytes[56..64] != [0; 8] {
            return Err("the tail's reserved bytes are not zero");
        }
        let long = |at| u64::from_le_bytes(part(bytes, at));
        let word = |at| u32::from_le_bytes(part(bytes, at));
        let tail = Self {
            object: StubObject { epoch: word(12), bytes: long(40), hash: part(bytes, 128) },
            contents_offset: long(16),
            contents_bytes: word(24),
            places_bytes: word(28),
            file_bytes: long(32),
            object_contents_at: long(48),
            digest: part(bytes, 64),
            places_hash: part(bytes, 96),
        };
        let footer = u64::from(tail.contents_bytes) + u64::from(tail.places_bytes);
        let end = tail.contents_offset.checked_add(footer + TAIL_BYTES as u64);
        if tail.contents_offset < HEADER_BYTES as u64 || end != Some(stub_bytes) {
            return Err("the tail describes a stub of another size");
        }
        Ok(tail)
    }
}

/// Part of a tail; all of them are within it.
fn part<const N: usize>(bytes: &[u8; TAIL_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl Segment {
    /// Writes the stub of this segment, whose packed copy is `packed` and lies in `object`. Every block that stays is
    /// checked on the way; memory is one block.
    ///
    /// # Errors
    /// [`Code::Internal`] when the copy is of another segment; [`Code::Io`], [`Code::Corrupt`] of this segment's
    /// file; [`Code::Io`] of `out`.
    pub fn write_stub(&self, packed: &Self, object: &StubObject, out: &mut impl Write) -> Result<()> {
        let failed =
            |error: std::io::Error| Error::io(format!("writing the stub of {}", self.path.display()), &error);
        if packed.summary().digest != self.summary().digest || packed.stub.is_some() {
            return Err(Error::new(Code::Internal, "a stub is written of a segment and its own packed copy"));
        }
        let place = |block: &super::directory::Block| Place {
            offset: block.offset,
            stored_bytes: block.stored_bytes,
            codec: block.codec as u8,
        };
        let places = Places { blocks: packed.directory.blocks.iter().map(place).collect() };
        let places = rkyv::to_bytes::<rancor::Error>(&places)
            .map_err(|error| Error::new(Code::Internal, format!("building a stub failed: {error}")))?;
        let mut end = HEADER_BYTES as u64;
        out.write_all(&self.summary().head.encode()).map_err(failed)?;
        let pad = |end: u64, out: &mut dyn Write| out.write_all(&[0; 16][..(align(end) - end) as usize]);
        for (number, block) in (0..).zip(&self.directory.blocks).filter(|(_, block)| !block.kind.is_payload())
        {
            pad(end, out).map_err(failed)?;
            out.write_all(&self.load(number)?).map_err(failed)?;
            end = align(end) + u64::from(block.bytes);
        }
        pad(end, out).map_err(failed)?;
        let contents = self.contents()?;
        let tail = Tail {
            object: *object,
            contents_offset: align(end),
            contents_bytes: contents.len() as u32,
            places_bytes: places.len() as u32,
            file_bytes: self.summary().file_bytes,
            object_contents_at: packed.contents_offset(),
            digest: self.summary().digest,
            places_hash: *blake3::hash(&places).as_bytes(),
        };
        for part in [&contents[..], &places, &tail.encode()] {
            out.write_all(part).map_err(failed)?;
        }
        Ok(())
    }

    /// Opens a stub: a segment whose records and values are elsewhere. Asking for one gives
    /// [`Error::cold`], unless the cache knows a copy.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn from_stub(file: Arc<dyn File>, name: &Path, cache: Arc<BlockCache>) -> Result<Self> {
        let source = Source::new(&*file, name);
        let stub_bytes = file.len().map_err(|error| source.failed("measuring", &error))?;
        if stub_bytes < (HEADER_BYTES + TAIL_BYTES) as u64 {
            return Err(source.corrupt(0, "the file is too short to be a stub"));
        }
        let tail_at = stub_bytes - TAIL_BYTES as u64;
        let tail = Tail::decode(&source.array(tail_at)?, stub_bytes)
            .map_err(|what| source.corrupt(tail_at, what))?;
        let header: [u8; HEADER_BYTES] = source.array(0)?;
        let contents = source.read(tail.contents_offset, tail.contents_bytes as usize)?;
        if digest(&header, &contents) != tail.digest {
            let what = "header and contents do not match the segment's digest";
            return Err(source.corrupt(tail.contents_offset, what));
        }
        let head = SegmentHead::decode(&header).map_err(|what| source.corrupt(0, what))?;
        let places_at = tail.contents_offset + u64::from(tail.contents_bytes);
        let places = source.read(places_at, tail.places_bytes as usize)?;
        if *blake3::hash(&places).as_bytes() != tail.places_hash {
            return Err(source.corrupt(places_at, "the places of blocks do not match their hash"));
        }
        let mut directory = Directory::decode(&contents, &places, tail.object_contents_at)
            .map_err(|what| source.corrupt(places_at, what))?;
        let mut end = HEADER_BYTES as u64;
        for block in directory.blocks.iter_mut().filter(|block| !block.kind.is_payload()) {
            (block.offset, block.stored_bytes, block.codec) = (align(end), block.bytes, Codec::None);
            end = block.offset + u64::from(block.bytes);
        }
        if align(end) != tail.contents_offset {
            return Err(source.corrupt(tail.contents_offset, "the contents do not follow the last block"));
        }
        let parts = Parts {
            head,
            directory,
            digest: tail.digest,
            file_bytes: tail.file_bytes,
            local_bytes: stub_bytes,
            contents_at: (tail.contents_offset, tail.contents_bytes),
            stub: Some(tail.object),
        };
        Self::assemble(file.clone(), name, cache, parts)
    }

    /// Where its records are, if they are not here.
    #[must_use]
    pub const fn stub(&self) -> Option<&StubObject> {
        self.stub.as_ref()
    }

    /// Where in the object the stored bytes of a block are that is not here; `None` for any other.
    #[must_use]
    pub fn cold_place(&self, block: u32) -> Option<Range<u64>> {
        let at = self.directory.blocks.get(block as usize)?;
        let is_cold = self.stub.is_some() && at.kind.is_payload();
        is_cold.then(|| at.offset..at.offset + u64::from(at.stored_bytes))
    }

    /// The cold block whose stored bytes these are, decompressed and checked.
    ///
    /// # Errors
    /// What is wrong with the bytes, or that there is no such block.
    pub fn thaw(&self, block: u32, stored: &[u8]) -> Result<Bytes, &'static str> {
        let at = self.directory.blocks.get(block as usize).ok_or("there is no such block")?;
        if stored.len() != at.stored_bytes as usize {
            return Err("a block has another size than its directory says");
        }
        let bytes = at.codec.decode(stored.to_vec(), at.bytes as usize).ok_or("a block cannot be decoded")?;
        let bytes = Bytes::from(bytes);
        self.is_block(block, &bytes).then_some(bytes).ok_or("a block does not match its hash")
    }

    /// How many bytes a block has, decoded.
    #[must_use]
    pub fn block_bytes(&self, block: u32) -> Option<u32> {
        self.directory.blocks.get(block as usize).map(|at| at.bytes)
    }

    fn is_block(&self, number: u32, bytes: &[u8]) -> bool {
        let at = self.directory.block(number);
        bytes.len() == at.bytes as usize && *blake3::hash(bytes).as_bytes() == at.hash
    }

    /// A block that is in the archive, from the copy that is here.
    pub(super) fn load_cold(&self, number: u32) -> Result<Bytes> {
        let wanted = ColdBlock { segment: self.summary().id(), block: number };
        let Some(cold) = self.cache.cold() else { return Err(Error::cold(vec![wanted])) };
        match cold.get(wanted) {
            Some(bytes) if self.is_block(number, &bytes) => Ok(bytes),
            // The disk it was kept on has spoiled it, or it was written over meanwhile.
            Some(_) => {
                cold.forget(wanted);
                Err(Error::cold(vec![wanted]))
            }
            None => Err(Error::cold(vec![wanted])),
        }
    }
}
