//! How far the ledger had come, kept apart from the files that hold it.
//!
//! ```text
//! data_dir/proven     "scribe proven 1\n", then size, root (hex), the newest entry of the log that was on disk for good
//!                     ("log 17"; none of a build that did not say), and BLAKE3 of the lines before (hex), a line each
//! ```
//!
//! What is proven is durable, so a start that finds less has lost files: the end of a log, which no other file
//! names, or all of it. It is written now and then and at a stop, and it is only a lower bound: losing it loses
//! nothing else. It does not own what follows from it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    env::{Io, OpenMode},
    error::{Error, Result},
    proof::Hash,
    types::{LogIndex, Seq},
    wal::Wal,
};

const FILE: &str = "proven";

const HEADER: &str = "scribe proven 1\n";

const LOG: &str = "log ";

/// Most bytes that are read of the file.
const FILE_BYTES_MAX: u64 = 1 << 10;

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witnessed {
    /// Size of the tree.
    pub size: Seq,
    /// Its root.
    pub root: Hash,
    /// An entry that the log held, or had given up: never less is there.
    pub log: Option<LogIndex>,
}

impl Witnessed {
    /// What the file of a data directory says; none if it was never written, or is damaged.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io).
    pub fn read(io: &dyn Io, data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join(FILE);
        let reading = |e| Error::io(format!("reading {}", path.display()), &e);
        if !io.list(data_dir).map_err(reading)?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let file = io.open(&path, OpenMode::Read).map_err(reading)?;
        let mut bytes = vec![0; file.len().map_err(reading)?.min(FILE_BYTES_MAX) as usize];
        file.read_at(&mut bytes, 0).map_err(reading)?;
        let witnessed = Self::decode(&bytes);
        if witnessed.is_none() {
            // A crash may leave it so where names and contents are not kept in order.
            tracing::warn!(path = %path.display(), "the file is damaged: that nothing is missing cannot be told this time");
        }
        Ok(witnessed)
    }

    fn encode(&self) -> Vec<u8> {
        let Self { size, root, log } = self;
        let log = log.map(|log| format!("{LOG}{log}\n")).unwrap_or_default();
        let text = format!("{HEADER}{size}\n{root}\n{log}");
        format!("{text}{}\n", blake3::hash(text.as_bytes()).to_hex()).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.strip_prefix(HEADER)?.lines();
        let (size, root) = (Seq(lines.next()?.parse().ok()?), lines.next()?.parse().ok()?);
        let log = lines.next()?.strip_prefix(LOG).map(|log| log.parse().map(LogIndex)).transpose().ok()?;
        let witnessed = Self { size, root, log };
        (witnessed.encode() == bytes).then_some(witnessed)
    }
}

/// Who writes it.
#[derive(Clone, Debug)]
pub struct Witness {
    io: Arc<dyn Io>,
    data_dir: PathBuf,
    wal: Wal,
}

impl Witness {
    /// The witness of a data directory and the log in it.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, data_dir: PathBuf, wal: Wal) -> Self {
        Self { io, data_dir, wal }
    }

    /// Writes size and root of the tree, and how far the log has come.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io), [`Code::DiskFull`](crate::error::Code::DiskFull): what was there before
    /// is still there.
    pub fn write(&self, size: Seq, root: &Hash) -> Result<()> {
        let (path, draft) = (self.data_dir.join(FILE), self.data_dir.join("proven.tmp"));
        let witnessed = Witnessed { size, root: *root, log: self.wal.settled() };
        let write = || {
            let file = self.io.open(&draft, OpenMode::Buffered)?;
            file.set_len(0)?;
            file.write_at(&witnessed.encode(), 0)?;
            file.sync()?;
            self.io.rename(&draft, &path)
        };
        // Its name need not be durable: an older one says less, and nothing wrong.
        write().map_err(|e| Error::io(format!("writing {}", path.display()), &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::WalConfig,
        sim::{SimIo, sim_env},
        types::LogId,
        wal::{Driver, LogEntry, WalOptions},
    };

    #[test]
    fn it_reads_back_and_any_flip_is_damage() {
        let (env, data_dir) = (sim_env(&SimIo::new(1), 1), Path::new("/data"));
        let options = WalOptions::new(WalConfig::default(), Driver::Step);
        let wal = Wal::open(&env, &data_dir.join("wal"), options).unwrap();
        let witness = Witness::new(env.io.clone(), data_dir.to_path_buf(), wal.clone());
        let read = || Witnessed::read(&*env.io, data_dir).unwrap();
        let root = Hash([9; 32]);
        assert_eq!(read(), None);
        witness.write(Seq(7), &root).unwrap();
        assert_eq!(read(), Some(Witnessed { size: Seq(7), root, log: None }));
        let id = |index| LogId { term: 1, index: LogIndex(index) };
        let entries = (0..3).map(|index| LogEntry { id: id(index), payload: Default::default() });
        wal.append(entries.collect(), Box::new(|_| ())).unwrap();
        wal.save_committed(id(1)).unwrap();
        witness.write(Seq(8), &root).unwrap();
        assert_eq!(read().unwrap().log, None, "nothing of it is on disk");
        assert!(wal.step());
        witness.write(Seq(8), &root).unwrap();
        assert_eq!(read(), Some(Witnessed { size: Seq(8), root, log: Some(LogIndex(1)) }));

        for log in [None, Some(LogIndex(1))] {
            let bytes = Witnessed { size: Seq(7), root, log }.encode();
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                assert_eq!(Witnessed::decode(&flipped), None, "byte {at}");
                assert_eq!(Witnessed::decode(&bytes[..at]), None);
            }
        }
    }
}
