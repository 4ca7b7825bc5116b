//! Verifying files: first how the segments fit together, then every record of each.
//!
//! Takes a directory, gives a [`Report`] or the first thing that is wrong: of the files and their ends, in
//! order; then of what is in them, in order. A segment can be verified alone once the frontier before it is
//! believed, so that threads share the segments; memory is a segment's keys for each thread, however large the
//! ledger is.
//!
//! A ledger that was cut short at the end of a segment looks whole from inside. Only a checkpoint shows that
//! something is missing: [`Note`]. And one that covers more than is sealed shows nothing yet: its records may be in
//! the log, or sealed since a copy was made. The report says so, and what is there is verified all the same.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    chain::Chain,
    in_turn,
    links::{self, Links},
    listing::{Listing, WalFiles},
    roots::Roots,
};
use crate::{
    env::Io,
    error::{Code, Error, Result},
    proof::{Hash, ProofError, checkpoint::Checkpoint, key::VerifierKey, link::Link, note},
    segment::{BlockCache, Segment},
    types::{LogId, Seq, TimestampMs},
};

/// Verifying goes around the cache; opening a segment needs one all the same.
pub(super) const CACHE_BYTES: u64 = 1 << 20;

/// Records between two looks at how far it is.
pub(super) const TICK_RECORDS: u64 = 4_096;

/// A signed checkpoint that the records have to agree with.
#[derive(Clone, Debug)]
pub struct Note {
    name: String,
    pub(super) checkpoint: Checkpoint,
    signers: Vec<String>,
    /// An archive's, of which a newer one covers the same records: a report counts it.
    pub(super) is_earlier: bool,
}

impl Note {
    /// Reads a note and checks its signature. `name` is what a report calls it.
    ///
    /// # Errors
    /// [`ProofError`] when it is no checkpoint, or none that one of the keys has signed.
    pub fn read(name: &str, bytes: &[u8], keys: &[VerifierKey]) -> Result<Self, ProofError> {
        let (checkpoint, signers) = Checkpoint::open(&note::Note::parse(bytes)?, keys)?;
        let signers = signers.iter().map(|key| format!("{}+{}", key.name(), key.id())).collect();
        Ok(Self { name: name.to_owned(), checkpoint, signers, is_earlier: false })
    }

    /// The same, as one of an archive that a newer one covers.
    pub(super) fn into_earlier(self) -> Self {
        Self { is_earlier: true, ..self }
    }

    /// What a report says of it.
    pub(super) fn told(&self) -> CheckedNote {
        CheckedNote {
            name: self.name.clone(),
            origin: self.checkpoint.origin().to_owned(),
            size: self.checkpoint.size(),
            signers: self.signers.clone(),
        }
    }

    /// The log that it is of.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.checkpoint.origin()
    }

    /// Checks it against the root of that many records.
    pub(super) fn check(&self, root: Option<&Hash>) -> Result<CheckedNote> {
        let size = self.checkpoint.size();
        match root {
            Some(root) if root == self.checkpoint.root() => Ok(self.told()),
            root => {
                let (name, signed) = (&self.name, self.checkpoint.root());
                let root = root.map_or("none".to_owned(), Hash::to_string);
                let what = format!(
                    "the checkpoint in {name} was signed for other records: its root of {size} records is {signed}, \
                     that of these is {root}"
                );
                Err(Error::new(Code::Corrupt, what))
            }
        }
    }
}

/// A signed checkpoint, and what a report says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedNote {
    /// What it was called.
    pub name: String,
    /// The log it is of.
    pub origin: String,
    /// How many records it covers.
    pub size: u64,
    /// The known keys that signed it, `name+id`.
    pub signers: Vec<String>,
}

/// How far a walk is; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    records: AtomicU64,
}

