//! Watches a run from outside: collects what the threads have counted, tick by tick, sees when it is over,
//! stalls, or is interrupted.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;
use serde_json::Map;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    Limit, Plan,
    shared::{Clock, Phase, Shared},
    tally::Tally,
};
use crate::{
    measured::{Measured, ServerCost, Tick},
    observe::{Observer, Totals},
    process::{CPU_SECS_MIN, Process},
    server::ServerWatch,
    signals::{Signal, Signals},
};

/// Length of a tick.
const TICK: Duration = Duration::from_secs(1);
/// How long answers are waited for when nothing is sent any more: after a signal, and at the end of a run that
/// has one.
const GRACE: Duration = Duration::from_secs(2);
/// The end of a run that is no tick of its own.
const TICK_MIN: Duration = Duration::from_millis(1);

/// How a run ended.
pub struct End {
    pub failure: Option<String>,
    pub interrupted: Option<Signal>,
}

pub struct Collector {
    shared: Arc<Shared>,
    clock: Clock,
    tallies: Vec<Arc<Mutex<Tally>>>,
    /// Changes places with a thread's tally, so that the thread is not kept waiting.
    spare: Tally,
    total: Tally,
    ticked_at: Instant,
    answered: u64,
    began_unix_ms: u64,
    servers: Option<ServerWatch>,
    measuring: Option<Measuring>,
    cost: Cost,
    timeline: Vec<Tick>,
}

/// What is known since measuring began.
struct Measuring {
    own_cpu_secs: Option<f64>,
    servers: ServerWatch,
}

/// What the run has cost, from the end of the warm-up to the end of the last connection.
#[derive(Default)]
struct Cost {
    client_cpu_cores: Option<f64>,
    servers: Vec<ServerCost>,
}

/// Begins to watch what the servers cost.
pub fn watch_servers(plan: &Plan) -> ServerWatch {
    let servers = plan.targets.iter().map(|target| (target.url(), plan.server_pid)).collect();
    ServerWatch::begin(servers, plan.timeout)
}

impl Collector {
    /// `servers` is given when they are watched from before the first request on.
    pub fn new(
        shared: Arc<Shared>,
        clock: Clock,
        tallies: Vec<Arc<Mutex<Tally>>>,
        servers: Option<ServerWatch>,
    ) -> Self {
        Self {
            servers,
            shared,
            clock,
            tallies,
            spare: Tally::new(),
            total: Tally::new(),
            ticked_at: clock.begin,
            answered: 0,
            began_unix_ms: 0,
            measuring: None,
            cost: Cost::default(),
            timeline: Vec::new(),
        }
    }

