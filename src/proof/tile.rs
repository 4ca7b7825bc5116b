//! Tiles: the tree's hashes in immutable pieces that anyone can fetch and cache (C2SP tlog-tiles).
//!
//! A tile is 256 neighbouring hashes of one level in eight; the levels between are recomputed from them. The
//! last tile of a level may be partial: it stands for its complete subtrees only.
//!
//! ```text
//! tile level 1     hashes of 256 leaves each            = hash level 8
//! tile level 0     leaf hashes                          = hash level 0
//!
//! path             <level>/<index>[.p/<width>]          index 1234067 is x001/x234/067; a full tile has no width
//!                  entries/<index>[.p/<width>]          the leaves themselves, beside a tile of level 0
//! bytes            hash 0 | hash 1 | … | hash width - 1
//! ```
//!
//! Takes coordinates, paths and bytes, gives each from the others. It does not own where tiles are kept, nor
//! which checkpoints were signed.

use std::{fmt, str::FromStr};

use super::{
    encoding::{from_decimal, shortened},
    error::ProofError,
    hash::{HASH_BYTES, Hash},
    tree::{HashSource, SIZE_MAX},
};

/// Levels of the tree in one tile.
pub const TILE_HEIGHT: u8 = 8;

/// Hashes in a full tile.
pub const TILE_WIDTH: u16 = 1 << TILE_HEIGHT;

/// Highest level that the paths can name. (A tree of [`SIZE_MAX`] leaves ends at level 7.)
const LEVEL_MAX: u8 = 63;

/// Levels that a tree of [`SIZE_MAX`] leaves has.
const LEVELS: u8 = (u64::BITS as u8).div_ceil(TILE_HEIGHT);

/// Each element of an index's path counts in thousands.
const PATH_BASE: u64 = 1_000;

/// The place of a tile: its level, its index within the level, and how many hashes it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// The tile at this place.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for a level above 63 or a width that is not 1 to 256.
    pub fn new(level: u8, index: u64, width: u16) -> Result<Self, ProofError> {
        if level > LEVEL_MAX || !(1..=TILE_WIDTH).contains(&width) {
            return Err(ProofError::malformed(format!("no tile has level {level} and width {width}")));
        }
        Ok(Self { level, index, width })
    }

    /// The tile at this place as a tree of `size` leaves has it: full, partial, or not at all.
    #[must_use]
    pub fn of_tree(level: u8, index: u64, size: u64) -> Option<Self> {
        let first = index.checked_mul(u64::from(TILE_WIDTH))?;
        let width = hashes_at(level, size).checked_sub(first)?.min(u64::from(TILE_WIDTH)) as u16;
        Self::new(level, index, width).ok()
    }

    /// The level, counted in tiles from the leaves.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.level
    }

    /// The index within the level.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.index
    }

    /// How many hashes it has: 1 to 256.
    #[must_use]
    pub const fn width(self) -> u16 {
        self.width
    }

    /// Whether it will never have more hashes.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.width == TILE_WIDTH
    }

    /// Whether all its hashes are in a tree of `size` leaves.
    #[must_use]
    pub fn is_in_tree(self, size: u64) -> bool {
        Self::of_tree(self.level, self.index, size).is_some_and(|tile| tile.width >= self.width)
    }

    /// Its hashes, from a source of them. Asks for `width` subtrees.
    ///
    /// # Errors
    /// Those of the source; [`ProofError::OutOfRange`] for a tile that no tree has.
    pub fn hashes<S: HashSource>(self, source: &S) -> Result<Vec<Hash>, S::Error> {
        if !self.is_in_tree(SIZE_MAX) {
            return Err(ProofError::out_of_range(format!("no tree has tile {self}")).into());
        }
        let first = self.index * u64::from(TILE_WIDTH);
        let level = self.level * TILE_HEIGHT;
        (first..first + u64::from(self.width)).map(|index| source.subtree(level, index)).collect()
    }

    /// Reads a tile's bytes.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] unless there are exactly as many as its width says.
    pub fn decode(self, bytes: &[u8]) -> Result<Vec<Hash>, ProofError> {
        match bytes.as_chunks::<HASH_BYTES>() {
            (hashes, []) if hashes.len() == usize::from(self.width) => {
                Ok(hashes.iter().copied().map(Hash).collect())
            }
            _ => Err(ProofError::malformed(format!(
                "tile {self} has {} bytes, not {}",
                usize::from(self.width) * HASH_BYTES,
                bytes.len()
            ))),
        }
    }
}

