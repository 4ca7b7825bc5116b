//! The Merkle tree over all records, as far as it is proven.
//!
//! ```text
//!                           sealed                          │ not sealed yet (`Edge`)
//! leaf hashes               in segments                     │ in memory
//! subtrees of 256           in segments                     │ in memory
//! subtrees of 65,536        in memory: 512 bytes for every million records
//! any other hash            from at most 256 of the next level below
//! ```
//!
//! Takes leaf hashes in order ([`Tree::extend`]), gives tiles, and through them roots and proofs of any size it has
//! had. It does not own records, segments, nor when it may be signed for (`pipeline::prove`).

mod edge;
mod signed;
mod witness;

use std::sync::Arc;

use parking_lot::RwLock;

use self::edge::Edge;
pub use self::{
    edge::ValueCommitment,
    signed::{Checkpoints, ShowCheckpoint, Signed},
    witness::{Witness, Witnessed},
};
use crate::{
    error::{Code, Error, Result},
    proof::{
        Hash, ProofError,
        frontier::{Frontier, complete_root},
        growth::Growth,
        tile::{TILE_WIDTH, Tile},
        tiled::{TileSource, TiledTree},
        tree::{frontier, root},
    },
    sealed::Sealed,
    segment::SUBTREE_LEAVES,
    types::Seq,
};

/// See the head of this module.
#[derive(Debug)]
pub struct Tree {
    sealed: Arc<Sealed>,
    edge: RwLock<Edge>,
}

/// What a segment keeps of the tree.
#[derive(Clone, Debug)]
pub struct SegmentTree {
    /// The leaf hashes of its records.
    pub leaves: Vec<Hash>,
    /// The frontier before its first record.
    pub frontier_before: Frontier,
    /// The root after its last.
    pub root_after: Hash,
    /// Roots of the subtrees of 256 leaves that end in it.
    pub subtrees: Vec<Hash>,
    /// Roots of the subtrees of 65,536 leaves that end in it.
    pub high_subtrees: Vec<Hash>,
}

impl Tree {
    /// The tree of what is sealed.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when the segments' hashes do not make the root that the newest of them names.
    pub fn open(sealed: Arc<Sealed>) -> Result<Self> {
        let segments = sealed.segments();
        let high =
            segments.iter().flat_map(|segment| &segment.summary().high_subtrees).map(|root| Hash(*root));
        let edge = Edge::new(sealed.end_seq(), Growth::default(), high.collect());
        let tree = Self { sealed, edge: RwLock::new(edge) };
        if let Some(newest) = segments.last().map(|segment| segment.summary()) {
            let size = newest.end_seq.0;
            let frontier = frontier(&TiledTree::new(&tree, size), size)?;
            if frontier.root().0 != newest.root_after {
                return Err(Error::new(
                    Code::Corrupt,
                    format!(
                        "the leaf hashes of the segments in {} do not make the root of the newest: one of them is \
                         another ledger's; run `scribe verify` on the directory",
                        tree.sealed.dir().display()
                    ),
                ));
            }
            tree.edge.write().growth = Growth::from_frontier(&frontier);
        }
        Ok(tree)
    }

    /// How many records it covers: the position `proven`.
    #[must_use]
    pub fn size(&self) -> Seq {
        Seq(self.edge.read().growth.size())
    }

    /// Its size and root, of one moment.
    #[must_use]
    pub fn head(&self) -> (Seq, Hash) {
        let edge = self.edge.read();
        (Seq(edge.growth.size()), edge.growth.root())
    }

    /// Adds the leaf hashes of the next records, and the commitments of those of their values that are over
    /// [4 KiB](crate::segment::COMMITMENT_BYTES_MIN).
    pub fn extend(&self, leaves: &[Hash], commitments: Vec<ValueCommitment>) {
        self.edge.write().extend(leaves, commitments);
    }

    /// What the segment of the records from `first` to before `end`, which are proven and not sealed, keeps.
    ///
    /// # Errors
    /// As [`Tree::root_at`].
    pub fn of_segment(&self, first: Seq, end: Seq) -> Result<SegmentTree> {
        let frontier_before = frontier(&TiledTree::new(self, first.0), first.0)?;
        let root_after = self.root_at(end)?;
        let edge = self.edge.read();
        Ok(SegmentTree {
            leaves: edge.leaves(first, end),
            frontier_before,
            root_after,
            subtrees: edge.subtrees_ending(first, end),
            high_subtrees: edge.high_subtrees_ending(first, end),
        })
    }

