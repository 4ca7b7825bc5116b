//! Segments from the archive, for a member that lacks them: what is there need not be asked of the leader, who has other
//! work.
//!
//! ```text
//! marker: whose ─► entry of the segment: is it the one that the leader lists? ─► object ─► the segment's file, bit for bit
//! ```
//!
//! Takes a store and which segment is wanted, gives its file. What it writes is verified by whoever asked; an object was
//! compared with its name and its blocks with their sums on the way. It does not own what is done where the archive has
//! nothing, or does not answer.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    archive::{
        Cold, Epoch, LedgerId, Manifest, Marker, Store, Trouble,
        fence::{self, Claim},
        layout,
    },
    env::File,
    error::{Code, Error, Result},
    types::SegmentId,
};

/// How long a segment may take. The leader is asked then.
const PATIENCE: Duration = Duration::from_secs(60);

/// The archive of the cluster, as this node reaches it.
#[derive(Clone, Debug)]
pub struct FromArchive {
    store: Arc<dyn Store>,
    epoch: Epoch,
}

impl FromArchive {
    /// What this epoch of the ledger has in a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, epoch: Epoch) -> Self {
        Self { store, epoch }
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &str {
        self.store.place()
    }

    /// Writes the file of the segment with this digest, and syncs it.
    ///
    /// # Errors
    /// [`Code::NotFound`] when the archive does not have it, [`Code::Unavailable`] when that takes too long; others as
    /// the store's and the file's.
    pub async fn fetch(&self, id: SegmentId, digest: &[u8; 32], file: Arc<dyn File>) -> Result<()> {
        self.patiently(self.rebuild(id, Wanted::Digest(digest), file)).await
    }

    /// As [`FromArchive::fetch`], for whoever does not know the digest any more: whichever segment this cluster has
    /// archived under that number.
    ///
    /// # Errors
    /// As [`FromArchive::fetch`].
    pub async fn fetch_own(&self, id: SegmentId, cluster: LedgerId, file: Arc<dyn File>) -> Result<()> {
        self.patiently(self.rebuild(id, Wanted::OfCluster(cluster), file)).await
    }

    async fn patiently(&self, fetch: impl Future<Output = Result<()>>) -> Result<()> {
        timeout(PATIENCE, fetch).await.unwrap_or_else(|_| {
            Err(Error::new(Code::Unavailable, format!("{} takes too long", self.store.place())))
        })
    }

    async fn rebuild(&self, id: SegmentId, wanted: Wanted<'_>, file: Arc<dyn File>) -> Result<()> {
        let absent = |what: &str| {
            Err(Error::new(Code::NotFound, format!("{what} segment {id} in {}", self.store.place())))
        };
        let marker = match self.store.get(&layout::marker()).await {
            Ok(object) => Marker::decode(&object.bytes),
            Err(error) if error.trouble() == Trouble::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let Some(marker) = marker else { return absent("there is no archive with") };
        if let Wanted::OfCluster(cluster) = wanted {
            let is_founders = self.epoch == Epoch::FIRST && marker.ledger == cluster;
            let own = Claim { epoch: self.epoch, cluster };
            if !is_founders && fence::holder(&*self.store).await? != Some(own) {
                return absent("another cluster has archived");
            }
        }
        let manifest = Manifest::new(self.store.clone(), marker.ledger, self.epoch);
        match (manifest.entry(id).await?, wanted) {
            (Some(entry), Wanted::Digest(digest)) if entry.digest != *digest => absent("there is another"),
            (Some(entry), _) => {
                Cold::open(self.store.clone(), &entry.object, &entry.digest).await?.rebuild(file).await
            }
            (None, _) => absent("there is no"),
        }
    }
}

/// By what a segment is known to be the right one.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Digest(&'a [u8; 32]),
    OfCluster(LedgerId),
}
