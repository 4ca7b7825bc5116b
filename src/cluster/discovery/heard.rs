//! Who has been heard, and what of it to believe.
//!
//! Takes announcements whose MAC is right and keeps the newest of every other node, for a while. Plain functions
//! of what is given: no socket, no clock. What is not taken is an [`Ignored`] with its reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    cluster::announcement::{Announcement, Presence, Unreadable},
    types::{NodeId, TimestampMs},
};

/// Most nodes that are kept; a cluster has far fewer.
pub const NODES_MAX: usize = 1_024;

/// How far an announcement's time may be from this node's clock, either way. A recorded one is of no use to
/// anybody after that; clocks of members are far closer, or they could not share a ledger.
pub const CLOCK_DISTANCE_MS_MAX: u64 = 30_000;

/// A node that was heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Its newest announcement.
    pub announcement: Announcement,
    /// When that arrived.
    pub last_heard: Instant,
    /// From where.
    pub from: SocketAddr,
    /// The incarnation that announced this id before the present one did.
    former: Option<u64>,
}

/// Who is heard now.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All other nodes, by id.
    pub nodes: BTreeMap<NodeId, Heard>,
    /// Another process that announces this node's own id.
    pub double: Option<Heard>,
}

/// The moment at which something is heard.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// On the clock that never jumps.
    pub instant: Instant,
    /// On the wall clock.
    pub ms: TimestampMs,
    /// When this process began to listen, on the wall clock.
    pub started_ms: TimestampMs,
}

/// Why an announcement is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// It is this node's own, or not newer than what is known. That is no news to anybody.
    Old,
    /// Its bytes are no announcement for this node.
    Unreadable(Unreadable),
    /// It is of another cluster.
    OtherCluster { node_id: NodeId, cluster_id: String },
    /// Another process announces this node's id. It is kept as [`Seen::double`].
    OwnId { raft_addr: String },
    /// Its time is far from this node's; how far, in milliseconds, and whether it is behind.
    Clock { node_id: NodeId, distance_ms: u64, behind: bool },
    /// There is no room for another node.
    Full,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Old => f.write_str("it is known"),
            Self::Unreadable(why) => why.fmt(f),
            Self::OtherCluster { node_id, cluster_id } => {
                write!(f, "node {node_id} belongs to another cluster, {cluster_id}")
            }
            Self::OwnId { raft_addr } => write!(
                f,
                "it has this node's id: another process at {raft_addr} uses it; each node needs its own node.id"
            ),
            Self::Clock { node_id, distance_ms, behind } => write!(
                f,
                "the clock of node {node_id} is {distance_ms} ms {} this one's, or the announcement was recorded",
                if *behind { "behind" } else { "before" }
            ),
            Self::Full => write!(f, "{NODES_MAX} nodes are known already"),
        }
    }
}

/// Takes an announcement; whether what is known of its node has changed, but for the time it was heard.
///
/// # Errors
/// Why it is not taken.
pub fn hear(
    seen: &mut Seen,
    me: &Presence,
    announcement: Announcement,
    from: SocketAddr,
    now: Now,
) -> Result<bool, Ignored> {
    let presence = &announcement.presence;
    let node_id = presence.node_id;
    let distance_ms = now.ms.abs_diff(announcement.timestamp_ms);
    if distance_ms > CLOCK_DISTANCE_MS_MAX {
        return Err(Ignored::Clock { node_id, distance_ms, behind: announcement.timestamp_ms < now.ms });
    }
    if node_id == me.node_id {
        let is_own = (presence.incarnation, &presence.raft_addr) == (me.incarnation, &me.raft_addr);
        // What was announced before this process began may be its own former life, recorded and played again; a
        // double goes on announcing.
        if is_own || announcement.timestamp_ms <= now.started_ms {
            return Err(Ignored::Old);
        }
        let raft_addr = presence.raft_addr.clone();
        seen.double = Some(Heard { announcement, last_heard: now.instant, from, former: None });
        return Err(Ignored::OwnId { raft_addr });
    }
    if is_elsewhere(me, presence) {
        return Err(Ignored::OtherCluster { node_id, cluster_id: presence.cluster_id.clone() });
    }
    let is_full = seen.nodes.len() >= NODES_MAX;
    let Some(known) = seen.nodes.get_mut(&node_id) else {
        if is_full {
            return Err(Ignored::Full);
        }
        seen.nodes.insert(node_id, Heard { announcement, last_heard: now.instant, from, former: None });
        return Ok(true);
    };
    // In this order for all incarnations, so that a recorded announcement never takes the place of a newer one.
    let age = |announcement: &Announcement| (announcement.timestamp_ms, announcement.sequence);
    if age(&announcement) <= age(&known.announcement) {
        return Err(Ignored::Old);
    }
    let is_news = known.announcement.presence != *presence;
    let before = known.announcement.presence.incarnation;
    if before != presence.incarnation {
        known.former = Some(before);
    }
    *known = Heard { announcement, last_heard: now.instant, from, former: known.former };
    Ok(is_news)
}

/// Forgets who has been silent for longer than `silent_max`, or has turned out to be of another cluster; whether
/// there was any.
pub fn forget(seen: &mut Seen, me: &Presence, now: Instant, silent_max: Duration) -> bool {
    let is_silent = |heard: &Heard| now.saturating_duration_since(heard.last_heard) > silent_max;
    let count = |seen: &Seen| seen.nodes.len() + usize::from(seen.double.is_some());
    let before = count(seen);
    seen.nodes.retain(|_, heard| !is_silent(heard) && !is_elsewhere(me, &heard.announcement.presence));
    seen.double.take_if(|double| is_silent(double));
    count(seen) < before
}

/// Whether the two belong to different clusters; who belongs to none may join either.
fn is_elsewhere(me: &Presence, other: &Presence) -> bool {
    !me.cluster_id.is_empty() && !other.cluster_id.is_empty() && me.cluster_id != other.cluster_id
}

impl Heard {
    /// Whether two live processes announce this id by turns.
    #[must_use]
    pub fn is_twice(&self, announced: &Presence) -> bool {
        self.former == Some(announced.incarnation)
    }
}

/// What has been said already, so that it is said once.
#[derive(Debug)]
pub struct Said {
    said: BTreeSet<String>,
    max: usize,
}

impl Said {
    /// Nothing yet. After `max` different things nothing is said any more: senders can be forged, so that their
    /// number has no bound of its own.
    pub const fn at_most(max: usize) -> Self {
        Self { said: BTreeSet::new(), max }
    }

    /// Whether this is to be said now.
    pub fn is_new(&mut self, what: String) -> bool {
        self.said.len() < self.max && self.said.insert(what)
    }
}

#[cfg(test)]
mod tests;
