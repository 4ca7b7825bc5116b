//! What a restored ledger says of the one before it, compared with the records that are here.
//!
//! ```text
//! … record 999 │ 1000: the link │ 1001 …       size = its own position, root = that of the tree of all records before it
//! ```
//!
//! Takes segments whose records have been verified, gives their links, or what one of them says that is not so. Then
//! takes all of them, and the checkpoints: the epochs go on, the ledger stays the same, and whoever signed the tree before
//! a link is who the link names. It does not own the records, nor whether there has to be a link.

use std::{collections::BTreeMap, path::Path};

use super::directory::Note;
use crate::{
    error::{Code, Error, Result},
    proof::{Hash, frontier::Frontier, link::Link},
    segment::{LEAF_HASH_BYTES, Segment},
    types::{Op, Seq},
};

/// Links by their positions.
pub(super) type Links = BTreeMap<u64, Link>;

/// The links among a segment's records, each of which has to tell the truth of the tree before it. None of a segment
/// whose records are not here. `path` is what errors call it.
///
/// # Errors
/// [`Code::Corrupt`] with the first one that does not; [`Code::Io`].
pub(super) fn within(segment: &Segment, path: &Path) -> Result<Links> {
    let mut links = Links::new();
    if segment.stub().is_some() {
        return Ok(links);
    }
    let prefix = Link::key_prefix();
    for entry in segment.keys_from(&prefix)? {
        let key = entry?.key;
        if !key.starts_with(&prefix) {
            break;
        }
        for version in segment.versions(&key, Seq(u64::MAX)) {
            let seq = version?.seq;
            let record = segment.record(seq)?.record;
            let wrong = |what: String| {
                let path = path.display();
                let what = format!("{path}: record {seq} links an epoch to the one before it, and {what}");
                Error::new(Code::Corrupt, what)
            };
            let link = Some(&record).filter(|record| record.op == Op::Put);
            let link = link.and_then(|record| Link::decode(&record.value).ok());
            let link = link.filter(|link| Link::key(link.epoch) == key[..]);
            let link = link.ok_or_else(|| wrong("cannot be read".to_owned()))?;
            let root = root_before(segment, seq)?;
            if (link.size, link.root) != (seq.0, root) {
                let Link { size, root: said, .. } = &link;
                return Err(wrong(format!(
                    "says that this was a tree of {size} records with root {said}; it is one of {seq} with root {root}"
                )));
            }
            links.insert(seq.0, link);
        }
    }
    Ok(links)
}

/// Root of the tree of all records before this one of the segment.
fn root_before(segment: &Segment, seq: Seq) -> Result<Hash> {
    let summary = segment.summary();
    // It has been verified with all its leaves.
    let mut frontier = Frontier::decode(&summary.frontier_before)
        .map_err(|error| Error::new(Code::Corrupt, error.to_string()))?;
    let leaves = segment.leaf_hashes(summary.head.first_seq..seq)?;
    leaves.as_chunks::<LEAF_HASH_BYTES>().0.iter().for_each(|leaf| frontier.append(Hash(*leaf)));
    Ok(frontier.root())
}

/// Checks that the links of a ledger go on from each other, and agree with those `notes` that cover no more than is
/// here. `ledger` is whose they have to be, where that is known.
///
/// # Errors
/// [`Code::Corrupt`] with the first link that does not fit.
pub(super) fn check_order(links: &Links, notes: &[&Note], ledger: Option<&str>) -> Result<()> {
    let mut ledger = ledger.map(str::to_owned);
    let (mut epoch, mut covered) = (1, 0);
    for (seq, link) in links {
        let wrong = |what: String| {
            let what = format!("record {seq} links epoch {} to the one before it: {what}", link.epoch);
            Err(Error::new(Code::Corrupt, what))
        };
        if let Some(ledger) = ledger.as_ref().filter(|ledger| **ledger != link.ledger) {
            return wrong(format!("it is of the ledger {}, and what is before it of {ledger}", link.ledger));
        }
        if link.epoch <= epoch {
            return wrong(format!("that is epoch {epoch} already"));
        }
        let named = epoch_in(&link.origin);
        if named.is_some_and(|named| !(epoch..link.epoch).contains(&named)) {
            return wrong(format!("it names the log {}, which is of another epoch", link.origin));
        }
        let of_before = || {
            let covers = covered + 1..=link.size;
            notes.iter().filter(move |note| covers.contains(&note.checkpoint.size()))
        };
        if let Some(note) = of_before().next()
            && !of_before().any(|note| note.origin() == link.origin)
        {
            let (signed, named) = (note.origin(), &link.origin);
            return wrong(format!("it names the log {named}, and what is before it was signed as {signed}"));
        }
        (epoch, covered) = (link.epoch, link.size);
        ledger = Some(link.ledger.clone());
    }
    Ok(())
}

/// The epoch that the name of a log tells, where it is one that a node has by default: `scribe/<cluster>/<epoch>`.
fn epoch_in(origin: &str) -> Option<u32> {
    let (_, epoch) = origin.strip_prefix("scribe/")?.split_once('/')?;
    epoch.parse().ok()
}
