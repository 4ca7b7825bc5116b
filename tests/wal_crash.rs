//! Crashes, failing disks and rot against the write-ahead log, checked against a model.
//!
//! A history is a random run of appends, votes, truncations, purges, closes and restarts on a simulated
//! disk, cut short by a power loss at a random operation, a killed process or an I/O error. After each
//! restart the log must be the state after some prefix of what was asked, no shorter than what was
//! completed: everything acknowledged is there, in order, with the right bytes; nothing is invented;
//! nothing has holes.
//!
//! `WAL_RUNS=1000000 cargo test --release --test wal_crash histories` runs more seeds (10,000 otherwise),
//! `WAL_SEED=17 cargo test --test wal_crash histories -- --nocapture` replays one.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use scribe_ledger::{
    config::{WalConfig, WalIo},
    env::{Env, Io, OpenMode, Rng},
    error::Code,
    sim::{Failure, Fault, Op, Refusal, SimIo, SimRng, sim_env},
    types::LogIndex,
    wal::{
        Completion, Driver, GroupPlace, LogEntry, LogId, Sabotage, Wal, WalHealth, WalOptions, WalState,
        format::{GROUP_HEADER_BYTES, GroupHeader, RECORD_HEADER_BYTES, VERSION, seal_group},
    },
};

const DIR: &str = "/data/wal";
const BLOCK: usize = 4096;

/// What was asked of the log, as the model replays it.
#[derive(Clone, Debug)]
enum Step {
    Append(LogEntry),
    Vote(Bytes),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// What a log should hold.
#[derive(Clone, Debug, Default)]
struct Model {
    state: WalState,
    entries: Vec<LogEntry>,
}

impl Model {
    fn next(&self) -> u64 {
        self.state.last.map_or(0, |last| last.index.0 + 1)
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(entry) => {
                self.state.last = Some(entry.id);
                self.entries.push(entry.clone());
            }
            Step::Vote(vote) => self.state.vote = Some(vote.clone()),
            Step::Truncate(last) => {
                self.entries.retain(|entry| Some(entry.id.index) <= last.map(|id| id.index));
                self.state.last = *last;
            }
            Step::Purge(id) => {
                if self.state.purged.is_none_or(|purged| purged.index < id.index) {
                    self.entries.retain(|entry| entry.id.index > id.index);
                    self.state.purged = Some(*id);
                    self.state.last = self.state.last.filter(|last| last.index > id.index).or(Some(*id));
                }
            }
        }
    }
}

/// One log under test, its model, and what is still open between them.
struct World {
    seed: u64,
    rng: SimRng,
    io: SimIo,
    env: Env,
    config: WalConfig,
    piece_bytes: usize,
    sabotage: Sabotage,
    term: u64,
    /// The state at the last restart.
    base: Model,
    /// The state with all that was asked since.
    model: Model,
    steps: Vec<Step>,
    /// How many of the steps were completed.
    completed: Arc<Mutex<usize>>,
    /// Committed ids given since the restart, each with the number of steps before it.
    saved: Vec<(usize, LogId)>,
    generation_seen: Option<u64>,
    /// Whether to print what happens: when one seed is replayed.
    tells: bool,
}

type Checked<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($says:tt)+) => {
        if !$holds {
            return Err(format!($($says)+));
        }
    };
}

impl World {
    fn new(seed: u64, sabotage: Sabotage) -> Self {
        let rng = SimRng::new(seed);
        let io = SimIo::new(rng.next_u64());
        let config = WalConfig {
            io: if rng.one_in(2) { WalIo::Auto } else { WalIo::Buffered },
            file_bytes: [8, 32, 64][rng.below(3) as usize] << 10,
            group_bytes_max: [600, 5_000, 20_000][rng.below(3) as usize],
            tail_bytes_max: [0, 2_000, 1 << 20][rng.below(3) as usize],
            disk_free_bytes_min: 0,
            ..WalConfig::default()
        };
        // Small pieces, so that a crash leaves any of a group's and not the others: of a group on its way
        // through the page cache every sector for itself, in no order.
        let piece_bytes = [BLOCK, 2 * BLOCK, 4 << 20][rng.below(3) as usize];
        match rng.below(8) {
            0 => io.refuse_direct(Refusal::AtOpen),
            1 => io.refuse_direct(Refusal::AtUse),
            _ => {}
        }
        let env = sim_env(&io, rng.next_u64());
        Self {
            seed,
            rng,
            io,
            env,
            config,
            piece_bytes,
            sabotage,
            term: 1,
            base: Model::default(),
            model: Model::default(),
            steps: Vec::new(),
            completed: Arc::default(),
            saved: Vec::new(),
            generation_seen: None,
            tells: std::env::var_os("WAL_SEED").is_some(),
        }
    }

