//! A node whose disk is full to the last byte: it answers soon, goes on by itself, and starts if it can.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use scribe_ledger::{
    config::Config,
    env::{Env, Io, OpenMode},
    error::{Code, Error},
    node::{Founding, Node},
    pipeline::message::Written,
    raft::Member,
    sim::{self, SimIo, sim_env},
    state::batch::Draft,
    types::Seq,
    wal::{Driver, WalOptions},
};
use tokio::time::Instant;

const FILE_BYTES: u64 = 64 << 10;

/// In simulated time.
const SOON: Duration = Duration::from_secs(1);

fn config() -> Config {
    let mut config = Config::default();
    config.node.data_dir = "/ledger".into();
    config.storage.tiering.enable_auto_archival = false;
    config.wal.file_bytes = FILE_BYTES;
    // Nothing stops writes before the disk does.
    config.wal.disk_free_bytes_min = 0;
    // One on its way to the log, and others behind it.
    config.pipeline.inflight_entries_max = 1;
    config
}

async fn start(io: &SimIo, config: &Config, seed: u64) -> Result<Node, Error> {
    let options = WalOptions::new(config.wal.clone(), Driver::Task);
    let env: Env = sim_env(io, seed);
    Node::start(
        env,
        config,
        Founding::alone(1, Member { http_addr: "sim:1".into(), ..Member::default() }),
        options,
    )
    .await
}

/// Runs a process until it ends or is killed.
fn life<T>(io: &SimIo, seed: u64, live: impl Future<Output = T>) -> T {
    let result = sim::runtime(seed).block_on(live);
    io.kill();
    result
}

fn used(io: &SimIo) -> u64 {
    let all = 1 << 40;
    io.set_capacity(Some(all));
    let used = all - io.free_bytes(Path::new("/ledger")).unwrap();
    io.set_capacity(None);
    used
}

async fn put(node: &Node, key: &str, bytes: usize) -> Result<Written, Error> {
    let mut draft = Draft::new();
    draft.put(key.as_bytes(), &vec![7; bytes]).unwrap();
    node.ingest().permit(bytes)?.submit(draft).await
}

/// A bulk once hung until its client gave up: it waited in the log, which waited for space.
#[test]
fn writes_are_answered_soon_and_as_what_they_are() {
    let io = SimIo::new(1);
    life(&io, 1, async {
        let node = Arc::new(start(&io, &config(), 1).await.unwrap());
        put(&node, "before", 10).await.unwrap();
        io.set_capacity(Some(used(&io)));
        // All are admitted before it shows: some go into the log, the others wait behind them.
        let permits: Vec<_> = (0..12).map(|_| node.ingest().permit(9_000).unwrap()).collect();
        let began = Instant::now();
        let mut writes = Vec::new();
        for (n, permit) in permits.into_iter().enumerate() {
            let mut draft = Draft::new();
            draft.put(format!("key-{n}").as_bytes(), &[7; 9_000]).unwrap();
            writes.push(tokio::spawn(permit.submit(draft)));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut answers = Vec::new();
        for write in writes {
            answers.push(write.await.unwrap().map_err(|error| error.code()));
        }
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        let count = |answer: Result<(), Code>| {
            answers.iter().filter(|given| given.as_ref().map(drop).map_err(|code| *code) == answer).count()
        };
        assert!(count(Err(Code::OutcomeUnknown)) > 0 && count(Err(Code::DiskFull)) > 0, "{answers:?}");
        assert_eq!(
            count(Ok(())) + count(Err(Code::OutcomeUnknown)) + count(Err(Code::DiskFull)),
            answers.len(),
            "{answers:?}"
        );
        let refused = put(&node, "later", 10).await.unwrap_err();
        assert_eq!(refused.code(), Code::DiskFull);
        assert!(refused.message().contains("nothing was written") && refused.retry_delay().is_some());
        let reader = node.reader();
        assert!(reader.record(Seq(0)).unwrap().is_some(), "reads go on");

        io.set_capacity(None);
        let deadline = Instant::now() + Duration::from_secs(5);
        while put(&node, "after", 10).await.is_err() {
            assert!(Instant::now() < deadline, "writes do not go on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let is_there = |key: String| {
            let records = (0..reader.next_seq().0).map(|seq| reader.record(Seq(seq)).unwrap().unwrap());
            records.filter(|record| record.key == key.as_bytes()).count()
        };
        for (n, answer) in answers.iter().enumerate() {
            let there = is_there(format!("key-{n}"));
            // What waited in the log was written when there was room.
            assert_eq!(there, usize::from(*answer != Err(Code::DiskFull)), "key-{n}: {answer:?}");
        }
    });
}

#[test]
fn a_node_stops_soon() {
    let io = SimIo::new(2);
    life(&io, 2, async {
        let node = Arc::new(start(&io, &config(), 2).await.unwrap());
        io.set_capacity(Some(used(&io)));
        let writer = tokio::spawn({
            let node = node.clone();
            async move { while put(&node, "key", 9_000).await.is_ok() {} }
        });
        writer.await.unwrap();
        let began = Instant::now();
        let node = Arc::into_inner(node).expect("the writer is gone");
        // The log has to say that what waits in it is not written.
        assert!(node.stop().await.is_err());
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    });
}

#[test]
fn a_start_that_has_no_room_says_how_much_it_needs() {
    let io = SimIo::new(3);
    let config = config();
    life(&io, 3, async {
        let node = start(&io, &config, 3).await.unwrap();
        put(&node, "key", 10).await.unwrap();
        node.stop().await.unwrap();
    });
    io.set_capacity(Some(used(&io)));
    let error = life(&io, 4, async { start(&io, &config, 4).await.err().expect("there is no room") });
    assert_eq!(error.code(), Code::DiskFull);
    let needed = config.wal.free_bytes_to_start();
    assert!(error.message().contains(&format!("with {needed} bytes free it does, 0 are")), "{error}");
    assert!(error.message().contains("free some space and start it again"), "{error}");

    io.set_capacity(Some(used(&io) + needed));
    life(&io, 5, async {
        let node = start(&io, &config, 5).await.unwrap();
        assert_eq!(node.reader().next_seq(), Seq(1));
        node.stop().await.unwrap();
    });
}

/// A file that was made ahead by the run before is room enough.
#[test]
fn a_start_makes_do_with_what_is_ready() {
    let io = SimIo::new(6);
    let config = config();
    life(&io, 6, async {
        let node = start(&io, &config, 6).await.unwrap();
        put(&node, "key", 10).await.unwrap();
        node.stop().await.unwrap();
    });
    let spare = io.open(Path::new("/ledger/wal/spare-0000000000000001.log"), OpenMode::Buffered).unwrap();
    spare.write_at(&vec![0; FILE_BYTES as usize], 0).unwrap();
    spare.sync().unwrap();
    io.set_capacity(Some(used(&io)));
    life(&io, 7, async {
        let node = start(&io, &config, 7).await.unwrap();
        assert_eq!(node.reader().record(Seq(0)).unwrap().unwrap().key, "key");
        put(&node, "more", 10).await.unwrap();
        node.stop().await.unwrap();
    });
}
