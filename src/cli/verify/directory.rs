//! `scribe verify DIR`: reads notes, shows how far the check is, prints what was verified.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    sync::Arc,
};

use super::VerifyArgs;
use crate::{
    cli::{
        Failure, bar,
        print::{Printer, Terms},
    },
    env::real::RealIo,
    error::{Code, Error},
    proof::{key::VerifierKey, note::NOTE_BYTES_MAX},
    state::boundary::Boundary,
    verify::{Note, Plan, Progress, Report},
};

pub(super) fn verify<W: Write>(
    dir: &Path,
    args: &VerifyArgs,
    printer: &mut Printer<W>,
) -> Result<(), Failure> {
    if !dir.is_dir() {
        return Err(Failure::Usage(format!("{} is not a directory", dir.display())));
    }
    // What is wrong with a note is told before a long look at the files, where that can be.
    let read = |keys: &[VerifierKey]| -> Result<Vec<Note>, Failure> {
        args.checkpoint.iter().map(|path| note(path, keys)).collect()
    };
    let given = if args.key.is_empty() { None } else { Some(read(&args.key)?) };
    let plan = Plan::open(Arc::new(RealIo::new()), dir).map_err(failure)?;
    if !args.key.is_empty() && args.checkpoint.is_empty() && plan.checkpoint().is_none() {
        let what = "--key is for --checkpoint, for a copy with a checkpoint in it, or for a server: give one of them";
        return Err(Failure::Usage(what.to_owned()));
    }
    let (mut notes, named) = match given {
        Some(notes) => (notes, Vec::new()),
        None => {
            let named = keys_named_by(plan.boundary());
            if named.is_empty() && !args.checkpoint.is_empty() && plan.records() == 0 {
                return Err(Failure::Undecided(nothing_sealed(dir)));
            }
            if named.is_empty() && !args.checkpoint.is_empty() {
                let what = format!("{} does not say who signs for it: give --key", dir.display());
                return Err(Failure::Usage(what));
            }
            (read(&named)?, named)
        }
    };
    if let Some(path) = plan.checkpoint() {
        let keys = if args.key.is_empty() { keys_named_by(plan.boundary()) } else { args.key.clone() };
        // A ledger whose members are not named yet has nothing to hold it against.
        if !keys.is_empty() {
            notes.push(note(path, &keys)?);
        }
    }
    let check = |threads, progress: &Progress| plan.verify(&notes, threads, progress);
    let report = bar::beside(plan.records(), check).map_err(failure)?;
    if !report.ahead.is_empty() {
        return Err(Failure::Undecided(cannot_tell(&report)));
    }
    let doubt = plan.listing().is_restoring.then(|| {
        format!(
            "cannot tell yet whether that is all: {} is being restored, and that has not ended. Run `scribe restore` again, \
             to its end",
            dir.display()
        )
    });
    let is_held = !report.checkpoints.is_empty();
    printer.report(&report, &Terms { named: &named, is_held, doubt: doubt.as_deref() })?;
    doubt.map_or(Ok(()), |doubt| Err(Failure::Doubted(doubt)))
}

/// The keys that members of the ledger sign with, by its own word.
pub(in crate::cli) fn keys_named_by(boundary: &[u8]) -> Vec<VerifierKey> {
    let boundary = Boundary::decode(boundary).unwrap_or_default();
    boundary.signers.into_iter().map(|signer| signer.key).collect()
}

/// Why the checkpoints that cover more than is here prove nothing, and what to do.
pub(in crate::cli) fn cannot_tell(report: &Report) -> String {
    let ahead = report.ahead.iter().map(|note| format!("{} in {}", note.size, note.name));
    format!(
        "cannot tell yet: the {} records here are whole (root {}), and a checkpoint covers more: {}. The others may not \
         be sealed yet, which takes storage.segment_age_max at most, or were sealed after a copy was made: verify them \
         again later, or a newer copy. If they do not come, they were taken away",
        report.records,
        report.root,
        ahead.collect::<Vec<_>>().join(", ")
    )
}

/// As [`cannot_tell`], where not even the signers of a checkpoint can be told.
fn nothing_sealed(dir: &Path) -> String {
    format!(
        "cannot tell yet: no record is sealed in {}, so the checkpoint covers more than is here, and who signs for the \
         ledger is not said. Records are sealed after storage.segment_age_max at most: verify them again later, or a \
         newer copy. If they do not come, they were taken away",
        dir.display()
    )
}

pub(in crate::cli) fn note(path: &Path, keys: &[VerifierKey]) -> Result<Note, Failure> {
    let reading = |error| Failure::Usage(format!("reading {}: {error}", path.display()));
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(NOTE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(reading)?;
    let name = path.display().to_string();
    Note::read(&name, &bytes, keys).map_err(|error| Failure::Failed(format!("{name}: {error}")))
}

pub(in crate::cli) fn failure(error: Error) -> Failure {
    match error.code() {
        Code::Malformed => Failure::Usage(error.to_string()),
        // It says nothing of what is there.
        Code::Io | Code::Unavailable => Failure::Undecided(format!("cannot tell: {error}")),
        _ => Failure::Failed(error.to_string()),
    }
}
