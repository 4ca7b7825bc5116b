//! A key–value store on the command line: one command a line on standard input.
//!
//! `cargo run --example cli_store [DIRECTORY]`; without a directory, what is written is gone at the end.

use std::io::{self, BufRead, Write};

use scribe_ledger::{
    Ledger, MerkleTree,
    ledger::{Keys, Record},
    types::Op,
};

const HELP: &str = "\
put KEY VALUE   write a value, the rest of the line
get KEY         show the newest value
delete KEY      append a tombstone
list [PREFIX]   show live keys and their values
history KEY     show all versions, newest first
verify [KEY]    show the Merkle root of what is there, or prove that a key is in it
clear           delete every key; their history stays
quit            close the ledger";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ledger = match std::env::args_os().nth(1) {
        Some(directory) => Ledger::open(directory)?,
        None => Ledger::temp()?,
    };
    run(&ledger, io::stdin().lock(), &mut io::stdout().lock())?;
    ledger.close()?;
    Ok(())
}

/// Obeys commands until `quit` or the end of the input. A command that fails is told and does not end it.
pub fn run(ledger: &Ledger, input: impl BufRead, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{} keys; help shows the commands", ledger.len().map_err(io::Error::other)?)?;
    for line in input.lines() {
        let line = line?;
        let (command, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        if command == "quit" {
            break;
        }
        match obey(ledger, command, rest.trim()) {
            Ok(answer) => out.write_all(answer.as_bytes())?,
            Err(error) => writeln!(out, "failed: {error}")?,
        }
        out.flush()?;
    }
    writeln!(out, "bye")
}

fn obey(ledger: &Ledger, command: &str, rest: &str) -> scribe_ledger::Result<String> {
    Ok(match command {
        "" => String::new(),
        "put" => {
            let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
            format!("written at {}\n", ledger.put(key, value)?)
        }
        "get" => match ledger.get(rest)? {
            Some(value) => format!("{}\n", value.escape_ascii()),
            None => "not found\n".to_owned(),
        },
        "delete" => format!("deleted at {}\n", ledger.delete(rest)?),
        "list" => lines(ledger.scan(Keys::with_prefix(rest)), |record| {
            format!("{} = {}", record.key.escape_ascii(), record.value.escape_ascii())
        })?,
        "history" => lines(ledger.history(rest), |record| match record.op {
            Op::Put => format!("{} put {}", record.seq, record.value.escape_ascii()),
            Op::Delete => format!("{} delete", record.seq),
        })?,
        "verify" => verify(ledger, rest)?,
        "clear" => format!("{} keys deleted\n", ledger.clear()?),
        "help" => format!("{HELP}\n"),
        _ => format!("no such command: {command}; help shows them\n"),
    })
}

fn lines(
    records: impl Iterator<Item = scribe_ledger::Result<Record>>,
    show: impl Fn(&Record) -> String,
) -> scribe_ledger::Result<String> {
    records.map(|record| record.map(|record| show(&record) + "\n")).collect()
}

fn verify(ledger: &Ledger, key: &str) -> scribe_ledger::Result<String> {
    let tree = ledger.merkle_tree()?;
    let root = tree.root_hash();
    if key.is_empty() {
        return Ok(format!("root {root}\n"));
    }
    Ok(match (ledger.get(key)?, tree.get_proof(key.as_bytes())) {
        (Some(value), Some(proof)) => {
            let holds = MerkleTree::verify_proof(&root, key.as_bytes(), &value, &proof);
            format!("{key} is {}in root {root}\n", if holds { "" } else { "NOT " })
        }
        _ => "not found\n".to_owned(),
    })
}
