//! What the real program proves, checked as a stranger would: with `proof`, the log's key and nothing else. And
//! watches of it, across what is sealed and what is not.

#![allow(clippy::disallowed_methods, reason = "a test of a real process, with deadlines")]

mod common;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{Server, Setup, client::Client, node, sse::Watcher};
use scribe_ledger::{
    proof::{
        Hash, ProofError,
        bundle::decode_entries,
        checkpoint::Checkpoint,
        consistency::verify_consistency,
        inclusion::{inclusion_proof, verify_inclusion},
        key::VerifierKey,
        leaf::Leaf,
        note::Note,
        receipt::Receipt,
        tile::{Tile, TilePath},
        tiled::{TileSource, TiledTree},
        tree::root,
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
    assert_eq!(
        (proof["leaf_index"].as_u64(), proof["tree_size"].as_u64()),
        (Some(leaf.seq.0), Some(tree.size()))
    );
    assert_eq!(proof["leaf"], hex(&leaf.encode()));
    assert_eq!(hash(&proof["leaf_hash"]), leaf.hash());
    assert_eq!(hash(&proof["root_hash"]), *tree.root());
    verify_inclusion(&leaf.hash(), leaf.seq.0, tree.size(), &hashes(&proof["siblings"]), tree.root())
        .unwrap();
}

/// The leaf of a record, from what a read of it says.
fn leaf(client: &mut Client, seq: u64) -> Leaf {
    let record = client.get(&format!("/api/v1/records/{seq}")).is(200).json();
    let (op, value) = match record["op"].as_str().unwrap() {
        "put" => (Op::Put, record["value"].as_str().unwrap()),
        _ => (Op::Delete, ""),
    };
    let (key, timestamp_ms) = (record["key"].as_str().unwrap(), record["timestamp_ms"].as_u64().unwrap());
    let leaf = Leaf::of(op, scribe_ledger::types::Seq(seq), timestamp_ms, key.as_bytes(), value.as_bytes());
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

/// Tiles as a client fetches them.
struct Fetched<'a>(std::cell::RefCell<&'a mut Client>);

impl TileSource for Fetched<'_> {
    type Error = ProofError;

    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, ProofError> {
        let answer = self.0.borrow_mut().get(&format!("/tile/{tile}")).is(200);
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        let is_kept = answer.header("cache-control").unwrap().contains("immutable");
        assert_eq!(is_kept, tile.is_full(), "{tile}");
        tile.decode(&answer.body)
    }
}

/// Writes `count` records in one batch.
fn write_batch(client: &mut Client, first: u64, count: u64) {
    let lines: String =
        (first..first + count).map(|n| format!("{{\"key\":\"k{}\",\"value\":\"v{n}\"}}\n", n % 97)).collect();
    let written = client.post("/api/v1/batch", "application/x-ndjson", lines).is(200).json();
    assert_eq!((written["first_seq"].as_u64(), written["count"].as_u64()), (Some(first), Some(count)));
}

/// Asks for the proof that one checkpoint grew out of another, and checks it.
fn check_consistency(client: &mut Client, from: &Checkpoint, to: &Checkpoint) {
    let path = format!("/api/v1/proofs/consistency?from={}&to={}", from.size(), to.size());
    let proof = client.get(&path).is(200).json();
    assert_eq!((proof["from"].as_u64(), proof["to"].as_u64()), (Some(from.size()), Some(to.size())));
    assert_eq!((hash(&proof["from_root"]), hash(&proof["to_root"])), (*from.root(), *to.root()));
    verify_consistency(from.size(), to.size(), from.root(), to.root(), &hashes(&proof["hashes"])).unwrap();
}

fn segments(client: &mut Client) -> Vec<Value> {
    client.get("/api/v1/segments").is(200).json().as_array().unwrap().clone()
}

/// Waits until everything but the newest records is in segments.
fn wait_for_segments(client: &mut Client, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let all = segments(client);
        if all.len() >= count {
            return all;
        }
        assert!(Instant::now() < deadline, "{} of {count} segments", all.len());
        thread::sleep(Duration::from_millis(10));
    }
}

