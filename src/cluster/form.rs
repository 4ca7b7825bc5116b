//! What a starting node does: go on with its ledger, found one, join one, wait, or give up.
//!
//! Takes what the node is, what its configuration asks for and what the nodes it hears say of themselves; gives
//! one [`Decision`]. A pure function: hearing, waiting and doing are the caller's, who comes back with every news
//! until the answer is something other than [`Decision::Wait`].
//!
//! ```text
//!  has a ledger ──► only strangers around, or its double ─► Refuse      else ─► GoOn
//!    │ none
//!  its id is another's ─► Refuse
//!  somebody belongs to a cluster ─► Join            two clusters, or no member of it is heard ─► Wait
//!    │ nobody does
//!  comes back after a loss ─► Wait
//!  has no way to find others ─► FoundAlone
//!  some are not heard yet, or unclear ─► Wait
//!  told to bootstrap ─► FoundAlone
//!  fewer than expected ─► Wait
//!  the lowest id among the expected ─► FoundWith    all others ─► Wait, and join what it founds
//! ```
//!
//! Founding is the one step that cannot be taken back: two nodes that found make two ledgers, and both take
//! records. So nothing is founded while anybody reports a cluster, nor before all who could report one were heard
//! or given up; and those who found together agree by rule, not by talk: the lowest ids are the founders, the
//! lowest of them founds. Whoever sees the same nodes decides the same. More nodes than expected that start at
//! once and do not all see each other could still divide; start the further ones when the cluster is there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::announcement::Presence;
use crate::types::NodeId;

/// Where a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// By other members, `HOST:PORT`.
    pub raft_addr: String,
    /// By clients, `HOST:PORT`.
    pub http_addr: String,
}

/// The node that decides.
#[derive(Clone, Debug)]
pub struct Me {
    /// Its id.
    pub id: NodeId,
    /// Which of the processes or directories with this id it is.
    pub incarnation: u64,
    /// What it tells others to use.
    pub addresses: Addresses,
    /// The ledger in its data directory; `None` when there is no state of one.
    pub ledger: Option<Held>,
}

/// A ledger that is there already.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which.
    pub cluster_id: String,
    /// Whether the node founded it for itself and it holds no record, so that another cluster may adopt the node.
    pub droppable: bool,
}

/// What the configuration asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// `node.bootstrap`
    pub bootstrap: bool,
    /// `node.rejoin`
    pub rejoin: bool,
    /// `cluster.bootstrap_expect`; 0 is taken as 1.
    pub expect: usize,
    /// Whether there are peers or discovery at all.
    pub finds_others: bool,
}

/// What a node says of itself. Two reports with one id and one incarnation are of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its id.
    pub id: NodeId,
    /// Which of the processes or directories with this id it is.
    pub incarnation: u64,
    /// What it tells others to use.
    pub addresses: Addresses,
    /// The cluster it belongs to, or is to belong to.
    pub cluster: Option<Belonging>,
    /// Whether it has a log.
    pub has_state: bool,
}

/// The cluster of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belonging {
    /// Which.
    pub cluster_id: String,
    /// Whether the cluster counts the node in; if not, nothing can be asked of it.
    pub is_member: bool,
}

