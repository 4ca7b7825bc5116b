//! A disk that a careless writer would leave: some promises are not asked of the real one. What it hides, a harness that
//! lets the power go has to find.

use std::{io, path::Path, sync::Arc};

use scribe_ledger::{
    env::{File, Io, OpenMode},
    sim::SimIo,
};

/// See the head of this file.
#[derive(Debug)]
pub struct Careless {
    pub sim: SimIo,
    pub syncs_files: bool,
    pub syncs_names: bool,
}

#[derive(Debug)]
struct NeverSynced(Arc<dyn File>);

impl Io for Careless {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.sim.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.sim.list(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.sim.open(path, mode)?;
        Ok(if self.syncs_files { file } else { Arc::new(NeverSynced(file)) })
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.sim.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.sim.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.sim.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.syncs_names { self.sim.sync_dir(dir) } else { Ok(()) }
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.sim.free_bytes(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.sim.lock(path)
    }
}

impl File for NeverSynced {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}
