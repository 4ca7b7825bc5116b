//! A disk that becomes full, as far as a node minds, and is emptied again.

use std::{fs::File, path::Path};

/// A directory, and a step between two levels of free space: what nodes write stays far below it, and what other
/// programs do on the same disk meanwhile, too.
pub struct Disk {
    pub home: tempfile::TempDir,
    pub step_bytes: u64,
}

impl Disk {
    /// One in memory, where there is one: nobody else writes to it.
    pub fn find() -> Self {
        let (memory, step_bytes) = (Path::new("/dev/shm"), 48 << 20);
        if memory.is_dir() && free_bytes(memory) > step_bytes * 8 {
            return Self { home: tempfile::tempdir_in(memory).unwrap(), step_bytes };
        }
        Self { home: tempfile::tempdir().unwrap(), step_bytes: 1 << 30 }
    }
}

pub fn free_bytes(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Takes so much of the disk, until it is dropped.
pub struct Filling<'a>(&'a Path);

impl<'a> Filling<'a> {
    pub fn of(path: &'a Path, bytes: u64) -> Self {
        let file = File::create(path).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        std::fs::remove_file(self.0).unwrap();
    }
}
