//! `scribe backup`: what a node has sealed → a copy of it.

use std::{io::Write, path::PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    Failure,
    print::{Format, Printer},
    verify::failure,
};
use crate::{env::real::real_env, error::Code, node};

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The data directory of a node, which may run.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where the copy is: a directory of its own, empty at first.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

pub(super) fn run<W: Write>(args: &BackupArgs, printer: &mut Printer<W>) -> Result<(), Failure> {
    if !args.data_dir.is_dir() {
        return Err(Failure::Usage(format!("{} is not a directory", args.data_dir.display())));
    }
    let done =
        node::backup(&real_env().io, &args.data_dir, &args.to).map_err(|error| match error.code() {
            Code::InvalidConfig => Failure::Usage(error.to_string()),
            Code::Io => Failure::Failed(error.to_string()),
            _ => failure(error),
        })?;
    let node::BackedUp { segments, copied, copied_bytes, end_seq } = done;
    let to = args.to.display();
    match printer.format() {
        Format::Table => printer.text(&format!(
            "{to} has {end_seq} records in {segments} segments; {copied} of them are new, {copied_bytes} bytes\n  \
             prove it good: scribe verify {to}\n  \
             not copied: records that are not sealed yet, and the signing key\n"
        )),
        Format::Json => printer.document(&json!({
            "backed_up": true, "records": end_seq.0, "segments": segments, "copied": copied,
            "copied_bytes": copied_bytes
        })),
    }
    .map_err(Failure::from)
}
