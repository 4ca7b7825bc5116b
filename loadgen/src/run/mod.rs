//! Runs a workload: connections on few threads, in a closed loop or at a pace.
//!
//! Takes a [`Plan`], gives what was [`Measured`] and, where that was asked for, every acknowledged write.
//! Nothing is retried; every failure is counted under its kind. In a closed loop each connection's next
//! request waits for the last answer; in an open loop requests are due at times of their own, and latency
//! counts from these.
//!
//! ```text
//! feed ── turn ──► lane or slot ── request ──► server ── answer ──► desk ──► tally ──► collector ──► Measured
//!  ▲ pacer calls        (a connection, a task)                       └──► journal ──► tally
//! ```

mod collect;
mod desk;
mod feed;
mod lane;
mod leader;
pub mod pacing;
mod pieces;
mod shared;
mod streams;
pub mod tally;
mod thread;
mod timer;

use std::{
    net::TcpStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use self::{
    collect::{Collector, End},
    desk::Keep,
    pacing::Pace,
    shared::{Phase, Shared},
    tally::Tally,
    thread::Job,
};
use crate::{
    http::{Patience, Target},
    journal::{Entry, OwnFile, Spec, writer::Writer},
    ledger::{self, Ledger},
    measured::Measured,
    observe::Observer,
    signals::{Signal, Signals},
    workload::{Records, requests::Format},
};

/// How long making a connection may take at most.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// What requests do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Workload {
    /// `PUT /{key}`.
    Put,
    /// `POST /api/v1/batch` with this many records.
    Bulk { records: u64, format: Format },
    /// `POST /api/v1/batch` with the lines of the user's own file: once, or until the run is over; at most
    /// so many records.
    File { records: u64, again: bool, records_max: Option<u64> },
    /// `GET /{key}`.
    Get,
    /// A GET with this probability, else a PUT.
    Mixed { read_ratio: f64 },
    /// A PUT if the key's newest version is the one last seen, or if there is none.
    Cas { create_only: bool },
}

impl Workload {
    /// How its bulk requests are written.
    pub const fn format(self) -> Format {
        match self {
            Self::File { .. } => Format::Ndjson,
            Self::Bulk { format, .. } => format,
            _ => Format::Binary,
        }
    }

    /// Records of one request.
    pub const fn batch(self) -> u64 {
        match self {
            Self::Bulk { records, .. } | Self::File { records, .. } => records,
            _ => 1,
        }
    }
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After this many records written or keys read.
    Count(u64),
    /// After this time.
    Time(Duration),
    /// When the file ends.
    File,
}

/// How requests are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.1 with so many requests in flight on a connection.
    One { depth: usize },
    /// HTTP/2 with so many streams on a connection.
    Two { streams: usize },
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub workload: Workload,
    /// At least one.
    pub targets: Vec<Target>,
    pub leader_aware: bool,
    pub connections: usize,
    pub threads: usize,
    pub http: Http,
    /// An open loop; without it, a closed one.
    pub pace: Option<Pace>,
    pub limit: Limit,
    /// Runs before it, and is not counted.
    pub warmup: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// A run in which nothing at all is answered for this long is given up.
    pub stall: Duration,
    pub records: Records,
    /// Writes are numbered from here on.
    pub first_write: u64,
    /// The user's own records.
    pub file: Option<PathBuf>,
    /// Empty, or begins with `?`.
    pub read_query: String,
    pub seed: u64,
    /// The servers' processes, as far as they are told.
    pub server_pid: Option<u32>,
    /// Keep what is acknowledged, to be read back.
    pub keep: bool,
    /// Where to keep it.
    pub journal: Option<PathBuf>,
}

impl Plan {
    /// How long making a connection may take.
    pub fn connect_time(&self) -> Duration {
        self.timeout.min(CONNECT_TIME_MAX)
    }

    /// How long servers are borne with that are asked about this run.
    pub const fn patience(&self) -> Patience {
        Patience { timeout: self.timeout, stall: self.stall }
    }
}

/// What became of a run.
pub struct Outcome {
    pub measured: Measured,
    /// In an open loop, how late requests were sent because of this program alone: p50, p99 and most.
    pub late_us: Option<[u64; 3]>,
    /// How its writes can be found again, if that was asked for.
    pub spec: Option<Spec>,
    /// What became of them, if that was to be kept in memory.
    pub entries: Vec<Entry>,
    /// No write from this one on was begun.
    pub writes_end: u64,
    /// Why it ended before its time, if that is the servers' fault or the journal's.
    pub failure: Option<String>,
    /// Somebody asked for its end.
    pub interrupted: Option<Signal>,
}

/// How the writes of this plan can be found again.
async fn spec(plan: &Plan) -> Result<Spec, String> {
    let Ledger { url, cluster_id, end, .. } = any_ledger(plan).await?;
    Ok(Spec {
        cluster_id,
        first_seq: end
            .ok_or_else(|| format!("/api/v1/status of {url} does not say where the ledger ends"))?,
        batch: plan.workload.batch() as u32,
        file: plan.file.as_deref().map(OwnFile::of).transpose()?,
        ..Spec::of(&plan.records, plan.seed, url)
    })
}

