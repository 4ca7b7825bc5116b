//! Whether this member's disk has room for more writes.
//!
//! Takes what the log says of its next file and what waits for its segment; gives the refusal of a write. It does not
//! own who is refused: a leader's writes are (`ingest`, `forward::Accept`), a follower sends them on.

use std::time::Duration;

use super::{message::disk_full, unsealed::Unsealed};
use crate::{
    error::{Code, Error, Result},
    wal::{Wal, WalHealth},
};

/// The disk under the log and the segments. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DiskRoom {
    wal: Wal,
    unsealed: Unsealed,
}

impl DiskRoom {
    /// Of the disk that both are on.
    #[must_use]
    pub fn new(wal: Wal, unsealed: Unsealed) -> Self {
        Self { wal, unsealed }
    }

    /// Whether it takes writes.
    ///
    /// # Errors
    /// [`Code::DiskFull`], for the log or for segments, and [`Code::Unavailable`] after a failure; nothing was written.
    pub fn check(&self) -> Result<()> {
        check_log(&self.wal)?;
        self.unsealed.check_disk()
    }

    /// Whether it would take them if it were larger.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.check().is_err_and(|why| why.code() == Code::DiskFull)
    }
}

/// Whether the log takes writes.
///
/// # Errors
/// [`Code::DiskFull`] and [`Code::Unavailable`]; nothing was written.
pub fn check_log(wal: &Wal) -> Result<()> {
    match wal.health() {
        WalHealth::Ok => Ok(()),
        WalHealth::DiskFull(why) => Err(disk_full(&why)),
        WalHealth::Poisoned { why } => {
            Err(Error::new(Code::Unavailable, format!("the write-ahead log has failed: {why}"))
                .retry_after(Duration::from_secs(5)))
        }
    }
}
