//! A server that keeps a log in memory and answers as the contract says, or lies in one way at a time.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use scribe_ledger::{
    proof::checkpoint::Checkpoint,
    proof::{
        consistency::consistency_proof, inclusion::inclusion_proof, key::Signer, leaf::Leaf,
        memory::MemoryTree, tree::root,
    },
    types::{Op, Seq},
};
use serde_json::{Value as Json, json};

pub const ORIGIN: &str = "scribe/0123456789abcdef/1";

/// What is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    Nothing,
    /// Every record from the sixth on is another than it was, and the tree with them.
    Fork,
    /// The signature is over another text.
    Signature,
    /// Somebody else's key signs, under the log's name.
    Key,
    /// Values are not those that the leaves commit to.
    Value,
    /// Leaves are of other records than those that are in the tree.
    Leaf,
    /// Hashes are spelled in upper case.
    Hex,
    /// Proofs are cut short.
    Cut,
    /// There is no consistency proof to be had.
    NoProof,
    /// It answers nothing but the checkpoint: it is overloaded.
    Overloaded,
}

#[derive(Debug)]
struct Log {
    lie: Lie,
    /// Records under the checkpoint.
    size: u64,
}

/// Serves until it is dropped.
pub struct FakeLog {
    log: Arc<Mutex<Log>>,
    ends: Arc<AtomicBool>,
    addr: std::net::SocketAddr,
}

impl FakeLog {
    pub fn start(size: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (log, ends) =
            (Arc::new(Mutex::new(Log { lie: Lie::Nothing, size })), Arc::new(AtomicBool::new(false)));
        let (shared, ending) = (Arc::clone(&log), Arc::clone(&ends));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ending.load(Ordering::Acquire) {
                    return;
                }
                // A client that goes away is no concern of the server's.
                let _ = stream.and_then(|stream| answer(&stream, &shared));
            }
        });
        Self { log, ends, addr }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn show(&self, size: u64, lie: Lie) {
        *self.log.lock().unwrap() = Log { lie, size };
    }
}

impl Drop for FakeLog {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect(self.addr);
    }
}

fn answer(stream: &TcpStream, log: &Mutex<Log>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let (status, body) = log.lock().unwrap().answer(path);
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    (&*stream).write_all(format!("{head}{body}").as_bytes())?;
    stream.shutdown(Shutdown::Write)
}

pub fn signer() -> Signer {
    Signer::from_seed(ORIGIN, &[1; 32]).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Log {
    fn record(&self, seq: u64) -> (Leaf, Json) {
        let op = if seq % 4 == 3 { Op::Delete } else { Op::Put };
        let forked = if self.lie == Lie::Fork && seq > 5 { "forked " } else { "" };
        let (key, value) = (format!("key-{seq}"), format!("{forked}value of {seq}"));
        let leaf = Leaf::of(op, Seq(seq), 1_000 + seq, key.as_bytes(), value.as_bytes());
        let shown = match (op, self.lie) {
            (Op::Delete, _) => None,
            (Op::Put, Lie::Value) => Some("another value".to_owned()),
            (Op::Put, _) => Some(value),
        };
        let record = json!({
            "key": key, "value": shown, "op": op.name(), "seq": seq, "timestamp_ms": 1_000 + seq,
            "leaf": hex(&leaf.encode()), "leaf_hash": leaf.hash(),
        });
        (leaf, record)
    }

    fn tree(&self) -> MemoryTree {
        (0..self.size).map(|seq| self.record(seq).0.hash()).collect()
    }

    fn checkpoint(&self) -> String {
        let signed = Checkpoint::new(ORIGIN, self.size, root(&self.tree(), self.size).unwrap()).unwrap();
        let stranger = Signer::from_seed(ORIGIN, &[2; 32]).unwrap();
        match self.lie {
            Lie::Key => signed.sign(&stranger).unwrap().to_string(),
            Lie::Signature => {
                let note = signed.sign(&signer()).unwrap().to_string();
                note.replacen(&format!("\n{}\n", self.size), &format!("\n{}\n", self.size + 1), 1)
            }
            _ => signed.sign(&signer()).unwrap().to_string(),
        }
    }

    fn answer(&self, path: &str) -> (u16, String) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let number = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse::<u64>().ok()).unwrap_or_default()
        };
        let seq = path.rsplit('/').next().and_then(|seq| seq.parse::<u64>().ok()).unwrap_or_default();
        let tree = self.tree();
        let mut document = match path {
            "/checkpoint" => return (200, self.checkpoint()),
            _ if self.lie == Lie::Overloaded => return (503, json!({"type":"overloaded"}).to_string()),
            "/api/v1/keys" => json!({ "keys": [signer().verifier_key().to_string()] }),
            "/api/v1/proofs/consistency" if self.lie == Lie::NoProof => {
                return (404, json!({"type":"not-found","detail":"no such proof"}).to_string());
            }
            "/api/v1/proofs/consistency" => {
                let (from, to) = (number("from"), number("to"));
                let hashes = consistency_proof(&tree, from, to).unwrap();
                let root = |size| root(&tree, size).unwrap();
                json!({ "from": from, "to": to, "from_root": root(from), "to_root": root(to), "hashes": hashes })
            }
            _ if path.starts_with("/api/v1/proofs/inclusion/") => {
                let size = number("size");
                let leaf = self.record(if self.lie == Lie::Leaf { (seq + 1) % size } else { seq }).0;
                json!({
                    "leaf_index": seq, "tree_size": size, "leaf": hex(&leaf.encode()), "leaf_hash": leaf.hash(),
                    "root_hash": root(&tree, size).unwrap(),
                    "siblings": inclusion_proof(&tree, seq, size).unwrap(),
                })
            }
            _ if path.starts_with("/api/v1/records/") => self.record(seq).1,
            _ => return (404, json!({"type":"no-such-route"}).to_string()),
        };
        for list in ["siblings", "hashes"] {
            if let Some(hashes) = document.get_mut(list).and_then(Json::as_array_mut) {
                match self.lie {
                    Lie::Cut => drop(hashes.pop()),
                    Lie::Hex => hashes
                        .iter_mut()
                        .for_each(|hash| *hash = hash.as_str().unwrap_or_default().to_uppercase().into()),
                    _ => {}
                }
            }
        }
        (200, document.to_string())
    }
}
