//! The real program, killed at each request that it makes of its bucket, the one under way done or not: probe, claim,
//! manifest, upload, read-back, checkpoint, entry, and the proposal behind it. What is there is always a shorter
//! ledger, and the next life goes on with it and uploads nothing twice.

use std::{process::Command, sync::Arc};

use crate::{
    process::Node,
    real::wait_archived,
    s3::{is_whole, runtime, spec, try_write, write},
    server::Server,
    wait::wait_for,
};

/// Records that a life writes: a few segments.
const RECORDS: u64 = 300;

/// Requests of a start at which it is killed: the probe, the claim, and some of the manifest, all of which is read.
const STARTS: u64 = 16;

/// Kills the node at the request behind the next `after`.
fn die_at(server: &Server, node: &Node, after: u64, done: bool) {
    let pid = node.pid().to_string();
    let kill = move || assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    server.happens(after, done, Arc::new(kill));
}

/// Until the node has died, or has nothing left to archive. Whether it died.
fn ends(node: &Node, records: u64) -> bool {
    wait_for("it dies, or is done", || {
        if node.has_ended() {
            return Some(true);
        }
        let status = node.status()?;
        let is_done = status["records"]["archived"] == records && status["stages"]["archive"]["depth"] == 0;
        is_done.then_some(false)
    })
}

/// How many records a node has that has just begun.
fn applied(node: &Node) -> u64 {
    // A read waits for all that was in the log.
    node.get("/key-0").is(200);
    node.status().unwrap()["records"]["applied"].as_u64().unwrap()
}

#[test]
fn a_node_that_is_killed_at_any_request_leaves_a_shorter_archive_and_goes_on_with_it() {
    let (runtime, home) = (runtime(), tempfile::tempdir().unwrap());
    let server = runtime.block_on(Server::start());
    let spec = spec(home.path(), &server);
    let mut node = spec.start_ready();
    write(&node, 0..RECORDS);
    wait_archived(&node, RECORDS);
    let (mut written, mut deaths) = (RECORDS, [0, 0]);

    // While it archives: one request later each time, until a life gets to its end.
    for (at, done) in (0..60).flat_map(|at| [(at, false), (at, true)]) {
        die_at(&server, &node, at, done);
        // It may die before it has answered; what it has not answered may be there or not.
        let sent = written + RECORDS;
        let answered = try_write(&node, written..sent).map_or_else(|(at, _)| at, |()| sent);
        if !ends(&node, sent) {
            written = sent;
            break;
        }
        deaths[0] += 1;
        node.restart();
        written = applied(&node);
        assert!((answered..=sent).contains(&written), "{answered} answered, {written} there, {sent} sent");
        wait_archived(&node, written);
    }
    server.forget();
    is_whole(&server, written);

    // While it starts, with something left to archive.
    for (at, done) in (0..STARTS).flat_map(|at| [(at, false), (at, true)]) {
        // The store is away: what is written stays behind.
        server.die_after(0, false);
        write(&node, written..written + RECORDS);
        written += RECORDS;
        node.kill();
        server.revive();
        node = spec.start();
        die_at(&server, &node, at, done);
        assert!(ends(&node, written), "a start makes more than {at} requests");
        deaths[1] += 1;
        node.restart();
        wait_archived(&node, written);
    }
    let segments = is_whole(&server, written);
    assert!(deaths[0] >= 16 && deaths[1] == 2 * STARTS && segments >= deaths[1], "{deaths:?} {segments}");
    node.stop();
}
