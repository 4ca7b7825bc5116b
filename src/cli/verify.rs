//! `scribe verify`: arguments → a check of files, of an archive or of a server → the verdict.
//!
//! Takes the command's arguments, decides which of them it is, and says no to what fits neither. It owns no
//! check: those are `crate::verify`'s, which knows nothing of the server.

mod archive;
mod directory;
mod server;

use std::{io::Write, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

pub(super) use self::{
    archive::notes_within,
    directory::{cannot_tell, failure, keys_named_by, note},
};
use super::{
    Failure, place,
    print::{Format, Printer},
};
use crate::{client::Client, proof::key::VerifierKey};

/// What scripts go by.
const EXIT_CODES: &str = "\
Exit codes:
  0  verified
  1  wrong: something is damaged, missing, or not what was signed
  2  the arguments make no sense, or DIR holds no ledger, or the place no archive
  3  cannot tell yet: what is there is whole, but a checkpoint is newer: it covers records that are not sealed in DIR, \
where perhaps none is; or a restore into DIR has not ended; or an earlier epoch of an archive holds records that the newest does not go on from; or a \
server, or the disk, did not answer";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct VerifyArgs {
    /// A data directory, or a copy of its segments; it may be a running node's. Without it, a server is
    /// verified.
    #[arg(group = "files", conflicts_with_all = ["url", "state", "samples"])]
    dir: Option<PathBuf>,
    /// An archive to verify, without any node: a directory, or s3://bucket/prefix.
    #[arg(long, value_name = "DIR|s3://…", group = "files", conflicts_with_all = ["dir", "url", "state", "samples"])]
    archive: Option<String>,
    /// The epoch of the archive to verify; without it, the newest.
    #[arg(long, value_name = "N", requires = "archive")]
    epoch: Option<u32>,
    #[command(flatten)]
    config: place::ConfigArgs,
    /// The server to verify; default --server.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A signed checkpoint that the records of DIR or the archive have to agree with; may be given several times.
    /// Without --key, the keys are those that the ledger itself names.
    #[arg(long, value_name = "FILE", requires = "files", conflicts_with_all = ["url", "state", "samples"])]
    checkpoint: Vec<PathBuf>,
    /// A key to believe, name+id+base64; may be given several times. Without it the first visit to a server
    /// believes the keys that it names, and later visits those.
    #[arg(long, value_name = "VKEY")]
    key: Vec<VerifierKey>,
    /// Where the newest checkpoint of a server is remembered; default a file for each log in the user's
    /// configuration directory.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// How many records of a server are looked at, chosen by chance; the newest one is added.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    samples: u64,
}

pub(super) fn run<W: Write>(
    args: &VerifyArgs,
    server: &str,
    timeout: Duration,
    printer: &mut Printer<W>,
) -> Result<(), Failure> {
    let outcome = match (&args.dir, &args.archive) {
        (Some(dir), _) => directory::verify(dir, args, printer),
        (None, Some(place)) => archive::verify(place, args, timeout, printer),
        (None, None) => {
            let url = args.url.as_deref().unwrap_or(server);
            let client = Client::new(url)?.with_timeout(timeout);
            super::runtime()?.block_on(server::verify(&client, url, args, printer))
        }
    };
    if printer.format() == Format::Json {
        // A script reads the verdict from standard output, whichever it is.
        match &outcome {
            Err(Failure::Failed(problem)) => {
                printer.document(&json!({ "verified": false, "problem": problem }))?;
            }
            Err(Failure::Undecided(problem)) => {
                printer.document(&json!({ "verified": null, "problem": problem }))?;
            }
            _ => {}
        }
    }
    outcome
}
