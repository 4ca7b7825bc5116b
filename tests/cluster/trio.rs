//! Three nodes that have founded a cluster together.

use std::path::Path;

use super::{
    process::{Node, Spec},
    wait::{wait_for, wait_until},
};

/// Three nodes with ids 1 to 3, and the directory that theirs are in.
pub struct Trio {
    pub nodes: Vec<Node>,
    pub home: tempfile::TempDir,
}

impl Trio {
    /// They find each other by their addresses, and are ready.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let nodes: Vec<Node> = specs(home.path(), settings).iter().map(Spec::start).collect();
        nodes.iter().for_each(Node::wait_ready);
        Self { nodes, home }
    }

    /// Where members reach all of them, as `--peers` takes it.
    pub fn peers(&self) -> String {
        let addresses: Vec<&str> = self.nodes.iter().map(|node| node.spec.raft.as_str()).collect();
        addresses.join(",")
    }

    /// The place of the leader that all running nodes agree on.
    #[track_caller]
    pub fn leader(&self) -> usize {
        let all: Vec<&Node> = self.nodes.iter().collect();
        let leader = common_leader(&all);
        self.nodes.iter().position(|node| node.id() == leader).unwrap()
    }

    /// Two different nodes that are not the leader.
    #[track_caller]
    pub fn followers(&self) -> [usize; 2] {
        let leader = self.leader();
        [(leader + 1) % 3, (leader + 2) % 3]
    }

    /// Waits until all nodes have the same whole tree; its size.
    #[track_caller]
    pub fn wait_same_trees(&self) -> u64 {
        wait_same_trees(&self.nodes.iter().collect::<Vec<_>>())
    }
}

/// Three nodes that will found a cluster together.
pub fn specs(home: &Path, settings: &[(&str, &str)]) -> Vec<Spec> {
    founders(home, 3, settings)
}

/// So many, with ids from 1 on.
pub fn founders(home: &Path, count: u64, settings: &[(&str, &str)]) -> Vec<Spec> {
    let specs: Vec<Spec> = (1..=count).map(|id| Spec::new(home, id).with(settings)).collect();
    let peers: Vec<&str> = specs.iter().map(|spec| spec.raft.as_str()).collect();
    let (peers, count) = (peers.join(","), count.to_string());
    let founding = [("CLUSTER_BOOTSTRAP_EXPECT", &count[..])];
    specs.iter().map(|spec| spec.clone().flags(&["--peers", &peers]).with(&founding)).collect()
}

/// The id of the leader that all these nodes name.
#[track_caller]
pub fn common_leader(nodes: &[&Node]) -> u64 {
    wait_for("all name the same leader, who is one of them", || {
        let named = |node: &&Node| node.look("/cluster/leader")?["leader_id"].as_u64();
        let leader = named(nodes.first()?)?;
        let leads = |node: &&Node| {
            let says = node.look("/is-leader").map(|answer| answer["is_leader"] == true);
            named(node) == Some(leader) && says == Some(node.id() == leader)
        };
        let is_one = nodes.iter().any(|node| node.id() == leader);
        (is_one && nodes.iter().all(leads)).then_some(leader)
    })
}

/// Waits until these nodes have the same whole tree; its size.
#[track_caller]
pub fn wait_same_trees(nodes: &[&Node]) -> u64 {
    wait_for("all have the same tree", || {
        let tree = nodes.first()?.tree()?;
        nodes.iter().all(|node| node.tree().as_ref() == Some(&tree)).then_some(tree.0)
    })
}

/// Waits until `node` counts exactly these voters.
#[track_caller]
pub fn wait_voters(node: &Node, ids: &[u64]) {
    wait_until(&format!("{ids:?} vote"), || {
        let voters = node.members().into_iter().filter(|(_, role)| role != "learner");
        voters.map(|(id, _)| id).eq(ids.iter().copied())
    });
}

/// Waits until every one of `nodes` counts exactly these members.
#[track_caller]
pub fn wait_members(nodes: &[&Node], ids: &[u64]) {
    for node in nodes {
        wait_until(&format!("node {} counts {ids:?}", node.id()), || {
            node.members().iter().map(|(id, _)| *id).eq(ids.iter().copied())
        });
    }
}
