//! A disk in memory that loses what a real one may lose.
//!
//! Every file has two faces: what the running system reads (`now`) and what survives a power cut
//! (`durable`). A write through the page cache changes only the first; a sync, or a direct write, carries
//! it over. Names have the same two faces, joined by `sync_dir`. A power cut decides for every unsynced
//! sector of 512 bytes alone whether it was kept, dropped or torn (a mix of both states, or garbage), and
//! for every unsynced name change whether it happened: harsher than ext4 and xfs, which keep name changes
//! in order. A failed sync leaves the pages looking clean though they never reached the disk, as Linux
//! does. The one mercy: writing to a sector the bytes that it has cannot tear it.
//!
//! Every choice comes from the seed, every operation goes into [`SimIo::trace`]: equal seeds must give
//! equal traces, or a test is not replayable.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::SimRng;
use crate::env::{BLOCK_BYTES, File, Io, OpenMode, Rng};

/// The unit that a power cut keeps, drops or tears.
pub const SECTOR_BYTES: usize = 512;

/// What a fault waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A write to a file.
    Write,
    /// A sync of a file.
    Sync,
    /// A sync of a directory.
    SyncDir,
    /// Anything that changes the disk: the above, and creating, renaming, removing, resizing.
    Any,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An I/O error, and it did not happen (of a write, some sectors may have).
    NotDone,
    /// An I/O error, although it happened.
    Done,
    /// No space left; it did not happen.
    NoSpace,
    /// The power goes while it is under way. Everything fails until [`SimIo::restart`].
    Crash,
}

/// Lets the `nth` operation of a kind from now on fail; the first is 0.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which operations count.
    pub op: Op,
    /// How many of them succeed before.
    pub nth: u64,
    /// What happens then.
    pub failure: Failure,
}

/// How a file system without `O_DIRECT` says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// It has it.
    #[default]
    Never,
    /// It refuses the flag: direct files are ordinary ones.
    AtOpen,
    /// It accepts the flag, and then refuses every read and write.
    AtUse,
}

/// A simulated disk; clones are handles of the same one.
#[derive(Clone)]
pub struct SimIo {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written and not yet synced.
    dirty: BTreeSet<usize>,
    /// Whether a sync failed: `now` differs from `durable` in sectors that look clean.
    diverged: bool,
}

#[derive(Clone, Debug)]
enum NameOp {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

struct Disk {
    rng: SimRng,
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    names: BTreeMap<PathBuf, u64>,
    names_durable: BTreeMap<PathBuf, u64>,
    names_pending: Vec<NameOp>,
    /// Counts restarts; handles and locks of an earlier life are dead.
    life: u64,
    down: bool,
    locks: BTreeMap<PathBuf, u64>,
    faults: Vec<Fault>,
    capacity_bytes: Option<u64>,
    refuses_direct: Refusal,
    ops: u64,
    trace: u64,
}

impl SimIo {
    /// An empty disk whose accidents come from this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            rng: SimRng::new(seed ^ 0x5ec7_0000_d15c_0000),
            inodes: BTreeMap::new(),
            inode_next: 0,
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            names_pending: Vec::new(),
            life: 0,
            down: false,
            locks: BTreeMap::new(),
            faults: Vec::new(),
            capacity_bytes: None,
            refuses_direct: Refusal::Never,
            ops: 0,
            trace: 0,
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Adds a fault to those that wait.
    pub fn arm(&self, fault: Fault) {
        self.disk.lock().faults.push(fault);
    }

    /// Takes all waiting faults back.
    pub fn disarm(&self) {
        self.disk.lock().faults.clear();
    }

    /// Cuts the power now. Everything fails until [`SimIo::restart`].
    pub fn crash(&self) {
        self.disk.lock().crash();
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.disk.lock().down
    }

    /// Power is back. Handles opened before stay dead; faults are taken back.
    pub fn restart(&self) {
        let mut disk = self.disk.lock();
        disk.down = false;
        disk.next_life();
    }

    /// Ends the process but not the system: its handles and locks die, the page cache lives.
    pub fn kill(&self) {
        self.disk.lock().next_life();
    }

