//! What a start does with the log that it finds: it has to go on where the newest segment ends, and what it knows to be
//! committed is applied again.

use super::{Sabotage, log_store::LogStore, state_machine::StateMachine};
use crate::{
    error::{Code, Error, Result},
    wal::{self, Wal, WalState},
};

/// Checks that a log goes on where the newest sealed segment ends, whose last entry is `newest`.
///
/// # Errors
/// [`Code::Corrupt`] when entries are missing between them.
pub fn check_continues(log: &WalState, newest: Option<wal::LogId>) -> Result<()> {
    let WalState { first, last, .. } = *log;
    let lost = |what: String| {
        Err(Error::new(
            Code::Corrupt,
            format!(
                "{what}: files of the write-ahead log or of segments are missing; restore them from a backup; nothing \
                 was changed"
            ),
        ))
    };
    match newest {
        None if first.0 > 0 => {
            lost(format!("the log begins at entry {first}, and no segment holds what was before"))
        }
        Some(log) if first.0 > log.index.0 + 1 => lost(format!(
            "the log begins at entry {first}, and the newest segment ends with entry {}",
            log.index
        )),
        Some(log) if last.is_none_or(|last| last < log) => {
            lost(format!("the log ends before entry {}, with which the newest segment ends", log.index))
        }
        _ => Ok(()),
    }
}

/// Applies what the log knows to be committed, a few megabytes at a time: openraft's own replay reads 64
/// entries whatever their size.
pub(super) fn replay(
    wal: &Wal,
    log: &LogStore,
    state_machine: &mut StateMachine,
    sabotage: Sabotage,
) -> Result<()> {
    const CHUNK_BYTES: usize = 8 << 20;
    let WalState { committed, last, .. } = wal.state();
    // A member may know that more is committed than it has on disk itself: the rest comes from its peers.
    let end = committed.min(last).map_or(0, |id| id.index.0 + 1);
    let mut next = state_machine.applied().map_or(0, |id| id.index + 1);

    while next < end {
        let entries =
            log.entries(next, end, CHUNK_BYTES).map_err(|e| Error::io("reading the log for replay", &e))?;
        if entries.is_empty() {
            return Err(Error::new(
                Code::Corrupt,
                format!("the log is known to be committed up to index {end} but entry {next} is not in it"),
            ));
        }
        for entry in entries {
            next = entry.log_id.index + 1;
            if sabotage.replay_twice && next == end {
                state_machine.apply_entry(entry.clone())?;
            }
            state_machine.apply_entry(entry)?;
        }
    }
    Ok(())
}
