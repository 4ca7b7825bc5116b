//! `scribe restore`: an archive → a node's directory.

use std::{io::Write, path::PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    Failure, bar, place,
    print::{Format, Printer},
    runtime_beside,
    verify::{failure, keys_named_by, notes_within},
};
use crate::{
    config::WalConfig,
    env::real::real_env,
    error::{Code, Error},
    node::{Restore, Restored},
    proof::key::VerifierKey,
    types::NodeId,
    verify::{Archived, Progress},
    wal::{Driver, WalOptions},
};

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The archive: a directory, or s3://bucket/prefix. It is only read.
    #[arg(long, value_name = "DIR|s3://…")]
    from: String,
    /// The directory to make: empty, or that of a restore of the same archive that did not end.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The id of the node that will run on it.
    #[arg(long, value_name = "ID", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    node_id: NodeId,
    /// A key to believe, name+id+base64; may be given several times. Without it, those that the archive names.
    #[arg(long, value_name = "VKEY")]
    key: Vec<VerifierKey>,
    #[command(flatten)]
    s3: place::S3Args,
}

pub(super) fn run<W: Write>(args: &RestoreArgs, printer: &mut Printer<W>) -> Result<(), Failure> {
    let (store, runtime, env) = (place::open(&args.from, &args.s3)?, runtime_beside()?, real_env());
    let archived = runtime.block_on(Archived::open(store)).map_err(failure)?;
    let named = if args.key.is_empty() { keys_named_by(archived.boundary()) } else { Vec::new() };
    let keys = if args.key.is_empty() { &named } else { &args.key };
    let notes = notes_within(&archived, keys)?;
    let failed = |error: Error| match error.code() {
        Code::InvalidConfig => Failure::Usage(error.to_string()),
        // Nothing is in doubt: it is begun again.
        Code::Io | Code::Unavailable | Code::DiskFull => {
            Failure::Failed(format!("{error}; run the same command again, and it goes on where it was"))
        }
        _ => failure(error),
    };
    let restore = Restore::begin(&env, &args.data_dir, args.node_id, &archived).map_err(failed)?;
    let check =
        |threads, progress: &Progress| archived.verify(runtime.handle(), &notes, threads, progress, &restore);
    let report = bar::beside(archived.records(), check).map_err(failed)?;
    let options = WalOptions::new(WalConfig::default(), Driver::Thread);
    let restored = runtime.block_on(restore.finish(&report, options)).map_err(failed)?;
    let Restored { identity, link } = restored;
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
            "link_seq": link.size,
        }))?),
        Format::Table => {
            printer.report(&report, &named)?;
            let proven = match report.checkpoints.iter().max_by_key(|note| note.size) {
                Some(note) => format!("proven up to record {} by a checkpoint of {}", note.size, note.origin),
                None => "proven by its roots alone: no checkpoint covers it".to_owned(),
            };
            Ok(printer.text(&format!(
                "restored into {dir}: {proven}\n  \
                 it is node {id} of the new cluster {cluster}, in epoch {epoch}; record {} links it to {}\n  \
                 start it: scribe-node --node-id {id} --data-dir {dir}\n",
                link.size, link.origin
            ))?)
        }
    }
}
