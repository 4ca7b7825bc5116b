//! The HTTP server in this process, on a ledger that is a vector: what the handlers do is seen without a
//! pipeline behind them.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a stand-in for the node, outside every simulation"
)]

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use scribe_ledger::{
    api::{App, Backend, MemberView, NodeView, Room, Status, listen, serve},
    cluster::{admin::Admin, repair::Mended},
    config::LimitsConfig,
    error::{Code, Error, Result},
    metrics::{Metrics, MetricsSnapshot},
    pipeline::message::Written,
    read::{Consistency, Page, Proofs, Record, Scan, Stretch},
    state::batch::{Batch, BatchView, Condition, Draft},
    types::{Op, Seq, Versions},
};
use tokio::sync::{oneshot, watch};

use super::{Server, Setup};

type Outcome = ([u8; 16], Result<Written>);

#[derive(Default)]
struct Ledger {
    records: Vec<Record>,
    overloaded: bool,
    scan_visits_max: usize,
    outcomes: HashMap<[u8; 16], Outcome>,
}

impl Ledger {
    fn newest(&self, key: &[u8], before: u64) -> Option<&Record> {
        let end = self.records.len().min(usize::try_from(before).unwrap_or(usize::MAX));
        self.records[..end].iter().rev().find(|record| record.key == key)
    }

    fn apply(&mut self, draft: Draft) -> Result<Written> {
        let mut batch = Batch::default();
        batch.append(draft);
        let view = BatchView::open(batch.encode(0)?)?;
        let group = view.groups().next();
        if let Some(group) = &group
            && let Some((content, outcome)) = self.outcomes.get(&group.key_hash)
        {
            return match outcome {
                _ if *content != group.content_hash => {
                    Err(Error::new(Code::IdempotencyMismatch, "used before with other content"))
                }
                Ok(written) => Ok(Written { replayed: true, ..*written }),
                Err(error) => Err(error.clone().replayed(true)),
            };
        }
        let outcome = self.write(&view);
        if let Some(group) = group {
            self.outcomes.insert(group.key_hash, (group.content_hash, outcome.clone()));
        }
        outcome
    }

    fn write(&mut self, view: &BatchView) -> Result<Written> {
        let first_seq = Seq(self.records.len() as u64);
        if let Some(condition) = view.conditions().next() {
            let op = view.ops().next().unwrap();
            let newest = self.newest(op.key, u64::MAX).filter(|record| record.op == Op::Put);
            let holds = match condition.condition {
                Condition::Absent => newest.is_none(),
                Condition::Present => newest.is_some(),
                Condition::At(seq) => newest.is_some_and(|record| record.seq == Seq(seq)),
            };
            if !holds {
                return Err(Error::new(Code::PreconditionFailed, "the condition does not hold"));
            }
        }
        for op in view.ops() {
            let seq = Seq(self.records.len() as u64);
            let (key, value) = (Bytes::copy_from_slice(op.key), Bytes::copy_from_slice(op.value));
            self.records.push(Record { seq, op: op.op, timestamp_ms: 1_700_000_000_000, key, value });
        }
        Ok(Written { first_seq, count: self.records.len() as u64 - first_seq.0, replayed: false })
    }

    fn scan(&self, scan: &Scan) -> Page {
        let position = scan.position.unwrap_or(Seq(self.records.len() as u64));
        let mut newest = BTreeMap::new();
        for record in &self.records[..usize::try_from(position.0).unwrap()] {
            newest.insert(record.key.clone(), record);
        }
        let mut page = Page { position, ..Page::default() };
        let mut bytes = 0;
        let wanted = |record: &&Record| {
            let key = &record.key;
            key.starts_with(&scan.prefix)
                && scan.start.as_ref().is_none_or(|start| key >= start)
                && scan.end.as_ref().is_none_or(|end| key < end)
                && scan.after.as_ref().is_none_or(|after| key > after)
        };
        let mut last = None;
        for (visited, record) in newest.into_values().filter(wanted).enumerate() {
            let full =
                page.records.len() == scan.limit || (bytes >= scan.bytes_max && !page.records.is_empty());
            if full || visited == self.scan_visits_max {
                page.next = last;
                break;
            }
            last = Some(record.key.clone());
            if record.op == Op::Put {
                bytes += record.key.len() + record.value.len();
                page.records.push(record.clone());
            }
        }
        page
    }
}

/// Once this key is written, writes are never answered.
pub const STALLS: &str = "stalls";
/// Reads of this key panic.
pub const PANICS: &str = "panics";

/// The ledger, and how many records it has.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Ledger>>, watch::Sender<u64>);

struct FakeRoom(Fake);

impl Backend for Fake {
    type Permit = FakeRoom;

    fn permit(&self, _bytes: usize) -> Result<FakeRoom> {
        if self.0.lock().unwrap().overloaded {
            let error = Error::new(Code::Overloaded, "the pipeline is full");
            return Err(error.retry_after(Duration::from_millis(1_500)));
        }
        Ok(FakeRoom(self.clone()))
    }

    async fn barrier(&self, _consistency: Consistency) -> Result<()> {
        Ok(())
    }

    fn next_seq(&self) -> Seq {
        Seq(self.0.lock().unwrap().records.len() as u64)
    }

    fn newest(&self, key: &[u8]) -> Result<Option<Record>> {
        assert_ne!(key, PANICS.as_bytes(), "as asked for");
        Ok(self.0.lock().unwrap().newest(key, u64::MAX).cloned())
    }