    fn open(&self) -> scribe_ledger::error::Result<Wal> {
        let mut options = WalOptions::new(self.config.clone(), Driver::Step);
        options.sabotage = self.sabotage;
        options.piece_bytes = self.piece_bytes;
        Wal::open(&self.env, Path::new(DIR), options)
    }

    /// Bytes that tell which entry they belong to; now and then they look like a group of the log.
    fn payload(&self, id: LogId) -> Bytes {
        let len = match self.rng.below(20) {
            0 => 0,
            1 => 9_000,
            2 => 12_288 + self.rng.below(20_000),
            _ => self.rng.below(900),
        };
        let own = SimRng::new(id.term << 32 ^ id.index.0 ^ self.seed);
        let mut bytes: Vec<u8> = (0..len).map(|_| own.next_u64() as u8).collect();
        if bytes.len() >= 3 * BLOCK && self.rng.one_in(2) {
            // An attacker who has seen an old file of this log, and puts a group of it where blocks begin.
            let generation = self.generation_seen.unwrap_or(0);
            let header = GroupHeader {
                version: VERSION,
                flags: 0,
                crc: 0,
                generation,
                sequence: 1 << 40,
                body_bytes: 0,
                records: 0,
            };
            let mut group = header.encode().to_vec();
            group.resize(BLOCK, 0);
            seal_group(&mut group);
            let at = BLOCK - GROUP_HEADER_BYTES - RECORD_HEADER_BYTES;
            bytes[at..at + BLOCK].copy_from_slice(&group);
        }
        bytes.into()
    }

    fn done(&self, steps: usize) -> Completion {
        let completed = self.completed.clone();
        Box::new(move |result| {
            if result.is_ok() {
                *completed.lock().unwrap() += steps;
            }
        })
    }

    fn ask(&mut self, step: Step) {
        self.model.apply(&step);
        self.steps.push(step);
    }

    /// One random change; false when the log refused it.
    fn change(&mut self, wal: &Wal) -> bool {
        let (purged, last) = (self.model.state.purged, self.model.state.last);
        let kept = self.model.entries.len() as u64;
        match self.rng.below(16) {
            0..=8 => {
                let count = 1 + self.rng.below(4);
                let entries: Vec<LogEntry> = (0..count)
                    .map(|n| LogId { term: self.term, index: LogIndex(self.model.next() + n) })
                    .map(|id| LogEntry { id, payload: self.payload(id) })
                    .collect();
                let accepted = wal.append(entries.clone(), self.done(entries.len())).is_ok();
                if accepted {
                    entries.into_iter().for_each(|entry| self.ask(Step::Append(entry)));
                }
                accepted
            }
            9 | 10 => {
                self.term += 1;
                let vote = Bytes::from(format!("vote in term {}", self.term));
                let accepted = wal.save_vote(vote.clone(), self.done(1)).is_ok();
                if accepted {
                    self.ask(Step::Vote(vote));
                }
                accepted
            }
            11 if last > purged => {
                let back = 1 + self.rng.below(kept.min(4));
                let keep = self.model.entries.len().checked_sub(back as usize + 1);
                let to = keep.map_or(purged, |at| Some(self.model.entries[at].id));
                // Sometimes the same term writes the same index again, which Raft would not do.
                self.term += self.rng.below(2);
                let accepted = wal.truncate_after(to, self.done(1)).is_ok();
                if accepted {
                    self.ask(Step::Truncate(to));
                }
                accepted
            }
            12 if kept > 0 && self.rng.one_in(6) => {
                // A member that has got the rest from elsewhere: behind an entry of another term, or beyond the end.
                self.term += 1;
                let at = self.model.entries[self.rng.below(kept) as usize].id.index.0;
                let index = if self.rng.one_in(2) { at } else { self.model.next() + self.rng.below(5) };
                let id = LogId { term: self.term, index: LogIndex(index) };
                let cut = (index < self.model.next()).then(|| {
                    let before = self.model.entries.iter().rfind(|entry| entry.id.index.0 < index);
                    before.map_or(purged, |entry| Some(entry.id))
                });
                let accepted = wal.restart_behind(id, self.done(1 + usize::from(cut.is_some()))).is_ok();
                if accepted {
                    cut.into_iter().for_each(|last| self.ask(Step::Truncate(last)));
                    self.ask(Step::Purge(id));
                }
                accepted
            }
            12 | 13 if kept > 0 => {
                let beyond = self.rng.one_in(12);
                let at = self.rng.below(kept) as usize;
                let mut up_to = self.model.entries[at].id;
                if beyond {
                    self.term += 1;
                    up_to = LogId { term: self.term, index: LogIndex(self.model.next() + 5) };
                }
                let accepted = wal.purge(up_to, self.done(1)).is_ok();
                if accepted {
                    self.ask(Step::Purge(up_to));
                }
                accepted
            }
            14 => {
                let Some(id) = last else { return true };
                let accepted = wal.save_committed(id).is_ok();
                if accepted {
                    self.saved.push((self.steps.len(), id));
                }
                accepted
            }
            _ => {
                wal.step_idle();
                true
            }
        }
    }