/// One history: growth, segments, a restart and more growth. Every checkpoint that was ever seen stays the beginning
/// of every later one, and every record stays provable under all of them.
#[test]
fn everything_stays_provable_across_segments_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { segment_size: Some(SMALL_SEGMENTS), ..Setup::default() };
    let mut server = node::start_in(dir.path(), &setup);
    let mut client = server.client();
    let keys = keys(&mut client);
    let mut seen = vec![checkpoint(&mut client, &keys)];
    let mut records = 0;
    for (round, count) in [1, 2, 255, 300, 1, 700].into_iter().enumerate() {
        if round == 3 {
            assert!(server.stop());
            server = node::start_in(dir.path(), &setup);
            client = server.client();
            assert_eq!(self::keys(&mut client), keys, "the key is the directory's");
            let after = checkpoint_of(&mut client, &keys, records);
            check_consistency(&mut client, seen.last().unwrap(), &after);
        }
        write_batch(&mut client, records, count);
        records += count;
        seen.push(checkpoint_of(&mut client, &keys, records));
    }
    let manifest = wait_for_segments(&mut client, 3);
    let status = client.get("/api/v1/status").is(200).json();
    let sealed = manifest.last().unwrap()["end_seq"].as_u64().unwrap();
    assert_eq!(status["records"]["proven"].as_u64(), Some(records));
    assert!(status["records"]["sealed"].as_u64().unwrap() >= sealed);
    let newest = seen.last().unwrap().clone();
    assert_eq!(status["tree"]["size"].as_u64(), Some(records));
    assert_eq!(hash(&status["tree"]["root"]), *newest.root());
    for (n, from) in seen.iter().enumerate() {
        seen[n..].iter().for_each(|to| check_consistency(&mut client, from, to));
    }
    for seq in (0..records).step_by(37).chain([records - 1]) {
        let leaf = leaf(&mut client, seq);
        for tree in seen.iter().filter(|tree| tree.size() > seq) {
            check_inclusion(&mut client, &leaf, tree);
        }
    }
    // Every segment's root is that of the tree which ends with it.
    let mut next = 0;
    for (id, segment) in manifest.iter().enumerate() {
        assert_eq!((segment["id"].as_u64(), segment["first_seq"].as_u64()), (Some(id as u64), Some(next)));
        let is_archived = segment["state"] == "both";
        assert!(is_archived || segment["state"] == "local", "{segment}");
        // A leader that has only just begun does not know its name yet.
        assert!(segment["object"].is_null() || is_archived, "{segment}");
        assert!(segment["bytes"].as_u64().unwrap() > 0 && segment["digest"].as_str().unwrap().len() == 64);
        assert_eq!(segment["attested"], false, "nobody else has it");
        next = segment["end_seq"].as_u64().unwrap();
        let proof =
            client.get(&format!("/api/v1/proofs/consistency?from={next}&to={records}")).is(200).json();
        assert_eq!(proof["from_root"], segment["root"]);
    }
    check_tiles(&mut client, &newest);
    let text = client.get("/metrics/prometheus").is(200).body;
    assert!(String::from_utf8(text).unwrap().contains("scribe_storage_segments "));
    // Another life, in which everything comes out of files.
    assert!(server.stop());
    server = node::start_in(dir.path(), &setup);
    client = server.client();
    let after = checkpoint_of(&mut client, &keys, records);
    for from in &seen {
        check_consistency(&mut client, from, &after);
    }
    check_tiles(&mut client, &after);
}

/// Fetches the whole tree as a mirror does, and finds the signed root in it.
fn check_tiles(client: &mut Client, newest: &Checkpoint) {
    let size = newest.size();
    let mut leaves = Vec::new();
    for index in 0..size.div_ceil(256) {
        let tile = Tile::of_tree(0, index, size).unwrap();
        let bundle = client.get(&format!("/tile/{}", TilePath::Entries(tile))).is(200).body;
        let here: Vec<Hash> = decode_entries(tile, &bundle)
            .unwrap()
            .into_iter()
            .map(|bytes| Leaf::decode(bytes).unwrap().hash())
            .collect();
        assert_eq!(tile.decode(&client.get(&format!("/tile/{tile}")).is(200).body).unwrap(), here);
        leaves.extend(here);
    }
    {
        let tree = TiledTree::new(Fetched(std::cell::RefCell::new(&mut *client)), size);
        assert_eq!(root(&tree, size).unwrap(), *newest.root());
        for index in (0..size).step_by(101) {
            let siblings = inclusion_proof(&tree, index, size).unwrap();
            verify_inclusion(&leaves[index as usize], index, size, &siblings, newest.root()).unwrap();
        }
    }
    // Partial tiles of every width that fits, also where a full one is there.
    for width in [1, 2, 100, 255] {
        let partial = Tile::new(0, 1, width).unwrap();
        let hashes = partial.decode(&client.get(&format!("/tile/{partial}")).is(200).body).unwrap();
        assert_eq!(hashes, leaves[256..256 + usize::from(width)]);
    }
    let last = Tile::of_tree(0, size / 256, size).unwrap();
    let beyond = Tile::new(0, last.index(), last.width() + 1).unwrap();
    for path in [
        format!("/tile/{beyond}"),
        format!("/tile/{}", TilePath::Entries(beyond)),
        "/tile/0/000.p/0".into(),
        "/tile/0/000.p/256".into(),
        "/tile/2/000.p/1".into(),
        "/tile/0/x999/x999/999".into(),
        "/tile/64/000".into(),
        "/tile/0/1".into(),
        "/tile/entries/".into(),
        "/tile/0/-01".into(),
    ] {
        client.get(&path).is_problem(404, "not-found");
    }
}

