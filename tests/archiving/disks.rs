//! The disks of a member: its own, and another one where the archive is.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use scribe_ledger::{
    env::{Io, OpenMode},
    sim::SimIo,
};

use crate::way::{Call, Way};

pub const ARCHIVE: &str = "/archive";

/// What may happen to the way between a member and the archive.
#[derive(Debug, Default)]
pub struct Route {
    /// Nothing gets through.
    pub is_cut: AtomicBool,
    /// The member's power goes when it has changed the archive so often from now on; 0 = never.
    pub dies_after: AtomicU64,
}

/// Paths below [`ARCHIVE`] are on a disk that may be everybody's, all others on the member's own.
#[derive(Clone, Debug)]
pub struct Disks {
    pub own: SimIo,
    pub archive: SimIo,
    pub route: Arc<Route>,
}

impl Disks {
    pub fn new(own: SimIo, archive: SimIo) -> Self {
        Self { own, archive, route: Arc::default() }
    }
}

impl Way for Disks {
    fn disk(&self, path: &Path) -> &dyn Io {
        if path.starts_with(ARCHIVE) { &self.archive } else { &self.own }
    }

    fn pass<T>(&self, call: Call, path: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !path.starts_with(ARCHIVE) {
            return make();
        }
        let dies = |left: u64| left.checked_sub(1);
        if call.changes() && self.route.dies_after.fetch_update(Relaxed, Relaxed, dies) == Ok(1) {
            self.own.crash();
        }
        if self.own.is_down() || self.route.is_cut.load(Relaxed) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the archive is not reached"));
        }
        make()
    }
}

/// A disk for whoever only looks: no accident that waits for a change happens to it.
#[derive(Debug)]
pub struct ReadOnly<I>(pub I);

impl<I: Io + 'static> Way for ReadOnly<I> {
    fn disk(&self, _: &Path) -> &dyn Io {
        &self.0
    }

    fn pass<T>(&self, call: Call, _: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match call {
            Call::Open(OpenMode::Read) | Call::List | Call::FreeBytes | Call::Read | Call::Len => make(),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}
