//! Building the index of a stopped node anew, on request.
//!
//! Takes a data directory whose node does not run, throws its index away and feeds a new one every segment. The
//! log, the segments and whose the directory is stay as they are. A node does the same by itself when it finds
//! its index damaged; this is for whoever does not want to wait for that, or wants to see it done.

use std::path::Path;

use super::{identity, lock};
use crate::{
    env::Env,
    error::{Code, Error, Result},
    index::{Index, IndexOptions},
    sealed::{Sealed, SealedOptions},
};

/// Nothing is read twice: blocks need no memory to speak of.
const CACHE_BYTES: u64 = 16 << 20;

/// What a new index covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reindexed {
    /// Segments.
    pub segments: u64,
    /// Their records.
    pub records: u64,
    /// Bytes of the index's files.
    pub index_bytes: u64,
}

/// Builds the index anew and reads it back. `told` hears how many of how many segments it covers so far.
///
/// # Errors
/// [`Code::InvalidConfig`] when there is no node's data directory; [`Code::Io`] when a process uses it, or the
/// disk fails; [`Code::Corrupt`] when a segment is damaged: then the old index is still there.
pub fn reindex(env: &Env, data_dir: &Path, mut told: impl FnMut(usize, usize)) -> Result<Reindexed> {
    let names = env.io.list(data_dir);
    let names = names.map_err(|e| Error::io(format!("listing {}", data_dir.display()), &e))?;
    if !names.iter().any(|name| name == identity::FILE) {
        let what = format!(
            "{} is not the data directory of a node: it has no {}",
            data_dir.display(),
            identity::FILE
        );
        return Err(Error::new(Code::InvalidConfig, what));
    }
    let _lock = lock(&*env.io, data_dir)?;
    let index = IndexOptions { cache_bytes: CACHE_BYTES, hash_seed: env.rng.next_u64() };
    let options =
        SealedOptions { block_cache_bytes: CACHE_BYTES, hot_cache_bytes: 0, index, cold: Default::default() };
    // The segments come first: while they cannot be read, the old index is all there is.
    let sealed = Sealed::open(env.io.clone(), data_dir, options)?;
    let segments = sealed.segments().len();
    sealed.reindex(|indexed| told(indexed, segments))?;
    let (records, index_bytes) = (sealed.end_seq().0, sealed.sizes().index_bytes);
    drop(sealed);
    if let Some(path) = env.io.native_path(&data_dir.join("index")) {
        Index::verify(&path)?;
    }
    Ok(Reindexed { segments: segments as u64, records, index_bytes })
}
