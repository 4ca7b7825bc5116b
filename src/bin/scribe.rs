//! `scribe`: the command line of Scribe Ledger.

use std::process::ExitCode;

use clap::Parser;
use scribe_ledger::cli::{self, Cli};

fn main() -> ExitCode {
    ExitCode::from(cli::run(Cli::parse()))
}
