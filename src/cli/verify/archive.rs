//! `scribe verify --archive`: the same verdict as of a directory, of objects in a store.

use std::io::Write;

use super::{
    VerifyArgs,
    directory::{cannot_tell, failure, keys_named_by, note},
};
use crate::{
    cli::{Failure, bar, place, print::Printer, runtime_beside},
    proof::key::VerifierKey,
    verify::{Archived, LookOnly, Note, Progress},
};

pub(super) fn verify<W: Write>(
    place: &str,
    args: &VerifyArgs,
    printer: &mut Printer<W>,
) -> Result<(), Failure> {
    let store = place::open(place, &args.s3)?;
    let runtime = runtime_beside()?;
    let archived = runtime.block_on(Archived::open(store)).map_err(failure)?;
    let named = if args.key.is_empty() { keys_named_by(archived.boundary()) } else { Vec::new() };
    let keys = if args.key.is_empty() { &named } else { &args.key };
    if keys.is_empty() && !args.checkpoint.is_empty() {
        return Err(Failure::Usage(format!("{place} does not say who signs for it: give --key")));
    }
    let mut notes: Vec<Note> =
        args.checkpoint.iter().map(|path| note(path, keys)).collect::<Result<_, Failure>>()?;
    notes.extend(notes_within(&archived, keys)?);
    let check = |threads, progress: &Progress| {
        archived.verify(runtime.handle(), &notes, threads, progress, &LookOnly)
    };
    let report = bar::beside(archived.records(), check).map_err(failure)?;
    if !report.ahead.is_empty() {
        return Err(Failure::Undecided(cannot_tell(&report)));
    }
    Ok(printer.report(&report, &named)?)
}

/// The archive's own checkpoints. One that a member has signed whose key is not known yet does no harm beside others;
/// if there are keys and none of them has signed any, something is wrong.
pub(in crate::cli) fn notes_within(archived: &Archived, keys: &[VerifierKey]) -> Result<Vec<Note>, Failure> {
    let (mut notes, mut refused) = (Vec::new(), None);
    for (name, bytes) in archived.notes() {
        match Note::read(name, bytes, keys) {
            Ok(note) => notes.push(note),
            Err(error) => refused = Some(format!("{name}: {error}")),
        }
    }
    match refused {
        Some(why) if notes.is_empty() && !keys.is_empty() => Err(Failure::Failed(why)),
        _ => Ok(notes),
    }
}
