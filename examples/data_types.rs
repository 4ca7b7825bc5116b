//! What keys and values can be: any bytes, and through serde any type that JSON can say.
//!
//! `cargo run --example data_types`

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use scribe_ledger::Ledger;
use serde::{Deserialize, Serialize};

/// A value of our own.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Account {
    owner: String,
    cents: i64,
    tags: Vec<String>,
    /// Not there in accounts that were written by an older build of this program.
    #[serde(default)]
    frozen: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&mut io::stdout().lock())
}

/// What `main` does, so that a test can read what it says.
pub fn run(out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    let ledger = Ledger::temp()?;

    // Text, in any language, on both sides.
    ledger.put("grüße/日本語", "こんにちは")?;
    let text = ledger.get("grüße/日本語")?.unwrap_or_default();
    writeln!(out, "text: {}", std::str::from_utf8(&text)?)?;

    // Bytes that are no text.
    ledger.put([0xff, 0x00, 0x2f], [1, 2, 3])?;
    writeln!(out, "bytes: {:?}", ledger.get([0xff, 0x00, 0x2f])?.as_deref())?;

    // Numbers as keys: big-endian, so that their order as bytes is their order as numbers.
    for n in [300_u64, 2, 10] {
        ledger.put([b"n/", &n.to_be_bytes()[..]].concat(), n.to_string())?;
    }
    let numbers = ledger.scan(b"n/".to_vec()..b"n0".to_vec());
    let numbers =
        numbers.map(|record| record.map(|record| String::from_utf8_lossy(&record.value).into_owned()));
    writeln!(out, "numbers in order: {}", numbers.collect::<Result<Vec<_>, _>>()?.join(" "))?;

    // An empty value is a value.
    ledger.put("empty", "")?;
    writeln!(out, "empty: {:?}, absent: {:?}", ledger.get("empty")?.map(|v| v.len()), ledger.get("absent")?)?;

    // A large value, up to 64 MiB.
    ledger.put("large", vec![7; 5 << 20])?;
    writeln!(out, "large: {} bytes", ledger.get("large")?.map_or(0, |value| value.len()))?;

    // Types: stored as JSON, so that whoever reads the ledger later sees what a value is.
    let account = Account { owner: "Alice".into(), cents: 12_345, tags: vec!["gold".into()], frozen: false };
    ledger.put_typed("account/1", &account)?;
    writeln!(out, "typed: {:?}", ledger.get_typed::<Account>("account/1")?)?;
    let json = ledger.get("account/1")?.unwrap_or_default();
    writeln!(out, "stored as: {}", String::from_utf8_lossy(&json))?;

    // What an older build wrote has no `frozen`, and is still an account.
    ledger.put("account/2", r#"{"owner":"Bob","cents":0,"tags":[]}"#)?;
    writeln!(out, "older: {:?}", ledger.get_typed::<Account>("account/2")?)?;
    ledger.put_typed("counts", &BTreeMap::from([("a", 1), ("b", 2)]))?;
    writeln!(out, "map: {:?}", ledger.get_typed::<BTreeMap<String, u32>>("counts")?)?;

    // The wrong type is an error that says so.
    if let Err(error) = ledger.get_typed::<Account>("large") {
        writeln!(out, "refused: {}", error.code().slug())?;
    }
    Ok(())
}
