//! What a node gives to whoever checks it: checkpoints, tiles, proofs and receipts.
//!
//! Takes positions and sizes, gives what [`crate::proof`] verifies. All of it is about records that are proven, and
//! what is proven never changes: nothing here needs a fresh read. It does not own the tree, nor when a checkpoint is
//! signed (`pipeline::prove`). Everything but [`Proofs::checkpoint`] may read the disk.

use std::{ops::Range, sync::Arc, time::Duration};

use crate::{
    archive::Progress,
    env::{File, OpenMode},
    error::{Code, Error, Result},
    proof::{
        Hash,
        bundle::push_entry,
        checkpoint::Checkpoint,
        consistency::consistency_proof,
        inclusion::{inclusion_proof, verify_inclusion},
        key::{Signer, VerifierKey},
        leaf::Leaf,
        note::Note,
        receipt::Receipt,
        tile::{TILE_WIDTH, Tile, encode_tile},
        tiled::TileSource,
    },
    sealed::Segments,
    segment::{Segment, file_name},
    state::State,
    tree::{Checkpoints, Signed, Tree},
    types::{Op, Record, SegmentId, Seq},
};

/// See the head of this file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proofs {
    state: Arc<State>,
    tree: Arc<Tree>,
    checkpoints: Checkpoints,
    /// What this member signs with; none in an embedded ledger.
    signer: Option<Signer>,
    archive: Arc<Progress>,
}

/// That a leaf is in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// The leaf; its seq is its index.
    pub leaf: Leaf,
    /// Leaves of the tree.
    pub tree_size: Seq,
    /// The tree's root.
    pub root: Hash,
    /// The proof, the leaf's sibling first.
    pub siblings: Vec<Hash>,
}

/// That a tree is an earlier one with leaves appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    /// Root of the earlier tree.
    pub from_root: Hash,
    /// Root of the later one.
    pub to_root: Hash,
    /// The proof.
    pub hashes: Vec<Hash>,
}

