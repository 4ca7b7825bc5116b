//! The real node on a simulated disk and clock: clients write, the power goes, the node comes back, and
//! nothing that was promised may be missing, changed or invented.
//!
//! One seed is one history of several lives of the same disk. A seed that fails is played again, byte for
//! byte, with `SIM_SEED=… cargo test --test sim_node`; `SIM_SEEDS=…` sets how many are tried.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use scribe_ledger::{
    config::{Config, WalConfig, WalIo},
    env::Io,
    env::{Clock, Env, Rng, real::NoPeers},
    error::Code,
    node::{Ended, Founding, Node},
    pipeline::message::Written,
    proof::{Hash, frontier::Frontier},
    raft::Member,
    read::{Reader, Record},
    segment::{BlockCache, Segment},
    sim::{self, Failure, Fault, Op, SimIo, SimRng},
    state::batch::{Condition, Draft},
    types::{self, Seq},
    wal::{Driver, Sabotage, WalOptions},
};
use tokio::time::Instant;

const SEEDS: u64 = 1_500;
const CLIENTS: u64 = 4;

/// Wall clock of one life: tokio's paused time behind a start that no two lives share.
#[derive(Debug)]
struct LifeClock {
    base_ms: u64,
    started: Instant,
}

impl Clock for LifeClock {
    fn now_ms(&self) -> u64 {
        self.base_ms + self.started.elapsed().as_millis() as u64
    }
}

/// A request as a client sent it. The first operation puts a value that no other request has.
#[derive(Clone, Debug)]
struct Request {
    ops: Vec<(types::Op, Vec<u8>, Vec<u8>)>,
    condition: Option<Condition>,
    idempotency_key: Option<String>,
}

impl Request {
    fn draw(rng: &SimRng, id: u64) -> Self {
        let key = |rng: &SimRng| format!("key-{}", rng.below(12)).into_bytes();
        let mut value = format!("value-{id}-").into_bytes();
        let filler = if rng.one_in(6) { rng.below(9_000) } else { rng.below(60) };
        value.resize(value.len() + filler as usize, b'.');
        let mut ops = vec![(types::Op::Put, key(rng), value)];
        let condition = match rng.below(8) {
            0 => Some(Condition::Absent),
            1 => Some(Condition::Present),
            2 => Some(Condition::At(rng.below(60))),
            _ => None,
        };
        if condition.is_none() {
            for _ in 0..rng.below(4) {
                let delete = rng.one_in(3);
                let op = if delete { types::Op::Delete } else { types::Op::Put };
                ops.push((op, key(rng), if delete { Vec::new() } else { format!("also-{id}").into_bytes() }));
            }
        }
        let idempotency_key = rng.one_in(2).then(|| format!("request-{id}"));
        Self { ops, condition, idempotency_key }
    }

    fn draft(&self) -> Draft {
        let mut draft = Draft::new();
        for (op, key, value) in &self.ops {
            match op {
                types::Op::Put => draft.put(key, value),
                types::Op::Delete => draft.delete(key),
            }
            .unwrap();
        }
        if let Some(condition) = self.condition {
            draft.set_condition(condition);
        }
        if let Some(key) = &self.idempotency_key {
            draft.set_idempotency_key(key.clone());
        }
        draft
    }
}

/// What a client knows of its request.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    /// Sent, and the world ended before an answer.
    Unknown,
    /// Answered.
    Written(Written),
    /// Refused: it must not be in the ledger.
    Refused(Code),
}

#[derive(Default)]
struct History {
    sent: BTreeMap<u64, (Request, Fate)>,
    /// Everything that was ever readable, by position.
    seen: Vec<Record>,
    next_id: u64,
    /// Size and root of the newest checkpoint that was shown.
    checkpoint: Option<(Seq, Hash)>,
}

