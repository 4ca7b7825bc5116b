//! How the members are, as each says of itself: asked once a second, remembered for whoever looks.
//!
//! ```text
//!  keep_asking ── Question::Vitals ──► segments ─► what the node says of itself
//!      └─► Others ─► status pages, metrics
//! ```
//!
//! Takes answers, gives the newest of each member and how old it is. It decides nothing: who leads and who is counted on
//! is Raft's to know. JSON, so that versions may add fields.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::message::Question;
use crate::{
    env::{Lane, Network},
    error::{Code, Error, Result},
    raft::{Consensus, Member, Positions},
    types::NodeId,
};

/// Between two questions to a member, and how long each may take.
const PAUSE: Duration = Duration::from_secs(1);

/// Of a member that has been silent for so long nobody says that it is well.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How far a member has come that is so far behind that it fetches segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchingUp {
    /// Segments that are in place.
    pub segments: u64,
    /// How many the leader has listed so far.
    pub of: u64,
    /// Bytes fetched since it began.
    pub bytes: u64,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vitals {
    /// Why it cannot do its work; nothing when it can.
    pub trouble: Option<String>,
    /// One past the last log entry that it has applied.
    pub applied: u64,
    /// While it fetches segments.
    pub catching_up: Option<CatchingUp>,
}

impl Vitals {
    /// The answer to [`Question::Vitals`].
    ///
    /// # Errors
    /// [`Code::Internal`] when memory is short.
    pub(super) fn encode(&self) -> Result<Bytes> {
        let json = serde_json::to_vec(self);
        json.map(Bytes::from).map_err(|error| Error::new(Code::Internal, error.to_string()))
    }

    fn decode(answer: &[u8]) -> Option<Self> {
        (answer.len() <= ANSWER_BYTES_MAX).then(|| serde_json::from_slice(answer).ok()).flatten()
    }
}

/// What was heard of a member.
#[derive(Clone, Debug)]
struct Heard {
    /// Its last words.
    vitals: Option<Vitals>,
    /// Entries that were known here to be committed when it was asked, and that it had not applied when it answered.
    lag: u64,
    /// When it spoke, or was asked for the first time.
    at: Instant,
}

/// What is known of the other members. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Others(Arc<Mutex<BTreeMap<NodeId, Heard>>>);

impl Others {
    /// Whether a member can do its work; `None` when nothing is known yet.
    #[must_use]
    pub fn is_healthy(&self, id: NodeId) -> Option<bool> {
        let others = self.0.lock();
        let heard = others.get(&id)?;
        match (heard.at.elapsed() < SILENCE_MAX, &heard.vitals) {
            (true, Some(vitals)) => Some(vitals.trouble.is_none()),
            (true, None) => None,
            (false, _) => Some(false),
        }
    }

    /// What a member last said, unless that was long ago.
    #[must_use]
    pub fn newest(&self, id: NodeId) -> Option<Vitals> {
        let others = self.0.lock();
        others.get(&id).filter(|heard| heard.at.elapsed() < SILENCE_MAX)?.vitals.clone()
    }

    /// How many entries a member lacked when it was last heard of, unless that was long ago: of those that this member
    /// knew to be committed then, because it has heard of others since.
    #[must_use]
    pub fn lag(&self, id: NodeId) -> Option<u64> {
        let others = self.0.lock();
        let heard = others.get(&id).filter(|heard| heard.at.elapsed() < SILENCE_MAX)?;
        heard.vitals.is_some().then_some(heard.lag)
    }

    /// Notes an answer, or that there was none, to a question that was asked when so many entries were `committed`.
    fn note(&self, id: NodeId, committed: u64, answer: Option<Vitals>) {
        let mut others = self.0.lock();
        let heard = others.entry(id).or_insert_with(|| Heard { vitals: None, lag: 0, at: Instant::now() });
        if let Some(vitals) = answer {
            let lag = committed.saturating_sub(vitals.applied);
            *heard = Heard { vitals: Some(vitals), lag, at: Instant::now() };
        }
    }

    /// Forgets whoever is no member any more.
    fn keep(&self, members: &BTreeMap<NodeId, Member>) {
        self.0.lock().retain(|id, _| members.contains_key(id));
    }
}

/// Asks all other members, again and again, until its task is ended.
pub async fn keep_asking(me: NodeId, consensus: Consensus, network: Arc<dyn Network>, others: Others) {
    loop {
        let Positions { members, committed, .. } = consensus.positions();
        let asked = members.iter().filter(|(id, _)| **id != me).map(|(id, member)| {
            let (network, others) = (&network, &others);
            async move { others.note(*id, committed, ask(&**network, *id, member).await) }
        });
        join_all(asked).await;
        others.keep(&members);
        sleep(PAUSE).await;
    }
}

async fn ask(network: &dyn Network, id: NodeId, member: &Member) -> Option<Vitals> {
    let call = network.call(id, &member.raft_addr, Lane::Fetch, Question::Vitals.encode());
    Vitals::decode(&timeout(PAUSE, call).await.ok()?.ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn vitals_read_back_and_other_bytes_do_not_panic(
            trouble in prop::option::of(".{0,40}"), applied: u64,
            catching_up in prop::option::of((any::<u64>(), any::<u64>(), any::<u64>())),
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let catching_up = catching_up.map(|(segments, of, bytes)| CatchingUp { segments, of, bytes });
            let vitals = Vitals { trouble, applied, catching_up };
            prop_assert_eq!(Vitals::decode(&vitals.encode().unwrap()), Some(vitals));
            let _ = Vitals::decode(&bytes);
        }
    }

    #[test]
    fn a_newer_member_may_say_more_and_an_older_one_less() {
        let read = |json: &str| Vitals::decode(json.as_bytes()).unwrap();
        assert_eq!(read(r#"{"applied":7,"mood":"fine"}"#), Vitals { applied: 7, ..Vitals::default() });
        assert_eq!(Vitals::decode(&vec![b' '; ANSWER_BYTES_MAX + 1]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_no_good_sign() {
        let others = Others::default();
        assert_eq!(others.is_healthy(2), None, "never asked");
        others.note(2, 9, None);
        assert_eq!(others.is_healthy(2), None, "asked just now");
        others.note(3, 9, Some(Vitals { applied: 5, ..Vitals::default() }));
        others.note(4, 0, Some(Vitals { trouble: Some("no leader is known".into()), ..Vitals::default() }));
        assert_eq!((others.is_healthy(3), others.is_healthy(4)), (Some(true), Some(false)));
        assert_eq!(others.newest(3).map(|vitals| vitals.applied), Some(5));
        assert_eq!(
            (others.lag(2), others.lag(3), others.lag(4), others.lag(7)),
            (None, Some(4), Some(0), None)
        );
        // It has seen more than this member had when it asked.
        others.note(3, 9, Some(Vitals { applied: 11, ..Vitals::default() }));
        assert_eq!(others.lag(3), Some(0));
        sleep(SILENCE_MAX).await;
        others.note(3, 20, None);
        assert_eq!((others.is_healthy(2), others.is_healthy(3)), (Some(false), Some(false)));
        assert_eq!((others.newest(3), others.lag(3)), (None, None));
        others.keep(&BTreeMap::from([(3, Member::default())]));
        assert_eq!((others.is_healthy(2), others.is_healthy(3)), (None, Some(false)));
    }
}
