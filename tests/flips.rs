//! Rot: single bits that change in the files of a ledger that was stopped cleanly.
//!
//! Whatever is flipped in a log, segment or index file, a reader is told or gets what was written; never anything
//! else. An index may be wrong as it likes: it is built again.

#[path = "common/damage.rs"]
mod damage;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use damage::{Original, files, flip};
use scribe_ledger::{
    Ledger,
    config::Config,
    env::Rng,
    error::Code,
    ledger::Batch,
    sim::SimRng,
    types::{Op, Seq},
};

/// Places that are flipped; `FLIPS` asks for another number.
const FLIPS: usize = 1_000;

const KEYS: u64 = 60;
const BATCHES: u64 = 40;
const BATCH: u64 = 50;

/// What was written: by position.
type Written = Vec<(Op, Vec<u8>, Vec<u8>)>;

fn config(data_dir: &Path) -> Config {
    let mut config = Config::default();
    config.node.data_dir = data_dir.to_path_buf();
    config.wal.file_bytes = 128 << 10;
    config.wal.keep_bytes = 16 << 10;
    config.wal.disk_free_bytes_min = 0;
    config.storage.segment_size = 8 << 10;
    config
}

fn fill(dir: &Path) -> Written {
    let ledger = Ledger::open_with(&config(dir)).unwrap();
    let rng = SimRng::new(7);
    let mut written = Written::new();
    for _ in 0..BATCHES {
        let mut batch = Batch::new();
        for _ in 0..BATCH {
            let key = format!("key-{}", rng.below(KEYS)).into_bytes();
            if rng.one_in(8) {
                batch.delete(&key).unwrap();
                written.push((Op::Delete, key, Vec::new()));
            } else {
                let bytes = if rng.one_in(200) { 20 << 10 } else { rng.below(60) };
                let value: Vec<u8> = (0..bytes).map(|_| rng.next_u64() as u8).collect();
                batch.put(&key, &value).unwrap();
                written.push((Op::Put, key, value));
            }
        }
        ledger.apply_batch(batch).unwrap();
    }
    ledger.close().unwrap();
    written
}

/// Reads everything there is in every way. `Ok` when all of it is right; `Err` with what was said.
fn read_all(dir: &Path, written: &Written) -> Result<(), String> {
    let said = |error: scribe_ledger::Error| {
        assert!(matches!(error.code(), Code::Corrupt | Code::Io), "{error}");
        error.to_string()
    };
    let ledger = Ledger::open_with(&config(dir)).map_err(said)?;
    assert_eq!(ledger.next_seq(), Seq(written.len() as u64), "records are missing, and nobody says so");
    let mut versions: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (seq, (_, key, _)) in written.iter().enumerate() {
        versions.entry(key).or_default().push(seq);
    }
    for (key, versions) in &versions {
        let newest = &written[*versions.last().unwrap()];
        let expected = (newest.0 == Op::Put).then_some(&newest.2[..]);
        assert_eq!(ledger.get(key).map_err(said)?.as_deref(), expected);
        let mut expected = versions.iter().rev();
        for record in ledger.history(key) {
            let record = record.map_err(said)?;
            let seq = *expected.next().unwrap();
            let (op, key, value) = &written[seq];
            assert_eq!((record.seq.0, record.op), (seq as u64, *op));
            assert_eq!((&record.key[..], &record.value[..]), (&key[..], &value[..]));
        }
        assert!(expected.next().is_none());
    }
    let live = versions.values().filter(|versions| written[*versions.last().unwrap()].0 == Op::Put).count();
    let scanned = ledger.scan(..).collect::<Result<Vec<_>, _>>().map_err(said)?;
    assert_eq!(scanned.len(), live);
    Ok(())
}

#[test]
fn a_flipped_bit_is_never_served() {
    let home = tempfile::tempdir().unwrap();
    let whole = home.path().join("whole");
    let written = fill(&whole);
    read_all(&whole, &written).unwrap();
    let places: Vec<(PathBuf, u64)> = files(&whole)
        .into_iter()
        .filter(|path| ["wal", "segments", "index"].iter().any(|dir| path.starts_with(whole.join(dir))))
        .map(|path| (path.strip_prefix(&whole).unwrap().to_path_buf(), fs::metadata(&path).unwrap().len()))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    for dir in ["wal/wal-", "segments/segment-", "index/"] {
        assert!(places.iter().any(|(path, _)| path.to_string_lossy().starts_with(dir)), "there is no {dir}");
    }
    let original = Original::read(&whole);
    let flips = std::env::var("FLIPS").map_or(FLIPS, |flips| flips.parse().unwrap());
    let (next, told) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        for thread in 0..2 {
            let (home, original, written, places, next, told) =
                (home.path(), &original, &written, &places, &next, &told);
            threads.spawn(move || {
                let dir = home.join(format!("flipped-{thread}"));
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= flips {
                        break;
                    }
                    let rng = SimRng::new(number as u64);
                    // Every file in its turn, small ones too.
                    let (path, bytes) = &places[number % places.len()];
                    let (at, bit) = (rng.below(*bytes), rng.below(8));
                    original.copy(&dir);
                    flip(&dir.join(path), at, bit);
                    let read = std::panic::catch_unwind(|| read_all(&dir, written));
                    match read {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => drop(told.fetch_add(1, Ordering::Relaxed)),
                        Err(_) => panic!("bit {bit} of byte {at} of {} was believed", path.display()),
                    }
                }
            });
        }
    });
    eprintln!("{flips} flips: {} were told, the others changed nothing", told.into_inner());
}
