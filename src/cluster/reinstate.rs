//! Brings back segments that a start cannot open: their ends are damaged, or they are gone, so that not even what they
//! were is known any more.
//!
//! ```text
//!  segment n-1 ── its end ──┐                                  what is known of n: it lies between its neighbours
//!                           ├─► segment-n.seg.part ─► verified ─► segment-n.seg ─► the start looks again
//!  segment n+1 ── its begin ┘        ▲
//!                                    └── the archive, as this cluster's, or a member
//! ```
//!
//! Takes a number, before anything of the node runs, gives when the file is whole, or what the operator can do. What is
//! fetched has to be whole in itself, go on from the tree of the segment before it and end with the tree that the one
//! behind it goes on from; the log tells at the start whether the newest one is the right one. The damaged file stays
//! until then. It does not own which segments are damaged, nor repairs of those that could be opened (`repair`).

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    fetch::{Pace, fill},
    from_archive::FromArchive,
    message::{Question, decode_list},
    repair::Place,
};
use crate::{
    archive::LedgerId,
    env::{ANYBODY, File, Io, Lane, Network, OpenMode},
    error::{Code, Error, Result},
    proof::Hash,
    raft::members_in,
    segment::{BlockCache, Segment, SegmentSummary, file_name, parse_name, parse_stub_name},
    state::boundary::Boundary,
    types::{NodeId, SegmentId},
    verify::Chain,
};

/// How long a member has to say whether it has a segment.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// How often members are asked, which may just be starting, too, and how long it is waited in between.
const ROUNDS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes of one part.
const PART_BYTES: u32 = 1 << 20;

/// Opening a segment needs a cache; nothing is read through it.
const CACHE_BYTES: u64 = 1 << 20;

/// Where segments are looked for, and for whom.
pub struct Reinstate<'a> {
    /// The disk.
    pub io: &'a Arc<dyn Io>,
    /// The directory of the segments.
    pub dir: &'a Path,
    /// This node, who is not asked.
    pub me: NodeId,
    /// The cluster whose segments they are; none where its name is none that an archive is known by.
    pub cluster: Option<LedgerId>,
    /// The archive, where there is one.
    pub archive: Option<FromArchive>,
    /// The way to the members.
    pub network: &'a Arc<dyn Network>,
    /// Where members may be, beside where the segments say that they are.
    pub peers: &'a [String],
    /// Free space to leave on the disk.
    pub free_bytes_min: u64,
}

