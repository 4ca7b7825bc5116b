//! Which cluster may write to an archive: an object at its top that names one epoch and one cluster.
//!
//! ```text
//! scribe-ledger fence 1\n
//! epoch 2\n                  no leading zeros
//! cluster 32 hex digits\n    which of the clusters that call this epoch theirs
//! check 64 hex digits\n      BLAKE3 of all before it; fences of older builds have none, until they are claimed again
//! ```
//!
//! The founder claims epoch 1; a cluster that was restored claims a later one, and whoever has an earlier one stops
//! archiving, although it may still run: two clusters that go on from one ledger are two ledgers. Of two that claim
//! the same epoch the first has it. A claim stays until a later epoch's.
//!
//! Takes a store and who claims, gives `Ok` or who has it. It does not own when that is asked: at the start of
//! whoever archives, and again before each entry of the manifest. A store that does not honour `If-Match` lets two
//! claims of one moment both through, until they ask again.

use bytes::Bytes;

use super::{
    layout::{self, Epoch},
    marker::LedgerId,
    store::{Object, Result, Store, StoreError, Swap, Trouble},
};

/// An epoch, and the cluster whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which life of the ledger.
    pub epoch: Epoch,
    /// The cluster's own id: that of the ledger in epoch 1, drawn anew by each restore.
    pub cluster: LedgerId,
}

const FIRST_LINE: &str = "scribe-ledger fence 1";

const CHECK: &str = "check ";

/// How often others may be faster.
const TRIES: usize = 10;

impl Claim {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> String {
        let text = self.without_check();
        format!("{text}{CHECK}{}\n", blake3::hash(text.as_bytes()).to_hex())
    }

    fn without_check(&self) -> String {
        format!("{FIRST_LINE}\nepoch {}\ncluster {}\n", self.epoch.0, self.cluster)
    }

    /// Reads what [`Claim::encode`] writes, with or without the line that checks it, and nothing else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let rest = text.strip_prefix(FIRST_LINE)?.strip_prefix("\nepoch ")?;
        let (epoch, rest) = rest.split_once("\ncluster ")?;
        let (cluster, _) = rest.split_once('\n')?;
        let claim = Self { epoch: Epoch(epoch.parse().ok()?), cluster: LedgerId::parse(cluster)? };
        [claim.encode(), claim.without_check()].contains(&text.to_owned()).then_some(claim)
    }
}

/// Who may write; `None` where nobody has claimed that yet.
///
/// # Errors
/// As the store's; [`Trouble::Broken`] for an object that is no fence, or a damaged one.
pub async fn holder(store: &dyn Store) -> Result<Option<Claim>> {
    Ok(look(store).await?.map(|(claim, _)| claim))
}

