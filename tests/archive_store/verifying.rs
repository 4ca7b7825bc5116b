//! `scribe verify --archive`: an archive without any node, whole and damaged in every kind of object.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use scribe_ledger::{
    archive::{
        DirectoryStore, Entry, Epoch, Manifest, Store, Tip, layout,
        name::Name,
        probe::probe,
        store::{self, Body, Object, Page, Put, Swap, Version},
    },
    env::real::RealIo,
    error::{Code, Error, Result},
    proof::{Hash, key::VerifierKey},
    sim::SimRng,
    state::boundary::Boundary,
    types::SegmentId,
    verify::{Archived, LookOnly, Note, Progress, Report},
};

use crate::{
    exits_with,
    ledger::{LEDGER, Ledger, ledger},
    objects::add_all,
    scribe,
};

/// Four segments, one without records.
const RECORDS: [u64; 4] = [300, 0, 260, 9];

/// Puts a ledger into a store, marker and all.
pub async fn archive(store: Arc<dyn Store>, ledger: &Ledger) -> Vec<Entry> {
    probe(&*store, LEDGER, &SimRng::new(5)).await.unwrap();
    let manifest = Manifest::new(store, LEDGER, Epoch::FIRST);
    add_all(&manifest, ledger, &mut Tip::default()).await.unwrap()
}

fn in_directory(dir: &Path) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::new(Arc::new(RealIo::new()), dir, 1))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The keys that the state at a segment's end names.
fn named(boundary: &[u8]) -> Vec<VerifierKey> {
    let boundary = Boundary::decode(boundary).unwrap_or_default();
    boundary.signers.into_iter().map(|signer| signer.key).collect()
}

/// Verifies with the keys that the archive names.
pub fn verify(store: Arc<dyn Store>) -> Result<Report> {
    let runtime = runtime();
    let archived = runtime.block_on(Archived::open(store))?;
    let keys = named(archived.boundary());
    let refused = |error| Error::new(Code::Corrupt, format!("checkpoint: {error}"));
    let notes = archived.notes().iter().map(|(name, note)| Note::read(name, note, &keys).map_err(refused));
    let (mut notes, progress) = (notes.collect::<Result<Vec<_>>>()?, Progress::default());
    notes.extend(runtime.block_on(archived.earlier_notes(&keys, named))?);
    let report = archived.verify(runtime.handle(), &notes, 2, &progress, &LookOnly)?;
    assert_eq!(progress.records(), report.records.0);
    Ok(report)
}

/// An archive in a directory of its own.
fn archived() -> (tempfile::TempDir, Ledger) {
    let (home, ledger) = (tempfile::tempdir().unwrap(), ledger(&RECORDS));
    runtime().block_on(archive(in_directory(home.path()), &ledger));
    (home, ledger)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

#[test]
fn a_whole_archive_is_verified_with_its_root_and_its_checkpoint() {
    let (home, ledger) = archived();
    let stray = home.path().join(layout::segment(Epoch::FIRST, SegmentId(4), &[7; 32]).as_str());
    fs::write(&stray, "half").unwrap();
    let report = verify(in_directory(home.path())).unwrap();
    let last = ledger.segments.last().unwrap().summary();
    assert_eq!((report.records, report.segments, report.root), (last.end_seq, 4, Hash(last.root_after)));
    let checkpoint = &report.checkpoints[0];
    assert_eq!((checkpoint.size, &checkpoint.origin[..]), (last.end_seq.0, "scribe/test/1"));
    assert_eq!(report.unfinished.len(), 1, "{:?}", report.unfinished);
    assert!(report.raw_bytes > 0 && report.file_bytes > 0);
}

#[test]
fn an_archive_without_entries_holds_no_records() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(archive(in_directory(home.path()), &ledger(&[])));
    let report = verify(in_directory(home.path())).unwrap();
    assert_eq!((report.records.0, report.segments, report.root), (0, 0, Hash::EMPTY_ROOT));
}

