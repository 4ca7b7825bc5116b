//! Bugs that simulations plant, to see whether they find them.

/// Bugs of a member among others; each is a branch on a constant `false` in normal use. The log has its own
/// ([`crate::wal::Sabotage`]).
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sabotage {
    /// A leader answers read barriers without asking the others whether it still leads.
    pub skip_read_round: bool,
    /// A reader who comes while a round is on its way takes that round's answer.
    pub join_running_round: bool,
    /// A leader answers reads under a lease without looking at the lease.
    pub skip_lease: bool,
    /// Whoever does not lead answers reads from what it has.
    pub read_anywhere: bool,
    /// Reads do not wait until the entry that they need is applied.
    pub skip_apply_wait: bool,
    /// A member that was just started votes, whatever lease it may have granted before.
    pub vote_in_lease: bool,
    /// A leader that was started again leads on in its term.
    pub lead_on: bool,
    /// Entries of a leader count before they are on disk.
    pub skip_append_sync: bool,
    /// A start applies the last entry that it replays twice.
    pub replay_twice: bool,
    /// A batch is sent again although the leader may have it.
    pub retry_unknown: bool,
    /// Entries that come from other members get a time of an hour later.
    pub stamp_wrong_time: bool,
    /// A start remembers no answers by idempotency key.
    pub forget_answers: bool,
    /// Fetched segments are put in place as they came.
    pub skip_verification: bool,
}
