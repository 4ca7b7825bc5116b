//! When a ledger's feature level rises: once every member that there is understands the next one.
//!
//! Members say their level when they connect (`transport`). Where all of them are connected and of a newer build than
//! the ledger needs, whoever leads proposes the settings in force with the highest level that all understand. Of a
//! member that is down nobody knows what it will come back as, so the level waits for it. It does not own what a
//! level allows (`state`).

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::sleep};

use crate::{
    env::Network,
    error::Result,
    raft::Consensus,
    state::{State, settings::Settings},
    types::NodeId,
};

/// Between two looks: upgrades are rare.
const PAUSE: Duration = Duration::from_secs(1);

/// Raises the level, up to `mine`, while this member leads, until that is done or its task is ended.
pub async fn raise_feature_level(
    consensus: Consensus,
    state: Arc<State>,
    network: Arc<dyn Network>,
    mine: u32,
) {
    loop {
        sleep(PAUSE).await;
        // Before the first settings there is nothing to raise: whoever founds proposes them.
        let Some(settings) = state.settings() else { continue };
        if settings.feature_level >= mine {
            return;
        }
        if !consensus.is_leader() {
            continue;
        }
        let positions = consensus.positions();
        let others = positions.members.keys().filter(|id| Some(**id) != positions.leader_id);
        let level = known_to_all(mine, others.map(|id| (*id, network.feature_level(*id))));
        if level <= settings.feature_level {
            continue;
        }
        match propose(&consensus, Settings { feature_level: level, ..settings }).await {
            Ok(()) => {
                tracing::info!(level, "every member understands this feature level: the ledger uses it")
            }
            Err(error) => tracing::debug!(%error, level, "the feature level was not raised"),
        }
    }
}

/// The highest level that this member and all others understand; 0 if one is not connected.
fn known_to_all(mine: u32, others: impl Iterator<Item = (NodeId, Option<u32>)>) -> u32 {
    others.map(|(_, level)| level.unwrap_or(0)).fold(mine, u32::min)
}

async fn propose(consensus: &Consensus, settings: Settings) -> Result<()> {
    let (told, settled) = oneshot::channel();
    consensus.propose(settings.encode()?.into(), move |result| drop(told.send(result))).await;
    // What became of it shows at the next look.
    let _ = settled.await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_that_of_the_oldest_member_and_waits_for_those_who_are_away() {
        let all = |levels: &[Option<u32>]| known_to_all(3, (2..).zip(levels.iter().copied()));
        assert_eq!(all(&[]), 3);
        assert_eq!(all(&[Some(4), Some(3)]), 3);
        assert_eq!(all(&[Some(2), Some(3)]), 2);
        assert_eq!(all(&[Some(3), None]), 0);
    }
}