    fn as_of(&self, key: &[u8], at: Seq) -> Result<Option<Record>> {
        Ok(self.0.lock().unwrap().newest(key, at.0 + 1).cloned())
    }

    fn history(
        &self,
        key: &[u8],
        before: Option<Seq>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>> {
        let ledger = self.0.lock().unwrap();
        let before = before.unwrap_or(Seq(u64::MAX));
        let mut versions = Versions::at_most(limit, bytes_max);
        for record in ledger.records.iter().rev().filter(|record| record.key == key && record.seq < before) {
            if versions.is_full() {
                break;
            }
            versions.push(record.clone());
        }
        Ok(versions.into_records())
    }

    fn record(&self, seq: Seq) -> Result<Option<Record>> {
        Ok(usize::try_from(seq.0).ok().and_then(|at| self.0.lock().unwrap().records.get(at).cloned()))
    }

    fn scan(&self, scan: &Scan) -> Result<Page> {
        Ok(self.0.lock().unwrap().scan(scan))
    }

    async fn written_beyond(&self, position: Seq) {
        self.1.subscribe().wait_for(|&records| records > position.0).await.unwrap();
    }

    fn is_sealed(&self, position: Seq) -> bool {
        position.0.is_multiple_of(2)
    }

    fn stretch(&self, from: Seq, prefix: &[u8]) -> Result<Stretch> {
        let record = self.record(from)?;
        let next = from.plus(record.iter().len() as u64);
        Ok(Stretch {
            records: record.into_iter().filter(|record| record.key.starts_with(prefix)).collect(),
            next,
        })
    }

    async fn mend(&self, error: Error) -> Result<Mended> {
        Err(error)
    }

    fn proofs(&self) -> Result<&Proofs> {
        Err(Error::new(Code::Unavailable, "a vector proves nothing"))
    }

    fn admin(&self) -> Result<&Admin> {
        Err(Error::new(Code::Unavailable, "a vector has no members"))
    }
}

impl Room for FakeRoom {
    fn cover(&mut self, _bytes: usize) -> Result<()> {
        Ok(())
    }

    async fn submit(self, draft: Draft) -> Result<Written> {
        let outcome = self.0.0.lock().unwrap().apply(draft);
        self.0.1.send_replace(self.0.next_seq().0);
        let stalls = self.0.newest(STALLS.as_bytes()).unwrap().is_some();
        if stalls {
            std::future::pending::<()>().await;
        }
        outcome
    }
}

struct One {
    disk_full: bool,
    unhealthy: bool,
}

impl NodeView for One {
    fn status(&self) -> Status {
        Status { node_id: 1, role: "leader", leader_id: Some(1), term: 1, ..Status::default() }
    }

    fn takes_writes(&self) -> Result<()> {
        if self.disk_full { Err(Error::new(Code::DiskFull, "disk full: as asked for")) } else { Ok(()) }
    }

    fn healthy(&self) -> Result<()> {
        if self.unhealthy { Err(Error::new(Code::NoQuorum, "unhealthy: as asked for")) } else { Ok(()) }
    }

    fn metrics(&self) -> MetricsSnapshot {
        MetricsSnapshot { total_keys: Some(0), current_leader: Some(1), ..MetricsSnapshot::default() }
    }

    fn members(&self) -> Vec<MemberView> {
        self.leader().into_iter().collect()
    }

    fn leader(&self) -> Option<MemberView> {
        let http_addr = "127.0.0.1:8001".to_owned();
        Some(MemberView {
            node_id: 1,
            role: "leader",
            http_addr,
            healthy: Some(true),
            ..MemberView::default()
        })
    }
}

/// A server on a thread of its own.
pub struct FakeServer {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<bool>>,
}

/// Starts a server.
pub fn start(setup: &Setup) -> FakeServer {
    let mut limits = LimitsConfig::default();
    limits.read_timeout = setup.read_timeout.unwrap_or(limits.read_timeout);
    limits.max_batch_request_bytes = setup.max_batch_request_bytes.unwrap_or(limits.max_batch_request_bytes);
    limits.max_connections = setup.max_connections.unwrap_or(limits.max_connections);
    limits.write_timeout = setup.write_timeout.unwrap_or(limits.write_timeout);
    let backend = Fake::default();
    {
        let mut ledger = backend.0.lock().unwrap();
        ledger.overloaded = setup.overloaded;
        ledger.scan_visits_max = setup.scan_visits_max.unwrap_or(usize::MAX);
    }
    limits.max_requests_per_client_per_sec = setup.max_requests_per_client_per_sec.unwrap_or(0);
    let app = App {
        backend,
        node: Arc::new(One { disk_full: setup.disk_full, unhealthy: setup.unhealthy }),
        metrics: Arc::new(Metrics::new()),
        limits,
    };
    let (stop, stopped) = oneshot::channel();
    let (bound, addr) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            // On a worker thread, as in a node, and not on the one that only waits.
            tokio::spawn(serve(app, listener, async { drop(stopped.await) })).await.unwrap()
        })
    });
    let addr = addr.recv().unwrap();
    FakeServer { addr, stop: Some(stop), thread: Some(thread) }
}

impl Server for FakeServer {
    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn stop(&mut self) -> bool {
        drop(self.stop.take());
        self.thread.take().is_some_and(|thread| thread.join().unwrap())
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}
