//! `scribe restore`: an archive, or a copy of `scribe backup` → a node's directory.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Runtime;

use super::{
    Failure, bar, place,
    print::{Format, Printer, Terms, left_behind_json},
    runtime_beside,
    verify::{cannot_tell, failure, keys_named_by, note, notes_within},
};
use crate::{
    archive::{Epoch, LedgerId, layout},
    config::{LedgerConfig, WalConfig},
    env::{Env, real::real_env},
    error::{Code, Error},
    node::{Origin, Restore, Restored},
    proof::key::{VerifierKey, check_key_name},
    segment::parse_name,
    types::NodeId,
    verify::{Archived, Plan, Progress, Report},
    wal::{Driver, WalOptions},
};

/// A ledger that was written to within this time may be alive.
const LATELY_MS: u64 = 10 * 60 * 1_000;

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The archive: a directory, or s3://bucket/prefix; or a copy that `scribe backup` has made. It is only read.
    #[arg(long, value_name = "DIR|s3://…")]
    from: String,
    /// The epoch of the archive to restore, which need not be the newest: where a cluster still wrote while another was
    /// restored, each has its own. Without it, the newest.
    #[arg(long, value_name = "N")]
    epoch: Option<u32>,
    /// The directory to make: empty, or that of a restore of the same archive or copy that did not end.
    #[arg(long, value_name = "DIR", value_parser = place::local)]
    data_dir: PathBuf,
    /// The id of the node that will run on it.
    #[arg(long, value_name = "ID", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    node_id: NodeId,
    /// A key to believe, name+id+base64; may be given several times. Without it, those that the ledger itself names.
    #[arg(long, value_name = "VKEY")]
    key: Vec<VerifierKey>,
    /// Whose ledger a copy is, if that has a name of its own (ledger.origin): the id of its cluster, as its
    /// /api/v1/status tells it.
    #[arg(long, value_name = "ID", value_parser = cluster_id)]
    cluster_id: Option<LedgerId>,
    #[command(flatten)]
    config: place::ConfigArgs,
}

pub(super) fn run<W: Write>(
    args: &RestoreArgs,
    timeout: Duration,
    printer: &mut Printer<W>,
) -> Result<(), Failure> {
    let ledger = ledger(args)?;
    let (restored, report, named) = match is_copy(Path::new(&args.from)) {
        true => from_copy(args, &ledger)?,
        false => from_archive(args, &ledger, timeout)?,
    };
    let Restored { identity, link, key } = restored;
    let (dir, id, cluster, epoch) =
        (args.data_dir.display().to_string(), identity.node_id, &identity.cluster_id, link.epoch);
    match printer.format() {
        Format::Json => Ok(printer.document(&json!({
            "restored": true,
            "records": report.records.0,
            "segments": report.segments,
            "root": report.root,
            "proven_to": report.checkpoints.iter().map(|note| note.size).max(),
            "data_dir": dir,
            "node_id": id,
            "cluster_id": cluster,
            "epoch": epoch,
            "key": key.to_string(),
            "link_seq": link.size,
            "last_timestamp_ms": report.last_timestamp_ms,
            "open_end": report.open_end,
            "left_behind": left_behind_json(&report),
        }))?),
        Format::Table => {
            let is_held = report.epoch.is_none() && !report.checkpoints.is_empty();
            printer.report(&report, &Terms { named: &named, is_held, doubt: None })?;
            let proven = match report.checkpoints.iter().max_by_key(|note| note.size) {
                Some(note) => format!("proven up to record {} by a checkpoint of {}", note.size, note.origin),
                None => "proven by its roots alone: no checkpoint covers it".to_owned(),
            };
            if let Some(secs) = written_lately(&report, real_env().clock.now_ms()) {
                printer.text(&format!(
                    "  its newest record is {secs} seconds old: is the old cluster stopped? What that still archives is not \
                     in this ledger; restore anew when it is\n"
                ))?;
            }
            Ok(printer.text(&format!(
                "restored into {dir}: {proven}\n  \
                 it is node {id} of the new cluster {cluster}, in epoch {epoch}; record {} links it to {}\n  \
                 it signs with {key}\n  \
                 start it with the settings of its archive: scribe-node {}--node-id {id} --data-dir {dir}\n",
                link.size,
                link.origin,
                args.config.flag().map_or_else(String::new, |path| format!("--config {} ", path.display())),
            ))?)
        }
    }
}

/// How old the newest record is, in seconds, if whoever wrote it may still be writing.
fn written_lately(report: &Report, now_ms: u64) -> Option<u64> {
    let age_ms = now_ms.saturating_sub(report.last_timestamp_ms);
    (report.records.0 > 0 && age_ms < LATELY_MS).then_some(age_ms / 1_000)
}

/// Whether a place holds segments as files, and is no archive, which keeps them elsewhere.
fn is_copy(place: &Path) -> bool {
    let names = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_of_files =
        |name: &str| parse_name(name).is_some() || ["segments", "identity.json"].contains(&name);
    !place.join(layout::marker().as_str()).exists()
        && names.into_iter().any(|name| name.to_str().is_some_and(is_of_files))
}

