//! Bytes of a segment's own file, wherever its blocks are.
//!
//! ```text
//! header │ block block block … │ contents │ places │ trailer        drawn in format
//!            └ from the file, or cold: whoever asks has them fetched, and asks again
//! ```
//!
//! Takes a range of the file that every member writes of the segment, gives its bytes, bit for bit, also while this node
//! has no more than the stub. It does not own the fetching.

use std::ops::Range;

use bytes::Bytes;

use super::{Packing, Segment, codec::Codec, contents::Place, format::align, pack::Packer};
use crate::{
    error::{Code, Error, Result},
    types::ColdBlock,
};

impl Segment {
    /// Bytes of the segment's file. Memory is twice the range, and two blocks.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a range that is not within the file; [`Error::cold`] with all blocks that it needs;
    /// [`Code::Io`], [`Code::Corrupt`].
    pub fn file_part(&self, range: Range<u64>) -> Result<Bytes> {
        let file_bytes = self.summary().file_bytes;
        if range.start > range.end || range.end > file_bytes {
            let what = format!("{} has {file_bytes} bytes, not {range:?}", self.path.display());
            return Err(Error::new(Code::NotFound, what));
        }
        let mut part = Part { bytes: vec![0; (range.end - range.start) as usize], range };
        part.put(0, &self.summary().head.encode());
        let mut packer = Packer::behind_header(Packing::None);
        let mut missing: Vec<ColdBlock> = Vec::new();
        for (number, block) in (0..).zip(&self.directory.blocks) {
            let place =
                Place { offset: align(packer.end()), stored_bytes: block.bytes, codec: Codec::None as u8 };
            let offset = place.offset;
            packer.place(place);
            if part.touches(offset..packer.end()) {
                match self.load(number) {
                    Ok(bytes) => part.put(offset, &bytes),
                    Err(error) if error.cold_blocks().is_empty() => return Err(error),
                    Err(error) => missing.extend_from_slice(error.cold_blocks()),
                }
            }
        }
        if !missing.is_empty() {
            return Err(Error::cold(missing));
        }
        let end = packer.end();
        if part.touches(end..file_bytes) {
            part.put(end, &packer.ends(&self.contents()?, self.summary().digest)?);
        }
        Ok(part.bytes.into())
    }
}

/// A range that is being filled; what nothing is put into are the zeros between blocks.
struct Part {
    bytes: Vec<u8>,
    range: Range<u64>,
}

impl Part {
    fn touches(&self, other: Range<u64>) -> bool {
        other.start < self.range.end && self.range.start < other.end
    }

    /// Puts those of the bytes at this offset of the file into it that are within.
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let (from, to) = (self.range.start.max(offset), self.range.end.min(offset + bytes.len() as u64));
        if from < to {
            let source = &bytes[(from - offset) as usize..(to - offset) as usize];
            let at = (from - self.range.start) as usize;
            self.bytes[at..at + source.len()].copy_from_slice(source);
        }
    }
}