    fn completed(&self) -> usize {
        *self.completed.lock().unwrap()
    }

    /// Compares a freshly opened log with what it may be, and takes it as the new base.
    fn check(&mut self, wal: &Wal) -> Checked {
        let state = wal.state();
        let entries = read_all(wal, &state)?;
        let completed = self.completed();
        let mut candidate = self.base.clone();
        let mut matched = None;
        let mut nearest = String::new();
        for count in 0..=self.steps.len() {
            if count > 0 {
                candidate.apply(&self.steps[count - 1]);
            }
            if count < completed {
                continue;
            }
            let same = candidate.state.purged == state.purged
                && candidate.state.last == state.last
                && candidate.state.vote == state.vote;
            if same && candidate.entries == entries {
                matched = Some((count, candidate.clone()));
            }
            if count == completed {
                nearest = format!("{:?} with {} entries", candidate.state, candidate.entries.len());
            }
        }
        let Some((_, mut found)) = matched else {
            return Err(format!(
                "the log holds {state:?} with {} entries, which is no state after {completed} completed of {} changes; at {completed}: {nearest}",
                entries.len(),
                self.steps.len()
            ));
        };
        // A committed id rides in the group after it: once a later change is completed it is there, or one
        // that was given still later.
        let durable = self.saved.iter().rposition(|(before, _)| *before < completed);
        let before = durable.is_none().then_some(self.base.state.committed);
        let mut allowed = self.saved[durable.unwrap_or(0)..].iter().map(|(_, id)| Some(*id)).chain(before);
        ensure!(
            allowed.any(|id| id == state.committed),
            "committed is {:?}; given were {:?} with {completed} changes completed",
            state.committed,
            self.saved
        );
        for entry in &entries {
            ensure!(wal.log_id(entry.id.index) == Some(entry.id), "log_id disagrees about {:?}", entry.id);
        }
        found.state.committed = state.committed;
        self.base = found.clone();
        self.model = found;
        self.steps.clear();
        self.saved.clear();
        self.completed = Arc::default();
        self.term += 1;
        Ok(())
    }

