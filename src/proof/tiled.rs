//! A tree over its tiles: any hash of the tree from the few tiles that hold or imply it.
//!
//! This is how a proof is built from what a node stores, and how a client builds one from what it fetches
//! (which needs no trust: a proof that leads to a signed root vouches for the tiles it came from). It does not
//! own the tiles.

use std::{cell::RefCell, collections::BTreeMap};

use super::{
    error::ProofError,
    frontier::complete_root,
    hash::Hash,
    tile::{TILE_HEIGHT, TILE_WIDTH, Tile},
    tree::HashSource,
};

/// Where tiles come from.
pub trait TileSource {
    /// Why a tile could not be had.
    type Error: From<ProofError>;

    /// The hashes of a tile, exactly as many as it is wide.
    ///
    /// # Errors
    /// When the tile is not there, or cannot be read.
    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, Self::Error>;
}

impl<S: TileSource> TileSource for &S {
    type Error = S::Error;

    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, S::Error> {
        (**self).tile(tile)
    }
}

/// The hashes of a tree of a given size, out of tiles.
///
/// It remembers every tile it asked for, so that a proof of 40 hashes costs a handful of tiles; make one for
/// each proof.
pub struct TiledTree<S> {
    source: S,
    size: u64,
    tiles: RefCell<BTreeMap<Tile, Vec<Hash>>>,
}

impl<S: TileSource> TiledTree<S> {
    /// The tree of the first `size` leaves.
    pub fn new(source: S, size: u64) -> Self {
        Self { source, size, tiles: RefCell::default() }
    }
}

impl<S: TileSource> HashSource for TiledTree<S> {
    type Error = S::Error;

    fn subtree(&self, level: u8, index: u64) -> Result<Hash, S::Error> {
        let out_of_range = || {
            let size = self.size;
            ProofError::out_of_range(format!(
                "subtree {index} of 2^{level} leaves is not in a tree of {size}"
            ))
        };
        // The subtree is the root over `count` neighbouring hashes of its tile.
        let count = 1u64 << (level % TILE_HEIGHT);
        let first = index.checked_mul(count).ok_or_else(out_of_range)?;
        let tile = Tile::of_tree(level / TILE_HEIGHT, first / u64::from(TILE_WIDTH), self.size)
            .ok_or_else(out_of_range)?;
        let within = (first % u64::from(TILE_WIDTH)) as usize;
        let wanted = within..within + count as usize;
        if wanted.end > usize::from(tile.width()) {
            return Err(out_of_range().into());
        }
        let mut tiles = self.tiles.borrow_mut();
        if let Some(hashes) = tiles.get(&tile) {
            return Ok(complete_root(&hashes[wanted]));
        }
        let hashes = self.source.tile(tile)?;
        if hashes.len() != usize::from(tile.width()) {
            let hashes = hashes.len();
            return Err(ProofError::malformed(format!("tile {tile} came with {hashes} hashes")).into());
        }
        let root = complete_root(&hashes[wanted]);
        tiles.insert(tile, hashes);
        Ok(root)
    }
}
