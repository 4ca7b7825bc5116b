//! An object that has been fetched whole: every byte of it once, and compared with its name on the way.
//!
//! Takes an object's name, gives a file that can be read like a local segment's, however the blocks in it are packed.
//! A large one lies in a file without a name, all others in memory. It does not own what is in it.

use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    pin::pin,
    sync::Arc,
};

use futures_util::StreamExt;
use parking_lot::Mutex;
use tempfile::SpooledTempFile;

use super::{
    object::{ObjectRef, not_itself, pieces},
    store::{Store, Trouble},
};
use crate::{
    env::File,
    error::{Code, Error, Result},
    runtime::without_blocking_others,
};

/// A larger one does not stay in memory: twice what a segment of the usual size has.
const MEMORY_BYTES_MAX: usize = 128 << 20;

/// See the head of this file.
#[derive(Debug)]
struct Fetched {
    bytes: u64,
    spool: Mutex<SpooledTempFile>,
}

/// Fetches an object. Memory is its size up to 128 MiB, and some megabytes beyond.
///
/// # Errors
/// As the store's; [`Code::Corrupt`] when it is not there or not what its name stands for; [`Code::Io`] when there is
/// no room for it.
pub async fn fetch(store: &dyn Store, object: &ObjectRef) -> Result<Arc<dyn File>> {
    let name = object.name();
    let size = match store.head(&name).await {
        Err(error) if error.trouble() == Trouble::NotFound => {
            let what = format!(
                "{name} in {} is missing, and the manifest names it: bring it back, or let a member that has the \
                 segment archive it again",
                store.place()
            );
            return Err(Error::new(Code::Corrupt, what));
        }
        head => head?,
    };
    if size != object.bytes {
        return Err(not_itself(store, &name));
    }
    let mut spool = SpooledTempFile::new(MEMORY_BYTES_MAX);
    let mut hasher = blake3::Hasher::new();
    let mut pieces = pin!(pieces(store, &name, object.bytes));
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let kept = without_blocking_others(piece.len(), || {
            hasher.update(&piece);
            spool.write_all(&piece)
        });
        kept.map_err(|error| Error::io(format!("keeping {name} for a while"), &error))?;
    }
    if *hasher.finalize().as_bytes() != object.hash {
        return Err(not_itself(store, &name));
    }
    Ok(Arc::new(Fetched { bytes: object.bytes, spool: Mutex::new(spool) }))
}

impl File for Fetched {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut spool = self.spool.lock();
        spool.seek(SeekFrom::Start(offset))?;
        spool.read_exact(buffer)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
