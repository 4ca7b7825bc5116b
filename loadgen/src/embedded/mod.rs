//! `scribe-loadgen embedded`: what the ledger bears when nothing stands between it and its callers.
//!
//! Takes a [`Plan`], gives what was `Measured`, for the same reports as runs against servers; the part about
//! servers is empty. Threads call one ledger in closed loops (`caller`); what they count (`count`) is gathered
//! here once a second. At the end the directory may be opened again and read back (`truth`).
//!
//! ```text
//! caller ── get, apply_batch ──► Ledger
//!   └─► Count (a lock of its own) ──► gather: tick, total ──► Measured
//! ```

mod caller;
mod count;
mod truth;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use scribe_ledger::Ledger;
use serde_json::{Map, Value as Json};

use self::{
    caller::{Caller, Shared},
    count::Count,
};
use crate::{
    args::EmbeddedArgs,
    measured::{Measured, Tick},
    observe::{Observer, Totals},
    process::Process,
    run::Limit,
    workload::{
        Records,
        keys::{Keys, Order},
        values::Values,
    },
};

const KEY_SPACE_DEFAULT: u64 = 1_000_000;
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// Bytes of keys and values in one batch: well below what the ledger admits at a time.
const BATCH_BYTES_MAX: u64 = 64 << 20;
const TICK: Duration = Duration::from_secs(1);
/// How often the end of the threads is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    dir: Option<PathBuf>,
    threads: usize,
    /// Records of one write.
    batch: u64,
    read_ratio: f64,
    fill: bool,
    limit: Limit,
    warmup: Duration,
    records: Records,
    seed: u64,
    verify: bool,
    about: Map<String, Json>,
}

impl Plan {
    /// What the command line means.
    ///
    /// # Errors
    /// When its arguments do not go together.
    pub fn of(args: &EmbeddedArgs) -> Result<Self, String> {
        let (choice, length) = (&args.choice, &args.length);
        let writes_only = args.read_ratio == 0.0;
        let order = choice.keys.unwrap_or(if writes_only { Order::Sequential } else { Order::Uniform });
        let space = choice.key_space.or(match (writes_only, order) {
            (true, Order::Sequential) => None,
            (true, Order::Uniform) => Some(length.count.unwrap_or(KEY_SPACE_DEFAULT)),
            _ => Some(KEY_SPACE_DEFAULT),
        });
        let keys = Keys::new(choice.key_bytes, space, order, choice.seed)?;
        let sizes = args.values.value_bytes;
        let batch = u64::from(args.batch);
        let bytes = batch * (choice.key_bytes + sizes.max) as u64;
        if bytes > BATCH_BYTES_MAX {
            return Err(format!(
                "--batch: {batch} records have up to {bytes} bytes, the most is {BATCH_BYTES_MAX}"
            ));
        }
        let duration = length.duration.unwrap_or(DURATION_DEFAULT);
        let mut plan = Self {
            dir: args.dir.clone(),
            threads: usize::from(args.threads),
            batch,
            read_ratio: args.read_ratio,
            fill: args.fill.fill,
            limit: length.count.map_or(Limit::Time(duration), Limit::Count),
            warmup: length.warmup,
            records: Records { keys, values: Values::new(choice.seed, sizes, false) },
            seed: choice.seed,
            verify: args.verify,
            about: Map::new(),
        };
        plan.about = plan.in_words();
        Ok(plan)
    }

    fn in_words(&self) -> Map<String, Json> {
        let mut about = Map::new();
        let mut say = |key: &str, value: Json| _ = about.insert(key.to_owned(), value);
        say("command", "embedded".into());
        if let Some(dir) = &self.dir {
            say("dir", dir.display().to_string().into());
        }
        say("threads", self.threads.into());
        say("batch", self.batch.into());
        say("read_ratio", self.read_ratio.into());
        if self.fill {
            say("fill", true.into());
        }
        if !self.warmup.is_zero() {
            say("warmup_secs", self.warmup.as_secs_f64().into());
        }
        let Records { keys, values } = &self.records;
        say("keys", keys.order().to_string().into());
        say("key_space", keys.space().into());
        say("key_bytes", keys.key_bytes().into());
        say("value_bytes", values.sizes.to_string().into());
        say("seed", self.seed.into());
        about
    }
}

