//! Clients that write without a pause while something happens to the cluster.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    process::{Node, ask, connect},
    wait::{PATIENCE, wait_until},
};

/// A node that does not answer for so long is taken for gone.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// What the clients have heard.
#[derive(Default)]
pub struct Heard {
    /// The position of every key whose write was answered.
    pub written: BTreeMap<String, u64>,
    /// Answers that ask for a retry by their code, by code; 0 for a connection that broke.
    pub retried: BTreeMap<u16, usize>,
    /// Answers that nobody should get.
    pub wrong: Vec<String>,
    /// The longest time between two answers of one client.
    pub longest_pause: Duration,
}

/// One client at each of the nodes; each key is written until it is answered, by the same idempotency key.
pub struct Writers {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// A client that stays with each of these nodes, whose keys begin with `name`.
    pub fn start(name: &str, nodes: &[&Node]) -> Self {
        let (heard, stop) = (Arc::<Mutex<Heard>>::default(), Arc::<AtomicBool>::default());
        let client = |node: &&Node| {
            let (to, heard, stop) = (node.spec.http, heard.clone(), stop.clone());
            let name = format!("{name}-{}", node.id());
            thread::spawn(move || write(&name, to, &heard, &stop))
        };
        let threads = nodes.iter().map(client).collect();
        Self { heard, stop, threads }
    }

    /// Waits until so many more writes have been answered.
    #[track_caller]
    pub fn wait_more(&self, count: usize) {
        let enough = self.heard.lock().written.len() + count;
        wait_until("the clients go on", || self.heard.lock().written.len() >= enough);
    }

    /// How many writes have been answered so far.
    pub fn answered(&self) -> usize {
        self.heard.lock().written.len()
    }

    /// Ends them, each with an answer for what it was writing.
    pub fn stop(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.heard.lock())
    }
}

/// The value of a key.
pub fn value(key: &str) -> String {
    format!("value of {key}")
}

fn write(name: &str, to: SocketAddr, heard: &Mutex<Heard>, stop: &AtomicBool) {
    let (mut connection, mut last) = (None, Instant::now());
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("{name}-{n}");
        let begun = Instant::now();
        let seq = loop {
            // A node may stay away until the test is over.
            if stop.load(Ordering::Relaxed) && connection.is_none() || begun.elapsed() > PATIENCE * 2 {
                return;
            }
            if connection.is_none() {
                connection = connect(to, ANSWER_PATIENCE).ok();
            }
            let path = format!("/{key}");
            let answer = connection.as_mut().map(|client| {
                ask(client, "PUT", &path, &[("Idempotency-Key", &key)], value(&key).as_bytes())
            });
            let status = match answer {
                Some(Ok(answer)) if answer.status == 201 => break answer.json()["seq"].as_u64().unwrap(),
                Some(Ok(answer)) => {
                    if !matches!(answer.status, 503 | 504) {
                        heard.lock().wrong.push(format!("{key}: {answer:?}"));
                        return;
                    }
                    answer.status
                }
                _ => {
                    connection = None;
                    0
                }
            };
            *heard.lock().retried.entry(status).or_default() += 1;
            thread::park_timeout(Duration::from_millis(10));
        };
        let mut heard = heard.lock();
        heard.written.insert(key, seq);
        heard.longest_pause = heard.longest_pause.max(last.elapsed());
        last = Instant::now();
    }
}

/// Checks that a node has all that was answered, by linearizable reads.
#[track_caller]
pub fn check_has(node: &Node, heard: &Heard) {
    let mut client = connect(node.spec.http, PATIENCE).unwrap();
    for (n, (key, seq)) in heard.written.iter().enumerate() {
        // The first read waits until all is applied here; what is applied stays.
        let consistency = if n == 0 { "linearizable" } else { "stale" };
        let path = format!("/{key}?consistency={consistency}");
        let read = ask(&mut client, "GET", &path, &[], b"").unwrap().is(200);
        assert_eq!(String::from_utf8_lossy(&read.body), value(key), "{key} at node {}", node.id());
        assert_eq!(read.header("scribe-seq"), Some(&*seq.to_string()), "{key} at node {}", node.id());
    }
}
