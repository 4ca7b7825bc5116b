//! Where the connections of one thread hand in what became of their requests.
//!
//! Takes a request and its answer, or that there is none; counts it under its kind and tells the journal.
//! Gives what the connection should do next.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use scribe_ledger::client::ClientError;
use serde::Deserialize;

use super::{
    feed::{Feed, Work},
    shared::Shared,
    tally::{Success, Tally},
};
use crate::{
    http::Head,
    journal::{Entry, writer::Fate},
};

/// How long a connection of a closed loop waits before it tries again after the server refused or broke it.
pub const BACKOFF: Duration = Duration::from_millis(20);
/// The longest it does what `Retry-After` says: a load generator that sleeps measures nothing.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Where acknowledged writes are kept, to be read back.
#[derive(Clone)]
pub enum Keep {
    Nothing,
    Memory(Arc<Mutex<Vec<Entry>>>),
    Journal(mpsc::Sender<Fate>),
}

/// What a request is about, once it has been built.
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    Read,
    Learn { key: u64 },
    Write { first: u64, count: u64, conditional_key: Option<u64> },
    Batch { first: u64, count: u64 },
}

impl Asked {
    pub fn of(work: &Work) -> Self {
        match work {
            Work::Read { .. } => Self::Read,
            Work::Learn { key } => Self::Learn { key: *key },
            Work::Put { write, key, condition } => {
                let conditional = condition.header().is_some();
                Self::Write { first: *write, count: 1, conditional_key: conditional.then_some(*key) }
            }
            Work::Bulk { first, count } => Self::Batch { first: *first, count: *count },
            Work::Piece(piece) => Self::Batch { first: piece.first, count: piece.chunk.records },
        }
    }

    const fn is_read(&self) -> bool {
        matches!(self, Self::Read | Self::Learn { .. })
    }

    /// The numbers of its writes.
    const fn writes(&self) -> Option<(u64, u64)> {
        match *self {
            Self::Read | Self::Learn { .. } => None,
            Self::Write { first, count, .. } | Self::Batch { first, count } => Some((first, count)),
        }
    }
}

/// A request that was sent, or is about to be.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub asked: Asked,
    /// What latency counts from.
    pub since: Instant,
    pub bytes: u64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Advice {
    /// Wait that long before the next request.
    pub pause: Option<Duration>,
    /// Read this key first.
    pub learn: Option<u64>,
}

pub struct Desk {
    pub shared: Arc<Shared>,
    pub feed: Feed,
    pub keep: Keep,
    tally: Arc<Mutex<Tally>>,
}

#[derive(Deserialize)]
struct BatchAnswer {
    first_seq: u64,
    count: u64,
}

