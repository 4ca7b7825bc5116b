//! Whole members: cut off while the log goes on without them, and back.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use scribe_ledger::{
    env::Rng,
    sim::{self, Failure, Fault, Op, SimRng},
};
use tokio::time::{Instant, sleep};

use super::group::Group;

const SEEDS: u64 = 30;

/// Cuts off a follower until the leader has given up the log that it would need; gives both.
async fn leave_behind(group: &mut Group, tag: &str) -> (usize, usize) {
    group.await_leader().await;
    let follower = group.follower();
    let end = group.nodes[follower].as_ref().unwrap().info().positions().proposed;
    group.cut_off(follower);
    for round in 0..40 {
        group.write(&format!("{tag}-{round}"), 40).await;
        if let Some(leader) = group.leader().filter(|leader| *leader != follower)
            && group.log_begin(leader) > end + 200
        {
            return (leader, follower);
        }
    }
    panic!("the leader does not give up its log");
}

#[test]
fn a_member_that_is_too_far_behind_gets_segments() {
    for seed in 0..4 {
        sim::runtime(seed).block_on(async {
            let mut group = Group::start(seed, 0, |_| ()).await;
            group.write("before", 10).await;
            let (leader, follower) = leave_behind(&mut group, "without").await;
            group.network.heal();
            group.settle().await;
            group.write("after", 50).await;
            group.settle().await;
            group.check();
            assert_eq!(group.restarts[follower], 1, "once is enough");
            assert_eq!(group.restarts.iter().sum::<u64>(), 1, "and the others need none");
            assert_eq!(group.leader(), Some(leader), "nobody was held up");
            assert!(group.answered.len() > 60);
        });
    }
}

/// What a leader keeps for others: as long as they have answered lately, and no more than its bound.
#[test]
fn a_leader_keeps_the_log_for_who_is_a_little_behind() {
    for (keep_bytes, away, needs_segments) in [
        (1 << 20, Duration::from_secs(5), false),
        (4 << 10, Duration::from_secs(5), true),
        (1 << 20, Duration::from_secs(60), true),
    ] {
        sim::runtime(1).block_on(async {
            let mut group = Group::start(1, 0, |group| group.keep_bytes_for_followers = keep_bytes).await;
            group.await_leader().await;
            let follower = group.follower();
            group.settle().await;
            group.cut_off(follower);
            group.write("one", 300).await;
            sleep(away).await;
            group.write("two", 100).await;
            group.network.heal();
            group.settle().await;
            group.check();
            let restarts = group.restarts[follower];
            assert_eq!(restarts > 0, needs_segments, "{keep_bytes} bytes, away for {away:?}");
            // When nobody needs it any more it is given up.
            group.write("three", 100).await;
            group.settle().await;
            let kept = || group.leader().map(|at| group.nodes[at].as_ref().unwrap().info().wal().1.entries);
            let give_up = Instant::now() + Duration::from_secs(10);
            while kept().is_none_or(|kept| kept >= 100) {
                assert!(Instant::now() < give_up, "{:?} entries are kept for nobody", kept());
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
}

/// A member that gets segments with bits flipped on the way refuses them, and gets them in the end.
#[test]
fn spoiled_parts_are_fetched_again() {
    let mut spoiled = 0;
    for seed in 0..8 {
        sim::runtime(seed).block_on(async {
            let mut group = Group::start(seed, 0, |group| group.spoils_one_in = 3).await;
            let (_, follower) = leave_behind(&mut group, "without").await;
            group.network.heal();
            group.settle().await;
            group.check();
            assert!(group.restarts[follower] > 0);
            spoiled += group.spoiled.load(Relaxed);
        });
    }
    assert!(spoiled > 8, "{spoiled} parts were spoiled");
}

/// A leader sends what it has not synced yet. One that lost it to a power cut once led on in its term after a restart
/// and wrote other entries in their place, and members that had the first ones held another ledger for ever.
#[test]
fn a_leader_that_lost_what_it_had_sent_does_not_write_others_in_its_place() {
    let mut cuts = 0;
    for seed in 0..40 {
        let rng = SimRng::new(seed);
        sim::runtime(rng.next_u64()).block_on(async {
            let mut group = Group::start(rng.next_u64(), 0, |_| ()).await;
            for round in 0..4 {
                let leader = group.await_leader().await;
                // One of the others hears nothing, so that there is no quorum without the other.
                group.cut_off(group.follower());
                group.write(&format!("{round}-before"), 3).await;
                let writes = group.begin_writes(leader, &format!("{round}-lost"), 6);
                sleep(Duration::from_micros(rng.below(6_000))).await;
                group.power_cut(leader).await;
                drop(writes);
                cuts += 1;
                group.tend().await;
                group.write(&format!("{round}-after"), 6).await;
                group.network.heal();
                group.settle().await;
                group.check();
            }
        });
    }
    assert_eq!(cuts, 160);
}

/// All kinds of accidents to who fetches and to who gives.
async fn accident(group: &mut Group, rng: &SimRng, follower: usize, leader: usize) {
    sleep(Duration::from_micros(rng.below(400_000))).await;
    match rng.below(5) {
        0 => {
            let fault = Fault { op: Op::Any, nth: rng.below(60), failure: Failure::Crash };
            group.disks[follower].arm(fault);
        }
        1 => {
            let op = [Op::Write, Op::Sync, Op::SyncDir, Op::Any][rng.below(4) as usize];
            let failure = if rng.one_in(2) { Failure::NotDone } else { Failure::Done };
            group.disks[follower].arm(Fault { op, nth: rng.below(30), failure });
        }
        2 => group.cut_off(leader),
        3 => group.power_cut(leader).await,
        _ => group.power_cut(follower).await,
    }
}

/// How many writes were answered, how many answers about segments came, and what the disks did.
fn play(seed: u64) -> (usize, u64, Vec<u64>) {
    let rng = SimRng::new(seed);
    sim::runtime(rng.next_u64()).block_on(async {
        let loses_one_in = [0, 60, 200][rng.below(3) as usize];
        let mut group = Group::start(rng.next_u64(), loses_one_in, |group| {
            group.spoils_one_in = [0, 0, 20][rng.below(3) as usize];
        })
        .await;
        for round in 0..2 {
            let (leader, follower) = leave_behind(&mut group, &format!("{round}")).await;
            group.network.heal();
            for part in 0..2 {
                accident(&mut group, &rng, follower, leader).await;
                group.write(&format!("{round}-{part}"), 20).await;
            }
            group.network.heal();
            group.settle().await;
            group.disks.iter().for_each(sim::SimIo::disarm);
            group.check();
        }
        let traces = group.disks.iter().map(sim::SimIo::trace).collect();
        (group.answered.len(), group.fetched.load(Relaxed), traces)
    })
}

#[test]
fn accidents_while_segments_are_fetched_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let played = std::panic::catch_unwind(|| play(seed));
        let (answered, fetched, _) =
            played.unwrap_or_else(|_| panic!("play it again: SIM_SEED={seed} cargo test --test catch_up"));
        assert!(answered > 100, "seed {seed}: {answered} writes were answered");
        assert!(fetched > 3, "seed {seed}: nobody got segments");
    }
}

#[test]
fn a_seed_is_the_same_history_every_time() {
    assert_eq!(play(7), play(7));
}
