//! What all threads and connections of a run share.

use std::{
    collections::HashMap,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

use super::{Limit, Plan, leader::Leader};
use crate::lines::Chunk;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Going,
    /// No new requests; answers are still waited for.
    Finishing,
    /// Nothing is waited for.
    Aborting,
}

/// When things happen. Set once everyone is connected.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub begin: Instant,
    pub measure_from: Instant,
    /// Nothing is due from then on.
    pub stop_at: Option<Instant>,
    /// Nothing is sent from then on, not even what is overdue.
    pub send_until: Option<Instant>,
}

/// How long what was due before a run's end may still be sent after it. What is left then is reported as not
/// sent: more was offered than the server could take.
const DRAIN: Duration = Duration::from_secs(2);

/// A piece of the user's own file, and the number of its first record among all that are sent.
#[derive(Clone, Debug)]
pub struct Piece {
    pub chunk: Chunk,
    pub first: u64,
}

pub struct Shared {
    pub plan: Plan,
    clock: OnceLock<Clock>,
    phase: watch::Sender<Phase>,
    /// The next write's number.
    next_write: AtomicU64,
    next_read: AtomicU64,
    /// Records begun since measuring began.
    begun: AtomicU64,
    /// Requests answered, in any way.
    pub answered: AtomicU64,
    /// Where writes go, when that is asked of the servers.
    pub leader: Option<Leader>,
    /// The newest position of every key that conditional writes have seen.
    seen: Mutex<HashMap<u64, u64>>,
    file: Option<Mutex<mpsc::Receiver<Piece>>>,
}

impl Shared {
    pub fn new(plan: Plan, file: Option<mpsc::Receiver<Piece>>) -> Self {
        let leader = plan.leader_aware.then(|| Leader::new(plan.targets.clone(), plan.timeout));
        Self {
            clock: OnceLock::new(),
            phase: watch::Sender::new(Phase::Going),
            next_write: AtomicU64::new(plan.first_write),
            next_read: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            leader,
            seen: Mutex::new(HashMap::new()),
            file: file.map(Mutex::new),
            plan,
        }
    }

    /// Starts the clock.
    pub fn start(&self, begin: Instant) -> Clock {
        *self.clock.get_or_init(|| {
            let measure_from = begin + self.plan.warmup;
            let stop_at = match self.plan.limit {
                Limit::Time(time) => Some(measure_from + time),
                Limit::Count(_) | Limit::File => None,
            };
            let overtime = if self.plan.pace.is_some() { DRAIN } else { Duration::ZERO };
            Clock { begin, measure_from, stop_at, send_until: stop_at.map(|stop| stop + overtime) }
        })
    }

    /// Whether a request that should be sent then is measured.
    pub fn measures(&self, intended: Instant) -> bool {
        self.clock.get().is_some_and(|clock| intended >= clock.measure_from)
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Goes on to a later phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }

    /// No write from this number on has been begun.
    pub fn writes_end(&self) -> u64 {
        self.next_write.load(Ordering::SeqCst)
    }

    /// The numbers of the next `count` writes.
    pub fn take_writes(&self, count: u64) -> u64 {
        self.next_write.fetch_add(count, Ordering::SeqCst)
    }

    pub fn take_read(&self) -> u64 {
        self.next_read.fetch_add(1, Ordering::Relaxed)
    }

    /// How many of `records` may still be begun under the plan's limit.
    pub fn take_budget(&self, records: u64, now: Instant) -> u64 {
        let Limit::Count(count) = self.plan.limit else { return records };
        if !self.measures(now) {
            return records;
        }
        let begun = self.begun.fetch_add(records, Ordering::Relaxed);
        records.min(count.saturating_sub(begun))
    }

    /// Whether everything that the plan wants has been begun.
    pub fn is_spent(&self) -> bool {
        match (self.plan.limit, &self.file) {
            (Limit::Count(count), _) => self.begun.load(Ordering::Relaxed) >= count,
            (Limit::File, Some(file)) => {
                let file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.is_closed() && file.is_empty()
            }
            (Limit::Time(_) | Limit::File, _) => false,
        }
    }

    /// The next piece of the user's file.
    pub fn take_piece(&self) -> Result<Piece, mpsc::error::TryRecvError> {
        match &self.file {
            Some(file) => {
                let piece = file.lock().unwrap_or_else(PoisonError::into_inner).try_recv()?;
                self.next_write.fetch_max(piece.first + piece.chunk.records, Ordering::SeqCst);
                Ok(piece)
            }
            None => Err(mpsc::error::TryRecvError::Disconnected),
        }
    }

    /// Closes the way from the file's reader, so that it ends.
    pub fn close_file(&self) {
        if let Some(file) = &self.file {
            file.lock().unwrap_or_else(PoisonError::into_inner).close();
        }
    }

    /// The newest position of a key, as far as conditional writes have seen.
    pub fn seen(&self, key: u64) -> Option<u64> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }

    /// A key was seen at a position; answers may overtake each other.
    pub fn see(&self, key: u64, seq: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = seen.entry(key).or_insert(seq);
        *newest = seq.max(*newest);
    }
}
