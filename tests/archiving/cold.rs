//! The real program whose records are in a bucket alone, behind a server that checks signatures and does everything
//! wrong: a read gives what it gave while the files were here, or it is refused with the reason, and nothing else is
//! held up.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use hyper::Method;
use scribe_ledger::{segment::file_name, types::SegmentId};
use tokio::time::Instant;

use crate::{
    asked::{
        ALL_LEAVES, ALL_STAYS, KEYS, RECORDS, all_is_right, expected, is_right, key, metric, value,
        wait_cold, write,
    },
    process::Node,
    real::wait_archived,
    s3::{PREFIX, place, runtime, scribe, spec, told},
    server::{Fault, Server},
    wait::{PATIENCE, wait_until},
};

/// A ledger whose segments have left, and what readers were told before.
struct Cold {
    node: Node,
    server: Server,
    expected: BTreeMap<String, Vec<u8>>,
    gone: usize,
}

/// All of the ledger is in the bucket, and its node has just been started with these settings, too.
fn cold(home: &Path, runtime: &tokio::runtime::Runtime, settings: &[(&str, &str)]) -> Cold {
    let server = runtime.block_on(Server::start());
    let spec = spec(home, &server).with(&ALL_LEAVES);
    let node = spec.clone().with(&ALL_STAYS).start_ready();
    write(&node, 0..RECORDS);
    wait_archived(&node, RECORDS);
    let expected = expected(&node);
    node.stop();
    let mut node = spec.start_ready();
    let gone = wait_cold(&node);
    node.kill();
    node.spec = spec.with(settings);
    node.restart();
    wait_until("the archive is reached", || node.status().is_some_and(|it| it["archive"]["state"] == "ok"));
    Cold { node, server, expected, gone }
}

#[test]
fn everything_in_a_bucket_alone_is_read_back_as_it_was() {
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    let Cold { node, server, expected, gone } =
        cold(home.path(), &runtime, &[("STORAGE_TIERING_CACHE_DISK_SIZE", "1MiB")]);
    assert!(gone >= 6, "{gone}");
    all_is_right(&node, &expected);
    let downloads = metric(&node, "scribe_archive_downloads_total");
    assert!(downloads >= gone as f64 - 1.0, "{downloads} {gone}");
    // What has been fetched is here now.
    all_is_right(&node, &expected);
    let again = metric(&node, "scribe_archive_downloads_total");
    assert!(again == downloads, "{again} {downloads}");
    assert_eq!(metric(&node, "scribe_archive_download_errors_total"), 0.0);

    // Conditions need what stays; what is written on them is read like everything else.
    let newest = RECORDS - KEYS + 7;
    node.call("PUT", &format!("/{}", key(7)), &[("If-None-Match", "*")], b"no").is(412);
    let newest = (0..KEYS).map(|n| newest + n).find(|n| n % KEYS == 7).unwrap();
    let if_match = format!("\"{newest}\"");
    node.call("PUT", &format!("/{}", key(7)), &[("If-Match", &if_match)], b"yes").is(201);
    assert_eq!(node.get(&format!("/{}", key(7))).is(200).body, b"yes");
    assert_eq!(node.get(&format!("/{}?at={newest}", key(7))).is(200).body, value(newest).as_bytes());

    let (url, state) = (format!("http://{}", node.spec.http), home.path().join("visit.json"));
    told(&scribe(&server, &["verify", "--url", &url, "--samples", "64", "--state", state.to_str().unwrap()]));
    node.stop();
    let report = told(&scribe(&server, &["verify", "--archive", &place()]));
    assert!(report["records"].as_u64() >= Some(RECORDS), "{report}");
}

