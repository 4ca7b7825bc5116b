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

mod aligned;
mod appender;
mod read_ahead;
pub mod real;

pub use self::{aligned::AlignedBuffer, appender::Appender, read_ahead::ReadAhead};

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

/// Whether a file system says by this error that it takes no direct writes: some do when a file is opened, some at the
/// first write.
#[must_use]
pub fn refuses_direct(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// As `Read`, past the page cache where the file system can do that: what is read comes from the disk, and displaces
    /// nothing. Offset, length and memory address of a read are multiples of [`BLOCK_BYTES`].
    ReadDirect,
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
    /// Whether a name is a regular file's, or one of nothing: whoever opens a pipe waits until somebody writes to it.
    fn is_file(&self, path: &Path) -> bool {
        let _ = path;
        true
    }
    /// Opens a file; the modes that write create it when it is missing.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Renames a file within one directory, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name, on the same file system; `AlreadyExists` when something has that name already,
    /// which keeps it.
    ///
    /// # Errors
    /// `Unsupported` where files have one name only.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }
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

/// What a request between members is about. Each lane has its own handler and its own way there, so that a heartbeat
/// never waits behind a segment; within a lane requests of one member to another arrive in the order they were
/// sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Votes, heartbeats, read barriers: small, and late is as bad as lost.
    Urgent = 0,
    /// Log entries from the leader, many on their way at once.
    Append = 1,
    /// Batches that another member's clients have sent, for the leader to propose.
    Propose = 2,
    /// Who is there, and who belongs to the group.
    Control = 3,
    /// Parts of sealed segments.
    Fetch = 4,
}

impl Lane {
    /// All of them, by number.
    pub const ALL: [Self; 5] = [Self::Urgent, Self::Append, Self::Propose, Self::Control, Self::Fetch];
}

/// Whoever answers at the address: for [`Network::call`], before it is known who that is.
pub const ANYBODY: NodeId = 0;

/// Answers a request of the member whose id is given. Handlers of a lane are called in the order requests
/// arrive, and each future is polled for the first time in that order.
pub type PeerHandler = Arc<dyn Fn(NodeId, Bytes) -> BoxFuture<'static, io::Result<Bytes>> + Send + Sync>;

/// What has gone over all connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that came to be, both ways.
    pub connects: u64,
    /// Those of them that took the place of one which this node had dialed and lost.
    pub reconnects: u64,
    /// Connections that were refused, here or there, and strangers whom others have pushed out.
    pub refused: u64,
    /// Frames written.
    pub frames_sent: u64,
    /// Frames read.
    pub frames_received: u64,
    /// Bytes written, with headers.
    pub bytes_sent: u64,
    /// Bytes read, with headers.
    pub bytes_received: u64,
}

/// The way to other members: one request, one reply, both opaque bytes here (their meaning is that of whoever
/// serves the lane).
pub trait Network: Debug + Send + Sync {
    /// From now on requests to this node on `lane` go to `handler`.
    fn serve(&self, lane: Lane, handler: PeerHandler);

    /// Sends `request` to `peer`, or to [`ANYBODY`] at the address, and waits for its reply.
    ///
    /// The request is on its way, behind those sent before it on the lane, as soon as this returns: the future only
    /// waits. Dropping it gives the reply up, not the request.
    ///
    /// # Errors
    /// `NotConnected` when the peer provably has not seen the request; any other failure, after which it
    /// may or may not have.
    fn call(
        &self,
        peer: NodeId,
        address: &str,
        lane: Lane,
        request: Bytes,
    ) -> BoxFuture<'static, io::Result<Bytes>>;

    /// The feature level that `peer` has said it understands; none while it is not connected.
    fn feature_level(&self, peer: NodeId) -> Option<u32> {
        let _ = peer;
        None
    }

    /// Why `peer` is not talked with, here or there, since it was last connected.
    fn refusal(&self, peer: NodeId) -> Option<String> {
        let _ = peer;
        None
    }

    /// Why a member has refused this node for good: it was removed, or its id is another's.
    fn expulsion(&self) -> Option<String> {
        None
    }

    /// What has gone over its connections; nothing where there are none.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}
