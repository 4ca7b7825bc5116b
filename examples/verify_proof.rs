//! Proves to somebody who has nothing but a root hash what a ledger holds.
//!
//! `cargo run --example verify_proof`

use std::io::{self, Write};

use scribe_ledger::{Ledger, MerkleTree, ledger::MerkleProof};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&mut io::stdout().lock())
}

/// What `main` does, so that a test can read what it says.
pub fn run(out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    let ledger = Ledger::temp()?;
    for (name, cents) in [("alice", 100), ("bob", 250), ("carol", 75), ("dave", 0)] {
        ledger.put(format!("account/{name}"), cents.to_string())?;
    }

    // The owner publishes the root: 32 bytes that stand for all pairs.
    let root = ledger.compute_merkle_root()?;
    writeln!(out, "the root of {} pairs is {}", ledger.len()?, root)?;

    // Later somebody asks about one of them and gets the value and a proof, as any bytes: JSON here.
    let proof = ledger.generate_merkle_proof("account/bob")?.ok_or("bob has an account")?;
    let sent = serde_json::to_vec(&proof)?;
    writeln!(out, "the proof for account/bob has {} hashes", proof.siblings.len())?;

    // Who knows the root needs neither the ledger nor its owner's word to check it.
    let received: MerkleProof = serde_json::from_slice(&sent)?;
    let holds = |key: &str, value: &str, proof: &MerkleProof| {
        MerkleTree::verify_proof(&root, key.as_bytes(), value.as_bytes(), proof)
    };
    writeln!(out, "bob has 250: {}", holds("account/bob", "250", &received))?;
    writeln!(out, "bob has 999: {}", holds("account/bob", "999", &received))?;
    writeln!(out, "mallory has 250: {}", holds("account/mallory", "250", &received))?;
    let mut bent = received.clone();
    bent.siblings.swap(0, 1);
    writeln!(out, "with a proof that was changed: {}", holds("account/bob", "250", &bent))?;

    // The root follows from what is there, not from how it came about: anyone with the pairs can make it.
    let copy = MerkleTree::from_pairs([
        ("account/dave", "0"),
        ("account/carol", "75"),
        ("account/bob", "250"),
        ("account/alice", "100"),
    ])?;
    writeln!(out, "a copy of the pairs has the same root: {}", copy.root_hash() == root)?;
    ledger.put("account/bob", "251")?;
    writeln!(out, "and after one change: {}", ledger.compute_merkle_root()? == root)?;
    Ok(())
}
