//! What the real program proves, checked as a stranger would: with `proof`, the log's key and nothing else.

mod common;

use common::{Server, Setup, client::Client, node};
use scribe_ledger::{
    proof::{
        Hash,
        bundle::decode_entries,
        checkpoint::Checkpoint,
        consistency::verify_consistency,
        inclusion::{inclusion_proof, verify_inclusion},
        key::VerifierKey,
        leaf::Leaf,
        note::Note,
        tile::{Tile, TilePath},
        tiled::{TileSource, TiledTree},
        tree::root,
        ProofError,
    },
    types::Op,
};
use serde_json::Value;

/// Seals a segment every 64 records or so.
const SMALL_SEGMENTS: &str = "4KiB";

fn keys(client: &mut Client) -> Vec<VerifierKey> {
    let keys = client.get("/api/v1/keys").is(200).json();
    keys["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().parse().unwrap()).collect()
}

/// The newest checkpoint, its signature checked.
fn checkpoint(client: &mut Client, keys: &[VerifierKey]) -> Checkpoint {
    let answer = client.get("/checkpoint").is(200);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("max-age=1"));
    Checkpoint::open(&Note::parse(&answer.body).unwrap(), keys).unwrap().0
}

/// The newest checkpoint once it covers `size` records. Every answer of the server waits for that a little.
fn checkpoint_of(client: &mut Client, keys: &[VerifierKey], size: u64) -> Checkpoint {
    client.get(&format!("/api/v1/proofs/consistency?from=0&to={size}")).is(200);
    let newest = checkpoint(client, keys);
    assert!(newest.size() >= size, "{newest:?}");
    newest
}

fn hash(value: &Value) -> Hash {
    let hex = value.as_str().unwrap();
    let bytes: Vec<u8> =
        (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect();
    Hash::from_slice(&bytes).unwrap()
}

fn hashes(value: &Value) -> Vec<Hash> {
    value.as_array().unwrap().iter().map(hash).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks for a record's proof in a tree and checks it against the tree's root.
fn check_inclusion(client: &mut Client, leaf: &Leaf, tree: &Checkpoint) {
    let proof = client.get(&format!("/api/v1/proofs/inclusion/{}?size={}", leaf.seq, tree.size())).is(200);
    let proof = proof.json();
    assert_eq!((proof["leaf_index"].as_u64(), proof["tree_size"].as_u64()), (Some(leaf.seq.0), Some(tree.size())));
    assert_eq!(proof["leaf"], hex(&leaf.encode()));
    assert_eq!(hash(&proof["leaf_hash"]), leaf.hash());
    assert_eq!(hash(&proof["root_hash"]), *tree.root());
    verify_inclusion(&leaf.hash(), leaf.seq.0, tree.size(), &hashes(&proof["siblings"]), tree.root()).unwrap();
}

/// The leaf of a record, from what a read of it says.
fn leaf(client: &mut Client, seq: u64) -> Leaf {
    let record = client.get(&format!("/api/v1/records/{seq}")).is(200).json();
    let (op, value) = match record["op"].as_str().unwrap() {
        "put" => (Op::Put, record["value"].as_str().unwrap()),
        _ => (Op::Delete, ""),
    };
    let (key, timestamp_ms) = (record["key"].as_str().unwrap(), record["timestamp_ms"].as_u64().unwrap());
    let leaf =
        Leaf::of(op, scribe_ledger::types::Seq(seq), timestamp_ms, key.as_bytes(), value.as_bytes());
    assert_eq!(record["leaf"], hex(&leaf.encode()));
    leaf
}

#[test]
fn a_new_ledger_has_a_checkpoint_of_nothing() {
    let server = node::start(&Setup::default());
    let mut client = server.client();
    let keys = keys(&mut client);
    let empty = checkpoint(&mut client, &keys);
    assert_eq!((empty.size(), *empty.root()), (0, Hash::EMPTY_ROOT));
    assert_eq!(empty.origin(), keys[0].name());
    client.get("/api/v1/proofs/inclusion/0").is_problem(404, "not-found");
    client.get("/tile/0/000").is_problem(404, "not-found");
    assert_eq!(client.get("/api/v1/segments").is(200).json(), serde_json::json!([]));
}

#[test]
fn a_record_is_proven_as_soon_as_it_is_written() {
    let server = node::start(&Setup::default());
    let mut client = server.client();
    let keys = keys(&mut client);
    for n in 0..20 {
        let written = client.put(&format!("/key-{}", n % 7), format!("value {n}")).is(201).json();
        let seq = written["seq"].as_u64().unwrap();
        client.get(&format!("/api/v1/proofs/inclusion/{seq}")).is(200);
        let newest = checkpoint_of(&mut client, &keys, seq + 1);
        let leaf = leaf(&mut client, seq);
        check_inclusion(&mut client, &leaf, &newest);
        assert!(leaf.commits_to(format!("key-{}", n % 7).as_bytes(), Some(format!("value {n}").as_bytes())));
    }
}
