//! The real program on a disk that is full, as far as it minds: files leave all the same, and what is cold is read
//! without a copy until there is room for one.

use std::{fs, path::Path};

use crate::{
    asked::{ALL_LEAVES, ALL_STAYS, RECORDS, all_is_right, expected, metric, wait_cold, write},
    filling::{Disk, Filling, free_bytes},
    process::Spec,
    real::wait_archived,
    wait::wait_until,
};

fn cache_bytes(dir: &Path) -> u64 {
    fs::metadata(dir.join("cold.cache")).map_or(0, |file| file.len())
}

#[test]
fn on_a_full_disk_files_leave_and_cold_reads_go_on_without_copies() {
    let Disk { home, step_bytes } = Disk::find();
    let spec = Spec::new(home.path(), 1).with(&[
        ("STORAGE_SEGMENT_SIZE", "32KiB"),
        ("STORAGE_TIERING_MAX_LAG_SECS", "1"),
        ("WAL_DISK_FREE_BYTES_MIN", &(free_bytes(home.path()) - step_bytes).to_string()),
    ]);
    let leaves = spec.clone().with(&ALL_LEAVES).with(&[("STORAGE_TIERING_CACHE_DISK_SIZE", "64KiB")]);
    let node = spec.with(&ALL_STAYS).start_ready();
    write(&node, 0..RECORDS);
    wait_archived(&node, RECORDS);
    let expected = expected(&node);
    node.stop();

    let filling_at = home.path().join("filling");
    let filling = Filling::of(&filling_at, 2 * step_bytes);
    let mut node = leaves.start_ready();
    assert!(wait_cold(&node) >= 6);
    node.kill();
    node.restart();
    let refused = |why: &str| {
        let problem = node.call("PUT", "/key", &[], b"value").is_problem(503, "disk-full");
        assert!(problem["detail"].as_str().unwrap().contains("nothing was written"), "{why} {problem}");
    };
    refused("before");
    all_is_right(&node, &expected);
    refused("after");
    assert_eq!((metric(&node, "scribe_archive_cache_bytes"), cache_bytes(&node.spec.dir)), (0.0, 0));
    let downloads = metric(&node, "scribe_archive_downloads_total");
    assert!(downloads >= expected.len() as f64, "each is fetched anew: {downloads}");
    assert_eq!(metric(&node, "scribe_archive_download_errors_total"), 0.0);

    drop(filling);
    wait_until("there is room", || node.call("PUT", "/room", &[], b"value").status == 201);
    all_is_right(&node, &expected);
    let (copies, file) = (metric(&node, "scribe_archive_cache_bytes"), cache_bytes(&node.spec.dir));
    assert!(copies > 0.0 && file > 0 && copies <= 65_536.0 && file <= 65_536, "{copies} {file}");

    // Full again, with copies: they serve, and make room for each other within what the file has.
    let filling = Filling::of(&filling_at, 2 * step_bytes);
    wait_until("it is full", || node.call("PUT", "/full", &[], b"value").status == 503);
    all_is_right(&node, &expected);
    assert!(cache_bytes(&node.spec.dir) <= 65_536);
    assert!(metric(&node, "scribe_archive_cache_hits_total") > 0.0);
    drop(filling);
    node.stop();
}
