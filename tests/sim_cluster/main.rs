//! Three or five real members in one process, on simulated disks, clocks and cables, in every kind of trouble, with
//! clients at all of them; and bugs that are planted to see whether this would find them.
//!
//! ```text
//! seed ─► world: members that start, fail, start again ◄─ storm: cuts, pauses, power, disks, members that change
//!            ▲ writes, reads                                  │ then all is mended
//!         clients ─► journal: who was told what, when         ▼
//!                        └───────────────────────────────► checks: nothing lost, nothing twice, all alike,
//!                                                                  an order that explains every answer
//! ```
//!
//! `SIM_SEED=… cargo test --test sim_cluster storms` plays one seed again, `SIM_SEEDS=…` so many from
//! `SIM_SEED_FIRST` on.

mod checks;
mod clients;
mod history;
mod planted;
#[path = "../common/sim_member.rs"]
mod sim_member;
mod storm;
#[path = "../common/way.rs"]
mod way;
mod world;

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};

use scribe_ledger::sim::{self, SimRng};
use tokio::time::{sleep, timeout};

use self::{
    clients::{Shared, client},
    world::{Planted, World},
};

/// A minute and a half of one core, shared among all.
const SEEDS: u64 = 2_000;

/// What a seed came to.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    answered: usize,
    calls: usize,
    traces: Vec<u64>,
}

async fn live(seed: u64, planted: Planted) -> Result<Summary, String> {
    let world = World::start(seed, planted);
    let found = async {
        while world.leader().is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), found).await.map_err(|_| "the group does not form")?;
    let journal = Shared::default();
    let clients: Vec<_> = (0..2 + world.rng.below(5))
        .map(|number| tokio::spawn(client(world.clone(), journal.clone(), number)))
        .collect();
    storm::storm(world.clone()).await;
    world.end();
    for client in clients {
        client.await.map_err(|error| format!("a client panicked: {error}"))?;
    }
    let members = checks::settled(&world).await?;
    let journal = journal.lock();
    checks::check(&world, &members, &journal)?;
    Ok(Summary {
        answered: journal.answered.len(),
        calls: journal.history.len(),
        traces: world.ids().into_iter().map(|id| world.disk(id).trace()).collect(),
    })
}

/// Plays a seed; what it came to, or what is wrong.
fn play(seed: u64, planted: Planted) -> Result<Summary, String> {
    let played = std::panic::catch_unwind(|| {
        let rng = SimRng::new(seed ^ 0x5eed);
        sim::runtime(rng.below(u64::MAX)).block_on(live(seed, planted))
    });
    played.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map_or("it panicked", String::as_str);
        Err(why.to_owned())
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn storms_lose_nothing_and_confuse_nobody() {
    let seeds = match number("SIM_SEED") {
        Some(seed) => {
            // What led there can be read with RUST_LOG.
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            tracing_subscriber::fmt().without_time().with_env_filter(filter).init();
            seed..seed + 1
        }
        None => {
            let first = number("SIM_SEED_FIRST").unwrap_or(0);
            first..first + number("SIM_SEEDS").unwrap_or(SEEDS)
        }
    };
    let next = AtomicU64::new(seeds.start);
    let (answered, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let storms = || {
        while let seed = next.fetch_add(1, Relaxed)
            && seed < seeds.end
        {
            let summary = play(seed, Planted::default()).unwrap_or_else(|why| {
                // The others need not go on.
                next.store(seeds.end, Relaxed);
                panic!(
                    "seed {seed}: {why}\nplay it again: SIM_SEED={seed} cargo test --test sim_cluster storms"
                )
            });
            answered.fetch_add(summary.answered, Relaxed);
            calls.fetch_add(summary.calls, Relaxed);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(storms))));
    let (count, answered, calls) = (seeds.end - seeds.start, answered.into_inner(), calls.into_inner());
    assert!(answered as u64 > 5 * count, "{count} seeds: {answered} writes were answered, of {calls} calls");
}

#[test]
fn a_seed_is_the_same_history_every_time() {
    for seed in 0..3 {
        assert_eq!(play(seed, Planted::default()), play(seed, Planted::default()), "seed {seed}");
    }
}
