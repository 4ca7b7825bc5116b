//! Making a node's directory out of an archive, or of a copy of a ledger's segments.
//!
//! ```text
//! begin     LOCK ─► restoring, durable: what is restored, who it will be
//! keep      each segment, verified ─► segment-….seg.part, synced ─► segment-….seg       on several threads, in any order
//! finish    signing.key ─► one more segment: the link ─► wal/: goes on behind it ─► identity.json ─► restoring goes
//! ```
//!
//! What a directory is restored to is another cluster: new id, new epoch, new origin, one member. All that makes it so
//! lies in one last segment that is written here: its record links the old log ([`Link`]), its boundary has the new
//! membership and the key that it signs with, so that the link can be signed before anything is written behind it, and
//! its place in the log is behind the old one, in a term of its own. So a start finds nothing special:
//! segments, a log that goes on behind the newest, an identity. Until the identity is there, no node starts, and a
//! restore that was killed is begun again: what is in place is verified again and stays.
//!
//! Takes an archive that is being verified, which hands each segment over ([`Keeper`]), or a copy, whose segments are
//! put in place first ([`Restore::copy`]) and verified there; gives a directory. It does not own the verification, nor
//! what is shown of it, nor what is known of the ledger before ([`Origin`]).

mod origin;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::oneshot;

pub use self::origin::Origin;
use super::{
    claim::remove_files,
    identity::{self, DIRECTORY_FORMAT, Identity},
    lock, origin_of, signing,
};
use crate::{
    archive::{Entry, Epoch, object::unpack},
    config::LedgerConfig,
    env::{Env, OpenMode},
    error::{Code, Error, Result},
    proof::{Hash, frontier::Frontier, growth::Growth, key::VerifierKey, leaf::Leaf},
    raft::begin_anew,
    segment::{
        BlockCache, FinishInfo, LEAF_HASH_BYTES, RecordRef, Segment, SegmentHead, SegmentWriter, file_name,
        is_unfinished, parse_name, partial_name, remove,
    },
    state::{
        archived::Archived,
        boundary::Boundary,
        link::Link,
        signers::{Enrolment, enrol},
    },
    types::{LogId, LogIndex, NodeId, Op, SegmentId, Seq},
    verify::{self, Keeper, Report},
    wal::{Wal, WalOptions},
};

const FILE: &str = verify::RESTORING_FILE;

const DRAFT: &str = "restoring.tmp";

const HEADER: &str = "scribe restoring 1\n";

/// Most bytes that are read of the file.
const FILE_BYTES_MAX: u64 = 1 << 10;

const CACHE_BYTES: u64 = 1 << 20;

/// A restore under way: a directory that is nobody's yet.
pub struct Restore {
    env: Env,
    data_dir: PathBuf,
    plan: Plan,
    origin: Origin,
    cache: Arc<BlockCache>,
    _lock: Box<dyn Send + Sync>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Whose the directory is now.
    pub identity: Identity,
    /// What binds it to the ledger before.
    pub link: Link,
    /// What it signs with, for whoever verifies the new log.
    pub key: VerifierKey,
}

/// What the file says: what is restored, and who it will be. A line each, BLAKE3 of them (hex) in the last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    /// What it is restored from, so that another one is not taken for it.
    from: String,
    epoch: u32,
    cluster: String,
    node_id: NodeId,
    incarnation: u64,
}

impl Plan {
    fn encode(&self) -> Vec<u8> {
        let Self { from, epoch, cluster, node_id, incarnation } = self;
        let text = format!("{HEADER}{from}\n{epoch}\n{cluster}\n{node_id}\n{incarnation}\n");
        format!("{text}{}\n", blake3::hash(text.as_bytes()).to_hex()).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.strip_prefix(HEADER)?.lines();
        let mut line = || lines.next();
        let (from, epoch, cluster) = (line()?.to_owned(), line()?.parse().ok()?, line()?.to_owned());
        let (node_id, incarnation) = (line()?.parse().ok()?, line()?.parse().ok()?);
        let plan = Self { from, epoch, cluster, node_id, incarnation };
        (plan.encode() == bytes).then_some(plan)
    }
}

/// Refuses a directory in which a restore has begun and not ended.
///
/// # Errors
/// [`Code::InvalidConfig`]; [`Code::Io`] when the disk fails.
pub(super) fn refuse_unfinished(env: &Env, data_dir: &Path) -> Result<()> {
    match list(env, data_dir)?.iter().any(|name| name == FILE) {
        true => Err(Error::new(
            Code::InvalidConfig,
            format!("{} is being restored: run `scribe restore` again, to its end", data_dir.display()),
        )),
        false => Ok(()),
    }
}

fn list(env: &Env, dir: &Path) -> Result<Vec<String>> {
    env.io.list(dir).map_err(|e| Error::io(format!("listing {}", dir.display()), &e))
}