    /// One life of the process, from a checked log to its end.
    fn live(&mut self, wal: &Wal) -> Checked<End> {
        let end = match self.rng.below(8) {
            0..=2 => End::Crash,
            3 => End::Kill,
            4 | 5 => {
                let op = [Op::Write, Op::Sync, Op::Any][self.rng.below(3) as usize];
                let failure = if self.rng.one_in(2) { Failure::NotDone } else { Failure::Done };
                self.io.arm(Fault { op, nth: self.rng.below(12), failure });
                if self.rng.one_in(2) { End::Crash } else { End::Kill }
            }
            _ => End::Close,
        };
        if end == End::Crash && self.rng.one_in(2) {
            self.io.arm(Fault { op: Op::Any, nth: self.rng.below(60), failure: Failure::Crash });
        }
        if self.generation_seen.is_none() {
            // Of a file that is no longer written to; the current one's cannot be known.
            let names = self.io.list(Path::new(DIR)).unwrap_or_default();
            let logs: Vec<&String> = names.iter().filter(|name| name.starts_with("wal-")).collect();
            self.generation_seen = (logs.len() > 1).then(|| generation_of(logs[0])).flatten();
        }
        for _ in 0..self.rng.below(30) {
            if !self.change(wal) {
                break;
            }
            if self.rng.one_in(2) {
                while wal.step() && self.rng.one_in(2) {}
            }
            if self.rng.one_in(8) {
                let entries = read_all(wal, &wal.state());
                // Only a disk without power may refuse to be read: a poisoned log still reads.
                match entries {
                    Ok(entries) => ensure!(
                        entries == self.model.entries,
                        "reading back what was appended gave something else"
                    ),
                    Err(why) => ensure!(self.io.is_down(), "what was appended cannot be read back: {why}"),
                }
            }
        }
        if end == End::Close {
            wal.close().map_err(|error| format!("closing failed: {error}"))?;
            ensure!(self.completed() == self.steps.len(), "close left changes unfinished");
        }
        Ok(end)
    }

    fn end(&mut self, end: End) {
        self.io.disarm();
        if self.io.is_down() || end == End::Crash {
            self.io.crash();
            self.io.restart();
        } else {
            self.io.kill();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Crash,
    Kill,
    Close,
}

fn generation_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".log")?.rsplit('-').next()?, 16).ok()
}

fn read_all(wal: &Wal, state: &WalState) -> Checked<Vec<LogEntry>> {
    let first = state.purged.map_or(0, |id| id.index.0 + 1);
    let end = state.last.map_or(0, |id| id.index.0 + 1);
    let mut entries: Vec<LogEntry> = Vec::new();
    while first + (entries.len() as u64) < end {
        let at = first + entries.len() as u64;
        let some = wal.read(at..end, 10_000).map_err(|error| format!("reading entry {at}: {error}"))?;
        ensure!(!some.is_empty(), "entry {at} is missing");
        entries.extend(some);
    }
    Ok(entries)
}

/// One seeded history. The result is a hash of all that happened, or what went wrong.
fn history(seed: u64, sabotage: Sabotage) -> Checked<u64> {
    let mut world = World::new(seed, sabotage);
    for _ in 0..2 + world.rng.below(5) {
        // Opening may itself be cut short, any number of operations in.
        if world.rng.one_in(4) {
            world.io.arm(Fault { op: Op::Any, nth: world.rng.below(30), failure: Failure::Crash });
        }
        let wal = match world.open() {
            Ok(wal) => wal,
            Err(_) if world.io.is_down() => {
                world.io.restart();
                world.open().map_err(|error| format!("opening after a crash while opening: {error}"))?
            }
            Err(error) => return Err(format!("opening: {error}")),
        };
        if world.io.is_down() {
            world.io.restart();
            continue;
        }
        world.io.disarm();
        world.check(&wal)?;
        if world.tells {
            eprintln!("opened: {:?}", world.base.state);
        }
        let end = world.live(&wal)?;
        let clean = end == End::Close && !world.io.is_down();
        drop(wal);
        world.end(end);
        if world.tells {
            eprintln!("{end:?}: {:#?}", scribe_ledger::wal::groups(&world.env, Path::new(DIR)));
        }
        if world.rng.one_in(3) {
            rot(&mut world, clean)?;
        }
    }
    let wal = world.open().map_err(|error| format!("opening at the end: {error}"))?;
    world.check(&wal)?;
    Ok(world.io.trace() ^ world.io.contents_hash())
}

