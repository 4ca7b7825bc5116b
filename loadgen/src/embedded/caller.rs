//! One thread that calls the ledger: reads at once, writes when it has gathered a batch.
//!
//! It takes operations in runs, so that neither the clock nor what the threads share is looked at for each of
//! them: a cached read takes a fraction of a microsecond.

use std::{
    hint::black_box,
    sync::{
        Arc, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use scribe_ledger::{Ledger, Result, ledger::Batch, types::Seq};

use super::{Plan, count::Handle, truth::Acknowledged};
use crate::{
    run::Limit,
    workload::{Records, random::Random},
};

/// Operations of a run. One read of each is timed.
const RUN: u64 = 64;
/// Sets the stream of callers apart from those of keys and values.
const SALT: u64 = 0x6361_6c6c_6572_7321;

/// What all callers have in common.
pub struct Shared {
    pub ledger: Arc<Ledger>,
    pub plan: Plan,
    stop_at: OnceLock<Instant>,
    /// Operations that may still be taken.
    left: AtomicU64,
    /// Writes and reads are numbered from 0 on.
    next_write: AtomicU64,
    next_read: AtomicU64,
}

impl Shared {
    pub fn new(ledger: Arc<Ledger>, plan: Plan) -> Self {
        let left = if let Limit::Count(count) = plan.limit { count } else { u64::MAX };
        let zero = AtomicU64::default;
        Self {
            ledger,
            plan,
            stop_at: OnceLock::new(),
            left: left.into(),
            next_write: zero(),
            next_read: zero(),
        }
    }

    /// When the callers end, if they have a time and no count.
    pub fn stop_at(&self, at: Instant) {
        self.stop_at.get_or_init(|| at);
    }

    /// How many operations of a run may be done; 0 when there is nothing left.
    fn take_run(&self) -> u64 {
        if self.stop_at.get().is_some_and(|stop| Instant::now() >= *stop) {
            return 0;
        }
        let take = |left: u64| (left > 0).then(|| left - left.min(RUN));
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_or(0, |left| left.min(RUN))
    }
}

/// Writes that wait for their batch to be full.
pub struct Gathering {
    batch: Batch,
    writes: Vec<u64>,
    /// Reused for every record.
    key: Vec<u8>,
    value: Vec<u8>,
    records_max: u64,
    bytes: usize,
}

impl Gathering {
    pub fn new(records_max: u64) -> Self {
        let (batch, writes) = (Batch::new(), Vec::new());
        Self { batch, writes, key: Vec::new(), value: Vec::new(), records_max, bytes: 0 }
    }

    pub fn len(&self) -> u64 {
        self.writes.len() as u64
    }

    /// Adds the write of this number.
    pub fn add(&mut self, records: &Records, write: u64) -> std::result::Result<(), String> {
        self.key.clear();
        self.value.clear();
        records.keys.append(records.keys.of_write(write), &mut self.key);
        records.values.append(write, &mut self.value);
        self.batch.put(&self.key, &self.value).map_err(|error| error.to_string())?;
        self.bytes += self.key.len() + self.value.len();
        self.writes.push(write);
        Ok(())
    }

    /// Writes them, and gives their numbers and where the first of them is.
    pub fn apply(&mut self, ledger: &Ledger) -> Result<(Vec<u64>, Seq)> {
        // The next one will be as large.
        let next = Batch::with_capacity(self.records_max as usize, std::mem::take(&mut self.bytes));
        let batch = std::mem::replace(&mut self.batch, next);
        let writes = std::mem::take(&mut self.writes);
        Ok((writes, ledger.apply_batch(batch)?.first_seq))
    }
}

/// A thread of the run.
pub struct Caller {
    shared: Arc<Shared>,
    rng: Random,
    count: Handle,
    gathering: Gathering,
    acknowledged: Vec<Acknowledged>,
    key: Vec<u8>,
}

impl Caller {
    pub fn new(shared: Arc<Shared>, number: u64, count: Handle) -> Self {
        let rng = Random::new(shared.plan.seed ^ SALT, number);
        let gathering = Gathering::new(shared.plan.batch);
        Self { shared, rng, count, gathering, acknowledged: Vec::new(), key: Vec::new() }
    }

    /// Calls until the run is over; gives what was acknowledged, if that is to be read back.
    pub fn run(mut self) -> Vec<Acknowledged> {
        loop {
            let operations = self.shared.take_run();
            if operations == 0 {
                break;
            }
            let read_ratio = self.shared.plan.read_ratio;
            let reads = match read_ratio {
                // Tossing coins takes time, too.
                0.0 => 0,
                1.0 => operations,
                _ => (0..operations).filter(|_| self.rng.unit() < read_ratio).count() as u64,
            };
            self.read(reads);
            self.write(operations - reads);
        }
        if self.gathering.len() > 0 {
            self.apply();
        }
        self.acknowledged
    }

    fn read(&mut self, reads: u64) {
        if reads == 0 {
            return;
        }
        let (mut found, mut took) = (0, None);
        let shared = Arc::clone(&self.shared);
        let keys = &shared.plan.records.keys;
        let first = shared.next_read.fetch_add(reads, Ordering::Relaxed);
        for read in first..first + reads {
            self.key.clear();
            keys.append(keys.of_read(read, &mut self.rng), &mut self.key);
            let began = (read == first).then(Instant::now);
            let value = shared.ledger.get(&self.key);
            if let Some(began) = began {
                took = Some(began.elapsed());
            }
            match black_box(value) {
                Ok(Some(_)) => found += 1,
                Ok(None) => self.fail("not-found"),
                Err(error) => self.fail(error.code().slug()),
            }
        }
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.read(found);
        if let Some(took) = took.filter(|_| found > 0) {
            count.timed_read(took);
        }
    }

    fn write(&mut self, writes: u64) {
        if writes == 0 {
            return;
        }
        let first = self.shared.next_write.fetch_add(writes, Ordering::Relaxed);
        for write in first..first + writes {
            if self.gathering.add(&self.shared.plan.records, write).is_err() {
                self.fail("invalid");
            } else if self.gathering.len() == self.shared.plan.batch {
                self.apply();
            }
        }
    }

    fn apply(&mut self) {
        let began = Instant::now();
        match self.gathering.apply(&self.shared.ledger) {
            Ok((writes, first_seq)) => {
                let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
                count.wrote(writes.len() as u64, began.elapsed());
                if self.shared.plan.verify {
                    self.acknowledged.push(Acknowledged { writes, first_seq });
                }
            }
            Err(error) => self.fail(error.code().slug()),
        }
    }

    fn fail(&self, kind: &str) {
        self.count.lock().unwrap_or_else(PoisonError::into_inner).fail(kind);
    }
}
