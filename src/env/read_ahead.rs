//! A file that is read once, from its beginning to its end, in large pieces past the page cache: what is read displaces
//! nothing there, and is not copied into fresh memory first.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{AlignedBuffer, BLOCK_BYTES, File, refuses_direct};

/// Read together.
const READ_BYTES: usize = 2 << 20;

/// See the head of this file. Reads that go on where the last one ended are cheap; others cost a piece each.
#[derive(Debug)]
pub struct ReadAhead {
    /// Open as [`OpenMode::ReadDirect`](super::OpenMode::ReadDirect).
    direct: Arc<dyn File>,
    /// The same file, for its last bytes, and where its file system does not do that.
    file: Arc<dyn File>,
    len: u64,
    piece: Mutex<Piece>,
}

#[derive(Debug, Default)]
struct Piece {
    offset: u64,
    bytes: AlignedBuffer,
}

impl ReadAhead {
    /// Of a file that is open twice, and does not change.
    ///
    /// # Errors
    /// The file's.
    pub fn new(direct: Arc<dyn File>, file: Arc<dyn File>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { direct, file, len, piece: Mutex::default() })
    }

    /// Reads the piece that a byte is in.
    fn read_piece(&self, piece: &mut Piece, at: u64) -> io::Result<()> {
        piece.offset = at - at % BLOCK_BYTES as u64;
        let bytes = (self.len - piece.offset).min(READ_BYTES as u64) as usize;
        let offset = piece.offset;
        let (blocks, last) = piece.bytes.space(bytes).split_at_mut(bytes - bytes % BLOCK_BYTES);
        let read = match self.direct.read_at(blocks, offset) {
            Err(error) if refuses_direct(&error) => self.file.read_at(blocks, offset),
            read => read,
        };
        let read = read.and_then(|()| self.file.read_at(last, offset + blocks.len() as u64));
        if read.is_err() {
            piece.bytes.clear();
        }
        read
    }
}

impl File for ReadAhead {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.len);
        if end.is_none() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut piece = self.piece.lock();
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let is_here = (piece.offset..piece.offset + piece.bytes.bytes().len() as u64).contains(&at);
            if !is_here {
                self.read_piece(&mut piece, at)?;
            }
            let from = &piece.bytes.bytes()[(at - piece.offset) as usize..];
            let count = from.len().min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&from[..count]);
            done += count;
        }
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(ErrorKind::PermissionDenied.into())
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// The simulated disk panics where direct access is not aligned.
        #[test]
        fn every_part_is_what_is_in_the_file(
            blocks in 0..1_100usize,
            more in 0..BLOCK_BYTES,
            parts in prop::collection::vec((any::<prop::sample::Index>(), 0..3_000_000usize), 1..8),
            refusal in prop_oneof![Just(Refusal::Never), Just(Refusal::AtOpen), Just(Refusal::AtUse)],
        ) {
            let bytes: Vec<u8> = (0..blocks * BLOCK_BYTES + more).map(|n| (n / 7) as u8).collect();
            let io = SimIo::new(1);
            let open = |mode| io.open(Path::new("/f"), mode).unwrap();
            open(OpenMode::Buffered).write_at(&bytes, 0).unwrap();
            io.refuse_direct(refusal);
            let ahead = ReadAhead::new(open(OpenMode::ReadDirect), open(OpenMode::Read)).unwrap();
            prop_assert_eq!(ahead.len().unwrap(), bytes.len() as u64);
            for (at, len) in parts {
                let at = at.index(bytes.len() + 1);
                let len = len.min(bytes.len() - at);
                let mut part = vec![0; len];
                ahead.read_at(&mut part, at as u64).unwrap();
                prop_assert!(part == bytes[at..at + len]);
            }
            let mut beyond = [0; 2];
            let error = ahead.read_at(&mut beyond, (bytes.len() as u64).saturating_sub(1)).unwrap_err();
            prop_assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
    }
}
