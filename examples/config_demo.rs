//! How an embedded ledger is configured: by the same settings as a server, from the same kinds of places.
//!
//! `cargo run --example config_demo`

use std::{
    fs,
    io::{self, Write},
};

use scribe_ledger::{
    Ledger,
    config::{Config, NodeArgs},
};

/// A configuration file. What it does not name keeps the value of the profile.
const FILE: &str = r#"
profile = "high-throughput"

[wal]
file_bytes = "16MiB"

[pipeline]
ingest_bytes_max = "512MiB"
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&mut io::stdout().lock())
}

/// What `main` does, so that a test can read what it says.
pub fn run(out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    let home = tempfile::tempdir()?;

    // In code: the defaults, and what is to differ.
    let mut config = Config::default();
    config.node.data_dir = home.path().join("in-code");
    config.wal.file_bytes = 8 << 20;
    let ledger = Ledger::open_with(&config)?;
    ledger.put("from", "code")?;
    writeln!(out, "in code: WAL files of {} MiB", config.wal.file_bytes >> 20)?;
    ledger.close()?;

    // From a file, with the environment and flags above it, as scribe-node reads them.
    let file = home.path().join("ledger.toml");
    fs::write(&file, FILE)?;
    let args = NodeArgs {
        config: Some(file.clone()),
        data_dir: Some(home.path().join("from-file").display().to_string()),
        ..NodeArgs::default()
    };
    let environment = [("SCRIBE_WAL_FILE_BYTES".to_owned(), "32MiB".to_owned())];
    let config = Config::load(&args, environment.into_iter())?;
    writeln!(
        out,
        "from a file: profile {}, {} MiB of writes under way at most, and WAL files of {} MiB by the environment",
        config.profile,
        config.pipeline.ingest_bytes_max >> 20,
        config.wal.file_bytes >> 20
    )?;
    Ledger::open_with(&config)?.put("from", "a file")?;

    // A mistake is refused before anything is touched, with the name that was meant.
    fs::write(&file, "[wal]\nfile_byte = 1\n")?;
    if let Err(error) = Config::load(&args, std::iter::empty()) {
        writeln!(out, "a mistake: {}", error.message().replace(&*home.path().to_string_lossy(), "…"))?;
    }

    // The settings say how a ledger works, never what is in it: other ones open the same directory.
    let again = Ledger::open(home.path().join("from-file"))?;
    let value = again.get("from")?.unwrap_or_default();
    writeln!(out, "opened again with the defaults: {}", String::from_utf8_lossy(&value))?;
    Ok(())
}