#[test]
fn whatever_is_damaged_or_gone_is_named() {
    let (home, _) = archived();
    let kinds = ["ledger.id", "/segments/", "/checkpoints/", "/manifest/"];
    let files: Vec<_> = files(home.path())
        .into_iter()
        .filter(|path| kinds.iter().any(|kind| path.to_str().unwrap().contains(kind)))
        .collect();
    // The segment without records has the checkpoint of the one before it.
    assert_eq!(files.len(), 1 + 4 + 3 + 4);
    let rng = SimRng::new(11);
    for path in &files {
        let bytes = fs::read(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        for flip in 0..25 {
            let mut damaged = bytes.clone();
            let at = rng.below(bytes.len() as u64) as usize;
            damaged[at] ^= 1 << rng.below(8);
            fs::write(path, &damaged).unwrap();
            match verify(in_directory(home.path())) {
                Ok(_) => {
                    // What a store is called is chance, and any other would do.
                    let is_store_id = name == "ledger.id" && at > bytes.len() - 34;
                    assert!(is_store_id, "{name}, byte {at}, flip {flip}");
                }
                Err(error) => {
                    assert_eq!(error.code(), Code::Corrupt, "{name}: {error}");
                    let named = error.message().contains(name) || name == "ledger.id";
                    assert!(named, "{name}, byte {at}: {error}");
                }
            }
        }
        fs::remove_file(path).unwrap();
        let outcome = verify(in_directory(home.path()));
        // The segment without records is behind a checkpoint of the same size; the last one's own is ahead then.
        let is_entry = name.ends_with(".entry");
        match outcome {
            Ok(report) if is_entry && name.ends_with("3.entry") => {
                assert!(report.segments == 3 && report.open_end.unwrap().contains(name), "{name} is gone");
            }
            // One that is gone is not missed: what covers the records, the newest, is another.
            Ok(_) => assert!(name.ends_with(".note"), "{name} is gone"),
            Err(error) => assert!(error.message().contains(name) || name == "ledger.id", "{name}: {error}"),
        }
        fs::write(path, &bytes).unwrap();
    }
    verify(in_directory(home.path())).unwrap();
}

#[test]
fn objects_that_changed_places_are_refused() {
    let (home, _) = archived();
    let dir = home.path().join(layout::entries(Epoch::FIRST));
    let entry = |id| dir.join(layout::entry_last(SegmentId(id)));
    fs::rename(entry(1), dir.join("kept")).unwrap();
    fs::copy(entry(2), entry(1)).unwrap();
    let error = verify(in_directory(home.path())).unwrap_err();
    assert!(error.message().contains("in the place of another"), "{error}");
}

#[test]
fn people_and_scripts_see_what_verify_always_shows() {
    let (home, ledger) = archived();
    let place = home.path().to_str().unwrap();
    let told = exits_with(&scribe(&["verify", "--archive", place], &[]), 0);
    let root = Hash(ledger.segments[3].summary().root_after).to_string();
    assert!(told.contains(&format!("verified 569 records in 4 segments, root {root}")), "{told}");
    assert!(told.contains("569 records of scribe/test/1, signed by scribe/test/1+"), "{told}");
    let told = exits_with(&scribe(&["verify", "--archive", place, "--format", "json"], &[]), 0);
    assert!(told.contains("\"verified\":true"), "{told}");

    let note = home.path().join("trusted.note");
    fs::write(&note, &ledger.checkpoints[0]).unwrap();
    let told =
        exits_with(&scribe(&["verify", "--archive", place, "--checkpoint", note.to_str().unwrap()], &[]), 0);
    assert!(told.contains("trusted.note: 300 records"), "{told}");

    let object = &files(&home.path().join(layout::segments(Epoch::FIRST)))[2];
    let mut bytes = fs::read(object).unwrap();
    bytes[9_000] ^= 1;
    fs::write(object, bytes).unwrap();
    let told = exits_with(&scribe(&["verify", "--archive", place, "--format", "json"], &[]), 1);
    let name = object.file_name().unwrap().to_str().unwrap();
    assert!(told.contains("\"verified\":false") && told.contains(name), "{told}");

    let empty = tempfile::tempdir().unwrap();
    let told = exits_with(&scribe(&["verify", "--archive", empty.path().to_str().unwrap()], &[]), 2);
    assert!(told.contains("holds no archive"), "{told}");
    exits_with(&scribe(&["verify", "--archive", place, place], &[]), 2);
}

#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_verified_by_its_url() {
    let server = crate::server::Server::start().await;
    archive(Arc::new(server.store()), &ledger(&RECORDS)).await;
    let environment = server.environment();
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, &value[..])).collect();
    let place = format!("s3://{}/some/prefix", crate::server::BUCKET);
    let told = exits_with(&scribe(&["verify", "--archive", &place], &environment), 0);
    assert!(told.contains("verified 569 records in 4 segments"), "{told}");
    // No credentials, no answer: neither says anything of the ledger.
    let told = exits_with(&scribe(&["verify", "--archive", &place], &environment[..2]), 2);
    assert!(told.contains("there are no credentials"), "{told}");
    let mut wrong = environment.clone();
    wrong.push(("SCRIBE_STORAGE_S3_SECRET_ACCESS_KEY", "another"));
    exits_with(&scribe(&["verify", "--archive", &place], &wrong), 3);
}