/// Flips one bit of the log at rest, looks, and flips it back.
fn rot(world: &mut World, clean: bool) -> Checked {
    let Ok(groups) = scribe_ledger::wal::groups(&world.env, Path::new(DIR)) else { return Ok(()) };
    let Some(last) = groups.last() else { return Ok(()) };
    let group = &groups[world.rng.below(groups.len() as u64) as usize];
    let is_last = group.path == last.path && group.offset == last.offset;
    // The last group of a log is the closing one, or what a crash may tear: there a flip is a tear.
    if is_last {
        return Ok(());
    }
    let at = group.offset + world.rng.below(group.bytes);
    let bit = world.rng.below(8) as u8;
    world.io.flip_bit(&group.path, at, bit).map_err(|e| e.to_string())?;
    let before = (world.io.contents_hash(), world.io.ops());
    let opened = world.open();
    let after = (world.io.contents_hash(), world.io.ops());
    let Err(error) = opened else {
        // Some flips do no harm, which the check after this verifies: those in a group that the next run
        // carried over, in the only group before such a copy, and in a purged file whose removal a crash
        // undid while it kept the next one's.
        let carried = groups.iter().filter(|other| other.sequence == group.sequence).count() > 1;
        if carried || before_a_gap_or_copy(&groups, group) {
            return Ok(());
        }
        return Err(format!(
            "a flip at byte {at} of {} went unnoticed (clean: {clean})",
            group.path.display()
        ));
    };
    ensure!(error.code() == Code::Corrupt, "a flip gave {error:?}");
    ensure!(before == after, "the disk was changed although the log is damaged");
    let named = error.message().contains(&*group.path.to_string_lossy())
        && error.message().contains(&format!("byte {} of", group.offset));
    // Before a copied group, whose original a crash may have taken, the place can only be guessed.
    let next = groups.iter().find(|other| other.sequence > group.sequence);
    ensure!(
        named || next.is_some_and(|next| next.copy),
        "byte {at} of {} was flipped, but: {error}",
        group.path.display()
    );
    world.io.flip_bit(&group.path, at, bit).map_err(|e| e.to_string())?;
    world.io.kill();
    Ok(())
}

fn before_a_gap_or_copy(groups: &[GroupPlace], group: &GroupPlace) -> bool {
    let number = |group: &GroupPlace| group.path.file_name()?.to_str()?.get(4..24)?.parse::<u64>().ok();
    let Some(next) = groups.iter().find(|other| other.path > group.path) else { return false };
    number(next) != number(group).map(|number| number + 1) || (group.offset == 0 && next.copy)
}

fn run(seed: u64, sabotage: Sabotage) -> Checked<u64> {
    catch_unwind(AssertUnwindSafe(|| history(seed, sabotage))).unwrap_or_else(|_| Err("it panicked".into()))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn histories_survive() {
    let seeds = match number("WAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("WAL_SEED_FIRST").unwrap_or(0);
            first..first + number("WAL_RUNS").unwrap_or(10_000)
        }
    };
    for seed in seeds {
        if let Err(what) = run(seed, Sabotage::default()) {
            panic!(
                "seed {seed}: {what}\nreplay: WAL_SEED={seed} cargo test --test wal_crash histories -- --nocapture"
            );
        }
    }
}

#[test]
fn a_seed_is_the_same_history_twice() {
    for seed in 0..50 {
        assert_eq!(run(seed, Sabotage::default()), run(seed, Sabotage::default()), "seed {seed}");
    }
    assert_ne!(run(1, Sabotage::default()), run(2, Sabotage::default()));
}

/// A planted bug has to be found by one of the first seeds.
fn is_caught(name: &str, plant: impl Fn(&mut Sabotage)) {
    const SEEDS_MAX: u64 = 3_000;
    let mut sabotage = Sabotage::default();
    plant(&mut sabotage);
    let caught = (0..SEEDS_MAX).find(|seed| run(*seed, sabotage).is_err());
    assert!(caught.is_some(), "{name}: not caught in {SEEDS_MAX} seeds");
    eprintln!("{name}: caught by seed {}", caught.unwrap_or_default());
}

