//! How much of the log is kept: what is not sealed, some more, and on a leader what others still need.
//!
//! ```text
//! ├── purged ──┤◄── keep_bytes_for_followers ────────────────────────┤
//!              │  a member that answers is here ◄── keep_bytes ──────┤
//!              └► entries before the first of: newest boundary, keep_bytes, that member;
//!                 but never more than keep_bytes_for_followers behind the end
//! ```
//!
//! Takes new boundaries and what openraft knows of other members, gives it purge points. It does not own the log's
//! files, nor what becomes of a member that needs more: that takes segments.

use std::time::Duration;

use openraft::{Instant, Raft, RaftMetrics, async_runtime::watch::WatchReceiver, metrics::WaitError};
use tokio::time::timeout;

use super::{Boundaries, Boundary, StateMachine, TypeConfig};
use crate::{config::WalConfig, types::LogIndex, wal::Wal};

/// A member that has not answered for so long is not waited for. One that starts again answers within it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// How often it looks again whether what was kept for others is still needed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long openraft has to take a snapshot before it is asked for it again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How much of the log is kept, in bytes of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    always: u64,
    for_followers: u64,
}

impl From<&WalConfig> for Keep {
    fn from(config: &WalConfig) -> Self {
        Self { always: config.keep_bytes, for_followers: config.keep_bytes_for_followers }
    }
}

/// Tells openraft of every new boundary, and gives up the log before it but for what is to be kept.
pub async fn purge_what_is_sealed(
    raft: Raft<TypeConfig, StateMachine>,
    wal: Wal,
    mut boundaries: Boundaries,
    keep: Keep,
) {
    boundaries.mark_changed();
    let mut holds_back = false;
    loop {
        // Members that come further do not tell; a new boundary does.
        let look_again = if holds_back { LOOK_EVERY } else { Duration::MAX };
        if let Ok(Err(_)) = timeout(look_again, boundaries.changed()).await {
            return;
        }
        let Some(Boundary { log, .. }) = boundaries.borrow_and_update().clone() else { continue };
        let needed = needed_by_others(&raft);
        holds_back = needed.is_some_and(|needed| needed <= log.index);
        let Some(up_to) = purge_point(&wal, log.index, needed, keep) else { continue };
        // openraft purges only what it knows to be in a snapshot. Each step fails only when it has stopped.
        if !is_in_snapshot(&raft, log.index).await || raft.trigger().purge_log(up_to.0).await.is_err() {
            return;
        }
    }
}

/// Waits until openraft knows this boundary, or a later one, as its snapshot; it never will where it has stopped.
async fn is_in_snapshot(raft: &Raft<TypeConfig, StateMachine>, boundary: LogIndex) -> bool {
    let is_known = |metrics: &RaftMetrics<TypeConfig>| {
        metrics.snapshot.is_some_and(|snapshot| snapshot.index >= boundary.0)
    };
    loop {
        if is_known(&raft.metrics().borrow_watched()) {
            return true;
        }
        if raft.trigger().snapshot().await.is_err() {
            return false;
        }
        // A snapshot that is under way, and may have been taken before this boundary, lets the trigger do nothing.
        match raft.wait(Some(ASK_AGAIN)).metrics(is_known, "the newest boundary is a snapshot").await {
            Err(WaitError::ShuttingDown) => return false,
            Ok(_) | Err(WaitError::Timeout(..)) => {}
        }
    }
}

/// Up to where the log may be given up, when what is sealed ends with `boundary` and others need what is at
/// `needed`; none when that is nothing.
fn purge_point(wal: &Wal, boundary: LogIndex, needed: Option<LogIndex>, keep: Keep) -> Option<LogIndex> {
    let own = wal.purge_point(boundary, keep.always)?;
    let Some(needed) = needed.filter(|needed| *needed <= own) else { return Some(own) };
    // The entry before the needed one may go: its id stays known as the purge point.
    let before = needed.0.checked_sub(1).map(LogIndex).filter(|before| *before >= wal.state().first);
    before.max(wal.purge_point(own, keep.always.max(keep.for_followers)))
}

/// The first entry that some other member lacks which has answered lately; none on a member that does not lead.
fn needed_by_others(raft: &Raft<TypeConfig, StateMachine>) -> Option<LogIndex> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let (replication, answered) = (metrics.replication.as_ref()?, metrics.heartbeat.as_ref()?);
    let is_here = |member| {
        let last = answered.get(member).copied().flatten();
        last.is_some_and(|last| last.elapsed() < ANSWERED_WITHIN)
    };
    let others = replication.iter().filter(|(member, _)| **member != metrics.id && is_here(*member));
    others.map(|(_, matched)| LogIndex(matched.as_ref().map_or(0, |matched| matched.index + 1))).min()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        sim::{SimIo, sim_env},
        types::LogId,
        wal::{Driver, LogEntry, WalOptions},
    };

    #[test]
    fn others_are_waited_for_within_the_bound() {
        let config = WalConfig { file_bytes: 64 << 10, disk_free_bytes_min: 0, ..WalConfig::default() };
        let options = WalOptions::new(config, Driver::Step);
        let wal = Wal::open(&sim_env(&SimIo::new(1), 1), Path::new("/wal"), options).unwrap();
        let id = |index| LogId { term: 1, index: LogIndex(index) };
        let entry = |index| LogEntry { id: id(index), payload: vec![7; 10].into() };
        wal.append((0..100).map(entry).collect(), Box::new(drop)).unwrap();
        wal.purge(id(9), Box::new(drop)).unwrap();
        // The newest boundary is 80; what the others need, the two bounds, and where the log is given up.
        for (needed, always, for_followers, expected) in [
            (None, 0, 300, Some(80)),
            (None, 500, 300, Some(49)),
            (Some(90), 0, 300, Some(80)),
            (Some(81), 0, 300, Some(80)),
            (Some(80), 0, 300, Some(79)),
            (Some(75), 0, 300, Some(74)),
            (Some(50), 0, 300, Some(69)),
            (Some(50), 0, 1_000, Some(49)),
            (Some(50), 600, 300, Some(39)),
            (Some(10), 0, 1_000, None),
            (Some(0), 0, 1_000, None),
            (Some(0), 0, 0, Some(80)),
            (None, 1_000, 0, None),
        ] {
            let keep = Keep { always, for_followers };
            let point = purge_point(&wal, LogIndex(80), needed.map(LogIndex), keep);
            assert_eq!(point, expected.map(LogIndex), "{needed:?} {keep:?}");
        }
    }
}
