//! A member whose data is lost, or not to be trusted, comes back under a new id.

use super::{
    process::Spec,
    trio::{Trio, common_leader, wait_members, wait_same_trees, wait_voters},
    writers::{Writers, check_has},
};

#[test]
fn a_member_comes_back_under_a_new_id_on_its_old_directory_and_on_an_empty_one() {
    let mut trio = Trio::start(&[]);
    let [lost, old] = trio.followers();
    let leader = trio.leader();
    let writers = Writers::start("key", &[&trio.nodes[leader]]);
    writers.wait_more(100);
    let peers = trio.peers();

    // The old directory says who it was: that one leaves first.
    trio.nodes[old].kill();
    let mut spec = Spec::new(trio.home.path(), 7).flags(&["--rejoin", "--peers", &peers]);
    spec.dir.clone_from(&trio.nodes[old].spec.dir);
    let seven = spec.start_ready();
    let mut ids = vec![trio.nodes[leader].id(), trio.nodes[lost].id(), 7];
    ids.sort();
    wait_members(&[&trio.nodes[leader], &trio.nodes[lost], &seven], &ids);
    // Without its vote the next loss would be one too many.
    wait_voters(&trio.nodes[leader], &ids);

    // An empty one does not. Whoever answers where a member was reached comes in its place.
    trio.nodes[lost].kill();
    std::fs::remove_dir_all(&trio.nodes[lost].spec.dir).unwrap();
    let mut same_id = trio.nodes[lost].spec.clone();
    same_id.raft = Spec::new(trio.home.path(), 1).raft;
    let same_id = same_id.start();
    same_id.wait_says("a data directory that was lost or copied needs --rejoin and a new --node-id");
    assert_eq!(same_id.wait_ended(), Some(1));
    let mut spec = Spec::new(trio.home.path(), 8).flags(&["--rejoin", "--peers", &peers]);
    spec.raft.clone_from(&trio.nodes[lost].spec.raft);
    let eight = spec.start_ready();
    let mut ids = vec![trio.nodes[leader].id(), 7, 8];
    ids.sort();
    let all = [&trio.nodes[leader], &seven, &eight];
    wait_members(&all, &ids);
    wait_voters(&trio.nodes[leader], &ids);

    writers.wait_more(50);
    let heard = writers.stop();
    assert!(heard.wrong.is_empty(), "{:?}", heard.wrong);
    wait_same_trees(&all);
    all.iter().for_each(|node| check_has(node, &heard));
    // They vote: without the node that had led, the two are a quorum.
    trio.nodes[leader].kill();
    common_leader(&[&seven, &eight]);
    seven.put("after", "value");
}