    /// The commitments of large values from `first` to before `end`, which are proven and not sealed.
    #[must_use]
    pub fn commitments(&self, first: Seq, end: Seq) -> Vec<ValueCommitment> {
        self.edge.read().commitments(first, end)
    }

    /// Forgets what segments have: everything before `end`.
    pub fn release(&self, end: Seq) {
        self.edge.write().release(end);
    }

    /// The root of the tree of the first `size` records.
    ///
    /// # Errors
    /// [`Code::Malformed`] when it has never had that size; [`Code::Io`], [`Code::Corrupt`] of a segment.
    pub fn root_at(&self, size: Seq) -> Result<Hash> {
        self.check_size(size)?;
        root(&self.at(size), size.0)
    }

    /// The tree as it was at a size, for proofs.
    #[must_use]
    pub fn at(&self, size: Seq) -> TiledTree<&Self> {
        TiledTree::new(self, size.0)
    }

    fn check_size(&self, size: Seq) -> Result<()> {
        let proven = self.size();
        if size <= proven {
            return Ok(());
        }
        Err(Error::new(
            Code::Malformed,
            format!("the tree has {proven} leaves, not {size}: ask for less, or later"),
        ))
    }

    fn leaf_tile(&self, from: u64, to: u64) -> Result<Vec<Hash>> {
        let mut hashes = Vec::with_capacity((to - from) as usize);
        let mut at = from;
        while at < to {
            let edge = self.edge.read();
            if at >= edge.first_leaf() {
                hashes.extend(edge.leaves(Seq(at), Seq(to)));
                break;
            }
            drop(edge);
            let segment = self.sealed.segment_of(Seq(at)).ok_or_else(|| self.missing())?;
            let end = segment.summary().end_seq.0.min(to);
            hashes.extend(split(&segment.leaf_hashes(Seq(at)..Seq(end))?));
            at = end;
        }
        Ok(hashes)
    }

    fn subtree_tile(&self, from: u64, to: u64) -> Result<Vec<Hash>> {
        let mut hashes = Vec::with_capacity((to - from) as usize);
        let mut at = from;
        while at < to {
            let edge = self.edge.read();
            if at >= edge.first_subtree() {
                hashes.extend(edge.subtrees(at, to));
                break;
            }
            drop(edge);
            // A subtree is in the segment that its last leaf is in.
            let segment =
                self.sealed.segment_of(Seq((at + 1) * SUBTREE_LEAVES - 1)).ok_or_else(|| self.missing())?;
            let (first, end) = (segment.summary().head.first_seq.0, segment.summary().end_seq.0);
            let (first, end) = (first / SUBTREE_LEAVES, (end / SUBTREE_LEAVES).min(to));
            let here = split(&segment.subtrees()?);
            hashes.extend_from_slice(&here[(at - first) as usize..(end - first) as usize]);
            at = end;
        }
        Ok(hashes)
    }

    fn missing(&self) -> Error {
        Error::new(
            Code::Internal,
            format!("the tree is ahead of the segments in {}", self.sealed.dir().display()),
        )
    }
}

fn split(hashes: &[u8]) -> Vec<Hash> {
    hashes.as_chunks().0.iter().copied().map(Hash).collect()
}

impl TileSource for Tree {
    type Error = Error;

    fn tile(&self, tile: Tile) -> Result<Vec<Hash>> {
        let from = tile.index() * u64::from(TILE_WIDTH);
        let to = from + u64::from(tile.width());
        match tile.level() {
            0 => self.leaf_tile(from, to),
            1 => self.subtree_tile(from, to),
            level => {
                let edge = self.edge.read();
                let width = 1usize << (8 * (u32::from(level) - 2));
                let high = edge.high.get(from as usize * width..to as usize * width);
                let high =
                    high.ok_or_else(|| ProofError::OutOfRange(format!("tile {tile} is not in the tree")))?;
                Ok(high.chunks_exact(width).map(complete_root).collect())
            }
        }
    }
}