struct World {
    io: SimIo,
    rng: SimRng,
    sabotage: Sabotage,
    history: Arc<Mutex<History>>,
    now_ms: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Summary {
    trace: u64,
    digest: [u8; 32],
    records: usize,
    answered: usize,
    lives: u64,
}

fn config(rng: &SimRng) -> Config {
    let mut config = Config::default();
    config.node.data_dir = "/ledger".into();
    config.storage.tiering.enable_auto_archival = false;
    config.wal = WalConfig {
        io: if rng.one_in(3) { WalIo::Buffered } else { WalIo::Auto },
        file_bytes: 64 << 10,
        group_bytes_max: 16 << 10,
        tail_bytes_max: 8 << 10,
        disk_free_bytes_min: 0,
        keep_bytes: if rng.one_in(2) { 0 } else { rng.below(32 << 10) },
        ..WalConfig::default()
    };
    // A segment now and then, and blocks that have to be read again.
    config.storage.segment_size = 4 << 10;
    config.storage.max_cache_size = rng.below(64 << 10);
    config.storage.unsealed_bytes_max = 64 << 10;
    config.pipeline.batch_ops_max = 1 + rng.below(40) as usize;
    config.pipeline.inflight_entries_max = 1 + rng.below(4) as usize;
    if rng.one_in(4) {
        config.pipeline.batch_linger = Duration::from_micros(300);
    }
    config.limits.idempotency_window_secs = 3_600;
    config
}

impl World {
    fn new(seed: u64, sabotage: Sabotage) -> Self {
        let rng = SimRng::new(seed);
        let io = SimIo::new(rng.next_u64());
        Self { io, rng, sabotage, history: Arc::default(), now_ms: 1_700_000_000_000 }
    }

    /// Runs `life` as a process of its own: a runtime on paused time that ends with it.
    fn process<T>(&mut self, life: impl AsyncFnOnce(&Self, Env) -> T) -> T {
        let runtime = sim::runtime(self.rng.next_u64());
        self.now_ms += 1 + self.rng.below(5_000);
        let (base_ms, io, rng) = (self.now_ms, self.io.clone(), self.rng.fork());
        let this = &*self;
        let (result, elapsed) = runtime.block_on(async move {
            let started = Instant::now();
            let env = Env {
                io: Arc::new(io),
                clock: Arc::new(LifeClock { base_ms, started }),
                rng: Arc::new(rng),
                network: Arc::new(NoPeers),
            };
            (life(this, env).await, started.elapsed())
        });
        drop(runtime);
        self.now_ms += elapsed.as_millis() as u64;
        result
    }

    async fn start(&self, env: Env) -> Result<Node, scribe_ledger::error::Error> {
        let config = config(&SimRng::new(self.now_ms));
        let options =
            WalOptions { sabotage: self.sabotage, ..WalOptions::new(config.wal.clone(), Driver::Task) };
        Node::start(
            env,
            &config,
            Founding::alone(1, Member { http_addr: "sim:1".into(), ..Member::default() }),
            options,
        )
        .await
    }

    /// One life with an accident somewhere in it, or a clean stop at its end.
    fn live(&mut self) -> Result<(), String> {
        let accident = self.rng.below(5);
        let nth = self.rng.below(60);
        let armed = match accident {
            0 => None,
            1 => Some(Fault { op: Op::Sync, nth: nth / 2, failure: Failure::NotDone }),
            2 => Some(Fault { op: Op::Write, nth, failure: Failure::Done }),
            _ => Some(Fault { op: Op::Any, nth: nth * 2, failure: Failure::Crash }),
        };
        if let Some(fault) = armed {
            self.io.arm(fault);
        }
        let result = self.process(async |world, env| {
            let node = match world.start(env).await {
                Ok(node) => node,
                // It may refuse to start while its disk fails under it, but never call it damage.
                Err(error) if armed.is_some() && error.code() != Code::Corrupt => return Ok(()),
                Err(error) => return Err(format!("the node does not start: {error}")),
            };
            world.check(&node.reader())?;
            world.look_at_checkpoint(&node).await?;
            let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(world.client(&node, 12))).collect();
            let until_done = async {
                for client in clients {
                    client.await.unwrap();
                }
            };
            tokio::select! {
                biased;
                () = until_done => {}
                _ = node.ended() => {}
            }
            world.look(&node.reader())?;
            world.look_at_checkpoint(&node).await?;
            if accident == 0 {
                node.stop().await.map_err(|error| format!("a clean stop failed: {error}"))?;
            }
            Ok(())
        });
        self.io.disarm();
        match self.io.is_down() || self.rng.one_in(2) {
            // Power is lost: what was not synced may be gone.
            true => {
                self.io.crash();
                self.io.restart();
            }
            // The process died, the page cache lives.
            false => self.io.kill(),
        }
        result
    }

