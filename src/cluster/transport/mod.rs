//! The way between members over TCP: [`Network`] for real.
//!
//! ```text
//!   call(peer, address, lane, request)
//!     │
//!     ▼ line ── connects, and again after a pause        accept ── strangers, at most 64
//!   link ── numbers the request, keeps the caller          │ handshake: who is there?
//!     │                                                    ▼
//!   outbox ── 64 MiB, then callers are told to wait      inbound ── one connection a line
//!     │                                                    │
//!     └─────────────────── frames, TCP ──────────────────► requests ── 1,024 or 64 at a time
//!     ┌──────────────────────────────────────────────────◄ outbox ◄┘ handler(peer, request)
//!     ▼
//!   link ── finds the caller by number
//! ```
//!
//! One port a node, one connection for each peer, address and lane, made by whoever calls; requests go one way on it and
//! replies the other. Every connection is a task of its own, so that a slow peer or a long transfer holds up nothing but
//! itself. Within a connection order is kept from `call` to the handler's first poll.
//!
//! It does not own what requests mean, who is a member (it asks [`Admission`]), or trying again: a call is sent
//! once, and fails as [`Network::call`] says. There is no TLS: without a secret only this machine is talked to, with
//! one members are proven and what they say can be read on the way.

use std::{
    collections::BTreeMap,
    fmt,
    future::ready,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, task::noop_waker_ref};
use parking_lot::{Mutex, RwLock};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

use crate::{
    env::{Lane, Network, PeerHandler, Rng, Traffic},
    types::NodeId,
};

mod answer;
mod bounds;
mod frame;
mod handshake;
mod hello;
mod inbound;
mod line;
mod link;
mod outbox;
mod peers;
mod secret;
mod silence;
mod tasks;

pub use self::{
    bounds::Bounds,
    handshake::{Admission, PeerHello},
    hello::is_of_another_cluster,
    line::is_refused,
    peers::PeerStatus,
};
use self::{
    bounds::payload_bytes_max, handshake::Local, inbound::Inbound, line::Line, peers::Peers, secret::Secret,
    tasks::Tasks,
};

/// Why calls fail after [`Transport::stop`].
const STOPPED: &str = "this node's transport has stopped";

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id, which is not [`ANYBODY`](crate::env::ANYBODY).
    pub node_id: NodeId,
    /// Which life of a node with this id it is.
    pub incarnation: u64,
    /// Newest formats that it can read.
    pub feature_level: u32,
}

/// What a transport begins with.
pub struct Setup {
    /// Who this node is.
    pub identity: Identity,
    /// The cluster it belongs to, empty while it belongs to none; it may change. Up to 255 visible ASCII characters.
    pub cluster_id: watch::Receiver<String>,
    /// What all members know and nobody else. Without one, or with an empty one, only this machine is talked to.
    pub secret: Option<Vec<u8>>,
    /// What its connections are allowed.
    pub bounds: Bounds,
    /// For nonces and pauses.
    pub rng: Arc<dyn Rng>,
}

/// A node's connections to other members. Cheap to clone; all clones are the same. It lives until
/// [`Transport::stop`].
#[derive(Clone)]
pub struct Transport(Arc<Shared>);

/// What the connections share.
struct Shared {
    identity: Identity,
    life: u64,
    cluster_id: watch::Receiver<String>,
    secret: Secret,
    bounds: Bounds,
    rng: Arc<dyn Rng>,
    /// By lane.
    handlers: RwLock<[Option<PeerHandler>; Lane::ALL.len()]>,
    admission: RwLock<Admission>,
    not_admitted: watch::Sender<Option<String>>,
    lines: Mutex<Lines>,
    last_line: AtomicU32,
    inbound: Arc<Inbound>,
    peers: Arc<Peers>,
    tasks: Tasks,
}

/// Lines by peer and lane, one for each address; `None` after the stop.
type Lines = Option<BTreeMap<(NodeId, Lane), Vec<Arc<Line>>>>;

impl Transport {
    /// Answers at `listener` from now on. Call it inside a runtime.
    #[must_use]
    pub fn start(listener: TcpListener, setup: Setup) -> Self {
        let Setup { identity, cluster_id, secret, bounds, rng } = setup;
        let shared = Arc::new(Shared {
            identity,
            life: rng.next_u64(),
            cluster_id,
            secret: Secret::new(secret.as_deref()),
            bounds,
            rng,
            handlers: RwLock::default(),
            admission: RwLock::new(Arc::new(|_| Ok(()))),
            not_admitted: watch::Sender::new(None),
            lines: Mutex::new(Some(BTreeMap::new())),
            last_line: AtomicU32::new(0),
            inbound: Arc::default(),
            peers: Arc::default(),
            tasks: Tasks::new(),
        });
        let _ = shared.tasks.spawn(answer::accept(Arc::clone(&shared), listener));
        Self(shared)
    }

    /// From now on `admission` is asked about every peer that has proven to know the secret, whichever end has dialed.
    /// Those it refuses lose the connections that they have made.
    pub fn set_admission(&self, admission: Admission) {
        *self.0.admission.write() = admission;
        self.ask_admission_again();
    }

    /// Ends what connections peers have made that the hook refuses by now.
    pub fn ask_admission_again(&self) {
        let admission = self.0.admission();
        self.0.inbound.keep(|peer| admission(peer).is_ok());
    }

