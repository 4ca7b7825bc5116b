//! Nodes that find each other over real sockets on loopback, and what they do not fall for.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use scribe_ledger::{
    cluster::{
        announcement::{Announcement, AnnouncementKey, Presence},
        discovery::{Discovery, DiscoverySettings, Seen},
    },
    env::{Clock, Env, real::real_env},
    error::Code,
    sim::SimClock,
    types::NodeId,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Far more than anything here takes on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(20);
/// For tests in which nobody may be forgotten meanwhile.
const LONG: Duration = Duration::from_secs(3_600);

/// Sixteen ports that are free, below those that the system gives out by itself.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 700).unwrap();
    loop {
        let at = (first + NEXT.fetch_add(1, Relaxed)) % 700;
        let port = 20_000 + at * 16;
        let sockets: Vec<_> = (port..port + 16).map(|port| UdpSocket::bind(("0.0.0.0", port))).collect();
        if sockets.iter().all(Result::is_ok) {
            return port;
        }
    }
}

fn presence(node_id: NodeId) -> Presence {
    Presence {
        cluster_id: String::new(),
        node_id,
        incarnation: 10 * node_id,
        raft_addr: format!("127.0.0.1:{}", 9_000 + node_id),
        http_addr: format!("127.0.0.1:{}", 8_000 + node_id),
        has_state: false,
    }
}

/// A running node, as far as others hear it.
struct Node {
    says: watch::Sender<Presence>,
    seen: watch::Receiver<Seen>,
    discovery: Discovery,
}

impl Node {
    async fn start(node_id: NodeId, port: u16) -> Self {
        Self::with(presence(node_id), settings(port, "", &[]), &real_env()).await
    }

    async fn with(presence: Presence, settings: DiscoverySettings, env: &Env) -> Self {
        let (says, said) = watch::channel(presence);
        let discovery = Discovery::start(settings, said, env).await.unwrap();
        Self { says, seen: discovery.seen(), discovery }
    }

    /// Waits until what it has heard is as it has to be.
    async fn sees(&mut self, what: &str, is: impl FnMut(&Seen) -> bool) {
        let seen = timeout(PATIENCE, self.seen.wait_for(is)).await.map(|seen| seen.map(drop));
        if seen.is_err() {
            panic!("never {what}: {:?}", self.seen.borrow());
        }
        seen.unwrap().unwrap();
    }

    async fn hears(&mut self, ids: &[NodeId]) {
        self.sees(&format!("heard {ids:?}"), |seen| seen.nodes.keys().eq(ids)).await;
    }
}

fn settings(port: u16, secret: &str, addresses: &[String]) -> DiscoverySettings {
    DiscoverySettings { port, addresses: addresses.to_vec(), interval: INTERVAL, secret: secret.into() }
}

#[tokio::test]
async fn nodes_of_one_machine_hear_each_other_come_change_and_go() {
    let port = free_ports();
    let mut one = Node::start(1, port).await;
    let mut two = Node::start(2, port).await;
    let mut three = Node::start(3, port).await;
    assert_ne!(one.discovery.local_addr(), two.discovery.local_addr());
    one.hears(&[2, 3]).await;
    assert_eq!(one.seen.borrow().nodes[&2].announcement.presence, presence(2));
    assert_eq!(one.seen.borrow().nodes[&2].from, two.discovery.local_addr());
    two.hears(&[1, 3]).await;
    three.hears(&[1, 2]).await;

    let founded = Presence { cluster_id: "a".into(), has_state: true, ..presence(1) };
    one.says.send_replace(founded.clone());
    let is = |seen: &Seen, presence: &Presence| {
        seen.nodes.get(&1).is_some_and(|heard| heard.announcement.presence == *presence)
    };
    for other in [&mut two, &mut three] {
        other.sees("heard of the cluster", |seen| is(seen, &founded)).await;
    }
    // Its times move on without a word.
    let last = |seen: &Seen| seen.nodes.get(&1).map(|heard| heard.last_heard);
    let heard = last(&two.seen.borrow());
    timeout(PATIENCE, async {
        while last(&two.seen.borrow()) <= heard {
            sleep(INTERVAL).await;
        }
    })
    .await
    .expect("it is heard again");

    let was = three.discovery.local_addr();
    three.discovery.stop().await;
    drop(UdpSocket::bind(was).expect("its port is free again"));
    one.hears(&[2]).await;
    two.hears(&[1]).await;
    let mut three = Node::start(3, port).await;
    one.hears(&[2, 3]).await;
    three.hears(&[1, 2]).await;
}

#[tokio::test]
async fn a_change_is_told_at_once() {
    let port = free_ports();
    let hour = |port| DiscoverySettings { interval: LONG, ..settings(port, "", &[]) };
    let mut two = Node::with(presence(2), hour(port), &real_env()).await;
    let one = Node::with(presence(1), hour(port), &real_env()).await;
    two.hears(&[1]).await;
    one.says.send_modify(|presence| presence.has_state = true);
    two.sees("heard of its state", |seen| {
        seen.nodes.get(&1).is_some_and(|one| one.announcement.presence.has_state)
    })
    .await;
}

