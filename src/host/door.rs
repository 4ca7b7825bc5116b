//! What this node answers to others about itself and the cluster, before and while it has a ledger.

use std::{fmt, future::ready, io, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    cluster::{
        admin::Admin,
        control::{Ask, Told, decode, encode},
        form::Report,
    },
    env::{Lane, Network, PeerHandler},
    types::NodeId,
};

type IsDroppable = Arc<dyn Fn() -> bool + Send + Sync>;

/// What a node serves others while it runs.
const LANES_OF_THE_NODE: [Lane; 4] = [Lane::Urgent, Lane::Append, Lane::Propose, Lane::Fetch];

/// The answers. Cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    network: Arc<dyn Network>,
    report: Mutex<Report>,
    node: Mutex<Option<Attached>>,
    adopted: watch::Sender<Option<String>>,
}

#[derive(Clone)]
struct Attached {
    admin: Admin,
    is_droppable: IsDroppable,
}

impl Door {
    /// Answers on `network` from now on, saying `report` of this node.
    pub fn open(network: Arc<dyn Network>, report: Report) -> Self {
        let door = Self(Arc::new(Inner {
            network: Arc::clone(&network),
            report: Mutex::new(report),
            node: Mutex::default(),
            adopted: watch::Sender::new(None),
        }));
        let handler: PeerHandler = {
            let door = door.clone();
            Arc::new(move |from, question| {
                let door = door.clone();
                Box::pin(async move { encode(&door.answer(from, decode(&question)?).await) })
            })
        };
        network.serve(Lane::Control, handler);
        door
    }

    /// What this node says of itself.
    pub fn report(&self) -> Report {
        self.0.report.lock().clone()
    }

    /// From now on it says this.
    pub fn say(&self, report: Report) {
        *self.0.report.lock() = report;
    }

    /// A node runs, whose cluster can be changed through `admin`.
    pub fn attach(&self, admin: Admin, is_droppable: IsDroppable) {
        *self.0.node.lock() = Some(Attached { admin, is_droppable });
    }

    /// Nobody gets through to the node from now on, until it starts again: whoever asks hears that nothing was seen.
    pub fn shut(&self) {
        for lane in LANES_OF_THE_NODE {
            let handler: PeerHandler = Arc::new(|_from, _request| {
                let why = "this member is between two starts";
                Box::pin(ready(Err(io::Error::new(io::ErrorKind::NotConnected, why))))
            });
            self.0.network.serve(lane, handler);
        }
    }

    /// It does not run any more.
    pub fn detach(&self) {
        *self.0.node.lock() = None;
    }

    /// Tells when another cluster has adopted this node.
    pub fn adoption(&self) -> watch::Receiver<Option<String>> {
        self.0.adopted.subscribe()
    }

    /// The cluster that has adopted this node, once.
    pub fn take_adoption(&self) -> Option<String> {
        self.0.adopted.send_replace(None)
    }

    async fn answer(&self, from: NodeId, question: Ask) -> Told {
        let node = self.0.node.lock().clone();
        match (question, node) {
            (Ask::Who, _) => Told::Me(self.report()),
            (Ask::Adopt { cluster_id }, node) => self.adopt(cluster_id, node),
            (Ask::Change(_), None) => Told::NotLed(None),
            (Ask::Change(wish), Some(Attached { admin, .. })) => match admin.is_member(from) {
                // A member has looked for the leader itself; whoever is none yet cannot.
                true => admin.answer(wish).await,
                false => admin.fulfil(wish).await.map_or_else(|error| Told::refused(&error), |()| Told::Done),
            },
        }
    }

    fn adopt(&self, cluster_id: String, node: Option<Attached>) -> Told {
        let report = self.report();
        let mine = report.cluster.map(|cluster| cluster.cluster_id);
        if mine.as_ref() == Some(&cluster_id) {
            return Told::Done;
        }
        if mine.is_some() || node.is_some_and(|node| !(node.is_droppable)()) {
            let why =
                format!("node {} has a ledger of its own: start it on an empty data directory", report.id);
            return Told::Refused { retry: false, why };
        }
        tracing::info!(cluster_id, "another cluster adopts this node");
        // The leader may send its log at once, which is nothing for the ledger that is given up.
        self.shut();
        self.0.adopted.send_replace(Some(cluster_id));
        Told::Done
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.report()).finish()
    }
}