    /// Why a member has refused to talk with this node, one that has proven to be one; nothing while none has.
    #[must_use]
    pub fn not_admitted(&self) -> watch::Receiver<Option<String>> {
        self.0.not_admitted.subscribe()
    }

    /// The peers that have been seen or called, by id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.0.peers.list()
    }

    /// Ends all connections, handlers and calls, and returns when their tasks have ended. Calls fail from then on.
    pub async fn stop(&self) {
        // Calls wait for what their line or its task holds, and hear of it when both are gone.
        drop(self.0.lines.lock().take());
        self.0.tasks.stop().await;
        // They may hold this transport.
        *self.0.handlers.write() = Default::default();
    }

    /// The line to a peer, made if there is none.
    fn line(&self, peer: NodeId, address: &str, lane: Lane) -> Option<Arc<Line>> {
        let mut lines = self.0.lines.lock();
        let all = lines.as_mut()?;
        let here = all.entry((peer, lane)).or_default();
        if let Some(line) = here.iter().find(|line| *line.address == *address) {
            return Some(Arc::clone(line));
        }
        let line = Line::new(peer, address, lane, self.0.last_line.fetch_add(1, Relaxed));
        here.push(Arc::clone(&line));
        all.retain(|_, lines| {
            lines.retain(|line| !line.is_forgotten());
            !lines.is_empty()
        });
        Some(line)
    }

    /// Asks this node itself.
    fn call_self(&self, lane: Lane, request: Bytes) -> BoxFuture<'static, io::Result<Bytes>> {
        // Handlers may use the runtime in their first poll, and callers need not be on it.
        let _runtime = self.0.tasks.runtime().enter();
        let mut answer = self.0.handle(self.0.identity.node_id, lane, request);
        if let Some(result) = poll_once(&mut answer) {
            return Box::pin(ready(result));
        }
        let (reply, result) = oneshot::channel();
        let task = async move {
            // Whoever has given the reply up is not there any more.
            let _ = reply.send(answer.await);
        };
        let _ = self.0.tasks.spawn(task);
        Box::pin(result.map(|result| result.unwrap_or_else(|_| Err(io::Error::other(STOPPED)))))
    }
}

impl Network for Transport {
    fn serve(&self, lane: Lane, handler: PeerHandler) {
        self.0.handlers.write()[lane as usize] = Some(handler);
    }

    /// # Errors
    /// As the seam says. `WouldBlock` means that too much waits to be sent to the peer already, and `InvalidInput` that
    /// the request is too long for its lane: neither was sent.
    fn call(
        &self,
        peer: NodeId,
        address: &str,
        lane: Lane,
        request: Bytes,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        let most = payload_bytes_max(lane);
        if request.len() > most {
            let why = format!("a request of {} bytes, where the lane takes {most}", request.len());
            return Box::pin(ready(Err(io::Error::new(io::ErrorKind::InvalidInput, why))));
        }
        if peer == self.0.identity.node_id {
            return self.call_self(lane, request);
        }
        let Some(line) = self.line(peer, address, lane) else {
            return Box::pin(ready(Err(io::Error::new(io::ErrorKind::NotConnected, STOPPED))));
        };
        match line.send(&self.0, request) {
            Ok(reply) => {
                Box::pin(reply.map(|reply| reply.unwrap_or_else(|_| Err(io::Error::other(STOPPED)))))
            }
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn feature_level(&self, peer: NodeId) -> Option<u32> {
        self.0.peers.feature_level(peer)
    }

    fn refusal(&self, peer: NodeId) -> Option<String> {
        self.0.peers.refusal(peer)
    }

    fn expulsion(&self) -> Option<String> {
        self.0.not_admitted.borrow().clone()
    }

    fn traffic(&self) -> Traffic {
        self.0.peers.counters.read()
    }
}

impl Shared {
    /// Begins to handle a request.
    fn handle(&self, from: NodeId, lane: Lane, request: Bytes) -> BoxFuture<'static, io::Result<Bytes>> {
        let handler = self.handlers.read()[lane as usize].clone();
        match handler {
            Some(handler) => handler(from, request),
            None => {
                let why = format!("node {} does not serve {lane:?} requests yet", self.identity.node_id);
                Box::pin(ready(Err(io::Error::new(io::ErrorKind::NotConnected, why))))
            }
        }
    }

    fn admission(&self) -> Admission {
        Arc::clone(&self.admission.read())
    }

    /// The hook for those that have connected themselves.
    fn admission_of_dialers(&self) -> Admission {
        let (admission, inbound) = (self.admission(), Arc::clone(&self.inbound));
        Arc::new(move |peer| {
            admission(peer)?;
            inbound.check_sole(peer)
        })
    }

    /// This node at one end of a connection with `remote`.
    fn local<'a>(&'a self, admission: &'a Admission, remote: SocketAddr) -> Local<'a> {
        Local {
            identity: self.identity,
            life: self.life,
            cluster_id: self.cluster_id.borrow().clone(),
            secret: &self.secret,
            rng: &*self.rng,
            admission,
            remote,
        }
    }
}

/// Polls a future for the first time; whoever goes on with it polls it again before waiting.
fn poll_once<T>(future: &mut BoxFuture<'_, T>) -> Option<T> {
    match future.poll_unpin(&mut Context::from_waker(noop_waker_ref())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("identity", &self.0.identity)
            .field("secret", &self.0.secret)
            .finish_non_exhaustive()
    }
}