#[tokio::test]
async fn sixteen_nodes_fit_on_one_machine_and_the_next_says_why_not() {
    let port = free_ports();
    let mut nodes = Vec::new();
    for node_id in 1..=16 {
        nodes.push(Node::start(node_id, port).await);
    }
    for node in &mut nodes {
        node.sees("heard all", |seen| seen.nodes.len() == 15).await;
    }
    let (_says, said) = watch::channel(presence(17));
    let refused = Discovery::start(settings(port, "", &[]), said, &real_env()).await.err().unwrap();
    let says = format!("UDP ports {port} to {}", port + 15);
    assert!(refused.message().contains(&says) && refused.message().contains("discovery.port"), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_announced_is_refused_at_the_start() {
    let (_says, said) = watch::channel(Presence { raft_addr: "nowhere".into(), ..presence(1) });
    let refused = Discovery::start(settings(free_ports(), "", &[]), said, &real_env()).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidConfig);
    assert!(refused.message().contains("nowhere"), "{refused}");
}

#[tokio::test]
async fn nodes_find_each_other_by_name_by_address_and_by_broadcast() {
    let hosts: &[&str] = if cfg!(target_os = "linux") {
        // The broadcast address of loopback, which other systems do not have.
        &["localhost", "127.0.0.1", "127.255.255.255"]
    } else {
        &["localhost", "127.0.0.1"]
    };
    for host in hosts {
        let port = free_ports();
        let with = |secret| settings(port, secret, &[format!("{host}:{port}")]);
        let mut one = Node::with(presence(1), with("s"), &real_env()).await;
        let mut two = Node::with(presence(2), with("s"), &real_env()).await;
        let mut stranger = Node::with(presence(3), with("t"), &real_env()).await;
        let mut friend = Node::with(presence(4), with("t"), &real_env()).await;
        one.hears(&[2]).await;
        two.hears(&[1]).await;
        stranger.hears(&[4]).await;
        friend.hears(&[3]).await;
    }
}

/// Somebody who sends whatever they like, in order.
struct Sender {
    socket: UdpSocket,
    to: SocketAddr,
    clock: Arc<SimClock>,
}

impl Sender {
    fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.to).unwrap();
    }

    fn make(&self, presence: Presence, sequence: u64, secret: &str) -> Vec<u8> {
        let announcement = Announcement { presence, timestamp_ms: self.clock.now_ms(), sequence };
        announcement.encode(&AnnouncementKey::of(secret.as_bytes())).unwrap()
    }

    fn announce(&self, presence: Presence, sequence: u64, secret: &str) {
        self.send(&self.make(presence, sequence, secret));
    }
}

/// A node of cluster a with a clock that stands still, and somebody who knows its secret, `s`.
async fn with_sender(interval: Duration) -> (Node, Sender) {
    let clock = Arc::new(SimClock::new(1_700_000_000_000));
    let env = Env { clock: clock.clone(), ..real_env() };
    let port = free_ports();
    let me = Presence { cluster_id: "a".into(), ..presence(1) };
    let settings = DiscoverySettings { interval, ..settings(port, "s", &[format!("127.0.0.1:{port}")]) };
    let node = Node::with(me, settings, &env).await;
    let to = SocketAddr::from(([127, 0, 0, 1], node.discovery.local_addr().port()));
    clock.advance(1);
    (node, Sender { socket: UdpSocket::bind("127.0.0.1:0").unwrap(), to, clock })
}

#[tokio::test]
async fn only_fresh_announcements_of_this_cluster_and_secret_are_heard() {
    let (mut node, sender) = with_sender(LONG).await;
    let of = |cluster: &str, node_id| Presence { cluster_id: cluster.into(), ..presence(node_id) };
    sender.announce(of("a", 2), 1, "t");
    sender.announce(of("a", 3), 1, "");
    sender.announce(of("b", 4), 1, "s");
    let mut damaged = sender.make(of("a", 9), 1, "s");
    damaged[20] ^= 1;
    sender.send(&damaged);
    sender.announce(of("", 5), 1, "s");
    sender.announce(of("a", 6), 1, "s");
    let recorded = sender.make(of("a", 7), 1, "s");
    // Datagrams of one socket to another arrive in their order here, so the others have been looked at.
    node.sees("heard node 6", |seen| seen.nodes.contains_key(&6)).await;
    node.hears(&[5, 6]).await;

    sender.clock.advance(30_001);
    sender.send(&recorded);
    sender.announce(of("a", 8), 1, "s");
    node.sees("heard node 8", |seen| seen.nodes.contains_key(&8)).await;
    assert!(!node.seen.borrow().nodes.contains_key(&7), "what was recorded is too old by now");
}

#[tokio::test]
async fn a_double_of_this_node_is_told_apart() {
    let (mut node, sender) = with_sender(INTERVAL).await;
    sender.announce(Presence { incarnation: 11, cluster_id: "a".into(), ..presence(1) }, 1, "s");
    node.sees("seen the double", |seen| seen.double.is_some()).await;
    assert!(node.seen.borrow().nodes.is_empty());
    node.sees("forgotten the double", |seen| seen.double.is_none()).await;
}

#[tokio::test]
async fn noise_of_any_length_is_survived() {
    let (mut node, sender) = with_sender(LONG).await;
    let mut noise = vec![0x5a; 9_000];
    noise[..8].copy_from_slice(b"scribe/a");
    noise[8] = 1;
    for length in (0..noise.len()).step_by(17) {
        sender.send(&noise[..length]);
    }
    // Some may have been lost in a full buffer; what matters is that the node still listens.
    let mut sequence = 0;
    timeout(PATIENCE, async {
        while node.seen.borrow_and_update().nodes.is_empty() {
            sequence += 1;
            sender.announce(presence(2), sequence, "s");
            sleep(INTERVAL).await;
        }
    })
    .await
    .expect("the node still listens");
}