impl Proofs {
    /// Proofs of what `state` holds and `tree` commits to, under checkpoints that this member signs with `signer`.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        tree: Arc<Tree>,
        checkpoints: Checkpoints,
        signer: Option<Signer>,
        archive: Arc<Progress>,
    ) -> Self {
        Self { state, tree, checkpoints, signer, archive }
    }

    /// The log's name, under which its members sign.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.signer.as_ref().map(Signer::name)
    }

    /// The keys that sign this log's checkpoints, or have: those of all members, the same on each of them.
    #[must_use]
    pub fn keys(&self) -> Vec<VerifierKey> {
        let signers = self.state.signers();
        // This member's may be on its way into the log; or the ledger's feature level has none there.
        let own_key = self.signer.as_ref().map(Signer::verifier_key);
        let all = signers.iter().map(|signer| &signer.key).chain(own_key);
        let mut keys: Vec<VerifierKey> = Vec::new();
        for key in all {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// One past the newest segment that a quorum of several members is known to hold alike.
    #[must_use]
    pub fn attested_end(&self) -> SegmentId {
        self.state.unattested().start
    }

    /// One past the newest segment that is archived, by what the log says.
    #[must_use]
    pub fn archived_end(&self) -> SegmentId {
        SegmentId(self.state.archived().end)
    }

    /// What is known of the archive's objects.
    #[must_use]
    pub fn archive(&self) -> &Progress {
        &self.archive
    }

    /// All segments, in order.
    #[must_use]
    pub fn segments(&self) -> Segments {
        self.state.sealed().segments()
    }

    /// A segment.
    ///
    /// # Errors
    /// [`Code::NotFound`] when it is not sealed here.
    pub fn segment(&self, id: SegmentId) -> Result<Arc<Segment>> {
        let at = usize::try_from(id.0).ok();
        let segment = at.and_then(|at| self.segments().get(at).cloned());
        segment.ok_or_else(|| Error::new(Code::NotFound, format!("segment {id} is not sealed on this node")))
    }

    /// A segment's file as it lies on this member's disk, not looked into: the same bytes on every member.
    ///
    /// # Errors
    /// As [`Proofs::segment`], [`Code::Io`], and [`Code::Unavailable`] for one whose records have left for the archive.
    pub fn segment_file(&self, id: SegmentId) -> Result<Arc<dyn File>> {
        if self.segment(id)?.stub().is_some() {
            let why = format!(
                "the records of segment {id} have left this node for its archive: take them from there, or from another \
                 member"
            );
            return Err(Error::new(Code::Unavailable, why));
        }
        let path = self.state.sealed().dir().join(file_name(id));
        let file = self.state.sealed().io().open(&path, OpenMode::Read);
        file.map_err(|error| Error::io(format!("opening {}", path.display()), &error))
    }

    /// A checkpoint of all that is in segments up to this one, signed by this member: what is sealed is covered by the
    /// newest checkpoint, and hardly ever ends where that does.
    ///
    /// # Errors
    /// [`Code::NotFound`] when the segment is not sealed here, or nobody signs for this ledger; [`Code::Io`];
    /// [`Code::Corrupt`] when segment and tree contradict each other.
    pub fn checkpoint_behind(&self, id: SegmentId) -> Result<String> {
        let segment = self.segment(id)?;
        let Some(signer) = &self.signer else {
            return Err(Error::new(Code::NotFound, "nobody signs checkpoints of this ledger"));
        };
        let (size, root) = (segment.summary().end_seq, Hash(segment.summary().root_after));
        if self.tree.root_at(size)? != root {
            let what = format!("segment {id} ends with another root than the tree of {size} records has");
            return Err(Error::new(Code::Corrupt, what));
        }
        Ok(Checkpoint::new(signer.name(), size.0, root)?.sign(signer)?.to_string())
    }

    /// How many records are proven.
    #[must_use]
    pub fn size(&self) -> Seq {
        self.tree.size()
    }

    /// The newest checkpoint; none if nothing was signed yet.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Arc<Signed>> {
        self.checkpoints.borrow().clone()
    }

    /// The newest checkpoint as soon as it covers `size` records; `None` when it does not within `patience`.
    pub async fn covering(&self, size: Seq, patience: Duration) -> Option<Arc<Signed>> {
        let mut checkpoints = self.checkpoints.clone();
        let covers = |signed: &Option<Arc<Signed>>| signed.as_ref().is_some_and(|signed| signed.size >= size);
        let newest = tokio::time::timeout(patience, checkpoints.wait_for(covers)).await;
        // Without a sender the node is stopping: nothing will be signed any more.
        newest.ok()?.ok()?.clone()
    }

    /// That record `seq` is in the tree of the first `size`, checked before it is given out.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a record that is not there; [`Code::Malformed`] when it, or the size, is beyond the
    /// tree; [`Code::Io`]; [`Code::Corrupt`] when record and tree contradict each other.
    pub fn inclusion(&self, seq: Seq, size: Seq) -> Result<Inclusion> {
        let leaf = self.leaf(seq)?;
        let root = self.tree.root_at(size)?;
        let siblings = inclusion_proof(&self.tree.at(size), seq.0, size.0)?;
        verify_inclusion(&leaf.hash(), seq.0, size.0, &siblings, &root)?;
        Ok(Inclusion { leaf, tree_size: size, root, siblings })
    }

    /// That the first `to` records begin with the first `from`.
    ///
    /// # Errors
    /// [`Code::Malformed`] unless `from` is at most `to` and the tree has that many; [`Code::Io`],
    /// [`Code::Corrupt`].
    pub fn consistency(&self, from: Seq, to: Seq) -> Result<Consistency> {
        let (from_root, to_root) = (self.tree.root_at(from)?, self.tree.root_at(to)?);
        let hashes = consistency_proof(&self.tree.at(to), from.0, to.0)?;
        Ok(Consistency { from_root, to_root, hashes })
    }

    /// The receipt of a record under a checkpoint that covers it.
    ///
    /// # Errors
    /// As [`Proofs::inclusion`].
    pub fn receipt(&self, seq: Seq, checkpoint: &Signed) -> Result<Receipt> {
        let Inclusion { leaf, siblings, .. } = self.inclusion(seq, checkpoint.size)?;
        let checkpoint = Note::parse(checkpoint.note.as_bytes())?;
        Ok(Receipt { leaf: leaf.encode(), index: seq.0, hashes: siblings, checkpoint })
    }

    /// The bytes of a tile that is in the tree.
    ///
    /// # Errors
    /// [`Code::NotFound`] when it is not; [`Code::Io`], [`Code::Corrupt`].
    pub fn tile(&self, tile: Tile) -> Result<Vec<u8>> {
        self.check_tile(tile)?;
        Ok(encode_tile(&self.tree.tile(tile)?))
    }

    /// The leaves beside a tile of level 0 that is in the tree.
    ///
    /// # Errors
    /// As [`Proofs::tile`].
    pub fn entries(&self, tile: Tile) -> Result<Vec<u8>> {
        self.check_tile(tile)?;
        let first = tile.index() * u64::from(TILE_WIDTH);
        let mut bundle = Vec::new();
        for leaf in self.leaves(Seq(first)..Seq(first + u64::from(tile.width())))? {
            push_entry(&mut bundle, &leaf.encode())?;
        }
        Ok(bundle)
    }

    fn check_tile(&self, tile: Tile) -> Result<()> {
        let size = self.size();
        if tile.is_in_tree(size.0) {
            return Ok(());
        }
        Err(Error::new(Code::NotFound, format!("tile {tile} is not in the tree of {size} leaves")))
    }

    fn leaf(&self, seq: Seq) -> Result<Leaf> {
        let leaf = self.leaves(seq..seq.plus(1))?.pop();
        leaf.ok_or_else(|| Error::new(Code::NotFound, format!("there is no record {seq}")))
    }

    /// The leaves of a range that is applied.
    fn leaves(&self, range: Range<Seq>) -> Result<Vec<Leaf>> {
        let mut leaves = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let span = self.state.span(at, (range.end.0 - at.0) as usize);
            if span.is_empty() {
                let Some(segment) = self.state.sealed().segment_of(at) else { break };
                let end = segment.summary().end_seq.min(range.end);
                for stored in segment.records(at..end) {
                    let stored = stored?;
                    leaves.push(leaf_of(&stored.record, stored.value_commitment.map(Hash)));
                }
                at = end;
            } else {
                leaves.extend(
                    span.iter()
                        .map(|(seq, timestamp_ms, op)| Leaf::of(op.op, seq, timestamp_ms, op.key, op.value)),
                );
                at = at.plus(span.len() as u64);
            }
        }
        Ok(leaves)
    }
}

/// The leaf of a record, whose value need not be hashed if its commitment is known.
fn leaf_of(record: &Record, value_commit: Option<Hash>) -> Leaf {
    let Record { seq, op, timestamp_ms, key, value } = record;
    match value_commit.filter(|_| *op == Op::Put) {
        None => Leaf::of(*op, *seq, *timestamp_ms, key, value),
        Some(value_commit) => Leaf { value_commit, ..Leaf::of(*op, *seq, *timestamp_ms, key, b"") },
    }
}