    /// A client that sends a few requests, one after the other, and retries what it may.
    fn client(&self, node: &Node, requests: u64) -> impl Future<Output = ()> + Send + 'static {
        let (ingest, reader, history, rng) =
            (node.ingest(), node.reader(), self.history.clone(), self.rng.fork());
        async move {
            for _ in 0..requests {
                tokio::time::sleep(Duration::from_micros(rng.below(800))).await;
                let retry = {
                    let history = history.lock().unwrap();
                    let unknown = |(id, (request, fate)): (&u64, &(Request, Fate))| {
                        (*fate == Fate::Unknown && request.idempotency_key.is_some()).then_some(*id)
                    };
                    history.sent.iter().find_map(unknown).filter(|_| rng.one_in(2))
                };
                let (id, request) = {
                    let mut history = history.lock().unwrap();
                    let id = retry.unwrap_or(history.next_id);
                    if retry.is_none() {
                        history.next_id += 1;
                        history.sent.insert(id, (Request::draw(&rng, id), Fate::Unknown));
                    }
                    (id, history.sent[&id].0.clone())
                };
                let answer = match ingest.permit(0) {
                    Ok(permit) => {
                        let patience = Duration::from_secs(2);
                        match tokio::time::timeout(patience, permit.submit(request.draft())).await {
                            Ok(answer) => answer,
                            Err(_) => continue,
                        }
                    }
                    Err(refused) => Err(refused),
                };
                let fate = match answer {
                    Ok(written) => Fate::Written(written),
                    Err(error) if error.code() == Code::OutcomeUnknown => Fate::Unknown,
                    // A retry that is refused says nothing about the first try.
                    Err(error) if retry.is_some() && error.code() != Code::PreconditionFailed => {
                        Fate::Unknown
                    }
                    Err(error) => Fate::Refused(error.code()),
                };
                if let Fate::Written(written) = &fate {
                    // Read your write.
                    match reader.record(Seq(written.first_seq.0)) {
                        Ok(own) => assert_eq!(
                            own.map(|record| record.value).as_deref(),
                            Some(&request.ops[0].2[..]),
                            "an answered write is not readable"
                        ),
                        Err(error) => assert_eq!(error.code(), Code::Io, "{error}"),
                    }
                }
                history.lock().unwrap().sent.insert(id, (request, fate));
            }
        }
    }

    /// Notes the newest checkpoint, which every later one has to go on from.
    async fn look_at_checkpoint(&self, node: &Node) -> Result<(), String> {
        let proofs = node.proofs();
        let Some(shown) = proofs.covering(Seq(0), Duration::from_millis(100)).await else { return Ok(()) };
        let before = self.history.lock().unwrap().checkpoint.replace((shown.size, shown.root));
        let Some((size, root)) = before else { return Ok(()) };
        if shown.size < size {
            return Err(format!("a checkpoint of {size} was shown, and then one of {}", shown.size));
        }
        match proofs.consistency(size, shown.size) {
            Ok(proof) if proof.from_root == root => Ok(()),
            Ok(_) => Err(format!("the first {size} records have another root than was signed")),
            Err(error) if error.code() == Code::Io => Ok(()),
            Err(error) => Err(format!("no proof of consistency: {error}")),
        }
    }

    /// Notes everything that is readable: it was applied, so it has to stay.
    fn look(&self, reader: &Reader) -> Result<(), String> {
        self.check(reader)
    }

    /// Holds what the node shows against everything that was promised.
    fn check(&self, reader: &Reader) -> Result<(), String> {
        let records = (0..reader.next_seq().0).map(|seq| reader.record(Seq(seq)).transpose());
        let records = match records.collect::<Option<Result<Vec<Record>, _>>>() {
            Some(Ok(records)) => records,
            // The disk of this life has failed already; the last life's does not.
            Some(Err(error)) if error.code() == Code::Io => return Ok(()),
            Some(Err(error)) => return Err(format!("a record cannot be read: {error}")),
            None => return Err("positions are not dense".into()),
        };
        let mut history = self.history.lock().unwrap();
        if let Some(at) = history.seen.iter().zip(&records).position(|(before, now)| before != now) {
            return Err(format!("record {at} has changed: {:?} became {:?}", history.seen[at], records[at]));
        }
        if records.len() < history.seen.len() {
            return Err(format!("{} records were readable, {} are left", history.seen.len(), records.len()));
        }
        let mut explained = BTreeSet::new();
        for (id, (request, fate)) in &history.sent {
            let places: Vec<usize> = (0..records.len())
                .filter(|&at| records[at].value == request.ops[0].2 && records[at].key == request.ops[0].1)
                .collect();
            match (fate, &places[..]) {
                (Fate::Refused(code), [at, ..]) => {
                    return Err(format!("request {id} was refused ({code:?}) and is at {at} all the same"));
                }
                (Fate::Written(written), places) if places != [written.first_seq.0 as usize] => {
                    return Err(format!("request {id} was answered {written:?} and is at {places:?}"));
                }
                (_, [_, _, ..]) => {
                    return Err(format!("request {id} is in the ledger more than once: {places:?}"));
                }
                _ => {}
            }
            for &first in &places {
                for (n, (op, key, value)) in request.ops.iter().enumerate() {
                    let there = records.get(first + n);
                    if there.is_none_or(|r| r.op != *op || r.key != *key || r.value != *value) {
                        return Err(format!("request {id} is torn: operation {n} is not at {}", first + n));
                    }
                    explained.insert(first + n);
                }
                let before = match first.checked_sub(1) {
                    None => Ok(None),
                    Some(at) => reader.as_of(&request.ops[0].1, Seq(at as u64)),
                };
                let before = match before {
                    Ok(before) => before,
                    Err(error) if error.code() == Code::Io => return Ok(()),
                    Err(error) => return Err(format!("a key cannot be read: {error}")),
                };
                let live = before.filter(|record| record.op == types::Op::Put).map(|record| record.seq.0);
                let holds = match request.condition {
                    None => true,
                    Some(Condition::Absent) => live.is_none(),
                    Some(Condition::Present) => live.is_some(),
                    Some(Condition::At(seq)) => live == Some(seq),
                };
                if !holds {
                    return Err(format!(
                        "request {id} was written although {:?} did not hold",
                        request.condition
                    ));
                }
            }
        }
        if let Some(at) = (0..records.len()).find(|at| !explained.contains(at)) {
            return Err(format!("record {at} was never sent: {:?}", records[at]));
        }
        if records.windows(2).any(|pair| pair[0].timestamp_ms > pair[1].timestamp_ms) {
            return Err("times go back".into());
        }
        history.seen = records;
        Ok(())
    }

    fn digest(&mut self) -> Result<[u8; 32], String> {
        self.process(async |world, env| {
            let node = world.start(env).await.map_err(|error| format!("the node does not start: {error}"))?;
            world.check(&node.reader())?;
            let digest =
                node.info().state_digest().map_err(|error| format!("a segment cannot be read: {error}"))?;
            node.stop().await.map_err(|error| format!("a clean stop failed: {error}"))?;
            world.verify_segments()?;
            Ok(digest)
        })
    }

    /// Checks every byte of what is sealed, as a stranger would: each segment, and that each goes on where the one
    /// before ends.
    fn verify_segments(&self) -> Result<(), String> {
        let dir = std::path::Path::new("/ledger/segments");
        let cache = Arc::new(BlockCache::new(0));
        let mut root = Hash::EMPTY_ROOT;
        for name in self.io.list(dir).map_err(|error| error.to_string())? {
            let segment =
                Segment::open(&self.io, &dir.join(name), cache.clone()).map_err(|e| e.to_string())?;
            let before = Frontier::decode(&segment.summary().frontier_before).map_err(|e| e.to_string())?;
            if before.root() != root {
                return Err(format!("segment {} begins with another tree", segment.summary().head.id));
            }
            segment.verify(|_| ()).map_err(|error| error.to_string())?;
            root = Hash(segment.summary().root_after);
        }
        Ok(())
    }
}