/// An object that is damaged, one that is missing, and every fault in between: what could not be read back is here, and
/// what is missing is put back first.
#[test]
fn what_the_bucket_does_not_give_back_stays_and_the_rest_leaves() {
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    let server = runtime.block_on(Server::start());
    let spec = spec(home.path(), &server).with(&ALL_LEAVES);
    let node = spec.clone().with(&ALL_STAYS).start_ready();
    write(&node, 0..RECORDS);
    wait_archived(&node, RECORDS);
    let expected = expected(&node);
    let rows = || node.get("/api/v1/segments").is(200).json().as_array().unwrap().clone();
    let objects: Vec<_> = rows().iter().map(|row| row["object"].as_str().unwrap().to_owned()).collect();
    node.stop();
    let object = |id: usize| server.bucket().join(PREFIX).join(&objects[id]);
    let (damaged, missing) = (1, 3);
    let whole = std::fs::read(object(damaged)).unwrap();
    let mut bytes = whole.clone();
    bytes[whole.len() / 3] ^= 1;
    std::fs::write(object(damaged), bytes).unwrap();
    let lost = std::fs::read(object(missing)).unwrap();
    std::fs::remove_file(object(missing)).unwrap();
    let faults = [
        Fault::SlowDown,
        Fault::Flip,
        Fault::Cut,
        Fault::LostRequest,
        Fault::FlipEnd,
        Fault::Short,
        Fault::LostReply,
        Fault::Endless,
        Fault::Denied,
    ];

    let node = spec.start_ready();
    wait_until("the archive is reached", || node.status().is_some_and(|it| it["archive"]["state"] == "ok"));
    // In turn, among the reads of those that leave.
    for fault in &faults {
        server.arm(Method::GET, *fault, 1);
    }
    let state = |id: usize| node.get("/api/v1/segments").is(200).json()[id]["state"].clone();
    let stays = |id: usize| id == damaged || id + 1 == objects.len();
    wait_until("the others have left", || (0..objects.len()).all(|id| stays(id) || state(id) == "archived"));
    wait_until("all of it has happened", || faults.iter().all(|fault| server.fired(*fault) == 1));
    node.wait_says("segments stay here although");
    assert_eq!(std::fs::read(object(missing)).unwrap(), lost);
    assert_eq!(state(damaged), "both");
    node.wait_says(&objects[damaged]);
    assert!(node.spec.dir.join("segments").join(file_name(SegmentId(damaged as u64))).is_file());
    all_is_right(&node, &expected);

    std::fs::write(object(damaged), &whole).unwrap();
    wait_cold(&node);
    all_is_right(&node, &expected);
    node.stop();
    told(&scribe(&server, &["verify", "--archive", &place()]));
}

/// Clients that read at once.
const READERS: usize = 8;

/// What readers were told, by what was wrong meanwhile.
#[derive(Default)]
struct Heard {
    right: AtomicU64,
    refused: Mutex<BTreeMap<String, Vec<String>>>,
    longest: Mutex<Duration>,
}

impl Heard {
    fn refused(&self, during: &str) -> Vec<String> {
        self.refused.lock().unwrap().get(during).cloned().unwrap_or_default()
    }
}

/// Reads with several clients at once until `is_over`.
fn read_while(
    node: &Node,
    expected: &BTreeMap<String, Vec<u8>>,
    (heard, during): (&Heard, &str),
    is_over: impl Fn() -> bool + Sync,
) {
    let give_up = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        for reader in 0..READERS {
            let is_over = &is_over;
            scope.spawn(move || {
                for (path, body) in expected.iter().cycle().skip(reader * 17) {
                    match is_right(node, path, body) {
                        Ok(()) => drop(heard.right.fetch_add(1, SeqCst)),
                        Err(why) => {
                            heard.refused.lock().unwrap().entry(during.to_owned()).or_default().push(why);
                        }
                    }
                    if is_over() {
                        return;
                    }
                    assert!(Instant::now() < give_up, "{during} does not end");
                }
            });
        }
    });
}

/// Ends the writer.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Writes, and reads what has been written, all the while.
fn write_on(node: &Node, heard: &Heard, is_over: &AtomicBool) -> u64 {
    let mut written = 0;
    while !is_over.load(SeqCst) {
        let began = Instant::now();
        let (key, value) = (format!("hot-{}", written % 10), written.to_string());
        let seq = node.put(&key, &value);
        assert_eq!(node.get(&format!("/{key}")).is(200).body, value.as_bytes());
        node.get(&format!("/api/v1/records/{seq}")).is(200);
        let mut longest = heard.longest.lock().unwrap();
        *longest = began.elapsed().max(*longest);
        drop(longest);
        written += 1;
        thread::park_timeout(Duration::from_millis(20));
    }
    written
}

/// What a reader is told who has waited as long as one does.
const TAKES_LONG: &str = "the archive takes long to give what was asked for";

/// How soon a write and two reads of it are answered together, on a busy machine.
const SOON: Duration = Duration::from_secs(3);