impl Restore {
    /// Takes a directory, empty or of a restore of the same origin that did not end, for the node with this id.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for any other directory; [`Code::Io`], [`Code::DiskFull`].
    pub fn begin(env: &Env, data_dir: &Path, node_id: NodeId, origin: Origin) -> Result<Self> {
        let dir = data_dir.display();
        let refused = |what: String| Err(Error::new(Code::InvalidConfig, what));
        env.io.create_dir_all(data_dir).map_err(|e| Error::io(format!("creating {dir}"), &e))?;
        let names = list(env, data_dir)?;
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        if !has(FILE) && names.iter().any(|name| !["LOCK", DRAFT].contains(&name.as_str())) {
            return refused(format!("{dir} is not empty: restore into a directory that is"));
        }
        let lock = lock(&*env.io, data_dir)?;
        if has(FILE) && has(identity::FILE) {
            // It was killed behind its end.
            end(env, data_dir)?;
            return refused(format!("{dir} is restored already: start a node on it"));
        }
        let plan = if has(FILE) {
            let plan = read(env, data_dir)?;
            if (&plan.from, plan.node_id) != (&origin.from, node_id) {
                return refused(format!(
                    "{dir} is an unfinished restore for node {} of another archive or copy ({}): choose another directory",
                    plan.node_id, plan.from
                ));
            }
            plan
        } else {
            let rng = &env.rng;
            let cluster = format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64());
            let incarnation = rng.next_u64().max(1);
            let plan =
                Plan { from: origin.from.clone(), epoch: origin.next_epoch.0, cluster, node_id, incarnation };
            write(env, data_dir, &plan)?;
            plan
        };
        // From here on the directory is this restore's.
        let cache = Arc::new(BlockCache::new(CACHE_BYTES));
        let (env, data_dir) = (env.clone(), data_dir.to_path_buf());
        let restore = Self { env, data_dir, plan, origin, cache, _lock: lock };
        restore.tidy()?;
        Ok(restore)
    }

    /// Where its segments are put.
    #[must_use]
    pub fn segments(&self) -> PathBuf {
        self.data_dir.join("segments")
    }

    /// Removes what an earlier try left half done, and what it put behind the last segment.
    fn tidy(&self) -> Result<()> {
        let dir = self.segments();
        self.env.io.create_dir_all(&dir).map_err(|e| Error::io(format!("creating {}", dir.display()), &e))?;
        for name in list(&self.env, &dir)? {
            let is_behind = parse_name(&name).is_some_and(|id| id > self.origin.last);
            if is_behind || is_unfinished(&name) {
                remove(&*self.env.io, &dir.join(name))?;
            }
        }
        self.sync_dir(&dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.env.io.sync_dir(dir).map_err(|e| Error::io(format!("syncing {}", dir.display()), &e))
    }

    /// Ends it, when all segments are in place: makes the directory a node's. `report` is of their verification,
    /// `ledger` what the node will be told of its ledger.
    ///
    /// # Errors
    /// [`Code::Corrupt`] for a last segment without a state to go on from; [`Code::InvalidConfig`] for an origin that
    /// cannot name a key; [`Code::Io`], [`Code::DiskFull`].
    pub async fn finish(&self, report: &Report, wal: WalOptions, ledger: &LedgerConfig) -> Result<Restored> {
        let dir = self.segments();
        let last = Segment::open(&*self.env.io, &dir.join(file_name(self.origin.last)), self.cache.clone())?;
        let summary = last.summary();
        if (summary.digest, summary.end_seq) != (self.origin.digest, report.records) {
            return Err(Error::new(Code::Internal, "the last segment is not the one that was verified"));
        }
        let mut boundary = Boundary::decode(&summary.boundary)?;
        let Plan { epoch, cluster, node_id, incarnation, .. } = &self.plan;
        let identity = Identity {
            format: DIRECTORY_FORMAT,
            node_id: *node_id,
            cluster_id: format!("{cluster}-{epoch}"),
            incarnation: *incarnation,
            joined: false,
            embedded: false,
        };
        let link = Link {
            ledger: self.origin.ledger.to_string(),
            epoch: self.plan.epoch,
            origin: self.old_origin(report, &boundary),
            size: report.records.0,
            root: report.root,
        };
        let at = summary.last_log;
        let at = LogId { term: at.term.saturating_add(1), index: LogIndex(at.index.0.saturating_add(1)) };
        let (membership, vote) = begin_anew(self.plan.node_id, self.plan.incarnation, at)?;
        boundary.membership = membership;
        // The archive of the new cluster may be another one: how far that goes is for itself to say.
        boundary.archived = Archived::default();
        let key = signing::open(&self.env, &self.data_dir, &origin_of(ledger, &identity))?;
        let key = key.verifier_key().clone();
        let enrolment = Enrolment { member: *node_id, incarnation: *incarnation, key: key.clone() };
        // As whoever proposes it does: one that is too long would not be read again.
        enrolment.encode()?;
        enrol(&mut boundary.signers, enrolment);
        self.write_link(&last, &link, at, boundary)?;
        self.begin_log(wal, at, vote).await?;
        self.sync_dir(&self.data_dir)?;
        identity::write(&self.env, &self.data_dir, &identity)?;
        // From here on it is a node's.
        end(&self.env, &self.data_dir)?;
        Ok(Restored { identity, link, key })
    }

    /// The name of the log that is gone on from: as it was signed, or else as its keys are called. Either may be of an
    /// epoch before, where the last one has not signed anything that is archived: a default name tells.
    fn old_origin(&self, report: &Report, boundary: &Boundary) -> String {
        let Epoch(epoch) = self.origin.epoch;
        let is_its = |name: &String| !name.starts_with("scribe/") || name.ends_with(&format!("/{epoch}"));
        let signed = report.checkpoints.iter().max_by_key(|note| note.size).map(|note| note.origin.clone());
        let named = || boundary.signers.last().map(|signer| signer.key.name().to_owned());
        let cluster = self.origin.cluster.unwrap_or(self.origin.ledger);
        let by_default = || format!("scribe/{cluster}/{epoch}");
        signed.filter(is_its).or_else(|| named().filter(is_its)).unwrap_or_else(by_default)
    }

    /// Writes the segment of the link: its record alone, and the state that a node begins from.
    fn write_link(&self, last: &Segment, link: &Link, at: LogId, boundary: Boundary) -> Result<()> {
        let corrupt = |what: &str| {
            Error::new(Code::Corrupt, format!("the last segment cannot be gone on from: {what}"))
        };
        let settings = boundary.settings.ok_or_else(|| corrupt("it has no settings"))?;
        let summary = last.summary();
        let mut frontier =
            Frontier::decode(&summary.frontier_before).map_err(|error| corrupt(&error.to_string()))?;
        let leaves = last.leaf_hashes(summary.head.first_seq..summary.end_seq)?;
        for leaf in leaves.as_chunks::<LEAF_HASH_BYTES>().0 {
            frontier.append(Hash(*leaf));
        }
        if frontier.root() != link.root {
            return Err(corrupt("its leaves are not those of its root"));
        }
        let timestamp_ms = self.env.clock.now_ms().max(boundary.last_time_ms);
        let boundary = Boundary { last_time_ms: timestamp_ms, ..boundary };
        let (key, value) = (Link::key(link.epoch), link.encode()?);
        let first_seq = Seq(link.size);
        let leaf = Leaf::of(Op::Put, first_seq, timestamp_ms, &key, &value).hash();
        let (mut subtrees, mut high_subtrees) = (Vec::new(), Vec::new());
        let mut tree = Growth::from_frontier(&frontier);
        tree.append(leaf, |level, root| match level {
            1 => subtrees.push(root.0),
            2 => high_subtrees.push(root.0),
            _ => {}
        });
        let id = SegmentId(summary.id().0 + 1);
        let head = SegmentHead {
            id,
            first_seq,
            feature_level: settings.feature_level,
            segment_bytes: settings.segment_bytes,
        };
        let path = self.segments().join(file_name(id));
        let mut writer = SegmentWriter::create(self.env.io.clone(), &path, head)?;
        let record = RecordRef {
            seq: first_seq,
            op: Op::Put,
            timestamp_ms,
            key: &key,
            value: &value,
            value_commitment: None,
        };
        writer.push(&record, &leaf.0)?;
        writer.finish(FinishInfo {
            first_log: at,
            last_log: at,
            frontier_before: &frontier.encode(),
            root_after: tree.root().0,
            subtrees: &subtrees,
            high_subtrees: &high_subtrees,
            idempotency: &[],
            boundary: &boundary.encode()?,
        })?;
        Ok(())
    }

    /// Begins a log behind the link, with a vote of its term.
    async fn begin_log(&self, options: WalOptions, at: LogId, vote: bytes::Bytes) -> Result<()> {
        let dir = self.data_dir.join("wal");
        let failed = |e| Error::io(format!("beginning a log in {}", dir.display()), &e);
        self.env.io.create_dir_all(&dir).map_err(failed)?;
        remove_files(&*self.env.io, &dir).map_err(failed)?;
        let wal = Wal::open(&self.env, &dir, options)?;
        let (done, durable) = oneshot::channel();
        wal.save_vote(vote, Box::new(drop)).map_err(failed)?;
        wal.restart_behind(at, Box::new(move |result| drop(done.send(result)))).map_err(failed)?;
        let durable =
            durable.await.unwrap_or_else(|_| Err(std::io::Error::other("the log's writer is gone")));
        durable.map_err(failed)?;
        wal.close().map_err(failed)
    }
}

