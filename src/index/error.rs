//! What can go wrong with the index, by what its owner has to do about it.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::error::{Code, Error};

/// A result with an [`IndexError`].
pub type Result<T, E = IndexError> = std::result::Result<T, E>;

/// Why the index did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexError {
    /// Its files are not what was written there. It holds nothing that segments do not: call
    /// [`Index::rebuild_from_scratch`](super::Index::rebuild_from_scratch) and feed it all of them.
    Damaged {
        /// The index's directory.
        path: PathBuf,
        /// What does not fit, and where.
        why: String,
    },
    /// The operating system refused, or somebody else has the directory; what is there is intact. Open it
    /// again once the cause is gone.
    Refused {
        /// The index's directory.
        path: PathBuf,
        /// What was refused.
        why: String,
    },
    /// The run broke a promise: out of order, outside its range, or with a gap to what is there. Nothing of
    /// it was taken.
    BadRun {
        /// Which promise.
        why: String,
    },
    /// The run could not be read to its end. Nothing of it was taken.
    Source(Error),
}

impl IndexError {
    pub(super) fn damaged(path: &Path, why: impl fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.to_string() }
    }

    pub(super) fn refused(path: &Path, why: impl fmt::Display) -> Self {
        Self::Refused { path: path.to_owned(), why: why.to_string() }
    }

    pub(super) fn bad_run(why: impl fmt::Display) -> Self {
        Self::BadRun { why: why.to_string() }
    }

    pub(super) fn io(path: &Path, doing: &str, error: &io::Error) -> Self {
        let why = format!("{doing}: {error}");
        if is_refusal(error) { Self::refused(path, why) } else { Self::damaged(path, why) }
    }

    pub(super) fn fjall(path: &Path, doing: &str, error: &fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                Self::io(path, doing, error)
            }
            fjall::Error::Locked => Self::refused(path, "another handle or process has it open"),
            error => Self::damaged(path, format!("{doing}: {error:?}")),
        }
    }
}

/// Whether an error is about the system's means rather than about the bytes of a file.
fn is_refusal(error: &io::Error) -> bool {
    let no_descriptors = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    no_descriptors
        || matches!(
            error.kind(),
            ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::FileTooLarge
                | ErrorKind::PermissionDenied
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::OutOfMemory
                | ErrorKind::Interrupted
        )
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { path, why } => {
                write!(f, "the index in {} is damaged ({why}): rebuild it from the segments", path.display())
            }
            Self::Refused { path, why } => {
                write!(f, "the index in {} cannot be used now ({why}): open it again", path.display())
            }
            Self::BadRun { why } => write!(f, "the index was fed a run that {why}"),
            Self::Source(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for IndexError {}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Self {
        let code = match &error {
            IndexError::Damaged { .. } => Code::Corrupt,
            IndexError::Refused { .. } => Code::Io,
            IndexError::BadRun { .. } => Code::Internal,
            IndexError::Source(error) => return error.clone(),
        };
        Self::new(code, error.to_string())
    }
}
