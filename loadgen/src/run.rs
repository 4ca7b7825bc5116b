//! Runs a workload: N connections, each with one request in flight, on few threads.
//!
//! Takes a [`Plan`], gives what was [`Measured`]. A closed loop: what is measured is how much the server does when
//! the next request waits for the last answer, not how it does at a given rate. Nothing is retried; every
//! failure is counted under its kind.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use scribe_ledger::client::ClientError;
use tokio::task::LocalSet;

use crate::{
    http::{Connection, Head, Target},
    measured::{Measured, Operations},
    process::Process,
    server::ServerWatch,
    workload::{BulkRequest, GetRequest, Keys, PutRequest, Random},
};

/// The longest latency that is told apart: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
/// How long a connection waits before it tries again after the server refused or broke it.
const BACKOFF: Duration = Duration::from_millis(20);
/// The longest it does what `Retry-After` says: a load generator that sleeps measures nothing.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What each request does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// `PUT /{key}`.
    Put,
    /// `POST /api/v1/batch` with this many records.
    Bulk { records: usize },
    /// `GET /{key}`.
    Get,
    /// A GET with this probability, else a PUT.
    Mixed { read_ratio: f64 },
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After this many records written or keys read.
    Count(u64),
    /// After this time.
    Time(Duration),
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub work: Work,
    pub target: Target,
    pub connections: usize,
    pub threads: usize,
    pub limit: Limit,
    /// Runs before it, and is not counted.
    pub warmup: Duration,
    /// A run in which nothing at all is answered for this long is given up.
    pub stall: Duration,
    pub keys: Keys,
    pub value_bytes: usize,
    /// Empty, or begins with `?`.
    pub read_query: String,
    pub seed: u64,
    /// The server, when it is known; otherwise it is looked for on this machine.
    pub server: Option<Process>,
}

/// What all connections share.
struct Shared {
    plan: Plan,
    /// The next write's place in the order of keys.
    next_write: AtomicU64,
    /// Records begun since measuring began.
    begun: AtomicU64,
    /// Requests answered, in any way.
    answered: AtomicU64,
    measure_from: Instant,
    stop_at: Option<Instant>,
}

/// What the connections of one thread have seen.
struct Tally {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    records: u64,
    errors: BTreeMap<String, u64>,
    bytes_sent: u64,
    bytes_received: u64,
    last_done: Option<Instant>,
}

fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).map_err(|error| format!("no histogram: {error}"))
}

impl Tally {
    fn new() -> Result<Self, String> {
        Ok(Self {
            reads: histogram()?,
            writes: histogram()?,
            records: 0,
            errors: BTreeMap::new(),
            bytes_sent: 0,
            bytes_received: 0,
            last_done: None,
        })
    }

    fn error(&mut self, kind: String) {
        *self.errors.entry(kind).or_default() += 1;
    }

    fn merge(&mut self, other: Self) -> Result<(), String> {
        let too_big = |error| format!("merging histograms: {error}");
        self.reads.add(other.reads).map_err(too_big)?;
        self.writes.add(other.writes).map_err(too_big)?;
        self.records += other.records;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.last_done = self.last_done.max(other.last_done);
        Ok(())
    }
}

