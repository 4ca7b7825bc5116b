//! What the archive does with a ledger of real size: the real programs, a directory, and an S3 server in this process.
//!
//! ```text
//!  load, archive off ─► data directory ─┬─► archive on, directory ─► restore ─► files leave ─► cold reads
//!                                       └─► archive on, S3 over loopback
//! ```
//!
//! Why: uploading is packing, hashing, a request, reading back and comparing; a cold read is a look at the index, a
//! request, a decompression and a hash. Parts of it would add up to less than the whole. The S3 server takes its share of
//! the same processors and the same disk, so its figure is a floor. Run with `cargo bench --bench archive`, or with
//! `-- RECORDS` for another size; the disk is that of `TMPDIR`. It prints, and compares nothing.

#![expect(clippy::print_stdout, reason = "figures are all that it is for")]
#![expect(clippy::disallowed_methods, reason = "real processes take real time")]

#[path = "../tests/common/client.rs"]
#[allow(dead_code, reason = "tests share it")]
mod client;
#[path = "../tests/cluster/process.rs"]
#[allow(dead_code, reason = "tests share it")]
mod process;
#[cfg(feature = "s3")]
#[path = "../tests/archive_store/server.rs"]
#[allow(dead_code, reason = "tests share it")]
mod server;
#[path = "../tests/cluster/wait.rs"]
#[allow(dead_code, reason = "tests share it")]
mod wait;

use std::{path::Path, process::Command, time::Instant};

use hdrhistogram::Histogram;
use scribe_ledger::{types::Op, wire::push_frame};

use crate::{
    process::{Node, Spec},
    wait::{wait_for, wait_until},
};

const RECORDS: u64 = 3_000_000;
const BATCH: u64 = 4_096;
const COLD_READS: u64 = 3_000;

fn key(n: u64) -> String {
    format!("key-{:012x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16)
}

/// Half noise, half text, as much of what people store is.
fn value(n: u64) -> Vec<u8> {
    let mut value = vec![0; 50];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut value);
    value.extend(b"and fifty bytes that are the same in every record.");
    value
}

fn load(node: &Node, records: u64) {
    let mut body = Vec::new();
    for n in 0..records {
        push_frame(&mut body, Op::Put, key(n).as_bytes(), &value(n)).expect("short enough");
        if (n + 1) % BATCH == 0 || n + 1 == records {
            node.call("POST", "/api/v1/batch", &[("Content-Type", "application/vnd.scribe.batch")], &body)
                .is(200);
            body.clear();
        }
    }
    wait_until("all is sealed", || {
        node.status().is_some_and(|status| status["records"]["sealed"] == records)
    });
}

fn metric(node: &Node, name: &str) -> f64 {
    let text = String::from_utf8(node.get("/metrics/prometheus").is(200).body).expect("text");
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
}

/// Starts a node whose archive is empty, and waits until it has everything.
fn archive(spec: &Spec, what: &str, records: u64) {
    let node = spec.start();
    // Ready or not: it begins when it leads.
    let seconds = {
        node.wait_ready();
        let begun = Instant::now();
        wait_for("all is archived", || {
            let status = node.status()?;
            (status["records"]["archived"] == records).then(|| begun.elapsed().as_secs_f64())
        })
    };
    let raw = metric(&node, "scribe_archive_raw_bytes_total") / 1e6;
    let stored = metric(&node, "scribe_archive_stored_bytes_total") / 1e6;
    println!(
        "{what}: {raw:.0} MB of segments, {stored:.0} MB stored, {seconds:.1} s: {:.0} MB/s raw, {:.0} MB/s stored",
        raw / seconds,
        stored / seconds
    );
    node.stop();
}

fn restore(spec: &Spec, to: &Path, records: u64) {
    let begun = Instant::now();
    let scribe = Command::new(env!("CARGO_BIN_EXE_scribe"))
        .args(["restore", "--from"])
        .arg(spec.dir.join("archive"))
        .arg("--data-dir")
        .arg(to)
        .output()
        .expect("it starts");
    let seconds = begun.elapsed().as_secs_f64();
    assert!(scribe.status.success(), "{}", String::from_utf8_lossy(&scribe.stderr));
    println!(
        "restore, directory: {records} records, {seconds:.1} s: {:.0} records/s",
        records as f64 / seconds
    );
}

/// Reads records of random keys one after the other, none of whose blocks is on this node.
fn cold_reads(spec: Spec, records: u64) {
    let spec = spec.with(&[
        ("STORAGE_TIERING_LOCAL_BYTES_MAX", "1"),
        ("STORAGE_TIERING_AGE_THRESHOLD_SECS", "0"),
        ("STORAGE_TIERING_CACHE_DISK_SIZE", "1MiB"),
        ("STORAGE_MAX_CACHE_SIZE", "8MiB"),
    ]);
    let node = spec.start_ready();
    wait_until("the files have left", || {
        let rows = node.get("/api/v1/segments").is(200).json();
        let rows = rows.as_array().expect("a list");
        rows.split_last().is_some_and(|(_newest, rows)| rows.iter().all(|row| row["state"] == "archived"))
    });
    let (before, mut times) = (
        metric(&node, "scribe_archive_downloads_total"),
        Histogram::<u64>::new(3).expect("three digits are allowed"),
    );
    let mut client = process::connect(spec.http, wait::PATIENCE).expect("it listens");
    for n in 0..COLD_READS {
        let n = n.wrapping_mul(0x2545_f491_4f6c_dd1d) % records;
        let begun = Instant::now();
        let answer = client.call("GET", &format!("/{}", key(n)), &[], b"").is(200);
        times.saturating_record(begun.elapsed().as_micros() as u64);
        assert_eq!(answer.body, value(n));
    }
    let ms = |q| times.value_at_quantile(q) as f64 / 1e3;
    println!(
        "cold point reads, directory: {COLD_READS}, of which {:.0} were downloads: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        metric(&node, "scribe_archive_downloads_total") - before,
        ms(0.5),
        ms(0.99),
        times.max() as f64 / 1e3
    );
    node.stop();
}

#[cfg(feature = "s3")]
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("it can be made");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be listed");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("it has one").is_dir() {
            true => copy(&entry.path(), &to),
            false => {
                std::fs::copy(entry.path(), &to).expect("there is room");
                // As a node has left it: what is read past the page cache waits for what is to be written first.
                std::fs::File::open(to).and_then(|file| file.sync_all()).expect("it is on the disk");
            }
        }
    }
}

#[cfg(feature = "s3")]
fn archive_into_s3(spec: Spec, records: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime.block_on(server::Server::start());
    let settings = server.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
    archive(&spec.with(&settings), "archive, S3 over loopback", records);
}

fn main() {
    let records = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(RECORDS);
    let home = tempfile::tempdir().expect("a temporary directory");
    let spec = Spec::new(home.path(), 1).with(&[
        ("WAL_FILE_BYTES", "64MiB"),
        ("LOGGING_LEVEL", "warn"),
        ("STORAGE_SEGMENT_AGE_MAX", "1s"),
    ]);
    let node = spec.clone().with(&[("STORAGE_TIERING_ENABLE_AUTO_ARCHIVAL", "false")]).start_ready();
    load(&node, records);
    node.stop();
    #[cfg(feature = "s3")]
    {
        let mut twin = spec.clone();
        twin.dir = home.path().join("twin");
        copy(&spec.dir, &twin.dir);
        archive_into_s3(twin, records);
    }
    archive(&spec, "archive, directory", records);
    restore(&spec, &home.path().join("restored"), records);
    cold_reads(spec, records);
}
