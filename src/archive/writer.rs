//! A file that is written from its beginning to its end, and hashed on the way.

use std::{io, sync::Arc};

use crate::env::{Appender, File};

/// See the head of this file.
#[derive(Debug)]
pub struct Writer {
    file: Appender,
    hasher: blake3::Hasher,
}

impl Writer {
    /// Of a new file.
    #[must_use]
    pub fn new(file: Arc<dyn File>) -> Self {
        Self { file: Appender::new(file), hasher: blake3::Hasher::new() }
    }

    /// Of a new file that is written past the page cache, as [`Appender::past_cache`].
    #[must_use]
    pub fn past_cache(direct: Arc<dyn File>, file: Arc<dyn File>) -> Self {
        Self { file: Appender::past_cache(direct, file), hasher: blake3::Hasher::new() }
    }

    /// Writes what is left; how many bytes there were, and their BLAKE3.
    ///
    /// # Errors
    /// The file's.
    pub fn finish(mut self) -> io::Result<(u64, [u8; 32])> {
        self.file.flush()?;
        Ok((self.file.len(), *self.hasher.finalize().as_bytes()))
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.append(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
