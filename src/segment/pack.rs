//! The same segment, stored in another way.
//!
//! Takes the blocks of a segment in order, gives the bytes of a file with the same header and contents, hence the
//! same digest, whose blocks are compressed one by one: an archived object that can still be read by ranges. With
//! [`Packing::None`] it is the local file again, bit for bit. It does not own where the bytes go.

use std::io::{self, Write};

use rkyv::rancor;

use super::{
    Packing, Segment,
    codec::Codec,
    contents::{Place, Places},
    format::{HEADER_BYTES, Trailer, align},
    reader::Source,
};
use crate::{
    env::File,
    error::{Code, Error, Result},
};

impl Segment {
    /// Writes a copy of this segment whose blocks are stored by `packing`, where that makes them smaller.
    /// Every block is checked on the way; memory is one block.
    ///
    /// # Errors
    /// [`Code::Io`] and [`Code::Corrupt`] of this segment's file; [`Code::Io`] of `out`.
    pub fn pack(&self, packing: Packing, out: &mut impl Write) -> Result<()> {
        self.pack_from(&*self.file, packing, out)
    }

    /// As [`Segment::pack`], where its file is read through another handle.
    ///
    /// # Errors
    /// As [`Segment::pack`].
    pub fn pack_from(&self, file: &dyn File, packing: Packing, out: &mut impl Write) -> Result<()> {
        let failed = |error: io::Error| Error::io(format!("copying {}", self.path.display()), &error);
        let source = Source::new(file, &self.path);
        let mut packer = Packer::begin(&self.summary().head.encode(), packing, out).map_err(failed)?;
        for number in 0..self.directory.blocks.len() as u32 {
            packer.block(&self.load_from(source, number)?, out).map_err(failed)?;
        }
        let ends = packer.ends(&self.contents()?, self.summary().digest)?;
        out.write_all(&ends).map_err(failed)
    }
}

/// A copy being written.
#[derive(Debug)]
pub(super) struct Packer {
    packing: Packing,
    end: u64,
    places: Vec<Place>,
}

impl Packer {
    /// Begins with a segment's header.
    pub(super) fn begin(
        header: &[u8; HEADER_BYTES],
        packing: Packing,
        out: &mut impl Write,
    ) -> io::Result<Self> {
        out.write_all(header)?;
        Ok(Self::behind_header(packing))
    }

    /// Goes on behind a header that is there.
    pub(super) const fn behind_header(packing: Packing) -> Self {
        Self { packing, end: HEADER_BYTES as u64, places: Vec::new() }
    }

    /// Where the last block so far ends.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Notes the next block, which is there.
    pub(super) fn place(&mut self, place: Place) {
        self.end = place.offset + u64::from(place.stored_bytes);
        self.places.push(place);
    }

    /// Appends the next block.
    pub(super) fn block(&mut self, block: &[u8], out: &mut impl Write) -> io::Result<()> {
        let packed = self.packing.encode(block);
        let (codec, stored) =
            packed.as_ref().map_or((Codec::None, block), |(codec, stored)| (*codec, &stored[..]));
        let offset = align(self.end);
        out.write_all(&[0; 16][..(offset - self.end) as usize])?;
        out.write_all(stored)?;
        self.place(Place { offset, stored_bytes: stored.len() as u32, codec: codec as u8 });
        Ok(())
    }

    /// All that comes behind the last block: zeros, contents, places, trailer.
    pub(super) fn ends(self, contents: &[u8], digest: [u8; 32]) -> Result<Vec<u8>> {
        let contents_offset = align(self.end);
        let places = rkyv::to_bytes::<rancor::Error>(&Places { blocks: self.places })
            .map_err(|error| Error::new(Code::Internal, format!("building a footer failed: {error}")))?;
        let trailer = Trailer {
            contents_offset,
            contents_bytes: contents.len() as u32,
            places_bytes: places.len() as u32,
            digest,
            places_hash: *blake3::hash(&places).as_bytes(),
        };
        let zeros = &[0; 16][..(contents_offset - self.end) as usize];
        Ok([zeros, contents, &places, &trailer.encode()].concat())
    }
}
