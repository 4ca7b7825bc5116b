//! Nodes are killed at random while clients write and read, and everything that these were told has to be explained.

use scribe_ledger::sim::SimRng;
use tokio::time::Instant;

use super::{
    clients::{Clients, Journal, key_name, value_of},
    history::{self, Told},
    process::{Node, Spec},
    trio::{common_leader, founders, wait_same_trees},
    wait::PATIENCE,
};

/// What to do to a cluster.
struct Storm {
    nodes: u64,
    clients: usize,
    rounds: usize,
    /// Writes between a kill and what comes next.
    writes: usize,
}

#[test]
fn three_nodes_lose_nothing_and_confuse_nobody() {
    let lived = live(&Storm { nodes: 3, clients: 6, rounds: 8, writes: 60 });
    assert!(lived.answered.len() > 900, "{}", lived.answered.len());
}

#[test]
fn seven_nodes_lose_nothing_and_confuse_nobody() {
    live(&Storm { nodes: 7, clients: 5, rounds: 3, writes: 40 });
}

fn live(storm: &Storm) -> Journal {
    // Processes do not repeat themselves, but what is done to them does.
    let seed = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let rng = SimRng::new(seed);
    let home = tempfile::tempdir().unwrap();
    let specs = founders(home.path(), storm.nodes, &[("STORAGE_SEGMENT_SIZE", "64KiB")]);
    let mut nodes: Vec<Node> = specs.iter().map(Spec::start).collect();
    nodes.iter().for_each(Node::wait_ready);
    let addresses: Vec<_> = nodes.iter().map(|node| node.spec.http).collect();
    let clients = Clients::start(storm.clients, &addresses, &rng);
    clients.wait_more(storm.writes);
    for round in 0..storm.rounds {
        let victims = draw_victims(&nodes, round, &rng);
        victims.iter().for_each(|place| nodes[*place].kill());
        let killed = Instant::now();
        let has_quorum = victims.len() * 2 < nodes.len();
        if has_quorum {
            clients.wait_more(storm.writes);
            println!("round {round}, without {victims:?}: {} writes in {:?}", storm.writes, killed.elapsed());
        }
        for place in &victims {
            nodes[*place] = nodes[*place].spec.start();
        }
        clients.wait_more(storm.writes);
        println!("round {round}, all of them started again: {:?} since the kill", killed.elapsed());
        victims.iter().for_each(|place| nodes[*place].wait_ready());
    }
    let journal = clients.stop();
    assert!(journal.wrong.is_empty(), "{:#?}", journal.wrong);
    check(&nodes, &journal);
    journal
}

/// Who is killed next: the leader, or a follower, or so many that no quorum is left.
fn draw_victims(nodes: &[Node], round: usize, rng: &SimRng) -> Vec<usize> {
    let all: Vec<&Node> = nodes.iter().collect();
    let leader = common_leader(&all) as usize - 1;
    let first = if round.is_multiple_of(2) { leader } else { rng.below(nodes.len() as u64) as usize };
    let minority = (nodes.len() - 1) / 2;
    let count = if round % 4 == 3 { minority + 1 } else { 1 + rng.below(minority as u64) as usize };
    (0..count).map(|n| (first + n) % nodes.len()).collect()
}

fn check(nodes: &[Node], journal: &Journal) {
    let size = wait_same_trees(&nodes.iter().collect::<Vec<_>>());
    for node in nodes {
        let mut client = super::process::connect(node.spec.http, PATIENCE).unwrap();
        for (seq, (key, value)) in &journal.answered {
            assert!(*seq < size, "{seq} was answered, {size} are there");
            let path = format!("/{}?at={seq}", key_name(*key));
            let read = super::process::ask(&mut client, "GET", &path, &[], b"").unwrap().is(200);
            let is_it =
                read.header("scribe-seq") == Some(&*seq.to_string()) && value_of(&read.body) == Some(*value);
            assert!(
                is_it,
                "value {value} of key {key} was answered at {seq}, node {} has {read:?}",
                node.id()
            );
        }
    }
    if let Err(why) = history::check(&journal.history) {
        panic!("{why}");
    }
    let unknown = journal.history.iter().filter(|op| op.told == Told::Unknown).count();
    println!(
        "{} writes answered, {} calls checked, {unknown} unknown",
        journal.answered.len(),
        journal.history.len()
    );
}
