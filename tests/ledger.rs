//! The embedded ledger as its users have it: durable, shared between threads, and what a map of lists would be.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use proptest::prelude::*;
use scribe_ledger::{
    Ledger, MerkleTree,
    config::Config,
    error::{Advice, Code},
    ledger::{Appended, Batch, Keys, Record},
    types::{Op, Seq},
};

fn value(ledger: &Ledger, key: &str) -> Option<String> {
    ledger.get(key).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn keys(records: impl Iterator<Item = scribe_ledger::Result<Record>>) -> Vec<String> {
    records.map(|record| String::from_utf8(record.unwrap().key.to_vec()).unwrap()).collect()
}

#[test]
fn what_is_written_is_there_and_counted() {
    let ledger = Ledger::temp().unwrap();
    assert!(ledger.is_empty().unwrap());
    assert_eq!(ledger.put("a", "1").unwrap(), Seq(0));
    assert_eq!(ledger.put("a", "2").unwrap(), Seq(1));
    assert_eq!(ledger.delete("never").unwrap(), Seq(2), "a tombstone is recorded all the same");
    let mut batch = ledger.batch();
    batch.put("b", "").unwrap().put("a", "3").unwrap().delete("b").unwrap().put("c", "4").unwrap();
    assert_eq!((batch.len(), batch.bytes() > 7), (4, true));
    let appended = ledger.apply_batch(batch).unwrap();
    assert_eq!(appended, Appended { first_seq: Seq(3), last_seq: Seq(6) });
    assert_eq!((ledger.len().unwrap(), ledger.next_seq()), (2, Seq(7)));
    assert_eq!(value(&ledger, "a").as_deref(), Some("3"));
    assert_eq!((value(&ledger, "b"), value(&ledger, "never")), (None, None));
    ledger.flush().unwrap();
    let versions: Vec<Record> = ledger.history("b").map(Result::unwrap).collect();
    assert_eq!(versions.iter().map(|v| (v.op, v.seq.0)).collect::<Vec<_>>(), [(Op::Delete, 5), (Op::Put, 3)]);
    assert!(ledger.history("other").next().is_none());
}

#[test]
fn a_scan_takes_any_range() {
    let ledger = Ledger::temp().unwrap();
    for key in ["a", "ab", "b", "ba", "c"] {
        ledger.put(key, "").unwrap();
    }
    ledger.delete("ba").unwrap();
    for (scan, expected) in [
        (Keys::from(..), &["a", "ab", "b", "c"][..]),
        ("ab".."c", &["ab", "b"]).into_pair(),
        ("ab"..="c", &["ab", "b", "c"]).into_pair(),
        (..="ab", &["a", "ab"]).into_pair(),
        (.."b", &["a", "ab"]).into_pair(),
        ("b".., &["b", "c"]).into_pair(),
        ("c".."a", &[]).into_pair(),
        (Keys::with_prefix("a"), &["a", "ab"]),
        (Keys::with_prefix(""), &["a", "ab", "b", "c"]),
    ] {
        assert_eq!(keys(ledger.scan(scan.clone())), expected, "{scan:?}");
    }
}

/// A range and what it should find.
trait IntoPair<'a> {
    fn into_pair(self) -> (Keys, &'a [&'a str]);
}

impl<'a, R: Into<Keys>, const N: usize> IntoPair<'a> for (R, &'a [&'a str; N]) {
    fn into_pair(self) -> (Keys, &'a [&'a str]) {
        (self.0.into(), self.1)
    }
}