#[test]
fn receipts_hold_without_the_server() {
    let server = node::start(&Setup { segment_size: Some(SMALL_SEGMENTS), ..Setup::default() });
    let mut client = server.client();
    let keys = keys(&mut client);
    let verified = |text: &Value, key: &str, value: Option<&str>| {
        let receipt: Receipt = text.as_str().unwrap().parse().unwrap();
        let verified = receipt.verify(&keys).unwrap();
        assert!(verified.leaf.commits_to(key.as_bytes(), value.map(str::as_bytes)), "{verified:?}");
        verified.leaf.seq.0
    };
    let wants = ("Scribe-Receipt", "true");
    let put = client.call("PUT", "/raw", &[wants], b"value").is(201).json();
    assert_eq!(Some(verified(&put["receipt"], "raw", Some("value"))), put["seq"].as_u64());
    let json = ("Content-Type", "application/json");
    let put = client.call("PUT", "/api/v1/kv/json", &[wants, json], b"{\"value\":\"aGk=\"}").is(200).json();
    assert_eq!(Some(verified(&put["receipt"], "json", Some("hi"))), put["seq"].as_u64());
    let delete = client.call("DELETE", "/raw", &[wants], b"").is(200).json();
    assert_eq!(Some(verified(&delete["receipt"], "raw", None)), delete["seq"].as_u64());
    let lines: String = (0..500).map(|n| format!("{{\"key\":\"b{n}\",\"value\":\"{n}\"}}\n")).collect();
    let headers = [wants, ("Content-Type", "application/x-ndjson")];
    let batch = client.call("POST", "/api/v1/batch", &headers, lines.as_bytes()).is(200).json();
    let both = batch["receipt"].as_array().unwrap();
    assert_eq!(both.len(), 2);
    assert_eq!(Some(verified(&both[0], "b0", Some("0"))), batch["first_seq"].as_u64());
    assert_eq!(Some(verified(&both[1], "b499", Some("499"))), batch["last_seq"].as_u64());
    // A retry gets the receipt of what was written the first time.
    let retry = [wants, ("Idempotency-Key", "once")];
    let first = client.call("PUT", "/once", &retry, b"x").is(201).json();
    let again = client.call("PUT", "/once", &retry, b"x").is(201);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(Some(verified(&again.json()["receipt"], "once", Some("x"))), first["seq"].as_u64());
    assert!(client.put("/plain", "v").is(201).json().get("receipt").is_none());
}

#[test]
fn a_key_is_verified_by_whoever_asks() {
    let server = node::start(&Setup { segment_size: Some(SMALL_SEGMENTS), ..Setup::default() });
    let mut client = server.client();
    let keys = keys(&mut client);
    client.put("/a/b", "old").is(201);
    write_batch(&mut client, 1, 300);
    let check = |client: &mut Client, value: Option<&str>| {
        let answer = client.get("/verify/a%2Fb").is(200).json();
        assert_eq!((&answer["verified"], &answer["error"]), (&true.into(), &Value::Null), "{answer}");
        assert_eq!(
            (&answer["key"], &answer["op"]),
            (&"a/b".into(), &value.map_or("delete", |_| "put").into())
        );
        let note = Note::parse(answer["checkpoint"].as_str().unwrap().as_bytes()).unwrap();
        let tree = Checkpoint::open(&note, &keys).unwrap().0;
        assert_eq!(answer["tree_size"].as_u64(), Some(tree.size()));
        assert_eq!(hash(&answer["proof"]["root_hash"]), *tree.root());
        let leaf = leaf(client, answer["leaf_index"].as_u64().unwrap());
        assert_eq!(answer["leaf"], hex(&leaf.encode()));
        assert!(leaf.commits_to(b"a/b", value.map(str::as_bytes)));
        let siblings = hashes(&answer["proof"]["siblings"]);
        verify_inclusion(&leaf.hash(), leaf.seq.0, tree.size(), &siblings, tree.root()).unwrap();
    };
    check(&mut client, Some("old"));
    client.put("/a/b", "new").is(201);
    check(&mut client, Some("new"));
    client.delete("/a/b").is(200);
    check(&mut client, None);
    client.get("/verify/never").is_problem(404, "not-found");
    client.get("/verify/").is_problem(400, "invalid-key");
}

