//! Tells the log, a line each, who leads and who belongs to the group.
//!
//! Takes what consensus knows, gives lines at level info; it decides nothing. A membership is told when it is committed
//! and no other is under way, so that a change is one line, whatever steps it takes.

use std::{collections::BTreeSet, time::Duration};

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::sleep;

use super::Consensus;
use crate::types::NodeId;

/// Between two looks at what may be passing: elections, and memberships on their way.
const PAUSE: Duration = Duration::from_millis(100);

/// Who belongs to the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    members: BTreeSet<NodeId>,
    voters: BTreeSet<NodeId>,
}

/// What has become of one group in another.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    added: Vec<NodeId>,
    promoted: Vec<NodeId>,
    removed: Vec<NodeId>,
}

impl Step {
    fn between(old: &Group, new: &Group) -> Self {
        let promoted = new.voters.difference(&old.voters).filter(|id| old.members.contains(id));
        Self {
            added: new.members.difference(&old.members).copied().collect(),
            promoted: promoted.copied().collect(),
            removed: old.members.difference(&new.members).copied().collect(),
        }
    }
}

impl Consensus {
    /// Tells every change from now on, until consensus stops or its task is ended.
    pub async fn tell_changes(self) {
        let mut changes = self.raft.server_metrics();
        let (mut leader, mut group) = (None, None);
        loop {
            let is_settled = self.tell_leader(&mut leader) & self.tell_group(&mut group);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(PAUSE), if !is_settled => {}
            }
        }
    }

    /// Whether a leader is known.
    fn tell_leader(&self, told: &mut Option<(NodeId, u64)>) -> bool {
        let (leader, term) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_leader, metrics.current_term)
        };
        let Some(leader) = leader else { return false };
        if told.replace((leader, term)) != Some((leader, term)) {
            let who = if leader == self.me { "this member leads" } else { "another member leads" };
            tracing::info!(leader, term, "{who}");
        }
        true
    }

    /// Whether no change of the members is under way.
    fn tell_group(&self, told: &mut Option<Group>) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        if metrics.membership_config != metrics.committed_membership_config
            || membership.get_joint_config().len() != 1
        {
            return false;
        }
        let group = Group {
            members: membership.nodes().map(|(id, _)| *id).collect(),
            voters: membership.voter_ids().collect(),
        };
        // What was so when this member started is no news.
        if let Some(old) = told.as_ref().filter(|old| **old != group) {
            let Step { added, promoted, removed } = Step::between(old, &group);
            let voters: Vec<_> = group.voters.iter().collect();
            tracing::info!(?added, ?promoted, ?removed, ?voters, "the members have changed");
        }
        *told = Some(group);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_names_whom_it_is_about() {
        let group = |members: &[NodeId], voters: &[NodeId]| Group {
            members: members.iter().copied().collect(),
            voters: voters.iter().copied().collect(),
        };
        let step = |added: &[NodeId], promoted: &[NodeId], removed: &[NodeId]| Step {
            added: added.to_vec(),
            promoted: promoted.to_vec(),
            removed: removed.to_vec(),
        };
        let (lone, pair) = (group(&[1], &[1]), group(&[1, 2], &[1]));
        for (old, new, expected) in [
            (&lone, &pair, step(&[2], &[], &[])),
            (&pair, &group(&[1, 2], &[1, 2]), step(&[], &[2], &[])),
            (&pair, &group(&[2, 3], &[2, 3]), step(&[3], &[2], &[1])),
            (&lone, &lone, step(&[], &[], &[])),
        ] {
            assert_eq!(Step::between(old, new), expected);
        }
    }
}
