//! What one record costs on its way in and out, stage by stage, without network and disk.
//!
//! Why: the budget of a record at a million a second on two cores is two microseconds in all, so a stage that
//! grows by a tenth of one shows in the throughput. Each group below is one stage of the path; figures are per
//! record. Run with `cargo bench --bench path`.

use std::{hint::black_box, path::Path, sync::Arc};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use scribe_ledger::{
    api::decode::{frames::Frames, ndjson::Ndjson},
    index::IndexOptions,
    proof::{
        Hash, ProofError,
        checkpoint::Checkpoint,
        frontier::Frontier,
        hash::node_hash,
        inclusion::{inclusion_proof, verify_inclusion},
        key::Signer,
        leaf::Leaf,
        memory::MemoryTree,
        tile::Tile,
        tiled::{TileSource, TiledTree},
        tree::root,
    },
    sealed::{Sealed, SealedOptions},
    sim::SimIo,
    state::{
        State, StateOptions,
        batch::{Batch, BatchView, Draft},
    },
    types::{Op, Seq},
    wire::push_frame,
};

const RECORDS: u64 = 4_096;

/// Spreads numbers over the key space, so that no two records are neighbours in a table.
fn key(n: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    out[8..].copy_from_slice(&n.to_be_bytes());
    out
}

fn draft(from: u64) -> Draft {
    let mut draft = Draft::with_capacity(RECORDS as usize, RECORDS as usize * 116);
    for n in from..from + RECORDS {
        draft.put(&key(n), &[b'v'; 100]).expect("the key is a good one");
    }
    draft
}

fn entry(from: u64) -> Bytes {
    let mut batch = Batch::default();
    batch.append(draft(from));
    batch.encode(1).expect("memory suffices")
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("bodies");
    group.throughput(Throughput::Elements(RECORDS));
    let mut frames = Vec::new();
    let mut lines = Vec::new();
    for n in 0..RECORDS {
        push_frame(&mut frames, Op::Put, &key(n), &[b'v'; 100]).expect("short enough");
        lines.extend_from_slice(
            format!("{{\"key\":\"{n:016}\",\"value\":\"{}\"}}\n", "v".repeat(100)).as_bytes(),
        );
    }
    // The hot path of bulk ingestion: a body as hyper hands it over, in pieces.
    group.bench_function("binary frames", |b| {
        b.iter(|| {
            let mut draft = Draft::with_capacity(RECORDS as usize, frames.len());
            let mut decoder = Frames::default();
            for piece in frames.chunks(64 << 10) {
                decoder.push(piece, &mut draft).expect("the frames are whole");
            }
            draft
        });
    });
    // What a client pays, and what the load generator must not pay for each record.
    group.bench_function("encode binary frames", |b| {
        let mut out = Vec::with_capacity(frames.len());
        b.iter(|| {
            out.clear();
            for n in 0..RECORDS {
                push_frame(&mut out, Op::Put, &key(n), &[b'v'; 100]).expect("short enough");
            }
            black_box(&out);
        });
    });
    group.bench_function("NDJSON lines", |b| {
        b.iter(|| {
            let mut draft = Draft::with_capacity(RECORDS as usize, lines.len());
            let mut decoder = Ndjson::default();
            for piece in lines.chunks(64 << 10) {
                decoder.push(piece, &mut draft).expect("the lines are whole");
            }
            draft
        });
    });
    group.finish();
}

fn batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    group.throughput(Throughput::Elements(RECORDS));
    // What replicate does with one bulk request: heads and blob become the entry's bytes.
    group.bench_function("close and encode", |b| {
        b.iter_batched(
            || draft(0),
            |draft| {
                let mut batch = Batch::default();
                batch.append(draft);
                batch.encode(1)
            },
            BatchSize::LargeInput,
        );
    });
    // What every replica does before it believes an entry.
    let bytes = entry(0);
    group.bench_function("validate", |b| b.iter(|| BatchView::open(bytes.clone())));
    group.finish();
}

