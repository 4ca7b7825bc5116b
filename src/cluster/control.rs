//! What nodes ask each other about the cluster itself: who is there, who shall belong to it, who shall lead.
//!
//! ```text
//! Who                          what the node says of itself: a Report
//! Adopt { cluster_id }         belong to this cluster from now on; whoever asks adds you to it
//! Change(…)                    asked of any member, done by the leader: add, remove, promote, hand over
//! ```
//!
//! Small and rare, so JSON, which lets versions add fields. It does not own what becomes of an answer: see
//! [`form`](super::form) and [`admin`](super::admin).

use std::{io, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::form::Report;
use crate::{
    env::{Lane, Network},
    error::{Code, Error, Result},
    types::NodeId,
};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Who are you?
    Who,
    /// Be this cluster's, if you hold no records of your own.
    Adopt {
        /// Which cluster.
        cluster_id: String,
    },
    /// Change the cluster, if you lead.
    Change(Wish),
}

/// A change that somebody wishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// A node is to belong to the cluster.
    Add {
        /// What it says of itself.
        node: Report,
        /// Whether it is to serve reads and never vote.
        is_replica: bool,
    },
    /// Members are to leave.
    Remove(Vec<NodeId>),
    /// These are to be the voters, and no others.
    Voters(Vec<NodeId>),
    /// Another voter is to lead.
    Lead(NodeId),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// To [`Ask::Who`].
    Me(Report),
    /// It is done.
    Done,
    /// Ask the leader, or later where none is known.
    NotLed(Option<NodeId>),
    /// It cannot be done.
    Refused {
        /// Whether that may change by itself.
        retry: bool,
        /// Why.
        why: String,
    },
}

impl Told {
    /// The answer to a question that failed.
    #[must_use]
    pub fn refused(error: &Error) -> Self {
        let retry = error.advice() == crate::error::Advice::Retry;
        Self::Refused { retry, why: error.message().to_owned() }
    }
}

/// The bytes of a message.
///
/// # Errors
/// When memory is short.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Bytes> {
    serde_json::to_vec(message).map(Bytes::from).map_err(io::Error::other)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// `InvalidData` for anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Asks a node, or whoever answers at the address.
///
/// # Errors
/// [`Code::Unavailable`] when nobody answers in time, or something else.
pub async fn ask(
    network: &dyn Network,
    peer: NodeId,
    address: &str,
    question: &Ask,
    patience: Duration,
) -> Result<Told> {
    let failed = |why: String| {
        Error::new(Code::Unavailable, format!("the node at {address} was not reached: {why}"))
            .retry_after(Duration::from_secs(1))
    };
    let question = encode(question).map_err(|e| failed(e.to_string()))?;
    let call = network.call(peer, address, Lane::Control, question);
    let answer = tokio::time::timeout(patience, call).await;
    let answer = answer.map_err(|_| failed("it does not answer in time".into()))?;
    answer.and_then(|bytes| decode(&bytes)).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::form::{Addresses, Belonging};

    fn any_report() -> impl Strategy<Value = Report> {
        let belonging = (".{0,10}", any::<bool>())
            .prop_map(|(cluster_id, is_member)| Belonging { cluster_id, is_member });
        (any::<u64>(), any::<u64>(), ".{0,20}", ".{0,20}", prop::option::of(belonging), any::<bool>())
            .prop_map(|(id, incarnation, raft_addr, http_addr, cluster, has_state)| {
                let addresses = Addresses { raft_addr, http_addr };
                Report { id, incarnation, addresses, cluster, has_state }
            })
    }

    proptest! {
        #[test]
        fn messages_read_back(node in any_report(), ids in prop::collection::vec(any::<u64>(), 0..5), flag: bool, text in ".{0,30}") {
            let asks = [
                Ask::Who,
                Ask::Adopt { cluster_id: text.clone() },
                Ask::Change(Wish::Add { node: node.clone(), is_replica: flag }),
                Ask::Change(Wish::Remove(ids.clone())),
                Ask::Change(Wish::Voters(ids.clone())),
                Ask::Change(Wish::Lead(ids.len() as u64)),
            ];
            for ask in asks {
                prop_assert_eq!(decode::<Ask>(&encode(&ask).unwrap()).unwrap(), ask);
            }
            let tolds = [Told::Me(node), Told::Done, Told::NotLed(ids.first().copied()), Told::Refused { retry: flag, why: text }];
            for told in tolds {
                prop_assert_eq!(decode::<Told>(&encode(&told).unwrap()).unwrap(), told);
            }
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode::<Ask>(&bytes);
            let _ = decode::<Told>(&bytes);
        }
    }
}
