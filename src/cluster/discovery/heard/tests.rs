//! What is taken and what is not, announcement by announcement.

use super::*;

const NOW_MS: u64 = 1_000_000;

fn presence(node_id: NodeId, cluster_id: &str) -> Presence {
    Presence {
        cluster_id: cluster_id.into(),
        node_id,
        incarnation: 10 * node_id,
        raft_addr: format!("127.0.0.1:{}", 9_000 + node_id % 1_000),
        http_addr: "127.0.0.1:8000".into(),
        has_state: false,
    }
}

fn at(presence: Presence, timestamp_ms: u64) -> Announcement {
    Announcement { presence, timestamp_ms, sequence: 1 }
}

/// Node 1, of cluster a, and what it hears.
struct Ear {
    me: Presence,
    seen: Seen,
    now: Now,
}

impl Ear {
    fn new() -> Self {
        let now = Now { instant: Instant::now(), ms: NOW_MS, started_ms: NOW_MS - 10 };
        Self { me: presence(1, "a"), seen: Seen::default(), now }
    }

    fn hear(&mut self, announcement: Announcement) -> Result<bool, Ignored> {
        hear(&mut self.seen, &self.me, announcement, SocketAddr::from(([127, 0, 0, 1], 9_100)), self.now)
    }

    fn ids(&self) -> Vec<NodeId> {
        self.seen.nodes.keys().copied().collect()
    }
}

#[test]
fn the_newest_announcement_of_a_node_is_kept() {
    let mut ear = Ear::new();
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS)), Ok(true));
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS)), Err(Ignored::Old), "the same by another way");
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS + 1)), Ok(false), "nothing new but the time");
    let same_ms = Announcement { sequence: 2, ..at(presence(2, "a"), NOW_MS + 1) };
    assert_eq!(ear.hear(same_ms), Ok(false));
    let has_state = Presence { has_state: true, ..presence(2, "a") };
    assert_eq!(ear.hear(at(has_state.clone(), NOW_MS)), Err(Ignored::Old), "played again");
    assert_eq!(ear.hear(at(has_state, NOW_MS + 2)), Ok(true));
    // Its former life is played again: it never takes the place of the present one.
    let reborn = Presence { incarnation: 7, ..presence(2, "a") };
    assert_eq!(ear.hear(at(reborn, NOW_MS + 3)), Ok(true));
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS + 2)), Err(Ignored::Old));
    assert_eq!(ear.seen.nodes[&2].announcement.presence.incarnation, 7);
    assert!(ear.seen.nodes[&2].is_twice(&presence(2, "a")), "the former one is there, too");
    assert!(!ear.seen.nodes[&2].is_twice(&Presence { incarnation: 8, ..presence(2, "a") }));
}

#[test]
fn recorded_announcements_and_wrong_clocks_are_ignored() {
    let mut ear = Ear::new();
    let edge = CLOCK_DISTANCE_MS_MAX;
    let clock = |distance_ms, behind| Err(Ignored::Clock { node_id: 2, distance_ms, behind });
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS - edge - 1)), clock(edge + 1, true));
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS + edge + 1)), clock(edge + 1, false));
    assert_eq!(ear.hear(at(presence(2, "a"), u64::MAX)), clock(u64::MAX - NOW_MS, false));
    assert!(ear.ids().is_empty());
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS - edge)), Ok(true));
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS + edge)), Ok(false));
}

#[test]
fn who_belongs_to_no_cluster_is_heard_and_who_belongs_to_another_is_not() {
    let mut ear = Ear::new();
    let elsewhere = ear.hear(at(presence(2, "b"), NOW_MS));
    assert_eq!(elsewhere, Err(Ignored::OtherCluster { node_id: 2, cluster_id: "b".into() }));
    assert_eq!(ear.hear(at(presence(3, ""), NOW_MS)), Ok(true));
    // While this node belongs to none it hears all; once it does, others are forgotten.
    ear.me.cluster_id.clear();
    assert_eq!(ear.hear(at(presence(2, "b"), NOW_MS)), Ok(true));
    assert_eq!(ear.hear(at(presence(4, "a"), NOW_MS)), Ok(true));
    ear.me.cluster_id = "a".into();
    assert!(forget(&mut ear.seen, &ear.me, ear.now.instant, Duration::from_secs(1)));
    assert_eq!(ear.ids(), [3, 4]);
}

#[test]
fn a_double_is_kept_apart_and_this_node_is_no_double_of_itself() {
    let mut ear = Ear::new();
    assert_eq!(ear.hear(at(presence(1, "a"), NOW_MS)), Err(Ignored::Old), "its own, come back");
    let other = Presence { incarnation: 7, ..presence(1, "b") };
    let started_ms = ear.now.started_ms;
    assert_eq!(ear.hear(at(other.clone(), started_ms)), Err(Ignored::Old), "perhaps its own former life");
    assert!(ear.seen.double.is_none());
    assert!(matches!(ear.hear(at(other, started_ms + 1)), Err(Ignored::OwnId { .. })));
    assert_eq!(ear.seen.double.take().unwrap().announcement.presence.incarnation, 7);
    let copy = Presence { raft_addr: "127.0.0.1:9".into(), ..presence(1, "a") };
    let refused = ear.hear(at(copy, NOW_MS)).unwrap_err();
    assert!(refused.to_string().contains("127.0.0.1:9 uses it"), "{refused}");
    assert!(ear.seen.double.is_some() && ear.ids().is_empty());
    let later = ear.now.instant + Duration::from_millis(1_001);
    assert!(forget(&mut ear.seen, &ear.me, later, Duration::from_secs(1)));
    assert!(ear.seen.double.is_none());
}

#[test]
fn the_silent_are_forgotten_and_come_back() {
    let mut ear = Ear::new();
    ear.hear(at(presence(2, "a"), NOW_MS)).unwrap();
    ear.now.instant += Duration::from_millis(600);
    ear.hear(at(presence(3, "a"), NOW_MS)).unwrap();
    ear.now.instant += Duration::from_millis(500);
    assert!(forget(&mut ear.seen, &ear.me, ear.now.instant, Duration::from_secs(1)));
    assert_eq!(ear.ids(), [3]);
    assert!(!forget(&mut ear.seen, &ear.me, ear.now.instant, Duration::from_secs(1)), "no news");
    // Its clock was set back meanwhile: there is nothing newer to compare it with any more.
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS - 5)), Ok(true));
}

#[test]
fn the_list_does_not_grow_without_bound() {
    let mut ear = Ear::new();
    for node_id in 2..2 + NODES_MAX as u64 {
        assert_eq!(ear.hear(at(presence(node_id, "a"), NOW_MS)), Ok(true));
    }
    assert_eq!(ear.hear(at(presence(5_000, "a"), NOW_MS)), Err(Ignored::Full));
    assert_eq!(ear.hear(at(presence(2, "a"), NOW_MS + 1)), Ok(false), "those who are known stay known");
    assert_eq!(ear.seen.nodes.len(), NODES_MAX);
}

#[test]
fn everything_is_said_once_and_not_for_ever() {
    let mut said = Said::at_most(2);
    assert!(said.is_new("a".into()) && !said.is_new("a".into()) && said.is_new("b".into()));
    assert!(!said.is_new("c".into()), "enough");
}
