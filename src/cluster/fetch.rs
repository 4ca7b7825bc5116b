//! Fetches segments from the archive or a member that has them, and puts them in place one after the other.
//!
//! ```text
//!        ┌─► the archive's object ────────┐
//! list ──┤  it has none, or trouble       ├─► segment-n.seg.part ─► sync ─► verify ─► announce ─► segment-n.seg
//!        └─► parts, PARTS_AT_ONCE at once ┘
//! ```
//!
//! Takes the address of a leader, who says which segments there are, gives files under their final names, each of which was verified from end to end
//! and goes on where the one before it ends. Nothing that another member says is believed: a segment that is not
//! sound is removed, and the leader given up. A crash leaves each segment whole in its place or not at all. It does
//! not own when segments are fetched, nor what becomes of the log.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    from_archive::FromArchive,
    message::{Listed, PART_BYTES_MAX, Question, decode_list, decode_part},
    switch::Switch,
    vitals::CatchingUp,
};
use crate::{
    env::{File, Lane, Network, OpenMode},
    error::{Code, Error, Result},
    raft::Ahead,
    runtime::{behind_others, without_blocking_others},
    sealed::Sealed,
    segment::{BlockCache, Segment, SegmentSummary, file_name, partial_name, remove},
    state::boundary,
    types::{NodeId, SegmentId},
    verify::Chain,
};

/// Parts of a segment that are under way at once.
const PARTS_AT_ONCE: usize = 4;

/// Bytes after which what was written is synced.
const SYNC_BYTES: usize = 4 << 20;

/// How long one answer may take, and how often it is asked for.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
const TRIES: u32 = 5;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How segments are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchOptions {
    /// Bytes of one part, at most [`PART_BYTES_MAX`].
    pub part_bytes: u32,
    /// Free space to leave on the disk: the log needs it more.
    pub free_bytes_min: u64,
    /// How fast they are taken: whoever gives them has other work, and so has a disk that both may share.
    pub bytes_per_sec: u64,
    /// The planted bug: puts segments in place as they came.
    #[doc(hidden)]
    pub skip_verification: bool,
}

impl FetchOptions {
    /// Large parts as fast as they come, and this much free space.
    #[must_use]
    pub const fn new(free_bytes_min: u64) -> Self {
        Self { part_bytes: 1 << 20, free_bytes_min, bytes_per_sec: u64::MAX, skip_verification: false }
    }
}

/// Fetches for one data directory.
#[derive(Clone, Debug)]
pub struct Fetcher {
    network: Arc<dyn Network>,
    sealed: Arc<Sealed>,
    switch: Switch,
    options: FetchOptions,
    archive: Option<FromArchive>,
    progress: Progress,
}

/// How far fetching has come; nothing while nothing is fetched. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Option<CatchingUp>>>);

impl Progress {
    /// How far it is now.
    #[must_use]
    pub fn get(&self) -> Option<CatchingUp> {
        *self.0.lock()
    }

    fn add(&self, bytes: u64) {
        if let Some(now) = &mut *self.0.lock() {
            now.bytes = now.bytes.saturating_add(bytes);
        }
    }

    /// Of `of` segments that are known of, all before `segments` are in place.
    fn have(&self, segments: u64, of: u64) {
        let mut now = self.0.lock();
        let bytes = now.map_or(0, |now| now.bytes);
        *now = Some(CatchingUp { segments, of, bytes });
    }

    fn end(&self) {
        *self.0.lock() = None;
    }
}

impl Fetcher {
    /// Puts what it fetches beside what is `sealed` here, after announcing it to `switch`.
    #[must_use]
    pub fn new(
        network: Arc<dyn Network>,
        sealed: Arc<Sealed>,
        switch: Switch,
        options: FetchOptions,
    ) -> Self {
        let part_bytes = options.part_bytes.clamp(1, PART_BYTES_MAX);
        let options = FetchOptions { part_bytes, ..options };
        Self { network, sealed, switch, options, archive: None, progress: Progress::default() }
    }

    /// Asks this archive first.
    #[must_use]
    pub fn with_archive(self, archive: Option<FromArchive>) -> Self {
        Self { archive, ..self }
    }

    /// How far [`Fetcher::fetch_all`] has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Fetches all segments that the leader has and that are missing here, those that it seals meanwhile included.
    /// Counts in `installed` those that are in place, also when it ends early or is dropped.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when the leader does not answer, [`Code::Corrupt`] when what it gave is not a segment
    /// that goes on from here, [`Code::DiskFull`] and [`Code::Io`] of this disk. The next one may go on from there.
    pub async fn fetch_all(&self, leader: &Ahead, installed: &mut u64) -> Result<()> {
        let _ends = EndsWithIt(&self.progress);
        let mut archive = self.archive.as_ref();
        let mut chain = Chain::new();
        for segment in self.sealed.segments().iter() {
            chain.follow(segment.summary(), &self.sealed.dir().join(file_name(segment.summary().id())))?;
        }
        loop {
            let listed = self.ask(leader, Question::List(SegmentId(chain.segments))).await?;
            let listed = decode_list(&listed)?;
            if listed.is_empty() {
                return Ok(());
            }
            let of = chain.segments + listed.len() as u64;
            for listed in listed {
                self.progress.have(chain.segments, of);
                let (summary, from) = self.fetch(leader, &mut archive, listed, &chain).await?;
                let (id, bytes) = (summary.id(), summary.file_bytes);
                self.put_in_place(leader, &summary)?;
                *installed += 1;
                chain.follow(&summary, &self.sealed.dir().join(file_name(id)))?;
                tracing::info!(%id, end = %chain.end_seq, bytes, %from, "a segment was fetched");
            }
        }
    }

