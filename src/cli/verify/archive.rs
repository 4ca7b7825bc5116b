//! `scribe verify --archive`: the same verdict as of a directory, of objects in a store.

use std::{io::Write, time::Duration};

use tokio::runtime::Runtime;

use super::{
    VerifyArgs,
    directory::{cannot_tell, failure, keys_named_by, note},
};
use crate::{
    archive::Epoch,
    cli::{
        Failure, bar, place,
        print::{Printer, Terms},
        runtime_beside,
    },
    proof::key::VerifierKey,
    verify::{Archived, LookOnly, Note, Progress, Report},
};

pub(super) fn verify<W: Write>(
    place: &str,
    args: &VerifyArgs,
    timeout: Duration,
    printer: &mut Printer<W>,
) -> Result<(), Failure> {
    let store = place::open(place, &args.config, timeout)?;
    let runtime = runtime_beside()?;
    let epoch = args.epoch.map(Epoch);
    let archived = runtime.block_on(Archived::open_epoch(store, epoch)).map_err(failure)?;
    let signers = keys_named_by(archived.boundary());
    let named = if args.key.is_empty() { signers.clone() } else { Vec::new() };
    let keys = if args.key.is_empty() { &named } else { &args.key };
    if keys.is_empty() && !args.checkpoint.is_empty() {
        return Err(Failure::Usage(format!("{place} does not say who signs for it: give --key")));
    }
    let mut notes: Vec<Note> =
        args.checkpoint.iter().map(|path| note(path, keys)).collect::<Result<_, Failure>>()?;
    notes.extend(notes_within(&runtime, &archived, keys)?);
    let check = |threads, progress: &Progress| {
        archived.verify(runtime.handle(), &notes, threads, progress, &LookOnly)
    };
    let report = bar::beside(archived.records(), check).map_err(failure)?;
    if !report.ahead.is_empty() {
        return Err(Failure::Undecided(cannot_tell(&report)));
    }
    if let Some(damaged) = report.damaged_earlier.first() {
        return Err(Failure::Failed(damaged.clone()));
    }
    let doubt = doubt(&report, &signers);
    printer.report(
        &report,
        &Terms { named: &named, is_held: !args.checkpoint.is_empty(), doubt: doubt.as_deref() },
    )?;
    doubt.map_or(Ok(()), |doubt| Err(Failure::Doubted(doubt)))
}

/// Why an archive in which all is whole is not called verified. Its last segment names the `signers`.
fn doubt(report: &Report, signers: &[VerifierKey]) -> Option<String> {
    if let Some(why) = &report.open_end {
        return Some(format!("cannot tell yet whether that is all: {why}"));
    }
    if report.segments == 0 {
        return Some(
            "cannot tell yet: nothing is archived there. A node archives its first segment when that is full, or after \
             storage.tiering.max_lag_secs; if one has before, the manifest's entries were taken away"
                .to_owned(),
        );
    }
    if !signers.is_empty() && report.checkpoints.is_empty() && report.earlier_checkpoints == 0 {
        return Some(
            "cannot tell yet whether that is all: segments name who signs for this ledger, and no signed checkpoint is \
             there. A node that archives its first segments leaves that; if it stays so, the checkpoints were taken away, \
             and perhaps entries with them: one that was kept elsewhere tells (--checkpoint)"
                .to_owned(),
        );
    }
    let left = report.left_behind.first()?;
    Some(format!(
        "cannot tell whether that is all: the cluster of epoch {} archived {} records after the one behind it was \
         restored, and this epoch does not have them. Where they do not matter this stays so; where they do: \
         scribe restore --epoch {}",
        left.epoch,
        left.end.0.saturating_sub(left.from.0),
        left.epoch
    ))
}

/// The archive's own checkpoints, all of them. Of the newest, one that a member has signed whose key is not known yet does
/// no harm beside others; if there are keys and none of them has signed any, something is wrong.
pub(in crate::cli) fn notes_within(
    runtime: &Runtime,
    archived: &Archived,
    keys: &[VerifierKey],
) -> Result<Vec<Note>, Failure> {
    let (mut notes, mut refused) = (Vec::new(), None);
    for (name, bytes) in archived.notes() {
        match Note::read(name, bytes, keys) {
            Ok(note) => notes.push(note),
            Err(error) => refused = Some(format!("{name}: {error}")),
        }
    }
    if let Some(why) = refused.filter(|_| notes.is_empty() && !keys.is_empty()) {
        return Err(Failure::Failed(why));
    }
    notes.extend(runtime.block_on(archived.earlier_notes(keys, keys_named_by)).map_err(failure)?);
    Ok(notes)
}
