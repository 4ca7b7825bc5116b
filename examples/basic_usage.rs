//! The first five minutes with an embedded ledger: write, read, look back, delete.
//!
//! `cargo run --example basic_usage`

use std::io::{self, Write};

use scribe_ledger::{Ledger, ledger::Keys, types::Op};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&mut io::stdout().lock())
}

/// What `main` does, so that a test can read what it says.
pub fn run(out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    // `Ledger::open("some/directory")` keeps what it is told; this one goes when it is dropped.
    let ledger = Ledger::temp()?;

    // When `put` returns, the record is on disk, at this position in the ledger.
    let seq = ledger.put("user:alice", "Alice")?;
    writeln!(out, "user:alice is written at position {seq}")?;

    // Writing again changes nothing that is there: it appends another version.
    ledger.put("user:alice", "Alice Liddell")?;
    let newest = ledger.get("user:alice")?.unwrap_or_default();
    writeln!(out, "user:alice is now {}", String::from_utf8_lossy(&newest))?;
    writeln!(out, "user:bob is {:?}", ledger.get("user:bob")?)?;

    // Many records at once are one write to the disk, and go in together or not at all.
    let mut batch = ledger.batch();
    batch.put("user:bob", "Bob")?.put("user:carol", "Carol")?.put("city:oxford", "Oxford")?;
    let appended = ledger.apply_batch(batch)?;
    writeln!(out, "a batch is at positions {} to {}", appended.first_seq, appended.last_seq)?;

    // A delete is a record, too.
    ledger.delete("user:alice")?;
    writeln!(out, "user:alice is {:?}, and its history is", ledger.get("user:alice")?)?;
    for version in ledger.history("user:alice") {
        let version = version?;
        let what = match version.op {
            Op::Put => String::from_utf8_lossy(&version.value).into_owned(),
            Op::Delete => "deleted".to_owned(),
        };
        writeln!(out, "  {}: {what}", version.seq)?;
    }

    writeln!(out, "users, in the order of their keys:")?;
    for record in ledger.scan(Keys::with_prefix("user:")) {
        let record = record?;
        let [key, value] = [&record.key, &record.value].map(|bytes| String::from_utf8_lossy(bytes));
        writeln!(out, "  {key} = {value}")?;
    }
    writeln!(out, "{} keys are live, {} records were written", ledger.len()?, ledger.next_seq())?;
    Ok(())
}
