//! Reading the log's files at start: what is whole, what was torn, what is damaged.
//!
//! Takes a directory, gives the log's state and where every entry is. It changes nothing on disk: cutting
//! a torn tail is the caller's, after everything here has succeeded. Payloads are checked and passed over,
//! never gathered, so memory depends on the number of entries alone.
//!
//! Groups are followed by sequence, through the files in order of their numbers. Where a group is not
//! whole the log of that file ends, and one question decides what that means: is there a whole group of
//! that file behind it, or a file that goes on with a later sequence? The writer leaves at most one group
//! unsynced, so a crash can only tear the last one. If there is something behind, bytes that were durable
//! have changed: that is corruption, and nobody but an operator can judge it.
//!
//! Files before the purge point may be missing, since a crash may undo some removals and not others. Each
//! file opens with all that is not an entry, so reading starts again at such a gap; what must hold in the
//! end is that every entry behind the purge point is there.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    LogId,
    files::{LogFile, is_spare, parse_name, whole_blocks},
    format::{
        FLAG_CLOSING, FLAG_COPY, FLAG_OPENING, GROUP_HEADER_BYTES, GroupHeader, Kind, RECORD_HEADER_BYTES,
        RecordHeader, Sum, VERSION,
    },
    index::Slot,
};
use crate::{
    env::{AlignedBuffer, BLOCK_BYTES, File, Io, OpenMode, refuses_direct},
    error::{Code, Error, Result},
};

/// Files are read through a window of this size.
const WINDOW_BYTES: usize = 4 << 20;

/// What the files hold.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) state: Replay,
    /// Files with groups, by number.
    pub(super) files: Vec<LogFile>,
    /// Files of the log without a single group: taken into use by a run that died before it wrote.
    pub(super) unused: Vec<LogFile>,
    pub(super) spares: Vec<PathBuf>,
    pub(super) last_group: Option<LastGroup>,
    /// Where the log ends, if bytes follow there that may be a torn group.
    pub(super) cut: Option<(PathBuf, u64)>,
    /// Whether the last group is a closing one.
    pub(super) closed: bool,
    pub(super) file_number_next: u32,
}

/// The last whole group.
#[derive(Clone, Debug)]
pub(super) struct LastGroup {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) header: GroupHeader,
}

/// The state that the records seen so far add up to.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// Index of the first slot.
    pub(super) first: u64,
    pub(super) slots: VecDeque<Slot>,
}

/// A whole group, for tests and tools.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct GroupPlace {
    /// Of its file.
    pub path: PathBuf,
    /// Where it starts.
    pub offset: u64,
    /// With its padding.
    pub bytes: u64,
    /// Its number.
    pub sequence: u64,
    /// Whether it only certifies the one before it.
    pub closing: bool,
    /// Whether it was carried over from an older file.
    pub copy: bool,
}

/// Reads all files of a log.
///
/// # Errors
/// `Corrupt` as the head of this file explains; `Io` when a file cannot be read.
pub(super) fn recover(
    io: &dyn Io,
    dir: &Path,
    mode: OpenMode,
    check_sums: bool,
    check_damage: bool,
    each: &mut dyn FnMut(GroupPlace),
) -> Result<Recovered> {
    let mut scan = Scan {
        check_sums,
        check_damage,
        each,
        out: Recovered::default(),
        doubt: None,
        gap: None,
        unexplained: None,
    };
    let names = io.list(dir).map_err(|e| Error::io(format!("listing {}", dir.display()), &e))?;
    let mut files = Vec::new();
    for name in names {
        if is_spare(&name) {
            scan.out.spares.push(dir.join(name));
        } else if let Some((number, generation)) = parse_name(&name) {
            files.push(LogFile { number, generation, path: dir.join(name), bytes: 0, last_index: None });
        }
    }
    files.sort_by_key(|file| file.number);
    let mut buffer = AlignedBuffer::default();
    for mut file in files {
        let path = file.path.clone();
        let doing = |e: &io::Error| Error::io(format!("reading {}", path.display()), e);
        let handle = open_to_read(io, &path, mode).map_err(|e| doing(&e))?;
        let mut window = Window::new(handle, buffer).map_err(|e| doing(&e))?;
        file.bytes = window.bytes;
        scan.file(file, &mut window)?;
        buffer = window.buffer;
    }
    // Numbers of files that were never written are used again, so that numbers have no holes of their own.
    scan.out.file_number_next = scan.out.files.last().map_or(1, |file| file.number + 1);
    scan.finish()
}

/// Opens a file past the page cache if `mode` says so. Some file systems accept that flag and refuse the reads.
fn open_to_read(io: &dyn Io, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
    let file = io.open(path, mode)?;
    if mode == OpenMode::Direct && file.len()? >= BLOCK_BYTES as u64 {
        let mut block = AlignedBuffer::default();
        if let Err(error) = file.read_at(block.space(BLOCK_BYTES), 0)
            && refuses_direct(&error)
        {
            return io.open(path, OpenMode::Read);
        }
    }
    Ok(file)
}