/// What an announcement tells: whoever has a log of a cluster was counted in by it.
impl From<&Presence> for Report {
    fn from(presence: &Presence) -> Self {
        let belonging = Belonging { cluster_id: presence.cluster_id.clone(), is_member: presence.has_state };
        Self {
            id: presence.node_id,
            incarnation: presence.incarnation,
            addresses: Addresses {
                raft_addr: presence.raft_addr.clone(),
                http_addr: presence.http_addr.clone(),
            },
            cluster: (!presence.cluster_id.is_empty()).then_some(belonging),
            has_state: presence.has_state,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start with the ledger that is there.
    GoOn,
    /// Found a ledger with no other member.
    FoundAlone,
    /// Found a ledger with these voters, this node among them.
    FoundWith(BTreeMap<NodeId, Addresses>),
    /// Ask the leader of this cluster, through any of its members, to be added. For one of its founders that
    /// changes nothing: it is a member already.
    Join {
        /// Which cluster.
        cluster_id: String,
        /// Members of it that are heard, at least one.
        members: BTreeMap<NodeId, Addresses>,
    },
    /// Nothing yet, for this reason; ask again.
    Wait(String),
    /// Stop, for this reason: waiting would not mend it.
    Refuse(String),
}

/// Decides.
///
/// `reports` are those of all nodes that are heard now, this one's own among them or not, in any order; whoever
/// was found by announcements alone and belongs to another cluster than this node is not among them. `unheard`
/// counts the sources that may still report a cluster: listed peers that have neither answered nor been tried
/// long enough to be given up, and one for announcements that have not been listened for long enough.
#[must_use]
pub fn decide(me: &Me, wishes: Wishes, reports: &[Report], unheard: usize) -> Decision {
    let others: Vec<&Report> = reports.iter().filter(|report| !is_me(me, report)).collect();
    if let Some(held) = &me.ledger {
        return with_ledger(me, held, &others, unheard);
    }
    if let Some(double) = others.iter().find(|other| other.id == me.id) {
        return Decision::Refuse(same_id(me.id, double));
    }
    if let Some(decision) = join(&others) {
        return decision;
    }
    if wishes.rejoin {
        return Decision::Wait("no cluster to come back to is heard".into());
    }
    if !wishes.finds_others {
        return Decision::FoundAlone;
    }
    if let Some(why) = why_not_found(&others, unheard) {
        return Decision::Wait(why);
    }
    if wishes.bootstrap {
        return Decision::FoundAlone;
    }
    found_together(me, wishes.expect, &others)
}

fn is_me(me: &Me, report: &Report) -> bool {
    // A copied data directory has the incarnation of its original, but not its address.
    (report.id, report.incarnation) == (me.id, me.incarnation)
        && report.addresses.raft_addr == me.addresses.raft_addr
}

/// A node with a ledger goes on: what others are must not stop a restart, unless it is certain to be a mistake.
fn with_ledger(me: &Me, held: &Held, others: &[&Report], unheard: usize) -> Decision {
    if let Some(double) = others.iter().find(|other| other.id == me.id && other.has_state) {
        return Decision::Refuse(same_id(me.id, double));
    }
    let belongs_here = |cluster: &Belonging| cluster.cluster_id == held.cluster_id;
    let mut belonging = others.iter().filter_map(|other| Some((other, other.cluster.as_ref()?)));
    let Some((stranger, theirs)) = belonging.clone().find(|(_, cluster)| !belongs_here(cluster)) else {
        return Decision::GoOn;
    };
    if held.droppable || unheard > 0 || belonging.any(|(_, cluster)| belongs_here(cluster)) {
        return Decision::GoOn;
    }
    Decision::Refuse(format!(
        "this node's data directory is of cluster {}, but node {} at {} belongs to cluster {}, and no other node that \
         is heard belongs to this one's: correct cluster.peers or node.data_dir, or start on an empty directory under \
         a new node.id to join",
        held.cluster_id, stranger.id, stranger.addresses.raft_addr, theirs.cluster_id
    ))
}

/// Joining, or what is in its way; `None` when nobody belongs to a cluster.
fn join(others: &[&Report]) -> Option<Decision> {
    let mut clusters: BTreeMap<&str, BTreeMap<NodeId, Addresses>> = BTreeMap::new();
    for other in others {
        if let Some(Belonging { cluster_id, is_member }) = &other.cluster {
            let members = clusters.entry(cluster_id).or_default();
            if *is_member {
                members.insert(other.id, other.addresses.clone());
            }
        }
    }
    let (cluster_id, members) = clusters.pop_first()?;
    Some(if let Some((another, _)) = clusters.pop_first() {
        Decision::Wait(format!(
            "the nodes that are heard belong to different clusters, {cluster_id} and {another}: list those of one in \
             cluster.peers"
        ))
    } else if members.is_empty() {
        Decision::Wait(format!("no member of cluster {cluster_id} is heard, only nodes that want to join it"))
    } else {
        Decision::Join { cluster_id: cluster_id.into(), members }
    })
}

/// Why nothing may be founded although nobody reports a cluster.
fn why_not_found(others: &[&Report], unheard: usize) -> Option<String> {
    if let Some(other) = others.iter().find(|other| other.has_state) {
        // Still reading its log, perhaps; what it belongs to decides what this node does.
        return Some(format!("node {} has a log and has not said of which cluster", other.id));
    }
    let mut seen = BTreeMap::new();
    for other in others {
        let known = seen.entry(other.id).or_insert(other);
        if known.incarnation != other.incarnation {
            let (one, two) = (&known.addresses.raft_addr, &other.addresses.raft_addr);
            return Some(format!("node id {} is used twice, at {one} and at {two}", other.id));
        }
    }
    (unheard > 0).then(|| format!("{unheard} more may know of a cluster and have not been heard yet"))
}

fn found_together(me: &Me, expect: usize, others: &[&Report]) -> Decision {
    if expect <= 1 {
        return Decision::Wait(
            "no node that is heard belongs to a cluster: start one of them with --bootstrap, or set \
             cluster.bootstrap_expect on all to the number that found it together"
                .into(),
        );
    }
    let mut nodes: BTreeMap<NodeId, &Addresses> =
        others.iter().map(|other| (other.id, &other.addresses)).collect();
    nodes.insert(me.id, &me.addresses);
    let ids: BTreeSet<NodeId> = nodes.keys().copied().take(expect).collect();
    if ids.len() < expect {
        return Decision::Wait(format!("{} of {expect} nodes are heard: {}", ids.len(), listed(&ids)));
    }
    match ids.first() {
        Some(first) if *first == me.id => Decision::FoundWith(
            nodes.into_iter().take(expect).map(|(id, addresses)| (id, addresses.clone())).collect(),
        ),
        first => Decision::Wait(format!(
            "node {} founds the cluster of nodes {}",
            first.copied().unwrap_or_default(),
            listed(&ids)
        )),
    }
}

fn listed(ids: &BTreeSet<NodeId>) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn same_id(id: NodeId, double: &Report) -> String {
    format!(
        "node id {id} is used twice, here and at {}: each node has an id of its own, and none is ever used again; set \
         another node.id",
        double.addresses.raft_addr
    )
}

#[cfg(test)]
mod tests;
