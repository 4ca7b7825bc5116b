//! The newest checkpoint, as whoever signs it hands it to whoever serves it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{proof::Hash, types::Seq};

/// A checkpoint with this member's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Records it covers.
    pub size: Seq,
    /// Root of the tree over them.
    pub root: Hash,
    /// The signed note.
    pub note: String,
}

/// The newest checkpoint; none before the first.
pub type Checkpoints = watch::Receiver<Option<Arc<Signed>>>;
