//! Blocks on their way into a file.
//!
//! Takes blocks in file order, gives the two halves of their directory. It does not own what is in them, nor how large
//! the writes are.

use std::{io, path::PathBuf};

use super::{
    codec::Codec,
    contents::{BlockSum, Kind, Place},
    format::{ALIGN_BYTES, HEADER_BYTES, align},
};
use crate::{
    env::Appender,
    error::{Error, Result},
};

#[derive(Debug)]
pub(super) struct Sink {
    file: Appender,
    path: PathBuf,
    /// A block that is built.
    buffer: Vec<u8>,
    pub(super) sums: Vec<BlockSum>,
    pub(super) places: Vec<Place>,
}

impl Sink {
    /// Begins a file.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn new(file: Appender, path: PathBuf, header: &[u8; HEADER_BYTES]) -> Result<Self> {
        let mut sink = Self { file, path, buffer: Vec::new(), sums: Vec::new(), places: Vec::new() };
        sink.write(header)?;
        Ok(sink)
    }

    /// Where the next byte will be.
    pub(super) const fn offset(&self) -> u64 {
        self.file.len()
    }

    /// The number of the next block.
    pub(super) fn next_block(&self) -> u32 {
        self.sums.len() as u32
    }

    /// Appends a block that lies somewhere.
    pub(super) fn block(&mut self, kind: Kind, first: u32, block: &[u8]) -> Result<()> {
        self.align()?;
        let sum = BlockSum::of(kind, first, block);
        self.enter(sum, self.offset());
        self.write(block)
    }

    /// Appends a block that `encode` writes into the empty buffer that it is given.
    pub(super) fn block_from(
        &mut self,
        kind: Kind,
        first: u32,
        encode: impl FnOnce(Vec<u8>) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let mut block = encode(std::mem::take(&mut self.buffer))?;
        self.block(kind, first, &block)?;
        block.clear();
        self.buffer = block;
        Ok(())
    }

    fn enter(&mut self, sum: BlockSum, offset: u64) {
        self.sums.push(sum);
        self.places.push(Place { offset, stored_bytes: sum.bytes, codec: Codec::None as u8 });
    }

    /// Zeros up to where a block may begin.
    pub(super) fn align(&mut self) -> Result<()> {
        let padding = (align(self.offset()) - self.offset()) as usize;
        self.write(&[0; ALIGN_BYTES as usize][..padding])
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.append(bytes).map_err(|error| self.failed("writing", &error))
    }

    /// What comes from here on is read soon.
    pub(super) fn go_on_through_cache(&mut self) -> Result<()> {
        self.file.go_on_through_cache().map_err(|error| self.failed("writing", &error))
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.file.sync().map_err(|error| self.failed("syncing", &error))
    }

    fn failed(&self, doing: &str, error: &io::Error) -> Error {
        Error::io(format!("{doing} {}", self.path.display()), error)
    }
}
