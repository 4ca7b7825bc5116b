//! Every node is restarted in turn while clients write to all of them.

use super::{
    trio::Trio,
    writers::{Writers, check_has},
};

#[test]
fn nodes_are_restarted_in_turn_and_no_write_fails() {
    let mut trio = Trio::start(&[]);
    // The leader comes last but one, so that a leader is stopped twice if the first hands over to the last.
    let mut order = trio.followers().to_vec();
    order.insert(1, trio.leader());
    let mut all = Vec::new();
    for place in order {
        let was_leader = trio.leader() == place;
        let others: Vec<_> = trio.nodes.iter().filter(|node| node.id() != trio.nodes[place].id()).collect();
        let writers = Writers::start(&format!("without-{}", trio.nodes[place].id()), &others);
        writers.wait_more(200);
        trio.nodes[place].stop();
        writers.wait_more(100);
        trio.nodes[place].restart();
        writers.wait_more(100);
        let heard = writers.stop();
        println!(
            "node {} restarted, leader: {was_leader}; longest pause of a client {:?}, retried {:?}",
            trio.nodes[place].id(),
            heard.longest_pause,
            heard.retried
        );
        assert!(heard.wrong.is_empty(), "{:?}", heard.wrong);
        assert_eq!(heard.retried.get(&504), None, "whoever stops in good order leaves no outcome unknown");
        all.push(heard);
    }
    let size = trio.wait_same_trees();
    assert_eq!(all.iter().map(|heard| heard.written.len()).sum::<usize>(), size as usize, "each key once");
    for node in &trio.nodes {
        all.iter().for_each(|heard| check_has(node, heard));
    }
}
