//! A process that feeds an index is killed, again and again, at any moment: position and rows agree
//! afterwards, and no run that was reported done is gone.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use scribe_ledger::index::{Index, KeyRange, Row};

use super::{ingest, open, position, row};

/// In the child: where the index is.
const DIR: &str = "INDEX_KILL_DIR";

const LIVES: u64 = 25;
const KEYS_A_RUN: u64 = 4_000;

/// The rows of a run. A third of its keys are also in the run before.
fn run(number: u64) -> Vec<Row> {
    let first = number * KEYS_A_RUN * 2 / 3;
    (0..KEYS_A_RUN)
        .map(|at| row(format!("{:09}", first + at), number * KEYS_A_RUN + at, at % 5 == 0))
        .collect()
}

fn feed(index: &Index, number: u64) {
    ingest(index, (number + 1) * KEYS_A_RUN, number, &run(number)).unwrap();
}

/// The runs that are there, by the position.
fn runs(index: &Index) -> u64 {
    let Some(here) = index.position() else { return 0 };
    assert_eq!(here, position((here.segment.0 + 1) * KEYS_A_RUN, here.segment.0));
    here.segment.0 + 1
}

fn check(index: &Index) {
    let mut expected = std::collections::BTreeMap::new();
    for number in 0..runs(index) {
        expected.extend(run(number).into_iter().map(|row| (row.key, row.newest)));
    }
    let found: Vec<Row> = index.scan(&KeyRange::all()).map(Result::unwrap).collect();
    let expected: Vec<Row> = expected.into_iter().map(|(key, newest)| Row { key, newest }).collect();
    assert!(found == expected, "rows and position {:?} do not agree", index.position());
    for Row { key, newest } in expected.iter().step_by(97) {
        assert_eq!(index.newest(key).unwrap(), Some(*newest));
    }
}

/// Not a test by itself: what the child does until it is killed.
#[test]
fn feed_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let index = open(Path::new(&dir)).unwrap();
    loop {
        let number = runs(&index);
        feed(&index, number);
        // The harness shows what tests print only later.
        writeln!(std::io::stderr(), "done {number}").unwrap();
    }
}

#[test]
fn a_killed_index_has_whole_runs_and_their_position() {
    let home = tempfile::tempdir().unwrap();
    let (mut done, mut torn) = (0, 0);
    for life in 0..LIVES {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::feed_until_killed", "--nocapture", "--test-threads=1"])
            .env(DIR, home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Killed between one and a few runs later, in the middle of whatever it then does.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for _ in 0..1 + life % 4 {
            let line = lines.next().expect("the child went by itself").unwrap();
            done = line
                .strip_prefix("done ")
                .unwrap_or_else(|| panic!("the child says {line}"))
                .parse()
                .unwrap();
        }
        std::thread::park_timeout(Duration::from_micros(life * 300));
        child.kill().unwrap();
        child.wait().unwrap();
        let index = open(home.path()).unwrap();
        assert!(runs(&index) > done, "run {done} was reported done and is gone");
        torn += u64::from(runs(&index) > done + 1);
        check(&index);
    }
    assert!(done >= LIVES, "{done} runs, {torn} of them unreported");
}