struct Scan<'a> {
    check_sums: bool,
    check_damage: bool,
    each: &'a mut dyn FnMut(GroupPlace),
    out: Recovered,
    /// The end of the file before, with what was expected there: where a hole would have to be.
    doubt: Option<(PathBuf, u64)>,
    /// Where the last missing files would have to be.
    gap: Option<(PathBuf, u64)>,
    /// A file without groups, as long as no later file has any.
    unexplained: Option<LogFile>,
}

/// What a place in a file holds.
enum Place {
    Group(GroupHeader, u64),
    NoGroup,
}

impl Scan<'_> {
    fn file(&mut self, mut file: LogFile, window: &mut Window) -> Result<()> {
        let mut at = 0;
        let mut groups = 0;
        while let Place::Group(header, bytes) = self.place(window, &file, at)? {
            let last = self.out.last_group.as_ref().map(|last| last.header.sequence);
            let goes_on = last.is_some_and(|last| header.sequence == last + 1);
            let repeats = header.flags & FLAG_COPY != 0 && last == Some(header.sequence);
            if header.version != VERSION {
                return Err(corrupt(
                    &file.path,
                    at,
                    &format!(
                        "it was written in format version {}, and this program reads {VERSION}; start the program that wrote it",
                        header.version
                    ),
                ));
            }
            if groups > 0 && !goes_on {
                break;
            }
            let unused = self.unexplained.take().filter(|_| self.check_damage);
            let adjacent = unused.as_ref().filter(|unused| unused.number + 1 == file.number);
            if let Some(unused) = adjacent.filter(|_| header.flags & FLAG_COPY == 0) {
                // A start removes unused files, durably, before it writes to a new one. Only a group that
                // was read from the page cache and never reached the disk may be gone, and the file after
                // it begins with its copy.
                return Err(corrupt(&unused.path, 0, "no group of it is whole, yet there is a later file"));
            }
            let mut last_index = None;
            if goes_on {
                last_index = self.records(window, &file, at, &header)?;
                if header.flags & FLAG_COPY != 0
                    && let Some(before) = self.out.files.last_mut()
                {
                    // The original is gone, and a copy is only read behind the file before it: both stay
                    // until its entries are purged.
                    before.last_index = before.last_index.max(last_index);
                }
            } else if !repeats {
                self.gap(&file, &header, unused)?;
                if header.flags & FLAG_OPENING != 0 {
                    last_index = self.records(window, &file, at, &header)?;
                }
            }
            file.last_index = file.last_index.max(last_index);
            self.out.closed = header.flags & FLAG_CLOSING != 0;
            self.out.last_group = Some(LastGroup { path: file.path.clone(), offset: at, header });
            let (closing, copy) = (self.out.closed, header.flags & FLAG_COPY != 0);
            let path = file.path.clone();
            (self.each)(GroupPlace { path, offset: at, bytes, sequence: header.sequence, closing, copy });
            groups += 1;
            at += bytes;
        }
        self.nothing_whole_behind(window, &file, at)?;
        if groups > 0 {
            // Only the last file with groups can end in a torn one. A file without any may be an older one
            // whose new name is not durable: a crash can still give it its old name back, and its groups
            // must be whole then.
            let torn = window.has_bytes(at).map_err(|e| reading(&file.path, &e))?;
            self.out.cut = torn.then(|| (file.path.clone(), at));
            self.doubt = Some((file.path.clone(), at));
            self.out.files.push(file);
        } else {
            self.unexplained = Some(file.clone());
            self.out.unused.push(file);
        }
        Ok(())
    }

    /// Looks for a whole group of this file at `at`.
    fn place(&self, window: &mut Window, file: &LogFile, at: u64) -> Result<Place> {
        let io = |e: io::Error| reading(&file.path, &e);
        if at + BLOCK_BYTES as u64 > window.bytes {
            return Ok(Place::NoGroup);
        }
        let head = window.read(at, GROUP_HEADER_BYTES).map_err(io)?;
        let Some(header) = GroupHeader::decode(head) else { return Ok(Place::NoGroup) };
        let Some(bytes) = header.group_bytes() else { return Ok(Place::NoGroup) };
        if header.generation != file.generation || bytes > window.bytes - at {
            return Ok(Place::NoGroup);
        }
        let mut sum = Sum::of_header(&header);
        let mut next = at + GROUP_HEADER_BYTES as u64;
        // A group that fits is brought in whole, so that its records are read from memory after this.
        if bytes <= WINDOW_BYTES as u64 {
            window.read(at, bytes as usize).map_err(io)?;
        }
        while next < at + bytes {
            let count = (at + bytes - next).min(WINDOW_BYTES as u64);
            sum.add(window.read(next, count as usize).map_err(io)?);
            next += count;
        }
        if self.check_sums && sum.finish() != header.crc {
            return Ok(Place::NoGroup);
        }
        Ok(Place::Group(header, bytes))
    }

    /// The log of this file ends at `at`: then no group of it can be whole behind that.
    fn nothing_whole_behind(&self, window: &mut Window, file: &LogFile, at: u64) -> Result<()> {
        if !self.check_damage {
            return Ok(());
        }
        let expected = self.out.last_group.as_ref().map_or(0, |last| last.header.sequence + 1);
        let mut behind = at;
        while behind < window.bytes {
            if let Place::Group(header, _) = self.place(window, file, behind)?
                && header.sequence >= expected
            {
                return Err(corrupt(
                    &file.path,
                    at,
                    &format!(
                        "group {expected} should be there and is not whole, yet group {} at byte {behind} is, which was written later",
                        header.sequence
                    ),
                ));
            }
            behind += BLOCK_BYTES as u64;
        }
        Ok(())
    }

    /// The file does not go on where the one before it ended.
    fn gap(&mut self, file: &LogFile, header: &GroupHeader, unused_before: Option<LogFile>) -> Result<()> {
        let unused = |before: &LogFile| {
            let between = before.number + 1..file.number;
            self.out.unused.iter().filter(|file| between.contains(&file.number)).count() as u32
        };
        let suspect = unused_before.map(|file| (file.path, 0)).or(self.doubt.clone());
        let before = self.out.files.last();
        if let Some(before) = before.filter(|before| before.number + 1 + unused(before) == file.number) {
            let (path, at) = suspect.unwrap_or((before.path.clone(), 0));
            let last = self.out.last_group.as_ref().map_or(0, |last| last.header.sequence);
            return Err(corrupt(
                &path,
                at,
                &format!(
                    "group {} should be there and is not whole, yet the next file begins with group {}",
                    last + 1,
                    header.sequence
                ),
            ));
        }
        if header.flags & (FLAG_OPENING | FLAG_COPY) == 0 {
            return Err(corrupt(&file.path, 0, "it does not begin as every log file does"));
        }
        self.gap = suspect.or(Some((file.path.clone(), 0)));
        // Whether what is missing was still needed shows when the purge point is known.
        self.out.state = Replay::default();
        Ok(())
    }

    /// Applies a whole group; gives the highest index of its entries.
    fn records(
        &mut self,
        window: &mut Window,
        file: &LogFile,
        at: u64,
        header: &GroupHeader,
    ) -> Result<Option<u64>> {
        let odd = |at: u64, what: &str| corrupt(&file.path, at, what);
        let fresh = header.flags & FLAG_OPENING != 0 && self.out.state.is_empty();
        let end = at + GROUP_HEADER_BYTES as u64 + header.body_bytes;
        let mut next = at + GROUP_HEADER_BYTES as u64;
        let mut last_index = None;
        for _ in 0..header.records {
            let here = next;
            if end - next < RECORD_HEADER_BYTES as u64 {
                return Err(odd(here, "a record reaches beyond its group"));
            }
            let head = window.read(next, RECORD_HEADER_BYTES).map_err(|e| reading(&file.path, &e))?;
            let Some(record) = RecordHeader::decode(head) else {
                return Err(odd(here, "a whole group holds a record that this program does not know"));
            };
            next += RECORD_HEADER_BYTES as u64;
            if record.payload_bytes > end - next {
                return Err(odd(here, "a record reaches beyond its group"));
            }
            let mut vote = Bytes::new();
            if record.kind == Kind::Vote {
                let bytes = window.read(next, record.payload_bytes as usize);
                vote = Bytes::copy_from_slice(bytes.map_err(|e| reading(&file.path, &e))?);
            }
            if record.kind == Kind::Entry {
                last_index = last_index.max(record.id.map(|id| id.index.0));
            }
            next += record.payload_bytes;
            let slot = Slot { term: 0, offset: here, file: file.number, bytes: record.payload_bytes as u32 };
            self.out.state.apply(&record, slot, vote, fresh).map_err(|what| odd(here, &what))?;
        }
        Ok(last_index)
    }

    fn finish(mut self) -> Result<Recovered> {
        let state = &mut self.out.state;
        let needed = state.purged.map_or(0, |id| id.index.0 + 1);
        let missing = match state.last {
            Some(last) if last.index.0 >= needed => state.first > needed || state.slots.is_empty(),
            _ => false,
        };
        if missing {
            let (path, at) = self.gap.take().or(self.doubt.take()).unwrap_or_default();
            let found =
                if state.slots.is_empty() { "none".into() } else { format!("{} is the first", state.first) };
            return Err(corrupt(
                &path,
                at,
                &format!(
                    "entries from {needed} on are needed, and of those found in this and the other files {found}: a file is missing"
                ),
            ));
        }
        let purged = (needed.saturating_sub(state.first) as usize).min(state.slots.len());
        state.slots.drain(..purged);
        state.first = needed;
        Ok(self.out)
    }
}

