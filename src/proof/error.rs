//! Why a proof, or a question about one, was not accepted.

use std::fmt;

use crate::error::{Code, Error};

/// What is wrong, in the three ways that a caller can tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofError {
    /// Bytes that no encoder of the format writes; the message names the rule and the place.
    Malformed(String),
    /// A question about leaves or sizes that the tree does not have.
    OutOfRange(String),
    /// Well-formed, but it does not prove what it was given for.
    Refused(String),
}

impl ProofError {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }

    pub(super) fn out_of_range(what: impl Into<String>) -> Self {
        Self::OutOfRange(what.into())
    }

    pub(super) fn refused(what: impl Into<String>) -> Self {
        Self::Refused(what.into())
    }
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Malformed(what) | Self::OutOfRange(what) | Self::Refused(what)) = self;
        f.write_str(what)
    }
}

impl std::error::Error for ProofError {}

impl From<ProofError> for Error {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::Malformed(what) | ProofError::OutOfRange(what) => Self::new(Code::Malformed, what),
            ProofError::Refused(what) => Self::new(Code::Corrupt, what),
        }
    }
}
