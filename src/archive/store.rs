//! What the archive asks of a store, and how a store says that it cannot.
//!
//! Takes names and bytes, gives bytes back. Six calls, so that a directory and an object store can both make them
//! true; nothing is ever removed. A store keeps or loses bytes as it likes: whoever reads them checks them, and no
//! answer makes this process allocate more than it asked for.

use std::{fmt, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::name::Name;
use crate::{
    env::File,
    error::{Code, Error},
    runtime::{HEAVY_BYTES, without_blocking_others},
};

/// The most bytes that one call of [`Store::get_range`] gives.
pub const RANGE_BYTES_MAX: u32 = 8 << 20;

/// The most bytes of an object that [`Store::get`] gives and [`Store::compare_and_set`] takes: whatever is not a
/// segment is small.
pub const SMALL_BYTES_MAX: usize = 1 << 20;

/// Names of one page of a listing, at most.
pub const PAGE_NAMES_MAX: usize = 1_000;

/// A place for objects.
///
/// Dropping a future leaves the outcome open: the object may be written or not. All calls but
/// [`Store::compare_and_set`] can be made again without harm.
pub trait Store: fmt::Debug + Send + Sync {
    /// What a person calls it, for messages: a path or an `s3://` URL.
    fn place(&self) -> &str;

    /// Writes an object that is not there yet; durable when this returns.
    ///
    /// Two writers of one name, or one that was not told of its success, find out what is there. (A store that does
    /// not honour `If-None-Match` writes over it and says [`Put::Created`]: the probe tells.)
    ///
    /// # Errors
    /// Any but [`Trouble::NotFound`]. The object may be there after all.
    fn put_once<'a>(&'a self, name: &'a Name, body: Body) -> BoxFuture<'a, Result<Put>>;

    /// A small object, whole.
    ///
    /// # Errors
    /// Any; [`Trouble::Broken`] when it has more than [`SMALL_BYTES_MAX`] bytes.
    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Object>>;

    /// `bytes` bytes of an object from `offset`, at most [`RANGE_BYTES_MAX`].
    ///
    /// # Errors
    /// Any; [`Trouble::Broken`] when the object does not have them.
    fn get_range<'a>(&'a self, name: &'a Name, offset: u64, bytes: u32) -> BoxFuture<'a, Result<Bytes>>;

    /// The size of an object.
    ///
    /// # Errors
    /// Any.
    fn head<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<u64>>;

    /// Names of a directory in byte order, those behind `after` only, [`PAGE_NAMES_MAX`] at most. Neither what is in
    /// its directories nor what is no [`Name`].
    ///
    /// # Errors
    /// Any but [`Trouble::NotFound`]: a directory without objects is empty.
    fn list<'a>(&'a self, dir: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Page>>;

    /// Replaces a small object if it still has the `expected` version, or writes it if none was expected and it is
    /// not there. Not for names that [`Store::put_once`] writes.
    ///
    /// A lost answer is made good by looking: if `bytes` are there, this was [`Swap::Done`]. They have to be bytes
    /// that nobody else would write.
    ///
    /// # Errors
    /// Any but [`Trouble::NotFound`]. The object may have changed after all.
    fn compare_and_set<'a>(
        &'a self,
        name: &'a Name,
        expected: Option<&'a Version>,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<Swap>>;
}

/// What became of a write of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there, and was not before.
    Created,
    /// It was there already, with the same bytes.
    AlreadyThereSame,
    /// Something else has this name, and keeps it.
    Conflict,
}

impl Put {
    /// Of an object that was there before.
    #[must_use]
    pub const fn already_there(is_same: bool) -> Self {
        if is_same { Self::AlreadyThereSame } else { Self::Conflict }
    }
}

/// What became of a replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The new bytes are there, as this version.
    Done(Version),
    /// The object is not as expected: it has this version, or is not there.
    Changed(Option<Version>),
}

/// A small object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// Which ones of those it may have in time.
    pub version: Version,
}

/// Tells an object's contents from earlier and later ones; what it says is the store's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// Part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Names, in byte order.
    pub names: Vec<Name>,
    /// What to go on behind; `None` at the end.
    pub next: Option<String>,
}