    /// Fetches the segment behind `chain` under its partial name, and verifies it. An archive that does not have it has
    /// no later one either, and one in trouble is not waited for again.
    async fn fetch(
        &self,
        leader: &Ahead,
        archive: &mut Option<&FromArchive>,
        listed: Listed,
        chain: &Chain,
    ) -> Result<(SegmentSummary, String)> {
        let id = SegmentId(chain.segments);
        let (io, dir) = (self.sealed.io(), self.sealed.dir());
        let free = io
            .free_bytes(dir)
            .map_err(|e| Error::io(format!("looking for space in {}", dir.display()), &e))?;
        if free.saturating_sub(self.options.free_bytes_min) < listed.file_bytes {
            let what =
                format!("segment {id} of {} bytes would leave too little free space", listed.file_bytes);
            return Err(Error::new(Code::DiskFull, what));
        }
        if let Some(from) = *archive {
            match self.fetch_from(Origin::Archive(from), listed, chain).await {
                Ok(summary) => {
                    self.progress.add(summary.file_bytes);
                    return Ok((summary, from.place().to_owned()));
                }
                Err(error) if error.code() == Code::NotFound => {
                    tracing::debug!(%error, "the leader is asked for segments");
                }
                Err(error) => {
                    let place = from.place();
                    tracing::warn!(%error, archive = place, "the archive gives no segments: the leader is asked for them");
                }
            }
            *archive = None;
        }
        let summary = self.fetch_from(Origin::Leader(leader), listed, chain).await?;
        Ok((summary, format!("member {}", leader.leader)))
    }

    async fn fetch_from(&self, origin: Origin<'_>, listed: Listed, chain: &Chain) -> Result<SegmentSummary> {
        let id = SegmentId(chain.segments);
        let (io, dir) = (self.sealed.io(), self.sealed.dir());
        let path = dir.join(partial_name(id));
        let doing = |what: &str| format!("{what} {}", path.display());
        // An older one may have pages that a failed sync lost and that look clean: never write over it.
        remove(&**io, &path)?;
        let create = || {
            let file = io.open(&path, OpenMode::Buffered)?;
            // Before it gets the final name: what has the partial one after a crash could else be given it.
            io.sync_dir(dir)?;
            Ok(file)
        };
        let file = create().map_err(|e| Error::io(doing("creating"), &e))?;
        let filled = match origin {
            Origin::Leader(leader) => self.fill(leader, id, listed, &*file, &path).await,
            Origin::Archive(archive) => archive.fetch(id, &listed.digest, file).await,
        };
        let fetched = match filled {
            Ok(()) => {
                let (this, chain, path) = (self.clone(), chain.clone(), path.clone());
                behind_others(move || this.verify(&path, listed, &chain)).await.flatten()
            }
            Err(error) => Err(error),
        };
        if fetched.is_err() {
            // What is left of it is removed by the next try or the next start.
            let _ = remove(&**io, &path);
        }
        fetched
    }

    /// Writes all of a segment's file, and syncs it.
    async fn fill(
        &self,
        leader: &Ahead,
        id: SegmentId,
        listed: Listed,
        file: &dyn File,
        path: &Path,
    ) -> Result<()> {
        let from = (leader.leader, leader.address.as_str());
        let (bytes, part_bytes) = (listed.file_bytes, self.options.part_bytes);
        let pace = Pace::new(self.options.bytes_per_sec);
        let told = |bytes| self.progress.add(bytes);
        fill(&self.network, from, id, (bytes, part_bytes), (file, path), (&pace, &told)).await?;
        without_blocking_others(listed.file_bytes as usize, || file.sync())
            .map_err(|e| Error::io(format!("syncing {}", path.display()), &e))
    }

    /// Checks every byte of a fetched file, and that it goes on from `chain`.
    fn verify(&self, path: &Path, listed: Listed, chain: &Chain) -> Result<SegmentSummary> {
        const CACHE_BYTES: u64 = 1 << 20;
        let cache = Arc::new(BlockCache::new(CACHE_BYTES));
        let segment = Segment::open(&**self.sealed.io(), path, cache)?;
        let summary = segment.summary().clone();
        if self.options.skip_verification {
            return Ok(summary);
        }
        if summary.digest != listed.digest {
            let what = format!("{} is not the segment that was listed", path.display());
            return Err(Error::new(Code::Corrupt, what));
        }
        segment.verify(|_| ())?;
        chain.clone().follow(&summary, path)?;
        // A start has to be able to begin from it.
        boundary::Boundary::decode(&summary.boundary)?;
        Ok(summary)
    }

