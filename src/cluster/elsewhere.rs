//! Where else a segment is: at the other members, and in the archive.
//!
//! Takes the membership as it is when a repair begins, gives a source for each other member and one for the archive. It does not own what is
//! done with what they give (`repair`).

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::{
    fetch::{Pace, fill},
    from_archive::FromArchive,
    message::{Question, decode_list},
    repair::{Elsewhere, SegmentSource},
};
use crate::{
    env::{File, Lane, Network},
    error::{Code, Error, Result},
    raft::Consensus,
    segment::SegmentSummary,
    types::NodeId,
};

/// How long a member has to say whether it has a segment.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of one part.
const PART_BYTES: u32 = 1 << 20;

/// The other members of the cluster, and the archive.
#[must_use]
pub fn members_and_archive(
    consensus: Consensus,
    network: Arc<dyn Network>,
    archive: Option<FromArchive>,
) -> Elsewhere {
    Box::new(move || {
        let others = consensus.positions().members.into_iter().filter(|(id, _)| *id != consensus.id());
        let source = |(id, member): (NodeId, crate::raft::Member)| -> Box<dyn SegmentSource> {
            Box::new(OtherMember { network: network.clone(), id, address: member.raft_addr })
        };
        let archive = archive.clone().map(|archive| Box::new(archive) as Box<dyn SegmentSource>);
        others.map(source).chain(archive).collect()
    })
}

impl SegmentSource for FromArchive {
    fn name(&self) -> String {
        format!("the archive in {}", self.place())
    }

    fn is_archive(&self) -> bool {
        true
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a SegmentSummary,
        file: &'a Arc<dyn File>,
        _path: &'a Path,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(FromArchive::fetch(self, wanted.id(), &wanted.digest, file.clone()))
    }
}

struct OtherMember {
    network: Arc<dyn Network>,
    id: NodeId,
    address: String,
}

impl SegmentSource for OtherMember {
    fn name(&self) -> String {
        format!("member {} at {:?}", self.id, self.address)
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a SegmentSummary,
        file: &'a Arc<dyn File>,
        path: &'a Path,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let id = wanted.id();
            let list = self.network.call(self.id, &self.address, Lane::Fetch, Question::List(id).encode());
            let list = match timeout(ANSWER_PATIENCE, list).await {
                Ok(Ok(list)) => decode_list(&list)?,
                Ok(Err(error)) => return Err(Error::new(Code::Unavailable, error.to_string())),
                Err(_) => return Err(Error::new(Code::Unavailable, "no answer in time")),
            };
            match list.first() {
                Some(listed) if (listed.digest, listed.file_bytes) == (wanted.digest, wanted.file_bytes) => {}
                Some(_) => return Err(Error::new(Code::Corrupt, "its segment is another")),
                None => return Err(Error::new(Code::NotFound, "it has not sealed it yet")),
            }
            let from = (self.id, self.address.as_str());
            // Readers wait for it.
            let pace = Pace::new(u64::MAX);
            fill(&self.network, from, id, (wanted.file_bytes, PART_BYTES), (&**file, path), (&pace, &|_| ()))
                .await
        })
    }
}
