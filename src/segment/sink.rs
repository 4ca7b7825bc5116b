//! Blocks on their way into a file.
//!
//! Takes blocks in file order, gives the two halves of their directory. It gathers small blocks into large
//! writes and does not own what is in them.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    codec::Codec,
    contents::{BlockSum, Kind, Place},
    format::{HEADER_BYTES, align},
};
use crate::{
    env::File,
    error::{Error, Result},
};

/// Written together: large enough that system calls cost nothing.
const WRITE_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Sink {
    file: Arc<dyn File>,
    path: PathBuf,
    /// Bytes that are in the file.
    written: u64,
    /// Those that come after them.
    buffer: Vec<u8>,
    pub(super) sums: Vec<BlockSum>,
    pub(super) places: Vec<Place>,
}

impl Sink {
    /// Begins a file.
    pub(super) fn new(file: Arc<dyn File>, path: PathBuf, header: &[u8; HEADER_BYTES]) -> Self {
        let buffer = header.to_vec();
        Self { file, path, written: 0, buffer, sums: Vec::new(), places: Vec::new() }
    }

    /// Where the next byte will be.
    pub(super) fn offset(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// The number of the next block.
    pub(super) fn next_block(&self) -> u32 {
        self.sums.len() as u32
    }

    /// Appends a block that lies somewhere.
    pub(super) fn block(&mut self, kind: Kind, first: u32, block: &[u8]) -> Result<()> {
        self.align();
        let sum = BlockSum::of(kind, first, block);
        self.enter(sum, self.offset());
        self.write(block)
    }

    /// Appends a block that `encode` writes behind the bytes it is given.
    pub(super) fn block_from(
        &mut self,
        kind: Kind,
        first: u32,
        encode: impl FnOnce(Vec<u8>) -> Result<Vec<u8>>,
    ) -> Result<()> {
        self.align();
        let (start, offset) = (self.buffer.len(), self.offset());
        self.buffer = encode(std::mem::take(&mut self.buffer))?;
        let sum = BlockSum::of(kind, first, &self.buffer[start..]);
        self.enter(sum, offset);
        self.write(&[])
    }

    fn enter(&mut self, sum: BlockSum, offset: u64) {
        self.sums.push(sum);
        self.places.push(Place { offset, stored_bytes: sum.bytes, codec: Codec::None as u8 });
    }

    /// Zeros up to where a block may begin.
    pub(super) fn align(&mut self) {
        let padding = align(self.offset()) - self.offset();
        self.buffer.resize(self.buffer.len() + padding as usize, 0);
    }

    /// Appends bytes; large ones are not copied.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() < WRITE_BYTES {
            self.buffer.extend_from_slice(bytes);
            return if self.buffer.len() < WRITE_BYTES { Ok(()) } else { self.flush() };
        }
        self.flush()?;
        self.write_out(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync().map_err(|error| self.failed("syncing", &error))
    }

    fn flush(&mut self) -> Result<()> {
        self.write_out(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn write_out(&self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, self.written).map_err(|error| self.failed("writing", &error))
    }

    fn failed(&self, doing: &str, error: &io::Error) -> Error {
        Error::io(format!("{doing} {}", self.path.display()), error)
    }
}
