//! How a group gets from memory to the disk: the part of the writer that exists more than once.
//!
//! Takes an encoded group and a place in a file, returns when all of it is durable. What goes into a group, in
//! which file, and what happens after an error is the [`writer`](super::writer)'s, the same for all sinks.
//!
//! ```text
//! direct     O_DIRECT | O_DSYNC, one call after the other on the writer's thread
//! buffered   page cache and fdatasync: where the file system has no direct I/O, and on other systems
//! uring      as direct, but with several pieces of a large group under way at once (uring.rs)
//! ```

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{format::GROUP_HEADER_BYTES, group::Group, log_files::CurrentFile, writer::panic_text};
use crate::{config::WalIo, env::AlignedBuffer};

/// Groups up to this size are written with one call; larger ones go through memory of this size in pieces, so
/// that a huge entry is never there twice.
pub(super) const PIECE_BYTES: usize = 4 << 20;

/// Makes groups durable.
pub(super) trait GroupSink {
    /// Writes and syncs a group at the end of the file.
    ///
    /// # Errors
    /// What the operating system says; nobody knows then which parts are on disk.
    fn write(&mut self, file: &CurrentFile, group: Group<'_>) -> io::Result<()>;

    /// `direct`, `buffered` or `uring`.
    fn name(&self) -> &'static str;
}

/// The sink of ordinary calls.
#[derive(Debug)]
pub(super) struct FileSink {
    name: &'static str,
    piece_bytes: usize,
    /// The planted bug: a failed call is made again.
    retries: bool,
    /// The first piece waits here for the sum.
    first: AlignedBuffer,
    piece: AlignedBuffer,
}

impl FileSink {
    /// A sink of this name that holds `piece_bytes` of a group in memory, or twice that of a large one.
    pub(super) fn new(name: &'static str, piece_bytes: usize, retries: bool) -> Self {
        let (first, piece) = Default::default();
        Self { name, piece_bytes, retries, first, piece }
    }

    fn call(&self, call: impl Fn() -> io::Result<()>) -> io::Result<()> {
        if self.retries { call().or_else(|_| call()) } else { call() }
    }
}

impl GroupSink for FileSink {
    fn write(&mut self, to: &CurrentFile, mut group: Group<'_>) -> io::Result<()> {
        let all = group.bytes();
        let piece = |at: u64| (all - at).min(self.piece_bytes as u64) as usize;
        let first = self.first.space(piece(0));
        group.fill(&mut first[GROUP_HEADER_BYTES..]);
        let mut at = first.len() as u64;
        while at < all {
            let bytes = piece(at);
            group.fill(self.piece.space(bytes));
            self.call(|| to.file.write_at(self.piece.bytes(), to.offset + at))?;
            at += bytes as u64;
        }
        self.first.bytes_mut()[..GROUP_HEADER_BYTES].copy_from_slice(&group.header());
        self.call(|| to.file.write_at(self.first.bytes(), to.offset))?;
        self.call(|| to.file.sync())
    }

    fn name(&self) -> &'static str {
        self.name
    }
}

/// The sink that the settings ask for; `files` in place of a uring that cannot be had.
pub(super) fn choose(
    io: WalIo,
    files: FileSink,
    start_uring: impl FnOnce() -> io::Result<Box<dyn GroupSink>>,
) -> Box<dyn GroupSink> {
    if io != WalIo::Uring {
        return Box::new(files);
    }
    let started = if files.name() == "direct" {
        catch_unwind(AssertUnwindSafe(start_uring))
            .unwrap_or_else(|panic| Err(io::Error::other(format!("it panicked: {}", panic_text(&*panic)))))
    } else {
        Err(io::Error::other("the file system has no direct I/O"))
    };
    match started {
        Ok(sink) => sink,
        Err(why) => {
            tracing::warn!(%why, instead = files.name(), "io_uring cannot be used here (wal.io)");
            Box::new(files)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(io: WalIo, name: &'static str, uring: fn() -> io::Result<Box<dyn GroupSink>>) -> &'static str {
        choose(io, FileSink::new(name, PIECE_BYTES, false), uring).name()
    }

    #[test]
    fn uring_is_taken_when_it_was_asked_for_and_works() {
        let works: fn() -> io::Result<Box<dyn GroupSink>> =
            || Ok(Box::new(FileSink::new("uring", PIECE_BYTES, false)));
        assert_eq!(chosen(WalIo::Uring, "direct", works), "uring");
        assert_eq!(chosen(WalIo::Uring, "buffered", works), "buffered");
        assert_eq!(chosen(WalIo::Auto, "direct", works), "direct");
        assert_eq!(chosen(WalIo::Buffered, "buffered", works), "buffered");
        assert_eq!(chosen(WalIo::Uring, "direct", || Err(io::ErrorKind::PermissionDenied.into())), "direct");
        assert_eq!(chosen(WalIo::Uring, "direct", || panic!("as an executor may")), "direct");
    }
}
