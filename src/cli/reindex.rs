//! `scribe reindex`: builds the index of a stopped node anew.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use clap::Args;
use serde_json::json;

use super::{
    Failure,
    print::{Format, Printer},
};
use crate::{env::real::real_env, error::Code, node};

#[derive(Debug, Args)]
pub(super) struct ReindexArgs {
    /// The data directory of a node that does not run.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

pub(super) fn run<W: Write>(args: &ReindexArgs, printer: &mut Printer<W>) -> Result<(), Failure> {
    let dir = args.data_dir.display();
    if !args.data_dir.is_dir() {
        return Err(Failure::Usage(format!("{dir} is not a directory")));
    }
    let watched = io::stderr().is_terminal();
    let told = |done, all| {
        if watched {
            // Nobody misses a line that cannot be written.
            let _ = writeln!(io::stderr().lock(), "{done} of {all} segments are in the index");
        }
    };
    let done = node::reindex(&real_env(), &args.data_dir, told).map_err(|error| match error.code() {
        Code::InvalidConfig => Failure::Usage(error.to_string()),
        _ => Failure::Failed(error.to_string()),
    })?;
    let node::Reindexed { segments, records, index_bytes } = done;
    match printer.format() {
        Format::Table => printer.text(&format!(
            "the index in {dir}/index was thrown away and built anew: {records} records in {segments} segments, \
             {index_bytes} bytes, read back and whole\n"
        )),
        Format::Json => printer.document(&json!({
            "reindexed": true, "segments": segments, "records": records, "index_bytes": index_bytes
        })),
    }
    .map_err(Failure::from)
}