/// Plays one seed. `Err` says which promise was broken.
fn play(seed: u64, sabotage: Sabotage) -> Result<Summary, String> {
    let mut world = World::new(seed, sabotage);
    let lives = 2 + world.rng.below(4);
    for _ in 0..lives {
        world.live()?;
    }
    // After the faults: it starts, it works, and replaying the same log twice gives the same state.
    world.process(async |world, env| {
        let node = world.start(env).await.map_err(|error| format!("the node does not start: {error}"))?;
        world.client(&node, 5).await;
        world.check(&node.reader())?;
        node.stop().await.map_err(|error| format!("a clean stop failed: {error}"))
    })?;
    let digest = world.digest()?;
    if digest != world.digest()? {
        return Err("the same log was replayed into another state".into());
    }
    let history = world.history.lock().unwrap();
    let answered = history.sent.values().filter(|(_, fate)| matches!(fate, Fate::Written(_))).count();
    if answered == 0 {
        return Err("not one write succeeded after the faults had stopped".into());
    }
    Ok(Summary { trace: world.io.trace(), digest, records: history.seen.len(), answered, lives })
}

/// As [`play`], with a panic as one more way to fail.
fn play_caught(seed: u64, sabotage: Sabotage) -> Result<Summary, String> {
    let played = std::panic::catch_unwind(|| play(seed, sabotage));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text
            .or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "a panic".into()))
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_promised_is_lost() {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut records, mut answered, mut lives) = (0, 0, 0);
    for seed in seeds {
        match play_caught(seed, Sabotage::default()) {
            Ok(summary) => {
                records += summary.records;
                answered += summary.answered;
                lives += summary.lives;
            }
            Err(broken) => {
                panic!("seed {seed}: {broken}\nplay it again: SIM_SEED={seed} cargo test --test sim_node")
            }
        }
    }
    eprintln!(
        "{lives} lives, {answered} answered requests, {records} records: nothing lost, changed or invented"
    );
}

