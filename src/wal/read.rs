//! Reading entries back from files.
//!
//! Takes places from [`index`](super::index), gives entries whose sums were checked. Files are opened
//! when first read and known by number; it does not own when they come and go, that is the writer's.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    LogEntry, LogId,
    format::{Kind, RECORD_HEADER_BYTES, RecordHeader},
    index::{Found, Slot},
};
use crate::env::{File, Io, OpenMode};

/// Neighbouring entries are read together up to this size.
const READ_BYTES_MAX: u64 = 1 << 20;

/// The files that entries can be read from.
#[derive(Debug)]
pub(super) struct FileTable {
    io: Arc<dyn Io>,
    files: Mutex<BTreeMap<u32, Readable>>,
}

#[derive(Debug)]
struct Readable {
    path: PathBuf,
    file: Option<Arc<dyn File>>,
}

impl FileTable {
    pub(super) fn new(io: Arc<dyn Io>) -> Self {
        Self { io, files: Mutex::default() }
    }

    pub(super) fn add(&self, number: u32, path: PathBuf) {
        self.files.lock().insert(number, Readable { path, file: None });
    }

    pub(super) fn remove(&self, number: u32) {
        self.files.lock().remove(&number);
    }

    fn get(&self, number: u32) -> io::Result<(PathBuf, Arc<dyn File>)> {
        let mut files = self.files.lock();
        let entry = files.get_mut(&number).ok_or(ErrorKind::NotFound)?;
        let file = match &entry.file {
            Some(file) => file.clone(),
            None => entry.file.insert(self.io.open(&entry.path, OpenMode::Read)?).clone(),
        };
        Ok((entry.path.clone(), file))
    }

    /// Turns places into entries, in order.
    ///
    /// # Errors
    /// `NotFound` when a file has been freed in the meantime, `InvalidData` when bytes are not what was
    /// written.
    pub(super) fn load(&self, found: Vec<Found>, check_sums: bool) -> io::Result<Vec<LogEntry>> {
        let mut entries = Vec::with_capacity(found.len());
        let mut run: Vec<(LogId, Slot)> = Vec::new();
        for one in found {
            match one {
                Found::InFile(id, slot) => {
                    if !run.last().is_some_and(|(_, last)| follows(last, &slot) && fits(&run, &slot)) {
                        self.load_run(&mut run, &mut entries, check_sums)?;
                    }
                    run.push((id, slot));
                }
                Found::InMemory(entry) => {
                    self.load_run(&mut run, &mut entries, check_sums)?;
                    entries.push(entry);
                }
            }
        }
        self.load_run(&mut run, &mut entries, check_sums)?;
        Ok(entries)
    }

    /// Reads records that lie side by side with one call.
    fn load_run(
        &self,
        run: &mut Vec<(LogId, Slot)>,
        entries: &mut Vec<LogEntry>,
        check: bool,
    ) -> io::Result<()> {
        let (Some((_, first)), Some((_, last))) = (run.first(), run.last()) else { return Ok(()) };
        let (start, end) = (first.offset, end_of(last));
        let (path, file) = self.get(first.file)?;
        let mut bytes = vec![0; (end - start) as usize];
        file.read_at(&mut bytes, start)?;
        let bytes = Bytes::from(bytes);
        for (id, slot) in run.drain(..) {
            let at = (slot.offset - start) as usize;
            let payload =
                bytes.slice(at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + slot.bytes as usize);
            let header = RecordHeader::decode(&bytes[at..])
                .filter(|header| header.kind == Kind::Entry && header.id == Some(id))
                .filter(|header| !check || header.fits(&payload));
            if header.is_none() {
                return Err(damaged(&path, slot.offset, id));
            }
            entries.push(LogEntry { id, payload });
        }
        Ok(())
    }
}

fn end_of(slot: &Slot) -> u64 {
    slot.offset + RECORD_HEADER_BYTES as u64 + u64::from(slot.bytes)
}

fn follows(last: &Slot, next: &Slot) -> bool {
    last.file == next.file && end_of(last) == next.offset
}

fn fits(run: &[(LogId, Slot)], next: &Slot) -> bool {
    run.first().is_some_and(|(_, first)| end_of(next) - first.offset <= READ_BYTES_MAX)
}

fn damaged(path: &Path, offset: u64, id: LogId) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("log entry {} at byte {offset} of {} is not what was written", id.index, path.display()),
    )
}
