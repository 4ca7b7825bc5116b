//! The old cluster was not stopped: it archives on between a restore from its archive and the new cluster's first look.

use crate::{
    circle::{archived, has_all, restore, scribe, spec, write},
    real::wait_archived,
};

#[test]
fn what_the_old_cluster_archived_meanwhile_is_told_and_brought_back() {
    let home = tempfile::tempdir().unwrap();
    let archive = home.path().join("archive");
    let place = archive.to_str().unwrap();
    let old = archived(home.path(), &archive, 600);
    let told = restore(&archive, &home.path().join("new"));
    assert_eq!((&told["records"], &told["epoch"]), (&600.into(), &2.into()));
    write(&old, 600..1_400);
    wait_archived(&old, 1_400);

    let new = spec(home.path(), "new", 1, &archive).start_ready();
    new.wait_says("epoch 1 of the archive holds records 600 to 1399, which are not in this ledger");
    wait_archived(&new, 601);
    write(&old, 1_400..1_500);
    old.wait_says("belongs to epoch 2 of the ledger now");
    old.stop();
    new.stop();
    let verify = |arguments: &[&str], code| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_scribe"))
            .args(["verify", "--archive", place])
            .args(arguments)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}");
        told
    };
    let told = verify(&[], 3);
    assert!(told.contains("epoch 1 holds records 600 to 1399, which epoch 2 does not go on from"), "{told}");

    // They matter: the first epoch is restored, and goes on in the same archive.
    let third = home.path().join("third");
    let told = scribe(&["restore", "--from", place, "--data-dir", third.to_str().unwrap(), "--epoch", "1"]);
    assert_eq!((&told["records"], &told["epoch"]), (&1_400.into(), &3.into()));
    let third = spec(home.path(), "third", 1, &archive).start_ready();
    wait_archived(&third, 1_401);
    has_all(&third, 0..1_400, &[(1_400, 3)]);
    // The second cluster's link is left behind now.
    let told = verify(&[], 3);
    assert!(told.contains("verified 1401 records"), "{told}");
    assert!(told.contains("epoch 2 holds records 600 to 600, which epoch 3 does not go on from"), "{told}");
}
