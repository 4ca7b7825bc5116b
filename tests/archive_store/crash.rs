//! A directory whose power goes: an object is there whole or not there, a replaced one is the old or the new, and a
//! manifest is a shorter ledger.
//!
//! Every operation that changes the disk fails once in every way. Planted bugs show that the harness sees what it
//! should.

use std::{io::ErrorKind, path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use scribe_ledger::{
    archive::{
        DirectoryStore, Epoch, Manifest, Store, Tip, Trouble,
        name::Name,
        store::{Body, Put, Swap},
    },
    env::{Io, OpenMode, real::RealIo},
    sim::{Failure, Fault, Op, SimIo},
};

use crate::{
    careless::Careless,
    ledger::{LEDGER, ledger},
    objects::{add_all, restore},
    simulated_directory,
    way::Behind,
};

/// What a life does to a store; whether all of it was said to be done.
type Work<'a> = &'a dyn Fn(Arc<dyn Store>, Arc<dyn Io>) -> BoxFuture<'a, bool>;

/// What the next life finds; an error says what is wrong. It is told whether the life before was done.
type Check<'a> = &'a dyn Fn(Arc<dyn Store>, bool) -> BoxFuture<'a, Result<(), String>>;

/// Lets every operation of `work` fail in every way. The first history that goes wrong.
async fn hunt(
    seeds: u64,
    disk: &dyn Fn(SimIo) -> Arc<dyn Io>,
    work: Work<'_>,
    check: Check<'_>,
) -> (u64, Option<String>) {
    let store = |sim: &SimIo| -> Arc<dyn Store> {
        Arc::new(DirectoryStore::new(disk(sim.clone()), Path::new("/archive"), 1))
    };
    let whole = SimIo::new(0);
    assert!(work(store(&whole), disk(whole.clone())).await);
    let mut histories = 0;
    for nth in 0..whole.ops() {
        for failure in [Failure::NotDone, Failure::Done, Failure::NoSpace, Failure::Crash] {
            for seed in 0..seeds {
                histories += 1;
                let sim = SimIo::new(seed);
                sim.arm(Fault { op: Op::Any, nth, failure });
                let done = work(store(&sim), disk(sim.clone())).await;
                if !sim.is_down() && !seed.is_multiple_of(3) {
                    sim.crash();
                }
                if sim.is_down() {
                    sim.restart();
                } else {
                    sim.kill();
                }
                let what = match check(store(&sim), done).await {
                    // The next life does it, whatever the one before has left.
                    Ok(()) if work(store(&sim), disk(sim.clone())).await => {
                        sim.crash();
                        sim.restart();
                        check(store(&sim), true).await
                    }
                    Ok(()) => Err("it cannot be done again".into()),
                    Err(what) => Err(what),
                };
                if let Err(what) = what {
                    return (histories, Some(format!("seed {seed}, operation {nth} {failure:?}: {what}")));
                }
            }
        }
    }
    (histories, None)
}

fn object() -> (Name, Bytes) {
    // Many sectors, so that a lost sync tears it.
    let bytes: Vec<u8> = (0..5_000u32).map(|n| (n * 7 / 3) as u8).collect();
    (Name::parse("some/dir/object.bin").unwrap(), bytes.into())
}

fn put(store: Arc<dyn Store>, _: Arc<dyn Io>) -> BoxFuture<'static, bool> {
    Box::pin(async move {
        let (name, bytes) = object();
        match store.put_once(&name, bytes.into()).await {
            Ok(put) => {
                assert_ne!(put, Put::Conflict, "an unfinished object has a name");
                true
            }
            Err(_) => false,
        }
    })
}

/// From a file of the same disk, as packed segments are.
fn put_file(store: Arc<dyn Store>, io: Arc<dyn Io>) -> BoxFuture<'static, bool> {
    Box::pin(async move {
        let ((name, bytes), path) = (object(), Path::new("/staging/object"));
        let stage = || {
            match io.remove(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = io.open(path, OpenMode::Buffered)?;
            file.write_at(&bytes, 0).map(|()| file)
        };
        let Ok(file) = stage() else { return false };
        let body = Body::File { file, bytes: bytes.len() as u64, path: Some(path.into()) };
        match store.put_once(&name, body).await {
            Ok(put) => {
                assert_ne!(put, Put::Conflict, "an unfinished object has a name");
                io.remove(path).is_ok()
            }
            Err(_) => false,
        }
    })
}

