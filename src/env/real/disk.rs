//! Files of the operating system.
//!
//! `Direct` files are opened with `O_DIRECT | O_DSYNC`: a write returns when its bytes are on disk, past
//! the page cache, and `sync` has nothing to do. Where the file system refuses that, and on systems
//! without it, they are ordinary files whose `sync` really syncs; [`File::writes_through`] tells which.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::super::{File, Io, OpenMode, refuses_direct};

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealIo;

impl RealIo {
    /// The file systems of this machine.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// Whether a directory is on a file system that is gone with the machine's power, as `/dev/shm` is. Known on
/// Linux only.
#[must_use]
pub fn is_in_memory(dir: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        // linux/magic.h. The field's type differs from machine to machine.
        const TMPFS_MAGIC: u32 = 0x0102_1994;
        const RAMFS_MAGIC: u32 = 0x8584_58f6;
        rustix::fs::statfs(dir).is_ok_and(|stat| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&(stat.f_type as u32)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = dir;
        false
    }
}

fn open_direct(path: &Path) -> io::Result<RealFile> {
    match open_past_cache(path) {
        Ok(file) => Ok(RealFile { file, writes_through: true }),
        Err(error) if refuses_direct(&error) => {
            Ok(RealFile { file: read_write(path)?, writes_through: false })
        }
        Err(error) => Err(error),
    }
}

fn read_write(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

#[cfg(target_os = "linux")]
fn open_past_cache(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)
}

#[cfg(target_os = "linux")]
fn read_past_cache(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_past_cache(_: &Path) -> io::Result<fs::File> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn read_past_cache(_: &Path) -> io::Result<fs::File> {
    Err(ErrorKind::Unsupported.into())
}

fn read_direct(path: &Path) -> io::Result<fs::File> {
    match read_past_cache(path) {
        Err(error) if refuses_direct(&error) => read_only(path),
        opened => opened,
    }
}

/// Opens a file. A directory can be opened as well, and then gives an error without a name at the first read.
fn read_only(path: &Path) -> io::Result<fs::File> {
    let file = fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::new(ErrorKind::IsADirectory, "it is a directory"));
    }
    Ok(file)
}

impl Io for RealIo {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        // A directory whose own name is lost in a crash takes its files with it, so each new one is
        // made durable in its parent.
        let mut missing: Vec<PathBuf> = Vec::new();
        let mut at = dir;
        while !at.as_os_str().is_empty() && !at.exists() {
            missing.push(at.to_path_buf());
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
        fs::create_dir_all(dir)?;
        for new in missing.iter().rev() {
            let parent = new.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            self.sync_dir(parent)?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn is_file(&self, path: &Path) -> bool {
        fs::metadata(path).map_or(true, |it| it.is_file())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(match mode {
            OpenMode::Read => RealFile { file: read_only(path)?, writes_through: false },
            OpenMode::ReadDirect => RealFile { file: read_direct(path)?, writes_through: false },
            OpenMode::Buffered => RealFile { file: read_write(path)?, writes_through: false },
            OpenMode::Direct => open_direct(path)?,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        #[cfg(unix)]
        fs::File::open(dir)?.sync_all()?;
        // Elsewhere directories cannot be opened, and their entries are the file system's own care.
        let _ = dir;
        Ok(())
    }

    #[cfg(unix)]
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    #[cfg(not(unix))]
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        Some(path.to_path_buf())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = read_write(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
                ErrorKind::WouldBlock,
                format!("{} is held by another process", path.display()),
            )),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    writes_through: bool,
}

impl File for RealFile {
    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        // O_DIRECT wants aligned reads too; the log opens a second, plain handle for reading.
        self.file.read_exact_at(buffer, offset)
    }

    #[cfg(target_os = "linux")]
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        use rustix::io::{ReadWriteFlags, preadv2};
        let wanted = buffer.len();
        let read = preadv2(&self.file, &mut [io::IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT);
        // What it cannot give at once, and whatever is wrong, is for the call that waits.
        Ok(read.is_ok_and(|count| count == wanted))
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.file.write_all_at(bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        use std::os::windows::fs::FileExt;
        while !buffer.is_empty() {
            let count = self.file.seek_read(buffer, offset)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            buffer = &mut buffer[count..];
            offset += count as u64;
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        use std::os::windows::fs::FileExt;
        while !bytes.is_empty() {
            let count = self.file.seek_write(bytes, offset)?;
            bytes = &bytes[count..];
            offset += count as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.writes_through { Ok(()) } else { self.file.sync_data() }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn writes_through(&self) -> bool {
        self.writes_through
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_what_is_written_and_names_follow() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b");
        let io = RealIo::new();
        assert!(io.list(&dir).unwrap().is_empty());
        io.create_dir_all(&dir).unwrap();
        let file = io.open(&dir.join("one"), OpenMode::Buffered).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(b"ledger", 3).unwrap();
        file.sync().unwrap();
        let mut seen = [9; 9];
        file.read_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"\0\0\0ledger");
        assert_eq!(file.read_at(&mut seen, 1).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        io.rename(&dir.join("one"), &dir.join("two")).unwrap();
        io.sync_dir(&dir).unwrap();
        assert_eq!(io.list(&dir).unwrap(), ["two"]);
        io.link(&dir.join("two"), &dir.join("three")).unwrap();
        let taken = io.link(&dir.join("two"), &dir.join("three")).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        io.remove(&dir.join("two")).unwrap();
        assert_eq!(io.open(&dir.join("three"), OpenMode::Read).unwrap().len().unwrap(), 9);
        assert!(io.free_bytes(&dir).unwrap() > 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_told_from_disks() {
        assert!(!is_in_memory(Path::new("/proc")) && !is_in_memory(Path::new("/no/such/directory")));
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        if mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")) {
            assert!(is_in_memory(Path::new("/dev/shm")));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pipes_and_directories_are_no_files() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let io = RealIo::new();
        assert!(!io.is_file(&path) && !io.is_file(home.path()));
        assert!(io.is_file(&home.path().join("nothing")), "that is for whoever opens it to say");
        io.open(&home.path().join("file"), OpenMode::Buffered).unwrap();
        assert!(io.is_file(&home.path().join("file")));
    }

    #[test]
    fn a_lock_is_held_until_its_guard_goes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let io = RealIo::new();
        let guard = io.lock(&path).unwrap();
        assert_eq!(io.lock(&path).err().unwrap().kind(), ErrorKind::WouldBlock);
        drop(guard);
        io.lock(&path).unwrap();
    }
}
