//! What the archive stage does next, by what it has seen. Pure: no I/O.

use crate::{
    archive::{Epoch, Tip},
    state::archived::Archived,
    types::SegmentId,
};

/// What decides what is to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) epoch: Epoch,
    /// The ledger is there to stay: one without records may still make way for another, whose archive this is then.
    pub(super) stays: bool,
    /// Whose archive it is to be.
    pub(super) is_known: bool,
    pub(super) is_seen: bool,
    pub(super) is_probed: bool,
    pub(super) leads: bool,
    pub(super) is_read: bool,
    pub(super) tip: Tip,
    /// One past the newest segment that is sealed here.
    pub(super) sealed: u64,
    /// One past the newest that may be archived.
    pub(super) ready: u64,
    /// What the log says.
    pub(super) archived: Archived,
    /// Whether objects are to be looked for.
    pub(super) is_audit_due: bool,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, for a while.
    Rest,
    /// See whether the store can be archived into.
    See,
    /// See whether it is still there.
    Look,
    /// Find out which ledger this is.
    Learn,
    /// Find out what the store is.
    Probe,
    /// Claim the archive, and read what the manifest has.
    Read,
    /// Tell all members.
    Say(Archived),
    /// Archive this segment.
    Add(SegmentId),
    /// Look for objects that were archived before.
    LookFor,
}

/// What comes next.
pub(super) fn decide(seen: &Seen) -> Step {
    let Seen { tip, epoch, .. } = seen;
    let said = Archived::before(epoch.0, tip.next, tip.end_seq);
    match seen {
        Seen { stays: false, is_seen: false, .. } => Step::See,
        Seen { stays: false, .. } => Step::Rest,
        Seen { is_known: false, .. } => Step::Learn,
        Seen { is_probed: false, .. } => Step::Probe,
        Seen { leads: false, .. } => Step::Rest,
        Seen { is_read: false, .. } => Step::Read,
        // A leader before this one may have archived what is not sealed here yet.
        Seen { archived, sealed, .. } if tip.next.0 > archived.end && tip.next.0 <= *sealed => {
            Step::Say(said)
        }
        Seen { ready, .. } if tip.next.0 < *ready => Step::Add(tip.next),
        Seen { is_audit_due: true, .. } => Step::LookFor,
        _ => Step::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;

    fn leader() -> Seen {
        Seen {
            epoch: Epoch::FIRST,
            stays: true,
            is_known: true,
            is_seen: true,
            is_probed: true,
            leads: true,
            is_read: true,
            tip: tip(2),
            sealed: 5,
            ready: 4,
            archived: archived(2),
            is_audit_due: false,
        }
    }

    fn tip(next: u64) -> Tip {
        Tip { next: SegmentId(next), end_seq: Seq(next * 10), digest: [1; 32] }
    }

    fn archived(end: u64) -> Archived {
        Archived::before(1, SegmentId(end), Seq(end * 10))
    }

    #[test]
    fn what_is_done_next_follows_from_what_is_seen() {
        let leader = leader();
        for (seen, step) in [
            (leader, Step::Add(SegmentId(2))),
            (Seen { tip: tip(3), ..leader }, Step::Say(archived(3))),
            (Seen { tip: tip(4), archived: archived(4), ..leader }, Step::Rest),
            // Its own store has less than the one of the leader before it.
            (Seen { tip: tip(1), archived: archived(3), ..leader }, Step::Add(SegmentId(1))),
            // The leader before it had sealed more.
            (Seen { tip: tip(6), ..leader }, Step::Rest),
            (Seen { is_read: false, ..leader }, Step::Read),
            (Seen { leads: false, ..leader }, Step::Rest),
            (Seen { leads: false, is_read: false, is_probed: false, ..leader }, Step::Probe),
            (Seen { is_known: false, is_read: false, is_probed: false, ..leader }, Step::Learn),
            (Seen { stays: false, is_probed: false, ..leader }, Step::Rest),
            // What another epoch has archived elsewhere is not what this one has.
            (Seen { epoch: Epoch(2), ..leader }, Step::Add(SegmentId(2))),
            (
                Seen { epoch: Epoch(2), tip: tip(3), ..leader },
                Step::Say(Archived::before(2, SegmentId(3), Seq(30))),
            ),
            (Seen { stays: false, is_probed: false, is_seen: false, ..leader }, Step::See),
            // What is new goes first.
            (Seen { is_audit_due: true, ..leader }, Step::Add(SegmentId(2))),
            (Seen { is_audit_due: true, tip: tip(4), archived: archived(4), ..leader }, Step::LookFor),
        ] {
            assert_eq!(decide(&seen), step, "{seen:?}");
        }
    }
}
