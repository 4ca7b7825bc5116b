//! The examples do what they say. They are compiled into this test, so that it runs what is there now and not
//! what was built some time ago.

use scribe_ledger::Ledger;

#[path = "../examples/basic_usage.rs"]
#[allow(dead_code, reason = "nobody calls its main here")]
mod basic_usage;
#[path = "../examples/cli_store.rs"]
#[allow(dead_code, reason = "nobody calls its main here")]
mod cli_store;
#[path = "../examples/config_demo.rs"]
#[allow(dead_code, reason = "nobody calls its main here")]
mod config_demo;
#[path = "../examples/data_types.rs"]
#[allow(dead_code, reason = "nobody calls its main here")]
mod data_types;
#[path = "../examples/verify_proof.rs"]
#[allow(dead_code, reason = "nobody calls its main here")]
mod verify_proof;

/// What an example says.
fn said(run: impl FnOnce(&mut Vec<u8>) -> Result<(), Box<dyn std::error::Error>>) -> String {
    let mut out = Vec::new();
    run(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn basic_usage() {
    let expected = "\
user:alice is written at position 0
user:alice is now Alice Liddell
user:bob is None
a batch is at positions 2 to 4
user:alice is None, and its history is
  5: deleted
  1: Alice Liddell
  0: Alice
users, in the order of their keys:
  user:bob = Bob
  user:carol = Carol
3 keys are live, 6 records were written
";
    assert_eq!(said(basic_usage::run), expected);
}

#[test]
fn data_types() {
    let text = said(data_types::run);
    for line in [
        "text: こんにちは",
        "bytes: Some([1, 2, 3])",
        "numbers in order: 2 10 300",
        "empty: Some(0), absent: None",
        "large: 5242880 bytes",
        "stored as: {\"owner\":\"Alice\",\"cents\":12345,\"tags\":[\"gold\"],\"frozen\":false}",
        "older: Some(Account { owner: \"Bob\", cents: 0, tags: [], frozen: false })",
        "map: Some({\"a\": 1, \"b\": 2})",
        "refused: malformed",
    ] {
        assert!(text.lines().any(|said| said == line), "{line} in {text}");
    }
}

#[test]
fn config_demo() {
    let text = said(config_demo::run);
    for part in [
        "in code: WAL files of 8 MiB\n",
        "from a file: profile high-throughput, 512 MiB of writes under way at most, and WAL files of 32 MiB by the environment\n",
        "file_byte",
        "wal.file_bytes",
        "opened again with the defaults: a file\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn verify_proof() {
    let text = said(verify_proof::run);
    for line in [
        "the proof for account/bob has 2 hashes",
        "bob has 250: true",
        "bob has 999: false",
        "mallory has 250: false",
        "with a proof that was changed: false",
        "a copy of the pairs has the same root: true",
        "and after one change: false",
    ] {
        assert!(text.lines().any(|said| said == line), "{line} in {text}");
    }
}

#[test]
fn cli_store() {
    let dir = tempfile::tempdir().unwrap();
    let session =
        |ledger: &Ledger, commands: &str| said(|out| Ok(cli_store::run(ledger, commands.as_bytes(), out)?));
    let ledger = Ledger::open(dir.path()).unwrap();
    let text = session(
        &ledger,
        "put a one two\nput a three\nput b 4\nget a\nget c\nlist\nhistory a\nverify a\nfly\n\nput\nquit\nget a\n",
    );
    let root = text.lines().find_map(|line| line.strip_prefix("a is in root ")).unwrap();
    assert_eq!(root.len(), 64);
    let expected = format!(
        "0 keys; help shows the commands\nwritten at 0\nwritten at 1\nwritten at 2\nthree\nnot found\n\
         a = three\nb = 4\n1 put three\n0 put one two\na is in root {root}\nno such command: fly; help shows them\n\
         failed: a key has at least one byte\nbye\n"
    );
    assert_eq!(text, expected);
    ledger.close().unwrap();

    let ledger = Ledger::open(dir.path()).unwrap();
    let text = session(&ledger, "verify\nclear\nlist\nhistory b\n");
    assert_eq!(
        text,
        format!("2 keys; help shows the commands\nroot {root}\n2 keys deleted\n4 delete\n2 put 4\nbye\n"),
        "what one session wrote, another one finds"
    );
}
