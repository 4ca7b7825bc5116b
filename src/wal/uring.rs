//! The sink on io_uring: several pieces of a large group under way at once, while the next one is encoded.
//!
//! Takes groups as every [`sink`](super::sink) does. A group of one piece is written by an ordinary call, because
//! there is nothing to overlap and the detour through a ring costs a small group a third more (`cargo bench
//! --bench wal`). It does not own waiting: the writer's thread sleeps on its queue like any other, and enters the
//! executor only while it has a large group to write, so that an idle log costs nothing. The executor has no
//! other task, so that making and renaming files, which the thread does between groups, holds nobody up.
//!
//! ```text
//! encode piece 1 ─► 2 ─► 3 ─► … ─► head, with the sum
//!              └────┴────┴─ O_DIRECT | O_DSYNC, at most IN_FLIGHT_MAX at once; durable when all have completed
//! ```
//!
//! A piece is durable when its write completes, in whatever order the disk chooses; recovery knows a whole
//! group by its sum. A process that is killed ends only after the kernel has finished its writes, so none can
//! land in a file that a later run has begun to read.

use std::io;

use super::{files::LogDir, sink::GroupSink};

/// Starts an executor on this thread and tries it with a block in this directory.
///
/// # Errors
/// Why it cannot be used: seccomp and `kernel.io_uring_disabled` forbid the calls, `RLIMIT_MEMLOCK` may be too
/// low for its buffers, and the file system may refuse the write.
#[cfg(target_os = "linux")]
pub(super) fn start(dir: &LogDir) -> io::Result<Box<dyn GroupSink>> {
    linux::UringSink::start(dir).map(|sink| Box::new(sink) as Box<dyn GroupSink>)
}

/// There is none.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub(super) fn start(_: &LogDir) -> io::Result<Box<dyn GroupSink>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has io_uring"))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{io, path::Path};

    use futures_util::{
        FutureExt,
        stream::{FuturesUnordered, StreamExt},
    };
    use glommio::{
        LocalExecutor, LocalExecutorBuilder, Placement,
        io::{DmaBuffer, DmaFile, OpenOptions},
    };

    use super::super::{
        files::LogDir,
        format::GROUP_HEADER_BYTES,
        group::Group,
        log_files::CurrentFile,
        sink::{FileSink, GroupSink},
    };
    use crate::env::{AlignedBuffer, BLOCK_BYTES};

    /// Size of the pieces of a large group. What fits into one goes by an ordinary call.
    const PIECE_BYTES: u64 = 512 << 10;

    /// Pieces under way at once.
    const IN_FLIGHT_MAX: usize = 4;

    /// Memory registered with the kernel: the first piece and those under way, with what the allocator's halving
    /// wastes. Each of glommio's three rings counts it against `RLIMIT_MEMLOCK`; where that is too low, glommio
    /// uses the same memory unregistered.
    const IO_MEMORY_BYTES: usize = 4 << 20;

    /// Entries of each ring; far more than there are pieces.
    const RING_ENTRIES: usize = 32;

    /// See the head of this file.
    pub(super) struct UringSink {
        // Before the executor, so that it is closed while there is one.
        open: Option<OpenFile>,
        executor: LocalExecutor,
        /// For the groups of one piece.
        calls: FileSink,
    }

    /// A log file as the executor has it.
    struct OpenFile {
        number: u32,
        file: DmaFile,
    }

    impl UringSink {
        pub(super) fn start(dir: &LogDir) -> io::Result<Self> {
            let executor = LocalExecutorBuilder::new(Placement::Unbound)
                .name("wal")
                .io_memory(IO_MEMORY_BYTES)
                .ring_depth(RING_ENTRIES)
                .make()
                .map_err(io::Error::from)?;
            // Named as a spare: what a crash leaves of it, the next start removes.
            let path = dir.spare_path();
            let there = dir.open(&path)?;
            there.write_at(AlignedBuffer::zeros(BLOCK_BYTES).bytes(), 0)?;
            let tried = executor.run(try_write(dir, &path));
            dir.env.io.remove(&path)?;
            let calls = FileSink::new("direct", PIECE_BYTES as usize, false);
            tried.map(|()| Self { open: None, executor, calls })
        }
    }

    impl GroupSink for UringSink {
        fn write(&mut self, to: &CurrentFile, mut group: Group<'_>) -> io::Result<()> {
            if group.bytes() <= PIECE_BYTES {
                return self.calls.write(to, group);
            }
            let Self { open, executor, .. } = self;
            executor.run(async {
                let file = current(open, to).await?;
                write_group(file, to.offset, &mut group).await
            })
        }

        fn name(&self) -> &'static str {
            "uring"
        }
    }

    impl Drop for UringSink {
        fn drop(&mut self) {
            if let Some(open) = self.open.take() {
                // What was written is durable already.
                let _ = self.executor.run(open.file.close());
            }
        }
    }

    /// Overwrites a block of a file that is there, as a group does.
    async fn try_write(dir: &LogDir, path: &Path) -> io::Result<()> {
        let file = open_file(&dir.env.io.native_path(path).ok_or(io::ErrorKind::Unsupported)?).await?;
        let mut block = file.alloc_dma_buffer(BLOCK_BYTES);
        block.as_bytes_mut().fill(0);
        let written = write_piece(&file, block, 0).await;
        file.close().await?;
        written
    }

    /// The current log file, opened by the executor when it is first written to.
    async fn current<'a>(open: &'a mut Option<OpenFile>, to: &CurrentFile) -> io::Result<&'a DmaFile> {
        if open.as_ref().is_none_or(|open| open.number != to.number) {
            if let Some(before) = open.take() {
                before.file.close().await?;
            }
            *open = Some(OpenFile { number: to.number, file: open_file(&to.path).await? });
        }
        open.as_ref().map(|open| &open.file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    async fn open_file(path: &Path) -> io::Result<DmaFile> {
        // `dma_open` adds `O_DIRECT`.
        Ok(OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).dma_open(path).await?)
    }

    async fn write_group(file: &DmaFile, offset: u64, group: &mut Group<'_>) -> io::Result<()> {
        let all = group.bytes();
        let piece = |at: u64| (all - at).min(PIECE_BYTES) as usize;
        let mut first = file.alloc_dma_buffer(piece(0));
        group.fill(&mut first.as_bytes_mut()[GROUP_HEADER_BYTES..]);
        let mut at = first.len() as u64;
        let mut writes = FuturesUnordered::new();
        while at < all {
            if writes.len() == IN_FLIGHT_MAX {
                writes.next().await.unwrap_or(Ok(()))?;
            }
            let mut buffer = file.alloc_dma_buffer(piece(at));
            group.fill(buffer.as_bytes_mut());
            let bytes = buffer.len() as u64;
            writes.push(write_piece(file, buffer, offset + at));
            at += bytes;
            // Starts the write, and lets the executor tell the kernel before the next piece is encoded.
            writes.next().now_or_never().flatten().unwrap_or(Ok(()))?;
            glommio::executor().yield_task_queue_now().await;
        }
        first.as_bytes_mut()[..GROUP_HEADER_BYTES].copy_from_slice(&group.header());
        writes.push(write_piece(file, first, offset));
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(())
    }

    async fn write_piece(file: &DmaFile, buffer: DmaBuffer, offset: u64) -> io::Result<()> {
        let bytes = buffer.len();
        let written = file.write_at(buffer, offset).await?;
        if written == bytes {
            Ok(())
        } else {
            // The file was filled before, so there is no honest reason for it.
            Err(io::Error::new(io::ErrorKind::WriteZero, format!("{written} of {bytes} bytes were written")))
        }
    }
}
