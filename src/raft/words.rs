//! What openraft says when it says no, in words for whoever asked: its own name its types, for its developers.

use openraft::errors::{ChangeMembershipError, ClientWriteError, Fatal, LinearizableReadError, RaftError};

use super::TypeConfig;

/// Why nothing works any more; the log says what happened.
pub(super) const STOPPED: &str = "consensus has stopped on this member";

/// Why a proposal, or a change of the members, has no outcome. One that was sent elsewhere is not among these.
pub(super) fn of_write(error: &ClientWriteError<TypeConfig>) -> String {
    match error {
        ClientWriteError::ForwardToLeader(_) => "this member does not lead".into(),
        ClientWriteError::LogEntryDiscarded(_) => {
            "another member was elected leader before a quorum had the entry".into()
        }
        ClientWriteError::PreconditionFailed(_) => "the log is not as it was expected to be".into(),
        ClientWriteError::ChangeMembershipError(error) => match error {
            ChangeMembershipError::InProgress(_) => "another change of the members is under way".into(),
            ChangeMembershipError::EmptyMembership(_) => "nobody would be left".into(),
            ChangeMembershipError::LearnerNotFound(missing) => {
                format!("node {} is no member", missing.node_id)
            }
            ChangeMembershipError::UncommittedLeaderLog(_) => {
                "the leader was elected just now, and no quorum has confirmed it yet".into()
            }
            _ => "the members are not as the change takes them to be".into(),
        },
    }
}

/// As [`of_write`], for whoever waits for a change of the members.
pub(super) fn of_change(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> String {
    match error {
        RaftError::APIError(error) => of_write(error),
        RaftError::Fatal(_) => STOPPED.into(),
    }
}

/// Why a leader could not say how far readers have to come.
pub(super) fn of_read(error: &RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> String {
    match error {
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => {
            "this member leads, and no quorum answers it".into()
        }
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => "no leader is known".into(),
        RaftError::Fatal(_) => STOPPED.into(),
    }
}

/// Why this member has stopped: our own error where one of our parts failed, which openraft wraps into what it was about.
pub(super) fn of_fatal(fatal: &Fatal<TypeConfig>) -> String {
    unwrapped(&fatal.to_string())
}

fn unwrapped(said: &str) -> String {
    const WRAPPED: &str = "std::io::error::Error: ";
    said.rsplit_once(WRAPPED).map_or(said, |(_, ours)| ours).to_owned()
}

#[cfg(test)]
mod tests {
    use std::io;

    use openraft::{StorageError, errors::ErrorSource, impls::BoxedErrorSource};

    use super::*;

    #[test]
    fn an_error_of_ours_is_said_as_it_was_made() {
        let ours = io::Error::other("segment 5 has diverged: move it away");
        let error = StorageError::write_logs(BoxedErrorSource::from_error(&ours));
        assert_eq!(of_fatal(&Fatal::StorageError(error)), "segment 5 has diverged: move it away");
        assert_eq!(of_fatal(&Fatal::Panicked), Fatal::<TypeConfig>::Panicked.to_string());
    }
}