    /// Gives a verified segment its name.
    fn put_in_place(&self, leader: &Ahead, summary: &SegmentSummary) -> Result<()> {
        let (io, dir) = (self.sealed.io(), self.sealed.dir());
        let (partial, path) = (dir.join(partial_name(summary.id())), dir.join(file_name(summary.id())));
        let last = summary.last_log;
        self.switch.announce(if last.index > leader.boundary.index { last } else { leader.boundary })?;
        let named = |e| Error::io(format!("naming {}", path.display()), &e);
        io.rename(&partial, &path).map_err(named)?;
        // The next one is named only when this name lasts: there is never a gap.
        io.sync_dir(dir).map_err(named)
    }

    async fn ask(&self, leader: &Ahead, question: Question) -> Result<Bytes> {
        ask(self.network.clone(), leader.leader, leader.address.clone(), question).await
    }
}

/// Where a segment comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    Archive(&'a FromArchive),
    Leader(&'a Ahead),
}

/// Fetching may be dropped at any point, and is over then.
struct EndsWithIt<'a>(&'a Progress);

impl Drop for EndsWithIt<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Writes all of a segment's file of so many bytes, as a member gives it in parts of `part_bytes`;
/// `told` hears of the bytes of each, which `pace` then waits for. Syncs it from time to time, lest a sync of all of it at once holds up
/// what others write to the disk.
///
/// # Errors
/// [`Code::Unavailable`] when it does not answer, [`Code::Malformed`] for another answer, and those of the file.
pub(super) async fn fill(
    network: &Arc<dyn Network>,
    (member, address): (NodeId, &str),
    id: SegmentId,
    (file_bytes, part_bytes): (u64, u32),
    (file, path): (&dyn File, &Path),
    (pace, told): (&Pace, &(dyn Fn(u64) + Sync)),
) -> Result<()> {
    let step = u64::from(part_bytes);
    let questions = (0..file_bytes.div_ceil(step)).map(|number| {
        let offset = number * step;
        (offset, (file_bytes - offset).min(step) as u32)
    });
    let ask = |(offset, bytes)| {
        let question = Question::Part { id, offset, bytes };
        let answer = ask(network.clone(), member, address.to_owned(), question);
        async move { decode_part(&answer.await?, bytes).map(|part| (offset, part)) }
    };
    let mut parts = stream::iter(questions).map(ask).buffered(PARTS_AT_ONCE);
    let mut unsynced = 0;
    while let Some(part) = parts.next().await {
        let (offset, part) = part?;
        unsynced += part.len();
        let is_due = unsynced >= SYNC_BYTES;
        let write = || {
            file.write_at(&part, offset)?;
            if is_due { file.sync() } else { Ok(()) }
        };
        without_blocking_others(if is_due { unsynced } else { part.len() }, write)
            .map_err(|e| Error::io(format!("writing {}", path.display()), &e))?;
        if is_due {
            unsynced = 0;
        }
        told(part.len() as u64);
        pace.wait(part.len() as u64).await;
    }
    Ok(())
}

/// Keeps to so many bytes a second, over the time since it was made.
pub(super) struct Pace {
    bytes_per_sec: u64,
    /// When the bytes so far should have taken until.
    due: Mutex<Instant>,
}

impl Pace {
    /// From now on.
    pub fn new(bytes_per_sec: u64) -> Self {
        Self { bytes_per_sec, due: Mutex::new(Instant::now()) }
    }

    /// Waits until so many more bytes are due.
    async fn wait(&self, bytes: u64) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_sec as f64);
        let due = {
            let mut due = self.due.lock();
            // Time that was lost is not made up for: that would be a burst.
            *due = (*due).max(Instant::now()) + takes;
            *due
        };
        sleep_until(due).await;
    }
}

/// Asks until there is an answer, for a while.
async fn ask(
    network: Arc<dyn Network>,
    member: NodeId,
    address: String,
    question: Question,
) -> Result<Bytes> {
    let mut tries = 0;
    loop {
        let answer = network.call(member, &address, Lane::Fetch, question.encode());
        let why = match timeout(ANSWER_TIME_MAX, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tries += 1;
        if tries == TRIES {
            let what = format!("member {member} at {address:?} gives no segments: {why}");
            return Err(Error::new(Code::Unavailable, what));
        }
        sleep(TRY_AGAIN_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn parts_come_no_faster_than_they_may_and_lost_time_is_not_made_up_for() {
        let (begun, pace) = (Instant::now(), Pace::new(1_000));
        pace.wait(500).await;
        pace.wait(250).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(750));
        sleep(Duration::from_secs(10)).await;
        pace.wait(1_000).await;
        pace.wait(1_000).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(12_750));
        Pace::new(u64::MAX).wait(1 << 30).await;
        assert!(begun.elapsed() < Duration::from_millis(12_752), "timers tick in milliseconds");
    }
}
