//! A segment whose file is somewhere else: its directory alone. Pure: no I/O.
//!
//! ```text
//! trailer ─► where the footer is ─► footer, header ─► Stored ─► where a block is ─► its bytes ─► the block, checked
//!                                                        └► every block in order ─► Rebuild ─► the local file
//! ```
//!
//! Takes the ends of a segment's file, however its blocks are stored, gives ranges of bytes to fetch and checks
//! what comes back. It does not own where the bytes come from, nor keep any of them.

use std::{io, io::Write, ops::Range};

use bytes::Bytes;

use super::{
    Packing, SegmentHead, SegmentSummary,
    contents::Kind,
    directory::Directory,
    format::{HEADER_BYTES, TRAILER_BYTES, Trailer, digest},
    key_block::KeyBlockView,
    pack::Packer,
    record_block::RecordBlockView,
};
use crate::{
    error::{Code, Error, Result},
    types::Seq,
};

/// The most bytes that a footer may have: twice what the largest segment of the smallest blocks needs, and a bound
/// on what a trailer can make a reader fetch.
pub const FOOTER_BYTES_MAX: u64 = 256 << 20;

/// The directory of a segment that is stored somewhere.
#[derive(Debug)]
pub struct Stored {
    summary: SegmentSummary,
    directory: Directory,
    contents: Bytes,
}

impl Stored {
    /// Where the footer is in a file of `file_bytes` bytes that ends with this trailer.
    ///
    /// # Errors
    /// What is wrong with the trailer.
    pub fn footer(trailer: &[u8; TRAILER_BYTES], file_bytes: u64) -> Result<Range<u64>, &'static str> {
        let trailer = Trailer::decode(trailer, file_bytes)?;
        let footer = trailer.contents_offset..file_bytes - TRAILER_BYTES as u64;
        if footer.end - footer.start > FOOTER_BYTES_MAX {
            return Err("the footer is larger than any segment's");
        }
        Ok(footer)
    }

    /// Reads both ends of a file of `file_bytes` bytes: its header, what is in the range of [`Stored::footer`], and
    /// its trailer.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(
        header: &[u8; HEADER_BYTES],
        footer: Bytes,
        trailer: &[u8; TRAILER_BYTES],
        file_bytes: u64,
    ) -> Result<Self, &'static str> {
        let trailer = Trailer::decode(trailer, file_bytes)?;
        if footer.len() as u64 != u64::from(trailer.contents_bytes) + u64::from(trailer.places_bytes) {
            return Err("the footer has another size than its trailer says");
        }
        let contents = footer.slice(..trailer.contents_bytes as usize);
        let places = footer.slice(trailer.contents_bytes as usize..);
        if digest(header, &contents) != trailer.digest {
            return Err("header and contents do not match the segment's digest");
        }
        if *blake3::hash(&places).as_bytes() != trailer.places_hash {
            return Err("the places of blocks do not match their hash");
        }
        let head = SegmentHead::decode(header)?;
        let directory = Directory::decode(&contents, &places, trailer.contents_offset)?;
        if head.first_seq.0.checked_add(u64::from(directory.facts.records)).is_none() {
            return Err("the segment's positions go beyond the last one");
        }
        let summary = directory.facts.clone().summary(head, trailer.digest, file_bytes);
        Ok(Self { summary, directory, contents })
    }

    /// What it is and holds.
    #[must_use]
    pub const fn summary(&self) -> &SegmentSummary {
        &self.summary
    }

    /// How many blocks it has.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.directory.blocks.len() as u32
    }

    /// The block with the record at a position; `None` when that is not one of this segment's.
    #[must_use]
    pub fn block_of(&self, seq: Seq) -> Option<u32> {
        let number = seq.0.checked_sub(self.summary.head.first_seq.0)?;
        self.directory.record_block(u32::try_from(number).ok()?).map(|(block, _)| block)
    }

    /// Where the bytes of a block are in the file; `None` when there is no such block.
    #[must_use]
    pub fn place(&self, block: u32) -> Option<Range<u64>> {
        let at = self.directory.blocks.get(block as usize)?;
        Some(at.offset..at.offset + u64::from(at.stored_bytes))
    }

    /// The block whose stored bytes these are, decompressed and checked.
    ///
    /// # Errors
    /// What is wrong with the bytes, or that there is no such block.
    pub fn block(&self, block: u32, stored: &[u8]) -> Result<Bytes, &'static str> {
        let at = self.directory.blocks.get(block as usize).ok_or("there is no such block")?;
        if stored.len() != at.stored_bytes as usize {
            return Err("a block has another size than its directory says");
        }
        let bytes = at.codec.decode(stored.to_vec(), at.bytes as usize);
        let bytes = bytes.filter(|bytes| *blake3::hash(bytes).as_bytes() == at.hash);
        let bytes = bytes.ok_or("a block does not match its hash")?;
        match at.kind {
            Kind::Records => RecordBlockView::check(&bytes, self.directory.records_in(block)).map(drop)?,
            Kind::Keys => KeyBlockView::check(&bytes).map(drop)?,
            _ => {}
        }
        Ok(bytes.into())
    }

    /// Begins to write the file that a node keeps of this segment.
    ///
    /// # Errors
    /// Of `out`.
    pub fn rebuild(&self, out: &mut impl Write) -> io::Result<Rebuild<'_>> {
        let packer = Packer::begin(&self.summary.head.encode(), Packing::None, out)?;
        Ok(Rebuild { stored: self, packer, next: 0 })
    }
}

/// A local file being written: header and the blocks so far.
#[derive(Debug)]
pub struct Rebuild<'a> {
    stored: &'a Stored,
    packer: Packer,
    next: u32,
}

impl Rebuild<'_> {
    /// The number of the block that comes next; `None` behind the last one.
    #[must_use]
    pub fn next(&self) -> Option<u32> {
        (self.next < self.stored.blocks()).then_some(self.next)
    }

    /// Writes the next block, as [`Stored::block`] gives it.
    ///
    /// # Errors
    /// Of `out`.
    pub fn block(&mut self, block: &[u8], out: &mut impl Write) -> io::Result<()> {
        self.next += 1;
        self.packer.block(block, out)
    }

    /// Writes what comes behind the last block.
    ///
    /// # Errors
    /// [`Code::Internal`] when blocks are missing; [`Code::Io`] of `out`.
    pub fn finish(self, out: &mut impl Write) -> Result<()> {
        if self.next().is_some() {
            return Err(Error::new(Code::Internal, "a segment is rebuilt from all of its blocks"));
        }
        let ends = self.packer.ends(&self.stored.contents, self.stored.summary.digest)?;
        out.write_all(&ends).map_err(|error| Error::io("writing a segment", &error))
    }
}
