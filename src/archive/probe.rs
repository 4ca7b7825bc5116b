//! What a start asks of a store before it relies on it.
//!
//! ```text
//! list ─► the marker: written, or read and compared ─► put twice ─► replace, then as if it had not been ─► report
//!  credentials, bucket      whose archive it is      If-None-Match?            If-Match?
//! ```
//!
//! Takes a store and whose ledger is to be archived, gives what the store honours and sentences for the operator. It
//! writes three small objects, the same ones at each start. Several nodes may probe one store at once. Where it is not
//! decided yet whose archive it will be, a store that is nobody's is tried out without the marker.

use bytes::Bytes;

use super::{
    layout,
    marker::{LedgerId, Marker, StoreId},
    store::{Put, Result, Store, StoreError, Swap, Trouble},
};
use crate::env::Rng;

/// What a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which store it is: nodes that see the same id see the same objects.
    pub store: StoreId,
    /// Whether an object that is there is never written over.
    pub keeps_what_is_there: bool,
    /// Whether a replacement is refused when the object has changed.
    pub compares_before_it_sets: bool,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Tries a store out.
///
/// # Errors
/// [`Trouble::Denied`] when it is not to be used: credentials, bucket, or an archive of another ledger. Others as
/// the store's.
pub async fn probe(store: &dyn Store, ledger: LedgerId, rng: &dyn Rng) -> Result<Report> {
    store.list("", None).await?;
    let store_id = mark(store, ledger, rng).await?;
    let (keeps_what_is_there, compares_before_it_sets) =
        (keeps_what_is_there(store).await?, compares_before_it_sets(store, rng).await?);
    let warnings = warnings(store.place(), keeps_what_is_there, compares_before_it_sets);
    Ok(Report { store: store_id, keeps_what_is_there, compares_before_it_sets, warnings })
}

/// Tries a store out that is nobody's archive yet; of one that is somebody's, only whether it answers. What an operator
/// should know.
///
/// # Errors
/// As [`probe`].
pub async fn try_out(store: &dyn Store, rng: &dyn Rng) -> Result<Vec<String>> {
    store.list("", None).await?;
    match store.get(&layout::marker()).await {
        Ok(_) => Ok(Vec::new()),
        Err(error) if error.trouble() == Trouble::NotFound => {
            let (keeps, compares) =
                (keeps_what_is_there(store).await?, compares_before_it_sets(store, rng).await?);
            Ok(warnings(store.place(), keeps, compares))
        }
        Err(error) => Err(error),
    }
}

fn warnings(place: &str, keeps_what_is_there: bool, compares_before_it_sets: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if !keeps_what_is_there {
        warnings.push(format!(
            "{place} does not honour If-None-Match: two leaders at once may write over each other's objects there. \
             Names have the hash of what they name, so nothing is lost; let no second ledger write there"
        ));
    }
    if !compares_before_it_sets {
        warnings.push(format!(
            "{place} does not honour If-Match: it cannot keep two clusters that were restored from it apart. Restore \
             from it once at a time"
        ));
    }
    warnings
}

/// Writes the marker, or reads the one that is there.
async fn mark(store: &dyn Store, ledger: LedgerId, rng: &dyn Rng) -> Result<StoreId> {
    let name = layout::marker();
    // A store that does not honour If-None-Match would write over it: so look first.
    let there = match store.get(&name).await {
        Ok(object) => object,
        Err(error) if error.trouble() == Trouble::NotFound => {
            let own = Marker { ledger, store: StoreId(random(rng)) };
            store.put_once(&name, Bytes::from(own.encode()).into()).await?;
            // Whoever else wrote one at the same time, all read the same one now.
            store.get(&name).await?
        }
        Err(error) => return Err(error),
    };
    let place = store.place();
    match Marker::decode(&there.bytes) {
        Some(marker) if marker.ledger == ledger => Ok(marker.store),
        Some(marker) => {
            let what = format!(
                "{place} is the archive of the ledger {}, not of {ledger}: take another bucket, prefix or directory",
                marker.ledger
            );
            Err(StoreError::new(Trouble::Denied, what))
        }
        None => {
            let what =
                format!("{name} in {place} is no marker of an archive: take another place, or put it right");
            Err(StoreError::new(Trouble::Broken, what))
        }
    }
}

async fn keeps_what_is_there(store: &dyn Store) -> Result<bool> {
    let name = layout::probe("once.txt");
    let first = store.put_once(&name, Bytes::from_static(b"first\n").into()).await?;
    // Conflict: an earlier start has found the store not to, and it does now.
    let second = store.put_once(&name, Bytes::from_static(b"second\n").into()).await?;
    Ok(match (first, second) {
        (Put::Conflict, Put::AlreadyThereSame) => true,
        (_, second) => second == Put::Conflict,
    })
}

/// How often another node may be faster.
const TRIES: usize = 10;

async fn compares_before_it_sets(store: &dyn Store, rng: &dyn Rng) -> Result<bool> {
    let name = layout::probe("swap.txt");
    let own = || Bytes::from(format!("{:032x}\n", u128::from_be_bytes(random(rng))));
    for _ in 0..TRIES {
        let before = match store.get(&name).await {
            Ok(object) => object.version,
            Err(error) if error.trouble() == Trouble::NotFound => {
                // With another condition than the one that is tried out, and looked at again.
                store.put_once(&name, own().into()).await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        match store.compare_and_set(&name, Some(&before), own()).await {
            Ok(Swap::Done(_)) => {}
            Ok(Swap::Changed(_)) => continue,
            Err(error) if error.trouble() == Trouble::Broken => return Ok(false),
            Err(error) => return Err(error),
        }
        // It is not as it was before any more, so this must not happen.
        return match store.compare_and_set(&name, Some(&before), own()).await {
            Ok(swap) => Ok(matches!(swap, Swap::Changed(_))),
            Err(error) if error.trouble() == Trouble::Broken => Ok(false),
            Err(error) => Err(error),
        };
    }
    let what = format!("{name} in {} changes all the time: try again later", store.place());
    Err(StoreError::new(Trouble::Away, what))
}

fn random(rng: &dyn Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    bytes[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
    bytes
}
