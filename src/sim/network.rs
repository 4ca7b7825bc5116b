//! A simulated network between the members of one process: it delays, loses and cuts.
//!
//! Takes requests from one member's [`Network`] seam and brings them to another's handler. Every delay and
//! loss comes from the seed; a request can be lost before or after it was acted upon, so that "it did not
//! happen" and "it happened but nobody told" both occur. What is not lost on a lane arrives in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::SimRng;
use crate::{
    env::{Lane, Network, PeerHandler},
    types::NodeId,
};

/// Longest time a message takes one way.
const DELAY_US_MAX: u64 = 2_000;

/// The cables.
#[derive(Clone)]
pub struct SimNetwork(Arc<Inner>);

struct Inner {
    rng: SimRng,
    handlers: Mutex<BTreeMap<(NodeId, Lane), PeerHandler>>,
    /// Ordered pairs that cannot reach each other: `(from, to)`.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// One message in this many is lost; 0 = none.
    loses_one_in: u64,
    /// Whoever waits for one of these hears nothing at all, and has to time out.
    lost: Mutex<Vec<oneshot::Sender<io::Result<Bytes>>>>,
    /// A queue for each way from one member to another.
    ways: Mutex<BTreeMap<(NodeId, NodeId, Lane), mpsc::UnboundedSender<Sent>>>,
}

/// A request on its way, and where its reply goes.
struct Sent {
    arrives: Instant,
    request: Bytes,
    reply: oneshot::Sender<io::Result<Bytes>>,
}

impl SimNetwork {
    /// A network that loses one message in `loses_one_in`, or none for 0.
    #[must_use]
    pub fn new(seed: u64, loses_one_in: u64) -> Self {
        Self(Arc::new(Inner {
            rng: SimRng::new(seed),
            handlers: Mutex::default(),
            cut: Mutex::default(),
            loses_one_in,
            lost: Mutex::default(),
            ways: Mutex::default(),
        }))
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

    /// Nobody answers at this member any more, until it serves again.
    pub fn unplug(&self, member: NodeId) {
        self.0.handlers.lock().retain(|(id, _), _| *id != member);
    }

    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        let lost = self.0.loses_one_in > 0 && self.0.rng.one_in(self.0.loses_one_in);
        !lost && !self.0.cut.lock().contains(&(from, to))
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.0.rng.below(DELAY_US_MAX))
    }

    /// Brings what is sent one way to its handler, in order.
    async fn carry(self, (from, to, lane): (NodeId, NodeId, Lane), mut queue: mpsc::UnboundedReceiver<Sent>) {
        while let Some(Sent { arrives, request, reply }) = queue.recv().await {
            sleep_until(arrives).await;
            if !self.passes(from, to) {
                self.0.lost.lock().push(reply);
                continue;
            }
            let Some(handler) = self.0.handlers.lock().get(&(to, lane)).cloned() else {
                let _ = reply.send(Err(io::Error::new(io::ErrorKind::NotConnected, "nobody is there")));
                continue;
            };
            let (network, mut answer) = (self.clone(), handler(from, request));
            // The first poll is this task's, so that handlers begin in order.
            let done = futures_util::poll!(&mut answer);
            tokio::spawn(async move {
                let result = match done {
                    std::task::Poll::Ready(result) => result,
                    std::task::Poll::Pending => answer.await,
                };
                tokio::time::sleep(network.delay()).await;
                if network.passes(to, from) {
                    let _ = reply.send(result);
                } else {
                    network.0.lost.lock().push(reply);
                }
            });
        }
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
    fn serve(&self, lane: Lane, handler: PeerHandler) {
        self.network.0.handlers.lock().insert((self.me, lane), handler);
    }

    fn call(
        &self,
        peer: NodeId,
        _address: &str,
        lane: Lane,
        request: Bytes,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        let way = (self.me, peer, lane);
        let (reply, answer) = oneshot::channel();
        let sent = Sent { arrives: Instant::now() + self.network.delay(), request, reply };
        let mut ways = self.network.0.ways.lock();
        let queue = ways.entry(way).or_insert_with(|| {
            let (sender, queue) = mpsc::unbounded_channel();
            tokio::spawn(self.network.clone().carry(way, queue));
            sender
        });
        // Its receiver lives as long as the runtime.
        let _ = queue.send(sent);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())) })
    }
}
