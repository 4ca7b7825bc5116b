//! From records in order to the key table, its index and its filter. Pure: no I/O.
//!
//! Takes every record's key, holds them until the segment ends (48 bytes and the key each), sorts, and gives
//! the blocks one after the other. A verifier makes the table anew in the same way and compares bytes.

use std::cmp::Ordering;

use rkyv::rancor;

use super::{
    filter::{self, KeyHash},
    key_block::{KeyBlock, KeyIndex, PackedVersion},
};
use crate::error::{Code, Error, Result};

/// Bytes of a key that are compared without looking for the key itself.
const PREFIX_BYTES: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Held {
    /// The key's first bytes, big-endian, zeros behind a shorter one.
    prefix: u128,
    at: u32,
    version: PackedVersion,
    key_bytes: u16,
}

/// The keys of a segment that is being written.
#[derive(Debug, Default)]
pub(super) struct KeyTable {
    held: Vec<Held>,
    arena: Vec<u8>,
}

/// What follows the blocks of the table.
#[derive(Debug)]
pub(super) struct KeyTableEnd {
    /// Distinct keys.
    pub(super) keys: u32,
    pub(super) index: Vec<u8>,
    pub(super) filter: Vec<u8>,
}

impl KeyTable {
    /// Whether one more key of this many bytes can be held.
    pub(super) fn has_room(&self, key_bytes: usize) -> bool {
        self.arena.len() + key_bytes <= u32::MAX as usize
    }

    /// Adds the next record's key, which [`KeyTable::has_room`] for.
    pub(super) fn push(&mut self, key: &[u8], version: PackedVersion) {
        let mut prefix = [0; PREFIX_BYTES];
        let shared = key.len().min(PREFIX_BYTES);
        prefix[..shared].copy_from_slice(&key[..shared]);
        self.held.push(Held {
            prefix: u128::from_be_bytes(prefix),
            at: self.arena.len() as u32,
            version,
            key_bytes: key.len() as u16,
        });
        self.arena.extend_from_slice(key);
    }

    /// Sorts, and gives every block to `take` in order.
    ///
    /// # Errors
    /// Those of `take`; [`Code::Internal`] when an archive cannot be built.
    pub(super) fn write(mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<KeyTableEnd> {
        let arena = &self.arena;
        self.held.sort_unstable_by(|a, b| compare(arena, a, b).then(a.version.cmp(&b.version)));
        let (mut block, mut index, mut hashes) = (KeyBlock::default(), KeyIndex::default(), Vec::new());
        let mut archive = Vec::new();
        let mut last: Option<&Held> = None;
        for held in &self.held {
            let key = key_of(arena, held);
            let is_same_key = last.is_some_and(|last| compare(arena, last, held) == Ordering::Equal);
            if !is_same_key {
                hashes.push(KeyHash::of(key));
            }
            if block.is_empty() {
                index.push(key, held.version);
            }
            block.push(key, is_same_key, held.version);
            if block.is_full() {
                archive = archive_of(&block, archive)?;
                take(&archive)?;
                block.clear();
            }
            last = Some(held);
        }
        if !block.is_empty() {
            take(&archive_of(&block, archive)?)?;
        }
        let index = rkyv::api::high::to_bytes_in::<_, rancor::Error>(&index, Vec::new()).map_err(unbuilt)?;
        Ok(KeyTableEnd { keys: hashes.len() as u32, index, filter: filter::build(&hashes) })
    }
}

fn archive_of(block: &KeyBlock, mut archive: Vec<u8>) -> Result<Vec<u8>> {
    archive.clear();
    rkyv::api::high::to_bytes_in::<_, rancor::Error>(block, archive).map_err(unbuilt)
}

fn unbuilt(error: rancor::Error) -> Error {
    Error::new(Code::Internal, format!("building a block of keys failed: {error}"))
}

fn key_of<'a>(arena: &'a [u8], held: &Held) -> &'a [u8] {
    &arena[held.at as usize..][..held.key_bytes as usize]
}

