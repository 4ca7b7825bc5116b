//! What a client waits for one answer: a whole node in this process, on a real disk, behind a real socket.
//!
//! Why: `path` measures what a record costs, and adds nothing up; here hops between tasks and threads, the
//! HTTP server and the disk's sync are in the figure. One connection and one request at a time, so nothing
//! is hidden by batching. Run with `cargo bench --bench http`; the disk is that of `TMPDIR`.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scribe_ledger::{
    api::{self, App, Live},
    cluster::admin::Admin,
    config::Config,
    env::real::real_env,
    metrics::Metrics,
    node::{Founding, Node},
    raft::Member,
    types::Op,
    wal::{Driver, WalOptions},
    wire::push_frame,
};

const BULK_RECORDS: u64 = 1_000;

/// A node that ends with the process.
fn serve() -> (SocketAddr, tempfile::TempDir, tokio::runtime::Runtime) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut config = Config::default();
    config.node.data_dir = dir.path().join("data");
    let addr = runtime.block_on(async move {
        let options = WalOptions::new(config.wal.clone(), Driver::Thread);
        let founding = Founding::alone(1, Member { http_addr: "127.0.0.1:1".into(), ..Member::default() });
        let node = Node::start(real_env(), &config, founding, options).await.expect("the node starts");
        let listener = api::listen(([127, 0, 0, 1], 0).into()).expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (consensus, network) = (node.info().consensus().clone(), real_env().network);
        let admin = Admin::new(consensus, network, "bench", 1, Duration::from_secs(1));
        let backend = Live {
            ingest: node.ingest(),
            reader: node.reader(),
            proofs: node.proofs(),
            admin,
            repairs: node.repairs(),
        };
        let view = Arc::new(node.info());
        let app = App { backend, node: view, metrics: Arc::new(Metrics::new()), limits: config.limits };
        tokio::spawn(async move {
            api::serve(app, listener, std::future::pending()).await;
            drop(node);
        });
        addr
    });
    (addr, dir, runtime)
}

/// Sends a request and reads its answer; both fit one buffer.
fn call(stream: &mut TcpStream, request: &[u8], answer: &mut [u8]) -> usize {
    stream.write_all(request).expect("the server reads");
    let mut filled = 0;
    loop {
        filled += stream.read(&mut answer[filled..]).expect("the server answers");
        let text = String::from_utf8_lossy(&answer[..filled]);
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if filled >= head.len() + 4 + length.unwrap_or(0) {
            assert!(head.starts_with("HTTP/1.1 2"), "{text}");
            return filled;
        }
    }
}

fn endpoints(c: &mut Criterion) {
    let (addr, _dir, runtime) = serve();
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_nodelay(true).expect("TCP has it");
    let mut answer = vec![0; 64 << 10];
    let mut group = c.benchmark_group("http");

    // The floor: a socket, a parser, a router; no stage of ours.
    let health = b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n";
    group.bench_function("GET /health", |b| b.iter(|| call(&mut stream, health, &mut answer)));

    // One lone durable write: every hop and one sync.
    let value = "v".repeat(100);
    let put = format!("PUT /key HTTP/1.1\r\nHost: bench\r\nContent-Length: 100\r\n\r\n{value}");
    group.bench_function("PUT of 100 B, durable", |b| {
        b.iter(|| call(&mut stream, put.as_bytes(), &mut answer))
    });

    // The floor and one look at the newest version; linearizable, as clients get it by default.
    let get = b"GET /key HTTP/1.1\r\nHost: bench\r\n\r\n";
    group.bench_function("GET of 100 B, linearizable", |b| b.iter(|| call(&mut stream, get, &mut answer)));

    let mut body = Vec::new();
    for n in 0..BULK_RECORDS {
        push_frame(&mut body, Op::Put, &n.to_be_bytes(), value.as_bytes()).expect("short enough");
    }
    let mut bulk = format!(
        "POST /api/v1/batch HTTP/1.1\r\nHost: bench\r\nContent-Type: application/vnd.scribe.batch\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bulk.extend(body);
    group.throughput(Throughput::Elements(BULK_RECORDS));
    group.sample_size(30);
    group.bench_function("POST of 1,000 records, durable", |b| {
        b.iter(|| call(&mut stream, &bulk, &mut answer))
    });
    group.finish();
    drop(stream);
    runtime.shutdown_background();
}

criterion_group!(benches, endpoints);
criterion_main!(benches);
