//! Hands leadership to a member whose disk has room, while this one's has none: writes then go on there.
//!
//! ```text
//!  leads, and is full ─► look, look, look, look ─► ask the voters ─► one has room, and the log ─► it leads
//!                            │ room again, or              └─► nobody ─► leads on, refuses writes, looks again
//!                            └ another leads ─► begin anew
//! ```
//!
//! Takes what the log and the unsealed records say of the disk. It does not own refusing writes (`ingest`,
//! `forward::Accept`) nor how leadership passes (`raft`).

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{forward::Forward, room::DiskRoom};
use crate::{
    raft::{Consensus, Positions},
    types::NodeId,
};

/// Between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// So many looks in a row find it full before the lead is given up. Room may be made at once, by a purge for example;
/// and whoever has just taken the lead keeps it for as long, so that members whose disks are about to be full do not
/// pass it to and fro.
const LOOKS: u32 = 4;

/// How long the heir has for taking over.
const PATIENCE: Duration = Duration::from_secs(2);

/// Entries that an heir may lack: nothing new is proposed meanwhile, so it has them soon.
const BEHIND_MAX: u64 = 64;

/// Watches this member's disk until its task is ended.
pub async fn hand_over_while_full(consensus: Consensus, room: DiskRoom, forward: Forward) {
    let (mut looks, mut told) = (0, false);
    loop {
        sleep(LOOK_EVERY).await;
        if !consensus.is_leader() || !room.is_full() {
            (looks, told) = (0, false);
            continue;
        }
        looks += 1;
        if looks < LOOKS {
            continue;
        }
        // A try that fails is not repeated sooner.
        looks = 0;
        let Some(heir) = find_heir(&consensus, &forward).await else {
            let others = consensus.positions().voters.len() > 1;
            if others && !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    "the disk is full and no other voter that has room can lead; it is asked again"
                );
            }
            continue;
        };
        tracing::info!(heir, "the disk is full: leadership goes to a member that has room");
        if let Err(error) = consensus.transfer_leadership(heir, PATIENCE).await {
            tracing::warn!(%error, heir, "leadership was not handed over, it is tried again");
        }
    }
}

/// Whoever has room, and of those who has most of the log.
async fn find_heir(consensus: &Consensus, forward: &Forward) -> Option<NodeId> {
    let heirs = heirs(&consensus.positions());
    let asked = heirs.iter().map(|heir| forward.has_room(*heir));
    let answers = join_all(asked).await;
    heirs.into_iter().zip(answers).find_map(|(heir, has_room)| has_room.then_some(heir))
}

/// The other voters that have about all of the log, those with most of it first.
fn heirs(positions: &Positions) -> Vec<NodeId> {
    let Positions { replicated, voters, proposed, leader_id, .. } = positions;
    let mut heirs: Vec<(u64, NodeId)> = replicated
        .iter()
        .filter(|(id, _)| Some(**id) != *leader_id && voters.contains(id))
        .filter(|(_, has)| has.saturating_add(BEHIND_MAX) >= *proposed)
        .map(|(id, has)| (*has, *id))
        .collect();
    heirs.sort_by(|one, other| other.cmp(one));
    heirs.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heirs_vote_and_have_the_log() {
        let positions = |replicated: &[(NodeId, u64)]| Positions {
            leader_id: Some(1),
            proposed: 1_000,
            voters: vec![1, 2, 3, 4],
            replicated: replicated.iter().copied().collect(),
            ..Positions::default()
        };
        assert!(heirs(&positions(&[])).is_empty());
        // Itself, a learner, one that is behind.
        assert!(heirs(&positions(&[(1, 1_000), (9, 1_000), (2, 1_000 - BEHIND_MAX - 1)])).is_empty());
        assert_eq!(heirs(&positions(&[(2, 1_000 - BEHIND_MAX), (3, 1_000), (4, 990)])), [3, 4, 2]);
    }
}
