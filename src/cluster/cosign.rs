//! Gathers other members' signatures for this member's checkpoints.
//!
//! ```text
//!  prove ─► checkpoint, signed here ─► cosign ── size, root ─────────────► every other member: sign
//!                    ▲                    ▲ ◄── signature line, or why not ──   │
//!                    └─ one more line ────┘                                 its own tree
//! ```
//!
//! Takes checkpoints as they are signed here, adds to the newest the lines of others, each of which was verified with
//! a key that the log names for that member. One question is under way to each member, ten a second at most, and none
//! once all have signed: a quiet ledger is quiet. What comes for a checkpoint that is not the newest any more is
//! dropped. It does not own the answers (`sign`), nor who serves checkpoints.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout};

use super::message::{Question, Signature};
use crate::{
    env::{Lane, Network},
    error::{Code, Error, Result},
    proof::{
        key::VerifierKey,
        note::{Note, NoteSignature},
    },
    raft::Consensus,
    state::{State, attestation::ATTESTATION_LEVEL},
    tree::{ShowCheckpoint, Signed},
    types::NodeId,
};

/// The least time between two questions to a member.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// The longest time that one who does not answer is left in peace.
const REST_MAX: Duration = Duration::from_secs(2);

/// How long a member has for its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked who the members are, where nothing else happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of another member.
#[derive(Debug, Default)]
struct Peer {
    is_asked: bool,
    /// When it may be asked again; none before the first question.
    rests_until: Option<Instant>,
    /// Questions in a row without an answer.
    failures: u32,
    /// It has been said that its tree differs.
    is_disputed: bool,
}

/// A question that is answered.
type Answered = (NodeId, Arc<Signed>, Result<Signature>);

/// Gathers signatures for what is shown, until the task is ended.
pub async fn gather_signatures(
    consensus: Consensus,
    state: Arc<State>,
    network: Arc<dyn Network>,
    shown: ShowCheckpoint,
    disputes: Arc<AtomicU64>,
) {
    let mut checkpoints = shown.subscribe();
    let mut peers: BTreeMap<NodeId, Peer> = BTreeMap::new();
    let mut asked: FuturesUnordered<BoxFuture<'static, Answered>> = FuturesUnordered::new();
    loop {
        let newest = checkpoints.borrow_and_update().clone();
        let mut look_at = Instant::now() + LOOK_EVERY;
        let has_level = state.settings().is_some_and(|settings| settings.feature_level >= ATTESTATION_LEVEL);
        if let Some(newest) = newest.filter(|_| has_level) {
            let positions = consensus.positions();
            peers.retain(|id, _| positions.members.contains_key(id));
            for (id, member) in &positions.members {
                if *id == consensus.id() || newest.cosigners.contains(id) || keys_of(&state, *id).is_empty() {
                    continue;
                }
                let peer = peers.entry(*id).or_default();
                if peer.is_asked {
                    continue;
                }
                if let Some(end) = peer.rests_until.filter(|end| *end > Instant::now()) {
                    look_at = look_at.min(end);
                    continue;
                }
                peer.is_asked = true;
                peer.rests_until = Some(Instant::now() + ASK_EVERY);
                let question = Question::Sign { size: newest.size, root: newest.root };
                let call = network.call(*id, &member.raft_addr, Lane::Fetch, question.encode());
                let (id, newest) = (*id, newest.clone());
                asked.push(Box::pin(async move {
                    let answer = match timeout(ANSWER_PATIENCE, call).await {
                        Ok(Ok(answer)) => Signature::decode(&answer),
                        Ok(Err(error)) => Err(Error::io("asking for a signature", &error)),
                        Err(_) => Err(Error::new(Code::Unavailable, "no answer in time")),
                    };
                    (id, newest, answer)
                }));
            }
        }
        tokio::select! {
            biased;
            Some((id, signed, answer)) = asked.next(), if !asked.is_empty() => {
                let Some(peer) = peers.get_mut(&id) else { continue };
                peer.is_asked = false;
                let rest = match answer.and_then(|answer| settle(&state, &shown, id, &signed, answer)) {
                    Ok(Settled::Agreed) => {
                        (peer.failures, peer.is_disputed) = (0, false);
                        continue;
                    }
                    Ok(Settled::Disputed) => {
                        disputes.fetch_add(1, Relaxed);
                        if !std::mem::replace(&mut peer.is_disputed, true) {
                            tracing::error!(
                                member = id,
                                size = %signed.size,
                                "another member's tree differs, and it does not sign this one's checkpoint: one of the \
                                 two copies has diverged"
                            );
                        }
                        REST_MAX
                    }
                    Err(error) => {
                        tracing::debug!(%error, member = id, "a member does not sign a checkpoint");
                        peer.failures = peer.failures.saturating_add(1);
                        (ASK_EVERY * (1 << peer.failures.min(10))).min(REST_MAX)
                    }
                };
                peer.rests_until = Some(Instant::now() + rest);
            }
            changed = checkpoints.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep_until(look_at) => {}
        }
    }
}