/// Runs the plan to its end.
///
/// # Errors
/// When the server cannot be reached at all, or stops answering.
pub fn run(plan: Plan) -> Result<Measured, String> {
    if let Err(error) = std::net::TcpStream::connect_timeout(&plan.target.address, Duration::from_secs(5)) {
        return Err(plan.target.unreachable(&error));
    }
    let servers = [(format!("http://{}", plan.target.authority), plan.server.map(|server| server.pid))];
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let measure_from = Instant::now() + plan.warmup;
    let stop_at = match plan.limit {
        Limit::Count(_) => None,
        Limit::Time(time) => Some(measure_from + time),
    };
    let warmup = plan.warmup;
    let shared = Arc::new(Shared {
        plan,
        next_write: AtomicU64::new(0),
        begun: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        measure_from,
        stop_at,
    });
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || run_thread(&shared, number, threads))
        })
        .collect();
    thread::sleep(warmup);
    let watch = ServerWatch::begin(&servers);
    let own = Process::own();
    let (began, own_before) = (std::time::SystemTime::now(), own.cpu_secs());
    let mut total = Tally::new()?;
    for worker in workers {
        total.merge(worker.join().map_err(|_| "a load thread panicked".to_owned())??)?;
    }
    let own_after = own.cpu_secs();
    let servers = watch.finish();

    let elapsed = total.last_done.map_or(Duration::ZERO, |done| done - measure_from);
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let operations = |latency_us: Histogram<u64>, records| {
        (!latency_us.is_empty()).then(|| Operations { requests: latency_us.len(), records, latency_us })
    };
    let read = total.reads.len();
    Ok(Measured {
        plan: serde_json::Map::new(),
        command: std::env::args().collect(),
        began_unix_ms: began
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        elapsed,
        writes: operations(total.writes, total.records - read),
        reads: operations(total.reads, read),
        refused: total.errors,
        unknown: BTreeMap::new(),
        precondition_failed: 0,
        bytes_sent: total.bytes_sent,
        bytes_received: total.bytes_received,
        client_cpu_cores: own_after.zip(own_before).map(|(after, before)| (after - before) / seconds),
        timeline: Vec::new(),
        servers,
        truth: None,
    })
}

fn run_thread(shared: &Arc<Shared>, number: usize, threads: usize) -> Result<Tally, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime did not start: {error}"))?;
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let tasks = LocalSet::new();
    let workers: Vec<_> = (number..shared.plan.connections)
        .step_by(threads)
        .map(|connection| {
            let worker = Worker::new(Arc::clone(shared), Rc::clone(&tally), connection as u64);
            tasks.spawn_local(worker.run())
        })
        .collect();
    let all = async {
        for worker in workers {
            worker.await.map_err(|error| format!("a connection's task ended: {error}"))?;
        }
        Ok(())
    };
    let outcome = runtime.block_on(tasks.run_until(async {
        tokio::select! {
            outcome = all => outcome,
            message = stalled(shared) => Err(message),
        }
    }));
    drop(tasks);
    outcome?;
    let tally = Rc::into_inner(tally).ok_or("a connection's task is still there")?;
    Ok(tally.into_inner())
}

/// One watch for all connections costs less than a timer for each request.
async fn stalled(shared: &Shared) -> String {
    let stall = shared.plan.stall;
    let mut answered = 0;
    loop {
        tokio::time::sleep(stall).await;
        let now = shared.answered.load(Ordering::Relaxed);
        if now == answered {
            return format!("the server answered nothing for {} s (--stall)", stall.as_secs_f64());
        }
        answered = now;
    }
}

/// One connection and the requests it sends, one after the other.
struct Worker {
    shared: Arc<Shared>,
    tally: Rc<RefCell<Tally>>,
    rng: Random,
    put: PutRequest,
    get: GetRequest,
    bulk: Option<BulkRequest>,
    body: Vec<u8>,
}

/// What one turn of a worker's loop does.
enum Turn {
    Read,
    Write { first_index: u64, records: usize },
}

impl Worker {
    fn new(shared: Arc<Shared>, tally: Rc<RefCell<Tally>>, connection: u64) -> Self {
        let plan = &shared.plan;
        let (authority, key_bytes) = (&plan.target.authority, plan.keys.key_bytes());
        let bulk = match plan.work {
            Work::Bulk { records } => Some(BulkRequest::new(authority, records, key_bytes, plan.value_bytes)),
            _ => None,
        };
        Self {
            rng: Random::new(plan.seed, connection),
            put: PutRequest::new(authority, key_bytes, plan.value_bytes),
            get: GetRequest::new(authority, key_bytes, &plan.read_query),
            bulk,
            body: Vec::new(),
            tally,
            shared,
        }
    }

