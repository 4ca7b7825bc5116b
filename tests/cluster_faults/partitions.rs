//! Members that do not hear each other.

use tokio::time::Instant;

use super::{
    cables::Cables,
    process::Node,
    trio::{Trio, common_leader},
    wait::wait_until,
    writers::{Heard, Writers, check_has},
};

/// Whoever has no quorum says so soon.
const IMPATIENT: [(&str, &str); 2] =
    [("CONSENSUS_LEADER_PATIENCE", "500ms"), ("LIMITS_WRITE_TIMEOUT", "1500ms")];

/// Size and root of the newest signed tree.
fn checkpoint(node: &Node) -> Vec<String> {
    let note = String::from_utf8(node.get("/checkpoint").is(200).body).unwrap();
    note.lines().take(3).map(str::to_owned).collect()
}

/// Waits until all have the same ledger, with everything in it that was answered.
#[track_caller]
fn check_alike(trio: &Trio, all_heard: &[Heard]) {
    let all: Vec<&Node> = trio.nodes.iter().collect();
    common_leader(&all);
    let size = trio.wait_same_trees();
    wait_until("all sign the same tree", || {
        let expected = checkpoint(all[0]);
        expected[1] == size.to_string() && all.iter().all(|node| checkpoint(node) == expected)
    });
    for heard in all_heard {
        assert!(heard.wrong.is_empty(), "{:?}", heard.wrong);
        all.iter().for_each(|node| check_has(node, heard));
    }
}

#[test]
fn a_leader_that_is_cut_off_answers_nothing_and_the_others_go_on() {
    let (cables, trio) = Cables::trio(&IMPATIENT);
    for round in 0..2 {
        let old = &trio.nodes[trio.leader()];
        let [one, two] = trio.followers().map(|place| &trio.nodes[place]);
        let key = format!("key-{round}");
        one.put(&key, "before");
        let majority = Writers::start(&format!("majority-{round}"), &[one, two]);
        let minority = Writers::start(&format!("minority-{round}"), &[old]);
        majority.wait_more(50);
        minority.wait_more(20);

        cables.cut_off(old, &[one, two]);
        let cut = Instant::now();
        let new = common_leader(&[one, two]);
        assert_ne!(new, old.id());
        majority.wait_more(50);
        println!("50 writes after the leader was cut off: {:?}", cut.elapsed());
        let answered = minority.answered();
        one.put(&key, "after");
        for consistency in ["linearizable", "lease"] {
            old.get(&format!("/{key}?consistency={consistency}")).is_problem(503, "no-quorum");
        }
        assert_eq!(old.get(&format!("/{key}?consistency=stale")).is(200).body, b"before");
        for path in ["/refused", "/refused-too"] {
            let refused = old.call("PUT", path, &[], b"value");
            assert!(matches!(refused.status, 503 | 504), "{refused:?}");
        }
        majority.wait_more(50);
        assert_eq!(minority.answered(), answered, "a write was answered without a quorum");

        cables.mend();
        let mended = Instant::now();
        minority.wait_more(20);
        println!("20 writes at the former leader after the cables were mended: {:?}", mended.elapsed());
        assert_eq!(old.get(&format!("/{key}")).is(200).body, b"after");
        check_alike(&trio, &[majority.stop(), minority.stop()]);
    }
}

/// Everyone hears the leader, so nobody wants to be one; and it hears nobody, so it can commit nothing.
#[test]
fn a_leader_that_is_heard_and_hears_nobody_is_replaced() {
    let (cables, trio) = Cables::trio(&IMPATIENT);
    let old = &trio.nodes[trio.leader()];
    let others = trio.followers().map(|place| &trio.nodes[place]);
    let writers = Writers::start("key", &others);
    writers.wait_more(50);
    others.iter().for_each(|other| cables.cut(other, old));
    let cut = Instant::now();
    let new = common_leader(&others);
    assert_ne!(new, old.id());
    writers.wait_more(50);
    println!("50 writes after the leader had become deaf: {:?}", cut.elapsed());
    let read = old.get("/key-1-0?consistency=lease");
    assert_eq!(read.status, 503, "{read:?}");
    cables.mend();
    check_alike(&trio, &[writers.stop()]);
}

#[test]
fn a_leader_that_hears_and_is_not_heard_is_replaced() {
    let (cables, trio) = Cables::trio(&IMPATIENT);
    let old = &trio.nodes[trio.leader()];
    let others = trio.followers().map(|place| &trio.nodes[place]);
    let writers = Writers::start("key", &others);
    writers.wait_more(50);
    others.iter().for_each(|other| cables.cut(old, other));
    let cut = Instant::now();
    let new = common_leader(&others);
    assert_ne!(new, old.id());
    writers.wait_more(50);
    println!("50 writes after the leader had become mute: {:?}", cut.elapsed());
    cables.mend();
    check_alike(&trio, &[writers.stop()]);
}

/// It would be elected again and again if its asking alone counted.
#[test]
fn a_follower_that_does_not_hear_its_leader_disturbs_nobody() {
    let (cables, trio) = Cables::trio(&IMPATIENT);
    let leader = &trio.nodes[trio.leader()];
    let [deaf, other] = trio.followers().map(|place| &trio.nodes[place]);
    let writers = Writers::start("key", &[leader, other]);
    writers.wait_more(50);
    let term = |node: &Node| node.status().unwrap()["term"].as_u64().unwrap();
    let before = term(leader);
    cables.cut(leader, deaf);
    // It notices.
    wait_until("the deaf one knows of no leader", || {
        deaf.call("PUT", "/lost", &[("Idempotency-Key", "lost")], b"value").status != 201
    });
    writers.wait_more(200);
    assert_eq!((term(leader), common_leader(&[leader, other])), (before, leader.id()));
    cables.mend();
    let heard = writers.stop();
    println!("longest pause of a client beside a deaf follower: {:?}", heard.longest_pause);
    check_alike(&trio, &[heard]);
}
