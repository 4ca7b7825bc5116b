//! The leader's side: proposes what other members' clients have sent.

use std::{
    fmt, io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use super::{Proposer, reply::Reply};
use crate::{
    env::{Lane, Network, PeerHandler},
    error::{Code, Error, Result},
    pipeline::{room::DiskRoom, unsealed::Unsealed},
    state::batch::BatchView,
    types::NodeId,
};

/// The entrance for other members' batches. Cheap to clone; with the last clone it is gone, and holds nothing of the
/// node any more that the next start would find in use.
#[derive(Clone)]
pub struct Accept(Arc<Inner>);

struct Inner {
    proposer: Proposer,
    unsealed: Unsealed,
    room: DiskRoom,
    is_closed: AtomicBool,
}

impl fmt::Debug for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept").field("is_closed", &self.0.is_closed).finish_non_exhaustive()
    }
}

impl Accept {
    /// Takes batches from `network` while there is room for what they bring.
    #[must_use]
    pub fn serve(network: &dyn Network, proposer: Proposer, unsealed: Unsealed, room: DiskRoom) -> Self {
        let accept = Self(Arc::new(Inner { proposer, unsealed, room, is_closed: AtomicBool::new(false) }));
        let handler: PeerHandler = {
            let inner = Arc::downgrade(&accept.0);
            Arc::new(move |from, entry| {
                let inner = Weak::clone(&inner);
                Box::pin(async move {
                    let reply = match inner.upgrade() {
                        Some(inner) => inner.answer(from, entry).await,
                        None => Reply::NotLed,
                    };
                    reply.encode().map_err(io::Error::other)
                })
            })
        };
        network.serve(Lane::Propose, handler);
        accept
    }

    /// From here on whoever asks is told to look for another leader.
    pub fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
    }
}

impl Inner {
    async fn answer(&self, from: NodeId, entry: Bytes) -> Reply {
        if self.proposer.consensus.was_removed(from) {
            let why = format!("nothing was written: node {from} was removed from this cluster; ask a member");
            return Reply::Refused(Error::new(Code::Unavailable, why));
        }
        if self.is_closed.load(Ordering::Acquire) {
            return Reply::NotLed;
        }
        if entry.is_empty() {
            return self.room.check().map_or_else(Reply::Refused, |()| Reply::HasRoom);
        }
        let admitted = async {
            self.room.check()?;
            // It is about to be every member's, so what this one cannot read must not get that far.
            BatchView::open(entry.clone())?;
            self.unsealed.wait_for_room().await
        };
        let admitted: Result<(), Error> = admitted.await;
        if let Err(error) = admitted {
            return Reply::Refused(error);
        }
        match self.proposer.propose(&entry).await {
            Ok(Ok(outcome)) => Reply::Outcome(outcome),
            Ok(Err(error)) => Reply::Refused(error),
            Err(_) => Reply::NotLed,
        }
    }
}
