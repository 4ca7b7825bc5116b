//! What every object of an archive is called. Pure: no I/O.
//!
//! The drawing is in [`archive`](super). Numbers have their leading zeros, so that a listing is in order; a hash in a
//! name is that of the object's bytes, so that two objects never fight for one name.

use super::name::Name;
use crate::types::{NodeId, SegmentId};

/// Which life of a ledger: 1 for the first, one more with each restore. It keeps its objects apart from those of
/// earlier lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The first life.
    pub const FIRST: Self = Self(1);

    fn dir(self, kind: &str) -> String {
        format!("epoch-{:010}/{kind}", self.0)
    }
}

/// The object that says whose archive this is.
#[must_use]
pub fn marker() -> Name {
    Name::within("", "ledger.id")
}

/// The object that says which cluster may write.
#[must_use]
pub fn fence() -> Name {
    Name::within("", "writer.fence")
}

/// The object by which a member says that this is its archive, too.
#[must_use]
pub fn member(node: NodeId) -> Name {
    Name::within("members", &format!("{node:020}.member"))
}

/// What a start writes to find out what a store honours.
#[must_use]
pub fn probe(what: &str) -> Name {
    Name::within("probe", what)
}

/// A packed segment.
#[must_use]
pub fn segment(epoch: Epoch, id: SegmentId, hash: &[u8; 32]) -> Name {
    Name::within(&segments(epoch), &format!("{:020}-{}.seg", id.0, blake3::Hash::from(*hash).to_hex()))
}

/// The segment whose object has this name; `None` for any other name.
#[must_use]
pub fn parse_segment(name: &Name) -> Option<SegmentId> {
    let (id, hash) = name.last().strip_suffix(".seg")?.split_once('-')?;
    let id = SegmentId(id.parse().ok().filter(|number: &u64| format!("{number:020}") == id)?);
    blake3::Hash::from_hex(hash).ok().map(|_| id)
}

/// Where packed segments are.
#[must_use]
pub fn segments(epoch: Epoch) -> String {
    epoch.dir("segments")
}

/// A signed checkpoint of this size.
#[must_use]
pub fn checkpoint(epoch: Epoch, size: u64, hash: &[u8; 32]) -> Name {
    Name::within(
        &epoch.dir("checkpoints"),
        &format!("{size:020}-{}.note", blake3::Hash::from(*hash).to_hex()),
    )
}

/// Where checkpoints are.
#[must_use]
pub fn checkpoints(epoch: Epoch) -> String {
    epoch.dir("checkpoints")
}

/// The size that a checkpoint's name says, and the hash of its bytes; `None` for any other name.
#[must_use]
pub fn parse_checkpoint(name: &Name) -> Option<(u64, [u8; 32])> {
    let (size, hash) = name.last().strip_suffix(".note")?.split_once('-')?;
    let number = size.parse().ok().filter(|number: &u64| format!("{number:020}") == size)?;
    Some((number, *blake3::Hash::from_hex(hash).ok()?.as_bytes()))
}

/// The entry of a segment.
#[must_use]
pub fn entry(epoch: Epoch, id: SegmentId) -> Name {
    Name::within(&entries(epoch), &entry_last(id))
}

/// Where entries are.
#[must_use]
pub fn entries(epoch: Epoch) -> String {
    epoch.dir("manifest")
}

/// The segment whose entry has this name; `None` for any other name.
#[must_use]
pub fn parse_entry(name: &Name) -> Option<SegmentId> {
    let id = SegmentId(name.last().strip_suffix(".entry")?.parse().ok()?);
    (entry_last(id) == name.last()).then_some(id)
}

/// The last part of an entry's name.
#[must_use]
pub fn entry_last(id: SegmentId) -> String {
    format!("{:020}.entry", id.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are() {
        let id = SegmentId(7);
        assert_eq!(entry(Epoch(2), id).as_str(), "epoch-0000000002/manifest/00000000000000000007.entry");
        assert_eq!(parse_entry(&entry(Epoch(2), id)), Some(id));
        assert_eq!(parse_checkpoint(&checkpoint(Epoch::FIRST, 9, &[3; 32])), Some((9, [3; 32])));
        let object = segment(Epoch::FIRST, id, &[0xab; 32]);
        let hash = "ab".repeat(32);
        assert_eq!(object.as_str(), format!("epoch-0000000001/segments/00000000000000000007-{hash}.seg"));
        assert_eq!(parse_segment(&object), Some(id));
        for other in ["s/7-ab.seg", "s/00000000000000000007.seg", "s/00000000000000000007-ab.seg"] {
            assert_eq!(parse_segment(&Name::parse(other).unwrap()), None, "{other}");
        }
        for other in ["m/7.entry", "m/-0000000000000000007.entry", "m/x.entry", "m/00000000000000000007.seg"]
        {
            assert_eq!(parse_entry(&Name::parse(other).unwrap()), None, "{other}");
        }
        for other in ["c/9-ab.note", "c/00000000000000000009.note"] {
            assert_eq!(parse_checkpoint(&Name::parse(other).unwrap()), None, "{other}");
        }
        let longest = segment(Epoch(u32::MAX), SegmentId(u64::MAX), &[0; 32]);
        assert_eq!((marker().dir(), probe("once.txt").dir()), ("", "probe"));
        assert!(longest.as_str().len() < 150);
    }
}
