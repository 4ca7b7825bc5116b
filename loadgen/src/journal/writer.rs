//! Puts a journal on disk: a thread that gathers what the connections report, writes it as one group, syncs,
//! and only then counts it.
//!
//! So what the run's report and the progress line count is never more than what the file says, whenever this
//! program or its machine dies. Entries wait here for a moment so that the disk, which the server may share,
//! sees at most a hundred syncs a second.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Entry, Spec, encode_group};
use crate::run::tally::{Success, Tally};

/// How long entries are gathered for one group.
const GATHER: Duration = Duration::from_millis(10);
/// Entries of one group.
const ENTRIES_MAX: usize = 1 << 16;

/// What became of a request, for the journal.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    pub entry: Entry,
    /// Counted once the entry is on disk; absent when it is not to be counted here.
    pub success: Option<Success>,
}

/// A journal that is being written.
pub struct Writer {
    path: PathBuf,
    fates: Sender<Fate>,
    thread: JoinHandle<Result<(), String>>,
}

impl Writer {
    /// Makes the file, which must not be there yet: a journal that is there may be somebody's evidence.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub fn create(
        path: &Path,
        spec: &Spec,
        tally: Arc<Mutex<Tally>>,
        begun: impl Fn() -> u64 + Send + 'static,
        on_failure: impl FnOnce() + Send + 'static,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                format!("--journal {}: there is such a file; a journal needs a new one", path.display())
            }
            _ => format!("--journal {}: {error}", path.display()),
        };
        let header = spec.encode()?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        file.write_all(&header).and_then(|()| file.sync_all()).map_err(failed)?;
        // The file's name has to last as well.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        let (fates, queue) = mpsc::channel();
        let name = path.display().to_string();
        let thread = thread::spawn(move || {
            let outcome = write(file, &queue, &tally, &begun).map_err(|error| {
                format!("the journal {name} cannot be written ({error}): what came later is not counted")
            });
            if outcome.is_err() {
                on_failure();
            }
            outcome
        });
        Ok(Self { path: path.to_owned(), fates, thread })
    }

    /// Where to report what became of requests.
    pub fn fates(&self) -> Sender<Fate> {
        self.fates.clone()
    }

    /// Waits until everything reported is on disk. All other senders have to be gone.
    ///
    /// # Errors
    /// When the disk has refused something.
    pub fn close(self) -> Result<PathBuf, String> {
        drop(self.fates);
        self.thread.join().map_err(|_| "the journal's thread panicked".to_owned())??;
        Ok(self.path)
    }
}

fn write(
    mut file: File,
    queue: &Receiver<Fate>,
    tally: &Mutex<Tally>,
    begun: &impl Fn() -> u64,
) -> std::io::Result<()> {
    let mut number = 0;
    let mut last_end = 0;
    let mut open = true;
    let mut entries = Vec::new();
    let mut successes = Vec::new();
    while open {
        // A group now and then even without answers: it says how far the run has got.
        match queue.recv_timeout(Duration::from_secs(1)) {
            Ok(fate) => {
                entries.push(fate.entry);
                successes.extend(fate.success);
                thread::sleep(GATHER);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => open = false,
        }
        for fate in queue.try_iter().take(ENTRIES_MAX - 2) {
            entries.push(fate.entry);
            successes.extend(fate.success);
        }
        let end = begun();
        if end != last_end {
            entries.push(Entry::Begun { end });
            last_end = end;
        }
        if entries.is_empty() {
            continue;
        }
        file.write_all(&encode_group(number, &entries))?;
        file.sync_data()?;
        // From here on a crash of anything cannot take these entries back: they count.
        number += 1;
        entries.clear();
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        successes.drain(..).for_each(|success| tally.success(&success));
    }
    file.write_all(&encode_group(number, &[]))?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicU64, Ordering},
        time::Instant,
    };

    use super::*;
    use crate::{
        journal::reader,
        workload::{keys::Order, values::Sizes},
    };

    fn spec() -> Spec {
        Spec {
            url: "http://h:1".to_owned(),
            cluster_id: None,
            first_seq: 0,
            seed: 1,
            batch: 1,
            key_bytes: 16,
            key_space: 10,
            order: Order::Uniform,
            sizes: Sizes { min: 1, max: 1 },
            text: false,
            file: None,
        }
    }

    fn acked(first: u64) -> Fate {
        let success = Success {
            read: false,
            records: 1,
            latency_us: 5,
            bytes_sent: 1,
            bytes_received: 1,
            done: Instant::now(),
        };
        Fate { entry: Entry::Acked { first, count: 1, seq: first + 100 }, success: Some(success) }
    }

    #[test]
    fn what_is_counted_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let tally = Arc::new(Mutex::new(Tally::new()));
        let begun = Arc::new(AtomicU64::new(0));
        let end = Arc::clone(&begun);
        let writer = Writer::create(
            &path,
            &spec(),
            Arc::clone(&tally),
            move || end.load(Ordering::SeqCst),
            || panic!("the disk is good"),
        )
        .unwrap();
        let fates = writer.fates();
        let deadline = Instant::now() + Duration::from_secs(60);
        for round in 1..=3 {
            for write in (round - 1) * 50..round * 50 {
                begun.fetch_add(1, Ordering::SeqCst);
                fates.send(acked(write)).unwrap();
            }
            // While it is being written: never more counted than there is.
            loop {
                let counted = tally.lock().unwrap().answered().0;
                let entries = reader::open(&path).unwrap().entries;
                let there = entries.iter().filter(|entry| matches!(entry, Entry::Acked { .. })).count();
                assert!(counted <= there as u64, "{counted} counted, {there} in the file");
                if counted == round * 50 {
                    break;
                }
                assert!(Instant::now() < deadline, "only {counted} of {} were counted", round * 50);
                thread::yield_now();
            }
        }
        drop(fates);
        writer.close().unwrap();
        let journal = reader::open(&path).unwrap();
        assert_eq!((journal.spec, journal.torn_bytes, journal.closed), (spec(), 0, true));
        assert!(journal.entries.contains(&Entry::Acked { first: 149, count: 1, seq: 249 }));
        assert!(journal.entries.contains(&Entry::Begun { end: 150 }));
    }

    #[test]
    fn a_journal_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        std::fs::write(&path, "evidence").unwrap();
        let tally = Arc::new(Mutex::new(Tally::new()));
        let error = Writer::create(&path, &spec(), tally, || 0, || ()).err().unwrap();
        assert!(error.contains("there is such a file"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"evidence");
    }

    #[test]
    fn a_disk_that_refuses_is_said_and_nothing_is_counted() {
        let Ok(file) = OpenOptions::new().write(true).open("/dev/full") else { return };
        let tally = Mutex::new(Tally::new());
        let (fates, queue) = mpsc::channel();
        fates.send(acked(1)).unwrap();
        drop(fates);
        let told = AtomicBool::new(false);
        let outcome = write(file, &queue, &tally, &|| 2).inspect_err(|_| told.store(true, Ordering::SeqCst));
        assert!(outcome.is_err() && told.load(Ordering::SeqCst));
        assert_eq!(tally.lock().unwrap().answered().0, 0);
    }
}
