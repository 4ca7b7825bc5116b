//! Whether everything that a data directory is known to have held is there.
//!
//! ```text
//! wal/ ── read ──┐
//! segments/ ─────┼─► does one go on where the other ends, is it as long as `proven` says? ─► both may be opened
//! proven ────────┘
//! ```
//!
//! Takes a directory whose lock is held, gives its log and its segments, read and not changed, but for segments that
//! cannot be opened and are brought back from elsewhere ([`segments`]). A start that refuses here leaves the disk as it
//! was, so that whoever brings back what is missing finds the node as it was, too. It does not own what is wrong within
//! a log or a segment: those say so themselves.

use std::{collections::BTreeSet, path::Path};

use super::signing;
use crate::{
    cluster::{reinstate::Reinstate, switch::Switch},
    config::Config,
    env::{Env, Io},
    error::{Code, Error, Result},
    raft::check_continues,
    sealed::{FoundSegments, Sealed, SealedOptions},
    tree::Witnessed,
    types::Seq,
    wal::{RecoveredWal, Wal, WalOptions},
};

/// Reads the log and what is known of it and of the `segments`. `switch` knows of segments that were fetched, which the log does not
/// reach yet.
///
/// # Errors
/// [`Code::Corrupt`] when something is missing or damaged, [`Code::Io`] when the disk fails.
pub fn read(
    env: &Env,
    data_dir: &Path,
    segments: &FoundSegments,
    wal_options: WalOptions,
    switch: &Switch,
) -> Result<(RecoveredWal, Option<Witnessed>)> {
    let expected = Witnessed::read(&*env.io, data_dir)?;
    let wal_dir = data_dir.join("wal");
    let names = env.io.list(&wal_dir);
    let names = names.map_err(|e| Error::io(format!("listing {}", wal_dir.display()), &e))?;
    let newest = segments.newest().map(|newest| newest.last_log);
    let was_fetched = switch.has_announced(newest)?;
    // Votes are in the log alone: no segment that was fetched excuses that it is gone.
    if !names.iter().any(|name| name.starts_with("wal-")) {
        // A key is drawn after the log has begun.
        let names = env.io.list(data_dir);
        let names = names.map_err(|e| Error::io(format!("listing {}", data_dir.display()), &e))?;
        let had_begun = names.iter().any(|name| name == signing::FILE);
        check_first_start(data_dir, had_begun, segments, expected)?;
    }
    let log = Wal::recover(env, &wal_dir, wal_options)?;
    if !was_fetched {
        check_continues(&log.state(), newest)?;
    }
    if let Some(expected) = expected {
        check_log(data_dir, &log, expected)?;
    }
    Ok((log, expected))
}

/// Reads the segments of a data directory. Those that cannot be opened are brought back first; how many that were.
///
/// # Errors
/// As [`Sealed::find`] and [`Reinstate::segment`].
pub async fn segments(
    env: &Env,
    data_dir: &Path,
    options: SealedOptions,
    reinstate: &Reinstate<'_>,
) -> Result<(FoundSegments, u64)> {
    let mut tried = BTreeSet::new();
    loop {
        match Sealed::find(env.io.clone(), data_dir, options) {
            Ok(found) => return Ok((found, tried.len() as u64)),
            Err(damage) => match damage.damaged_segment() {
                Some(id) if tried.insert(id) => reinstate.segment(id, &damage).await?,
                _ => return Err(damage),
            },
        }
    }
}

/// Whether a directory without a log may begin one: a node's first start may have been cut off.
fn check_first_start(
    data_dir: &Path,
    had_begun: bool,
    segments: &FoundSegments,
    expected: Option<Witnessed>,
) -> Result<()> {
    let sealed = segments.newest().map_or(Seq(0), |newest| newest.end_seq);
    let held = expected.map_or(Seq(0), |expected| expected.size).max(sealed);
    if held > Seq(0) {
        return Err(Error::new(
            Code::Corrupt,
            format!(
                "{} held {held} records and has no write-ahead log: restore wal/ from a backup, or mount what was \
                 there; nothing was changed",
                data_dir.display()
            ),
        ));
    }
    if had_begun {
        tracing::warn!(
            data_dir = %data_dir.display(),
            "the directory belongs to a node that has run, but holds no log: if it had records, they are gone"
        );
    }
    Ok(())
}

/// Whether the log reaches as far as it is known to have been on this disk.
fn check_log(data_dir: &Path, log: &RecoveredWal, expected: Witnessed) -> Result<()> {
    let last = log.state().last.map(|last| last.index);
    // Without records nothing is lost: a node may have been cut off as it gave its empty ledger up.
    if expected.log <= last || expected.size == Seq(0) {
        return Ok(());
    }
    let (reached, ends) = (expected.log.unwrap_or_default(), last.map(|last| last.to_string()));
    Err(end_is_missing(
        data_dir,
        expected.size,
        &format!("its log reached entry {reached} and ends with entry {}", ends.as_deref().unwrap_or("none")),
        "; nothing was changed",
    ))
}

/// Whether a sole voter has all the records that it is known to have proven: for what a log does not tell before it
/// is replayed.
///
/// # Errors
/// [`Code::Corrupt`] when it has fewer.
pub fn check_records(data_dir: &Path, known: Seq, applied: Seq) -> Result<()> {
    if known <= applied {
        return Ok(());
    }
    Err(end_is_missing(data_dir, known, &format!("its log has {applied}"), ""))
}

/// Why a node does not start on a full disk, and what to do.
pub fn no_room_to_start(io: &dyn Io, config: &Config, error: &Error) -> Error {
    let (data_dir, needed) = (config.node.data_dir.as_path(), config.wal.free_bytes_to_start());
    let are = io.free_bytes(data_dir).map_or_else(|_| String::new(), |free| format!(", {free} are"));
    let message = format!(
        "{}: the disk of {} is full and the node cannot start, not even for reads: free some space and start it again; \
         with {needed} bytes free it does{are}; nothing is lost",
        error.message(),
        data_dir.display()
    );
    Error::new(Code::DiskFull, message)
}

fn end_is_missing(data_dir: &Path, known: Seq, what: &str, unchanged: &str) -> Error {
    Error::new(
        Code::Corrupt,
        format!(
            "{} held {known} records, and {what}: the end of the write-ahead log is missing; restore wal/ from a backup\
             {unchanged}. Whoever accepts the loss removes the file `proven`; verifiers will see that records are gone",
            data_dir.display()
        ),
    )
}