impl Reinstate<'_> {
    /// Fetches a segment that cannot be opened, which is what `damage` says.
    ///
    /// # Errors
    /// [`Code::Corrupt`] with the damage, why it is not repaired, and what the operator can do.
    pub async fn segment(&self, id: SegmentId, damage: &Error) -> Result<()> {
        tracing::warn!(segment = %id, %damage, "a sealed segment cannot be opened: it is taken from elsewhere");
        let members = self.members();
        let mut said = BTreeMap::new();
        for round in 0..ROUNDS {
            if let Some(archive) = &self.archive {
                let place = format!("the archive in {}", archive.place());
                match self.ask_archive(id, archive).await {
                    Ok(()) => return self.told(id, &place),
                    Err(error) => drop(said.insert(place, error)),
                }
            }
            for (member, address) in &members {
                let place = format!("the member at {address:?}");
                match self.ask_member(id, *member, address).await {
                    Ok(()) => return self.told(id, &place),
                    Err(error) => drop(said.insert(place, error)),
                }
            }
            if members.is_empty() {
                break;
            }
            if round + 1 < ROUNDS {
                sleep(PAUSE).await;
            }
        }
        let path = self.dir.join(file_name(id));
        let why = match said.is_empty() {
            true => "there is no archive, and no other member is known".to_owned(),
            false => {
                let said = said.iter().map(|(place, error)| format!("{place}: {error}"));
                said.collect::<Vec<_>>().join("; ")
            }
        };
        let what = format!(
            "{damage}; it could not be taken from elsewhere ({why}): start the node again while its archive or another \
             member can be reached, or copy the file from a backup, or from a member with `curl -fo {} \
             http://MEMBER/api/v1/segments/{id}/file`",
            path.display()
        );
        Err(Error::new(Code::Corrupt, what))
    }

    fn told(&self, id: SegmentId, from: &str) -> Result<()> {
        tracing::info!(segment = %id, from, "a damaged segment was repaired");
        Ok(())
    }

    async fn ask_archive(&self, id: SegmentId, archive: &FromArchive) -> Result<()> {
        let Some(cluster) = self.cluster else {
            return Err(Error::new(Code::NotFound, "the cluster's name is none that an archive is known by"));
        };
        let (file, _) = self.place().make_room(id, self.bytes_there(id))?;
        let fetched = archive.fetch_own(id, cluster, file.clone()).await;
        self.settle(id, &*file, fetched)
    }

    async fn ask_member(&self, id: SegmentId, member: NodeId, address: &str) -> Result<()> {
        let list = self.network.call(member, address, Lane::Fetch, Question::List(id).encode());
        let list = match timeout(ANSWER_PATIENCE, list).await {
            Ok(Ok(list)) => decode_list(&list)?,
            Ok(Err(error)) => return Err(Error::new(Code::Unavailable, error.to_string())),
            Err(_) => return Err(Error::new(Code::Unavailable, "no answer in time")),
        };
        let Some(listed) = list.first() else {
            return Err(Error::new(Code::NotFound, "it has not sealed it"));
        };
        let (file, path) = self.place().make_room(id, listed.file_bytes)?;
        let (from, size, pace) = ((member, address), (listed.file_bytes, PART_BYTES), Pace::new(u64::MAX));
        let fetched = fill(self.network, from, id, size, (&*file, &path), (&pace, &|_| ())).await;
        self.settle(id, &*file, fetched)
    }

    fn place(&self) -> Place<'_> {
        Place { io: &**self.io, dir: self.dir, free_bytes_min: self.free_bytes_min }
    }

    fn settle(&self, id: SegmentId, file: &dyn File, fetched: Result<()>) -> Result<()> {
        self.place().settle(id, file, fetched, |segment| self.fits(id, segment.summary()))
    }

    /// Whether a segment lies between the neighbours of this one; one of them that is damaged, too, is brought back
    /// later, and has to fit then.
    fn fits(&self, id: SegmentId, found: &SegmentSummary) -> Result<()> {
        let path = self.dir.join(file_name(id));
        let mut chain = Chain::new();
        if let Some(before) = id.0.checked_sub(1).map(SegmentId) {
            let before = self.open(before)?;
            let before = before.summary();
            chain = Chain {
                segments: id.0,
                end_seq: before.end_seq,
                root: Hash(before.root_after),
                last_log: Some(before.last_log),
                last_timestamp_ms: before.last_timestamp_ms,
            };
        }
        chain.follow(found, &path)?;
        // A start may have to begin from it.
        Boundary::decode(&found.boundary)?;
        let behind = SegmentId(id.0.saturating_add(1));
        match self.open(behind) {
            Ok(behind) => chain.follow(behind.summary(), &path),
            Err(_) => Ok(()),
        }
    }

    fn open(&self, id: SegmentId) -> Result<Segment> {
        Segment::open_in(&**self.io, self.dir, id, Arc::new(BlockCache::new(CACHE_BYTES)))
    }

    /// How large its file is: what is fetched will be as large.
    fn bytes_there(&self, id: SegmentId) -> u64 {
        let file = self.io.open(&self.dir.join(file_name(id)), OpenMode::Read);
        file.and_then(|file| file.len()).unwrap_or(0)
    }

    /// The other members: where the newest segment that can be opened says that they are, and where the configuration
    /// does.
    fn members(&self) -> Vec<(NodeId, String)> {
        let names = self.io.list(self.dir).unwrap_or_default();
        let ids = names.iter().rev().filter_map(|name| parse_name(name).or_else(|| parse_stub_name(name)));
        let members = ids.take(NEWEST_LOOKED_AT).find_map(|id| {
            let segment = self.open(id).ok()?;
            members_in(&Boundary::decode(&segment.summary().boundary).ok()?).ok()
        });
        let members = members.unwrap_or_default();
        let own = members.get(&self.me).map(|me| me.raft_addr.clone());
        let others =
            members.into_iter().filter(|(id, member)| *id != self.me && !member.raft_addr.is_empty());
        let mut others: Vec<(NodeId, String)> = others.map(|(id, member)| (id, member.raft_addr)).collect();
        for peer in self.peers {
            if own.as_ref() != Some(peer) && !others.iter().any(|(_, address)| address == peer) {
                others.push((ANYBODY, peer.clone()));
            }
        }
        others
    }
}

/// Segments that are looked into for the members, from the newest on.
const NEWEST_LOOKED_AT: usize = 8;
