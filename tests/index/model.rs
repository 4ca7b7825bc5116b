//! Random runs, lookups, scans and reopenings, the same for the index on disk, the one in memory, and a map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use scribe_ledger::{
    error::{Code, Error},
    index::{Index, IndexError, IndexOptions, Ingested, KeyRange, Newest, Row, merge},
    types::{KEY_BYTES_MAX, Seq},
};

use super::{OPTIONS, ingest, open, position, row};

type Model = BTreeMap<Vec<u8>, Newest>;

/// Few different keys, so that they meet again: short ones, the shortest, the longest, and the greatest of
/// all.
fn some_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b', 0xFF]), 1..5),
        1 => Just(vec![0]),
        1 => Just(vec![0xFF; KEY_BYTES_MAX]),
        1 => Just(vec![b'k'; KEY_BYTES_MAX]),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// Records, cut into this many segments, whose key tables are merged into one run.
    Run {
        records: Vec<(Vec<u8>, bool)>,
        segments: usize,
    },
    /// The run before once more, as after a crash that lost the news of it.
    Again,
    Reopen,
    Look {
        prefix: Vec<u8>,
        from: Vec<u8>,
        limit: usize,
    },
}

fn some_step() -> impl Strategy<Value = Step> {
    let records = prop::collection::vec((some_key(), any::<bool>()), 0..40);
    prop_oneof![
        4 => (records, 1usize..4).prop_map(|(records, segments)| Step::Run { records, segments }),
        1 => Just(Step::Again),
        1 => Just(Step::Reopen),
        4 => (prop::collection::vec(prop::sample::select(vec![0u8, b'a', 0xFF]), 0..3), some_key(), 1usize..20)
            .prop_map(|(prefix, from, limit)| Step::Look { prefix, from, limit }),
    ]
}

/// A segment's key table.
fn key_table(records: &[(Vec<u8>, bool)], first_seq: u64) -> Vec<Row> {
    let newest: BTreeMap<&Vec<u8>, (u64, bool)> =
        records.iter().zip(first_seq..).map(|((key, deleted), seq)| (key, (seq, *deleted))).collect();
    newest.into_iter().map(|(key, (seq, deleted))| row(key.clone(), seq, deleted)).collect()
}

/// What feeds every index alike, and what they should then hold.
#[derive(Default)]
struct Fed {
    model: Model,
    end_seq: u64,
    segment: u64,
    last: Vec<Row>,
    last_from: u64,
}

impl Fed {
    fn run(&mut self, records: &[(Vec<u8>, bool)], segments: usize) {
        let cut = records.len().div_ceil(segments).max(1);
        let tables: Vec<Vec<Row>> = records
            .chunks(cut)
            .zip((self.end_seq..).step_by(cut))
            .map(|(records, first_seq)| key_table(records, first_seq))
            .collect();
        let run = merge(tables.into_iter().map(|table| table.into_iter().map(Ok))).unwrap();
        self.last = run.collect::<Result<_, Error>>().unwrap();
        self.last_from = self.end_seq;
        self.end_seq += records.len() as u64;
        self.segment += segments as u64;
        self.model.extend(self.last.iter().map(|row| (row.key.to_vec(), row.newest)));
    }

    fn feed(&self, index: &Index) -> Ingested {
        let to = position(self.end_seq, self.segment);
        index.ingest(Seq(self.last_from), to, self.last.iter().cloned().map(Ok)).unwrap()
    }