    /// Rots one bit at rest, in the page cache too.
    ///
    /// # Errors
    /// `NotFound` or `UnexpectedEof` when there is no such bit.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let inode = *disk.names.get(path).ok_or(ErrorKind::NotFound)?;
        let inode = disk.inodes.get_mut(&inode).ok_or(ErrorKind::NotFound)?;
        let at = usize::try_from(offset).map_err(|_| ErrorKind::UnexpectedEof)?;
        *inode.now.get_mut(at).ok_or(ErrorKind::UnexpectedEof)? ^= 1 << (bit % 8);
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }

    /// How many bytes all files together may have; `None` = no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity_bytes = bytes;
    }

    /// Makes it a file system without `O_DIRECT`, or one with it.
    pub fn refuse_direct(&self, refusal: Refusal) {
        self.disk.lock().refuses_direct = refusal;
    }

    /// How many operations have changed the disk.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.disk.lock().ops
    }

    /// A hash of every operation so far, in order, with its bytes.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.disk.lock().trace
    }

    /// A hash of all names and bytes, as a reader sees them now.
    #[must_use]
    pub fn contents_hash(&self) -> u64 {
        let disk = self.disk.lock();
        disk.names.iter().fold(0, |hash, (path, inode)| {
            let hash = mix(hash, crc(path.as_os_str().as_encoded_bytes()));
            disk.inodes.get(inode).map_or(hash, |inode| mix(hash, crc(&inode.now)))
        })
    }

    fn alive(&self) -> io::Result<parking_lot::MutexGuard<'_, Disk>> {
        let disk = self.disk.lock();
        if disk.down { Err(power_is_off()) } else { Ok(disk) }
    }
}

impl fmt::Debug for SimIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimIo")
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

fn mix(hash: u64, word: u64) -> u64 {
    SimRng::new(hash.rotate_left(5) ^ word).next_u64()
}

fn crc(bytes: &[u8]) -> u64 {
    u64::from(crc_fast::crc32_iscsi(bytes)) ^ ((bytes.len() as u64) << 32)
}

/// What is to happen to the operation that asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Go,
    FailUndone,
    FailDone,
    Crash,
}

impl Disk {
    /// Counts an operation, writes it into the trace and asks the faults.
    fn enter(&mut self, op: Op, what: u64) -> io::Result<Verdict> {
        if self.down {
            return Err(power_is_off());
        }
        self.ops += 1;
        self.trace = mix(self.trace, what ^ ((op as u64) << 60));
        let mut due = None;
        self.faults.retain_mut(|fault| {
            if fault.op != Op::Any && fault.op != op {
                return true;
            }
            if fault.nth > 0 || due.is_some() {
                fault.nth = fault.nth.saturating_sub(1);
                return true;
            }
            due = Some(fault.failure);
            false
        });
        match due {
            None => Ok(Verdict::Go),
            Some(Failure::NotDone) => Ok(Verdict::FailUndone),
            Some(Failure::Done) => Ok(Verdict::FailDone),
            Some(Failure::NoSpace) => Err(no_space()),
            Some(Failure::Crash) => Ok(Verdict::Crash),
        }
    }

    /// Gives the operation's answer after its effect, or non-effect, is in place.
    fn leave(&mut self, verdict: Verdict) -> io::Result<()> {
        match verdict {
            Verdict::Go => Ok(()),
            Verdict::FailUndone | Verdict::FailDone => Err(io::Error::other("injected I/O error")),
            Verdict::Crash => {
                self.crash();
                Err(power_is_off())
            }
        }
    }

    fn name_op(&mut self, op: NameOp, what: u64) -> io::Result<()> {
        let verdict = self.enter(Op::Any, what)?;
        if verdict != Verdict::FailUndone {
            apply(&mut self.names, &op);
            self.names_pending.push(op);
        }
        self.leave(verdict)
    }

    fn next_life(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.faults.clear();
    }

    fn crash(&mut self) {
        if self.down {
            return;
        }
        self.down = true;
        self.trace = mix(self.trace, 0xdead);
        // Names: half of the time in order, as a journalling file system would, else each for itself.
        let pending = std::mem::take(&mut self.names_pending);
        let in_order = self.rng.one_in(2);
        let kept = self.rng.below(pending.len() as u64 + 1);
        for (number, op) in pending.iter().enumerate() {
            if if in_order { (number as u64) < kept } else { self.rng.one_in(2) } {
                apply(&mut self.names_durable, op);
            }
        }
        self.names = self.names_durable.clone();
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|number, _| named.contains(number));
        for inode in self.inodes.values_mut() {
            inode.crash(&self.rng);
        }
    }

    fn used_bytes(&self) -> u64 {
        // A file that has two names takes its room once.
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        named.iter().filter_map(|inode| self.inodes.get(inode)).map(|i| i.now.len() as u64).sum()
    }

    fn room_for(&self, growth: usize) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if growth > 0 && self.used_bytes() + growth as u64 > capacity => Err(no_space()),
            _ => Ok(()),
        }
    }
}

