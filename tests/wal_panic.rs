//! A panic under the log's writer or its helper: what waited is answered with the reason, nothing hangs.

#[path = "common/way.rs"]
mod way;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use scribe_ledger::{
    config::WalConfig,
    env::{Env, Io},
    sim::{SimIo, sim_env},
    types::LogIndex,
    wal::{Completion, Driver, LogEntry, LogId, Wal, WalHealth, WalOptions},
};

use crate::way::{Behind, Call, Way};

const DIR: &str = "/wal";
const PATIENCE: Duration = Duration::from_secs(20);

/// A disk whose writes panic when it is told to: those of log files, or those that fill spares.
#[derive(Clone, Debug)]
struct Trap {
    io: SimIo,
    in_logs: Arc<AtomicBool>,
    in_spares: Arc<AtomicBool>,
}

impl Trap {
    fn new() -> (Self, Env) {
        let io = SimIo::new(1);
        let trap = Self { io: io.clone(), in_logs: Arc::default(), in_spares: Arc::default() };
        let env = Env { io: Arc::new(Behind::new(trap.clone())), ..sim_env(&io, 1) };
        (trap, env)
    }
}

impl Way for Trap {
    fn disk(&self, _: &Path) -> &dyn Io {
        &self.io
    }

    fn pass<T>(&self, call: Call, path: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let is_spare = path.to_string_lossy().contains("/spare-");
        let armed = if is_spare { &self.in_spares } else { &self.in_logs };
        assert!(call != Call::Write || !armed.load(Relaxed), "planted");
        make()
    }
}

fn open(env: &Env, driver: Driver) -> Wal {
    let config = WalConfig {
        file_bytes: 64 << 10,
        idle_close: Duration::from_secs(600),
        disk_free_bytes_min: 0,
        ..WalConfig::default()
    };
    Wal::open(env, Path::new(DIR), WalOptions::new(config, driver)).unwrap()
}

fn entry(index: u64, bytes: usize) -> LogEntry {
    LogEntry { id: LogId { term: 1, index: LogIndex(index) }, payload: Bytes::from(vec![7; bytes]) }
}

/// Completions that send what they are told.
fn reports() -> (impl Fn() -> Completion, mpsc::Receiver<Result<(), String>>) {
    let (sender, receiver) = mpsc::channel();
    let done = move || -> Completion {
        let sender = sender.clone();
        Box::new(move |result| sender.send(result.map_err(|e| e.to_string())).unwrap())
    };
    (done, receiver)
}

/// Calls `close` elsewhere, because it must return.
fn closes(wal: &Wal) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    let wal = wal.clone();
    std::thread::spawn(move || sender.send(wal.close()));
    receiver.recv_timeout(PATIENCE).expect("close returns")
}

#[test]
fn a_writer_that_panics_answers_everyone_and_ends() {
    let (trap, env) = Trap::new();
    let wal = open(&env, Driver::Thread);
    let (done, results) = reports();
    wal.append(vec![entry(0, 10)], done()).unwrap();
    assert_eq!(results.recv_timeout(PATIENCE), Ok(Ok(())));
    trap.in_logs.store(true, Relaxed);
    // The first takes the panic; the second is in its group, behind it in the queue, or refused already.
    wal.append(vec![entry(1, 10)], done()).unwrap();
    let queued = wal.append(vec![entry(2, 10)], done()).is_ok();
    for _ in 0..1 + usize::from(queued) {
        let why = results.recv_timeout(PATIENCE).expect("nobody waits for ever").unwrap_err();
        assert!(why.contains("panicked: planted"), "{why}");
    }
    trap.in_logs.store(false, Relaxed);
    let why = wal.save_vote(Bytes::new(), done()).unwrap_err().to_string();
    assert!(why.contains("panicked: planted"), "{why}");
    assert_eq!(wal.health(), WalHealth::Poisoned { why: why.clone() });
    assert_eq!(closes(&wal).unwrap_err().to_string(), why);
    assert_eq!(wal.read(0..1, 100).unwrap(), [entry(0, 10)], "reading goes on");
}

#[test]
fn a_completion_that_panics_costs_no_other_its_answer() {
    let (_, env) = Trap::new();
    let wal = open(&env, Driver::Step);
    let (done, results) = reports();
    wal.append(vec![entry(0, 10)], Box::new(|_| panic!("of a caller"))).unwrap();
    wal.append(vec![entry(1, 10)], done()).unwrap();
    wal.append(vec![entry(2, 10)], Box::new(|_| panic!("of another"))).unwrap();
    wal.append(vec![entry(3, 10)], done()).unwrap();
    wal.step();
    for _ in 0..2 {
        let why = results.try_recv().expect("it is answered").unwrap_err();
        assert!(why.contains("panicked: of a caller"), "{why}");
    }
    assert!(closes(&wal).is_err());
}

#[test]
fn a_task_that_panics_answers_everyone_and_says_so() {
    let (trap, env) = Trap::new();
    let runtime = scribe_ledger::sim::runtime(1);
    runtime.block_on(async {
        let wal = open(&env, Driver::Task);
        let (done, results) = reports();
        trap.in_logs.store(true, Relaxed);
        wal.append(vec![entry(0, 10)], done()).unwrap();
        let why = tokio::time::timeout(PATIENCE, wal.poisoned()).await.expect("it says that it is poisoned");
        assert!(why.contains("panicked: planted"), "{why}");
        assert_eq!(results.try_recv(), Ok(Err(why)));
        assert!(wal.close().is_err());
    });
}

#[test]
fn a_helper_that_panics_leaves_the_writer_to_fill_its_files() {
    let (trap, env) = Trap::new();
    let wal = open(&env, Driver::Thread);
    let (done, results) = reports();
    trap.in_spares.store(true, Relaxed);
    // Uses up what is filled, and meets the panic itself once the helper has.
    let mut index = 0;
    let why = loop {
        wal.append(vec![entry(index, 30_000)], done()).unwrap();
        match results.recv_timeout(PATIENCE).expect("the writer does not wait for a helper that fell") {
            Ok(()) => index += 1,
            Err(why) => break why,
        }
        assert!(index < 20, "files are made although filling them panics");
    };
    assert!(why.contains("panicked: planted"), "{why}");
    assert!(closes(&wal).is_err());
}
