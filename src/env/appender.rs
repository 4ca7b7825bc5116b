//! A file that is written from its beginning to its end, in large pieces.
//!
//! What nobody reads soon, or only once, is better written past the page cache: the copy into fresh memory was more
//! than half of what packing a segment took, and a quarter of all that a node does under a bulk load (`perf`, 2 cores in
//! a VM, 2026-11-22). Direct writes are whole blocks; what is left at the end goes through the cache.

use std::{io, sync::Arc};

use super::{AlignedBuffer, BLOCK_BYTES, File, refuses_direct};

/// Written together. Each direct write that grows a file costs the file system a commit.
const WRITE_BYTES: usize = 4 << 20;

/// See the head of this file.
#[derive(Debug)]
pub struct Appender {
    file: Arc<dyn File>,
    /// The same file, to be written past the page cache as long as its file system does that.
    past_cache: Option<Arc<dyn File>>,
    buffer: AlignedBuffer,
    /// Bytes in the buffer.
    held: usize,
    written: u64,
}

impl Appender {
    /// Of a new file.
    #[must_use]
    pub fn new(file: Arc<dyn File>) -> Self {
        Self { file, past_cache: None, buffer: AlignedBuffer::default(), held: 0, written: 0 }
    }

    /// Of a new file that is open twice: as [`OpenMode::Direct`](super::OpenMode::Direct), and as `file`, whose sync makes
    /// all of it last.
    #[must_use]
    pub fn past_cache(direct: Arc<dyn File>, file: Arc<dyn File>) -> Self {
        Self { past_cache: Some(direct), ..Self::new(file) }
    }

    /// Bytes so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.written + self.held as u64
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The file's.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.held == WRITE_BYTES {
                self.flush()?;
            }
            let taken = bytes.len().min(WRITE_BYTES - self.held);
            let (now, later) = bytes.split_at(taken);
            self.buffer.space(WRITE_BYTES)[self.held..self.held + taken].copy_from_slice(now);
            self.held += taken;
            bytes = later;
        }
        Ok(())
    }

    /// What comes from here on is read soon: it goes through the page cache.
    ///
    /// # Errors
    /// The file's.
    pub fn go_on_through_cache(&mut self) -> io::Result<()> {
        self.flush()?;
        self.past_cache = None;
        Ok(())
    }

    /// Writes what it holds.
    ///
    /// # Errors
    /// The file's.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut rest = &self.buffer.bytes()[..self.held];
        if let Some(direct) = &self.past_cache
            && self.held >= BLOCK_BYTES
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
        if !rest.is_empty() {
            self.file.write_at(rest, self.written)?;
        }
        self.written += rest.len() as u64;
        self.held = 0;
        Ok(())
    }

    /// Writes what it holds, and makes all of it durable.
    ///
    /// # Errors
    /// The file's: then nothing of it is to be trusted.
    pub fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        env::{Io, OpenMode},
        sim::{Refusal, SimIo},
    };

    fn open(io: &SimIo, mode: OpenMode) -> Arc<dyn File> {
        io.open(Path::new("/f"), mode).unwrap()
    }

    fn is_there(io: &SimIo, bytes: &[u8]) {
        let file = open(io, OpenMode::Read);
        assert_eq!(file.len().unwrap(), bytes.len() as u64);
        let mut there = vec![0; bytes.len()];
        file.read_at(&mut there, 0).unwrap();
        assert!(there == bytes);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// The simulated disk panics where direct access is not aligned.
        #[test]
        fn what_is_appended_is_there_past_the_cache_or_through_it(
            blocks in 0..2_100usize,
            more in prop_oneof![Just(0), 1..BLOCK_BYTES],
            parts in prop::collection::vec(1..3_000_000usize, 1..4),
            refusal in prop_oneof![Just(Refusal::Never), Just(Refusal::AtOpen), Just(Refusal::AtUse)],
            is_past_cache: bool,
            through_cache_from in prop::option::of(0..4usize),
        ) {
            let bytes: Vec<u8> = (0..blocks * BLOCK_BYTES + more).map(|n| (n / 7) as u8).collect();
            let io = SimIo::new(1);
            io.refuse_direct(refusal);
            let file = open(&io, OpenMode::Buffered);
            let mut appender = match is_past_cache {
                true => Appender::past_cache(open(&io, OpenMode::Direct), file),
                false => Appender::new(file),
            };
            let (mut rest, mut sizes) = (&bytes[..], parts.iter().cycle().enumerate());
            while !rest.is_empty() {
                let (nth, size) = sizes.next().unwrap();
                if through_cache_from == Some(nth) {
                    appender.go_on_through_cache().unwrap();
                }
                let (now, later) = rest.split_at(rest.len().min(*size));
                appender.append(now).unwrap();
                rest = later;
                prop_assert_eq!(appender.len(), (bytes.len() - rest.len()) as u64);
            }
            appender.sync().unwrap();
            is_there(&io, &bytes);
        }
    }

    #[test]
    fn whole_blocks_go_past_the_cache_and_what_is_read_soon_does_not() {
        // Nobody syncs it: what is always there after a crash was written to the disk itself.
        let kept = (0..64).map(|seed| {
            let io = SimIo::new(seed);
            let file = open(&io, OpenMode::Buffered);
            io.sync_dir(Path::new("/")).unwrap();
            let mut appender = Appender::past_cache(open(&io, OpenMode::Direct), file);
            appender.append(&[1; 2 * BLOCK_BYTES + 1]).unwrap();
            appender.go_on_through_cache().unwrap();
            appender.append(&[2; BLOCK_BYTES]).unwrap();
            appender.flush().unwrap();
            io.crash();
            io.restart();
            let file = open(&io, OpenMode::Read);
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(&mut bytes, 0).unwrap();
            assert!(bytes[..2 * BLOCK_BYTES] == [1; 2 * BLOCK_BYTES]);
            bytes.iter().filter(|byte| **byte == 2).count()
        });
        assert!(kept.min() < Some(BLOCK_BYTES));
    }

    #[test]
    fn whoever_flushes_in_the_middle_of_a_block_goes_on_through_the_cache() {
        let io = SimIo::new(1);
        let file = open(&io, OpenMode::Buffered);
        let mut appender = Appender::past_cache(open(&io, OpenMode::Direct), file);
        let parts = [&b"a"[..], &[7; 2 * BLOCK_BYTES], b"z"];
        for part in parts {
            appender.append(part).unwrap();
            appender.flush().unwrap();
        }
        is_there(&io, &parts.concat());
    }
}
