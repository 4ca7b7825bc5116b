//! Entry bundles: the leaves of a tile of level 0, as they were hashed (C2SP tlog-tiles, "log entries").
//!
//! ```text
//! u16 length | leaf | u16 length | leaf | …          lengths are big-endian; as many leaves as the tile is wide
//! ```
//!
//! Takes leaves, gives bytes, and back. It does not own what a leaf's bytes mean, nor where they are kept.

use super::{error::ProofError, tile::Tile};

/// Bytes of a leaf's length.
const LENGTH_BYTES: usize = 2;

/// Adds a leaf to the end of a bundle.
///
/// # Errors
/// [`ProofError::Malformed`] for a leaf of more than 65,535 bytes.
pub fn push_entry(bundle: &mut Vec<u8>, leaf: &[u8]) -> Result<(), ProofError> {
    let Ok(length) = u16::try_from(leaf.len()) else {
        return Err(ProofError::malformed(format!("a bundle holds no leaf of {} bytes", leaf.len())));
    };
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(leaf);
    Ok(())
}

/// The leaves of the bundle beside `tile`, in order.
///
/// # Errors
/// [`ProofError::Malformed`] unless the bytes are exactly as many leaves as the tile is wide.
pub fn decode_entries(tile: Tile, bundle: &[u8]) -> Result<Vec<&[u8]>, ProofError> {
    let malformed = |what: String| {
        let (width, index) = (tile.width(), tile.index());
        Err(ProofError::malformed(format!("bundle {index} of {width} leaves {what}")))
    };
    let mut rest = bundle;
    let mut leaves = Vec::with_capacity(usize::from(tile.width()));
    for n in 0..tile.width() {
        let entry = rest
            .split_first_chunk::<LENGTH_BYTES>()
            .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        let Some((leaf, later)) = entry else {
            return malformed(format!("ends within leaf {n}, {} bytes before its end", rest.len()));
        };
        leaves.push(leaf);
        rest = later;
    }
    match rest {
        [] => Ok(leaves),
        _ => malformed(format!("goes on for {} bytes behind its last leaf", rest.len())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bundle(leaves: &[Vec<u8>]) -> Vec<u8> {
        let mut bundle = Vec::new();
        leaves.iter().for_each(|leaf| push_entry(&mut bundle, leaf).unwrap());
        bundle
    }

    fn tile(width: usize) -> Tile {
        Tile::new(0, 7, width as u16).unwrap()
    }

    proptest! {
        #[test]
        fn leaves_read_back_and_pieces_do_not(
            leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = bundle(&leaves);
            prop_assert_eq!(decode_entries(tile(leaves.len()), &bytes).unwrap(), leaves.clone());
            prop_assert!(decode_entries(tile(leaves.len() + 1), &bytes).is_err());
            prop_assert!(decode_entries(tile(leaves.len()), &bytes[..cut.index(bytes.len())]).is_err());
            prop_assert!(decode_entries(tile(leaves.len()), &[&bytes[..], &[0]].concat()).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300), width in 1usize..=256,
        ) {
            if let Ok(leaves) = decode_entries(tile(width), &bytes) {
                let leaves: Vec<Vec<u8>> = leaves.into_iter().map(<[u8]>::to_vec).collect();
                prop_assert_eq!(bundle(&leaves), bytes);
            }
        }
    }

    #[test]
    fn a_leaf_has_at_most_65535_bytes() {
        let mut bundle = Vec::new();
        push_entry(&mut bundle, &vec![1; 65_535]).unwrap();
        assert_eq!(bundle.len(), 65_537);
        assert!(push_entry(&mut bundle, &vec![1; 65_536]).is_err());
        assert_eq!(bundle.len(), 65_537, "a refused leaf leaves nothing behind");
    }
}