fn from_archive(
    args: &RestoreArgs,
    ledger: &LedgerConfig,
    timeout: Duration,
) -> Result<(Restored, Report, Vec<VerifierKey>), Failure> {
    let (store, runtime, env) =
        (place::open(&args.from, &args.config, timeout)?, runtime_beside()?, real_env());
    let epoch = args.epoch.map(Epoch);
    let archived = runtime.block_on(Archived::open_epoch(store, epoch)).map_err(failure)?;
    let named = if args.key.is_empty() { keys_named_by(archived.boundary()) } else { Vec::new() };
    let keys = if args.key.is_empty() { &named } else { &args.key };
    let notes = notes_within(&runtime, &archived, keys)?;
    let origin = Origin::of_archive(&archived).map_err(failed)?;
    let restore = begin(&env, args, origin)?;
    let check =
        |threads, progress: &Progress| archived.verify(runtime.handle(), &notes, threads, progress, &restore);
    let report = bar::beside(archived.records(), check).map_err(failed)?;
    Ok((finish(&runtime, &restore, &report, ledger)?, report, named))
}

/// The segments are put in place first, and verified there.
fn from_copy(
    args: &RestoreArgs,
    ledger: &LedgerConfig,
) -> Result<(Restored, Report, Vec<VerifierKey>), Failure> {
    if args.epoch.is_some() {
        return Err(Failure::Usage("--epoch is for an archive: a copy is of one epoch".to_owned()));
    }
    let (runtime, env) = (runtime_beside()?, real_env());
    let copy = Plan::open(env.io.clone(), Path::new(&args.from)).map_err(failure)?;
    let origin = Origin::of_copy(&copy, args.cluster_id).map_err(failed)?;
    let named = if args.key.is_empty() { keys_named_by(copy.boundary()) } else { Vec::new() };
    let keys = if args.key.is_empty() { &named } else { &args.key };
    let checkpoint = copy.checkpoint().filter(|_| !keys.is_empty());
    let notes: Vec<_> = checkpoint.map(|path| note(path, keys)).transpose()?.into_iter().collect();
    let restore = begin(&env, args, origin)?;
    restore.copy(&copy).map_err(failed)?;
    let there = Plan::open(env.io.clone(), &restore.segments()).map_err(failed)?;
    let check = |threads, progress: &Progress| there.verify(&notes, threads, progress);
    let report = bar::beside(there.records(), check).map_err(failed)?;
    if !report.ahead.is_empty() {
        return Err(Failure::Undecided(cannot_tell(&report)));
    }
    Ok((finish(&runtime, &restore, &report, ledger)?, report, named))
}

fn begin(env: &Env, args: &RestoreArgs, origin: Origin) -> Result<Restore, Failure> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    if absolute(&args.data_dir).starts_with(absolute(Path::new(&args.from))) {
        let what = format!("{} is within {}, which is only read", args.data_dir.display(), args.from);
        return Err(Failure::Usage(format!("{what}: restore into a directory of its own")));
    }
    Restore::begin(env, &args.data_dir, args.node_id, origin).map_err(|error| match error.code() {
        // To run it again would change nothing.
        Code::Io => Failure::Failed(error.to_string()),
        _ => failed(error),
    })
}

fn finish(
    runtime: &Runtime,
    restore: &Restore,
    report: &Report,
    ledger: &LedgerConfig,
) -> Result<Restored, Failure> {
    let options = WalOptions::new(WalConfig::default(), Driver::Thread);
    runtime.block_on(restore.finish(report, options, ledger)).map_err(failed)
}

/// What the node will be told of its ledger: the key that it signs with is called like the log.
fn ledger(args: &RestoreArgs) -> Result<LedgerConfig, Failure> {
    #[derive(Default, Deserialize)]
    struct File {
        #[serde(default)]
        ledger: Ledger,
    }
    #[derive(Default, Deserialize)]
    struct Ledger {
        #[serde(default)]
        origin: String,
    }
    let file: File = args.config.part()?;
    let origin = std::env::var("SCRIBE_LEDGER_ORIGIN").unwrap_or(file.ledger.origin);
    if !origin.is_empty() {
        check_key_name(&origin).map_err(|error| Failure::Usage(format!("ledger.origin: {error}")))?;
    }
    Ok(LedgerConfig { origin })
}

fn failed(error: Error) -> Failure {
    match error.code() {
        Code::InvalidConfig => Failure::Usage(error.to_string()),
        // Nothing is in doubt: it is begun again.
        Code::Io | Code::Unavailable | Code::DiskFull => {
            Failure::Failed(format!("{error}; run the same command again, and it goes on where it was"))
        }
        _ => failure(error),
    }
}

fn cluster_id(text: &str) -> Result<LedgerId, String> {
    let id = text.split_once('-').map_or(text, |(cluster, _)| cluster);
    LedgerId::parse(id).ok_or_else(|| "a cluster's id is 32 hex digits".to_owned())
}