fn no_space() -> io::Error {
    io::Error::new(ErrorKind::StorageFull, "no space left on the simulated disk")
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, op: &NameOp) {
    match op {
        NameOp::Create(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameOp::Rename(from, to) => {
            // The change before it, which made `from`, may have been lost.
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameOp::Remove(path) => {
            names.remove(path);
        }
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.dirty.extend(offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        }
    }

    fn resize(&mut self, len: usize) {
        let old = self.now.len();
        self.now.resize(len, 0);
        self.dirty.extend(old.min(len) / SECTOR_BYTES..old.max(len).div_ceil(SECTOR_BYTES));
    }

    fn persist(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.now.len());
        if from < to {
            if self.durable.len() < to {
                self.durable.resize(to, 0);
            }
            self.durable[from..to].copy_from_slice(&self.now[from..to]);
        }
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.persist(sector);
        }
        self.durable.resize(self.now.len(), 0);
    }

    fn crash(&mut self, rng: &SimRng) {
        if self.dirty.is_empty() && !self.diverged {
            return;
        }
        for sector in std::mem::take(&mut self.dirty) {
            match rng.below(4) {
                0 | 1 => self.persist(sector),
                2 => {}
                _ => self.tear(sector, rng),
            }
        }
        if self.durable.len() > self.now.len() && rng.one_in(2) {
            self.durable.truncate(self.now.len());
        }
        self.now = self.durable.clone();
        self.diverged = false;
    }

    fn tear(&mut self, sector: usize, rng: &SimRng) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.now.len());
        if from >= to {
            return;
        }
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        let (old, new) = (&mut self.durable[from..to], &self.now[from..to]);
        if old == new {
            return;
        }
        let cut = rng.below((to - from) as u64) as usize;
        match rng.below(3) {
            0 => old[..cut].copy_from_slice(&new[..cut]),
            1 => old[cut..].copy_from_slice(&new[cut..]),
            _ => old.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8),
        }
    }
}

impl Io for SimIo {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        // Directories are there; what may be lost is the names in them.
        self.alive().map(drop)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.alive()?;
        let inside = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut disk = self.alive()?;
        let inode = match disk.names.get(path) {
            Some(inode) => *inode,
            None if matches!(mode, OpenMode::Read | OpenMode::ReadDirect) => {
                return Err(ErrorKind::NotFound.into());
            }
            None => {
                let inode = disk.inode_next;
                disk.inode_next += 1;
                disk.inodes.insert(inode, Inode::default());
                let what = crc(path.as_os_str().as_encoded_bytes());
                disk.name_op(NameOp::Create(path.to_path_buf(), inode), what)?;
                inode
            }
        };
        let direct =
            matches!(mode, OpenMode::Direct | OpenMode::ReadDirect) && disk.refuses_direct != Refusal::AtOpen;
        Ok(Arc::new(SimFile { io: self.clone(), inode, life: disk.life, direct }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.alive()?;
        if !disk.names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        let what =
            crc(from.as_os_str().as_encoded_bytes()) ^ crc(to.as_os_str().as_encoded_bytes()).rotate_left(9);
        disk.name_op(NameOp::Rename(from.to_path_buf(), to.to_path_buf()), what)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.alive()?;
        let inode = *disk.names.get(from).ok_or(ErrorKind::NotFound)?;
        if disk.names.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let what =
            crc(from.as_os_str().as_encoded_bytes()) ^ crc(to.as_os_str().as_encoded_bytes()).rotate_left(17);
        // As for a file that is created: the name lasts or not, whatever becomes of the other one.
        disk.name_op(NameOp::Create(to.to_path_buf(), inode), what)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.alive()?;
        if !disk.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        disk.name_op(NameOp::Remove(path.to_path_buf()), crc(path.as_os_str().as_encoded_bytes()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.alive()?;
        let verdict = disk.enter(Op::SyncDir, crc(dir.as_os_str().as_encoded_bytes()))?;
        if matches!(verdict, Verdict::Go | Verdict::FailDone) {
            let disk = &mut *disk;
            let durable = &mut disk.names_durable;
            disk.names_pending.retain(|op| {
                let (NameOp::Create(path, _) | NameOp::Rename(path, _) | NameOp::Remove(path)) = op;
                let here = path.parent() == Some(dir);
                if here {
                    apply(durable, op);
                }
                !here
            });
        }
        disk.leave(verdict)
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        let disk = self.alive()?;
        Ok(disk.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used_bytes())))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut disk = self.alive()?;
        if disk.locks.contains_key(path) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let life = disk.life;
        disk.locks.insert(path.to_path_buf(), life);
        Ok(Box::new(SimLock { io: self.clone(), path: path.to_path_buf(), life }))
    }
}

struct SimLock {
    io: SimIo,
    path: PathBuf,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.io.disk.lock();
        if disk.locks.get(&self.path) == Some(&self.life) {
            disk.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    io: SimIo,
    inode: u64,
    life: u64,
    direct: bool,
}

impl SimFile {
    fn disk(&self) -> io::Result<parking_lot::MutexGuard<'_, Disk>> {
        let disk = self.io.alive()?;
        if disk.life == self.life {
            Ok(disk)
        } else {
            Err(io::Error::other("a file handle of an earlier life"))
        }
    }