/// More than a page of records, of tombstones and of versions.
#[test]
fn long_scans_and_histories_go_on_behind_their_pages_and_see_one_moment() {
    let ledger = Ledger::temp().unwrap();
    let mut batch = Batch::with_capacity(2_500, 30_000);
    for n in 0..2_500 {
        batch.put(format!("{n:05}"), "x").unwrap();
    }
    ledger.apply_batch(batch).unwrap();
    let mut scan = ledger.scan(..);
    let mut history = ledger.history("00000");
    assert_eq!(scan.next().unwrap().unwrap().key, "00000");
    ledger.put("99999", "").unwrap();
    ledger.delete("02000").unwrap();
    ledger.put("00000", "y").unwrap();
    assert_eq!(scan.by_ref().count(), 2_499, "it goes on as of where it began");
    assert!(scan.next().is_none());
    assert_eq!(history.next().unwrap().unwrap().value, "x");
    assert!(history.next().is_none());

    let mut batch = ledger.batch();
    for n in 0..2_500 {
        batch.put("much", n.to_string()).unwrap();
    }
    ledger.apply_batch(batch).unwrap();
    let versions: Vec<Record> = ledger.history("much").map(Result::unwrap).collect();
    assert!(versions.iter().rev().enumerate().all(|(n, version)| version.value == n.to_string()));
    assert_eq!(versions.len(), 2_500);
}

#[test]
fn clear_leaves_history_and_nothing_else() {
    let ledger = Ledger::temp().unwrap();
    assert_eq!(ledger.clear().unwrap(), 0);
    for part in 0..3 {
        let mut batch = ledger.batch();
        for n in 0..3_000 {
            batch.put(format!("{part}/{n}"), "x").unwrap();
        }
        ledger.apply_batch(batch).unwrap();
    }
    ledger.delete("0/0").unwrap();
    assert_eq!(ledger.clear().unwrap(), 8_999);
    assert!(ledger.is_empty().unwrap() && ledger.scan(..).next().is_none());
    assert_eq!((ledger.next_seq(), ledger.history("2/2999").count()), (Seq(9_001 + 8_999), 2));
    ledger.put("0/0", "again").unwrap();
    assert_eq!(ledger.len().unwrap(), 1);
}

#[test]
fn a_ledger_is_what_it_was_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new/directory");
    let ledger = Ledger::open(&dir).unwrap();
    assert_eq!(ledger.path(), dir);
    ledger.put("kept", "1").unwrap();
    ledger.put("gone", "1").unwrap();
    ledger.delete("gone").unwrap();
    let root = ledger.compute_merkle_root().unwrap();
    ledger.close().unwrap();
    for life in 0..3 {
        let ledger = Ledger::open(&dir).unwrap();
        assert_eq!(
            (ledger.len().unwrap(), ledger.next_seq(), ledger.history("gone").count()),
            (1, Seq(3 + life), 2)
        );
        assert_eq!(ledger.put("kept", "1").unwrap(), Seq(3 + life));
        assert_eq!(ledger.compute_merkle_root().unwrap(), root, "the same pairs");
        // Dropped without being closed.
    }
}

