//! One test a line of the drawing, and what holds for any number of nodes in any order.

use proptest::prelude::*;

use super::*;

fn addresses(id: NodeId) -> Addresses {
    Addresses {
        raft_addr: format!("127.0.0.1:{}", 9_000 + id),
        http_addr: format!("127.0.0.1:{}", 8_000 + id),
    }
}

fn me(id: NodeId) -> Me {
    Me { id, incarnation: 10 * id, addresses: addresses(id), ledger: None }
}

fn with_ledger(id: NodeId, cluster: &str, droppable: bool) -> Me {
    Me { ledger: Some(Held { cluster_id: cluster.into(), droppable }), ..me(id) }
}

/// A node that has nothing yet.
fn fresh(id: NodeId) -> Report {
    Report { id, incarnation: 10 * id, addresses: addresses(id), cluster: None, has_state: false }
}

fn of(id: NodeId, cluster: &str, is_member: bool) -> Report {
    let cluster = Some(Belonging { cluster_id: cluster.into(), is_member });
    Report { cluster, has_state: is_member, ..fresh(id) }
}

fn members(ids: &[NodeId]) -> BTreeMap<NodeId, Addresses> {
    ids.iter().map(|id| (*id, addresses(*id))).collect()
}

fn joining(cluster: &str, ids: &[NodeId]) -> Decision {
    Decision::Join { cluster_id: cluster.into(), members: members(ids) }
}

const NONE: Wishes = Wishes { bootstrap: false, rejoin: false, expect: 1, finds_others: false };
const PEERS: Wishes = Wishes { finds_others: true, ..NONE };
const BOOTSTRAP: Wishes = Wishes { bootstrap: true, ..PEERS };
const REJOIN: Wishes = Wishes { rejoin: true, ..PEERS };
const THREE: Wishes = Wishes { expect: 3, ..PEERS };

#[track_caller]
fn waits(decision: Decision, says: &str) {
    assert!(matches!(&decision, Decision::Wait(why) if why.contains(says)), "{decision:?}");
}

#[track_caller]
fn refuses(decision: Decision, says: &str) {
    assert!(matches!(&decision, Decision::Refuse(why) if why.contains(says)), "{decision:?}");
}

#[test]
fn a_node_that_looks_for_nobody_founds_alone() {
    assert_eq!(decide(&me(1), NONE, &[], 0), Decision::FoundAlone);
    assert_eq!(decide(&me(1), NONE, &[fresh(1)], 0), Decision::FoundAlone, "it hears itself");
    waits(decide(&me(4), Wishes { rejoin: true, ..NONE }, &[], 0), "come back");
}

#[test]
fn a_node_with_a_ledger_goes_on_whoever_is_missing() {
    for wishes in [NONE, PEERS, BOOTSTRAP, THREE] {
        let me = with_ledger(1, "a", false);
        assert_eq!(decide(&me, wishes, &[], 2), Decision::GoOn);
        assert_eq!(decide(&me, wishes, &[fresh(2), of(3, "a", true)], 0), Decision::GoOn);
    }
}

#[test]
fn a_node_with_a_ledger_refuses_only_among_strangers() {
    let me = with_ledger(1, "a", false);
    let strangers = [of(2, "b", true), fresh(3)];
    refuses(decide(&me, THREE, &strangers, 0), "node 2 at 127.0.0.1:9002 belongs to cluster b");
    assert_eq!(
        decide(&me, THREE, &strangers, 1),
        Decision::GoOn,
        "one that is not heard may be of this cluster"
    );
    assert_eq!(decide(&me, THREE, &[of(2, "b", true), of(3, "a", false)], 0), Decision::GoOn);
    // A ledger without records that nobody shares may be given up, once the other cluster's leader asks.
    assert_eq!(decide(&with_ledger(1, "a", true), THREE, &strangers, 0), Decision::GoOn);
}

#[test]
fn one_id_is_not_for_two() {
    let double = |has_state| Report { incarnation: 7, has_state, ..fresh(1) };
    refuses(decide(&me(1), THREE, &[double(false), of(2, "a", true)], 0), "node id 1 is used twice");
    refuses(decide(&with_ledger(1, "a", false), THREE, &[double(true)], 0), "node id 1 is used twice");
    // The other has nothing yet, so it is the other that refuses.
    assert_eq!(decide(&with_ledger(1, "a", false), THREE, &[double(false)], 0), Decision::GoOn);
    // A copied data directory.
    let copy = Report { addresses: addresses(5), ..of(1, "a", true) };
    refuses(decide(&with_ledger(1, "a", false), THREE, &[copy], 0), "127.0.0.1:9005");
    // Somebody else's mistake: that one refuses, and until then nothing is founded with either.
    let others = [fresh(2), Report { incarnation: 7, addresses: addresses(6), ..fresh(2) }, fresh(3)];
    waits(
        decide(&me(1), THREE, &others, 0),
        "node id 2 is used twice, at 127.0.0.1:9002 and at 127.0.0.1:9006",
    );
}

#[test]
fn whoever_hears_a_cluster_joins_it_and_founds_nothing() {
    let reports = [of(2, "a", true), fresh(3), of(4, "a", true), of(5, "a", false)];
    for wishes in [PEERS, BOOTSTRAP, REJOIN, THREE] {
        assert_eq!(decide(&me(1), wishes, &reports, 0), joining("a", &[2, 4]));
        assert_eq!(decide(&me(1), wishes, &reports, 3), joining("a", &[2, 4]), "no need to hear the rest");
        waits(decide(&me(1), wishes, &[of(5, "a", false), fresh(2), fresh(3)], 0), "no member of cluster a");
        waits(
            decide(&me(1), wishes, &[of(2, "a", true), of(3, "b", true)], 0),
            "different clusters, a and b",
        );
    }
}