/// The bytes of a tile with these hashes.
#[must_use]
pub fn encode_tile(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The tiles that a tree of `to` leaves has and a tree of `from` leaves does not have, or has with fewer
/// hashes: what to write when a tree grows. From 0 it is all tiles of the tree.
pub fn new_tiles(from: u64, to: u64) -> impl Iterator<Item = Tile> {
    (0..LEVELS).flat_map(move |level| {
        let (old, new) = (hashes_at(level, from), hashes_at(level, to));
        let end = if new > old { new.div_ceil(u64::from(TILE_WIDTH)) } else { 0 };
        (old / u64::from(TILE_WIDTH)..end).filter_map(move |index| Tile::of_tree(level, index, to))
    })
}

/// How many hashes a tree of `size` leaves has at a tile level: its complete subtrees of 256^level leaves.
fn hashes_at(level: u8, size: u64) -> u64 {
    size.checked_shr(u32::from(level) * u32::from(TILE_HEIGHT)).unwrap_or(0)
}

impl fmt::Display for Tile {
    /// Its path, from the level on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.level)?;
        write_place(*self, f)
    }
}

/// What a path below `/tile/` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TilePath {
    /// Hashes.
    Hashes(Tile),
    /// The bundle of the leaves whose hashes are in this tile of level 0.
    Entries(Tile),
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hashes(tile) => tile.fmt(f),
            Self::Entries(tile) => {
                f.write_str("entries/")?;
                write_place(*tile, f)
            }
        }
    }
}

impl FromStr for TilePath {
    type Err = ProofError;

    /// Reads what `Display` writes, and no other spelling of it.
    fn from_str(path: &str) -> Result<Self, ProofError> {
        let malformed = || ProofError::malformed(format!("{:?} is not the path of a tile", shortened(path)));
        let (row, place) = path.split_once('/').ok_or_else(malformed)?;
        let (index, width) = match place.split_once(".p/") {
            Some((index, width)) => (index, from_decimal(width)?),
            None => (place, u64::from(TILE_WIDTH)),
        };
        let is_partial = width < u64::from(TILE_WIDTH);
        if is_partial != place.contains(".p/") {
            return Err(malformed());
        }
        let (level, is_entries) = match row {
            "entries" => (0, true),
            level => (from_decimal(level)?.try_into().map_err(|_| malformed())?, false),
        };
        let index = parse_index(index).ok_or_else(malformed)?;
        let tile = Tile::new(level, index, width as u16)?;
        Ok(if is_entries { Self::Entries(tile) } else { Self::Hashes(tile) })
    }
}

fn write_place(tile: Tile, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut divisor = 1;
    while tile.index / divisor >= PATH_BASE {
        divisor *= PATH_BASE;
    }
    while divisor > 1 {
        write!(f, "x{:03}/", tile.index / divisor % PATH_BASE)?;
        divisor /= PATH_BASE;
    }
    write!(f, "{:03}", tile.index % PATH_BASE)?;
    match tile.is_full() {
        true => Ok(()),
        false => write!(f, ".p/{}", tile.width),
    }
}

/// Reads `x001/x234/067`: elements of three digits, all but the last with an `x`, the first of several not zero.
fn parse_index(path: &str) -> Option<u64> {
    let mut elements = path.split('/').rev();
    let last = elements.next()?;
    let mut index = 0u64;
    for element in path[..path.len() - last.len()].split_terminator('/') {
        let thousands = three_digits(element.strip_prefix('x')?)?;
        if index == 0 && thousands == 0 {
            return None;
        }
        index = index.checked_mul(PATH_BASE)?.checked_add(thousands)?;
    }
    index.checked_mul(PATH_BASE)?.checked_add(three_digits(last)?)
}

