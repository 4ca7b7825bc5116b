//! What is known of a ledger that is restored: by its archive, or by a copy of its segments.
//!
//! Takes either before it is verified, gives what the new cluster is told of the old one: whose ledger it is, which epoch
//! it had come to, how it ends. An archive says that itself. A copy says it by the newest link among its records, or,
//! where the ledger was never restored, by the names of the keys that sign for it, which are the cluster's unless its
//! operator has chosen another name.

use crate::{
    archive::{Epoch, LedgerId},
    error::{Code, Error, Result},
    proof::Hash,
    state::boundary::Boundary,
    types::SegmentId,
    verify::{Archived, Plan},
};

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What it is, in one line.
    pub(super) from: String,
    /// The ledger, by the id of the cluster that founded it.
    pub(super) ledger: LedgerId,
    /// The epoch that it had come to.
    pub(super) epoch: Epoch,
    /// The one that the restore begins.
    pub(super) next_epoch: Epoch,
    /// The cluster whose epoch it was, where it is known.
    pub(super) cluster: Option<LedgerId>,
    /// Its last segment.
    pub(super) last: SegmentId,
    /// That one's digest.
    pub(super) digest: [u8; 32],
}

impl Origin {
    /// An archive.
    ///
    /// # Errors
    /// [`Code::Malformed`] for one without records.
    pub fn of_archive(archived: &Archived) -> Result<Self> {
        let (Some(last), Some(next_epoch)) = (archived.entries().last(), archived.next_epoch()) else {
            return Err(nothing("the archive"));
        };
        let marker = archived.marker().encode().trim_end().replace('\n', ", ");
        Ok(Self {
            from: format!("{marker} epoch {}", archived.epoch().0),
            ledger: last.ledger,
            epoch: last.epoch,
            next_epoch,
            cluster: archived.cluster(),
            last: last.object.segment,
            digest: last.digest,
        })
    }

    /// A copy of a ledger's segments, which all have to be there. `cluster` is whose it is, where somebody knows.
    ///
    /// # Errors
    /// [`Code::Malformed`] for one without records; [`Code::InvalidConfig`] for one that is none, or where nobody says
    /// whose ledger it is; [`Code::Corrupt`], [`Code::Io`].
    pub fn of_copy(copy: &Plan, cluster: Option<LedgerId>) -> Result<Self> {
        let listing = copy.listing();
        let dir = listing.segments_dir.display();
        if listing.wal.is_some() {
            let what = format!(
                "{dir} is in a node's data directory: start a node on that; or, if its log is lost, copy it with \
                 `scribe backup --data-dir`, and restore the copy"
            );
            return Err(Error::new(Code::InvalidConfig, what));
        }
        if !listing.cold.is_empty() {
            let what = format!("{dir} lacks records that are in the archive alone: restore that");
            return Err(Error::new(Code::InvalidConfig, what));
        }
        let last = copy.segments().checked_sub(1).ok_or_else(|| nothing("the copy"))?;
        let digest = copy.segment(last)?.summary().digest;
        let link = copy.newest_link()?;
        let epoch = Epoch(link.as_ref().map_or(Epoch::FIRST.0, |link| link.epoch));
        let cluster = cluster.or_else(|| signing_cluster(copy.boundary(), epoch));
        let ledger = match &link {
            Some(link) => LedgerId::parse(&link.ledger),
            None => cluster,
        };
        let (Some(ledger), Some(next)) = (ledger, epoch.0.checked_add(1)) else {
            let what = format!(
                "nothing in {dir} says whose ledger it is: give --cluster-id, which is in identity.json of its nodes \
                 and in their /api/v1/status"
            );
            return Err(Error::new(Code::InvalidConfig, what));
        };
        let from = format!("copy of ledger {ledger} up to segment {last} {}", Hash(digest));
        Ok(Self { from, ledger, epoch, next_epoch: Epoch(next), cluster, last: SegmentId(last), digest })
    }
}

fn nothing(what: &str) -> Error {
    Error::new(Code::Malformed, format!("{what} holds no segments: there is nothing to restore"))
}

/// The cluster whose members sign in this epoch, where its log has the name that a node gives it by default.
fn signing_cluster(boundary: &[u8], epoch: Epoch) -> Option<LedgerId> {
    let boundary = Boundary::decode(boundary).ok()?;
    boundary.signers.iter().rev().find_map(|signer| {
        let (cluster, of) = signer.key.name().strip_prefix("scribe/")?.split_once('/')?;
        LedgerId::parse(cluster).filter(|_| of == epoch.0.to_string())
    })
}
