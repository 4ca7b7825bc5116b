//! The newest checkpoint, as whoever signs it hands it to whoever serves it, and to whoever gathers signatures for it.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;

use crate::{
    proof::Hash,
    types::{NodeId, Seq},
};

/// A checkpoint with this member's signature, and those of others as they come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Records it covers.
    pub size: Seq,
    /// Root of the tree over them.
    pub root: Hash,
    /// The signed note.
    pub note: String,
    /// The other members who have signed it.
    pub cosigners: BTreeSet<NodeId>,
}

/// Where the newest checkpoint is shown: by whoever signs it, and by whoever has others sign it, too.
pub type ShowCheckpoint = watch::Sender<Option<Arc<Signed>>>;

/// The newest checkpoint; none before the first.
pub type Checkpoints = watch::Receiver<Option<Arc<Signed>>>;
