//! How a block's bytes are stored. Pure: no I/O.
//!
//! Local segments store blocks as they are; an archived object may store each one compressed. The hash of a
//! block is over its decoded bytes, so that both copies of a segment have one digest.

/// How a block is stored; its byte in the block directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    None = 0,
    /// The LZ4 block format, without a length in front: the directory has it.
    Lz4 = 1,
}

/// No LZ4 block grows by more than this when it is decoded: 255 bytes for each byte of a match's length.
const LZ4_RATIO_MAX: u64 = 255;

impl Codec {
    /// The codec a byte of the directory stands for.
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            _ => None,
        }
    }

    /// Whether a block of `bytes` can be stored in `stored_bytes`: what bounds the memory that a directory
    /// can ask for by the size of the file that it was found in.
    pub(super) const fn fits(self, bytes: u32, stored_bytes: u32) -> bool {
        match self {
            Self::None => bytes == stored_bytes,
            Self::Lz4 => bytes as u64 <= stored_bytes as u64 * LZ4_RATIO_MAX,
        }
    }

    /// The bytes to store for a block.
    pub(super) fn encode(self, block: &[u8]) -> Vec<u8> {
        match self {
            Self::None => block.to_vec(),
            Self::Lz4 => lz4_flex::block::compress(block),
        }
    }

    /// The block of `bytes` that was stored as `stored`; `None` when it was not, and then nothing beyond
    /// `bytes` was allocated.
    pub(super) fn decode(self, stored: Vec<u8>, bytes: usize) -> Option<Vec<u8>> {
        match self {
            Self::None => (stored.len() == bytes).then_some(stored),
            Self::Lz4 => {
                let mut block = vec![0; bytes];
                let decoded = lz4_flex::block::decompress_into(&stored, &mut block);
                decoded.is_ok_and(|decoded| decoded == bytes).then_some(block)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_read_back_and_damage_is_no_panic(
            block in prop::collection::vec(0u8..8, 0..3_000),
            at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>(),
        ) {
            for codec in [Codec::None, Codec::Lz4] {
                let stored = codec.encode(&block);
                prop_assert!(codec.fits(block.len() as u32, stored.len() as u32));
                prop_assert_eq!(codec.decode(stored.clone(), block.len()), Some(block.clone()));
                prop_assert_eq!(codec.decode(stored.clone(), block.len() + 1), None);
                prop_assert_eq!(codec.decode(stored[..cut.index(stored.len().max(1))].to_vec(), 1 << 20), None);
                let mut flipped = stored;
                if !flipped.is_empty() {
                    let at = at.index(flipped.len());
                    flipped[at] ^= 1 << bit;
                }
                let _ = codec.decode(flipped, block.len());
            }
        }
    }

    #[test]
    fn a_directory_cannot_ask_for_more_than_its_file_could_hold() {
        assert!(!Codec::Lz4.fits(u32::MAX, 1_000) && !Codec::None.fits(2, 1));
        let zeros = vec![0; 1 << 20];
        assert!(Codec::Lz4.fits(1 << 20, Codec::Lz4.encode(&zeros).len() as u32));
        assert_eq!((Codec::from_byte(1), Codec::from_byte(2)), (Some(Codec::Lz4), None));
    }
}