    fn check_all(&self, index: &Index) {
        let rows: Model = index
            .scan(&KeyRange::all())
            .map(|row| row.map(|row| (row.key.to_vec(), row.newest)).unwrap())
            .collect();
        assert_eq!(rows, self.model);
        for (key, newest) in &self.model {
            // Twice: from the tables, and from the rows that are kept.
            assert_eq!(index.newest(key).unwrap(), Some(*newest));
            assert_eq!(index.newest(key).unwrap(), Some(*newest));
        }
        for absent in [&b"absent"[..], &[], &[0xFF; KEY_BYTES_MAX + 1], &[0xFF; KEY_BYTES_MAX + 2]] {
            assert_eq!(index.newest(absent).unwrap(), None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_index_answers_as_a_map_would(steps in prop::collection::vec(some_step(), 1..24)) {
        let home = tempfile::tempdir().unwrap();
        let mut on_disk = Some(open(home.path()).unwrap());
        let in_memory = Index::in_memory(OPTIONS);
        let mut fed = Fed::default();
        for step in steps {
            match step {
                Step::Run { records, segments } => {
                    fed.run(&records, segments);
                    for index in [on_disk.as_ref().unwrap(), &in_memory] {
                        prop_assert_eq!(fed.feed(index), Ingested::Added);
                        prop_assert_eq!(index.position(), Some(position(fed.end_seq, fed.segment)));
                    }
                }
                Step::Again if fed.segment > 0 => {
                    for index in [on_disk.as_ref().unwrap(), &in_memory] {
                        prop_assert_eq!(fed.feed(index), Ingested::AlreadyThere);
                    }
                }
                Step::Again => {}
                Step::Reopen => {
                    drop(on_disk.take());
                    on_disk = Some(open(home.path()).unwrap());
                    let expected = (fed.segment > 0).then(|| position(fed.end_seq, fed.segment));
                    prop_assert_eq!(on_disk.as_ref().unwrap().position(), expected);
                }
                Step::Look { prefix, from, limit } => {
                    let expected: Vec<Row> = fed.model.range(from.clone()..)
                        .filter(|(key, _)| key.starts_with(&prefix)).take(limit)
                        .map(|(key, newest)| row(key.clone(), newest.seq.0, newest.is_tombstone)).collect();
                    for index in [on_disk.as_ref().unwrap(), &in_memory] {
                        let range = KeyRange::prefix(&prefix).from(&from);
                        let page: Vec<Row> = index.scan(&range).take(limit).collect::<Result<_, _>>().unwrap();
                        prop_assert_eq!(&page, &expected);
                        if let Some(last) = page.last() {
                            let next = index.scan(&range.after(&last.key)).next().transpose().unwrap();
                            prop_assert!(next.is_none_or(|next| next.key > last.key));
                        }
                    }
                }
            }
        }
        for index in [on_disk.as_ref().unwrap(), &in_memory] {
            fed.check_all(index);
        }
        drop(on_disk.take());
        Index::verify(home.path()).unwrap();
    }
}

/// Both places for rows.
fn both() -> (tempfile::TempDir, [Index; 2]) {
    let home = tempfile::tempdir().unwrap();
    let indexes = [open(home.path()).unwrap(), Index::in_memory(OPTIONS)];
    (home, indexes)
}

#[test]
fn a_scan_does_not_see_later_runs() {
    let (_home, indexes) = both();
    for index in indexes {
        let before = [row("a", 0, false), row("b", 1, false), row("c", 2, false)];
        ingest(&index, 3, 0, &before).unwrap();
        let mut scan = index.scan(&KeyRange::all());
        assert_eq!(scan.next().unwrap().unwrap(), before[0]);
        ingest(&index, 5, 1, &[row("aa", 3, false), row("b", 4, true)]).unwrap();
        let rest: Vec<Row> = scan.map(Result::unwrap).collect();
        assert_eq!(rest, before[1..]);
        assert_eq!(index.newest(b"b").unwrap(), Some(Newest { seq: Seq(4), is_tombstone: true }));
    }
}

#[test]
fn a_run_that_breaks_a_promise_leaves_nothing() {
    let bad = |why: &str| Err(Error::new(Code::Corrupt, why));
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    let runs: [(&str, Vec<Result<Row, Error>>); 8] = [
        ("not sorted", vec![Ok(row("b", 4, false)), Ok(row("a", 3, false))]),
        ("twice the same key", vec![Ok(row("a", 3, false)), Ok(row("a", 4, false))]),
        ("an empty key", vec![Ok(row("", 4, false))]),
        ("a key too long", vec![Ok(row(long, 4, false))]),
        ("before its range", vec![Ok(row("a", 4, false)), Ok(row("b", 2, false))]),
        ("behind its range", vec![Ok(row("a", 4, false)), Ok(row("b", 5, false))]),
        ("without its last record", vec![Ok(row("a", 3, false))]),
        ("cannot be read to its end", vec![Ok(row("a", 4, false)), bad("a block is damaged")]),
    ];
    for (what, run) in runs {
        let (home, [on_disk, in_memory]) = both();
        for index in [&on_disk, &in_memory] {
            ingest(index, 3, 0, &[row("a", 0, false), row("b", 2, false)]).unwrap();
            let before = index.position();
            let error = index.ingest(Seq(3), position(5, 1), run.iter().cloned()).unwrap_err();
            match error {
                IndexError::Source(error) => assert_eq!(error.code(), Code::Corrupt, "{what}"),
                IndexError::BadRun { .. } => {}
                error => panic!("{what}: {error}"),
            }
            assert_eq!(index.position(), before, "{what}");
            assert_eq!(index.newest(b"a").unwrap().unwrap().seq, Seq(0), "{what}");
            assert_eq!(index.scan(&KeyRange::all()).count(), 2, "{what}");
        }
        drop(on_disk);
        let index = open(home.path()).unwrap();
        assert_eq!(index.position(), Some(position(3, 0)), "{what}");
        assert_eq!(ingest(&index, 5, 1, &[row("a", 4, false)]).unwrap(), Ingested::Added, "{what}");
    }
}

#[test]
fn a_gap_is_refused_and_an_earlier_beginning_is_not() {
    let (_home, indexes) = both();
    for index in indexes {
        ingest(&index, 3, 0, &[row("a", 2, false)]).unwrap();
        let gap = index.ingest(Seq(4), position(6, 1), [Ok(row("b", 5, false))]);
        assert!(matches!(gap, Err(IndexError::BadRun { .. })), "{gap:?}");
        let all = [Ok(row("a", 2, false)), Ok(row("b", 5, false))];
        assert_eq!(index.ingest(Seq(0), position(6, 1), all).unwrap(), Ingested::Added);
        assert_eq!(index.newest(b"b").unwrap().unwrap().seq, Seq(5));
    }
}

#[test]
fn a_segment_without_records_moves_the_position() {
    let (home, indexes) = both();
    for index in &indexes {
        ingest(index, 1, 0, &[row("a", 0, false)]).unwrap();
        assert_eq!(ingest(index, 1, 1, &[]).unwrap(), Ingested::Added);
        assert_eq!(ingest(index, 1, 1, &[]).unwrap(), Ingested::AlreadyThere);
    }
    drop(indexes);
    assert_eq!(open(home.path()).unwrap().position(), Some(position(1, 1)));
}

#[test]
fn an_index_without_a_cache_answers_all_the_same() {
    let options = IndexOptions { cache_bytes: 0, ..OPTIONS };
    let home = tempfile::tempdir().unwrap();
    for index in [Index::open(home.path(), options).unwrap(), Index::in_memory(options)] {
        ingest(&index, 1, 0, &[row("a", 0, false)]).unwrap();
        for _ in 0..3 {
            assert_eq!(index.newest(b"a").unwrap().unwrap().seq, Seq(0));
        }
    }
}

#[test]
fn a_closed_index_reads_and_takes_no_runs() {
    let (_home, indexes) = both();
    for index in indexes {
        ingest(&index, 1, 0, &[row("a", 0, false)]).unwrap();
        index.close();
        let error = ingest(&index, 2, 1, &[row("a", 1, false)]).unwrap_err();
        assert!(matches!(error, IndexError::Refused { .. }), "{error}");
        assert_eq!(index.newest(b"a").unwrap().unwrap().seq, Seq(0));
    }
}

#[test]
fn overwritten_rows_go_and_the_runs_that_wait_stay_few() {
    const KEYS: u64 = 2_000;
    const RUNS: u64 = 60;
    let home = tempfile::tempdir().unwrap();
    let index = open(home.path()).unwrap();
    for run in 0..RUNS {
        let rows: Vec<Row> =
            (0..KEYS).map(|key| row(format!("key {key:06}"), run * KEYS + key, false)).collect();
        ingest(&index, (run + 1) * KEYS, run, &rows).unwrap();
    }
    // The runs that may wait, one that is merged, and each with its position row.
    let kept_max = 14 * (KEYS + 1);
    assert!(index.len_estimate() <= kept_max, "{} rows are kept of {KEYS} keys", index.len_estimate());
    assert!(index.disk_bytes() < 64 * kept_max, "{} bytes", index.disk_bytes());
    assert_eq!(index.newest(b"key 000007").unwrap().unwrap().seq, Seq((RUNS - 1) * KEYS + 7));
}

#[test]
fn readers_beside_runs_never_see_an_older_row_than_a_finished_run_gave() {
    const KEYS: u64 = 50;
    const RUNS: u64 = 40;
    let (_home, indexes) = both();
    for index in indexes {
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for run in 0..RUNS {
                    let rows: Vec<Row> =
                        (0..KEYS).map(|key| row(format!("{key:03}"), run * KEYS + key, false)).collect();
                    ingest(&index, (run + 1) * KEYS, run, &rows).unwrap();
                }
            });
            let mut key = 0;
            while !writer.is_finished() {
                key = (key * 7 + 1) % KEYS;
                let finished = index.position();
                let found = index.newest(format!("{key:03}").as_bytes()).unwrap();
                let at_least = finished.map(|position| position.end_seq.0 - KEYS + key);
                assert!(found.map(|newest| newest.seq.0) >= at_least, "{found:?} after {finished:?}");
            }
            writer.join().unwrap();
        });
    }
}
