//! A file that is written from its beginning to its end, in large pieces, and hashed on the way.

use std::{io, sync::Arc};

use crate::env::File;

/// Written together.
const WRITE_BYTES: usize = 1 << 20;

/// See the head of this file.
pub struct Writer {
    file: Arc<dyn File>,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    written: u64,
}

impl Writer {
    /// Of a new file.
    #[must_use]
    pub fn new(file: Arc<dyn File>) -> Self {
        Self { file, hasher: blake3::Hasher::new(), buffer: Vec::new(), written: 0 }
    }

    /// Writes what is left; how many bytes there were, and their BLAKE3.
    ///
    /// # Errors
    /// The file's.
    pub fn finish(mut self) -> io::Result<(u64, [u8; 32])> {
        io::Write::flush(&mut self)?;
        Ok((self.written, *self.hasher.finalize().as_bytes()))
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes written", self.written)
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
