//! `scribe backup`: what a node has sealed → a copy of it.

mod server;

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde_json::json;

use super::{
    Failure, place,
    print::{Format, Printer},
    runtime_beside,
    verify::failure,
};
use crate::{
    archive::{Cold, ObjectRef},
    client::Client,
    env::{File, real::real_env},
    error::{Code, Error},
    node,
    proof::key::VerifierKey,
};

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The data directory of a node, which may run, instead of a server to ask.
    #[arg(long, value_name = "DIR", conflicts_with = "key", value_parser = place::local)]
    data_dir: Option<PathBuf>,
    /// With --data-dir: the archive of the node, a directory or s3://bucket/prefix, for what has left the directory.
    /// Default is the one in the data directory, where there is one.
    #[arg(long, value_name = "DIR|s3://…", requires = "data_dir")]
    archive: Option<String>,
    #[command(flatten)]
    config: place::ConfigArgs,
    /// Where the copy is: a directory of its own, empty at first.
    #[arg(long, value_name = "DIR", value_parser = place::local)]
    to: PathBuf,
    /// A key to believe the server's checkpoint by, name+id+base64; may be given several times. Without it, those that
    /// the ledger itself names.
    #[arg(long, value_name = "VKEY")]
    key: Vec<VerifierKey>,
}

pub(super) fn run<W: Write>(
    args: &BackupArgs,
    server: &str,
    timeout: Duration,
    printer: &mut Printer<W>,
) -> Result<(), Failure> {
    let (done, covered) = match &args.data_dir {
        Some(dir) if !dir.is_dir() => {
            return Err(Failure::Usage(format!("{} is not a directory", dir.display())));
        }
        Some(dir) => (beside(dir, args, timeout)?, None),
        None => {
            let client = Client::new(server)?.with_timeout(timeout);
            super::runtime()?.block_on(server::copy(&client, args))?
        }
    };
    let node::BackedUp { segments, copied, copied_bytes, end_seq } = done;
    let to = args.to.display();
    match printer.format() {
        Format::Table if segments == 0 => {
            printer.text("nothing is sealed yet, so there is nothing to copy: run the same command again later\n")
        }
        Format::Table => {
            let covered = match covered {
                Some(size) => format!("checkpoint: signed, of {size} records, in {to}/checkpoint"),
                None if args.data_dir.is_some() => "checkpoint: none, for nobody was asked to sign".to_owned(),
                None => "checkpoint: none that could be held against the ledger's own keys".to_owned(),
            };
            printer.text(&format!(
                "{to} has {end_seq} records in {segments} segments; {copied} of them are new, {copied_bytes} bytes\n  \
                 {covered}\n  \
                 prove it good: scribe verify {to}\n  \
                 not copied: records that are not sealed yet, and the signing key\n"
            ))
        }
        Format::Json => printer.document(&json!({
            "backed_up": true, "records": end_seq.0, "segments": segments, "copied": copied,
            "copied_bytes": copied_bytes, "checkpoint": covered
        })),
    }
    .map_err(Failure::from)
}

/// Copies a directory, and from its archive what has left it.
fn beside(dir: &Path, args: &BackupArgs, timeout: Duration) -> Result<node::BackedUp, Failure> {
    let io = real_env().io;
    let within = dir.join("archive");
    let store = match &args.archive {
        Some(place) => Some(place::open(place, &args.config, timeout)?),
        None if within.is_dir() => Some(place::open(&within.to_string_lossy(), &args.config, timeout)?),
        None => None,
    };
    let Some(store) = store else { return node::backup(&io, dir, &args.to, None).map_err(failed) };
    let runtime = runtime_beside()?;
    let from_object = |object: &ObjectRef, digest: &[u8; 32], file: Arc<dyn File>| {
        runtime.block_on(async { Cold::open(store.clone(), object, digest).await?.rebuild(file).await })
    };
    node::backup(&io, dir, &args.to, Some(&from_object)).map_err(failed)
}

/// Why a copy was not made; what has been copied stays, and the next run goes on with it.
fn failed(error: Error) -> Failure {
    match error.code() {
        Code::InvalidConfig => Failure::Usage(error.to_string()),
        Code::Io => Failure::Failed(error.to_string()),
        _ => failure(error),
    }
}
