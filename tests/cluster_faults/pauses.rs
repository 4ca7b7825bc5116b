//! Processes that stand still for a while, as under a debugger, a hypervisor or a machine that swaps, and then go on as
//! if nothing had happened.

use std::{thread, time::Duration};

use tokio::time::Instant;

use super::{
    client::Answer,
    process::{ask, connect},
    trio::{Trio, common_leader},
    wait::PATIENCE,
    writers::{Writers, check_has},
};

/// Clients of the one that stands still that each ask for the same.
const ASKERS: usize = 8;

/// Asks at once, and takes the answer when it comes.
fn asking(
    to: std::net::SocketAddr,
    method: &'static str,
    path: String,
) -> thread::JoinHandle<std::io::Result<Answer>> {
    let mut client = connect(to, PATIENCE).unwrap();
    thread::spawn(move || ask(&mut client, method, &path, &[], path.as_bytes()))
}

/// It once answered an old value, in about one run of ten.
#[test]
fn a_leader_that_stood_still_answers_nothing_old() {
    let trio = Trio::start(&[]);
    for round in 0..4 {
        let old = &trio.nodes[trio.leader()];
        let [one, two] = trio.followers().map(|place| &trio.nodes[place]);
        let key = format!("key-{round}");
        old.put(&key, "before");
        let writers = Writers::start(&format!("round-{round}"), &[one, two]);
        writers.wait_more(50);

        old.pause();
        let paused = Instant::now();
        common_leader(&[one, two]);
        writers.wait_more(50);
        println!("50 writes after the leader stood still: {:?}", paused.elapsed());
        one.put(&key, "after");
        // They are the first that it sees when it goes on, before anything from the others.
        let reads: Vec<_> = (0..ASKERS)
            .flat_map(|_| ["linearizable", "lease"])
            .map(|consistency| {
                (consistency, asking(old.spec.http, "GET", format!("/{key}?consistency={consistency}")))
            })
            .collect();
        let writes: Vec<_> = (0..ASKERS)
            .map(|n| {
                (format!("late-{round}-{n}"), asking(old.spec.http, "PUT", format!("/late-{round}-{n}")))
            })
            .collect();
        old.go_on();
        for (consistency, read) in reads {
            let read = read.join().unwrap().unwrap();
            let is_right = read.status == 503 || read.status == 200 && read.body == b"after";
            assert!(is_right, "{consistency}: {read:?}");
        }
        // Whoever leads now has written what it has answered.
        for (key, write) in writes {
            let write = write.join().unwrap().unwrap();
            if write.status == 201 {
                let seq = write.header("scribe-seq");
                assert_eq!(one.get(&format!("/{key}")).is(200).header("scribe-seq"), seq, "{key}");
            } else {
                assert!(matches!(write.status, 503 | 504), "{write:?}");
            }
        }
        writers.wait_more(50);
        let heard = writers.stop();
        println!("longest pause of a client {:?}, retried {:?}", heard.longest_pause, heard.retried);
        assert!(heard.wrong.is_empty(), "{:?}", heard.wrong);
        trio.wait_same_trees();
        trio.nodes.iter().for_each(|node| check_has(node, &heard));
    }
}

#[test]
fn a_follower_that_stands_still_holds_up_nobody() {
    let trio = Trio::start(&[]);
    let leader = &trio.nodes[trio.leader()];
    let [still, other] = trio.followers().map(|place| &trio.nodes[place]);
    let writers = Writers::start("key", &[leader, other]);
    writers.wait_more(100);
    still.pause();
    let paused = Instant::now();
    // Long enough for its connections to be given up.
    while paused.elapsed() < Duration::from_secs(4) {
        writers.wait_more(100);
    }
    println!("{} writes in {:?} beside a follower that stands still", writers.answered(), paused.elapsed());
    assert_eq!(common_leader(&[leader, other]), leader.id());
    still.go_on();
    writers.wait_more(100);
    let heard = writers.stop();
    println!("longest pause of a client {:?}", heard.longest_pause);
    assert!(heard.wrong.is_empty() && heard.retried.is_empty(), "{:?} {:?}", heard.wrong, heard.retried);
    // Two of three are a quorum; that a disk or a core was busy elsewhere is not what this is about.
    assert!(heard.longest_pause < Duration::from_secs(3), "{:?}", heard.longest_pause);
    trio.wait_same_trees();
    trio.nodes.iter().for_each(|node| check_has(node, &heard));
}