/// Nobody waits for the closing group of an idle log, so nobody but the node can notice that it failed.
#[test]
fn a_disk_that_fails_while_the_log_is_idle_stops_the_node() {
    let mut world = World::new(1, Sabotage::default());
    let io = world.io.clone();
    let why = world.process(async |world, env| {
        let node = world.start(env).await.unwrap();
        let draft = || Request::draw(&world.rng, 1).draft();
        node.ingest().permit(0).unwrap().submit(draft()).await.unwrap();
        io.arm(Fault { op: Op::Write, nth: 0, failure: Failure::NotDone });
        tokio::time::timeout(Duration::from_secs(60), node.ended()).await
    });
    let Ended::Failed(why) = why.expect("the node stops") else { panic!("it does not want to go on") };
    assert!(why.contains("injected I/O error") && why.contains("/ledger/wal/wal-"), "{why}");
}

#[test]
fn a_seed_is_the_same_history_every_time() {
    for seed in [3, 17, 99] {
        assert_eq!(play(seed, Sabotage::default()), play(seed, Sabotage::default()), "seed {seed}");
    }
}

/// A clock set a year ahead once made every remembered answer expire, so that a retry was written twice;
/// set right again, it stopped all writes for a year.
#[test]
fn a_clock_set_wrong_for_a_while_neither_repeats_retries_nor_stops_writes() {
    const YEAR_MS: u64 = 365 * 24 * 3_600_000;
    let mut world = World::new(1, Sabotage::default());
    world.process(async |world, env| {
        let clock = Arc::new(sim::SimClock::new(1_700_000_000_000));
        let node = world.start(Env { clock: clock.clone(), ..env }).await.unwrap();
        let write = async |idempotency_key: Option<&str>| {
            let mut draft = Draft::new();
            draft.put(b"key", b"value").unwrap();
            idempotency_key.into_iter().for_each(|key| draft.set_idempotency_key(key.into()));
            node.ingest().permit(0).unwrap().submit(draft).await.unwrap()
        };
        let first = write(Some("retried")).await;
        clock.advance(YEAR_MS);
        write(None).await;
        let again = write(Some("retried")).await;
        assert_eq!((again.first_seq, again.replayed), (first.first_seq, true));
        clock.set(1_700_000_000_000);
        assert!(!write(None).await.replayed);
    });
}

/// Plants a bug in the log and expects the node's own promises to break, the same way each time.
fn is_caught(name: &str, sabotage: Sabotage) {
    let caught = (0..2_000).find_map(|seed| Some((seed, play_caught(seed, sabotage).err()?)));
    let Some((seed, broken)) = caught else { panic!("{name}: 2,000 seeds did not notice") };
    assert_eq!(
        play_caught(seed, sabotage),
        Err(broken.clone()),
        "{name}: seed {seed} fails the same way again"
    );
    eprintln!("{name}: caught by seed {seed}: {broken}");
}

#[test]
fn answering_before_the_sync_is_caught() {
    is_caught("ack_before_sync", Sabotage { ack_before_sync: true, ..Sabotage::default() });
}

#[test]
fn forgetting_to_sync_the_directory_is_caught() {
    is_caught("skip_dir_sync", Sabotage { skip_dir_sync: true, ..Sabotage::default() });
}

#[test]
fn going_on_after_a_failed_sync_is_caught() {
    is_caught("retry_after_error", Sabotage { retry_after_error: true, ..Sabotage::default() });
}

#[test]
fn believing_bytes_without_their_sum_is_caught() {
    is_caught("skip_sums", Sabotage { skip_sums: true, ..Sabotage::default() });
}