/// The bytes of an object that is to be written; they can be read more than once.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Bytes(Bytes),
    /// The first `bytes` bytes of a file, which never become memory all at once.
    File {
        /// The file; it does not change while it is written.
        file: Arc<dyn File>,
        /// How many.
        bytes: u64,
        /// Its path, where these are all of its bytes and nobody writes to it any more: a store on the same file system
        /// may give the file itself another name.
        path: Option<PathBuf>,
    },
}

/// Bytes of a body that are in memory at once.
pub const PIECE_BYTES: u32 = 1 << 20;

impl Body {
    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes from `offset`, at most `most` and at most [`RANGE_BYTES_MAX`]; none at the end.
    ///
    /// # Errors
    /// What the file says.
    pub fn piece(&self, offset: u64, most: u32) -> io::Result<Bytes> {
        let count = self.len().saturating_sub(offset).min(u64::from(most.min(RANGE_BYTES_MAX))) as usize;
        match self {
            // Within memory an offset fits a usize.
            Self::Bytes(bytes) if count > 0 => Ok(bytes.slice(offset as usize..offset as usize + count)),
            Self::File { file, .. } if count > 0 => {
                let mut piece = vec![0; count];
                without_blocking_others(HEAVY_BYTES, || file.read_at(&mut piece, offset))?;
                Ok(piece.into())
            }
            _ => Ok(Bytes::new()),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// Whether an object has exactly the bytes of `body`. Memory is two pieces.
///
/// # Errors
/// Any of the store's; [`Trouble::Away`] when the body cannot be read.
pub async fn is_same(store: &dyn Store, name: &Name, body: &Body) -> Result<bool> {
    if store.head(name).await? != body.len() {
        return Ok(false);
    }
    let mut offset = 0;
    loop {
        let ours = body.piece(offset, PIECE_BYTES).map_err(|error| unreadable(name, &error))?;
        if ours.is_empty() {
            return Ok(true);
        }
        let theirs = store.get_range(name, offset, ours.len() as u32).await?;
        if theirs != ours {
            return Ok(false);
        }
        offset += ours.len() as u64;
    }
}

/// The bytes of an object that is to be written cannot be read here.
#[must_use]
pub fn unreadable(name: &Name, error: &io::Error) -> StoreError {
    StoreError::new(Trouble::Away, format!("what is to become {name} cannot be read on this node: {error}"))
}

/// What is the matter with a store, by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It does not answer, or asks to be spared: try again later.
    Away,
    /// It answers and refuses: credentials, rights, region, a bucket that is gone. An operator has to act.
    Denied,
    /// There is no such object.
    NotFound,
    /// The answer is not what was asked for: bytes are missing, or too many, or make no sense.
    Broken,
    /// It has no room left.
    Full,
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    trouble: Trouble,
    message: String,
}

/// A result of a store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// An error of this kind; `message` is a lower-case sentence that says what to do.
    #[must_use]
    pub fn new(trouble: Trouble, message: impl Into<String>) -> Self {
        Self { trouble, message: message.into() }
    }

    /// What is the matter.
    #[must_use]
    pub const fn trouble(&self) -> Trouble {
        self.trouble
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let code = match error.trouble {
            Trouble::Away => Code::Unavailable,
            Trouble::Denied => Code::Io,
            Trouble::NotFound => Code::NotFound,
            Trouble::Broken => Code::Corrupt,
            Trouble::Full => Code::DiskFull,
        };
        Self::new(code, error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_in_pieces() {
        let body = Body::from(Bytes::from_static(b"archive"));
        let pieces: Vec<_> =
            [0, 3, 6, 7, 99, u64::MAX].iter().map(|at| body.piece(*at, 3).unwrap()).collect();
        assert_eq!(pieces, [&b"arc"[..], b"hiv", b"e", b"", b"", b""]);
        assert!(!body.is_empty() && Body::from(Bytes::new()).is_empty());
    }

    #[test]
    fn every_trouble_has_a_code_that_says_what_to_do() {
        use crate::error::Advice;
        for (trouble, advice) in [
            (Trouble::Away, Advice::Retry),
            (Trouble::Denied, Advice::CallOperator),
            (Trouble::NotFound, Advice::FixRequest),
            (Trouble::Broken, Advice::CallOperator),
            (Trouble::Full, Advice::Retry),
        ] {
            let error = Error::from(StoreError::new(trouble, "why"));
            assert_eq!((error.advice(), error.message()), (advice, "why"));
        }
    }
}