/// What became of a question.
enum Settled {
    /// It has signed, or has not come as far.
    Agreed,
    Disputed,
}

/// Shows the signature of member `id`, if it is one and that checkpoint is still the newest.
fn settle(
    state: &State,
    shown: &ShowCheckpoint,
    id: NodeId,
    signed: &Signed,
    answer: Signature,
) -> Result<Settled> {
    let line = match answer {
        Signature::Behind(_) => return Ok(Settled::Agreed),
        Signature::Differs(_) => return Ok(Settled::Disputed),
        Signature::Signed(line) => line,
    };
    // A wrong line by a known key would make verifiers refuse the whole note.
    Note::parse(signed.note.as_bytes())?.add_verified(line.clone(), &keys_of(state, id))?;
    shown.send_if_modified(|newest| {
        let with_line = newest.as_ref().and_then(|newest| add_line(newest, signed, id, line));
        let is_added = with_line.is_some();
        if is_added {
            *newest = with_line;
        }
        is_added
    });
    Ok(Settled::Agreed)
}

/// The newest checkpoint with another member's line, if that line was made for it.
fn add_line(newest: &Signed, signed: &Signed, id: NodeId, line: NoteSignature) -> Option<Arc<Signed>> {
    if (newest.size, newest.root) != (signed.size, signed.root) {
        return None;
    }
    let mut note = Note::parse(newest.note.as_bytes()).ok()?;
    note.add(line);
    let mut cosigners = newest.cosigners.clone();
    cosigners.insert(id);
    Some(Arc::new(Signed { note: note.to_string(), cosigners, ..newest.clone() }))
}

/// The keys that the log names for a member.
fn keys_of(state: &State, id: NodeId) -> Vec<VerifierKey> {
    state.signers().iter().filter(|signer| signer.member == id).map(|signer| signer.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proof::{Hash, checkpoint::Checkpoint, key::Signer},
        types::Seq,
    };

    #[test]
    fn a_line_is_shown_under_the_text_that_it_was_made_for_and_no_other() {
        let [one, two] = [1, 2].map(|seed| Signer::from_seed("log", &[seed; 32]).unwrap());
        let signed = |size: u64| {
            let (root, cosigners) = (Hash::of(&size.to_be_bytes()), Default::default());
            let note = Checkpoint::new("log", size, root).unwrap().sign(&one).unwrap();
            Signed { size: Seq(size), root, note: note.to_string(), cosigners }
        };
        let (old, newest) = (signed(7), signed(8));
        let line = |of: &Signed| two.sign(Note::parse(of.note.as_bytes()).unwrap().text());
        assert_eq!(add_line(&newest, &old, 2, line(&old)), None, "another one is the newest by now");
        let other = Signed { root: Hash::of(b"x"), ..newest.clone() };
        assert_eq!(add_line(&newest, &other, 2, line(&newest)), None);
        let with_line = add_line(&newest, &newest, 2, line(&newest)).unwrap();
        assert_eq!((with_line.size, with_line.cosigners.iter().copied().collect()), (newest.size, vec![2]));
        let keys = [one, two].map(|signer| signer.verifier_key().clone());
        let note = Note::parse(with_line.note.as_bytes()).unwrap();
        assert_eq!(note.verify(&keys).unwrap().len(), 2);
        let again = note.signatures()[1].clone();
        assert_eq!(*add_line(&with_line, &newest, 2, again).unwrap(), *with_line, "once");
    }
}
