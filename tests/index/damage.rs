//! Flipped, cut and foreign files: every answer is the right one or an error, and rebuilding always works.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use scribe_ledger::index::{Index, IndexError, KeyRange, Result, Row};

use super::{
    OPTIONS,
    damaged_files::{Original, files, flip},
    ingest, open, position, row,
};

const RUNS: u64 = 11;
const KEYS_A_RUN: u64 = 700;

/// Keys of several runs overlap; some of the newest are tombstones.
fn feed(index: &Index) {
    for run in 0..RUNS {
        let rows: Vec<Row> = (0..KEYS_A_RUN)
            .map(|at| row(format!("{:06}", at * 2 + run % 2), run * KEYS_A_RUN + at, at % 7 == run))
            .collect();
        ingest(index, (run + 1) * KEYS_A_RUN, run, &rows).unwrap();
    }
}

fn all(index: &Index) -> Result<Vec<Row>> {
    index.scan(&KeyRange::all()).collect()
}

/// An index with a few runs, some merged, closed; and all its rows.
fn some_index(home: &Path) -> Vec<Row> {
    let index = open(home).unwrap();
    feed(&index);
    all(&index).unwrap()
}

/// Opens and reads everything; whatever is answered has to be right. Whether it all was.
fn read(home: &Path, expected: &[Row], what: &str) -> bool {
    let index = match open(home) {
        Ok(index) => index,
        Err(IndexError::Damaged { .. }) => return false,
        Err(error) => panic!("{what}: {error}"),
    };
    // An index that lost its files may begin anew, and then says that it has come nowhere.
    let Some(here) = index.position() else {
        assert_eq!(all(&index).unwrap(), [], "{what}");
        return false;
    };
    assert_eq!(here, position(RUNS * KEYS_A_RUN, RUNS - 1), "{what}");
    let mut whole = true;
    match all(&index) {
        Ok(rows) => assert!(rows == expected, "{what}: a scan is wrong"),
        Err(_) => whole = false,
    }
    for Row { key, newest } in expected {
        match index.newest(key) {
            Ok(found) => assert_eq!(found, Some(*newest), "{what}: {key:?}"),
            Err(IndexError::Damaged { .. }) => whole = false,
            Err(error) => panic!("{what}: {error}"),
        }
    }
    whole
}

/// Numbers that look random and are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

#[test]
fn a_flipped_bit_anywhere_is_never_an_answer() {
    let home = tempfile::tempdir().unwrap();
    let (whole, damaged) = (home.path().join("whole"), home.path().join("damaged"));
    let expected = some_index(&whole);
    Index::verify(&whole).unwrap();
    let original = Original::read(&whole);
    let files: Vec<PathBuf> =
        files(&whole).into_iter().filter(|file| fs::metadata(file).unwrap().len() > 0).collect();
    let mut chance = Chance(0x5EED_5C81_BE00_0004);
    let (mut noticed, mut places) = (0, 0);
    for round in 0..1_000u64.div_ceil(files.len() as u64) {
        for file in &files {
            // The ends of files are where lengths and directories are.
            let end = fs::metadata(file).unwrap().len();
            let at = match round % 4 {
                0 => end - 1 - chance.below(end.min(200)),
                1 => chance.below(end.min(200)),
                _ => chance.below(end),
            };
            original.copy(&damaged);
            let name = file.strip_prefix(&whole).unwrap();
            flip(&damaged.join(name), at, chance.below(8));
            places += 1;
            noticed += u64::from(!read(&damaged, &expected, &format!("{} at {at}", name.display())));
        }
    }
    assert!(places >= 1_000 && noticed > places / 4, "{noticed} of {places} were noticed");
}

#[test]
fn a_file_cut_or_gone_is_never_an_answer() {
    let home = tempfile::tempdir().unwrap();
    let (whole, damaged) = (home.path().join("whole"), home.path().join("damaged"));
    let expected = some_index(&whole);
    let original = Original::read(&whole);
    for file in files(&whole) {
        let bytes = fs::metadata(&file).unwrap().len();
        let name = file.strip_prefix(&whole).unwrap();
        for keep in [None, Some(0), Some(bytes / 2), Some(bytes.saturating_sub(1))] {
            original.copy(&damaged);
            match keep {
                None => fs::remove_file(damaged.join(name)).unwrap(),
                Some(keep) => {
                    File::options().write(true).open(damaged.join(name)).unwrap().set_len(keep).unwrap();
                }
            }
            read(&damaged, &expected, &format!("{} cut to {keep:?}", name.display()));
        }
    }
}

