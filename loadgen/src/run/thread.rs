//! One load thread: its runtime, its connections, and the two tasks that serve them, which keep the pace and
//! watch the clock.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use tokio::task::{JoinSet, LocalSet};

use super::{
    Http,
    desk::{Desk, Keep},
    feed::{Call, Feed},
    lane::{Lane, Watched, Way, Wire},
    pacing::Schedule,
    shared::{Clock, Phase, Shared},
    streams::{Link, Slot},
    tally::Tally,
    timer::Timer,
};
use crate::workload::random::Random;

/// The pacer does not look more often than this: at high rates it lets go several requests at once rather than
/// spend a core on being called for each.
const PACE_STEP: Duration = Duration::from_micros(100);

/// What a thread is given.
pub struct Job {
    pub shared: Arc<Shared>,
    pub number: usize,
    pub threads: usize,
    pub tally: Arc<Mutex<Tally>>,
    pub keep: Keep,
    /// Told once everything is connected.
    pub ready: mpsc::Sender<()>,
    /// Gives the clock once everyone is.
    pub start: mpsc::Receiver<Clock>,
}

/// A connection that is ready to go.
enum Connected {
    Lane(Box<Lane>, Option<Wire>),
    Link(Rc<Link>, usize, usize),
}

/// Runs the thread's share of the connections until the run is over.
pub fn run(job: Job) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime did not start: {error}"))?;
    let tasks = LocalSet::new();
    // Connecting needs a desk, and a desk the clock, which starts when all are connected: so the feed is
    // made with what is known now, and told the rest.
    let Job { shared, number, threads, tally, keep, ready, start } = job;
    let desk = Rc::new(Desk::new(Arc::clone(&shared), Feed::new(Arc::clone(&shared)), keep, tally));
    let connected = runtime.block_on(tasks.run_until(connect(&desk, number, threads)));
    let _ = ready.send(());
    drop(ready);
    let Ok(clock) = start.recv() else { return Ok(()) };
    let plan = &shared.plan;
    desk.feed.start(
        clock.send_until,
        plan.pace.map(|pace| Schedule::new(pace, clock.begin, clock.stop_at, number, threads, plan.seed)),
    );
    let outcome = runtime.block_on(tasks.run_until(drive(&desk, connected)));
    desk.missed(desk.feed.missed(Instant::now()));
    // What is still in flight is handed in as lost when its task is dropped.
    drop(tasks);
    outcome
}

async fn connect(desk: &Rc<Desk>, number: usize, threads: usize) -> Vec<Connected> {
    let plan = &desk.shared.plan;
    let mut connecting = JoinSet::new();
    for connection in (number..plan.connections).step_by(threads) {
        let way = Way::new(plan.targets[connection % plan.targets.len()].clone());
        let desk = Rc::clone(desk);
        connecting.spawn_local(async move {
            match desk.shared.plan.http {
                Http::One { depth } => {
                    let rng = Random::new(desk.shared.plan.seed, connection as u64);
                    let mut lane = Box::new(Lane::new(desk, way, depth, rng));
                    let wire = lane.connect().await;
                    Connected::Lane(lane, wire)
                }
                Http::Two { streams } => {
                    let link = Rc::new(Link::new(desk, way));
                    link.connect().await;
                    Connected::Link(link, connection, streams)
                }
            }
        });
    }
    connecting.join_all().await
}

async fn drive(desk: &Rc<Desk>, connected: Vec<Connected>) -> Result<(), String> {
    let mut tasks = JoinSet::new();
    let mut watched = Vec::new();
    for connected in connected {
        match connected {
            Connected::Lane(lane, wire) => {
                watched.push(lane.watched());
                tasks.spawn_local(lane.run(wire));
            }
            Connected::Link(link, connection, streams) => {
                for stream in 0..streams {
                    let stream = (stream as u64) << 32 | connection as u64;
                    let rng = Random::new(desk.shared.plan.seed, stream);
                    tasks.spawn_local(Slot::new(Rc::clone(desk), Rc::clone(&link), rng).run());
                }
            }
        }
    }
    let mut phase = desk.shared.watch_phase();
    let all_done = async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| format!("a connection's task ended: {error}"))?;
        }
        Ok(())
    };
    tokio::select! {
        outcome = all_done => outcome,
        outcome = pace(desk) => outcome,
        () = expire(desk, &watched) => Ok(()),
        _ = phase.wait_for(|phase| *phase == Phase::Aborting) => Ok(()),
    }
}

/// Calls waiting connections when something is due. Ends only when that has become impossible.
async fn pace(desk: &Desk) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("the timer failed: {error}");
    let timer = Timer::new().map_err(failed)?;
    let mut phase = desk.shared.watch_phase();
    loop {
        let now = Instant::now();
        match desk.feed.call(now) {
            Call::At(next) => tokio::select! {
                outcome = timer.until(next.max(now + PACE_STEP)) => outcome.map_err(failed)?,
                _ = phase.changed() => {}
            },
            Call::WhenSomeoneWaits => tokio::select! {
                () = desk.feed.waits.notified() => {}
                _ = phase.changed() => {}
            },
            Call::Over => desk.feed.waits.notified().await,
        }
    }
}

/// Ends connections whose answers take too long. Never ends itself.
async fn expire(desk: &Desk, watched: &[Rc<Watched>]) {
    let timeout = desk.shared.plan.timeout;
    loop {
        tokio::time::sleep((timeout / 8).min(Duration::from_millis(250))).await;
        if let Some(limit) = Instant::now().checked_sub(timeout) {
            watched.iter().for_each(|watched| watched.expire_before(limit));
        }
    }
}
