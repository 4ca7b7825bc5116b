//! The log's files by name: which are ours, what a name says, and the small rules that all of `wal` shares.
//!
//! ```text
//! wal-00000000000000000007-5ac1e0f29bd04c7e.log   the seventh file, with the generation of its groups
//! spare-9e3779b97f4a7c15.log                      a filled file that waits for a number
//! ```
//!
//! It does not own how files are made ([`pool`](super::pool)) nor when they are taken and freed
//! ([`log_files`](super::log_files)).

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::env::{BLOCK_BYTES, Env, File, OpenMode};

/// The directory of a log, and how its files are opened to be written.
#[derive(Clone, Debug)]
pub(super) struct LogDir {
    pub(super) env: Env,
    pub(super) path: PathBuf,
    pub(super) mode: OpenMode,
}

impl LogDir {
    /// Opens a file to write to it.
    pub(super) fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.env.io.open(path, self.mode)
    }

    /// A name for the next spare.
    pub(super) fn spare_path(&self) -> PathBuf {
        self.path.join(format!("spare-{:016x}.log", self.env.rng.next_u64()))
    }
}

/// A file that belongs to the log.
#[derive(Clone, Debug)]
pub(super) struct LogFile {
    pub(super) number: u32,
    pub(super) generation: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// The highest index among its entries, cut ones included.
    pub(super) last_index: Option<u64>,
}

/// The name of a log file.
pub(super) fn file_name(number: u32, generation: u64) -> String {
    format!("wal-{number:020}-{generation:016x}.log")
}

/// Number and generation from a log file's name.
pub(super) fn parse_name(name: &str) -> Option<(u32, u64)> {
    let (number, generation) = name.strip_prefix("wal-")?.strip_suffix(".log")?.split_once('-')?;
    let number = number.parse().ok().filter(|number| *number < u32::MAX)?;
    let generation = u64::from_str_radix(generation, 16).ok()?;
    // One spelling only: two names must not mean the same file.
    (file_name(number, generation) == name).then_some((number, generation))
}

pub(super) fn is_spare(name: &str) -> bool {
    name.starts_with("spare-") && name.ends_with(".log")
}

/// Whether an error says that there is no room, which goes away without anything being lost.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Rounds up to whole blocks.
pub(super) fn whole_blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_not_taken_for_ours() {
        let name = file_name(7, 0x5ac1_e0f2_9bd0_4c7e);
        assert_eq!(name, "wal-00000000000000000007-5ac1e0f29bd04c7e.log");
        assert_eq!(parse_name(&name), Some((7, 0x5ac1_e0f2_9bd0_4c7e)));
        for other in [
            "wal-7-5ac1.log",
            "wal-.log",
            "LOCK",
            "spare-00.log",
            "wal-00000000000000000007-+ac1e0f29bd04c7e.lo",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
        assert!(is_spare("spare-9e3779b97f4a7c15.log"));
    }
}