impl Replay {
    fn is_empty(&self) -> bool {
        self.vote.is_none() && self.purged.is_none() && self.committed.is_none() && self.last.is_none()
    }

    /// Applies one record. `fresh` says that an opening group's restatement is all there is.
    fn apply(&mut self, record: &RecordHeader, slot: Slot, vote: Bytes, fresh: bool) -> Result<(), String> {
        match (record.kind, record.id) {
            (Kind::Vote, None) => self.vote = Some(vote),
            (Kind::Entry, Some(id)) => {
                let expected = self.last.map_or(id.index.0, |last| last.index.0 + 1);
                if id.index.0 != expected {
                    return Err(format!("entry {} stands where {expected} comes next", id.index));
                }
                if self.slots.is_empty() {
                    self.first = expected;
                }
                self.slots.push_back(Slot { term: id.term, ..slot });
                self.last = Some(id);
            }
            (Kind::Truncate, id) => {
                let end = id.map_or(0, |id| id.index.0 + 1);
                if self.last.map_or(0, |last| last.index.0 + 1) < end {
                    return Err("a truncation keeps more than there is".into());
                }
                self.slots.truncate(end.saturating_sub(self.first) as usize);
                self.last = id;
            }
            (Kind::Purge, Some(id)) => {
                if self.purged.is_none_or(|purged| purged.index < id.index) {
                    self.purged = Some(id);
                    let dropped = (id.index.0 + 1).saturating_sub(self.first) as usize;
                    self.slots.drain(..dropped.min(self.slots.len()));
                    self.first = self.first.max(id.index.0 + 1);
                    if self.last.is_none_or(|last| last.index <= id.index) {
                        self.last = Some(id);
                    }
                }
            }
            (Kind::Committed, Some(id)) => self.committed = Some(id),
            (Kind::Last, id) if fresh => self.last = id,
            (Kind::Last, id) if id == self.last => {}
            (Kind::Last, id) => {
                return Err(format!(
                    "the file was begun at {:?} while the ones before it end at {:?}",
                    id, self.last
                ));
            }
            (kind, _) => return Err(format!("a whole group holds a {kind:?} record that makes no sense")),
        }
        Ok(())
    }
}