#[test]
fn bootstrap_founds_once_nobody_can_know_better() {
    assert_eq!(decide(&me(1), BOOTSTRAP, &[], 0), Decision::FoundAlone);
    assert_eq!(decide(&me(1), BOOTSTRAP, &[fresh(2), fresh(3)], 0), Decision::FoundAlone);
    waits(decide(&me(1), BOOTSTRAP, &[fresh(2)], 1), "not been heard");
    let starting = Report { has_state: true, ..fresh(2) };
    waits(decide(&me(1), BOOTSTRAP, &[starting], 0), "node 2 has a log");
}

#[test]
fn without_anybody_told_to_found_all_wait() {
    waits(decide(&me(1), PEERS, &[fresh(2), fresh(3)], 0), "--bootstrap");
    waits(decide(&me(1), Wishes { expect: 0, ..PEERS }, &[fresh(2)], 0), "--bootstrap");
    waits(decide(&me(4), REJOIN, &[fresh(2), fresh(3)], 0), "come back");
    waits(decide(&me(4), Wishes { expect: 3, ..REJOIN }, &[fresh(5), fresh(6)], 0), "come back");
}

#[test]
fn three_that_expect_three_found_one_cluster() {
    waits(decide(&me(1), THREE, &[fresh(3)], 0), "2 of 3 nodes are heard: 1, 3");
    waits(decide(&me(1), THREE, &[fresh(2), fresh(3)], 1), "not been heard");
    assert_eq!(decide(&me(1), THREE, &[fresh(2), fresh(3)], 0), Decision::FoundWith(members(&[1, 2, 3])));
    for id in [2, 3] {
        let others: Vec<Report> = (1..=3).filter(|other| *other != id).map(fresh).collect();
        waits(decide(&me(id), THREE, &others, 0), "node 1 founds the cluster of nodes 1, 2, 3");
    }
    // Then node 1 is there, and the others follow.
    assert_eq!(decide(&me(2), THREE, &[of(1, "a", true), fresh(3)], 0), joining("a", &[1]));
    assert_eq!(
        decide(&me(2), THREE, &[], 0),
        decide(&me(2), THREE, &[fresh(2)], 0),
        "hearing itself is nothing"
    );
}

/// A node as any start may find it, with an id from a few.
fn any_report() -> impl Strategy<Value = Report> {
    let cluster = proptest::option::weighted(0.2, (0u8..2, any::<bool>()));
    (1u64..7, 0u64..2, cluster, any::<bool>()).prop_map(|(id, incarnation, cluster, has_state)| Report {
        incarnation: 10 * id + incarnation,
        cluster: cluster
            .map(|(which, is_member)| Belonging { cluster_id: format!("cluster-{which}"), is_member }),
        has_state,
        ..fresh(id)
    })
}

proptest! {
    #[test]
    fn nodes_that_see_each_other_found_one_cluster(
        ids in prop::collection::btree_set(1u64..50, 1..9), expect in 2usize..9,
    ) {
        let reports: Vec<Report> = ids.iter().copied().map(fresh).collect();
        let wishes = Wishes { expect, ..PEERS };
        let mut founded = Vec::new();
        for id in &ids {
            match decide(&me(*id), wishes, &reports, 0) {
                Decision::FoundWith(members) => founded.push((*id, members)),
                Decision::Wait(_) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
        if ids.len() < expect {
            prop_assert!(founded.is_empty());
        } else {
            let lowest: Vec<NodeId> = ids.iter().copied().take(expect).collect();
            prop_assert_eq!(founded, [(lowest[0], members(&lowest))]);
        }
    }

    #[test]
    fn nobody_founds_beside_a_cluster_or_a_log(
        reports in prop::collection::vec(any_report(), 0..8), unheard in 0usize..2,
        bootstrap in any::<bool>(), rejoin in any::<bool>(), expect in 0usize..5,
    ) {
        let wishes = Wishes { bootstrap, rejoin, expect, finds_others: true };
        let decision = decide(&me(1), wishes, &reports, unheard);
        if matches!(decision, Decision::FoundAlone | Decision::FoundWith(_)) {
            let others = reports.iter().filter(|report| !is_me(&me(1), report));
            prop_assert!(others.clone().all(|other| other.cluster.is_none() && !other.has_state));
            prop_assert!(others.clone().all(|other| other.id != 1));
            prop_assert!(unheard == 0 && !rejoin);
        }
    }

    #[test]
    fn neither_order_nor_hearing_twice_matters(
        (reports, shuffled) in prop::collection::vec(any_report(), 0..8)
            .prop_flat_map(|reports| (Just(reports.clone()), Just(reports).prop_shuffle())),
        expect in 1usize..5, held in proptest::option::of(any::<bool>()),
    ) {
        let wishes = Wishes { expect, ..PEERS };
        let me = held.map_or_else(|| me(1), |droppable| with_ledger(1, "cluster-0", droppable));
        let twice: Vec<Report> = shuffled.iter().chain(&reports).cloned().collect();
        let kind = |decision: Decision| match decision {
            // Reasons name the first that is in the way.
            Decision::Wait(_) => Decision::Wait(String::new()),
            Decision::Refuse(_) => Decision::Refuse(String::new()),
            decision => decision,
        };
        let decided = kind(decide(&me, wishes, &reports, 0));
        prop_assert_eq!(&kind(decide(&me, wishes, &shuffled, 0)), &decided);
        prop_assert_eq!(&kind(decide(&me, wishes, &twice, 0)), &decided);
    }
}