#[test]
fn questions_beyond_the_tree_are_refused() {
    let server = node::start(&Setup::default());
    let mut client = server.client();
    write_batch(&mut client, 0, 5);
    for (path, status) in [
        ("inclusion/5", 404),
        ("inclusion/18446744073709551615", 404),
        ("inclusion/4?size=4", 400),
        ("inclusion/0?size=0", 400),
        ("inclusion/0?size=6", 400),
        ("inclusion/0?size=18446744073709551615", 400),
        ("inclusion/x", 400),
        ("inclusion/0?of=5", 400),
        ("consistency", 400),
        ("consistency?to=3", 400),
        ("consistency?from=4&to=3", 400),
        ("consistency?from=0&to=6", 400),
        ("consistency?from=6", 400),
    ] {
        let answer = client.get(&format!("/api/v1/proofs/{path}"));
        answer.is_problem(status, if status == 404 { "not-found" } else { "malformed" });
    }
    for path in
        ["inclusion/4?size=5", "consistency?from=0&to=0", "consistency?from=5", "consistency?from=3&to=3"]
    {
        client.get(&format!("/api/v1/proofs/{path}")).is(200);
    }
}

/// From the first record, long sealed, into what is being written, without a gap; and behind any event again.
#[test]
fn a_watch_goes_from_segments_into_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { segment_size: Some(SMALL_SEGMENTS), ..Setup::default() };
    let mut server = node::start_in(dir.path(), &setup);
    let mut client = server.client();
    for batch in 0..8 {
        write_batch(&mut client, batch * 100, 100);
    }
    wait_for_segments(&mut client, 3);
    assert!(server.stop());
    server = node::start_in(dir.path(), &setup);
    client = server.client();
    let mut all = Watcher::start(server.addr(), "/api/v1/watch?from=0", &[]).unwrap();
    let mut of_k9 = Watcher::start(server.addr(), "/api/v1/watch?from=0&prefix=k9", &[]).unwrap();
    for batch in 8..12 {
        write_batch(&mut client, batch * 100, 100);
    }
    for seq in 0..1_200 {
        let (id, event, data) = all.event();
        assert_eq!((id, &*event), (seq, "put"));
        assert_eq!(
            (&data["key"], &data["value"]),
            (&format!("k{}", seq % 97).into(), &format!("v{seq}").into())
        );
    }
    for seq in (0..1_200).filter(|seq| format!("k{}", seq % 97).starts_with("k9")) {
        assert_eq!(of_k9.event().0, seq);
    }
    for last in [0, 150, 799, 1_000, 1_198] {
        let id = last.to_string();
        let mut resumed =
            Watcher::start(server.addr(), "/api/v1/watch?from=5", &[("Last-Event-ID", &id)]).unwrap();
        for seq in last + 1..1_200 {
            assert_eq!(resumed.event().0, seq);
        }
    }
}

/// Nothing is kept for a watcher that takes nothing, and writers do not notice it. It finds everything in its place
/// when it goes on.
#[test]
fn a_slow_watcher_costs_one_stretch() {
    let server = node::start(&Setup { segment_size: Some("1MiB"), ..Setup::default() });
    let mut client = server.client();
    let value = "x".repeat(32 << 10);
    let lines: String = (0..64).map(|n| format!("{{\"key\":\"k{n}\",\"value\":\"{value}\"}}\n")).collect();
    let mut batches = 0;
    let mut write = |count| {
        for _ in 0..count {
            client.post("/api/v1/batch", "application/x-ndjson", &lines).is(200);
            batches += 1;
            // What is not sealed yet is in memory, however many watch: on a busy machine, much of it.
            if batches % 10 == 0 {
                wait_for_segments(&mut client, batches);
            }
        }
        server.resident_bytes()
    };
    // First with nobody watching: what the allocator, the caches and the log's buffers take.
    let before = write(60);
    let mut slow = Watcher::start(server.addr(), "/api/v1/watch?from=0", &[]).unwrap();
    // And 360 MiB that it does not take.
    let grown = write(180).saturating_sub(before);
    // Segments that were just sealed stay in memory, as a part of the caches: 144 MiB of it.
    assert!(grown < 300 << 20, "{} MiB more", grown >> 20);
    for seq in 0..240 * 64 {
        let (id, _, data) = slow.event();
        assert_eq!((id, data["value"].as_str().map(str::len)), (seq, Some(value.len())));
    }
}

