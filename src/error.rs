//! The one public error type.
//!
//! Few kinds outside, detail inside: a caller acts on [`Error::advice`], a person reads
//! [`Error::message`], a script matches the stable slug of [`Code`]. An error is logged where it is
//! handled, never where it passes by.

use std::{fmt, time::Duration};

use crate::types::{ColdBlock, SegmentId};

/// What happened, as a stable name. [`Code::slug`] is what clients see and match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request cannot be understood: bad syntax, a bad length, a bad number.
    Malformed,
    /// The key is empty, too long, or belongs to the ledger or the server itself.
    InvalidKey,
    /// The request, the value or the batch is larger than a limit allows.
    TooLarge,
    /// No record under this key, or at this position.
    NotFound,
    /// No such path, or a method that the path does not have.
    NoSuchRoute,
    /// The cluster is not as the change takes it to be: an id that is taken, a node that has a ledger of its own.
    Conflict,
    /// `If-Match` or `If-None-Match` did not hold when the write was applied.
    PreconditionFailed,
    /// The idempotency key was used before, with other content.
    IdempotencyMismatch,
    /// This client is over its own limit.
    RateLimited,
    /// A budget of the pipeline is used up; nothing was proposed.
    Overloaded,
    /// The table of idempotency keys is full until older ones expire; nothing was written.
    IdempotencyFull,
    /// No leader, or no quorum answered; nothing was proposed.
    NoQuorum,
    /// Free space is below the watermark; writes stop, reads go on.
    DiskFull,
    /// The node is starting and has not recovered yet, or it is stopping.
    Unavailable,
    /// The write was proposed and its fate is not known: it may or may not be in the ledger.
    OutcomeUnknown,
    /// The client took too long to send its request.
    Timeout,
    /// A setting is wrong.
    InvalidConfig,
    /// Bytes on disk are not what was written there.
    Corrupt,
    /// The operating system refused a disk or network operation.
    Io,
    /// A promise the code makes to itself was broken.
    Internal,
}

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The same request may succeed later.
    Retry,
    /// The request has to change first.
    FixRequest,
    /// An operator has to look at the node.
    CallOperator,
}

impl Code {
    /// The name in `type` of a problem document; never changes once published.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::InvalidKey => "invalid-key",
            Self::TooLarge => "too-large",
            Self::NotFound => "not-found",
            Self::NoSuchRoute => "no-such-route",
            Self::Conflict => "conflict",
            Self::PreconditionFailed => "precondition-failed",
            Self::IdempotencyMismatch => "idempotency-mismatch",
            Self::RateLimited => "rate-limited",
            Self::Overloaded => "overloaded",
            Self::IdempotencyFull => "idempotency-full",
            Self::NoQuorum => "no-quorum",
            Self::DiskFull => "disk-full",
            Self::Unavailable => "unavailable",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::Timeout => "timeout",
            Self::InvalidConfig => "invalid-config",
            Self::Corrupt => "corrupt",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }

    /// What the caller can do.
    #[must_use]
    pub const fn advice(self) -> Advice {
        match self {
            Self::RateLimited
            | Self::Overloaded
            | Self::IdempotencyFull
            | Self::NoQuorum
            | Self::DiskFull
            | Self::Unavailable
            | Self::OutcomeUnknown
            | Self::Timeout => Advice::Retry,
            Self::Malformed
            | Self::InvalidKey
            | Self::TooLarge
            | Self::NotFound
            | Self::NoSuchRoute
            | Self::Conflict
            | Self::PreconditionFailed
            | Self::IdempotencyMismatch
            | Self::InvalidConfig => Advice::FixRequest,
            Self::Corrupt | Self::Io | Self::Internal => Advice::CallOperator,
        }
    }
}

/// An error with a stable [`Code`] and a message that says what to do.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    code: Code,
    message: String,
    retry_after: Option<Duration>,
    replayed: bool,
    damaged: Option<SegmentId>,
    cold: Vec<ColdBlock>,
}

/// A result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind; `message` is a lower-case sentence without a full stop.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
            replayed: false,
            damaged: None,
            cold: Vec::new(),
        }
    }

    /// The same error, telling the caller how long to wait before it tries again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The same error, as the first answer given again to a retry with the same idempotency key.
    #[must_use]
    pub fn replayed(mut self, replayed: bool) -> Self {
        self.replayed = replayed;
        self
    }

    /// The same error, as one of a sealed segment whose file does not give back what was written.
    #[must_use]
    pub fn of_damage(mut self, segment: Option<SegmentId>) -> Self {
        self.damaged = segment;
        self
    }

    /// The sealed segment whose file is to blame, if one is: what was asked for may be had once that is repaired.
    #[must_use]
    pub const fn damaged_segment(&self) -> Option<SegmentId> {
        self.damaged
    }

    /// What was asked for is in these blocks, which are in the archive and have to be fetched first.
    #[must_use]
    pub fn cold(blocks: Vec<ColdBlock>) -> Self {
        let segment =
            blocks.first().map_or_else(String::new, |block| format!(" of segment {}", block.segment));
        let what =
            format!("the records{segment} that were asked for are in the archive alone, and not here yet");
        Self { cold: blocks, ..Self::new(Code::Unavailable, what) }
    }

    /// The blocks that have to be fetched before what was asked for can be had; none for any other error.
    #[must_use]
    pub fn cold_blocks(&self) -> &[ColdBlock] {
        &self.cold
    }

    /// Whether it is an old answer given again.
    #[must_use]
    pub const fn is_replayed(&self) -> bool {
        self.replayed
    }

    /// An operating-system error, with what was being done when it came.
    #[must_use]
    pub fn io(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let is_full = matches!(error.kind(), StorageFull | QuotaExceeded);
        Self::new(if is_full { Code::DiskFull } else { Code::Io }, format!("{doing}: {error}"))
    }

    /// What happened.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What the caller can do.
    #[must_use]
    pub const fn advice(&self) -> Advice {
        self.code.advice()
    }

    /// The sentence for a person.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How long to wait before trying again, when waiting can help.
    #[must_use]
    pub const fn retry_delay(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.slug(), self.message)
    }
}

impl std::error::Error for Error {}
