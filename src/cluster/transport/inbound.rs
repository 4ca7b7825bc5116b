//! Which connections of proven peers are being answered, so that a line's new connection takes the place of its old,
//! and those of a peer can be ended that is not admitted any more.
//!
//! A peer that has lost a connection may know it long before this node does. Requests of the old connection must not be
//! begun after those of the new one: the new one waits until the old one is not read any more.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{handshake::PeerHello, hello::runs_twice};
use crate::types::NodeId;

/// Connections that one peer may have here; with one more, its oldest line has to go. Five lanes use ten at most, with
/// and without knowing whom they dial; the rest is for addresses that have changed.
const LINES_MAX: usize = 64;

/// The connections that are answered, by peer and line.
#[derive(Debug, Default)]
pub(super) struct Inbound(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<(NodeId, u32), Held>,
    /// Tells one holder of a line from the next.
    last_serial: u64,
}

#[derive(Debug)]
struct Held {
    serial: u64,
    peer: PeerHello,
    /// Never sent on: it is dropped when the connection has to go.
    _leave: oneshot::Sender<()>,
    left: oneshot::Receiver<()>,
}

/// A connection's place among them; dropped when it is not read any more.
pub(super) struct Seat {
    inbound: Arc<Inbound>,
    line: (NodeId, u32),
    serial: u64,
    leave: oneshot::Receiver<()>,
    _left: oneshot::Sender<()>,
}

impl Inbound {
    /// Takes the place of a line, once the connections that have to go for it are not read any more.
    pub async fn enter(self: &Arc<Self>, hello: &PeerHello, line: u32) -> Seat {
        let ((leave, told), (gone, left)) = (oneshot::channel(), oneshot::channel());
        let peer = hello.node_id;
        let (serial, leaving) = {
            let mut state = self.0.lock();
            state.last_serial += 1;
            let held = Held { serial: state.last_serial, peer: hello.clone(), _leave: leave, left };
            let before = state.held.insert((peer, line), held);
            let mut leaving: Vec<_> = before.into_iter().map(|held| held.left).collect();
            // Numbers grow, so the smallest is the oldest.
            let lines: Vec<_> = state.held.range((peer, 0)..=(peer, u32::MAX)).map(|(key, _)| *key).collect();
            let others = lines.iter().filter(|(_, other)| *other != line);
            for key in others.take(lines.len().saturating_sub(LINES_MAX)) {
                leaving.extend(state.held.remove(key).map(|held| held.left));
            }
            (state.last_serial, leaving)
        };
        let seat = Seat { inbound: Arc::clone(self), line: (peer, line), serial, leave: told, _left: gone };
        for left in leaving {
            // Its sender is dropped, not used.
            let _ = left.await;
        }
        seat
    }

    /// Whether no other process of the peer's node is connected: two on copies of one directory would both vote.
    ///
    /// # Errors
    /// Why this one cannot be.
    pub fn check_sole(&self, hello: &PeerHello) -> Result<(), String> {
        let state = self.0.lock();
        let mut held = state.held.range((hello.node_id, 0)..=(hello.node_id, u32::MAX)).map(|(_, held)| held);
        match held.find(|held| held.peer.life != hello.life) {
            Some(other) => Err(runs_twice(hello.node_id, other.peer.address)),
            None => Ok(()),
        }
    }

    /// Has the connections of those leave who are not admitted.
    pub fn keep(&self, admitted: impl Fn(&PeerHello) -> bool) {
        self.0.lock().held.retain(|_, held| admitted(&held.peer));
    }
}

impl Seat {
    /// Waits until it has to be left.
    pub async fn told_to_leave(&mut self) {
        let _ = (&mut self.leave).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.inbound.0.lock();
        if state.held.get(&self.line).is_some_and(|held| held.serial == self.serial) {
            state.held.remove(&self.line);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn peer(node_id: NodeId) -> PeerHello {
        let address = ([127, 0, 0, 1], 40_000).into();
        PeerHello { node_id, incarnation: 5, life: 7, feature_level: 2, cluster_id: String::new(), address }
    }

    #[tokio::test]
    async fn a_line_is_read_from_one_connection_at_a_time() {
        let inbound = Arc::new(Inbound::default());
        let mut first = inbound.enter(&peer(1), 3).await;
        let other = inbound.enter(&peer(2), 3).await;
        assert!(first.told_to_leave().now_or_never().is_none());
        let one = peer(1);
        let mut second = Box::pin(inbound.enter(&one, 3));
        assert!((&mut second).now_or_never().is_none(), "the first is still read");
        first.told_to_leave().await;
        drop(first);
        let mut second = second.await;
        assert!(second.told_to_leave().now_or_never().is_none());
        drop((second, other));
        assert!(inbound.0.lock().held.is_empty());
    }

    #[tokio::test]
    async fn whoever_is_not_admitted_any_more_has_to_leave() {
        let inbound = Arc::new(Inbound::default());
        let mut gone = inbound.enter(&peer(1), 3).await;
        let mut stays = inbound.enter(&peer(2), 3).await;
        inbound.keep(|peer| peer.node_id == 2);
        gone.told_to_leave().await;
        assert!(stays.told_to_leave().now_or_never().is_none());
        // Its place is free, and its end does not take another's.
        let again = inbound.enter(&peer(1), 3).await;
        drop(gone);
        assert_eq!(inbound.0.lock().held.len(), 2);
        drop((again, stays));
    }

    #[tokio::test]
    async fn a_node_is_one_process_at_a_time() {
        let inbound = Arc::new(Inbound::default());
        let other = PeerHello { life: 8, ..peer(1) };
        let seat = inbound.enter(&peer(1), 3).await;
        inbound.check_sole(&peer(1)).unwrap();
        inbound.check_sole(&PeerHello { life: 8, ..peer(2) }).unwrap();
        let why = inbound.check_sole(&other).unwrap_err();
        assert!(super::super::hello::is_double(&why) && why.contains("127.0.0.1:40000"), "{why}");
        drop(seat);
        inbound.check_sole(&other).unwrap();
    }

    #[tokio::test]
    async fn a_peer_has_so_many_lines_and_no_more() {
        let (inbound, one) = (Arc::new(Inbound::default()), peer(1));
        let mut seats = Vec::new();
        for line in 0..LINES_MAX as u32 {
            seats.push(inbound.enter(&one, line).await);
        }
        let mut more = Box::pin(inbound.enter(&one, 1_000));
        assert!((&mut more).now_or_never().is_none());
        seats.remove(0).told_to_leave().await;
        let _more = more.await;
        assert!(seats[0].told_to_leave().now_or_never().is_none());
        assert_eq!(inbound.0.lock().held.len(), LINES_MAX);
    }
}