    /// Decides the next request; `None` when the run is over.
    fn turn(&mut self, now: Instant) -> Option<Turn> {
        let plan = &self.shared.plan;
        if self.shared.stop_at.is_some_and(|stop| now >= stop) {
            return None;
        }
        let mut records = match plan.work {
            Work::Bulk { records } => records as u64,
            _ => 1,
        };
        if let Limit::Count(count) = plan.limit
            && now >= self.shared.measure_from
        {
            let begun = self.shared.begun.fetch_add(records, Ordering::Relaxed);
            records = records.min(count.saturating_sub(begun));
            if records == 0 {
                return None;
            }
        }
        let read = match plan.work {
            Work::Get => true,
            Work::Mixed { read_ratio } => self.rng.unit() < read_ratio,
            Work::Put | Work::Bulk { .. } => false,
        };
        if read {
            return Some(Turn::Read);
        }
        let first_index = self.shared.next_write.fetch_add(records, Ordering::Relaxed);
        Some(Turn::Write { first_index, records: records as usize })
    }

    async fn run(mut self) {
        let mut connection = None;
        let mut now = Instant::now();
        while let Some(turn) = self.turn(now) {
            let live = match connection.take() {
                Some(live) => live,
                None => match self.shared.plan.target.connect().await {
                    Ok(live) => live,
                    Err(error) => {
                        // Not an answer: a server that is gone for good is a stall.
                        self.count_error(format!("connect: {}", error.kind()));
                        tokio::time::sleep(BACKOFF).await;
                        now = Instant::now();
                        continue;
                    }
                },
            };
            let pause;
            (connection, pause) = self.exchange(live, turn).await;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            now = Instant::now();
        }
    }

    /// Sends one request and counts what became of it. Gives the connection back if it can be used again,
    /// and how long to wait before the next request.
    async fn exchange(&mut self, mut live: Connection, turn: Turn) -> (Option<Connection>, Option<Duration>) {
        let plan = &self.shared.plan;
        let (request, records, read) = match turn {
            Turn::Read => (self.get.patch(self.rng.below(plan.keys.space())), 1, true),
            Turn::Write { first_index, records } => {
                let request = match &mut self.bulk {
                    None => self.put.patch(plan.keys.of_write(first_index), &mut self.rng),
                    Some(bulk) => {
                        if bulk.records() != records {
                            // Only the run's last batch is a shorter one.
                            let (authority, key_bytes) = (&plan.target.authority, plan.keys.key_bytes());
                            *bulk = BulkRequest::new(authority, records, key_bytes, plan.value_bytes);
                        }
                        bulk.patch(&plan.keys, first_index, &mut self.rng)
                    }
                };
                (request, records as u64, false)
            }
        };
        let bytes_sent = request.len() as u64;
        let begun = Instant::now();
        let outcome = live.exchange(request, &mut self.body).await;
        let done = Instant::now();
        let head = match outcome {
            Ok(head) => head,
            Err(broken) => {
                self.count_error(broken.kind());
                return (None, Some(BACKOFF));
            }
        };
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
        let connection = (!head.close).then_some(live);
        if !head.is_success() {
            return (connection, self.refused(&head));
        }
        if begun >= self.shared.measure_from {
            let mut tally = self.tally.borrow_mut();
            let latency_us = (done - begun).as_micros() as u64;
            let histogram = if read { &mut tally.reads } else { &mut tally.writes };
            histogram.saturating_record(latency_us);
            tally.records += records;
            tally.bytes_sent += bytes_sent;
            tally.bytes_received += (head.head_bytes + head.body_bytes) as u64;
            tally.last_done = tally.last_done.max(Some(done));
        }
        (connection, None)
    }

    fn refused(&self, head: &Head) -> Option<Duration> {
        let error = ClientError::from_answer(head.status, None, &self.body);
        self.count_error(format!("{} {}", head.status, error.slug()));
        if !error.is_retryable() {
            return None;
        }
        let asked = error.retry_after().or(head.retry_after_secs.map(Duration::from_secs));
        Some(asked.map_or(BACKOFF, |asked| asked.min(BACKOFF_MAX)))
    }

    fn count_error(&self, kind: String) {
        if Instant::now() >= self.shared.measure_from {
            self.tally.borrow_mut().error(kind);
        }
    }
}
