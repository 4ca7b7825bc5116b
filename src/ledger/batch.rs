//! Many writes as one.

use crate::{error::Result, state::batch::Draft, types::Seq};

/// Puts and deletes that are appended together or not at all, in the order in which they were added.
///
/// ```
/// # fn main() -> scribe_ledger::Result<()> {
/// # let ledger = scribe_ledger::Ledger::temp()?;
/// let mut batch = ledger.batch();
/// batch.put("one", "1")?.put("two", "2")?.delete("three")?;
/// let appended = ledger.apply_batch(batch)?;
/// assert_eq!(appended.last_seq.0 - appended.first_seq.0, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) draft: Draft,
}

/// Where the records of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position of the first.
    pub first_seq: Seq,
    /// Position of the last, inclusive.
    pub last_seq: Seq,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for this many operations with this many bytes of keys and values.
    #[must_use]
    pub fn with_capacity(ops: usize, bytes: usize) -> Self {
        Self { draft: Draft::with_capacity(ops, bytes) }
    }

    /// Adds a put.
    ///
    /// # Errors
    /// [`InvalidKey`](crate::error::Code::InvalidKey) for an empty, long or reserved key,
    /// [`TooLarge`](crate::error::Code::TooLarge) for a value over 64 MiB or a batch over 1 GiB; the batch is
    /// then as it was.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<&mut Self> {
        self.draft.put(key.as_ref(), value.as_ref())?;
        Ok(self)
    }

    /// Adds a delete.
    ///
    /// # Errors
    /// As [`Batch::put`].
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<&mut Self> {
        self.draft.delete(key.as_ref())?;
        Ok(self)
    }

    /// How many operations it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.draft.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.draft.is_empty()
    }

    /// What it takes of `pipeline.ingest_bytes_max`, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.draft.bytes()
    }
}
