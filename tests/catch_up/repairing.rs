//! Repairs alone: a bit of a sealed file rots, another disk has it whole. Every operation of the rotten disk fails in
//! every way, the power goes, what is fetched is wrong; after each, the file is the old one or the right one.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use scribe_ledger::{
    cluster::repair::{Repairs, SegmentSource},
    env::{File, Io, OpenMode},
    error::{Code, Error, Result},
    sealed::Sealed,
    segment::{SegmentSummary, file_name},
    sim::{self, Fault, SimIo},
    types::{SegmentId, Seq},
};
use tokio::time::sleep;

use super::{
    fetching::{FAILURES, SMALL_PARTS, fetch, leaders_disk, open},
    group::{DATA, sealed},
};

/// The segment that rots, and a record in it.
const ROTTEN: SegmentId = SegmentId(1);

fn path(id: SegmentId) -> std::path::PathBuf {
    Path::new(DATA).join("segments").join(file_name(id))
}

fn bytes(disk: &SimIo, id: SegmentId) -> Vec<u8> {
    let file = disk.open(&path(id), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Another disk, and how often it was asked.
struct Elsewhere {
    disk: SimIo,
    /// Gives another segment than the one that is wanted.
    gives_another: bool,
    /// Flips a bit of what it gives.
    spoils: bool,
    asked: Arc<AtomicUsize>,
}

impl SegmentSource for Elsewhere {
    fn name(&self) -> String {
        "the other disk".into()
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a SegmentSummary,
        file: &'a Arc<dyn File>,
        _path: &'a Path,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Relaxed);
            // Others come meanwhile.
            sleep(Duration::from_millis(10)).await;
            let id = if self.gives_another { SegmentId(wanted.id().0 + 1) } else { wanted.id() };
            let mut bytes = bytes(&self.disk, id);
            if self.spoils {
                let at = bytes.len() / 3;
                bytes[at] ^= 4;
            }
            file.write_at(&bytes, 0).map_err(|error| Error::io("writing", &error))
        })
    }
}

/// A disk with all segments, one of them rotten, and a record that cannot be read.
fn rotten(leader: &SimIo, seed: u64) -> (SimIo, Seq) {
    let disk = SimIo::new(seed);
    fetch(leader, &disk, seed, 0, SMALL_PARTS).1.unwrap();
    let here = open(&disk).unwrap();
    let seq = here.segments()[ROTTEN.0 as usize].summary().head.first_seq;
    let value = here.record(seq).unwrap().unwrap().value;
    let bytes = bytes(&disk, ROTTEN);
    let at = bytes.windows(value.len()).position(|bytes| *bytes == value).unwrap();
    disk.flip_bit(&path(ROTTEN), at as u64, 3).unwrap();
    (disk, seq)
}

/// A try to read a record, whose segment is repaired from `whole` if need be.
async fn read(repairs: &Repairs, sealed: &Sealed, seq: Seq) -> Result<Vec<u8>> {
    let value = || sealed.record(seq).map(|record| record.unwrap().value.to_vec());
    match value() {
        Err(damage) => {
            assert!(damage.damaged_segment() == Some(ROTTEN) || damage.code() == Code::Io, "{damage}");
            repairs.repair(damage).await?;
            value()
        }
        whole => whole,
    }
}

fn repairs(here: &Arc<Sealed>, sources: impl Fn() -> Vec<Elsewhere> + Send + Sync + 'static) -> Repairs {
    let boxed = |source| -> Box<dyn SegmentSource> { Box::new(source) };
    Repairs::new(here.clone(), Box::new(move || sources().into_iter().map(boxed).collect()), 0)
}

fn elsewhere(disk: &SimIo, asked: &Arc<AtomicUsize>) -> Elsewhere {
    Elsewhere { disk: disk.clone(), gives_another: false, spoils: false, asked: asked.clone() }
}