#[test]
fn whatever_the_bucket_does_a_cold_read_is_right_or_refused() {
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    // What is written meanwhile stays here: the faults are for reads.
    let Cold { mut node, server, expected, .. } =
        cold(home.path(), &runtime, &[("STORAGE_TIERING_MAX_LAG_SECS", "3600")]);
    let (heard, is_over) = (Heard::default(), AtomicBool::new(false));
    // What may happen together, once, and then again and again until reads are refused.
    let waves: [&[Fault]; 7] = [
        &[Fault::Hang],
        &[Fault::SlowDown, Fault::LostRequest, Fault::LostReply, Fault::Cut],
        &[Fault::Short],
        &[Fault::Endless],
        &[Fault::Flip],
        &[Fault::FlipEnd],
        &[Fault::Denied],
    ];
    let written = thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(&node, &heard, &is_over));
        // Also where a check fails.
        let _over = Over(&is_over);
        for wave in waves {
            let before: Vec<_> = wave.iter().map(|fault| server.fired(*fault)).collect();
            let fired = |times: u64| {
                wave.iter().zip(&before).all(|(fault, before)| server.fired(*fault) >= before + times)
            };
            let (began, once) = (Instant::now(), format!("{wave:?} once"));
            wave.iter().for_each(|fault| server.arm(Method::GET, *fault, 1));
            read_while(&node, &expected, (&heard, &once), || fired(1));
            // That is ridden out where asking again may help.
            let refused = heard.refused(&once);
            assert!(wave.contains(&Fault::Denied) || refused.is_empty(), "{once}: {refused:?}");
            eprintln!("{once}: {:?}", began.elapsed());
            if wave.contains(&Fault::Hang) {
                // A server that never answers is tried in less time where time is simulated.
                continue;
            }
            let often = format!("{wave:?} often");
            for fault in wave.iter().cycle().take(3_000) {
                server.arm(Method::GET, *fault, 1);
            }
            read_while(&node, &expected, (&heard, &often), || fired(5) && heard.refused(&often).len() > 1);
            server.revive();
            // All is well by itself; what was under way for readers that had gone has ended, too.
            for (path, body) in &expected {
                wait_until("it has recovered", || is_right(&node, path, body).is_ok());
            }
            eprintln!("{often}: {:?}, {} refused", began.elapsed(), heard.refused(&often).len());
        }
        // The bucket is gone, and comes back.
        let (bucket, away) = (server.bucket(), server.bucket().with_extension("away"));
        std::fs::rename(&bucket, &away).unwrap();
        let gone = || heard.refused("gone").len() >= 12;
        read_while(&node, &expected, (&heard, "gone"), gone);
        std::fs::rename(&away, &bucket).unwrap();
        all_is_right(&node, &expected);
        is_over.store(true, SeqCst);
        writer.join().unwrap()
    });
    let longest = *heard.longest.lock().unwrap();
    eprintln!(
        "{written} writes beside, the slowest took {longest:?}; {} reads right",
        heard.right.load(SeqCst)
    );
    assert!(written > 50 && longest < SOON, "{written} {longest:?}");
    for fault in waves.iter().flat_map(|wave| wave.iter()) {
        let least = if *fault == Fault::Hang { 1 } else { 5 };
        assert!(server.fired(*fault) >= least, "{fault:?}");
    }
    for (during, whys) in &*heard.refused.lock().unwrap() {
        for why in whys {
            assert!(why.contains(&place()) || why.contains(TAKES_LONG), "{during}: {why}");
        }
    }
    assert!(heard.refused("gone").iter().any(|why| why.contains("there is no such")));
    assert!(metric(&node, "scribe_archive_download_errors_total") > 20.0);

    // A key that is none any more: what is cold is refused, what is here is not, and a start waits for neither.
    let good = node.spec.clone();
    node.stop();
    node.spec = good.clone().with(&[("STORAGE_S3_SECRET_ACCESS_KEY", "guessed")]);
    node.restart();
    let why = is_right(&node, "/api/v1/records/5", b"").unwrap_err();
    assert!(why.contains("storage.s3.secret_access_key") && !why.contains("guessed"), "{why}");
    node.put("hot-1", "written");
    assert_eq!(node.get("/hot-1").is(200).body, b"written");
    node.get("/readyz").is(200);
    node.stop();
    node.spec = good;
    node.restart();
    all_is_right(&node, &expected);
    node.stop();
}