    /// Ticks until all threads have ended.
    pub async fn watch(
        &mut self,
        mut ends: UnboundedReceiver<Result<(), String>>,
        threads: usize,
        mut signals: Signals,
        observer: &mut dyn Observer,
    ) -> End {
        let mut end = End { failure: None, interrupted: None };
        let mut left = threads;
        let stall = self.shared.plan.stall;
        let mut answered = (0, Instant::now());
        let grace = self.shared.plan.timeout.min(GRACE);
        let mut abort_at = self.clock.send_until.map(|until| until + grace);
        let leader = Arc::clone(&self.shared);
        let leader = async {
            match &leader.leader {
                Some(leader) => leader.keep_up().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(leader);
        self.begin_if_warm();
        while left > 0 {
            let next = self.next_tick();
            let check = Instant::now() + (stall / 4).min(Duration::from_millis(100));
            tokio::select! {
                ended = ends.recv() => {
                    left -= 1;
                    if let Some(Err(why)) = ended {
                        end.failure.get_or_insert(why);
                        self.shared.enter(Phase::Finishing);
                    }
                }
                () = tokio::time::sleep_until(next.min(check).into()) => {
                    if Instant::now() >= next {
                        self.tick(next, observer);
                        self.begin_if_warm();
                    }
                    let now = (self.shared.answered.load(Ordering::Relaxed), Instant::now());
                    if now.0 != answered.0 {
                        answered = now;
                    } else if self.idles(answered.1) {
                        // Nothing was due: silence is no stall.
                        answered.1 = now.1;
                    } else if now.1 - answered.1 >= stall && end.failure.is_none() {
                        let secs = stall.as_secs_f64();
                        end.failure = Some(format!("the server answered nothing for {secs} s (--stall)"));
                        self.shared.enter(Phase::Aborting);
                    }
                    if abort_at.is_some_and(|at| now.1 >= at) {
                        self.shared.enter(Phase::Aborting);
                    }
                }
                signal = signals.next() => {
                    // Answers on their way are waited for, for a moment, unless somebody insists.
                    let insists = end.interrupted.replace(signal).is_some();
                    let patience = Instant::now() + if insists { Duration::ZERO } else { grace };
                    abort_at = Some(abort_at.map_or(patience, |at| at.min(patience)));
                    self.shared.enter(if insists { Phase::Aborting } else { Phase::Finishing });
                }
                () = &mut leader => {}
            }
        }
        self.begin_if_warm();
        self.stop_watching();
        end
    }

    fn stop_watching(&mut self) {
        if let Some(measuring) = self.measuring.take() {
            let secs = self.clock.measure_from.elapsed().as_secs_f64().max(1e-9);
            let own = Process::own().cpu_secs().zip(measuring.own_cpu_secs);
            self.cost.client_cpu_cores =
                own.filter(|_| secs >= CPU_SECS_MIN).map(|(now, then)| (now - then) / secs);
            self.cost.servers = measuring.servers.finish();
        }
    }

    /// At a slow pace there may be long gaps between requests.
    fn idles(&self, since: Instant) -> bool {
        let gap = self.shared.plan.pace.map_or(Duration::ZERO, |pace| {
            Duration::try_from_secs_f64(20.0 / pace.rate).unwrap_or(Duration::MAX)
        });
        since.elapsed() < gap
    }

    /// Whether the warm-up is over.
    const fn measured(&self) -> bool {
        self.began_unix_ms > 0
    }

    fn next_tick(&self) -> Instant {
        let next = self.ticked_at + TICK;
        if !self.measured() { next.min(self.clock.measure_from) } else { next }
    }

    fn begin_if_warm(&mut self) {
        let now = Instant::now();
        if !self.measured() && now >= self.clock.measure_from {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.began_unix_ms = since_epoch.as_millis() as u64;
            self.measuring = Some(Measuring {
                own_cpu_secs: Process::own().cpu_secs(),
                servers: self.servers.take().unwrap_or_else(|| watch_servers(&self.shared.plan)),
            });
            self.ticked_at = self.clock.measure_from;
        }
    }

    /// Takes what has been counted since the last time.
    fn gather(&mut self) -> Tally {
        let mut interval = Tally::new();
        for tally in &self.tallies {
            std::mem::swap(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner), &mut self.spare);
            interval.absorb(&self.spare);
            self.spare.clear();
        }
        self.total.absorb(&interval);
        interval
    }

    fn tick(&mut self, at: Instant, observer: &mut dyn Observer) {
        let interval = self.gather();
        let (length, mut at_time) = (at - self.ticked_at, at.saturating_duration_since(self.clock.begin));
        self.ticked_at = at;
        let answered = self.shared.answered.load(Ordering::Relaxed);
        let in_warmup = answered - self.answered;
        self.answered = answered;
        let warming_up = !self.measured();
        let (requests, records) = interval.answered();
        let mut latency = interval.reads.latency_us;
        // All histograms have the same bounds, so that adding them cannot fail.
        let _ = latency.add(&interval.writes.latency_us);
        if !warming_up {
            at_time = at.saturating_duration_since(self.clock.measure_from);
        }
        let quantile =
            |latency: &Histogram<u64>, q| if latency.is_empty() { 0 } else { latency.value_at_quantile(q) };
        let tick = Tick {
            at: at_time,
            length,
            requests: if warming_up { in_warmup } else { requests },
            records: if warming_up { in_warmup * self.shared.plan.workload.batch() } else { records },
            failed: interval.failed,
            p50_us: quantile(&latency, 0.5),
            p99_us: quantile(&latency, 0.99),
            max_us: if latency.is_empty() { 0 } else { latency.max() },
        };
        let records = self.total.answered().1;
        let done = match self.shared.plan.limit {
            Limit::Count(count) => Some(records as f64 / count.max(1) as f64),
            Limit::Time(time) => Some(at_time.as_secs_f64() / time.as_secs_f64().max(1e-9)),
            Limit::File => None,
        };
        let totals = Totals {
            elapsed: at_time,
            records,
            failed: self.total.failed,
            done: done.filter(|_| !warming_up).map(|done| done.clamp(0.0, 1.0)),
            warming_up,
        };
        observer.tick(&tick, &totals);
        if !warming_up {
            self.timeline.push(tick);
        }
    }

    /// Takes what is left, and says what it all came to.
    pub fn finish(mut self, observer: &mut dyn Observer) -> (Measured, Option<[u64; 3]>) {
        if self.measured() {
            // What was counted after the last answer, such as requests that were given up, belongs to the
            // last tick, too.
            self.tick(Instant::now().max(self.ticked_at + TICK_MIN), observer);
        }
        observer.done();
        let total = self.total;
        let late = &total.late_us;
        let late_us = (!late.is_empty())
            .then(|| [late.value_at_quantile(0.5), late.value_at_quantile(0.99), late.max()]);
        // Up to the last answer; but a run for a time, in which answers stop to come, lasted that time.
        let now = Instant::now();
        let at_least = match self.shared.plan.limit {
            Limit::Time(time) => now.min(self.clock.measure_from + time),
            Limit::Count(_) | Limit::File if total.failed > 0 => now,
            Limit::Count(_) | Limit::File => self.clock.measure_from,
        };
        let elapsed = total.last_done.map_or(Duration::ZERO, |done| {
            done.max(at_least).saturating_duration_since(self.clock.measure_from)
        });
        let measured = Measured {
            plan: Map::new(),
            command: std::env::args().collect(),
            began_unix_ms: self.began_unix_ms,
            elapsed,
            writes: total.writes.operations(),
            reads: total.reads.operations(),
            refused: total.refused,
            unknown: total.unknown,
            details: total.details,
            writes_begun: self.shared.writes_end() > self.shared.plan.first_write,
            precondition_failed: total.precondition_failed,
            bytes_sent: total.bytes_sent,
            bytes_received: total.bytes_received,
            client_cpu_cores: self.cost.client_cpu_cores,
            timeline: self.timeline,
            servers: self.cost.servers,
            truth: None,
        };
        (measured, late_us)
    }
}