impl Desk {
    pub const fn new(shared: Arc<Shared>, feed: Feed, keep: Keep, tally: Arc<Mutex<Tally>>) -> Self {
        Self { shared, feed, keep, tally }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In an open loop, a request was sent this late although a connection was free.
    pub fn late(&self, due: Instant, now: Instant) {
        if self.shared.measures(due) {
            self.tally().late_us.saturating_record(micros(now.saturating_duration_since(due)));
        }
    }

    /// No connection could be made.
    pub fn unreachable(&self, error: &std::io::Error) {
        if self.shared.measures(Instant::now()) {
            self.tally().refused(format!("connect: {}", error.kind()), 1);
        }
        if let Some(leader) = &self.shared.leader {
            leader.doubt();
        }
    }

    /// Requests that were due and will never be sent.
    pub fn missed(&self, count: u64) {
        if count > 0 {
            self.tally().refused("not sent: more was offered than was taken".to_owned(), count);
        }
    }

    /// An answer has come.
    pub fn answered(&self, flight: &Flight, head: &Head, body: &[u8], done: Instant) -> Advice {
        self.shared.answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if head.is_success() {
            return self.success(flight, head, body, done);
        }
        let Flight { asked, since, .. } = *flight;
        if let (412, Asked::Write { first, count, conditional_key: Some(key) }) = (head.status, asked) {
            if self.shared.measures(since) {
                self.tally().precondition_failed += 1;
            }
            self.not_written(first, count);
            return Advice { learn: Some(key), pause: None };
        }
        if head.status == 404 && matches!(asked, Asked::Learn { .. }) {
            // Deleted by someone, or never written: what follows is an ordinary conditional write.
            return Advice::default();
        }
        let error = ClientError::from_answer(head.status, None, body);
        let kind = format!("{} {}", head.status, error.slug());
        self.failed(flight, kind, Some(error.detail()), !error.is_outcome_unknown());
        if error.is_retryable()
            && let Some(leader) = &self.shared.leader
        {
            leader.doubt();
        }
        let asked = error.retry_after().or(head.retry_after_secs.map(Duration::from_secs));
        let pause = error.is_retryable().then(|| asked.map_or(BACKOFF, |asked| asked.min(BACKOFF_MAX)));
        Advice { pause, learn: None }
    }

    fn success(&self, flight: &Flight, head: &Head, body: &[u8], done: Instant) -> Advice {
        let Flight { asked, since, bytes } = *flight;
        let seq = match asked {
            Asked::Read | Asked::Learn { .. } | Asked::Write { .. } => head.seq,
            Asked::Batch { count, .. } => {
                let answer = serde_json::from_slice::<BatchAnswer>(body).ok();
                answer.filter(|answer| answer.count == count).map(|answer| answer.first_seq)
            }
        };
        // Not a ledger's answer, whoever gave it.
        let Some(seq) = seq.filter(|seq| seq.checked_add(1 << 32).is_some()) else {
            self.failed(flight, "bad answer: it does not say where the records are".to_owned(), None, false);
            return Advice::default();
        };
        if let Asked::Learn { key } | Asked::Write { conditional_key: Some(key), .. } = asked {
            self.shared.see(key, seq);
        }
        let success = Success {
            read: asked.is_read(),
            records: asked.writes().map_or(1, |(_, count)| count),
            latency_us: micros(done.saturating_duration_since(since)),
            bytes_sent: bytes,
            bytes_received: (head.head_bytes + head.body_bytes) as u64,
            done,
        };
        let success = self.shared.measures(since).then_some(success);
        let Some((first, count)) = asked.writes() else {
            success.iter().for_each(|success| self.tally().success(success));
            return Advice::default();
        };
        let entry = Entry::Acked { first, count: count as u32, seq };
        match &self.keep {
            // The journal counts it, once it is on disk. A journal that failed counts nothing any more.
            Keep::Journal(fates) => drop(fates.send(Fate { entry, success })),
            Keep::Memory(entries) => {
                entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
                success.iter().for_each(|success| self.tally().success(success));
            }
            Keep::Nothing => success.iter().for_each(|success| self.tally().success(success)),
        }
        Advice::default()
    }

    /// No answer will come. `never_begun`: the server cannot have acted on it.
    pub fn lost(&self, flight: &Flight, kind: String, never_begun: bool) -> Advice {
        self.failed(flight, kind, None, never_begun);
        if let Some(leader) = &self.shared.leader {
            leader.doubt();
        }
        let learn = match flight.asked {
            Asked::Write { conditional_key, .. } => conditional_key,
            _ => None,
        };
        Advice { pause: Some(BACKOFF), learn }
    }

    fn failed(&self, flight: &Flight, kind: String, detail: Option<&str>, not_written: bool) {
        if self.shared.measures(flight.since) {
            let mut tally = self.tally();
            if let Some(detail) = detail {
                tally.explain(&kind, detail);
            }
            if not_written { tally.refused(kind, 1) } else { tally.unknown(kind) }
        }
        if let Some((first, count)) = flight.asked.writes().filter(|_| not_written) {
            self.not_written(first, count);
        }
    }

    fn not_written(&self, first: u64, count: u64) {
        let entry = Entry::Refused { first, count: count as u32 };
        match &self.keep {
            Keep::Nothing => {}
            Keep::Memory(entries) => entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry),
            Keep::Journal(fates) => drop(fates.send(Fate { entry, success: None })),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
