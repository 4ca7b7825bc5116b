//! Stage 9, tier: files of archived segments leave this node when they need more room than they are given.
//!
//! ```text
//!  above local_bytes_max ─► the oldest of age ─► marker: this ledger's store, which every member has marked
//!                                                entry: the same segment ─► object: every byte, every block
//!  read from the archive ◄── stub in its place ◄── marker: still the same store ──┘
//! ```
//!
//! Takes what is sealed here, and this node's own store, of which nothing is believed that another node has said: what
//! it cannot read back itself stays. In a cluster of several members it stays, too, unless all of them have put their
//! mark into that very store: a directory that each node has for itself holds nothing for the others. So tiering is
//! switched on for all members, or for none. Which files leave first is by number; the newest segment never does, nor
//! one that may hold the link to the epoch before, which has to be read before the archive can be.
//!
//! It does not own how a file is exchanged for its stub (`sealed`), nor how records are read then (`sealed::thaw`).

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::archive::Apart;
use crate::{
    archive::{
        Epoch, LedgerId, Manifest, Marker, Store, Trouble, fetched, layout,
        marker::StoreId,
        store::{Body, Put},
    },
    env::Clock,
    error::{Code, Error, Result},
    raft::Consensus,
    sealed::Sealed,
    segment::{BlockCache, KeyHash, Packing, Segment, StubObject},
    state::{State, link::Link},
    types::{NodeId, SegmentId, TimestampMs},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// A packed copy is read once, around the cache.
const CACHE_BYTES: u64 = 1 << 20;

/// What the stage stands on.
#[derive(Debug)]
pub struct TierFooting {
    /// Who belongs to the cluster.
    pub consensus: Consensus,
    /// What is sealed and archived.
    pub state: Arc<State>,
    /// This node's own store.
    pub store: Arc<dyn Store>,
    /// Which node this is.
    pub node: NodeId,
    /// The cluster: in epoch 1 its id is the ledger's.
    pub cluster: LedgerId,
    /// Which life of the ledger it is.
    pub epoch: Epoch,
    /// Where the work is done.
    pub apart: Arc<Apart>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What an operator decides.
#[derive(Clone, Copy, Debug)]
pub struct TierOptions {
    /// Bytes of segments on this node's disk above which files leave.
    pub local_bytes_max: u64,
    /// How old a segment's last record is before.
    pub age_min: Duration,
    /// The longest time between two tries.
    pub retry_max: Duration,
}

/// The stage.
#[derive(Debug)]
pub struct Tier {
    on: TierFooting,
    options: TierOptions,
    ledger: Option<LedgerId>,
    /// Whose objects are damaged: all others are tried before them.
    left: BTreeSet<SegmentId>,
    /// What was said last of why nothing leaves.
    said: Option<String>,
}

/// A segment, as far as it matters here.
#[derive(Clone, Copy, Debug)]
struct Row {
    id: SegmentId,
    local_bytes: u64,
    is_stub: bool,
    last_timestamp_ms: TimestampMs,
    /// Whether its file may ever go.
    may_go: bool,
}

/// The next segment whose file is to leave.
fn decide(
    rows: &[Row],
    archived: SegmentId,
    now_ms: TimestampMs,
    options: &TierOptions,
) -> Option<SegmentId> {
    let local: u64 = rows.iter().map(|row| row.local_bytes).sum();
    if local <= options.local_bytes_max {
        return None;
    }
    let age_ms = u64::try_from(options.age_min.as_millis()).unwrap_or(u64::MAX);
    let (_newest, older) = rows.split_last()?;
    let due = older.iter().find(|row| {
        let is_old = now_ms.saturating_sub(row.last_timestamp_ms) >= age_ms;
        row.may_go && !row.is_stub && row.id < archived && is_old
    });
    due.map(|row| row.id)
}

impl Tier {
    /// Lets files go that are above the bound.
    #[must_use]
    pub fn new(on: TierFooting, options: TierOptions) -> Self {
        let ledger = (on.epoch == Epoch::FIRST).then_some(on.cluster);
        Self { on, options, ledger, left: BTreeSet::new(), said: None }
    }

    /// Goes on until its task is ended.
    pub async fn run(mut self) {
        let retry_min = PAUSE.min(self.options.retry_max);
        let mut retry = retry_min;
        let mut is_marked = false;
        let mut forget_at = Instant::now() + self.options.retry_max;
        loop {
            let due = self.due();
            if due.is_none() && Instant::now() >= forget_at {
                // Somebody may have put them right. Not before all others had their turn: one that is damaged for good
                // would hold them up for good.
                self.left.clear();
                forget_at = Instant::now() + self.options.retry_max;
            }
            let done = match (is_marked, due) {
                (false, _) => self.mark().await.map(|marked| is_marked = marked),
                (true, Some(id)) => self.evict(id).await,
                (true, None) => Ok(()),
            };
            match done {
                Ok(()) => {
                    retry = retry_min;
                    if due.is_none() || !is_marked {
                        sleep(PAUSE).await;
                    }
                }
                Err(error) => {
                    self.say(&error);
                    if let Some(id) = due.filter(|_| is_marked && error.code() == Code::Corrupt) {
                        self.left.insert(id);
                        sleep(retry_min).await;
                    } else {
                        sleep(retry).await;
                        retry = retry.saturating_mul(2).min(self.options.retry_max);
                    }
                }
            }
        }
    }

    fn due(&self) -> Option<SegmentId> {
        let TierFooting { state, clock, epoch, .. } = &self.on;
        let segments = state.sealed().segments();
        let link = (*epoch != Epoch::FIRST).then(|| KeyHash::of(&Link::key(epoch.0)));
        let row = |segment: &Arc<Segment>| {
            let summary = segment.summary();
            Row {
                id: summary.id(),
                local_bytes: segment.local_bytes(),
                is_stub: segment.stub().is_some(),
                last_timestamp_ms: summary.last_timestamp_ms,
                may_go: summary.records() > 0
                    && !self.left.contains(&summary.id())
                    && link.is_none_or(|link| !segment.may_contain(link)),
            }
        };
        let rows: Vec<Row> = segments.iter().map(row).collect();
        decide(&rows, SegmentId(state.archived().end), clock.now_ms(), &self.options)
    }

    /// Puts this member's mark into its store, as soon as that is the ledger's; whether it has.
    async fn mark(&mut self) -> Result<bool> {
        let Some(ledger) = self.ledger()? else { return Ok(false) };
        let TierFooting { store, node, apart, .. } = &self.on;
        let (store, node) = (store.clone(), *node);
        apart.run(async move { mark(&*store, ledger, node).await }).await
    }

    /// Whose archive it is; none while that is not known here yet.
    fn ledger(&mut self) -> Result<Option<LedgerId>> {
        if self.ledger.is_none() {
            let Some(record) = self.on.state.newest(&Link::key(self.on.epoch.0))? else { return Ok(None) };
            self.ledger = LedgerId::parse(&Link::decode(&record.value)?.ledger);
        }
        Ok(self.ledger)
    }

    async fn evict(&mut self, id: SegmentId) -> Result<()> {
        let Some(ledger) = self.ledger()? else { return Ok(()) };
        let TierFooting { consensus, state, store, node, epoch, apart, .. } = &self.on;
        let members = consensus.positions().members;
        let others: Vec<NodeId> = members.keys().copied().filter(|member| member != node).collect();
        let manifest = Manifest::new(store.clone(), ledger, *epoch);
        let work = evict(state.sealed().clone(), store.clone(), manifest, others, id);
        let freed = apart.run(work).await?;
        self.said = None;
        tracing::info!(segment = %id, freed, archive = store.place(), "a segment's records are in the archive alone now");
        Ok(())
    }

    /// Tells why nothing leaves, once until it is something else.
    fn say(&mut self, error: &Error) {
        if self.said.as_deref() != Some(error.message()) {
            let archive = self.on.store.place();
            tracing::warn!(%error, archive, "segments stay here although they are above storage.tiering.local_bytes_max");
            self.said = Some(error.message().to_owned());
        }
    }
}

/// Which store it is; none where nobody archives yet.
async fn marker(store: &dyn Store, ledger: LedgerId) -> Result<Option<StoreId>> {
    let place = store.place();
    let bytes = match store.get(&layout::marker()).await {
        Ok(object) => object.bytes,
        Err(error) if error.trouble() == Trouble::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match Marker::decode(&bytes) {
        Some(marker) if marker.ledger == ledger => Ok(Some(marker.store)),
        Some(_) => Err(Error::new(Code::Io, format!("{place} is the archive of another ledger"))),
        None => Err(Error::new(Code::Io, format!("the archive's marker in {place} is damaged"))),
    }
}

fn mark_of(ledger: LedgerId, store: StoreId, node: NodeId) -> String {
    let store = u128::from_be_bytes(store.0);
    format!("scribe-ledger member 1\nledger {ledger}\nstore {store:032x}\nmember {node}\n")
}

async fn mark(store: &dyn Store, ledger: LedgerId, node: NodeId) -> Result<bool> {
    let Some(id) = marker(store, ledger).await? else { return Ok(false) };
    let body = Body::from(bytes::Bytes::from(mark_of(ledger, id, node)));
    let name = layout::member(node);
    match store.put_once(&name, body).await? {
        Put::Created | Put::AlreadyThereSame => Ok(true),
        Put::Conflict => {
            let what = format!("{name} in {} is not this member's mark: remove it", store.place());
            Err(Error::new(Code::Io, what))
        }
    }
}

/// Reads a segment back and puts a stub in its place; how many bytes that has freed.
async fn evict(
    sealed: Arc<Sealed>,
    store: Arc<dyn Store>,
    manifest: Manifest,
    others: Vec<NodeId>,
    id: SegmentId,
) -> Result<u64> {
    let segments = sealed.segments();
    let segment = usize::try_from(id.0).ok().and_then(|at| segments.get(at));
    let segment = segment.ok_or_else(|| Error::new(Code::NotFound, format!("there is no segment {id}")))?;
    let (place, ledger) = (store.place(), manifest.ledger());
    let unmarked =
        || Error::new(Code::NotFound, format!("{place} is no archive, or nobody has archived there yet"));
    let there = marker(&*store, ledger).await?.ok_or_else(unmarked)?;
    for other in others {
        let seen = match store.get(&layout::member(other)).await {
            Ok(object) => object.bytes == mark_of(ledger, there, other).as_bytes(),
            Err(error) if error.trouble() == Trouble::NotFound => false,
            Err(error) => return Err(error.into()),
        };
        if !seen {
            let what = format!(
                "member {other} does not use {place}, or has no storage.tiering.local_bytes_max: what only some members \
                 can read stays"
            );
            return Err(Error::new(Code::NotFound, what));
        }
    }
    let entry = manifest.entry(id).await?;
    let Some(entry) = entry.filter(|entry| entry.digest == segment.summary().digest) else {
        let what = format!(
            "segment {id} is not in {place}, or another one is: what another node has archived elsewhere stays"
        );
        return Err(Error::new(Code::NotFound, what));
    };
    let name = entry.object.name();
    let file = fetched::fetch(&*store, &entry.object).await?;
    let packed = Segment::from_file(file, Path::new(name.as_str()), Arc::new(BlockCache::new(CACHE_BYTES)))?;
    if packed.summary().digest != segment.summary().digest {
        return Err(Error::new(Code::Corrupt, format!("{name} in {place} holds another segment")));
    }
    // Every block is decoded and compared with its hash.
    packed.pack(Packing::None, &mut std::io::sink())?;
    if marker(&*store, ledger).await? != Some(there) {
        return Err(Error::new(
            Code::NotFound,
            format!("another store has taken the place of {place} meanwhile"),
        ));
    }
    let object =
        StubObject { epoch: entry.object.epoch.0, bytes: entry.object.bytes, hash: entry.object.hash };
    sealed.evict(id, &packed, &object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64) -> Row {
        Row {
            id: SegmentId(id),
            local_bytes: 10,
            is_stub: false,
            last_timestamp_ms: id * 1_000,
            may_go: true,
        }
    }

    #[test]
    fn the_oldest_file_that_may_leaves_first_and_none_within_the_bound() {
        let options = |local_bytes_max, age_secs| TierOptions {
            local_bytes_max,
            age_min: Duration::from_secs(age_secs),
            retry_max: PAUSE,
        };
        let rows: Vec<Row> = (0..5).map(row).collect();
        let stub = |rows: &[Row], id: usize| {
            let mut rows = rows.to_vec();
            (rows[id].is_stub, rows[id].local_bytes) = (true, 1);
            rows
        };
        let all = SegmentId(5);
        for (rows, archived, now_ms, options, due) in [
            (&rows, all, 9_000, options(50, 0), None),
            (&rows, all, 9_000, options(49, 0), Some(0)),
            (&rows, SegmentId(0), 9_000, options(49, 0), None),
            (&rows, all, 9_000, options(0, 10), None),
            (&stub(&rows, 0), all, 9_000, options(0, 8), Some(1)),
            (&stub(&rows, 0), SegmentId(1), 9_000, options(0, 0), None),
            (&stub(&rows, 0), all, 9_000, options(41, 0), None),
            (&rows[4..].to_vec(), all, 9_000, options(0, 0), None),
            (&vec![Row { may_go: false, ..row(0) }, row(1), row(2)], all, 9_000, options(0, 0), Some(1)),
            (&Vec::new(), all, 9_000, options(0, 0), None),
        ] {
            assert_eq!(decide(rows, archived, now_ms, &options), due.map(SegmentId), "{options:?}");
        }
    }
}
