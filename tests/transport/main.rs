//! Members that call each other over real sockets: what comes through, who is refused, and what strangers can do.

mod calls;
mod hostile;
mod proxy;
mod refusals;

use std::{future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use scribe_ledger::{
    cluster::transport::{Bounds, Identity, PeerStatus, Setup, Transport},
    env::{Lane, Network, PeerHandler, Traffic, real::OsRng},
    types::NodeId,
};
use tokio::{net::TcpListener, sync::watch};

/// Longer than anything here takes on a busy machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member, or what wants to be one.
struct Node {
    id: NodeId,
    transport: Transport,
    address: String,
    cluster_id: watch::Sender<String>,
}

/// How a node differs from the others.
struct Plan {
    node_id: NodeId,
    incarnation: u64,
    cluster_id: &'static str,
    secret: Option<&'static [u8]>,
    bounds: Bounds,
}

fn plan(node_id: NodeId) -> Plan {
    Plan {
        node_id,
        incarnation: 100 + node_id,
        cluster_id: "c1",
        secret: Some(b"a secret of the tests"),
        bounds: Bounds::default(),
    }
}

impl Plan {
    async fn start(self) -> Node {
        self.start_at("127.0.0.1:0").await
    }

    async fn start_at(self, address: &str) -> Node {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, cluster_id) = watch::channel(self.cluster_id.to_owned());
        let identity = Identity { node_id: self.node_id, incarnation: self.incarnation, feature_level: 3 };
        let secret = self.secret.map(<[u8]>::to_vec);
        let setup = Setup { identity, cluster_id, secret, bounds: self.bounds, rng: Arc::new(OsRng) };
        let transport = Transport::start(listener, setup);
        for lane in Lane::ALL {
            transport.serve(lane, echo(lane));
        }
        Node { id: self.node_id, transport, address, cluster_id: sender }
    }
}

async fn node(node_id: NodeId) -> Node {
    plan(node_id).start().await
}

impl Node {
    async fn call(&self, to: &Node, lane: Lane, request: impl Into<Bytes>) -> io::Result<Bytes> {
        self.call_at(to.id, &to.address, lane, request).await
    }

    async fn call_at(
        &self,
        peer: NodeId,
        address: &str,
        lane: Lane,
        request: impl Into<Bytes>,
    ) -> io::Result<Bytes> {
        within(self.transport.call(peer, address, lane, request.into())).await
    }

    fn traffic(&self) -> Traffic {
        self.transport.traffic()
    }

    fn peer(&self, node_id: NodeId) -> Option<PeerStatus> {
        self.transport.peers().into_iter().find(|peer| peer.node_id == node_id)
    }
}

/// Answers with the lane, the caller and what was asked.
fn echo(lane: Lane) -> PeerHandler {
    Arc::new(move |from, request| {
        async move {
            let mut reply = format!("{lane:?} {from} ").into_bytes();
            reply.extend_from_slice(&request);
            Ok(reply.into())
        }
        .boxed()
    })
}

/// What comes of it, if it comes to an end.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it never ended")
}

/// Returns when the condition holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