impl Progress {
    /// Records verified so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Relaxed)
    }

    pub(super) fn add(&self, records: u64) {
        self.records.fetch_add(records, Relaxed);
    }

    /// Records that turned out to be of no use.
    pub(super) fn take_back(&self, records: u64) {
        self.records.fetch_sub(records, Relaxed);
    }
}

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Records: positions 0 to before this.
    pub records: Seq,
    /// Segments.
    pub segments: u64,
    /// Those of them whose records are in the archive alone: their leaf hashes were verified, and nothing else of them.
    pub cold: Vec<u64>,
    /// Root of the tree of all of them.
    pub root: Hash,
    /// The last entry of the log that is sealed; none without segments.
    pub last_log: Option<LogId>,
    /// Time of the last record, milliseconds since 1970; 0 without records.
    pub last_timestamp_ms: TimestampMs,
    /// Bytes of keys and values.
    pub raw_bytes: u64,
    /// Bytes of the segments' files.
    pub file_bytes: u64,
    /// Checkpoints that agree with the records.
    pub checkpoints: Vec<CheckedNote>,
    /// How many earlier ones of an archive agree, too.
    pub earlier_checkpoints: u64,
    /// How many further ones an archive has, older than those, which were not looked at.
    pub checkpoints_left_out: u64,
    /// Checkpoints that cover more records than are here: nothing can be told of them yet.
    pub ahead: Vec<CheckedNote>,
    /// Segments that are not whole: no part of the ledger.
    pub unfinished: Vec<String>,
    /// Names that mean nothing among segments.
    pub stray: Vec<String>,
    /// The write-ahead log beside them, which was not looked into; none in a directory of segments alone.
    pub wal: Option<WalFiles>,
    /// The epoch of an archive that this is of; none of files.
    pub epoch: Option<u32>,
    /// Why an archive may hold more than its manifest tells, where something says so.
    pub open_end: Option<String>,
    /// What earlier epochs of an archive hold that this one does not go on from.
    pub left_behind: Vec<LeftBehind>,
    /// What is damaged in earlier epochs of an archive, and not needed to read this one.
    pub damaged_earlier: Vec<String>,
}

/// Records of an earlier epoch that a later one does not go on from: whoever restored had not seen them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// The earlier one.
    pub epoch: u32,
    /// The first of them.
    pub from: Seq,
    /// One past the last.
    pub end: Seq,
}

/// A segment whose ends have been read.
#[derive(Clone, Copy, Debug)]
struct Part {
    end_seq: Seq,
    root_after: Hash,
    digest: [u8; 32],
    is_cold: bool,
}

/// Segments that fit together, and whose records are to be verified.
pub struct Plan {
    io: Arc<dyn Io>,
    listing: Listing,
    cache: Arc<BlockCache>,
    parts: Vec<Part>,
    chain: Chain,
    raw_bytes: u64,
    file_bytes: u64,
    boundary: Vec<u8>,
}

impl Plan {
    /// Lists a directory, reads both ends of every segment and checks that each continues the one before it.
    ///
    /// # Errors
    /// [`Code::Malformed`] when the directory holds no ledger; [`Code::Corrupt`] with the first file that is
    /// missing, damaged or out of place; [`Code::Io`].
    pub fn open(io: Arc<dyn Io>, dir: &Path) -> Result<Self> {
        let listing = Listing::of(&*io, dir)?;
        let cache = Arc::new(BlockCache::new(CACHE_BYTES));
        let (parts, chain, boundary) = (Vec::new(), Chain::new(), Vec::new());
        let mut plan = Self { io, listing, cache, parts, chain, raw_bytes: 0, file_bytes: 0, boundary };
        for number in 0..plan.listing.segments {
            let segment = plan.segment(number)?;
            let summary = segment.summary();
            plan.chain.follow(summary, &plan.listing.path(number))?;
            // Not believed until its records have been counted, and no reason to panic.
            plan.raw_bytes = plan.raw_bytes.saturating_add(summary.raw_bytes);
            plan.file_bytes += summary.file_bytes;
            let (end_seq, root_after) = (summary.end_seq, Hash(summary.root_after));
            plan.boundary.clone_from(&summary.boundary);
            let (digest, is_cold) = (summary.digest, segment.stub().is_some());
            plan.parts.push(Part { end_seq, root_after, digest, is_cold });
        }
        Ok(plan)
    }