/// Runs the plan to its end.
///
/// # Errors
/// When the ledger cannot be opened or filled, or a thread panicked. Calls that fail are counted.
pub fn run(plan: &Plan, observer: &mut dyn Observer) -> Result<Measured, String> {
    // Not the ledger's own temporary directory: that one cannot be opened again.
    let temp = match plan.dir {
        None => {
            Some(tempfile::Builder::new().prefix("scribe-loadgen-").tempdir().map_err(|e| e.to_string())?)
        }
        Some(_) => None,
    };
    let dir = plan.dir.as_deref().or(temp.as_ref().map(tempfile::TempDir::path)).unwrap_or(".".as_ref());
    let open = || Ledger::open(dir).map_err(|error| error.to_string());
    let ledger = Arc::new(open()?);
    if plan.fill {
        fill(&ledger, plan)?;
    }
    let shared = Arc::new(Shared::new(ledger, plan.clone()));
    let (mut measured, acknowledged) = measure(&shared, observer)?;
    if plan.verify {
        // Its own memory may not vouch for what the disk has kept.
        drop(shared);
        measured.truth = Some(Ok(truth::check(&open()?, &plan.records, &acknowledged)?));
    }
    Ok(measured)
}

/// Writes every key once, so that reads find something.
fn fill(ledger: &Ledger, plan: &Plan) -> Result<(), String> {
    let keys = plan.records.keys.in_sequence();
    let records = Records { keys, ..plan.records.clone() };
    let mut batch = caller::Gathering::new(plan.batch);
    for write in 0..records.keys.space() {
        batch.add(&records, write)?;
        if batch.len() == plan.batch || write + 1 == records.keys.space() {
            batch.apply(ledger).map_err(|error| format!("filling the key space failed: {error}"))?;
        }
    }
    Ok(())
}

/// Lets the callers run and gathers what they count.
fn measure(
    shared: &Arc<Shared>,
    observer: &mut dyn Observer,
) -> Result<(Measured, Vec<truth::Acknowledged>), String> {
    let plan = &shared.plan;
    let counts: Vec<_> = (0..plan.threads).map(|_| Arc::default()).collect();
    let begin = Instant::now();
    let measure_from = begin + plan.warmup;
    if let Limit::Time(time) = plan.limit {
        shared.stop_at(measure_from + time);
    }
    let threads: Vec<_> = counts
        .iter()
        .enumerate()
        .map(|(number, count)| {
            let caller = Caller::new(Arc::clone(shared), number as u64, Arc::clone(count));
            std::thread::spawn(move || caller.run())
        })
        .collect();

    let mut gather = Gather::new(&counts, measure_from);
    let mut own_cpu_secs = Process::own().cpu_secs();
    let mut began_unix_ms = unix_ms();
    let mut warm = plan.warmup.is_zero();
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        std::thread::sleep(LOOK_EVERY);
        let now = Instant::now();
        if !warm && now >= measure_from {
            warm = true;
            gather.forget(now);
            (own_cpu_secs, began_unix_ms) = (Process::own().cpu_secs(), unix_ms());
        }
        if now >= gather.ticked_at + TICK {
            gather.tick(now, plan.limit, !warm, observer);
        }
    }
    let end = Instant::now();
    gather.tick(end, plan.limit, false, observer);
    observer.done();
    let mut acknowledged = Vec::new();
    for thread in threads {
        acknowledged.extend(thread.join().map_err(|_| "a load thread panicked".to_owned())?);
    }
    let elapsed = end.saturating_duration_since(gather.began);
    let own = Process::own().cpu_secs().zip(own_cpu_secs);
    let measured = Measured {
        plan: plan.about.clone(),
        command: std::env::args().collect(),
        began_unix_ms,
        elapsed,
        client_cpu_cores: own.map(|(now, then)| (now - then) / elapsed.as_secs_f64().max(1e-9)),
        timeline: gather.timeline,
        ..gather.total.measured()
    };
    Ok((measured, acknowledged))
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// What all callers have counted.
struct Gather<'a> {
    counts: &'a [count::Handle],
    began: Instant,
    ticked_at: Instant,
    total: Count,
    timeline: Vec<Tick>,
}

impl<'a> Gather<'a> {
    fn new(counts: &'a [count::Handle], began: Instant) -> Self {
        Self { counts, began, ticked_at: Instant::now(), total: Count::default(), timeline: Vec::new() }
    }

