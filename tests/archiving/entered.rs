//! A manifest that has lost entries, at its end or before, and checkpoints: the node that leads enters what is there again,
//! or says what is not.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    circle::{archived, scribe, spec, write},
    process::Node,
    real::{wait_archived, wait_state},
    wait::wait_until,
};

/// Files of a directory of the archive, in order.
fn files(archive: &Path, dir: &str) -> Vec<PathBuf> {
    files_of(archive, 1, dir)
}

/// As [`files`], of another epoch than the first.
fn files_of(archive: &Path, epoch: u32, dir: &str) -> Vec<PathBuf> {
    let dir = archive.join(format!("epoch-{epoch:010}")).join(dir);
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Removes files, and gives what they were.
fn take(files: &[&PathBuf]) -> Vec<Vec<u8>> {
    let read = |file: &&PathBuf| {
        let bytes = fs::read(file).unwrap();
        fs::remove_file(file).unwrap();
        bytes
    };
    files.iter().map(read).collect()
}

#[test]
fn a_leader_fills_holes_and_puts_its_newest_checkpoint_back() {
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("archive");
    let node = spec(home.path(), "node", 1, &archive)
        .with(&[("STORAGE_TIERING_AUDIT_INTERVAL_SECS", "1")])
        .start_ready();
    write(&node, 0..2_500);
    wait_archived(&node, 2_500);
    let (entries, notes) = (files(&archive, "manifest"), files(&archive, "checkpoints"));
    assert!(entries.len() > 5, "{}", entries.len());
    let lost = [&entries[0], &entries[2], &entries[3], &entries[5]];
    let before = take(&lost);
    let (newest, older) = notes.split_last().unwrap();
    let note = take(&[newest]);
    take(&older.iter().collect::<Vec<_>>());
    // What is new meanwhile comes behind it all.
    write(&node, 2_500..2_900);
    wait_until("they are there again", || lost.iter().all(|entry| entry.exists()));
    let status = wait_archived(&node, 2_900);
    assert_eq!(status["archive"]["state"], "ok", "{status}");
    for (entry, before) in lost.iter().zip(before) {
        assert!(fs::read(entry).unwrap() == before, "{} is another", entry.display());
    }
    let report = scribe(&["verify", "--archive", archive.to_str().unwrap()]);
    assert_eq!((&report["verified"], &report["records"]), (&true.into(), &2_900.into()), "{report}");
    assert_eq!(report["checkpoints"][0]["size"], 2_900, "{report}");

    // Nothing is written any more: the newest one is put back as it was.
    let newest = files(&archive, "checkpoints").pop().unwrap();
    let again = take(&[&newest]);
    assert_ne!(again, note);
    wait_until("it is there again", || fs::read(&newest).is_ok_and(|bytes| bytes == again[0]));
    node.wait_says("lacks a checkpoint of its end");

    // What is spoiled can be moved away, as is said.
    for spoiled in [&newest, &entries[1]] {
        let whole = spoil(spoiled, &node);
        fs::remove_file(spoiled).unwrap();
        wait_until("it is there again", || fs::read(spoiled).is_ok_and(|bytes| bytes == whole));
        wait_state(&node, "ok");
    }
    // A checkpoint holds nothing up.
    let whole = spoil(&newest, &node);
    write(&node, 2_900..3_000);
    wait_archived(&node, 3_000);
    fs::write(&newest, whole).unwrap();
    node.stop();
    let report = scribe(&["verify", "--archive", archive.to_str().unwrap()]);
    assert_eq!((&report["verified"], &report["records"]), (&true.into(), &3_000.into()), "{report}");
}

/// Cuts a file of the archive, until the node says so. What it was.
fn spoil(file: &Path, node: &Node) -> Vec<u8> {
    let whole = fs::read(file).unwrap();
    fs::write(file, &whole[1..]).unwrap();
    let why = wait_state(node, "broken");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(why.contains(name) && why.contains("move it away"), "{why}");
    whole
}

/// Nobody writes to it: what binds it to the ledger before is archived and signed all the same, and is kept there.
#[test]
fn a_restored_node_signs_its_link_and_keeps_that_in_the_archive() {
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("archive");
    let place = archive.to_str().unwrap();
    let old = archived(home.path(), &archive, 600);
    old.stop();
    let config = home.path().join("node.toml");
    fs::write(&config, "[ledger]\norigin = \"example.org/orders\"\n").unwrap();
    let with_name = ["--config", config.to_str().unwrap()];
    for (epoch, records, flags) in [(2, 601, &[][..]), (3, 602, &with_name[..])] {
        let name = format!("epoch {epoch}");
        let dir = home.path().join(&name);
        let restored =
            scribe(&[&["restore", "--from", place, "--data-dir", dir.to_str().unwrap()], flags].concat());
        let new = spec(home.path(), &name, 1, &archive)
            .with(&[("STORAGE_TIERING_AUDIT_INTERVAL_SECS", "1")])
            .flags(flags)
            .start_ready();
        wait_archived(&new, records);
        let note = files_of(&archive, epoch, "checkpoints").pop().unwrap();
        let text = fs::read_to_string(&note).unwrap();
        let (origin, rest) = text.split_once('\n').unwrap();
        assert_eq!(origin == "example.org/orders", !flags.is_empty(), "{text}");
        assert!(rest.starts_with(&format!("{records}\n")), "{text}");
        let first = files_of(&archive, epoch, "manifest").remove(0);
        take(&[&first, &note]);
        wait_until("they are there again", || note.exists() && first.exists());
        assert_eq!(fs::read_to_string(&note).unwrap(), text);
        new.stop();
        let report = scribe(&["verify", "--archive", place, "--key", restored["key"].as_str().unwrap()]);
        assert_eq!(report["checkpoints"][0]["size"], records, "{report}");
    }
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
    let before: Vec<_> = entries.iter().map(|entry| fs::read(entry).unwrap()).collect();
    // Its end, and a hole.
    let lost: Vec<_> = entries[entries.len() - 4..].iter().chain([&entries[1]]).collect();
    take(&lost);
    node.restart();
    node.wait_ready();
    write(&node, 2_500..2_900);
    let status = wait_archived(&node, 2_900);
    node.wait_says("is to be entered again");
    node.wait_says("the archive lacks segments that were archived before");
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
    let why = wait_state(&node, "broken");
    for says in [name, &format!("has no entry of segment {at},"), "Bring the object back"] {
        assert!(why.contains(says), "{says}: {why}");
    }
    // It is brought back, and all goes on by itself.
    fs::write(&objects[at], object).unwrap();
    wait_archived(&node, 2_600);
    node.stop();
}