fn is_there_or_not(store: Arc<dyn Store>, done: bool) -> BoxFuture<'static, Result<(), String>> {
    Box::pin(async move {
        let (name, bytes) = object();
        match store.get(&name).await {
            Ok(object) if object.bytes == bytes => Ok(()),
            Ok(_) => Err("it is there, and not whole".into()),
            Err(error) if error.trouble() == Trouble::NotFound && !done => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
}

fn swap(store: Arc<dyn Store>, _: Arc<dyn Io>) -> BoxFuture<'static, bool> {
    Box::pin(async move {
        let (name, bytes) = object();
        let old = Bytes::from(vec![1; 3_000]);
        for bytes in [old, bytes] {
            let (there, version) = match store.get(&name).await {
                Ok(object) => (Some(object.bytes), Some(object.version)),
                Err(error) if error.trouble() == Trouble::NotFound => (None, None),
                Err(_) => return false,
            };
            // The life before has come that far.
            if there.is_some_and(|there| there.len() >= bytes.len()) {
                continue;
            }
            match store.compare_and_set(&name, version.as_ref(), bytes).await {
                Ok(Swap::Done(_)) => {}
                Ok(Swap::Changed(_)) => panic!("nobody else is there"),
                Err(_) => return false,
            }
        }
        true
    })
}

fn is_old_or_new(store: Arc<dyn Store>, done: bool) -> BoxFuture<'static, Result<(), String>> {
    Box::pin(async move {
        let (name, new) = object();
        match store.get(&name).await {
            Ok(object) if object.bytes == new => Ok(()),
            Ok(object) if object.bytes == vec![1; 3_000] && !done => Ok(()),
            Ok(object) => Err(format!("{} bytes are there, done: {done}", object.bytes.len())),
            Err(error) if error.trouble() == Trouble::NotFound && !done => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
}

#[tokio::test]
async fn an_object_is_there_whole_or_not_there() {
    for put in [&put as Work<'_>, &put_file] {
        let (histories, wrong) = hunt(12, &|sim| Arc::new(sim), put, &is_there_or_not).await;
        assert_eq!(wrong, None);
        assert!(histories > 200, "{histories}");
    }
}

#[tokio::test]
async fn a_replaced_object_is_the_old_or_the_new() {
    let (histories, wrong) = hunt(12, &|sim| Arc::new(sim), &swap, &is_old_or_new).await;
    assert_eq!(wrong, None);
    assert!(histories > 300, "{histories}");
}

#[tokio::test]
async fn a_manifest_is_a_shorter_ledger_wherever_the_power_goes() {
    let ledger = ledger(&[30, 0, 20]);
    let work = |store: Arc<dyn Store>, _: Arc<dyn Io>| -> BoxFuture<'_, bool> {
        let ledger = &ledger;
        Box::pin(async move {
            let manifest = Manifest::new(store, LEDGER, Epoch::FIRST);
            let Ok(mut tip) = manifest.follow(Tip::default(), |_| Ok(())).await else { return false };
            add_all(&manifest, ledger, &mut tip).await.is_ok()
        })
    };
    let check = |store: Arc<dyn Store>, done: bool| -> BoxFuture<'_, Result<(), String>> {
        let ledger = &ledger;
        Box::pin(async move {
            match restore(&store, ledger).await {
                Ok(3) => Ok(()),
                Ok(_) if !done => Ok(()),
                Ok(count) => Err(format!("{count} segments of 3")),
                Err(error) => Err(error.to_string()),
            }
        })
    };
    let (histories, wrong) = hunt(2, &|sim| Arc::new(sim), &work, &check).await;
    assert_eq!(wrong, None);
    assert!(histories > 300, "{histories}");
}

#[tokio::test]
async fn planted_bugs_are_caught() {
    for (syncs_files, syncs_names) in [(false, true), (true, false)] {
        let careless =
            |sim| -> Arc<dyn Io> { Arc::new(Behind::new(Careless { sim, syncs_files, syncs_names })) };
        let there: Check<'_> = &is_there_or_not;
        for (work, check) in [(&put as Work<'_>, there), (&put_file, there), (&swap, &is_old_or_new)] {
            // What is found half written may as well end the history.
            let hunted = std::panic::AssertUnwindSafe(hunt(6, &careless, work, check));
            let found = futures_util::FutureExt::catch_unwind(hunted).await;
            let caught = found.map_or(true, |(_, wrong)| wrong.is_some());
            assert!(caught, "files synced {syncs_files}, names synced {syncs_names}: nothing went wrong");
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full_and_leaves_nothing_behind() {
    let io = SimIo::new(1);
    let store = simulated_directory(&io);
    let (name, bytes) = object();
    io.set_capacity(Some(1_000));
    let error = store.put_once(&name, bytes.clone().into()).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Full, "{error}");
    assert!(io.list(Path::new("/archive/some/dir")).unwrap().is_empty());
    io.set_capacity(None);
    assert_eq!(store.put_once(&name, bytes.into()).await.unwrap(), Put::Created);
}

/// What an earlier life has left goes when the next one writes there; another node's stays.
#[tokio::test]
async fn unfinished_files_go_with_the_next_life() {
    let io = SimIo::new(1);
    let dir = Path::new("/archive/some/dir");
    for name in [".tmp-1-99", ".tmp-12-0", ".tmp-2-7"] {
        io.open(&dir.join(name), OpenMode::Buffered).unwrap();
    }
    assert!(put(simulated_directory(&io), Arc::new(io.clone())).await);
    assert_eq!(io.list(dir).unwrap(), [".tmp-12-0", ".tmp-2-7", "object.bin"]);
}

#[tokio::test]
async fn a_directory_that_was_removed_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> =
        Arc::new(DirectoryStore::new(Arc::new(RealIo::new()), &home.path().join("archive"), 1));
    let (name, bytes) = object();
    assert_eq!(store.put_once(&name, bytes.clone().into()).await.unwrap(), Put::Created);
    std::fs::remove_dir_all(home.path().join("archive/some")).unwrap();
    // Whoever is told of it tries again.
    store.put_once(&name, bytes.clone().into()).await.unwrap_err();
    assert_eq!(store.put_once(&name, bytes.into()).await.unwrap(), Put::Created);
}