    /// How many records there are to verify.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.chain.end_seq.0
    }

    /// A checkpoint that lies beside the segments.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&Path> {
        self.listing.checkpoint.as_deref()
    }

    /// The root of the tree of all of them, as the newest segment has it.
    #[must_use]
    pub const fn root(&self) -> &Hash {
        &self.chain.root
    }

    /// How many segments there are.
    #[must_use]
    pub const fn segments(&self) -> u64 {
        self.listing.segments
    }

    /// What there is, by names.
    #[must_use]
    pub const fn listing(&self) -> &Listing {
        &self.listing
    }

    /// The newest link to an epoch before, if there is one. Nothing is proven of it before all is verified.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when a link does not fit the tree before it, or a segment is damaged; [`Code::Io`].
    pub fn newest_link(&self) -> Result<Option<Link>> {
        for number in (0..self.segments()).rev() {
            let links = links::within(&self.segment(number)?, &self.listing.path(number))?;
            if let Some((_, link)) = links.into_iter().next_back() {
                return Ok(Some(link));
            }
        }
        Ok(None)
    }

    /// The state that the newest segment ends with, as whoever wrote it encoded it; empty without segments. Nothing in
    /// it is proven: it is what the directory says.
    #[must_use]
    pub fn boundary(&self) -> &[u8] {
        &self.boundary
    }

    /// Verifies every record on `threads` threads, this one among them, and that every note agrees that covers no more
    /// than these.
    ///
    /// # Errors
    /// [`Code::Corrupt`] with the first file that is damaged, and where, or the first note that does not agree;
    /// [`Code::Io`].
    pub fn verify(&self, notes: &[Note], threads: usize, progress: &Progress) -> Result<Report> {
        let (notes, ahead): (Vec<&Note>, Vec<&Note>) =
            notes.iter().partition(|note| note.checkpoint.size() <= self.records());
        let sizes: Vec<u64> = notes.iter().map(|note| note.checkpoint.size()).collect();
        let (mut roots, mut links) = (BTreeMap::new(), Links::new());
        let verify = |number| self.verify_segment(number, &sizes, progress);
        in_turn::all(self.segments(), threads, verify, |_, (in_it, its_links)| {
            roots.extend(in_it);
            links.extend(its_links);
            Ok(())
        })?;
        links::check_order(&links, &notes, None)?;
        let checkpoints = notes
            .iter()
            .map(|note| note.check(self.known_root(note.checkpoint.size(), &roots)))
            .collect::<Result<_>>()?;
        let Chain { segments, end_seq, root, last_log, last_timestamp_ms } = self.chain.clone();
        let Listing { unfinished, stray, wal, .. } = self.listing.clone();
        let cold =
            self.parts.iter().zip(0..).filter(|(part, _)| part.is_cold).map(|(_, number)| number).collect();
        Ok(Report {
            records: end_seq,
            segments,
            cold,
            root,
            last_log,
            last_timestamp_ms,
            raw_bytes: self.raw_bytes,
            file_bytes: self.file_bytes,
            checkpoints,
            ahead: ahead.into_iter().map(Note::told).collect(),
            unfinished,
            stray,
            wal,
            epoch: None,
            earlier_checkpoints: 0,
            checkpoints_left_out: 0,
            open_end: None,
            left_behind: Vec::new(),
            damaged_earlier: Vec::new(),
        })
    }

    fn known_root<'a>(&'a self, size: u64, roots: &'a BTreeMap<u64, Hash>) -> Option<&'a Hash> {
        let at_an_end = || self.parts.iter().find(|part| part.end_seq.0 == size).map(|part| &part.root_after);
        if size == 0 { Some(&Hash::EMPTY_ROOT) } else { roots.get(&size).or_else(at_an_end) }
    }

    /// Verifies a segment; the roots that checkpoints need, and its links.
    fn verify_segment(
        &self,
        number: u64,
        sizes: &[u64],
        progress: &Progress,
    ) -> Result<(Vec<(u64, Hash)>, Links)> {
        let segment = self.segment(number)?;
        let summary = segment.summary();
        if self.parts.get(number as usize).is_none_or(|part| part.digest != summary.digest) {
            let path = self.listing.path(number);
            let what = format!("{} changed while it was verified: sealed segments never do", path.display());
            return Err(Error::new(Code::Corrupt, what));
        }
        let mut roots = Roots::new(&summary.frontier_before, summary.end_seq.0, sizes);
        let mut untold = 0;
        segment.verify(|leaf_hash| {
            roots.leaf(leaf_hash);
            untold += 1;
            if untold == TICK_RECORDS {
                progress.add(untold);
                untold = 0;
            }
        })?;
        progress.add(untold);
        Ok((roots.found(), links::within(&segment, &self.listing.path(number))?))
    }

    /// Opens a segment.
    ///
    /// # Errors
    /// As [`Segment::open_in`].
    pub fn segment(&self, number: u64) -> Result<Segment> {
        self.listing.open(&*self.io, number, Arc::clone(&self.cache))
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("listing", &self.listing).finish_non_exhaustive()
    }
}
