//! A node on the real disk, killed with SIGKILL at each step of a file's leaving, the step done or not: the real program
//! starts from what is left, reads all of it, and nothing has gone that the archive does not have.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use scribe_ledger::{
    config::Config,
    env::{Env, Io, OpenMode, real::real_env},
    node::{Founding, Node},
    raft::Member,
    types::{NodeId, SegmentId},
    wal::{Driver, WalOptions},
};

use crate::{
    asked::{ALL_LEAVES, ALL_STAYS, RECORDS, all_is_right, expected, wait_cold, write},
    process::Spec,
    real::wait_archived,
    way::{Behind, Call, Way},
};

/// In the child: its directory, and at which step of leaving it dies, `12+` when that is done, `12-` before.
const DIR: &str = "LEAVING_KILL_DIR";
const AT: &str = "LEAVING_KILL_AT";

/// What the child says before it dies.
const SAYS: &str = "dies at ";

const ID: NodeId = 1;

/// Where the child dies.
#[derive(Debug)]
struct Death {
    at: u64,
    is_done: bool,
    steps: AtomicU64,
}

impl Death {
    fn parse(text: &str) -> Self {
        let (at, sign) = text.split_at(text.len() - 1);
        Self { at: at.parse().unwrap(), is_done: sign == "+", steps: AtomicU64::new(0) }
    }

    /// A step that changes the directory of the segments. They count from the first one's stub on.
    fn step<T>(&self, what: &str, path: &Path, doing: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let counts = name.ends_with(".stub.tmp")
            || name.ends_with(".stub")
            || name.ends_with(".seg")
            || name == "segments";
        let is_first = what == "create" && name.ends_with(".stub.tmp");
        if !counts || (self.steps.load(SeqCst) == 0 && !is_first) {
            return doing();
        }
        let dies = self.steps.fetch_add(1, SeqCst) == self.at;
        let die = || {
            eprintln!("{SAYS}{what}");
            let _ = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
            loop {
                std::thread::park();
            }
        };
        if dies && !self.is_done {
            die();
        }
        let done = doing();
        if dies {
            die();
        }
        done
    }
}

/// A disk whose process dies at one of its steps.
#[derive(Debug)]
struct Deadly {
    io: Arc<dyn Io>,
    death: Death,
}

impl Way for Deadly {
    fn disk(&self, _: &Path) -> &dyn Io {
        &*self.io
    }

    fn pass<T>(&self, call: Call, path: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let what = match call {
            Call::Open(OpenMode::Buffered | OpenMode::Direct) => "create",
            Call::Rename => "rename",
            Call::Remove => "remove",
            Call::SyncDir => "sync names",
            Call::Write => "write",
            Call::Sync => "sync",
            _ => return make(),
        };
        self.death.step(what, path, make)
    }
}

/// Not a test by itself: what the child does until it dies.
#[test]
fn let_files_go_until_it_dies() {
    let (Some(dir), Ok(at)) = (std::env::var_os(DIR), std::env::var(AT)) else { return };
    let mut config = Config::default();
    config.node.id = ID;
    config.node.data_dir = dir.into();
    config.wal.file_bytes = 1 << 20;
    config.wal.disk_free_bytes_min = 0;
    config.storage.tiering.local_bytes_max = 1;
    config.storage.tiering.age_threshold_secs = 0;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let real = real_env();
        let io = Behind::new(Deadly { io: real.io.clone(), death: Death::parse(&at) });
        let env = Env { io: Arc::new(io), ..real };
        let options = WalOptions::new(config.wal.clone(), Driver::Thread);
        let node = Node::start(env, &config, Founding::alone(ID, Member::default()), options).await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        drop(node);
    });
    panic!("nothing has left");
}

/// Lets a child live until it dies; at what.
fn die(dir: &Path, at: &str) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cold_deaths::let_files_go_until_it_dies", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(AT, at)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let lines: Vec<String> = lines.collect();
    child.wait().unwrap();
    let died = lines.iter().find_map(|line| line.strip_prefix(SAYS));
    died.unwrap_or_else(|| panic!("{}", lines.join("\n"))).to_owned()
}

/// What is left of each segment: its file, its stub, or both.
fn left(dir: &Path) -> Vec<(bool, bool)> {
    let names = fs::read_dir(dir.join("segments")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let has = |name: String| names.contains(&name);
    let left = (0..)
        .map(SegmentId)
        .map(|id| (has(scribe_ledger::segment::file_name(id)), has(scribe_ledger::segment::stub_name(id))));
    left.take_while(|(file, stub)| *file || *stub).collect()
}

#[test]
fn a_node_that_is_killed_at_any_step_of_leaving_has_everything() {
    let home = tempfile::tempdir().unwrap();
    let spec = Spec::new(home.path(), ID)
        .with(&[("STORAGE_SEGMENT_SIZE", "16KiB"), ("STORAGE_TIERING_MAX_LAG_SECS", "1")]);
    let stays = spec.clone().with(&ALL_STAYS);
    let node = stays.start_ready();
    write(&node, 0..RECORDS);
    wait_archived(&node, RECORDS);
    let expected = expected(&node);
    let segments = node.get("/api/v1/segments").is(200).json().as_array().unwrap().len();
    node.stop();
    let dir = node.spec.dir.clone();
    let (mut died, mut seen) = (Vec::new(), Vec::new());
    'all: for at in 0.. {
        for is_done in ["-", "+"] {
            let before = left(&dir);
            let what = die(&dir, &format!("{at}{is_done}"));
            if at > 0 && what == "create" {
                // The next segment's turn: all steps were tried.
                break 'all;
            }
            let after = left(&dir);
            assert_eq!((before.len(), after.len()), (segments, segments), "{what}{is_done}");
            let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            assert!(changed <= 1, "{what}{is_done}: {before:?} {after:?}");
            seen.extend(after.iter().copied());
            died.push(format!("{what}{is_done}"));
            let mut node = stays.start_ready();
            all_is_right(&node, &expected);
            assert!(left(&dir).iter().all(|(file, stub)| file != stub), "a start tidies up");
            node.kill();
        }
    }
    died.dedup();
    eprintln!("died at {died:?}");
    for what in ["create", "write", "sync", "rename", "sync names", "remove", "sync names"] {
        assert!(["-", "+"].iter().all(|done| died.contains(&format!("{what}{done}"))), "{what}: {died:?}");
    }
    for state in [(true, false), (true, true), (false, true)] {
        assert!(seen.contains(&state), "{state:?}");
    }
    // What has left is in the archive, and what has not goes, too.
    let node = spec.with(&ALL_LEAVES).start_ready();
    assert_eq!(wait_cold(&node), segments - 1);
    all_is_right(&node, &expected);
    node.stop();
    for arguments in [
        vec!["verify", dir.to_str().unwrap()],
        vec!["verify", "--archive", dir.join("archive").to_str().unwrap()],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_scribe")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