/// A part of a file in memory, moved along as it is read. Whole blocks, so that the disk can deliver them
/// past the page cache: a log is read once at start, and would push everything else out of it.
struct Window {
    file: Arc<dyn File>,
    bytes: u64,
    buffer: AlignedBuffer,
    start: u64,
}

impl Window {
    fn new(file: Arc<dyn File>, mut buffer: AlignedBuffer) -> io::Result<Self> {
        let bytes = file.len()?;
        buffer.clear();
        Ok(Self { file, bytes: bytes - bytes % BLOCK_BYTES as u64, buffer, start: 0 })
    }

    /// `count` bytes from `at`; more than a window may be asked for, and is then read at once.
    fn read(&mut self, at: u64, count: usize) -> io::Result<&[u8]> {
        let end = at.saturating_add(count as u64);
        if at < self.start || end > self.start + self.buffer.bytes().len() as u64 {
            if end > self.bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.start = at - at % BLOCK_BYTES as u64;
            let ahead = (self.bytes - self.start).min(WINDOW_BYTES as u64);
            let needed = whole_blocks(end - self.start);
            let memory = self.buffer.space(ahead.max(needed) as usize);
            if let Err(error) = self.file.read_at(memory, self.start) {
                self.buffer.clear();
                return Err(error);
            }
        }
        let from = (at - self.start) as usize;
        Ok(&self.buffer.bytes()[from..from + count])
    }

    /// Whether the block at `at` holds anything but zeros.
    fn has_bytes(&mut self, at: u64) -> io::Result<bool> {
        let count = self.bytes.saturating_sub(at).min(BLOCK_BYTES as u64) as usize;
        Ok(count > 0 && self.read(at, count)?.iter().any(|byte| *byte != 0))
    }
}

fn reading(path: &Path, error: &io::Error) -> Error {
    Error::io(format!("reading {}", path.display()), error)
}

fn corrupt(path: &Path, offset: u64, what: &str) -> Error {
    Error::new(
        Code::Corrupt,
        format!(
            "the log is damaged at byte {offset} of {}: {what}; nothing was changed; check the disk, then restore this \
             node from a copy, or remove it from the cluster and let it join again under a new id",
            path.display()
        ),
    )
}