fn three_digits(text: &str) -> Option<u64> {
    let is_number = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(path: &str) -> Result<TilePath, ProofError> {
        path.parse()
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = |level, index, width| TilePath::Hashes(Tile::new(level, index, width).unwrap());
        let expected = [
            ("0/x001/x234/067", tile(0, 1_234_067, 256)),
            ("0/000", tile(0, 0, 256)),
            ("2/999.p/1", tile(2, 999, 1)),
            ("1/x001/000.p/255", tile(1, 1_000, 255)),
            ("63/x018/x446/x744/x073/x709/x551/615", tile(63, u64::MAX, 256)),
            ("entries/x273/112.p/112", TilePath::Entries(Tile::new(0, 273_112, 112).unwrap())),
        ];
        for (path, tile) in expected {
            assert_eq!(tile.to_string(), path);
            assert_eq!(parse(path), Ok(tile));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        let paths = [
            "",
            "/",
            "0",
            "0/",
            "/000",
            "0/0",
            "0/00",
            "0/0000",
            "0/x000",
            "0/x000/001",
            "0/001/002",
            "0/x001",
            "0/x1/002",
            "0/X001/002",
            "0/xx01/002",
            "0/x001/x002",
            "0/x001//002",
            "0//001",
            "0/001/",
            "00/001",
            "01/001",
            "64/001",
            "256/001",
            "-1/001",
            "+1/001",
            "0/+01",
            "0/ 01",
            "data/001",
            "Entries/001",
            "0/001.p",
            "0/001.p/",
            "0/001.p/0",
            "0/001.p/256",
            "0/001.p/01",
            "0/001.p/257",
            "0/001.p/65537",
            "0/001.p/1/",
            "0/001.p/1.p/1",
            "0/001.P/1",
            "0/001p/1",
            "entries/entries/001",
            "tile/0/001",
            "0/x018/x446/x744/x073/x709/x551/616",
            "0/x999/x999/x999/x999/x999/x999/x999/999",
        ];
        for path in paths {
            assert!(matches!(parse(path), Err(ProofError::Malformed(_))), "{path:?}");
        }
        assert!(parse(&"x001/".repeat(10_000)).is_err());
    }

    #[test]
    fn tiles_of_a_tree_are_those_of_the_specification() {
        // The example of the specification: a tree of 70,000 leaves.
        let tiles: Vec<Tile> = new_tiles(0, 70_000).collect();
        let expected: Vec<Tile> = (0..273)
            .map(|index| (0, index, 256))
            .chain([(0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)])
            .map(|(level, index, width)| Tile::new(level, index, width).unwrap())
            .collect();
        assert_eq!(tiles, expected);
        let full_and_one: Vec<String> = new_tiles(0, 256).map(|tile| tile.to_string()).collect();
        assert_eq!(full_and_one, ["0/000", "1/000.p/1"]);
        assert_eq!(new_tiles(0, 0).count() + new_tiles(70_000, 70_000).count(), 0);
    }

    #[test]
    fn tiles_no_tree_has_are_not_asked_for() {
        struct Nothing;
        impl HashSource for Nothing {
            type Error = ProofError;
            fn subtree(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
                panic!("asked for subtree {index} at level {level}")
            }
        }
        for (level, index) in [(8, 0), (63, 0), (0, u64::MAX), (7, 1 << 40)] {
            assert!(Tile::new(level, index, 1).unwrap().hashes(&Nothing).is_err());
        }
    }

    proptest! {
        #[test]
        fn paths_read_back(level in 0u8..=63, index in any::<u64>(), shift in 0u32..64, width in 1u16..=256) {
            let tile = Tile::new(level, index >> shift, width).unwrap();
            for path in [TilePath::Hashes(tile), TilePath::Entries(Tile { level: 0, ..tile })] {
                prop_assert_eq!(parse(&path.to_string()), Ok(path));
            }
        }

        #[test]
        fn whatever_is_read_is_written_the_same(path in "(entries|[0-9]{1,2})/(x?[0-9]{3}/){0,3}[0-9x]{3}(\\.p/[0-9]{1,3})?") {
            if let Ok(tile) = parse(&path) {
                prop_assert_eq!(tile.to_string(), path);
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(path in ".{0,40}", ascii in "[x0-9./pentris]{0,30}") {
            std::hint::black_box((parse(&path).is_ok(), parse(&ascii).is_ok()));
        }

        #[test]
        fn growing_writes_every_tile(from in 0u64..200_000, growth in 0u64..70_000) {
            let to = from + growth;
            let kept = new_tiles(0, from).filter(|tile| tile.is_full());
            let mut tiles: Vec<Tile> = kept.chain(new_tiles(from, to)).collect();
            // Partial tiles of the smaller tree that have not grown are still right.
            tiles.extend(new_tiles(0, from).filter(|tile| Tile::of_tree(tile.level, tile.index, to) == Some(*tile)));
            tiles.sort();
            tiles.dedup();
            let mut all: Vec<Tile> = new_tiles(0, to).collect();
            all.sort();
            prop_assert_eq!(tiles, all);
        }

        #[test]
        fn bytes_read_back_at_their_width_only(width in 1u16..=256, other in 0usize..9_000) {
            let tile = Tile::new(3, 5, width).unwrap();
            let hashes: Vec<Hash> = (0..width).map(|n| Hash::of(&n.to_be_bytes())).collect();
            let bytes = encode_tile(&hashes);
            prop_assert_eq!(tile.decode(&bytes).unwrap(), hashes);
            prop_assert_eq!(tile.decode(&vec![0; other]).is_ok(), other == bytes.len());
        }
    }
}