#[test]
fn the_command_line_follows_the_ledger() {
    let server = node::start(&Setup { segment_size: Some(SMALL_SEGMENTS), ..Setup::default() });
    let mut client = server.client();
    write_batch(&mut client, 0, 300);
    let mut child = Command::new(env!("CARGO_BIN_EXE_scribe"))
        .args(["watch", "--from", "10", "--prefix", "k1", "--limit", "37", "--format", "json", "--server"])
        .arg(format!("http://{}", server.addr()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let wanted = (10..400).filter(|seq| format!("k{}", seq % 97).starts_with("k1"));
    for (n, seq) in wanted.take(37).enumerate() {
        // The first 300 records have 33 of them.
        if n == 33 {
            write_batch(&mut client, 300, 100);
        }
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!((line["seq"].as_u64(), line["op"].as_str()), (Some(seq), Some("put")));
        assert_eq!(line["value"], format!("v{seq}"));
    }
    assert!(child.wait().unwrap().success());
}

/// What a copy of the ledger is made of: files that are the same for ever, whole or in parts, and a signature under
/// where they end.
#[test]
fn segments_are_served_as_they_lie_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { segment_size: Some(SMALL_SEGMENTS), ..Setup::default() };
    let server = node::start_in(dir.path(), &setup);
    let mut client = server.client();
    for n in 0..10 {
        write_batch(&mut client, n * 100, 100);
    }
    let manifest = wait_for_segments(&mut client, 3);
    let keys = keys(&mut client);
    for row in &manifest[..3] {
        let (id, digest) = (row["id"].as_u64().unwrap(), row["digest"].as_str().unwrap());
        let path = format!("/api/v1/segments/{id}/file");
        let on_disk = std::fs::read(dir.path().join(format!("segments/segment-{id:020}.seg"))).unwrap();
        let whole = client.get(&path).is(200);
        assert!(whole.body == on_disk);
        assert_eq!(whole.header("etag"), Some(&*format!("\"{digest}\"")));
        assert_eq!(whole.header("accept-ranges"), Some("bytes"));
        let size = on_disk.len();
        assert_eq!(row["bytes"].as_u64(), Some(size as u64));
        let head = client.call("HEAD", &path, &[], b"").is(200);
        assert_eq!(head.header("content-length"), Some(&*size.to_string()));

        let part = client.call("GET", &path, &[("Range", "bytes=100-2099")], b"").is(206);
        assert!(part.body == on_disk[100..2_100]);
        assert_eq!(part.header("content-range"), Some(&*format!("bytes 100-2099/{size}")));
        let end = client.call("GET", &path, &[("Range", "bytes=-64")], b"").is(206);
        assert!(end.body == on_disk[size - 64..]);
        let same = [("Range", "bytes=0-0"), ("If-Range", whole.header("etag").unwrap())];
        assert_eq!(client.call("GET", &path, &same, b"").is(206).body, on_disk[..1]);
        let other = [("Range", "bytes=0-0"), ("If-Range", "\"another\"")];
        assert_eq!(client.call("GET", &path, &other, b"").is(200).body.len(), size);
        let behind = format!("bytes={size}-");
        client.call("GET", &path, &[("Range", &behind)], b"").is_problem(416, "range-not-satisfiable");

        let note = client.get(&format!("/api/v1/segments/{id}/checkpoint")).is(200);
        assert_eq!(note.header("content-type"), Some("text/plain; charset=utf-8"));
        let signed = Checkpoint::open(&Note::parse(&note.body).unwrap(), &keys).unwrap().0;
        assert_eq!(Some(signed.size()), row["end_seq"].as_u64());
        assert_eq!(*signed.root(), hash(&row["root"]));
    }
    for what in ["file", "checkpoint"] {
        client.get(&format!("/api/v1/segments/999999/{what}")).is_problem(404, "not-found");
        client.get(&format!("/api/v1/segments/one/{what}")).is_problem(400, "malformed");
        client.get(&format!("/api/v1/segments/0/{what}?x=1")).is_problem(400, "malformed");
    }
}