#[test]
fn a_temporary_ledger_leaves_nothing_behind() {
    let ledger = Ledger::temp().unwrap();
    let path = ledger.path().to_path_buf();
    ledger.put("a", "1").unwrap();
    assert!(path.join("identity.json").exists());
    drop(ledger);
    assert!(!path.exists());
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Typed {
    name: String,
    numbers: Vec<i64>,
}

#[test]
fn values_of_types_come_back_as_they_were() {
    let ledger = Ledger::temp().unwrap();
    let typed = Typed { name: "x".into(), numbers: vec![i64::MIN, 0, i64::MAX] };
    ledger.put_typed("typed", &typed).unwrap();
    ledger.put_typed("text", "borrowed").unwrap();
    assert_eq!(ledger.get_typed("typed").unwrap(), Some(typed));
    assert_eq!(ledger.get_typed("text").unwrap(), Some("borrowed".to_owned()));
    assert_eq!(ledger.get_typed::<Typed>("absent").unwrap(), None);
    let error = ledger.get_typed::<Typed>("text").unwrap_err();
    assert_eq!((error.code(), error.advice()), (Code::Malformed, Advice::FixRequest));
    assert!(error.message().contains("\"text\"") && error.message().contains("Typed"), "{error}");
    let no_json = BTreeMap::from([((1, 2), 3)]);
    assert_eq!(ledger.put_typed("map", &no_json).unwrap_err().code(), Code::Malformed);
    assert_eq!(ledger.next_seq(), Seq(2), "what is refused is not written");
}

#[test]
fn mistakes_are_refused_and_change_nothing() {
    let ledger = Ledger::temp().unwrap();
    for (key, says) in [
        (vec![], "at least one byte"),
        (vec![b'k'; 1_025], "at most 1024"),
        (b"\0scribe\0x".to_vec(), "belong"),
    ] {
        for refused in [ledger.put(&key, "v"), ledger.delete(&key)] {
            let error = refused.unwrap_err();
            assert_eq!((error.code(), error.advice()), (Code::InvalidKey, Advice::FixRequest));
            assert!(error.message().contains(says), "{error}");
        }
        assert_eq!(ledger.get(&key).unwrap(), None, "it cannot be there");
    }
    assert_eq!(ledger.put("k", vec![0; (64 << 20) + 1]).unwrap_err().code(), Code::TooLarge);
    assert_eq!(ledger.apply_batch(ledger.batch()).unwrap_err().code(), Code::Malformed);
    let mut batch = ledger.batch();
    batch.put("fine", "1").unwrap();
    assert!(batch.put("", "2").is_err());
    assert_eq!(batch.len(), 1, "what was refused is not in it");
    assert!(ledger.is_empty().unwrap() && ledger.next_seq() == Seq(0));
}

#[test]
fn a_directory_has_one_ledger_at_a_time() {
    let ledger = Ledger::temp().unwrap();
    let error = Ledger::open(ledger.path()).unwrap_err();
    assert_eq!((error.code(), error.advice()), (Code::Io, Advice::CallOperator));
    assert!(error.message().contains(&*ledger.path().to_string_lossy()), "{error}");
    assert!(error.message().contains("another process"), "{error}");
    ledger.put("still", "works").unwrap();
}

#[test]
fn settings_are_those_of_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.node.data_dir = dir.path().to_path_buf();
    config.pipeline.ingest_bytes_max = 1 << 20;
    let ledger = Ledger::open_with(&config).unwrap();
    let error = ledger.put("large", vec![0; 2 << 20]).unwrap_err();
    assert_eq!(error.code(), Code::TooLarge);
    assert!(error.message().contains("pipeline.ingest_bytes_max"), "{error}");
    ledger.put("small", vec![0; 1 << 19]).unwrap();
}

#[test]
fn proofs_are_of_what_is_there_now() {
    let ledger = Ledger::temp().unwrap();
    let none: [(&str, &str); 0] = [];
    let root_of = |pairs: &[(&str, &str)]| MerkleTree::from_pairs(pairs.iter().copied()).unwrap().root_hash();
    assert_eq!(ledger.compute_merkle_root().unwrap(), root_of(&none));
    for (key, value) in [("b", "old"), ("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")] {
        ledger.put(key, value).unwrap();
    }
    ledger.delete("c").unwrap();
    let root = ledger.compute_merkle_root().unwrap();
    assert_eq!(root, root_of(&[("a", "1"), ("b", "2"), ("d", "4")]));
    let proof = ledger.generate_merkle_proof("b").unwrap().unwrap();
    assert!(MerkleTree::verify_proof(&root, b"b", b"2", &proof));
    assert!(!MerkleTree::verify_proof(&root, b"b", b"old", &proof));
    assert_eq!(ledger.generate_merkle_proof("c").unwrap(), None);
}

