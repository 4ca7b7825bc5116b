//! A simulated network between the members of one process: it delays, loses, repeats, holds back and cuts.
//!
//! ```text
//! call ─► way (from, to, lane), in order ─► lost? ─► handler ─► lost? ─► answer
//!            ▲ as long as either end pauses   │                   │
//!                                             └─► ConnectionReset ◄┘  some time later, as a connection would break
//! ```
//!
//! Takes requests from one member's [`Network`] seam and brings them to another's handler. Every delay and
//! loss comes from the seed; a request can be lost before or after it was acted upon, so that "it did not
//! happen" and "it happened but nobody told" both occur. What is not lost on a lane arrives in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::SimRng;
use crate::{
    env::{Lane, Network, PeerHandler},
    state::settings::FEATURE_LEVEL,
    types::NodeId,
};

/// Longest time a message takes one way, in microseconds, unless it is told otherwise.
const DELAY_US_MAX: u64 = 2_000;

/// When whoever waits hears that a message was lost, in microseconds: a connection breaks at the end of its patience.
const NOTICED_AFTER_US: std::ops::Range<u64> = 50_000..300_000;

/// The cables.
#[derive(Clone)]
pub struct SimNetwork(Arc<Inner>);

struct Inner {
    rng: SimRng,
    handlers: Mutex<BTreeMap<(NodeId, Lane), PeerHandler>>,
    /// Ordered pairs that cannot reach each other: `(from, to)`.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Until when messages from and to a member are held back.
    paused: Mutex<BTreeMap<NodeId, Instant>>,
    /// What members say they understand, where that is not what this build does.
    feature_levels: Mutex<BTreeMap<NodeId, u32>>,
    /// One message in this many is lost; 0 = none.
    loses_one_in: AtomicU64,
    /// One request in this many on [`Lane::Urgent`] arrives twice; 0 = none.
    repeats_one_in: AtomicU64,
    delay_us_max: AtomicU64,
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
            paused: Mutex::default(),
            loses_one_in: AtomicU64::new(loses_one_in),
            repeats_one_in: AtomicU64::new(0),
            delay_us_max: AtomicU64::new(DELAY_US_MAX),
            feature_levels: Mutex::default(),
            ways: Mutex::default(),
        }))
    }

    /// The seam of one member.
    #[must_use]
    pub fn link(&self, me: NodeId) -> SimLink {
        SimLink { network: self.clone(), me }
    }

    /// From now on it loses one message in so many, or none for 0.
    pub fn lose_one_in(&self, count: u64) {
        self.0.loses_one_in.store(count, Relaxed);
    }

    /// From now on one urgent request in so many arrives a second time, later; none for 0.
    pub fn repeat_one_in(&self, count: u64) {
        self.0.repeats_one_in.store(count, Relaxed);
    }

    /// How long a message takes one way from now on, at most, in microseconds.
    pub fn set_delay_max(&self, us: u64) {
        self.0.delay_us_max.store(us, Relaxed);
    }

    /// Holds back everything that a member sends and that is sent to it; it arrives when the time is over.
    pub fn pause(&self, member: NodeId, time: Duration) {
        self.0.paused.lock().insert(member, Instant::now() + time);
    }

    /// From now on this member says that it is of this feature level.
    pub fn set_feature_level(&self, member: NodeId, level: u32) {
        self.0.feature_levels.lock().insert(member, level);
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
        !self.once_in(&self.0.loses_one_in) && !self.0.cut.lock().contains(&(from, to))
    }

    fn once_in(&self, count: &AtomicU64) -> bool {
        let count = count.load(Relaxed);
        count > 0 && self.0.rng.one_in(count)
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.0.rng.below(self.0.delay_us_max.load(Relaxed)))
    }

    /// Waits as long as either end is paused.
    async fn until_resumed(&self, from: NodeId, to: NodeId) {
        let end = || {
            let paused = self.0.paused.lock();
            paused.get(&from).max(paused.get(&to)).copied().filter(|end| *end > Instant::now())
        };
        while let Some(end) = end() {
            sleep_until(end).await;
        }
    }

    /// Tells whoever waits for the answer to a lost message, some time later.
    fn lose(&self, reply: oneshot::Sender<io::Result<Bytes>>) {
        let span = NOTICED_AFTER_US.end - NOTICED_AFTER_US.start;
        let noticed = Duration::from_micros(NOTICED_AFTER_US.start + self.0.rng.below(span));
        tokio::spawn(async move {
            sleep(noticed).await;
            // The waiter may have given up.
            let _ = reply.send(Err(io::ErrorKind::ConnectionReset.into()));
        });
    }

    /// Brings what is sent one way to its handler, in order.
    async fn carry(self, (from, to, lane): (NodeId, NodeId, Lane), mut queue: mpsc::UnboundedReceiver<Sent>) {
        while let Some(Sent { arrives, request, reply }) = queue.recv().await {
            sleep_until(arrives).await;
            self.until_resumed(from, to).await;
            if !self.passes(from, to) {
                self.lose(reply);
                continue;
            }
            let Some(handler) = self.0.handlers.lock().get(&(to, lane)).cloned() else {
                let _ = reply.send(Err(io::Error::new(io::ErrorKind::NotConnected, "nobody is there")));
                continue;
            };
            if lane == Lane::Urgent && self.once_in(&self.0.repeats_one_in) {
                self.repeat(handler.clone(), from, request.clone());
            }
            let (network, mut answer) = (self.clone(), handler(from, request));
            // The first poll is this task's, so that handlers begin in order.
            let done = futures_util::poll!(&mut answer);
            tokio::spawn(async move {
                let result = match done {
                    std::task::Poll::Ready(result) => result,
                    std::task::Poll::Pending => answer.await,
                };
                sleep(network.delay()).await;
                network.until_resumed(to, from).await;
                if network.passes(to, from) {
                    let _ = reply.send(result);
                } else {
                    network.lose(reply);
                }
            });
        }
    }

    /// Lets a request arrive once more, late; nobody hears the answer.
    fn repeat(&self, handler: PeerHandler, from: NodeId, request: Bytes) {
        let late = self.delay() * 20;
        tokio::spawn(async move {
            sleep(late).await;
            let _ = handler(from, request).await;
        });
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

    fn feature_level(&self, peer: NodeId) -> Option<u32> {
        let SimNetwork(inner) = &self.network;
        let is_there = inner.handlers.lock().keys().any(|(id, _)| *id == peer);
        let is_cut = [(self.me, peer), (peer, self.me)].iter().any(|way| inner.cut.lock().contains(way));
        let level = inner.feature_levels.lock().get(&peer).copied();
        (is_there && !is_cut).then_some(level.unwrap_or(FEATURE_LEVEL))
    }
}