/// The ledger, as the first server says that can be asked.
async fn any_ledger(plan: &Plan) -> Result<Ledger, String> {
    let mut first = None;
    for target in &plan.targets {
        match ledger::ask(target, plan.timeout).await {
            Ok(ledger) => return Ok(ledger),
            Err(why) => _ = first.get_or_insert(why),
        }
    }
    Err(first.unwrap_or_default())
}

/// Runs the plan to its end.
///
/// # Errors
/// When no server can be reached, or the run cannot be set up. What happens later is in the [`Outcome`].
pub fn run(plan: Plan, observer: &mut dyn Observer) -> Result<Outcome, String> {
    reach(&plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime did not start: {error}"))?;
    let pieces = plan.file.as_deref().map(|file| pieces::read(file, plan.workload)).transpose()?;
    let (file, mut file_ends) = match pieces {
        Some((file, ends)) => (Some(file), Some(ends)),
        None => (None, None),
    };
    let kept = plan.keep || plan.journal.is_some();
    let spec = if kept { Some(runtime.block_on(spec(&plan))?) } else { None };
    let shared = Arc::new(Shared::new(plan, file));
    if let Some(leader) = &shared.leader
        && !runtime.block_on(leader.ask())
    {
        return Err("--leader-aware: no server says who leads (GET /leader)".to_owned());
    }
    let plan = &shared.plan;

    let mut tallies: Vec<_> = Vec::new();
    let mut new_tally = || {
        let tally = Arc::new(Mutex::new(Tally::new()));
        tallies.push(Arc::clone(&tally));
        tally
    };
    let memory = Arc::new(Mutex::new(Vec::new()));
    let mut journal = None;
    if let (Some(path), Some(spec)) = (&plan.journal, &spec) {
        let (for_end, for_failure) = (Arc::clone(&shared), Arc::clone(&shared));
        let end = move || for_end.writes_end();
        let stop = move || for_failure.enter(Phase::Finishing);
        journal = Some(Writer::create(path, spec, new_tally(), end, stop)?);
    }
    let keep = match &journal {
        Some(journal) => Keep::Journal(journal.fates()),
        None if plan.keep => Keep::Memory(Arc::clone(&memory)),
        None => Keep::Nothing,
    };

    let signals = {
        let _entered = runtime.enter();
        // From here on there is something to lose.
        Signals::listen().map_err(|error| format!("catching signals: {error}"))?
    };
    let threads = plan.threads.clamp(1, plan.connections);
    let (ready, all_ready) = mpsc::channel();
    let (ended, ends) = tokio::sync::mpsc::unbounded_channel();
    let mut starts = Vec::new();
    for number in 0..threads {
        let (start, started) = mpsc::channel();
        starts.push(start);
        let (tally, keep, ready) = (new_tally(), keep.clone(), ready.clone());
        let job = Job { shared: Arc::clone(&shared), number, threads, tally, keep, ready, start: started };
        let ended = ended.clone();
        std::thread::spawn(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| thread::run(job)));
            let _ = ended.send(outcome.unwrap_or_else(|_| Err("a load thread panicked".to_owned())));
        });
    }
    drop((ready, ended, keep));
    // A thread that could not even begin drops its sender, too.
    for () in all_ready.iter().take(threads) {}
    // Asking takes a moment in which a run that has no warm-up would already be under way.
    let servers = plan.warmup.is_zero().then(|| collect::watch_servers(plan));
    let clock = shared.start(Instant::now());
    for start in starts {
        let _ = start.send(clock);
    }

    let mut collector = Collector::new(Arc::clone(&shared), clock, tallies, servers);
    let End { failure, interrupted } = runtime.block_on(collector.watch(ends, threads, signals, observer));
    shared.close_file();
    let mut failures = failure;
    let mut fail = |why: String| failures.get_or_insert(why).len();
    if let Some(Err(why)) = file_ends.as_mut().map(|ends| ends.recv().unwrap_or(Ok(()))) {
        fail(why);
    }
    if let Some(Err(why)) = journal.map(Writer::close) {
        fail(why);
    }
    let entries = std::mem::take(&mut *memory.lock().unwrap_or_else(PoisonError::into_inner));
    let (measured, late_us) = collector.finish(observer);
    let writes_end = shared.writes_end();
    Ok(Outcome { measured, late_us, spec, entries, writes_end, failure: failures, interrupted })
}

/// At least one server has to be there.
fn reach(plan: &Plan) -> Result<(), String> {
    let mut first = None;
    for target in &plan.targets {
        match TcpStream::connect_timeout(&target.address, plan.connect_time()) {
            Ok(_) => return Ok(()),
            Err(error) => _ = first.get_or_insert_with(|| target.unreachable(&error)),
        }
    }
    Err(first.unwrap_or_else(|| "no server was given".to_owned()))
}
