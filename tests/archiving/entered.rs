//! A manifest whose end was lost while the segments' files had left: the node that leads enters their objects again, or
//! says which are not there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    circle::{scribe, spec, wait_archived, write},
    process::Node,
    wait::{wait_for, wait_until},
};

/// Files of a directory of the archive, in order.
fn files(archive: &Path, dir: &str) -> Vec<PathBuf> {
    let dir = archive.join("epoch-0000000001").join(dir);
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// A node whose files have left but for the newest.
fn left(home: &Path, archive: &Path) -> Node {
    let settings = [
        ("STORAGE_TIERING_LOCAL_BYTES_MAX", "1"),
        ("STORAGE_TIERING_AGE_THRESHOLD_SECS", "0"),
        ("STORAGE_TIERING_CACHE_DISK_SIZE", "1MiB"),
    ];
    let node = spec(home, "node", 1, archive).with(&settings).start_ready();
    write(&node, 0..2_500);
    wait_archived(&node, 2_500);
    wait_until("the files have left", || {
        let rows = node.get("/api/v1/segments").is(200).json();
        let (_, older) = rows.as_array().unwrap().split_last().unwrap();
        older.len() > 5 && older.iter().all(|row| row["state"] == "archived")
    });
    node
}

#[test]
fn objects_whose_entries_were_lost_are_entered_again() {
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("archive");
    let mut node = left(home.path(), &archive);
    node.stop();
    let (entries, objects) = (files(&archive, "manifest"), files(&archive, "segments"));
    let lost = &entries[entries.len() - 4..];
    let before: Vec<_> = entries.iter().map(|entry| fs::read(entry).unwrap()).collect();
    lost.iter().for_each(|entry| fs::remove_file(entry).unwrap());
    node.restart();
    node.wait_ready();
    write(&node, 2_500..2_900);
    let status = wait_archived(&node, 2_900);
    assert_eq!(status["archive"]["state"], "ok", "{status}");
    for (entry, before) in entries.iter().zip(before) {
        assert!(fs::read(entry).unwrap() == before, "{} is another", entry.display());
    }
    let there = files(&archive, "segments");
    assert!(objects.iter().all(|object| there.contains(object)) && there.len() > objects.len());
    node.stop();
    let report = scribe(&["verify", "--archive", archive.to_str().unwrap()]);
    assert_eq!((&report["verified"], &report["records"]), (&true.into(), &2_900.into()), "{report}");
}

#[test]
fn what_cannot_be_entered_again_is_said_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("archive");
    let mut node = left(home.path(), &archive);
    node.stop();
    let (entries, objects) = (files(&archive, "manifest"), files(&archive, "segments"));
    let at = entries.len() - 3;
    entries[at..].iter().for_each(|entry| fs::remove_file(entry).unwrap());
    let object = fs::read(&objects[at]).unwrap();
    let name = objects[at].file_name().unwrap().to_str().unwrap();
    fs::remove_file(&objects[at]).unwrap();
    node.restart();
    node.wait_ready();
    write(&node, 2_500..2_600);
    let why = wait_for("it says what is wrong", || {
        let status = node.status()?;
        let is_broken = status["archive"]["state"] == "broken";
        is_broken.then(|| status["archive"]["error"].as_str().unwrap().to_owned())
    });
    for says in [name, &format!("has no entry of segment {at},"), "Bring the object back"] {
        assert!(why.contains(says), "{says}: {why}");
    }
    // It is brought back, and all goes on by itself.
    fs::write(&objects[at], object).unwrap();
    wait_archived(&node, 2_600);
    node.stop();
}
