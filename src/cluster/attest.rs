//! What makes a member that has diverged notice: a quorum's fingerprints of sealed segments go into the log.
//!
//! ```text
//!  leader                                        every voter
//!  attest ── sealed from n on? ───────────────►  segments
//!     ▲ ◄──── roots, digests ─────────────────      │
//!     │ a quorum has the same                       │
//!     └─► raft: KIND_SEALED ─► apply, on every member: is mine the same? ─► go on, or stop
//! ```
//!
//! Takes what is sealed here and what others say is sealed there, proposes entries. It asks only while there are full
//! segments that are not attested, so an idle ledger is quiet, and it remembers nothing: whoever leads next asks
//! again. A voter that is alone has nobody to compare itself with, and attests nothing. It does not own the
//! comparison (`state`) nor the answers (`segments`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::message::{Question, decode_fingerprints};
use crate::{
    env::{Lane, Network},
    error::Result,
    raft::{Consensus, Member},
    sealed::Sealed,
    state::{
        State,
        attestation::{ATTESTATION_LEVEL, ATTESTED_AT_ONCE_MAX, Attestation, Fingerprint},
    },
    types::{NodeId, SegmentId},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a voter has for its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Attests what is sealed, while this member leads, until its task is ended.
pub async fn attest_what_is_sealed(consensus: Consensus, state: Arc<State>, network: Arc<dyn Network>) {
    let mut disputed = None;
    loop {
        sleep(PAUSE).await;
        let unattested = state.unattested();
        let has_level = state.settings().is_some_and(|settings| settings.feature_level >= ATTESTATION_LEVEL);
        if unattested.is_empty() || !has_level || !consensus.is_leader() {
            continue;
        }
        let positions = consensus.positions();
        if positions.voters.len() < 2 {
            continue;
        }
        let first = unattested.start;
        let asked = positions.voters.iter().filter_map(|id| {
            let (voter, sealed, network) = (positions.members.get(id)?, state.sealed(), &network);
            let is_here = Some(*id) == positions.leader_id;
            Some(async move {
                match is_here {
                    true => fingerprints(sealed, first),
                    false => ask(&**network, *id, voter, first).await,
                }
            })
        });
        let told = join_all(asked).await;
        let agreed = agreed(positions.voters.len(), &told);
        if agreed.is_empty() {
            if is_disputed(positions.voters.len(), &told) && disputed.replace(first) != Some(first) {
                tracing::error!(
                    segment = %first,
                    "no quorum has sealed this segment alike: the members' copies have diverged"
                );
            }
            continue;
        }
        if let Err(error) = propose(&consensus, &Attestation::new(first, agreed)).await {
            tracing::debug!(%error, segment = %first, "it could not be said what a quorum has sealed");
        }
    }
}

/// Proposes an entry and waits until it is known what became of it; if nothing did, the next look shows it.
async fn propose(consensus: &Consensus, attestation: &Attestation) -> Result<()> {
    let (told, settled) = oneshot::channel();
    consensus.propose(attestation.encode()?.into(), move |result| drop(told.send(result))).await;
    // It is only waited for, so that the same is not said twice.
    let _ = settled.await;
    Ok(())
}

/// The fingerprints of sealed segments from this one on, as many as one entry may have.
pub(super) fn fingerprints(sealed: &Sealed, from: SegmentId) -> Vec<Fingerprint> {
    let segments = sealed.segments();
    let from = usize::try_from(from.0).unwrap_or(usize::MAX);
    let newer = segments.get(from..).unwrap_or_default().iter().take(ATTESTED_AT_ONCE_MAX);
    newer.map(|segment| segment.summary().into()).collect()
}

/// What a voter says; nothing where it does not answer.
async fn ask(network: &dyn Network, id: NodeId, voter: &Member, from: SegmentId) -> Vec<Fingerprint> {
    let call = network.call(id, &voter.raft_addr, Lane::Fetch, Question::Fingerprints(from).encode());
    let Ok(Ok(answer)) = timeout(ANSWER_PATIENCE, call).await else { return Vec::new() };
    decode_fingerprints(&answer).unwrap_or_else(|error| {
        tracing::warn!(%error, member = id, "a member does not say what it has sealed");
        Vec::new()
    })
}

/// How many voters say the same of the segment at this place in their lists.
fn counts(told: &[Vec<Fingerprint>], at: usize) -> BTreeMap<Fingerprint, usize> {
    let mut counts = BTreeMap::new();
    for fingerprint in told.iter().filter_map(|told| told.get(at)) {
        *counts.entry(*fingerprint).or_default() += 1;
    }
    counts
}

/// What a quorum of so many voters says alike, from the first segment on without gaps.
fn agreed(voters: usize, told: &[Vec<Fingerprint>]) -> Vec<Fingerprint> {
    let quorum = voters / 2 + 1;
    let of_quorum = |at| counts(told, at).into_iter().find(|(_, count)| *count >= quorum);
    (0..).map_while(of_quorum).map(|(fingerprint, _)| fingerprint).collect()
}

/// Whether those who are silent cannot make a quorum of any side either.
fn is_disputed(voters: usize, told: &[Vec<Fingerprint>]) -> bool {
    let counts = counts(told, 0);
    let silent = voters.saturating_sub(counts.values().sum());
    counts.values().max().is_some_and(|most| most + silent < voters / 2 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(roots: &[u8]) -> Vec<Fingerprint> {
        roots.iter().map(|root| Fingerprint { root: [*root; 32], digest: [0; 32] }).collect()
    }

    #[test]
    fn what_a_quorum_says_alike_is_agreed_up_to_the_first_gap() {
        let told = [said(&[1, 2, 3, 4]), said(&[1, 2, 9]), said(&[1])];
        assert_eq!(agreed(3, &told), said(&[1, 2]));
        assert_eq!(agreed(3, &told[1..]), said(&[1]), "one that is silent does not matter");
        assert_eq!(agreed(5, &told), said(&[1]), "three of five");
        assert_eq!(agreed(4, &told[..2]), said(&[]), "two of four are no quorum");
        assert_eq!(agreed(2, &[said(&[1]), said(&[2])]), said(&[]));
        assert_eq!(agreed(3, &[]), said(&[]));
    }

    #[test]
    fn a_dispute_is_one_only_when_nobody_can_end_it() {
        assert!(is_disputed(2, &[said(&[1]), said(&[2])]));
        assert!(is_disputed(3, &[said(&[1]), said(&[2]), said(&[3])]));
        assert!(!is_disputed(3, &[said(&[1]), said(&[2]), said(&[])]), "the third will say");
        assert!(!is_disputed(3, &[said(&[1]), said(&[1]), said(&[2])]));
        assert!(!is_disputed(3, &[said(&[]), said(&[]), said(&[])]));
    }

    proptest! {
        /// As the definition has it: more than half of all voters, each place on its own.
        #[test]
        fn agreement_is_that_of_more_than_half(
            told in prop::collection::vec(prop::collection::vec(0u8..3, 0..5), 0..6), silent in 0usize..3,
        ) {
            let voters = told.len() + silent;
            let lists: Vec<_> = told.iter().map(|told| said(told)).collect();
            let agreed = agreed(voters, &lists);
            for at in 0..5 {
                let of = |root| told.iter().filter(|told| told.get(at) == Some(&root)).count();
                let winner = (0..3).find(|root| of(*root) * 2 > voters);
                prop_assert_eq!(agreed.get(at).copied(), winner.map(|root| said(&[root])[0]));
                if winner.is_none() {
                    break;
                }
            }
        }
    }
}