impl Restore {
    /// Puts the segments of a copy in place that are not there yet, each block checked on the way. All of them are to be
    /// verified where they are then.
    ///
    /// # Errors
    /// [`Code::Corrupt`] with the first file of the copy that is damaged; [`Code::Io`], [`Code::DiskFull`].
    pub fn copy(&self, copy: &verify::Plan) -> Result<()> {
        for number in 0..copy.segments() {
            let original = copy.segment(number)?;
            let (id, digest) = (original.summary().id(), original.summary().digest);
            if self.in_place(id)?.is_none_or(|there| there.summary().digest != digest) {
                self.put(id, &original)?;
            }
        }
        Ok(())
    }

    /// A segment that an earlier try has put in place; none where its ends are damaged.
    fn in_place(&self, id: SegmentId) -> Result<Option<Segment>> {
        let path = self.segments().join(file_name(id));
        match self.env.io.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("opening {}", path.display()), &error)),
            Ok(_) => {}
        }
        match Segment::open(&*self.env.io, &path, self.cache.clone()) {
            Err(error) if error.code() == Code::Corrupt => {
                tracing::warn!(%error, "what was in place is damaged: it is written again");
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// Writes a segment's file.
    fn put(&self, id: SegmentId, segment: &Segment) -> Result<()> {
        let (dir, io) = (self.segments(), &*self.env.io);
        let (partial, path) = (dir.join(partial_name(id)), dir.join(file_name(id)));
        remove(io, &partial)?;
        let failed = |e| Error::io(format!("writing {}", path.display()), &e);
        let file = io.open(&partial, OpenMode::Buffered).map_err(failed)?;
        // The new file has this name for good before it gets the final one.
        io.sync_dir(&dir).map_err(failed)?;
        unpack(segment, file)?;
        let written = Segment::open(io, &partial, self.cache.clone())?;
        if written.summary().digest != segment.summary().digest {
            return Err(Error::new(Code::Internal, format!("{} became another segment", path.display())));
        }
        io.rename(&partial, &path).map_err(failed)?;
        // From here on it is in place; after the next line, also behind a crash.
        io.sync_dir(&dir).map_err(failed)
    }
}

impl Keeper for Restore {
    fn at_hand(&self, entry: &Entry) -> Result<Option<Segment>> {
        self.in_place(entry.object.segment)
    }

    fn keep(&self, entry: &Entry, segment: &Segment) -> Result<()> {
        if segment.summary().digest != entry.digest {
            return Err(Error::new(Code::Internal, "another segment was verified than is kept"));
        }
        self.put(entry.object.segment, segment)
    }
}

fn read(env: &Env, data_dir: &Path) -> Result<Plan> {
    let path = data_dir.join(FILE);
    let reading = |e| Error::io(format!("reading {}", path.display()), &e);
    let file = env.io.open(&path, OpenMode::Read).map_err(reading)?;
    let mut bytes = vec![0; file.len().map_err(reading)?.min(FILE_BYTES_MAX) as usize];
    file.read_at(&mut bytes, 0).map_err(reading)?;
    Plan::decode(&bytes).ok_or_else(|| {
        let what = format!("{} is damaged: empty the directory, and restore into it anew", path.display());
        Error::new(Code::Corrupt, what)
    })
}

fn write(env: &Env, data_dir: &Path, plan: &Plan) -> Result<()> {
    let (path, draft) = (data_dir.join(FILE), data_dir.join(DRAFT));
    remove(&*env.io, &draft)?;
    let write = || {
        let file = env.io.open(&draft, OpenMode::Buffered)?;
        env.io.sync_dir(data_dir)?;
        file.write_at(&plan.encode(), 0)?;
        file.sync()?;
        env.io.rename(&draft, &path)?;
        env.io.sync_dir(data_dir)
    };
    write().map_err(|e| Error::io(format!("writing {}", path.display()), &e))
}

fn end(env: &Env, data_dir: &Path) -> Result<()> {
    let path = data_dir.join(FILE);
    remove(&*env.io, &path)?;
    env.io.sync_dir(data_dir).map_err(|e| Error::io(format!("removing {}", path.display()), &e))
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_back_and_any_flip_is_damage() {
        let plan = Plan {
            from: "archive".into(),
            epoch: 2,
            cluster: "ab".repeat(16),
            node_id: 1,
            incarnation: u64::MAX,
        };
        let bytes = plan.encode();
        assert_eq!(Plan::decode(&bytes), Some(plan));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(Plan::decode(&flipped), None, "byte {at}");
            assert_eq!(Plan::decode(&bytes[..at]), None);
        }
    }
}
