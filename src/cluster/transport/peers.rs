//! What a status page says about peers and traffic, and the log lines about peers that were refused.
//!
//! Takes notice of connections as they come, go and are refused. It owns nothing that decides anything. Strangers cannot
//! make it grow: it keeps those that have proven themselves and those that this node was told to call.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::handshake::PeerHello;
use crate::{
    env::{ANYBODY, Traffic},
    types::NodeId,
};

/// Peers that are remembered.
const PEERS_MAX: usize = 1_024;

/// Refusals that are logged in an hour, each once; more are only counted.
const LOGGED_MAX: usize = 64;

/// After this a refusal that goes on is logged again.
const LOGGED_FOR: Duration = Duration::from_secs(3_600);

/// A peer as a status page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its id.
    pub node_id: NodeId,
    /// Where it was dialed, or else the other end of its own connection.
    pub address: String,
    /// Newest formats it can read, and which life of the node it is; `None` until it has proven who it is.
    pub seen: Option<(u32, u64)>,
    /// Open connections, both ways.
    pub connections: usize,
    /// Why it was refused, here or there, since it was last connected.
    pub last_refusal: Option<String>,
}

/// [`Traffic`] as it grows.
#[derive(Debug, Default)]
pub(super) struct Counters {
    connects: AtomicU64,
    reconnects: AtomicU64,
    refused: AtomicU64,
    frames_sent: AtomicU64,
    frames_received: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl Counters {
    /// Frames were given to the system.
    pub fn sent(&self, frames: usize, bytes: usize) {
        self.frames_sent.fetch_add(frames as u64, Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }

    /// A frame came.
    pub fn received(&self, bytes: usize) {
        self.frames_received.fetch_add(1, Relaxed);
        self.bytes_received.fetch_add(bytes as u64, Relaxed);
    }

    /// A line has been connected for a second or later time.
    pub fn reconnected(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    /// A stranger made room for another.
    pub fn pushed_out(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// The counts now.
    pub fn read(&self) -> Traffic {
        Traffic {
            connects: self.connects.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            refused: self.refused.load(Relaxed),
            frames_sent: self.frames_sent.load(Relaxed),
            frames_received: self.frames_received.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
        }
    }
}

/// All peers that are known, by id.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: Mutex<BTreeMap<NodeId, PeerStatus>>,
    logged: Mutex<Logged>,
    pub counters: Counters,
}

/// Refusals that have been logged, since the first of them.
#[derive(Debug, Default)]
struct Logged {
    since: Option<Instant>,
    refusals: BTreeSet<(IpAddr, String)>,
}

/// An open connection in the count of its peer.
pub(super) struct Connected {
    peers: Arc<Peers>,
    node_id: NodeId,
}

impl Peers {
    /// Counts a connection until the guard is dropped. `dialed` is the address if this node has dialed it.
    pub fn connected(self: &Arc<Self>, peer: &PeerHello, dialed: Option<&str>) -> Connected {
        self.counters.connects.fetch_add(1, Relaxed);
        self.change(peer.node_id, dialed, |status| {
            status.seen = Some((peer.feature_level, peer.incarnation));
            status.connections += 1;
            status.last_refusal = None;
            if status.address.is_empty() {
                status.address = peer.address.to_string();
            }
        });
        Connected { peers: Arc::clone(self), node_id: peer.node_id }
    }

    /// Counts a refusal, and logs it unless that was done. `dialed` is whom and where this node has dialed.
    pub fn refused(&self, peer: Option<NodeId>, ip: IpAddr, dialed: Option<(NodeId, &str)>, why: &str) {
        self.counters.refused.fetch_add(1, Relaxed);
        let note = |status: &mut PeerStatus| status.last_refusal = Some(why.to_owned());
        match dialed {
            Some((wanted, address)) if wanted != ANYBODY => self.change(wanted, Some(address), note),
            // Whoever says that it is this peer has not proven it, so nobody becomes known by that.
            _ => {
                if let Some(id) = peer {
                    self.known.lock().get_mut(&id).into_iter().for_each(note);
                }
            }
        }
        if self.logged.lock().is_new(ip, why) {
            let address = dialed.map_or_else(|| ip.to_string(), |(_, address)| address.to_owned());
            tracing::warn!(%address, "no connection between members: {why}");
        }
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<PeerStatus> {
        self.known.lock().values().cloned().collect()
    }

    /// Why a peer was refused, here or there, since it was last connected.
    pub fn refusal(&self, node_id: NodeId) -> Option<String> {
        self.known.lock().get(&node_id)?.last_refusal.clone()
    }

    /// The feature level of a peer that is connected.
    pub fn feature_level(&self, node_id: NodeId) -> Option<u32> {
        let known = self.known.lock();
        let status = known.get(&node_id).filter(|status| status.connections > 0)?;
        status.seen.map(|(feature_level, _)| feature_level)
    }

    fn change(&self, node_id: NodeId, dialed: Option<&str>, change: impl FnOnce(&mut PeerStatus)) {
        let mut known = self.known.lock();
        if known.len() >= PEERS_MAX && !known.contains_key(&node_id) {
            return;
        }
        let status = known.entry(node_id).or_insert_with(|| PeerStatus {
            node_id,
            address: String::new(),
            seen: None,
            connections: 0,
            last_refusal: None,
        });
        if let Some(address) = dialed.filter(|address| status.address != *address) {
            status.address = address.to_owned();
        }
        change(status);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(status) = self.peers.known.lock().get_mut(&self.node_id) {
            status.connections = status.connections.saturating_sub(1);
        }
    }
}

impl Logged {
    fn is_new(&mut self, ip: IpAddr, why: &str) -> bool {
        if self.since.is_none_or(|since| since.elapsed() >= LOGGED_FOR) {
            *self = Self { since: Some(Instant::now()), refusals: BTreeSet::new() };
        }
        self.refusals.len() < LOGGED_MAX && self.refusals.insert((ip, why.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node_id: NodeId) -> PeerHello {
        PeerHello {
            node_id,
            incarnation: 5,
            life: 7,
            feature_level: 2,
            cluster_id: String::new(),
            address: ([127, 0, 0, 1], 40_000).into(),
        }
    }

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_peer_is_known_by_what_it_has_proven_or_by_being_called() {
        let peers = Arc::new(Peers::default());
        peers.refused(Some(7), IP, None, "who are you");
        assert_eq!(peers.list(), []);
        peers.refused(None, IP, Some((2, "two:9001")), "another cluster");
        assert_eq!(peers.list()[0].last_refusal.as_deref(), Some("another cluster"));
        assert_eq!((peers.list()[0].seen, peers.list()[0].connections), (None, 0));
        assert_eq!((peers.refusal(2), peers.refusal(3)), (Some("another cluster".into()), None));

        let connections = [peers.connected(&peer(2), None), peers.connected(&peer(2), Some("two:9002"))];
        let status = peers.list().remove(0);
        assert_eq!((status.connections, status.seen, status.last_refusal), (2, Some((2, 5)), None));
        assert_eq!(status.address, "two:9002");
        drop(connections);
        assert_eq!(peers.list()[0].connections, 0);
        let traffic = peers.counters.read();
        assert_eq!((traffic.connects, traffic.refused), (2, 2));
    }

    #[test]
    fn a_flood_of_refusals_is_not_a_flood_of_lines_and_peers() {
        let mut logged = Logged::default();
        assert!(logged.is_new(IP, "a"));
        assert!(!logged.is_new(IP, "a"));
        let lines = (0..1_000).filter(|n| logged.is_new(IP, &n.to_string())).count();
        assert_eq!(lines, LOGGED_MAX - 1);

        let peers = Arc::new(Peers::default());
        for id in 1..=2 * PEERS_MAX as u64 {
            drop(peers.connected(&peer(id), None));
        }
        assert_eq!(peers.list().len(), PEERS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_goes_on_is_said_again() {
        let mut logged = Logged::default();
        assert!(logged.is_new(IP, "a"));
        tokio::time::advance(LOGGED_FOR).await;
        assert!(logged.is_new(IP, "a"));
    }
}
