//! Proposes the end of a segment that has been open for long, so that a ledger with few writes is sealed, too.
//!
//! Only the leader's clock decides when; what the entry means is decided by the log (`state`). It does not own
//! segments that are full, which end by themselves.

use std::{sync::Arc, time::Duration};

use crate::{
    env::Clock,
    raft::Consensus,
    state::{State, entry::seal_entry},
};

/// How often it looks, as a part of the age: a segment ends that much late at most.
const LOOKS_PER_AGE: u32 = 8;

/// Looks now and then, until its task is ended, whether the open segment's first record is older than `age_max`.
pub async fn end_old_segments(
    consensus: Consensus,
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    age_max: Duration,
) {
    let age_max_ms = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
    loop {
        tokio::time::sleep(age_max / LOOKS_PER_AGE).await;
        let is_old = state
            .open_since_ms()
            .is_some_and(|since_ms| clock.now_ms().saturating_sub(since_ms) >= age_max_ms);
        if is_old && consensus.is_leader() {
            // Whether it was agreed on shows at the next look.
            consensus.propose(seal_entry().into(), drop).await;
        }
    }
}