#[test]
fn a_damaged_index_is_rebuilt() {
    let home = tempfile::tempdir().unwrap();
    let expected = some_index(home.path());
    let table = files(&home.path().join("tables/keyspaces/1/tables")).remove(0);
    flip(&table, 100, 2);
    let error = Index::verify(home.path()).unwrap_err();
    assert!(matches!(error, IndexError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("tables/keyspaces/1/tables"), "{error}");

    let index = Index::rebuild_from_scratch(home.path(), OPTIONS).unwrap();
    assert_eq!((index.position(), index.scan(&KeyRange::all()).count()), (None, 0));
    feed(&index);
    assert_eq!(all(&index).unwrap(), expected);
    drop(index);
    assert!(read(home.path(), &expected, "rebuilt"));
    Index::verify(home.path()).unwrap();
}

#[test]
fn an_index_that_is_open_is_not_removed() {
    let home = tempfile::tempdir().unwrap();
    let index = open(home.path()).unwrap();
    feed(&index);
    for error in [
        Index::rebuild_from_scratch(home.path(), OPTIONS).map(drop).unwrap_err(),
        open(home.path()).map(drop).unwrap_err(),
        Index::verify(home.path()).unwrap_err(),
    ] {
        assert!(matches!(error, IndexError::Refused { .. }), "{error}");
    }
    assert_eq!(index.position(), Some(position(RUNS * KEYS_A_RUN, RUNS - 1)));
}

#[test]
fn what_is_not_an_indexs_stays() {
    let home = tempfile::tempdir().unwrap();
    let foreign = home.path().join("tables");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("precious"), "do not lose me").unwrap();
    assert!(matches!(open(home.path()).unwrap_err(), IndexError::Damaged { .. }));
    let error = Index::rebuild_from_scratch(home.path(), OPTIONS).unwrap_err();
    assert!(matches!(error, IndexError::Refused { .. }), "{error}");
    assert_eq!(fs::read_to_string(foreign.join("precious")).unwrap(), "do not lose me");

    // Beside an index's own files, too.
    let home = tempfile::tempdir().unwrap();
    some_index(home.path());
    fs::write(home.path().join("precious"), "do not lose me").unwrap();
    Index::rebuild_from_scratch(home.path(), OPTIONS).unwrap();
    assert_eq!(fs::read_to_string(home.path().join("precious")).unwrap(), "do not lose me");
}

#[test]
fn a_directory_that_does_not_belong_is_damage() {
    for foreign in ["tables/keyspaces/no number", "tables/keyspaces/1/tables/dir", "tables/keyspaces/0/blobs"]
    {
        let home = tempfile::tempdir().unwrap();
        some_index(home.path());
        fs::create_dir(home.path().join(foreign)).unwrap();
        let error = open(home.path()).unwrap_err();
        assert!(matches!(error, IndexError::Damaged { .. }), "{foreign}: {error}");
        assert_eq!(Index::rebuild_from_scratch(home.path(), OPTIONS).unwrap().position(), None);
    }
}

#[test]
fn an_index_of_another_format_is_rebuilt() {
    let home = tempfile::tempdir().unwrap();
    some_index(home.path());
    fs::write(home.path().join("FORMAT"), "scribe index 2\n").unwrap();
    assert!(matches!(open(home.path()).unwrap_err(), IndexError::Damaged { .. }));
    assert_eq!(Index::rebuild_from_scratch(home.path(), OPTIONS).unwrap().position(), None);
}

#[test]
fn giving_up_may_be_cut_short_anywhere() {
    let home = tempfile::tempdir().unwrap();
    some_index(home.path());
    // Renamed, and the removal has only begun.
    fs::rename(home.path().join("tables"), home.path().join("removed")).unwrap();
    fs::remove_dir_all(home.path().join("removed/keyspaces/1")).unwrap();
    let index = open(home.path()).unwrap();
    assert_eq!((index.position(), index.scan(&KeyRange::all()).count()), (None, 0));
    assert!(!home.path().join("removed").exists());
}