/// An object store that takes connections and says nothing: whoever waits says how long.
#[cfg(feature = "s3")]
#[test]
fn a_silent_store_is_waited_for_as_long_as_was_said() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let environment = [
        ("SCRIBE_STORAGE_S3_ENDPOINT", &endpoint[..]),
        ("SCRIBE_STORAGE_S3_PATH_STYLE", "true"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "key"),
    ];
    let begun = tokio::time::Instant::now();
    exits_with(&scribe(&["verify", "--archive", "s3://b/p", "--timeout", "2"], &environment), 3);
    // Without it that takes three quarters of a minute; here beside others who want the processor.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// A store that gives no byte of a segment before it is asked for those of a second one.
#[derive(Debug)]
struct TwoByTwo {
    inner: Arc<dyn Store>,
    asked: std::sync::Mutex<std::collections::BTreeSet<Name>>,
    alone: AtomicUsize,
}

impl Store for TwoByTwo {
    fn place(&self) -> &str {
        self.inner.place()
    }

    fn put_once<'a>(&'a self, name: &'a Name, body: Body) -> BoxFuture<'a, store::Result<Put>> {
        self.inner.put_once(name, body)
    }

    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, store::Result<Object>> {
        self.inner.get(name)
    }

    fn get_range<'a>(
        &'a self,
        name: &'a Name,
        offset: u64,
        bytes: u32,
    ) -> BoxFuture<'a, store::Result<Bytes>> {
        Box::pin(async move {
            if offset == 0 && name.last().ends_with(".seg") {
                self.asked.lock().unwrap().insert(name.clone());
                let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
                while self.asked.lock().unwrap().len() < 2 {
                    if tokio::time::Instant::now() > give_up {
                        self.alone.fetch_add(1, SeqCst);
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            self.inner.get_range(name, offset, bytes).await
        })
    }

    fn head<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, store::Result<u64>> {
        self.inner.head(name)
    }

    fn list<'a>(&'a self, dir: &'a str, after: Option<&'a str>) -> BoxFuture<'a, store::Result<Page>> {
        self.inner.list(dir, after)
    }

    fn compare_and_set<'a>(
        &'a self,
        name: &'a Name,
        expected: Option<&'a Version>,
        bytes: Bytes,
    ) -> BoxFuture<'a, store::Result<Swap>> {
        self.inner.compare_and_set(name, expected, bytes)
    }
}

#[test]
fn a_slow_store_is_asked_for_two_segments_at_once() {
    let (home, _) = archived();
    let slow = Arc::new(TwoByTwo {
        inner: in_directory(home.path()),
        asked: std::sync::Mutex::default(),
        alone: AtomicUsize::new(0),
    });
    let runtime = runtime();
    // The end of the last object is read alone.
    slow.asked.lock().unwrap().extend([layout::marker(), layout::probe("once.txt")]);
    let archived = runtime.block_on(Archived::open(slow.clone() as Arc<dyn Store>)).unwrap();
    slow.asked.lock().unwrap().clear();
    archived.verify(runtime.handle(), &[], 1, &Progress::default(), &LookOnly).unwrap();
    assert_eq!(slow.alone.load(SeqCst), 0, "one waited for the other");
}
