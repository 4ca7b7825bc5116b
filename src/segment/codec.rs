//! How a block's bytes are stored. Pure: no I/O.
//!
//! Local segments store blocks as they are; an archived object may store each one compressed. The hash of a
//! block is over its decoded bytes, so that both copies of a segment have one digest.

/// How a block is stored; its byte in the block directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Codec {
    /// As it is.
    None = 0,
    /// The LZ4 block format, without a length in front: the directory has it.
    Lz4 = 1,
    /// A zstd frame of any level, which has its length and no sum.
    Zstd = 2,
}

/// How the blocks of a copy are to be stored, each where that makes it smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As they are.
    None,
    /// By LZ4: fast.
    Lz4,
    /// By zstd at this level, 1 to 22: smaller the higher it is, and slower.
    Zstd(u8),
}

/// No LZ4 block grows by more than this when it is decoded: 255 bytes for each byte of a match's length.
const LZ4_RATIO_MAX: u64 = 255;

/// No zstd frame does by more than this: a block of 128 KiB takes at least four bytes.
const ZSTD_RATIO_MAX: u64 = (128 << 10) / 4;

impl Codec {
    /// The codec a byte of the directory stands for.
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Whether a block of `bytes` can be stored in `stored_bytes`: what bounds the memory that a directory
    /// can ask for by the size of the file that it was found in.
    pub(super) const fn fits(self, bytes: u32, stored_bytes: u32) -> bool {
        match self {
            Self::None => bytes == stored_bytes,
            Self::Lz4 => bytes as u64 <= stored_bytes as u64 * LZ4_RATIO_MAX,
            Self::Zstd => bytes as u64 <= stored_bytes as u64 * ZSTD_RATIO_MAX,
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
            Self::Zstd => {
                let block = zstd::bulk::decompress(&stored, bytes).ok()?;
                (block.len() == bytes).then_some(block)
            }
        }
    }
}

impl Packing {
    /// The bytes to store for a block, and how they are to be read; none when it is best left as it is.
    pub(super) fn encode(self, block: &[u8]) -> Option<(Codec, Vec<u8>)> {
        let (codec, stored) = match self {
            Self::None => return None,
            Self::Lz4 => (Codec::Lz4, lz4_flex::block::compress(block)),
            // It fails only when memory is short: then the block is stored as it is.
            Self::Zstd(level) => (Codec::Zstd, zstd::bulk::compress(block, i32::from(level)).ok()?),
        };
        (stored.len() < block.len()).then_some((codec, stored))
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
            for packing in [Packing::None, Packing::Lz4, Packing::Zstd(1), Packing::Zstd(9)] {
                let (codec, stored) = packing.encode(&block).unwrap_or((Codec::None, block.clone()));
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
        assert!(
            !Codec::Lz4.fits(u32::MAX, 1_000) && !Codec::None.fits(2, 1) && !Codec::Zstd.fits(1 << 30, 1_000)
        );
        for packing in [Packing::Lz4, Packing::Zstd(1), Packing::Zstd(9), Packing::Zstd(22)] {
            let (codec, stored) = packing.encode(&vec![0; 16 << 20]).unwrap();
            assert!(codec.fits(16 << 20, stored.len() as u32), "{packing:?} {}", stored.len());
        }
        assert_eq!((Codec::from_byte(2), Codec::from_byte(3)), (Some(Codec::Zstd), None));
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let noise: Vec<u8> = blake3::hash(b"noise").as_bytes().to_vec();
        for packing in [Packing::None, Packing::Lz4, Packing::Zstd(3)] {
            assert_eq!(packing.encode(&noise), None, "{packing:?}");
        }
    }
}