/// Orders two keys by their bytes.
fn compare(arena: &[u8], a: &Held, b: &Held) -> Ordering {
    a.prefix.cmp(&b.prefix).then_with(|| {
        if usize::from(a.key_bytes.max(b.key_bytes)) <= PREFIX_BYTES {
            // Of two short keys with equal prefixes one is the other with zeros behind it.
            a.key_bytes.cmp(&b.key_bytes)
        } else {
            key_of(arena, a).cmp(key_of(arena, b))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        segment::key_block::{KeyBlockView, KeyIndexView},
        types::Op,
    };

    fn any_keys() -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
        let key = prop_oneof![
            prop::collection::vec(0u8..2, 1..4),
            prop::collection::vec(0u8..2, 14..20),
            prop::collection::vec(any::<u8>(), 1..400),
        ];
        prop::collection::vec((key, any::<bool>()), 0..300)
    }

    fn version(number: usize, put: bool) -> PackedVersion {
        PackedVersion::new(number as u32, if put { Op::Put } else { Op::Delete })
    }

    fn table(keys: &[(Vec<u8>, bool)]) -> (Vec<Vec<u8>>, KeyTableEnd) {
        let mut table = KeyTable::default();
        for (number, (key, put)) in keys.iter().enumerate() {
            table.push(key, version(number, *put));
        }
        let mut blocks = Vec::new();
        let end = table.write(|block| {
            blocks.push(block.to_vec());
            Ok(())
        });
        (blocks, end.unwrap())
    }

    /// The newest version of a key below a bound, as a reader finds it.
    fn newest(blocks: &[Vec<u8>], index: &[u8], key: &[u8], before: u32) -> Option<PackedVersion> {
        let before = PackedVersion(before << 1);
        let block = KeyIndexView::open(index).unwrap().block_of(key, before)?;
        let view = KeyBlockView::open(&blocks[block]).unwrap();
        view.newest(view.find(key)?, before)
    }

    proptest! {
        #[test]
        fn every_version_of_every_key_is_found(keys in any_keys(), other in prop::collection::vec(0u8..2, 1..4)) {
            let (blocks, end) = table(&keys);
            let mut model: BTreeMap<&[u8], Vec<PackedVersion>> = BTreeMap::new();
            for (number, (key, put)) in keys.iter().enumerate() {
                model.entry(key).or_default().push(version(number, *put));
            }
            prop_assert_eq!(end.keys as usize, model.len());
            KeyIndexView::check(&end.index, blocks.len()).unwrap();
            prop_assert!(blocks.iter().all(|block| KeyBlockView::check(block).is_ok()));
            for (key, versions) in &model {
                prop_assert!(filter::may_contain(&end.filter, KeyHash::of(key)));
                for before in 0..=keys.len() as u32 {
                    let expected = versions.iter().rfind(|version| version.number() < before).copied();
                    prop_assert_eq!(newest(&blocks, &end.index, key, before), expected);
                }
            }
            let expected = model.get(&other[..]).and_then(|versions| versions.last()).copied();
            prop_assert_eq!(newest(&blocks, &end.index, &other, keys.len() as u32), expected);
        }

        #[test]
        fn damaged_tables_never_panic(
            keys in any_keys(), at in any::<prop::sample::Index>(), bit in 0u8..8,
            cut in any::<prop::sample::Index>(),
        ) {
            let (blocks, end) = table(&keys);
            for bytes in blocks.iter().chain([&end.index]) {
                let mut flipped = bytes.clone();
                flipped[at.index(bytes.len())] ^= 1 << bit;
                for bytes in [&flipped[..], &bytes[..cut.index(bytes.len())]] {
                    let _ = (KeyBlockView::check(bytes).is_ok(), KeyIndexView::check(bytes, 1).is_ok());
                    if let Ok(view) = KeyBlockView::open(bytes) {
                        let row = view.find(b"\0\x01");
                        let _ = row.and_then(|row| view.newest(row, PackedVersion(u32::MAX)));
                    }
                    if let Ok(view) = KeyIndexView::open(bytes) {
                        let _ = view.block_of(b"\0\x01", PackedVersion(9));
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_with_very_many_versions_goes_on_in_the_next_block() {
        let keys: Vec<_> = (0..20_000).map(|number| (b"hot".to_vec(), number % 3 > 0)).collect();
        let (blocks, end) = table(&keys);
        assert!(blocks.len() > 3 && end.keys == 1);
        for before in [0, 1, 4_000, 4_095, 4_096, 4_097, 12_345, 20_000] {
            let expected = (before as usize).checked_sub(1).map(|number| version(number, keys[number].1));
            assert_eq!(newest(&blocks, &end.index, b"hot", before), expected);
        }
    }
}