#[test]
fn planted_bugs_are_caught() {
    is_caught("completing before the sync", |s| s.ack_before_sync = true);
    is_caught("not syncing the directory", |s| s.skip_dir_sync = true);
    is_caught("trying a failed sync again", |s| s.retry_after_error = true);
    is_caught("not checking sums", |s| s.skip_sums = true);
    is_caught("writing votes after appends", |s| s.reorder_votes = true);
    is_caught("reusing generations", |s| s.reuse_generation = true);
    is_caught("not restating vote and purge point", |s| s.skip_opening = true);
    is_caught("freeing files before the purge is durable", |s| s.free_early = true);
    is_caught("not carrying the last group over", |s| s.skip_carry = true);
    is_caught("taking damage for a torn tail", |s| s.skip_damage_check = true);
}

#[test]
fn every_flip_after_a_clean_close_is_seen_or_harmless() {
    for seed in 0..30 {
        let mut world = World::new(seed, Sabotage::default());
        let wal = world.open().unwrap();
        for _ in 0..12 {
            assert!(world.change(&wal));
            wal.step();
        }
        wal.close().unwrap();
        drop(wal);
        world.io.kill();
        let groups = scribe_ledger::wal::groups(&world.env, Path::new(DIR)).unwrap();
        assert!(groups.last().unwrap().closing);
        for (number, group) in groups.iter().enumerate() {
            for _ in 0..6 {
                let (at, bit) = (group.offset + world.rng.below(group.bytes), world.rng.below(8) as u8);
                world.io.flip_bit(&group.path, at, bit).unwrap();
                let whole = scribe_ledger::wal::groups(&world.env, Path::new(DIR));
                if number + 1 < groups.len() {
                    assert_eq!(whole.unwrap_err().code(), Code::Corrupt, "seed {seed}, byte {at}");
                } else {
                    // The closing group itself holds nothing: all others are still there and whole.
                    assert_eq!(whole.unwrap().len() + 1, groups.len());
                }
                world.io.flip_bit(&group.path, at, bit).unwrap();
            }
        }
    }
}

#[test]
fn a_full_disk_waits_and_goes_on_by_itself() {
    let mut world = World::new(3, Sabotage::default());
    world.config.file_bytes = 16 << 10;
    let wal = world.open().unwrap();
    let used = 16 << 10;
    world.io.set_capacity(Some(used + 1_000));
    let entry = |index| LogEntry {
        id: LogId { term: 1, index: LogIndex(index) },
        payload: Bytes::from(vec![index as u8; 3_000]),
    };
    for index in 0..6 {
        wal.append(vec![entry(index)], world.done(1)).unwrap();
        wal.step();
    }
    let before = world.completed();
    assert!(before < 6);
    let WalHealth::DiskFull(full) = wal.health() else { panic!("{:?}", wal.health()) };
    assert!(full.free <= 1_000 && full.next_file == 16 << 10, "{full}");
    assert_eq!(wal.read(0..6, usize::MAX).unwrap().len(), 6, "what waits can be read");
    world.io.set_capacity(None);
    while wal.step() {}
    assert_eq!(world.completed(), 6);
    assert_eq!(wal.health(), WalHealth::Ok);
    drop(wal);
    world.io.crash();
    world.io.restart();
    assert_eq!(world.open().unwrap().read(0..6, usize::MAX).unwrap().len(), 6);
}

#[test]
fn a_failed_sync_poisons_for_good() {
    for failure in [Failure::NotDone, Failure::Done] {
        let mut world = World::new(4, Sabotage::default());
        world.config.io = WalIo::Buffered;
        let wal = world.open().unwrap();
        world.io.arm(Fault { op: Op::Sync, nth: 0, failure });
        let entry = LogEntry { id: LogId { term: 1, index: LogIndex(0) }, payload: Bytes::from_static(b"x") };
        let results = Arc::new(Mutex::new(Vec::new()));
        let seen = results.clone();
        wal.append(vec![entry], Box::new(move |result| seen.lock().unwrap().push(result.is_ok()))).unwrap();
        wal.step();
        assert_eq!(*results.lock().unwrap(), [false]);
        let error = wal.save_vote(Bytes::new(), world.done(1)).unwrap_err().to_string();
        assert!(error.contains("injected I/O error") && error.contains("/data/wal/wal-"), "{error}");
        assert!(matches!(wal.health(), WalHealth::Poisoned { why } if why == error));
        assert!(wal.close().is_err());
    }
}

