//! What goes wrong: one thing after another, and sometimes several at once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use scribe_ledger::{
    raft::Change,
    sim::{Failure, Fault, Op, SimRng},
    types::NodeId,
};
use tokio::time::{sleep, timeout};

use crate::{sim_member::address, world::World};

/// How long an administrator waits for a change.
const PATIENCE: Duration = Duration::from_secs(3);

/// Plays a number of faults, and mends what they cut.
pub async fn storm(world: Arc<World>) {
    let rng = world.rng.fork();
    for _ in 0..4 + rng.below(3) {
        sleep(ms(rng.below(200))).await;
        for _ in 0..1 + rng.below(2) {
            strike(&world, &rng).await;
        }
        world.note_checkpoints();
        sleep(ms(100 + rng.below(900))).await;
        world.network.heal();
        world.network.set_delay_max(2_000);
        world.note_checkpoints();
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn strike(world: &Arc<World>, rng: &SimRng) {
    let ids = world.ids();
    let any = || ids[rng.below(ids.len() as u64) as usize];
    let leader = world.leader().map_or(1, |(id, _)| id);
    // Whoever leads is worth more trouble.
    let victim = if rng.one_in(2) { leader } else { any() };
    match rng.below(12) {
        0 => cut_off(world, &[victim]),
        1 => world.network.cut(victim, any()),
        2 => {
            // A minority of the founders, with the leader or without.
            let count = (world.founders / 2) as usize;
            let others = ids.iter().copied().filter(|id| *id != victim).take(count - 1);
            cut_off(world, &others.chain([victim]).collect::<Vec<_>>());
        }
        3 => world.network.pause(victim, ms(100 + rng.below(2_000))),
        4 => world.power_cut(victim, ms(rng.below(1_000))),
        5 => {
            // Everywhere at once, or almost.
            for id in ids.iter().filter(|_| !rng.one_in(4)) {
                world.power_cut(*id, ms(rng.below(300)));
            }
        }
        6 => {
            let failure = [Failure::NotDone, Failure::Done, Failure::NoSpace, Failure::Crash];
            let failure = failure[rng.below(4) as usize];
            world.disk(victim).arm(Fault { op: Op::Any, nth: rng.below(20), failure });
        }
        7 => {
            let heir = 1 + rng.below(world.founders);
            if let Some((_, node)) = world.leader() {
                // The others elect somebody else where it comes to nothing.
                let _ = node.info.consensus().transfer_leadership(heir, ms(300)).await;
            }
        }
        8 => drop(tokio::spawn(change_members(world.clone(), rng.fork()))),
        9 => world.network.set_delay_max(5_000 + rng.below(30_000)),
        10 => {
            // Power cuts while somebody is elected.
            world.power_cut(leader, ms(500));
            for _ in 0..rng.below(6) {
                sleep(ms(rng.below(250))).await;
                world.power_cut(any(), ms(0));
            }
        }
        _ => lease_trap(world, rng, leader).await,
    }
}

/// Nobody outside hears these members or is heard by them.
fn cut_off(world: &World, inside: &[NodeId]) {
    let ids = world.ids();
    for outside in ids.into_iter().filter(|id| !inside.contains(id)) {
        for inside in inside {
            world.network.cut(*inside, outside);
            world.network.cut(outside, *inside);
        }
    }
}

/// The leader keeps its lease by one half of the others, loses them, and they start again: would they help the
/// other half to elect somebody while the leader still reads under its lease?
async fn lease_trap(world: &World, rng: &SimRng, leader: NodeId) {
    let others: Vec<NodeId> = (1..=world.founders).filter(|id| *id != leader).collect();
    let (left, right) = others.split_at(others.len() / 2);
    let cut = |id: NodeId| {
        world.network.cut(leader, id);
        world.network.cut(id, leader);
    };
    left.iter().for_each(|id| cut(*id));
    // The other half waits for a leader until it would elect one, if it could.
    sleep(ms(700 + rng.below(600))).await;
    for id in right {
        cut(*id);
        world.power_cut(*id, ms(0));
    }
    sleep(ms(400)).await;
}

/// The newcomer is counted in, votes, and somebody else leaves.
async fn change_members(world: Arc<World>, rng: SimRng) {
    let _alone = world.administrator.lock().await;
    let newcomer = world.founders + 1;
    let leaves = 1 + rng.below(world.founders);
    let changes = [
        Change::Add(newcomer, address(newcomer)),
        Change::Promote(BTreeSet::from([newcomer])),
        Change::Remove(BTreeSet::from([leaves])),
    ];
    for change in changes.into_iter().take(1 + rng.below(3) as usize) {
        let Some((_, node)) = world.leader() else { return };
        let changed = timeout(PATIENCE, node.info.consensus().change(change)).await;
        // Never remove somebody for whom nobody has come.
        if !matches!(changed, Ok(Ok(()))) {
            return;
        }
    }
}
