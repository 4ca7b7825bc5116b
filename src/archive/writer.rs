//! A file that is written from its beginning to its end, in large pieces, and hashed on the way.
//!
//! What nobody reads soon, or only once, is better written past the page cache: the copy into fresh memory was more
//! than half of what packing a segment took (`perf`, 2 cores in a VM, 2026-11-22). Direct writes are whole blocks; what
//! is left at the end goes through the cache.

use std::{io, sync::Arc};

use crate::env::{AlignedBuffer, BLOCK_BYTES, File, refuses_direct};

/// Written together. Each direct write that grows a file costs the file system a commit.
const WRITE_BYTES: usize = 4 << 20;

/// See the head of this file.
pub struct Writer {
    file: Arc<dyn File>,
    /// The same file, to be written past the page cache as long as its file system does that.
    past_cache: Option<Arc<dyn File>>,
    hasher: blake3::Hasher,
    buffer: AlignedBuffer,
    /// Bytes in the buffer.
    held: usize,
    written: u64,
}

impl Writer {
    /// Of a new file.
    #[must_use]
    pub fn new(file: Arc<dyn File>) -> Self {
        let (hasher, buffer) = (blake3::Hasher::new(), AlignedBuffer::default());
        Self { file, past_cache: None, hasher, buffer, held: 0, written: 0 }
    }

    /// Of a new file that is open twice: as [`OpenMode::Direct`](crate::env::OpenMode::Direct), and as `file`, whose sync
    /// makes all of it last.
    #[must_use]
    pub fn past_cache(direct: Arc<dyn File>, file: Arc<dyn File>) -> Self {
        Self { past_cache: Some(direct), ..Self::new(file) }
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
        if self.held == WRITE_BYTES {
            self.flush()?;
        }
        let taken = bytes.len().min(WRITE_BYTES - self.held);
        let bytes = &bytes[..taken];
        self.hasher.update(bytes);
        self.buffer.space(WRITE_BYTES)[self.held..self.held + taken].copy_from_slice(bytes);
        self.held += taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut rest = &self.buffer.bytes()[..self.held];
        if let Some(direct) = &self.past_cache
            && self.written.is_multiple_of(BLOCK_BYTES as u64)
        {
            let (blocks, last) = rest.split_at(self.held - self.held % BLOCK_BYTES);
            match direct.write_at(blocks, self.written) {
                Ok(()) => {
                    self.written += blocks.len() as u64;
                    rest = last;
                }
                Err(error) if refuses_direct(&error) => self.past_cache = None,
                Err(error) => return Err(error),
            }
        }
        self.file.write_at(rest, self.written)?;
        self.written += rest.len() as u64;
        self.held = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::Path};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        env::{Io, OpenMode},
        sim::{Refusal, SimIo},
    };

    /// Writes so many bytes in parts of these sizes.
    fn write(io: &SimIo, mut writer: Writer, bytes: &[u8], parts: &[usize]) {
        let mut rest = bytes;
        for part in parts.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*part));
            writer.write_all(now).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let hash = *blake3::hash(bytes).as_bytes();
        assert_eq!(writer.finish().unwrap(), (bytes.len() as u64, hash));
        let file = io.open(Path::new("/f"), OpenMode::Read).unwrap();
        assert_eq!(file.len().unwrap(), bytes.len() as u64);
        let mut there = vec![0; bytes.len()];
        file.read_at(&mut there, 0).unwrap();
        assert!(there == bytes);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn what_is_written_is_there_past_the_cache_or_through_it(
            blocks in 0..2_100usize,
            more in prop_oneof![Just(0), 1..BLOCK_BYTES],
            parts in prop::collection::vec(1..3_000_000usize, 1..4),
            refusal in prop_oneof![Just(Refusal::Never), Just(Refusal::AtOpen), Just(Refusal::AtUse)],
            is_past_cache: bool,
        ) {
            let bytes: Vec<u8> = (0..blocks * BLOCK_BYTES + more).map(|n| (n / 7) as u8).collect();
            let io = SimIo::new(1);
            io.refuse_direct(refusal);
            let open = |mode| io.open(Path::new("/f"), mode).unwrap();
            let file = open(OpenMode::Buffered);
            let writer = match is_past_cache {
                true => Writer::past_cache(open(OpenMode::Direct), file),
                false => Writer::new(file),
            };
            write(&io, writer, &bytes, &parts);
        }
    }

    #[test]
    fn whoever_flushes_in_the_middle_of_a_block_goes_on_through_the_cache() {
        let io = SimIo::new(1);
        let open = |mode| io.open(Path::new("/f"), mode).unwrap();
        let mut writer = Writer::past_cache(open(OpenMode::Direct), open(OpenMode::Buffered));
        for part in [&b"a"[..], &[7; 2 * BLOCK_BYTES], b"z"] {
            writer.write_all(part).unwrap();
            writer.flush().unwrap();
        }
        let whole = [&b"a"[..], &[7; 2 * BLOCK_BYTES], b"z"].concat();
        assert_eq!(writer.finish().unwrap(), (whole.len() as u64, *blake3::hash(&whole).as_bytes()));
        let mut there = vec![0; whole.len()];
        open(OpenMode::Read).read_at(&mut there, 0).unwrap();
        assert!(there == whole);
    }
}