fn state(c: &mut Criterion) {
    let mut group = c.benchmark_group("state");
    group.throughput(Throughput::Elements(RECORDS));
    // The largest part of a record's CPU: hash, look up, number. On a table that no cache holds.
    let options = SealedOptions {
        block_cache_bytes: 1 << 20,
        hot_cache_bytes: 0,
        index: IndexOptions { cache_bytes: 1 << 20, hash_seed: 1 },
        cold: Default::default(),
    };
    let sealed = Sealed::open(Arc::new(SimIo::new(1)), Path::new("/data"), options).expect("the disk works");
    let state = State::open(Arc::new(sealed), StateOptions::default()).expect("nothing is sealed");
    for n in 0..500 {
        state.apply(&BatchView::open(entry(n * RECORDS)).expect("it was just built")).expect("no conditions");
    }
    let mut next = 500;
    group.bench_function("apply new keys to 2M", |b| {
        b.iter_batched(
            || {
                next += 1;
                BatchView::open(entry(next * RECORDS)).expect("it was just built")
            },
            |view| state.apply(&view),
            BatchSize::LargeInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    let mut n = 0u64;
    group.bench_function("newest of 2M", |b| {
        b.iter(|| {
            n = (n + 7_919) % (500 * RECORDS);
            black_box(state.newest(&key(n)))
        });
    });
    group.finish();
}

struct MemoryTiles<'a>(&'a MemoryTree);

impl TileSource for MemoryTiles<'_> {
    type Error = ProofError;

    fn tile(&self, tile: Tile) -> Result<Vec<Hash>, ProofError> {
        tile.hashes(self.0)
    }
}

fn proof(c: &mut Criterion) {
    let mut group = c.benchmark_group("proof");
    let leaf = |n: u64| Leaf::of(Op::Put, Seq(n), 1, &key(n), &[b'v'; 100]);
    group.throughput(Throughput::Elements(RECORDS));
    // Every record, behind the answer path: five SHA-256 blocks.
    group.bench_function("leaf hashes", |b| {
        b.iter(|| (0..RECORDS).map(|n| leaf(n).hash()).collect::<Vec<Hash>>());
    });
    // The tree above them: one node, two blocks, for each.
    let hashes: Vec<Hash> = (0..RECORDS).map(|n| leaf(n).hash()).collect();
    group.bench_function("frontier", |b| {
        b.iter(|| {
            let mut frontier = Frontier::default();
            frontier.extend(&hashes);
            frontier.root()
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("node hash", |b| {
        b.iter(|| node_hash(black_box(&hashes[0]), black_box(&hashes[1])));
    });
    // Answering /api/v1/proofs/inclusion/{seq}, where all hashes are at hand; and checking the answer.
    let size = 1_000_000;
    let tree: MemoryTree = (0..size).map(|n: u64| Hash::of(&n.to_be_bytes())).collect();
    let mut n = 0u64;
    group.bench_function("inclusion proof in 1M", |b| {
        b.iter(|| {
            n = (n + 7_919) % size;
            inclusion_proof(&tree, n, size)
        });
    });
    // The same from tiles in memory, as they would be from segments and caches: read, and refolded.
    let tiles = MemoryTiles(&tree);
    group.bench_function("inclusion proof in 1M over tiles", |b| {
        b.iter(|| {
            n = (n + 7_919) % size;
            inclusion_proof(&TiledTree::new(&tiles, size), n, size)
        });
    });
    let root = root(&tree, size).expect("the tree is whole");
    let proof = inclusion_proof(&tree, 7, size).expect("the tree is whole");
    group.bench_function("verify inclusion in 1M", |b| {
        let leaf_hash = Hash::of(&7u64.to_be_bytes());
        b.iter(|| verify_inclusion(black_box(&leaf_hash), 7, size, &proof, &root).expect("it is true"));
    });
    // Once every 100 ms on each member, and once for every receipt that is checked.
    let signer = Signer::from_seed("scribe/bench/0", &[7; 32]).expect("a good name");
    let known = [signer.verifier_key().clone()];
    let checkpoint = Checkpoint::new("scribe/bench/0", size, root).expect("a good size");
    let note = checkpoint.sign(&signer).expect("the name is the origin");
    group.bench_function("sign a checkpoint", |b| b.iter(|| checkpoint.sign(&signer)));
    group.bench_function("open a checkpoint", |b| {
        b.iter(|| Checkpoint::open(black_box(&note), &known).expect("it is true"));
    });
    group.finish();
}

criterion_group!(benches, bodies, batch, state, proof);
criterion_main!(benches);
