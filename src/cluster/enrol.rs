//! Makes this member's key known: an entry of the log names it, so that all members give it to verifiers.
//!
//! ```text
//!  member that finds its key missing in the state          leader
//!  enrol ── I sign with this ───────────────────────────►  sign (Desk::enrol)
//!                                                            └─► raft: KIND_SIGNER ─► apply, on every member
//! ```
//!
//! Takes this member's key and what is known of keys, and is done once it is among them. It does not own the table of
//! keys (`state`).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::message::{Question, decode_enrolled};
use crate::{
    env::{Lane, Network},
    error::Result,
    proof::key::VerifierKey,
    raft::Consensus,
    state::{
        State,
        attestation::ATTESTATION_LEVEL,
        signers::{Enrolment, SIGNERS_MAX, is_enrolled},
    },
    types::NodeId,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// How long the leader has for its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Has the key of the member `me` put into the log, until it is there or the task is ended.
pub async fn enrol_own_key(
    consensus: Consensus,
    state: Arc<State>,
    network: Arc<dyn Network>,
    (me, incarnation): (NodeId, u64),
    key: VerifierKey,
) {
    loop {
        let has_level = state.settings().is_some_and(|settings| settings.feature_level >= ATTESTATION_LEVEL);
        let signers = state.signers();
        if is_enrolled(&signers, me, &key) {
            return;
        }
        if signers.len() >= SIGNERS_MAX {
            tracing::warn!(key = %key, "the ledger knows no more keys: verifiers have to be told of this one");
            return;
        }
        drop(signers);
        if has_level {
            let asked = match consensus.leader() {
                Some((leader, _)) if leader == me => {
                    propose(&consensus, &Enrolment { member: me, incarnation, key: key.clone() }).await
                }
                Some((leader, member)) => {
                    let question = Question::Enrol { incarnation, key: key.clone() };
                    let call = network.call(leader, &member.raft_addr, Lane::Fetch, question.encode());
                    match timeout(ANSWER_PATIENCE, call).await {
                        Ok(Ok(answer)) => decode_enrolled(&answer),
                        // A leader that is not reached will be, or another one leads.
                        _ => Ok(false),
                    }
                }
                None => Ok(false),
            };
            if let Err(error) = asked {
                tracing::warn!(%error, key = %key, "this member's key is not known to the others");
            }
        }
        // Where it was proposed, it is applied here soon.
        sleep(PAUSE).await;
    }
}

/// Proposes a key and waits until it is known what became of it; whether it is in the log.
pub(super) async fn propose(consensus: &Consensus, enrolment: &Enrolment) -> Result<bool> {
    let (told, settled) = oneshot::channel();
    let answer = move |result: Result<_, _>| {
        // Whoever waited may have been ended.
        let _ = told.send(result.is_ok());
    };
    consensus.propose(enrolment.encode()?.into(), answer).await;
    Ok(settled.await.unwrap_or(false))
}
