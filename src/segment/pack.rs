//! The same segment, stored in another way.
//!
//! Takes an open segment, gives the bytes of a file with the same header and contents, hence the same digest,
//! whose blocks are compressed one by one: an archived object that can still be read by ranges. It does not own
//! where they go.

use std::io::{self, Write};

use rkyv::rancor;

use super::{
    Codec, Segment,
    contents::{Place, Places},
    format::{HEADER_BYTES, Trailer, align},
};
use crate::error::{Code, Error, Result};

impl Segment {
    /// Writes a copy of this segment whose blocks are stored with `codec`, where that makes them smaller.
    /// Every block is checked on the way; memory is one block.
    ///
    /// # Errors
    /// [`Code::Io`] and [`Code::Corrupt`] of this segment's file; [`Code::Io`] of `out`.
    pub fn pack(&self, codec: Codec, out: &mut impl Write) -> Result<()> {
        let failed = |error: io::Error| Error::io(format!("copying {}", self.path.display()), &error);
        let header = self.summary().head.encode();
        out.write_all(&header).map_err(failed)?;
        let mut end = HEADER_BYTES as u64;
        let mut places = Vec::with_capacity(self.directory.blocks.len());
        for number in 0..self.directory.blocks.len() as u32 {
            let block = self.load(number)?;
            let packed = codec.encode(&block);
            let (codec, stored) =
                if packed.len() < block.len() { (codec, &packed[..]) } else { (Codec::None, &block[..]) };
            let offset = pad(end, out).map_err(failed)?;
            out.write_all(stored).map_err(failed)?;
            places.push(Place { offset, stored_bytes: stored.len() as u32, codec: codec as u8 });
            end = offset + stored.len() as u64;
        }
        let contents_offset = pad(end, out).map_err(failed)?;
        let contents = self.contents()?;
        let places = rkyv::to_bytes::<rancor::Error>(&Places { blocks: places })
            .map_err(|error| Error::new(Code::Internal, format!("building a footer failed: {error}")))?;
        let trailer = Trailer {
            contents_offset,
            contents_bytes: contents.len() as u32,
            places_bytes: places.len() as u32,
            digest: self.summary().digest,
            places_hash: *blake3::hash(&places).as_bytes(),
        };
        out.write_all(&contents).map_err(failed)?;
        out.write_all(&places).map_err(failed)?;
        out.write_all(&trailer.encode()).map_err(failed)
    }
}

/// Zeros up to where the next block may begin, and that place.
fn pad(end: u64, out: &mut impl Write) -> io::Result<u64> {
    let offset = align(end);
    out.write_all(&[0; 16][..(offset - end) as usize])?;
    Ok(offset)
}
