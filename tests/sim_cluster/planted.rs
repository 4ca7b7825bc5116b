//! Planted bugs: each is found, within a bounded number of seeds, or this simulation is not worth its time.

use scribe_ledger::{raft::Sabotage, wal};

use crate::{play, world::Planted};

/// In so many seeds every bug has to be found.
const SEEDS_MAX: u64 = 2_000;

#[track_caller]
fn is_found(name: &str, planted: Planted) {
    let found = (0..SEEDS_MAX).find_map(|seed| Some((seed, play(seed, planted).err()?)));
    let (seed, why) = found.unwrap_or_else(|| panic!("{name} was not found in {SEEDS_MAX} seeds"));
    let why: String = why.lines().take(1).collect();
    eprintln!("{name}: found by seed {seed}: {why}");
}

macro_rules! found {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            let raft = Sabotage { $name: true, ..Sabotage::default() };
            is_found(stringify!($name), Planted { raft, ..Planted::default() });
        })*
    };
}

found!(
    skip_read_round,
    join_running_round,
    skip_lease,
    read_anywhere,
    skip_apply_wait,
    vote_in_lease,
    lead_on,
    skip_append_sync,
    replay_twice,
    retry_unknown,
    stamp_wrong_time,
    forget_answers,
    skip_verification,
);

#[test]
fn ack_before_sync() {
    let wal = wal::Sabotage { ack_before_sync: true, ..wal::Sabotage::default() };
    is_found("ack_before_sync", Planted { wal, ..Planted::default() });
}