#[test]
fn a_missing_file_is_damage_unless_it_is_purged() {
    let mut world = World::new(9, Sabotage::default());
    world.config.file_bytes = 8 << 10;
    let wal = world.open().unwrap();
    for index in 0..8 {
        let id = LogId { term: 1, index: LogIndex(index) };
        wal.append(vec![LogEntry { id, payload: vec![1; 3_000].into() }], world.done(1)).unwrap();
        wal.step();
    }
    wal.close().unwrap();
    drop(wal);
    let names = world.io.list(Path::new(DIR)).unwrap();
    let files: Vec<PathBuf> =
        names.iter().filter(|n| n.starts_with("wal-")).map(|n| Path::new(DIR).join(n)).collect();
    assert!(files.len() > 4);
    world.io.open(&files[2], OpenMode::Read).unwrap();
    world.io.rename(&files[2], Path::new("/data/wal/elsewhere")).unwrap();
    let error = world.open().unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
    assert!(error.message().contains("a file is missing"), "{error}");
    world.io.rename(Path::new("/data/wal/elsewhere"), &files[2]).unwrap();
    let wal = world.open().unwrap();
    assert_eq!(wal.state().last.unwrap().index.0, 7);
}

#[test]
fn a_torn_last_group_is_cut_and_the_log_goes_on() {
    let mut world = World::new(11, Sabotage::default());
    world.config.file_bytes = 64 << 10;
    let dir = Path::new(DIR);
    let entry = |term, index| LogEntry {
        id: LogId { term, index: LogIndex(index) },
        payload: Bytes::from(vec![index as u8; 6_000]),
    };
    let wal = world.open().unwrap();
    for index in 0..3 {
        wal.append(vec![entry(1, index)], world.done(1)).unwrap();
        wal.step();
    }
    drop(wal);
    world.io.kill();
    let torn = scribe_ledger::wal::groups(&world.env, dir).unwrap().pop().unwrap();
    world.io.flip_bit(&torn.path, torn.offset + 5_000, 3).unwrap();
    let wal = world.open().unwrap();
    assert_eq!(wal.state().last, Some(entry(1, 1).id), "the torn group is gone, the one before it is not");
    wal.append(vec![entry(2, 2)], world.done(1)).unwrap();
    wal.step();
    drop(wal);
    world.io.kill();
    // The torn bytes were given back with the unused rest of their file: nothing can bring them back.
    assert!(world.io.flip_bit(&torn.path, torn.offset + 5_000, 3).is_err());
    assert_eq!(
        world.open().unwrap().read(0..9, usize::MAX).unwrap(),
        [entry(1, 0), entry(1, 1), entry(2, 2)]
    );
}

#[test]
fn direct_means_direct_and_auto_takes_what_there_is() {
    let mut world = World::new(12, Sabotage::default());
    for refusal in [Refusal::AtOpen, Refusal::AtUse] {
        world.io.refuse_direct(refusal);
        world.config.io = WalIo::Direct;
        assert_eq!(world.open().unwrap_err().code(), Code::InvalidConfig);
        // The second time there are files to recover, which cannot be read directly either.
        world.config.io = WalIo::Auto;
        for index in 0..2 {
            let wal = world.open().unwrap();
            assert_eq!(wal.metrics().writer, "buffered");
            assert_eq!(wal.state().last.is_some(), index > 0 || refusal == Refusal::AtUse);
            let id = LogId { term: 1, index: LogIndex(wal.state().last.map_or(0, |last| last.index.0 + 1)) };
            wal.append(vec![LogEntry { id, payload: Bytes::from_static(b"x") }], world.done(1)).unwrap();
            wal.close().unwrap();
            drop(wal);
            world.io.kill();
        }
    }
    world.io.refuse_direct(Refusal::Never);
    world.config.io = WalIo::Direct;
    let wal = world.open().unwrap();
    assert_eq!(wal.metrics().writer, "direct");
    assert_eq!(wal.state().last.unwrap().index.0, 3);
}

#[test]
fn restarts_without_entries_leave_no_files_behind() {
    let world = World::new(13, Sabotage::default());
    for _ in 0..20 {
        world.open().unwrap().close().unwrap();
    }
    assert!(world.io.list(Path::new(DIR)).unwrap().len() < 8);
}