/// Every thread reads what it has just written, and what others were told is written; nobody's is lost.
#[test]
fn threads_share_a_ledger() {
    const WRITERS: usize = 4;
    const WRITES: usize = 300;
    let ledger = Arc::new(Ledger::temp().unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let ledger = ledger.clone();
            thread::spawn(move || {
                let mut seqs = Vec::new();
                for n in 0..WRITES {
                    let key = format!("{writer}/{n}");
                    if n % 3 == 0 {
                        let mut batch = ledger.batch();
                        batch.put(&key, n.to_string()).unwrap().put("shared", &key).unwrap();
                        let Appended { first_seq, last_seq } = ledger.apply_batch(batch).unwrap();
                        assert_eq!(last_seq, first_seq.plus(1));
                        seqs.extend([first_seq, last_seq]);
                    } else {
                        seqs.push(ledger.put(&key, n.to_string()).unwrap());
                    }
                    assert_eq!(value(&ledger, &key), Some(n.to_string()), "a thread reads its own writes");
                }
                seqs
            })
        })
        .collect();
    let reader = thread::spawn({
        let (ledger, done) = (ledger.clone(), done.clone());
        move || {
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let count = ledger.scan(..).count();
                assert!(
                    count >= last,
                    "nothing is deleted, so every scan finds at least what the last one did"
                );
                last = count;
            }
        }
    });
    let mut seqs: Vec<Seq> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    done.store(true, Ordering::Release);
    reader.join().unwrap();
    seqs.sort_unstable();
    let expected = (WRITERS * WRITES + WRITERS * WRITES.div_ceil(3)) as u64;
    assert!(seqs.into_iter().eq((0..expected).map(Seq)), "every record has a position of its own");
    assert_eq!(ledger.len().unwrap() as usize, WRITERS * WRITES + 1);
}

/// Blocking there is a bad idea, but it has to be a slow call, not a panic.
#[tokio::test]
async fn a_ledger_can_be_used_on_a_thread_of_a_runtime() {
    let ledger = Ledger::temp().unwrap();
    ledger.put("a", "1").unwrap();
    assert_eq!(value(&ledger, "a").as_deref(), Some("1"));
    ledger.close().unwrap();
    drop(Ledger::temp().unwrap());
}

/// Names the ledger of the process that is killed, which is this test once more.
const KILLED_LEDGER: &str = "LEDGER_DIR";

