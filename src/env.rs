//! The four things a node asks of the world outside: disk, time, chance and peers.
//!
//! Everything that could make two runs of the same code differ comes in through these traits. The real
//! ones are in [`real`]; the simulated ones, in `crate::sim`, let a failing seed be played again byte
//! for byte. Monotonic time and timers are tokio's, whose paused clock does the same for them.

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::types::{NodeId, TimestampMs};

pub mod real;

/// The seams, handed down from `main` or from a simulation.
#[derive(Clone, Debug)]
pub struct Env {
    /// The disk.
    pub io: Arc<dyn Io>,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// Other members.
    pub network: Arc<dyn Network>,
}

/// Size and alignment of every direct write: the unit in which a disk is assumed to be able to tear.
pub const BLOCK_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing or new file, for reading and writing through the page cache.
    Buffered,
    /// As `Buffered`, but every write is on disk when it returns, past the page cache where the file
    /// system can do that. Offset, length and memory address of a write are multiples of
    /// [`BLOCK_BYTES`].
    Direct,
}

/// A file system, as far as the ledger uses one. All calls block.
///
/// As on any POSIX system, a created, renamed or removed name is durable only after
/// [`Io::sync_dir`] of its directory, and written bytes only after [`File::sync`].
pub trait Io: Debug + Send + Sync {
    /// Creates a directory and its parents.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory, sorted; empty if it does not exist.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file; the modes that write create it when it is missing.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Renames a file within one directory, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that an unprivileged process can still write to the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Where the operating system has this file, for a writer that opens it by itself; `None` when only this
    /// seam has it.
    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        let _ = path;
        None
    }
    /// Takes the lock of a data directory until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` when another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// An open file. Positions are explicit, so that readers need no lock.
pub trait File: Debug + Send + Sync {
    /// Fills `buffer` from `offset`; `UnexpectedEof` when the file is shorter.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// As [`File::read_at`], if that needs no wait for the disk; whether it did. `buffer` holds anything otherwise.
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let _ = (buffer, offset);
        Ok(false)
    }
    /// Writes all of `bytes` at `offset`, growing the file where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when everything written before is on disk. After an error the file must not be trusted:
    /// the kernel may have dropped the dirty pages.
    fn sync(&self) -> io::Result<()>;
    /// Size in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or grows (with zeros) the file to this size.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Whether a write is on disk when it returns, so that [`File::sync`] has nothing left to do.
    ///
    /// False for [`OpenMode::Direct`] where the file system refused it: then only `sync` is a promise.
    fn writes_through(&self) -> bool {
        false
    }
}

/// The wall clock.
pub trait Clock: Debug + Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> TimestampMs;
}

/// A source of randomness.
pub trait Rng: Debug + Send + Sync {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Answers a request from another member.
pub type PeerHandler = Arc<dyn Fn(Bytes) -> BoxFuture<'static, io::Result<Bytes>> + Send + Sync>;

/// The way to other members: one request, one reply, both opaque bytes here (their meaning is
/// `crate::raft`'s).
pub trait Network: Debug + Send + Sync {
    /// From now on requests to this node go to `handler`.
    fn serve(&self, handler: PeerHandler);

    /// Sends `request` to `peer` and waits for its reply.
    ///
    /// # Errors
    /// `NotConnected` when the peer cannot be reached; any other failure, after which it may or may not
    /// have seen the request.
    fn call(&self, peer: NodeId, address: &str, request: Bytes) -> BoxFuture<'static, io::Result<Bytes>>;
}