    /// As [`Self::disk`], to read or write these bytes.
    ///
    /// # Panics
    /// Where a real disk refuses direct access, and callers would go on through the page cache unnoticed.
    fn disk_to_use(&self, bytes: &[u8], offset: u64) -> io::Result<parking_lot::MutexGuard<'_, Disk>> {
        let is_aligned = bytes.as_ptr().align_offset(BLOCK_BYTES) == 0
            && bytes.len().is_multiple_of(BLOCK_BYTES)
            && offset.is_multiple_of(BLOCK_BYTES as u64);
        let (at, len) = (bytes.as_ptr(), bytes.len());
        assert!(!self.direct || is_aligned, "direct access to {len} bytes at {at:?}, from {offset} on");
        let disk = self.disk()?;
        if self.direct && disk.refuses_direct == Refusal::AtUse {
            return Err(ErrorKind::InvalidInput.into());
        }
        Ok(disk)
    }
}

fn in_memory(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput.into())
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let disk = self.disk_to_use(buffer, offset)?;
        let inode = disk.inodes.get(&self.inode).ok_or(ErrorKind::NotFound)?;
        let from = in_memory(offset)?;
        let bytes = from.checked_add(buffer.len()).and_then(|to| inode.now.get(from..to));
        buffer.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = in_memory(offset)?;
        let end = at.checked_add(bytes.len()).ok_or(ErrorKind::InvalidInput)?;
        let mut disk = self.disk_to_use(bytes, offset)?;
        let len = disk.inodes.get(&self.inode).ok_or(ErrorKind::NotFound)?.now.len();
        disk.room_for(end.saturating_sub(len))?;
        let verdict = disk.enter(Op::Write, self.inode ^ offset << 8 ^ crc(bytes))?;
        let (disk_rng, write_back) = (disk.rng.fork(), disk.rng.one_in(4));
        let inode = disk.inodes.get_mut(&self.inode).ok_or(ErrorKind::NotFound)?;
        if write_back && let Some(sector) = inode.dirty.first().copied() {
            // The kernel writes dirty pages back when it likes, older versions included.
            inode.persist(sector);
        }
        match verdict {
            Verdict::FailUndone => {
                // Some of its sectors may have arrived all the same.
                let mut part = bytes.chunks(SECTOR_BYTES).enumerate();
                part.by_ref().filter(|_| disk_rng.one_in(4)).for_each(|(n, sector)| {
                    inode.write(sector, at + n * SECTOR_BYTES);
                });
            }
            _ => inode.write(bytes, at),
        }
        if self.direct && verdict != Verdict::Crash {
            inode.sync();
        }
        disk.leave(verdict)
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk()?;
        let verdict = disk.enter(Op::Sync, self.inode)?;
        let rng = disk.rng.fork();
        let inode = disk.inodes.get_mut(&self.inode).ok_or(ErrorKind::NotFound)?;
        match verdict {
            Verdict::Go | Verdict::FailDone => inode.sync(),
            Verdict::FailUndone => {
                // Linux marks pages clean whose write-back failed: the next sync finds nothing to do.
                for sector in std::mem::take(&mut inode.dirty) {
                    if rng.one_in(4) {
                        inode.persist(sector);
                    }
                }
                inode.diverged = true;
            }
            Verdict::Crash => {}
        }
        disk.leave(verdict)
    }

    fn len(&self) -> io::Result<u64> {
        let disk = self.disk()?;
        Ok(disk.inodes.get(&self.inode).ok_or(ErrorKind::NotFound)?.now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let size = in_memory(len)?;
        let mut disk = self.disk()?;
        let old = disk.inodes.get(&self.inode).ok_or(ErrorKind::NotFound)?.now.len();
        disk.room_for(size.saturating_sub(old))?;
        let verdict = disk.enter(Op::Any, self.inode ^ len << 8)?;
        if verdict != Verdict::FailUndone {
            disk.inodes.get_mut(&self.inode).ok_or(ErrorKind::NotFound)?.resize(size);
        }
        disk.leave(verdict)
    }

    fn writes_through(&self) -> bool {
        self.direct
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::AlignedBuffer;

    fn read(io: &SimIo, path: &str, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        io.open(Path::new(path), OpenMode::Read).unwrap().read_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn synced_bytes_under_a_synced_name_survive_and_nothing_else_must() {
        let mut lost = 0;
        for seed in 0..64 {
            let io = SimIo::new(seed);
            let file = io.open(Path::new("/d/kept"), OpenMode::Buffered).unwrap();
            file.write_at(&[7; 2048], 0).unwrap();
            file.sync().unwrap();
            io.sync_dir(Path::new("/d")).unwrap();
            let new = io.open(Path::new("/d/new"), OpenMode::Direct).unwrap();
            new.write_at(AlignedBuffer::zeros(BLOCK_BYTES).bytes(), 0).unwrap();
            file.write_at(&[8; 512], 512).unwrap();
            io.crash();
            assert!(io.list(Path::new("/d")).is_err() && file.sync().is_err());
            io.restart();
            let seen = read(&io, "/d/kept", 2048);
            assert!(seen[..512] == [7; 512] && seen[1024..] == [7; 1024]);
            lost += u32::from(seen[512..1024] != [8; 512]);
            lost += u32::from(io.list(Path::new("/d")).unwrap() != ["kept", "new"]);
        }
        assert!((40..90).contains(&lost), "{lost} of 128 accidents");
    }

    #[test]
    fn a_failed_sync_looks_clean_and_is_lost() {
        let io = SimIo::new(1);
        let file = io.open(Path::new("/d/f"), OpenMode::Buffered).unwrap();
        file.write_at(&[0; 65_536], 0).unwrap();
        file.sync().unwrap();
        io.sync_dir(Path::new("/d")).unwrap();
        file.write_at(&[1; 65_536], 0).unwrap();
        io.arm(Fault { op: Op::Sync, nth: 0, failure: Failure::NotDone });
        file.sync().unwrap_err();
        file.sync().unwrap();
        assert_eq!(read(&io, "/d/f", 65_536), [1; 65_536]);
        io.crash();
        io.restart();
        assert_ne!(read(&io, "/d/f", 65_536), [1; 65_536]);
    }

    #[test]
    fn faults_hit_the_operation_they_count_to() {
        let io = SimIo::new(2);
        let file = io.open(Path::new("/d/f"), OpenMode::Buffered).unwrap();
        io.arm(Fault { op: Op::Write, nth: 1, failure: Failure::Done });
        file.write_at(b"a", 0).unwrap();
        file.write_at(b"b", 0).unwrap_err();
        assert_eq!(read(&io, "/d/f", 1), b"b", "failed, yet it happened");
        io.set_capacity(Some(10));
        assert_eq!(file.write_at(&[0; 11], 0).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(io.free_bytes(Path::new("/d")).unwrap(), 9);
    }

    #[test]
    fn equal_seeds_give_equal_worlds() {
        let run = |seed| {
            let io = SimIo::new(seed);
            let file = io.open(Path::new("/d/f"), OpenMode::Buffered).unwrap();
            io.sync_dir(Path::new("/d")).unwrap();
            (0..40).for_each(|n| file.write_at(&[n; 700], u64::from(n) * 300).unwrap());
            io.crash();
            io.restart();
            (io.trace(), io.contents_hash(), io.ops())
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}