    fn take(&self) -> Count {
        let mut sum = Count::default();
        self.counts.iter().for_each(|count| sum.absorb(&count::take(count)));
        sum
    }

    /// The warm-up is over: what was counted so far is not measured.
    fn forget(&mut self, now: Instant) {
        self.take();
        self.total = Count::default();
        (self.began, self.ticked_at) = (now, now);
        self.timeline.clear();
    }

    fn tick(&mut self, now: Instant, limit: Limit, warming_up: bool, observer: &mut dyn Observer) {
        let interval = self.take();
        self.total.absorb(&interval);
        let elapsed = now.saturating_duration_since(self.began);
        let tick = interval.tick(elapsed, now - self.ticked_at);
        self.ticked_at = now;
        let records = self.total.records();
        let done = match limit {
            Limit::Count(count) => records as f64 / count.max(1) as f64,
            Limit::Time(time) => elapsed.as_secs_f64() / time.as_secs_f64().max(1e-9),
            Limit::File => 0.0,
        };
        let failed = self.total.failed();
        let done = (!warming_up).then_some(done.clamp(0.0, 1.0));
        observer.tick(&tick, &Totals { elapsed, records, failed, done, warming_up });
        if !warming_up {
            self.timeline.push(tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        args::{Cli, Command},
        observe::Silent,
    };

    fn plan(arguments: &str) -> Result<Plan, String> {
        let arguments = ["scribe-loadgen", "embedded"].into_iter().chain(arguments.split_whitespace());
        match Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.command {
            Command::Embedded(args) => Plan::of(&args),
            _ => unreachable!("it was asked for"),
        }
    }

    #[test]
    fn plans_have_their_defaults() {
        let writes = plan("").unwrap();
        assert_eq!((writes.threads, writes.batch, writes.limit), (2, 4096, Limit::Time(DURATION_DEFAULT)));
        assert_eq!(writes.records.keys.order(), Order::Sequential);
        let mixed = plan("--read-ratio 0.5 --count 7").unwrap();
        assert_eq!((mixed.records.keys.space(), mixed.limit), (KEY_SPACE_DEFAULT, Limit::Count(7)));
        assert_eq!(mixed.records.keys.order(), Order::Uniform);
        for (bad, part) in [
            ("--read-ratio 2", "0 to 1"),
            ("--batch 100000 --value-bytes 4096", "--batch"),
            ("--key-bytes 0", "--key-bytes"),
            ("--count 5 --duration 5", "--duration"),
            ("--url http://h", "--url"),
        ] {
            assert!(plan(bad).unwrap_err().contains(part), "{bad}");
        }
    }

    #[test]
    fn what_is_written_and_read_is_counted_and_read_back() {
        for (arguments, writes, reads) in [
            ("--count 5000 --batch 300 --verify", 5_000, 0),
            ("--count 5000 --read-ratio 1 --fill --key-space 700", 0, 5_000),
            (
                "--count 5000 --read-ratio 0.5 --fill --key-space 700 --keys zipfian --threads 3 --verify",
                2_500,
                2_500,
            ),
        ] {
            let measured = run(&plan(arguments).unwrap(), &mut Silent).unwrap();
            let records =
                |kind: &Option<crate::measured::Operations>| kind.as_ref().map_or(0, |kind| kind.records);
            assert_eq!((measured.records(), measured.failed()), (5_000, 0), "{arguments}");
            for (seen, expected) in [(records(&measured.writes), writes), (records(&measured.reads), reads)] {
                assert!(seen.abs_diff(expected) <= expected / 10, "{arguments}: {seen} of {expected}");
            }
            assert!(measured.servers.is_empty());
            let in_ticks: u64 = measured.timeline.iter().map(|tick| tick.records).sum();
            assert_eq!(in_ticks, 5_000);
            if let Some(Ok(truth)) = &measured.truth {
                assert_eq!((truth.acknowledged, truth.holds()), (records(&measured.writes), true));
            }
        }
    }

    #[test]
    fn a_read_that_finds_nothing_is_a_failure_and_a_directory_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = format!("--dir {} --read-ratio 1 --count 100 --key-space 10", dir.path().display());
        let measured = run(&plan(&arguments).unwrap(), &mut Silent).unwrap();
        assert_eq!((measured.failed(), measured.refused["not-found"]), (100, 100));
        assert!(dir.path().join("identity.json").exists());
    }
}