async fn look(store: &dyn Store) -> Result<Option<(Claim, Object)>> {
    let name = layout::fence();
    let object = match store.get(&name).await {
        Ok(object) => object,
        Err(error) if error.trouble() == Trouble::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match Claim::decode(&object.bytes) {
        Some(claim) => Ok(Some((claim, object))),
        None => {
            let place = store.place();
            let what = match object.bytes.starts_with(FIRST_LINE.as_bytes()) {
                true => format!(
                    "{name} in {place} is damaged, so that nobody can tell which cluster may write there: stop all \
                     clusters of the ledger but the newest, and remove it; that one claims the archive anew"
                ),
                false => format!(
                    "{name} in {place} is no fence: find out what wrote there, and put it right before anything is \
                     archived"
                ),
            };
            Err(StoreError::new(Trouble::Broken, what))
        }
    }
}

/// Claims the archive, or finds that it is claimed already, for the same. It can be called again at any time.
///
/// # Errors
/// [`Trouble::Denied`] when another cluster has it: whoever asked has to stop archiving; others as the store's.
pub async fn claim(store: &dyn Store, own: Claim) -> Result<()> {
    for _ in 0..TRIES {
        let there = look(store).await?;
        if let Some((holder, object)) = &there {
            // One that an older build has written is given its check.
            if *holder == own && object.bytes == own.encode() {
                return Ok(());
            }
            if *holder != own && holder.epoch >= own.epoch {
                return Err(taken(store, own, *holder));
            }
        }
        let version = there.as_ref().map(|(_, object)| &object.version);
        // Whatever comes of it, the next look tells: also where two were let through.
        let _: Swap = store.compare_and_set(&layout::fence(), version, Bytes::from(own.encode())).await?;
    }
    let what = format!("{} in {} changes all the time: try again later", layout::fence(), store.place());
    Err(StoreError::new(Trouble::Away, what))
}

fn taken(store: &dyn Store, own: Claim, holder: Claim) -> StoreError {
    let (place, Claim { epoch, cluster }) = (store.place(), holder);
    let what = if epoch > own.epoch {
        format!(
            "{place} belongs to epoch {} of the ledger now: the cluster {cluster} was restored from it and goes on \
             there. This one, of epoch {}, archives no more; retire it, or give it another place",
            epoch.0, own.epoch.0
        )
    } else {
        format!(
            "epoch {} of the ledger in {place} belongs to the cluster {cluster}, not to {}: both were restored from \
             the same archive. Give one of them another place, or restore it anew, into the next epoch",
            epoch.0, own.cluster
        )
    };
    StoreError::new(Trouble::Denied, what)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        archive::DirectoryStore,
        sim::{Failure, Fault, Op, SimIo, runtime},
    };

    fn of(epoch: u32, cluster: u8) -> Claim {
        Claim { epoch: Epoch(epoch), cluster: LedgerId([cluster; 16]) }
    }

    fn store(io: &SimIo, owner: u64) -> DirectoryStore {
        DirectoryStore::new(Arc::new(io.clone()), Path::new("/archive"), owner)
    }

    proptest! {
        #[test]
        fn claims_read_back_and_nothing_else_does(
            epoch: u32, cluster: [u8; 16], at in any::<prop::sample::Index>(), byte: u8,
        ) {
            let claim = Claim { epoch: Epoch(epoch), cluster: LedgerId(cluster) };
            let mut bytes = claim.encode().into_bytes();
            prop_assert_eq!(Claim::decode(&bytes), Some(claim));
            prop_assert_eq!(Claim::decode(&bytes[..bytes.len() - 1]), None);
            let at = at.index(bytes.len());
            let was = std::mem::replace(&mut bytes[at], byte);
            prop_assert_eq!(Claim::decode(&bytes) == Some(claim), was == byte);
        }
    }

    #[test]
    fn a_later_epoch_takes_over_and_an_earlier_one_is_told() {
        runtime(1).block_on(async {
            let io = SimIo::new(1);
            let store = store(&io, 1);
            assert_eq!(holder(&store).await.unwrap(), None);
            claim(&store, of(1, 7)).await.unwrap();
            claim(&store, of(1, 7)).await.unwrap();
            let error = claim(&store, of(1, 8)).await.unwrap_err();
            assert_eq!(error.trouble(), Trouble::Denied);
            assert!(error.to_string().contains("not to 08080808"), "{error}");
            claim(&store, of(2, 8)).await.unwrap();
            let error = claim(&store, of(1, 7)).await.unwrap_err();
            assert_eq!(error.trouble(), Trouble::Denied);
            assert!(error.to_string().contains("belongs to epoch 2"), "{error}");
            assert_eq!(holder(&store).await.unwrap(), Some(of(2, 8)));
        });
    }

    #[test]
    fn a_fence_is_the_golden_one_and_one_without_a_check_gets_it() {
        let claim = of(2, 0xfe);
        let old = "scribe-ledger fence 1\nepoch 2\ncluster fefefefefefefefefefefefefefefefe\n";
        let check = "check a65a8ea6f47d3fd6f6af6a7ea51f75de30fc4c87a6f6b1a14eac333ecfb04eb9\n";
        assert_eq!(claim.encode(), format!("{old}{check}"));
        assert_eq!(Claim::decode(old.as_bytes()), Some(claim));
        runtime(1).block_on(async {
            let io = SimIo::new(1);
            let store = store(&io, 1);
            store.compare_and_set(&layout::fence(), None, Bytes::from_static(old.as_bytes())).await.unwrap();
            assert_eq!(holder(&store).await.unwrap(), Some(claim));
            // It keeps others out as it is.
            assert_eq!(super::claim(&store, of(2, 1)).await.unwrap_err().trouble(), Trouble::Denied);
            super::claim(&store, claim).await.unwrap();
            assert_eq!(store.get(&layout::fence()).await.unwrap().bytes, claim.encode());
        });
    }

    #[test]
    fn damage_is_said_by_name_with_what_to_do() {
        let whole = of(1, 7).encode();
        for (was, is) in [("epoch 1", "epoch 9"), ("cluster 0707", "cluster 0708"), ("check ", "check 0")] {
            runtime(1).block_on(async {
                let io = SimIo::new(1);
                let store = store(&io, 1);
                let bytes = Bytes::from(whole.replace(was, is));
                store.compare_and_set(&layout::fence(), None, bytes).await.unwrap();
                for error in [claim(&store, of(1, 7)).await.unwrap_err(), holder(&store).await.unwrap_err()] {
                    assert_eq!(error.trouble(), Trouble::Broken);
                    let says = "writer.fence in /archive is damaged";
                    assert!(
                        error.to_string().contains(says) && error.to_string().contains("remove it"),
                        "{error}"
                    );
                }
            });
        }
    }

    #[test]
    fn what_is_no_fence_is_left_alone() {
        runtime(1).block_on(async {
            let io = SimIo::new(1);
            let store = store(&io, 1);
            store.compare_and_set(&layout::fence(), None, Bytes::from_static(b"mine")).await.unwrap();
            assert_eq!(claim(&store, of(9, 1)).await.unwrap_err().trouble(), Trouble::Broken);
            assert_eq!(store.get(&layout::fence()).await.unwrap().bytes, "mine");
        });
    }

    /// Whatever breaks off, there is one holder afterwards, and a claim that was granted stays.
    #[test]
    fn of_two_one_has_it_whatever_fails() {
        for nth in 0..40 {
            for failure in [Failure::NotDone, Failure::Done, Failure::Crash] {
                let io = SimIo::new(nth);
                io.arm(Fault { op: Op::Any, nth, failure });
                let first = runtime(nth).block_on(claim(&store(&io, 1), of(2, 1)));
                io.disarm();
                if failure == Failure::Crash {
                    io.crash();
                    io.restart();
                }
                let second = runtime(nth).block_on(claim(&store(&io, 2), of(2, 2)));
                let holder = runtime(nth).block_on(holder(&store(&io, 3))).unwrap();
                assert_eq!(
                    holder,
                    Some(if second.is_ok() { of(2, 2) } else { of(2, 1) }),
                    "{nth} {failure:?}"
                );
                assert!(!(first.is_ok() && second.is_ok()), "{nth} {failure:?}: both have it");
            }
        }
    }
}
