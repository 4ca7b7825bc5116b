//! The index's directory: what in it is the index's, and how it is begun and thrown away.
//!
//! ```text
//!  <index>/FORMAT      "scribe index 1\n", written before anything else and never changed
//!  <index>/tables/     fjall's
//!  <index>/removed/    fjall's, of an index that has been given up; on its way out
//! ```
//!
//! Only these names are ever removed, and only where FORMAT says whose they are.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use super::error::{IndexError, Result};

const FORMAT: &[u8] = b"scribe index 1\n";

/// The directory of an index.
#[derive(Clone, Debug)]
pub(super) struct Home {
    path: PathBuf,
}

impl Home {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the tables are.
    pub(super) fn tables(&self) -> PathBuf {
        self.path.join("tables")
    }

    fn format(&self) -> PathBuf {
        self.path.join("FORMAT")
    }

    fn removed(&self) -> PathBuf {
        self.path.join("removed")
    }

    /// Makes sure that the directory is an index's, beginning one where there is nothing.
    ///
    /// # Errors
    /// `Damaged` when something else is there; `Refused` by the system.
    pub(super) fn enter(&self) -> Result<()> {
        self.io("creating the directory", fs::create_dir_all(&self.path))?;
        match fs::read(self.format()) {
            Ok(format) if format == FORMAT => self.remove(&self.removed()),
            Ok(_) => Err(IndexError::damaged(&self.path, "FORMAT is not this program's")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut entries = self.io("listing", fs::read_dir(&self.path))?;
                if entries.next().is_some() {
                    return Err(IndexError::damaged(&self.path, "it has no FORMAT, and is not empty"));
                }
                self.begin()
            }
            Err(error) => Err(IndexError::io(&self.path, "reading FORMAT", &error)),
        }
    }

    fn begin(&self) -> Result<()> {
        let begin = || {
            let mut format = File::create(self.format())?;
            format.write_all(FORMAT)?;
            format.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        self.io("writing FORMAT", begin())
    }

    /// Gives up what is there, whatever state it is in, and begins an empty index.
    ///
    /// # Errors
    /// `Refused` when the tables are in use, or were never an index's.
    pub(super) fn give_up(&self) -> Result<()> {
        self.io("creating the directory", fs::create_dir_all(&self.path))?;
        if self.tables().exists() {
            if !self.format().exists() {
                return Err(IndexError::refused(&self.path, "its tables are not an index's: move them away"));
            }
            self.check_not_in_use()?;
            self.remove(&self.removed())?;
            self.io("renaming the tables", fs::rename(self.tables(), self.removed()))?;
            // From here on the index is empty, whatever a crash leaves of the old tables.
        }
        self.begin()?;
        self.remove(&self.removed())
    }

    /// fjall holds a lock on this file while it has the tables open.
    pub(super) fn check_not_in_use(&self) -> Result<()> {
        let Ok(lock) = File::open(self.tables().join("lock")) else { return Ok(()) };
        match lock.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                Err(IndexError::refused(&self.path, "another handle or process has it open"))
            }
            _ => Ok(()),
        }
    }

    fn remove(&self, dir: &Path) -> Result<()> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => self.io("removing old tables", result),
        }
    }

    fn io<T>(&self, doing: &str, result: std::io::Result<T>) -> Result<T> {
        result.map_err(|error| IndexError::io(&self.path, doing, &error))
    }
}