/// What the process that is killed does: writes, and tells what it was answered.
fn write_until_killed(dir: OsString) {
    let ledger = Arc::new(Ledger::open(dir).unwrap());
    let life = ledger.next_seq();
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let ledger = ledger.clone();
            thread::spawn(move || {
                for n in 0.. {
                    let key = format!("{life}/{writer}/{n}");
                    let mut batch = ledger.batch();
                    for part in 0..=writer * 10 {
                        batch.put(format!("{key}/{part}"), &key).unwrap();
                    }
                    let appended = ledger.apply_batch(batch).unwrap();
                    // One write of a whole line, which the other threads cannot part.
                    eprintln!("answered {key} {} {}", appended.first_seq, appended.last_seq);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

#[test]
fn killed_in_the_middle_of_writes_it_keeps_every_answer() {
    if let Some(dir) = std::env::var_os(KILLED_LEDGER) {
        return write_until_killed(dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut answered: Vec<(String, u64, u64)> = Vec::new();
    for life in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed_in_the_middle_of_writes_it_keeps_every_answer", "--nocapture"])
            .env(KILLED_LEDGER, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            // What was cut off by its end was not told.
            let Ok(line) = line else { break };
            let words: Vec<&str> = line.split(' ').collect();
            let ["answered", key, first, last] = words[..] else { panic!("{line}") };
            answered.push((key.to_owned(), first.parse().unwrap(), last.parse().unwrap()));
            if answered.len() == life * 150 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
    }
    assert!(answered.len() >= 450);
    let ledger = Ledger::open(dir.path()).unwrap();
    for (key, first, last) in &answered {
        for (part, seq) in (*first..=*last).enumerate() {
            let record = ledger.history(format!("{key}/{part}")).next().expect(key).unwrap();
            assert_eq!((record.seq, &record.value[..]), (Seq(seq), key.as_bytes()));
        }
    }
    assert_eq!(ledger.len().unwrap(), ledger.next_seq().0, "every key was written once");
    assert_eq!(ledger.scan(..).count() as u64, ledger.len().unwrap());
}

/// One call.
#[derive(Clone, Debug)]
enum Call {
    Put(u8, Vec<u8>),
    Delete(u8),
    Batch(Vec<(u8, Option<Vec<u8>>)>),
    Clear,
    Reopen,
}

fn any_call() -> impl Strategy<Value = Call> {
    let key = 0u8..12;
    let value = prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        6 => (key.clone(), value.clone()).prop_map(|(key, value)| Call::Put(key, value)),
        3 => key.clone().prop_map(Call::Delete),
        3 => prop::collection::vec((key, prop::option::of(value)), 1..9).prop_map(Call::Batch),
        1 => Just(Call::Clear),
        1 => Just(Call::Reopen),
    ]
}

/// A position and what was written there; `None` is a tombstone.
type Version = (u64, Option<Vec<u8>>);

/// What a ledger is: all versions of every key, oldest first.
#[derive(Default)]
struct Model {
    versions: BTreeMap<Vec<u8>, Vec<Version>>,
    next_seq: u64,
}

impl Model {
    fn append(&mut self, key: u8, value: Option<Vec<u8>>) -> u64 {
        self.versions.entry(vec![b'k', key]).or_default().push((self.next_seq, value));
        self.next_seq += 1;
        self.next_seq - 1
    }

    fn live(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let newest = self.versions.iter().filter_map(|(key, versions)| Some((key, versions.last()?)));
        newest.filter_map(|(key, (_, value))| Some((key.clone(), value.clone()?))).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_ledger_is_a_map_of_lists(calls in prop::collection::vec(any_call(), 1..40), split in 0u8..12) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.data_dir = dir.path().to_path_buf();
        // Small files: a case should not fill 64 MiB.
        config.wal.file_bytes = 64 << 10;
        let mut ledger = Some(Ledger::open_with(&config).unwrap());
        let mut model = Model::default();
        for call in calls {
            let open = ledger.as_ref().unwrap();
            match call {
                Call::Put(key, value) => {
                    prop_assert_eq!(open.put([b'k', key], &value).unwrap().0, model.append(key, Some(value)));
                }
                Call::Delete(key) => {
                    prop_assert_eq!(open.delete([b'k', key]).unwrap().0, model.append(key, None));
                }
                Call::Batch(ops) => {
                    let mut batch = open.batch();
                    let first = model.next_seq;
                    for (key, value) in ops {
                        match &value {
                            Some(value) => batch.put([b'k', key], value).unwrap(),
                            None => batch.delete([b'k', key]).unwrap(),
                        };
                        model.append(key, value);
                    }
                    let appended = open.apply_batch(batch).unwrap();
                    prop_assert_eq!((appended.first_seq.0, appended.last_seq.0), (first, model.next_seq - 1));
                }
                Call::Clear => {
                    let live = model.live();
                    prop_assert_eq!(open.clear().unwrap(), live.len() as u64);
                    live.iter().for_each(|(key, _)| _ = model.append(key[1], None));
                }
                Call::Reopen => {
                    drop(ledger.take());
                    ledger = Some(Ledger::open_with(&config).unwrap());
                }
            }
        }
        let ledger = ledger.unwrap();
        let live = model.live();
        prop_assert_eq!((ledger.len().unwrap(), ledger.next_seq().0), (live.len() as u64, model.next_seq));
        let pairs = |keys: Keys| -> Vec<(Vec<u8>, Vec<u8>)> {
            ledger.scan(keys).map(Result::unwrap).map(|r| (r.key.to_vec(), r.value.to_vec())).collect()
        };
        prop_assert_eq!(&pairs(Keys::from(..)), &live);
        let behind: Vec<_> = live.iter().filter(|(key, _)| key[1] >= split).cloned().collect();
        prop_assert_eq!(pairs(Keys::from([b'k', split]..)), behind);
        for key in 0..12 {
            let key = [b'k', key];
            let expected = model.versions.get(&key[..]).cloned().unwrap_or_default();
            let newest = expected.last().and_then(|(_, value)| value.clone());
            prop_assert_eq!(ledger.get(key).unwrap().map(|value| value.to_vec()), newest);
            let seen: Vec<_> = ledger.history(key).map(Result::unwrap).map(|record| {
                (record.seq.0, (record.op == Op::Put).then(|| record.value.to_vec()))
            }).collect();
            prop_assert!(seen.into_iter().eq(expected.into_iter().rev()));
        }
        prop_assert_eq!(
            ledger.compute_merkle_root().unwrap(),
            MerkleTree::from_pairs(live).unwrap().root_hash()
        );
    }
}
