//! A simulated network between the members of one process: it delays, loses and cuts.
//!
//! Takes requests from one member's [`Network`] seam and brings them to another's handler. Every delay and
//! loss comes from the seed; a request can be lost before or after it was acted upon, so that "it did not
//! happen" and "it happened but nobody told" both occur.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::SimRng;
use crate::{
    env::{Network, PeerHandler},
    types::NodeId,
};

/// Longest time a message takes one way.
const DELAY_US_MAX: u64 = 2_000;

/// The cables.
#[derive(Clone)]
pub struct SimNetwork(Arc<Inner>);

struct Inner {
    rng: SimRng,
    handlers: Mutex<BTreeMap<NodeId, PeerHandler>>,
    /// Ordered pairs that cannot reach each other: `(from, to)`.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// One message in this many is lost; 0 = none.
    loses_one_in: u64,
}

impl SimNetwork {
    /// A network that loses one message in `loses_one_in`, or none for 0.
    #[must_use]
    pub fn new(seed: u64, loses_one_in: u64) -> Self {
        let rng = SimRng::new(seed);
        Self(Arc::new(Inner { rng, handlers: Mutex::default(), cut: Mutex::default(), loses_one_in }))
    }

    /// The seam of one member.
    #[must_use]
    pub fn link(&self, me: NodeId) -> SimLink {
        SimLink { network: self.clone(), me }
    }

    /// Nothing sent by `from` reaches `to` any more; the other direction is another cut.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.0.cut.lock().insert((from, to));
    }

    /// All cuts are mended.
    pub fn heal(&self) {
        self.0.cut.lock().clear();
    }

    fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        !self.0.cut.lock().contains(&(from, to))
    }

    /// A one-way trip; false if the message is lost on it.
    async fn travel(&self, from: NodeId, to: NodeId) -> bool {
        sleep(Duration::from_micros(self.0.rng.below(DELAY_US_MAX))).await;
        let lost = self.0.loses_one_in > 0 && self.0.rng.one_in(self.0.loses_one_in);
        !lost && self.reaches(from, to)
    }
}

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNetwork, cut: {:?}", self.0.cut.lock())
    }
}

/// One member's end of the network.
#[derive(Clone, Debug)]
pub struct SimLink {
    network: SimNetwork,
    me: NodeId,
}

impl Network for SimLink {
    fn serve(&self, handler: PeerHandler) {
        self.network.0.handlers.lock().insert(self.me, handler);
    }

    fn call(&self, peer: NodeId, _address: &str, request: Bytes) -> BoxFuture<'static, io::Result<Bytes>> {
        let (network, me) = (self.network.clone(), self.me);
        Box::pin(async move {
            let handler = network.0.handlers.lock().get(&peer).cloned();
            let handler =
                handler.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "nobody is there"))?;
            if !network.travel(me, peer).await {
                // Whoever sent it hears nothing at all, and has to time out.
                std::future::pending::<()>().await;
            }
            let reply = handler(request).await;
            if !network.travel(peer, me).await {
                std::future::pending::<()>().await;
            }
            reply
        })
    }
}