#[test]
fn every_operation_fails_and_the_file_is_the_old_one_or_the_right_one() {
    let leader = leaders_disk();
    let right = sealed(&leader).unwrap();
    let value = open(&leader).unwrap().record(rotten(&leader, 1).1).unwrap().unwrap().value.to_vec();
    let mut failed = 0;
    for nth in 0..40 {
        for (failure, op) in FAILURES {
            let what = format!("{failure:?} at {nth}");
            let (disk, seq) = rotten(&leader, nth);
            let (old, whole) = (bytes(&disk, ROTTEN), bytes(&leader, ROTTEN));
            let is_either = |disk: &SimIo| {
                let now = bytes(disk, ROTTEN);
                assert!(now == old || now == whole, "{what}: neither the old file nor the right one");
                now == whole
            };
            sim::runtime(nth).block_on(async {
                let (here, source) = (open(&disk).unwrap(), leader.clone());
                let repairs = repairs(&here, move || vec![elsewhere(&source, &Arc::default())]);
                disk.arm(Fault { op, nth, failure });
                let first = read(&repairs, &here, seq).await;
                disk.disarm();
                match first {
                    Ok(read) => assert_eq!(read, value, "{what}"),
                    Err(_) => failed += 1,
                }
                if disk.is_down() || nth % 2 == 0 {
                    disk.crash();
                    disk.restart();
                    is_either(&disk);
                } else {
                    is_either(&disk);
                    sleep(Duration::from_secs(2)).await;
                    assert_eq!(read(&repairs, &here, seq).await.unwrap(), value, "{what}: tried again");
                }
            });
            // As after a start.
            let (again, source) = (open(&disk).unwrap(), leader.clone());
            sim::runtime(nth).block_on(async {
                let repairs = repairs(&again, move || vec![elsewhere(&source, &Arc::default())]);
                assert_eq!(read(&repairs, &again, seq).await.unwrap(), value, "{what}");
            });
            disk.crash();
            disk.restart();
            assert!(is_either(&disk), "{what}");
            assert_eq!(sealed(&disk).unwrap(), right, "{what}");
        }
    }
    assert!(failed > 10, "{failed} repairs failed");
}

#[test]
fn many_readers_wait_for_one_repair_and_what_is_wrong_is_not_taken() {
    let leader = leaders_disk();
    let (disk, seq) = rotten(&leader, 3);
    let old = bytes(&disk, ROTTEN);
    sim::runtime(3).block_on(async {
        let here = open(&disk).unwrap();
        // What a reader of the old file says.
        let damage = || open(&disk).unwrap().record(seq).unwrap_err();
        let alone = repairs(&here, Vec::new);
        let said = alone.repair(damage()).await.unwrap_err();
        assert_eq!(said, damage(), "there is nowhere else");

        let asked = Arc::<AtomicUsize>::default();
        let wrong = {
            let (leader, asked) = (leader.clone(), asked.clone());
            repairs(&here, move || {
                let other = || elsewhere(&leader, &asked);
                vec![Elsewhere { spoils: true, ..other() }, Elsewhere { gives_another: true, ..other() }]
            })
        };
        let said = wrong.repair(damage()).await.unwrap_err();
        for part in ["segment 1 could not be repaired now", "the other disk", "start the other members"] {
            assert!(said.message().contains(part), "{said}");
        }
        assert_eq!((said.code(), asked.load(Relaxed), wrong.repaired()), (Code::Corrupt, 2, 0));
        assert_eq!(wrong.repair(damage()).await.unwrap_err(), said, "the same for a while");
        assert_eq!((asked.load(Relaxed), bytes(&disk, ROTTEN) == old), (2, true));

        let right = {
            let (leader, asked) = (leader.clone(), asked.clone());
            repairs(&here, move || {
                vec![Elsewhere { spoils: true, ..elsewhere(&leader, &asked) }, elsewhere(&leader, &asked)]
            })
        };
        let readers = (0..20).map(|_| right.repair(damage()));
        let read = futures_util::future::join_all(readers).await;
        assert!(read.iter().all(Result::is_ok), "{read:?}");
        assert_eq!((asked.load(Relaxed), right.repaired()), (4, 1), "one after the other, once");
    });
    assert_eq!(sealed(&disk).unwrap(), sealed(&leader).unwrap());
}
