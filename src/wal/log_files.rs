//! The files that a running log consists of: the current one, those before it, and how one follows another.
//!
//! Takes filled files from the [`pool`](super::pool) and gives back what is no longer needed. A file in use has
//! a number, which orders it, and a random generation, without which no group counts. It does not own groups:
//! what is written, and when a purge is durable, is the [`writer`](super::writer)'s.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    files::{LogDir, LogFile, file_name},
    format::{FLAG_COPY, GROUP_HEADER_BYTES, GroupHeader, Sum},
    pool::FilePool,
    recover::LastGroup,
    shared::Shared,
    sink::PIECE_BYTES,
};
use crate::env::{AlignedBuffer, File, OpenMode};

/// The file that groups go to.
pub(super) struct CurrentFile {
    pub(super) number: u32,
    pub(super) generation: u64,
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    /// Where the next group goes.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// See the head of this file.
pub(super) struct LogFiles {
    pub(super) dir: LogDir,
    pub(super) pool: FilePool,
    pub(super) shared: Arc<Shared>,
    /// Oldest first; the last is the current one.
    pub(super) files: VecDeque<LogFile>,
    pub(super) number_next: u32,
    pub(super) current: Option<CurrentFile>,
    /// The planted bugs: the same generation for all, and no sync of the directory.
    pub(super) reuse_generation: bool,
    pub(super) skip_dir_sync: bool,
}

impl LogFiles {
    /// Where groups go now.
    pub(super) fn current(&self) -> io::Result<&CurrentFile> {
        self.current.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// What is left of the current file.
    pub(super) fn room(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.bytes - current.offset)
    }

    /// A group was written to the current file.
    pub(super) fn advance(&mut self, bytes: u64) {
        if let Some(current) = &mut self.current {
            current.offset += bytes;
        }
    }

    /// The current file holds entries up to this index.
    pub(super) fn holds_entry(&mut self, index: u64) {
        if let Some(file) = self.files.back_mut() {
            file.last_index = file.last_index.max(Some(index));
        }
    }

    /// Gives a filled file a number and a generation, and makes it the current one.
    pub(super) fn take_into_use(&mut self, (spare, bytes): (PathBuf, u64)) -> io::Result<()> {
        let number = self.number_next;
        if number == u32::MAX {
            return Err(io::Error::other("the log has used up its file numbers"));
        }
        let generation = if self.reuse_generation { 0 } else { self.dir.env.rng.next_u64() };
        let path = self.dir.path.join(file_name(number, generation));
        self.dir.env.io.rename(&spare, &path)?;
        if !self.skip_dir_sync {
            self.dir.env.io.sync_dir(&self.dir.path)?;
        }
        // From here on the name, and so the generation, survives a crash: groups may be written.
        let file = self.dir.open(&path)?;
        self.number_next += 1;
        self.shared.files.add(number, path.clone());
        self.files.push_back(LogFile { number, generation, path: path.clone(), bytes, last_index: None });
        self.current = Some(CurrentFile { number, generation, file, path, offset: 0, bytes });
        self.note_disk();
        Ok(())
    }

    /// Copies the last group of an older file to the start of the current one, under its old sequence.
    pub(super) fn carry_over(&mut self, last: &LastGroup, check_sums: bool) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let source = self.dir.env.io.open(&last.path, OpenMode::Read)?;
        let total = last.header.group_bytes().unwrap_or(0);
        let mut header = GroupHeader {
            flags: last.header.flags | FLAG_COPY,
            generation: current.generation,
            crc: 0,
            ..last.header
        };
        let mut buffer = AlignedBuffer::default();
        let mut sum = Sum::of_header(&header);
        let mut copied = Sum::of_header(&last.header);
        for_pieces(total, |from, count| {
            let piece = buffer.space(count);
            source.read_at(piece, last.offset + from)?;
            let skip = if from == 0 { GROUP_HEADER_BYTES } else { 0 };
            sum.add(&piece[skip..]);
            copied.add(&piece[skip..]);
            Ok(())
        })?;
        if copied.finish() != last.header.crc && check_sums {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the last group changed while it was copied",
            ));
        }
        header.crc = sum.finish();
        for_pieces(total, |from, count| {
            let piece = buffer.space(count);
            source.read_at(piece, last.offset + from)?;
            if from == 0 {
                piece[..GROUP_HEADER_BYTES].copy_from_slice(&header.encode());
            }
            current.file.write_at(piece, from)
        })?;
        current.file.sync()?;
        current.offset = total;
        Ok(())
    }

    /// Gives back what the run before left unused in its last file: nothing is ever written there again.
    pub(super) fn trim_previous(&mut self, last: &LastGroup) {
        let Some(file) = self.files.iter_mut().find(|file| file.path == last.path) else { return };
        let used = last.offset + last.header.group_bytes().unwrap_or(file.bytes);
        if used >= file.bytes {
            return;
        }
        let open = self.dir.env.io.open(&file.path, OpenMode::Buffered);
        match open.and_then(|open| open.set_len(used)) {
            Ok(()) => file.bytes = used,
            // It only costs space.
            Err(error) => tracing::warn!(path = %file.path.display(), %error, "trimming a log file failed"),
        }
        self.note_disk();
    }

    /// Frees files whose entries are all purged, oldest first. The current file has opened with the state
    /// by now, durably, so nothing else in them is needed either.
    pub(super) fn free_purged(&mut self, purged: Option<u64>) {
        // A file without entries (`None`) holds nothing that a later one does not restate.
        while self.files.len() > 1
            && let Some(file) = self.files.front()
            && file.last_index <= purged
        {
            self.shared.files.remove(file.number);
            let freed = if self.pool.wants(file.bytes) {
                let spare = self.dir.spare_path();
                self.dir.env.io.rename(&file.path, &spare).map(|()| self.pool.put(spare))
            } else {
                self.dir.env.io.remove(&file.path)
            };
            if let Err(error) = freed {
                // It stays until the next start, which finds it purged again.
                tracing::warn!(path = %file.path.display(), %error, "freeing a log file failed");
            }
            self.files.pop_front();
        }
        self.note_disk();
    }

    /// Where the current group goes, for messages.
    pub(super) fn current_path(&self) -> &Path {
        self.current.as_ref().map_or(Path::new("a new file"), |current| &current.path)
    }

    fn note_disk(&self) {
        let (spares, spare_bytes) = self.pool.ready();
        let bytes = self.files.iter().map(|file| file.bytes).sum::<u64>() + spare_bytes;
        self.shared.counters.files.store(self.files.len() as u64 + spares, Relaxed);
        self.shared.counters.disk_bytes.store(bytes, Relaxed);
    }
}

fn for_pieces(total: u64, mut each: impl FnMut(u64, usize) -> io::Result<()>) -> io::Result<()> {
    let mut from = 0;
    while from < total {
        let count = (total - from).min(PIECE_BYTES as u64);
        each(from, count as usize)?;
        from += count;
    }
    Ok(())
}
