//! Finding nodes that nobody has listed: each calls out who it is, by UDP, and listens for the others.
//!
//! Takes what this node says of itself and the cluster's secret; gives the nodes that are heard. It does not own
//! what follows from it: an announcement is a hint where to ask, and whoever is found still has to prove itself on
//! the connection.
//!
//! ```text
//!  presence ─► sign ─► 16 ports at every address,        datagrams ─► MAC ─► newer? same cluster? ─► seen
//!                      every interval ± a quarter                      └─────────┴── no: said once, ignored
//! ```
//!
//! **Sixteen ports.** Sockets that share a port share broadcasts, but a unicast datagram reaches only one of them,
//! so nodes of one machine would not all hear each other. Instead each takes the first free one of 16 ports, and
//! all announce to all 16, on loopback, by broadcast and to single hosts alike.
//!
//! **What is trusted.** Whoever knows the secret. Recorded announcements can be played again for half a minute and
//! then keep a dead node in the list a little longer; nothing else. Without a secret the socket is bound to
//! loopback and nothing is sent beyond it.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::announcement::{ANNOUNCEMENT_BYTES_MAX, Announcement, AnnouncementKey, Presence};
use crate::{
    config::{ClusterConfig, value::parse_host_port},
    env::{Clock, Env, Rng},
    error::{Code, Error, Result},
    types::TimestampMs,
};

mod heard;

pub use heard::{Heard, Seen};
use heard::{Ignored, Now, Said, forget, hear};

/// Ports that nodes of one machine share among them.
const PORTS: u16 = 16;

/// A node is forgotten when it has been silent for this many intervals: several datagrams may be lost.
const SILENT_INTERVALS: u32 = 5;

/// How often names are looked up again, and how long one look may take.
const LOOKUP_EVERY: Duration = Duration::from_secs(30);
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

/// How many different things are said of datagrams that anybody may have sent, and of those whose senders know the
/// secret, so that noise does not silence the others.
const SAID_OF_ANYBODY_MAX: usize = 16;
const SAID_MAX: usize = 64;

/// A pause after a receive that failed, so that one that always fails costs nothing.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Where to listen and whom to call.
#[derive(Clone, Debug)]
pub struct DiscoverySettings {
    /// First of the ports.
    pub port: u16,
    /// `HOST:PORT`, each the first of its ports; empty = broadcast and loopback, without a secret loopback alone.
    pub addresses: Vec<String>,
    /// Time between announcements.
    pub interval: Duration,
    /// What the announcements are signed with; empty = none, and nothing leaves the machine.
    pub secret: Vec<u8>,
}

impl DiscoverySettings {
    /// As configured.
    #[must_use]
    pub fn of(config: &ClusterConfig) -> Self {
        let discovery = &config.discovery;
        Self {
            port: discovery.port,
            addresses: discovery.addresses.clone(),
            interval: discovery.interval,
            secret: config.secret.expose().as_bytes().to_vec(),
        }
    }

    fn stays_here(&self) -> bool {
        self.secret.is_empty()
    }

    /// Every host that is called, with the first of its ports.
    fn hosts(&self) -> Vec<(String, u16)> {
        if !self.addresses.is_empty() {
            return self.addresses.iter().filter_map(|address| parse_host_port(address)).collect();
        }
        let mut hosts = vec![(Ipv4Addr::LOCALHOST.to_string(), self.port)];
        if !self.stays_here() {
            hosts.push((Ipv4Addr::BROADCAST.to_string(), self.port));
        }
        hosts
    }
}

/// A running discovery. Dropping it ends it, too.
#[derive(Debug)]
pub struct Discovery {
    seen: watch::Receiver<Seen>,
    local: SocketAddr,
    tasks: JoinSet<()>,
}

impl Discovery {
    /// Binds a port, and from then on announces what `presence` holds, at once when it changes, and listens.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when the presence cannot be announced; [`Code::Io`] when no port is free.
    pub async fn start(
        settings: DiscoverySettings,
        presence: watch::Receiver<Presence>,
        env: &Env,
    ) -> Result<Self> {
        if !presence.borrow().is_sound() {
            let presence = presence.borrow().clone();
            return Err(Error::new(
                Code::InvalidConfig,
                format!("discovery cannot announce {presence:?}: it needs an id and addresses with ports"),
            ));
        }
        let socket = bind(&settings).await?;
        let local = socket.local_addr().map_err(|e| Error::io("binding discovery", &e))?;
        let (seen_by, seen) = watch::channel(Seen::default());
        let (call, called) = watch::channel(BTreeSet::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(look_up(settings.hosts(), settings.stays_here(), call));
        let running = Running {
            socket,
            key: AnnouncementKey::of(&settings.secret),
            interval: settings.interval,
            presence,
            called,
            seen: seen_by,
            said: Said::at_most(SAID_MAX),
            said_of_anybody: Said::at_most(SAID_OF_ANYBODY_MAX),
            started_ms: env.clock.now_ms(),
            sequence: 0,
            clock: env.clock.clone(),
            rng: env.rng.clone(),
        };
        tasks.spawn(running.run());
        Ok(Self { seen, local, tasks })
    }

    /// Who is heard. A change is told when a node comes, goes or says something else of itself; the
    /// times it was heard move on without that.
    #[must_use]
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }

    /// The address it listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Ends it; when this returns its port is free.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// The first free port, of those that belong to discovery.
async fn bind(settings: &DiscoverySettings) -> Result<UdpSocket> {
    let host = if settings.stays_here() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let last = settings.port.saturating_add(PORTS - 1);
    let doing = |e: &io::Error| {
        Error::io(
            format!(
                "binding discovery to one of the UDP ports {} to {last} of {host} (cluster.discovery.port)",
                settings.port
            ),
            e,
        )
    };
    for port in settings.port..=last {
        match UdpSocket::bind((host, port)).await {
            Ok(socket) => {
                socket.set_broadcast(!settings.stays_here()).map_err(|e| doing(&e))?;
                return Ok(socket);
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(doing(&e)),
        }
    }
    Err(doing(&io::Error::other("all of them are taken")))
}

/// Keeps the addresses behind the names of `hosts`: first those that need no look-up, then all, then again.
async fn look_up(hosts: Vec<(String, u16)>, stays_here: bool, call: watch::Sender<BTreeSet<SocketAddr>>) {
    let (fixed, names): (Vec<_>, Vec<_>) =
        hosts.into_iter().partition(|(host, _)| host.parse::<IpAddr>().is_ok());
    let fixed: BTreeSet<SocketAddr> =
        fixed.iter().filter_map(|(host, port)| Some(SocketAddr::new(host.parse().ok()?, *port))).collect();
    // A name may lead anywhere, whatever the configuration was checked for.
    let allowed = |address: &SocketAddr| address.is_ipv4() && (!stays_here || address.ip().is_loopback());
    let mut found: Vec<BTreeSet<SocketAddr>> = vec![BTreeSet::new(); names.len()];
    let tell = |found: &[BTreeSet<SocketAddr>]| {
        let all = fixed.iter().chain(found.iter().flatten()).copied().filter(allowed).collect();
        call.send_if_modified(|called| {
            *called != all && {
                *called = all;
                true
            }
        });
    };
    tell(&found);
    while !names.is_empty() {
        for (at, (host, port)) in names.iter().enumerate() {
            match timeout(LOOKUP_TIME_MAX, tokio::net::lookup_host((host.as_str(), *port))).await {
                Ok(Ok(addresses)) => found[at] = addresses.collect(),
                // What it was before may still be right.
                Ok(Err(error)) => tracing::debug!(host, %error, "discovery: a name is not found"),
                Err(_) => tracing::debug!(host, "discovery: looking a name up takes too long"),
            }
            tell(&found);
        }
        sleep(LOOKUP_EVERY).await;
    }
}

/// The task that calls and listens.
struct Running {
    socket: UdpSocket,
    key: AnnouncementKey,
    interval: Duration,
    presence: watch::Receiver<Presence>,
    /// Every host's address, with the first of its ports.
    called: watch::Receiver<BTreeSet<SocketAddr>>,
    seen: watch::Sender<Seen>,
    said: Said,
    said_of_anybody: Said,
    started_ms: TimestampMs,
    sequence: u64,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

impl Running {
    async fn run(mut self) {
        // One byte more than an announcement may have, so that a longer datagram is seen to be longer.
        let mut buffer = [0; ANNOUNCEMENT_BYTES_MAX + 1];
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = sleep_until(next) => {}
                // Pending for ever once nothing can change any more.
                () = changed(&mut self.presence) => {}
                () = changed(&mut self.called) => {}
                received = self.socket.recv_from(&mut buffer) => {
                    match received {
                        Ok((length, from)) => self.receive(&buffer[..length], from),
                        Err(error) => {
                            tracing::debug!(%error, "discovery: receiving failed");
                            sleep(PAUSE_AFTER_ERROR).await;
                        }
                    }
                    continue;
                }
            }
            self.forget_the_silent();
            self.announce().await;
            next = Instant::now() + self.jittered();
        }
    }

    /// The interval and up to a quarter more or less, so that nodes that started together do not call together.
    fn jittered(&self) -> Duration {
        let thousandths = 750 + u32::try_from(self.rng.next_u64() % 501).unwrap_or_default();
        self.interval * thousandths / 1_000
    }

    async fn announce(&mut self) {
        let presence = self.presence.borrow_and_update().clone();
        let called = self.called.borrow_and_update().clone();
        self.sequence += 1;
        let announcement =
            Announcement { presence, timestamp_ms: self.clock.now_ms(), sequence: self.sequence };
        let Some(datagram) = announcement.encode(&self.key) else {
            if self.said.is_new("unsound".into()) {
                tracing::warn!(?announcement.presence, "discovery: this cannot be announced");
            }
            return;
        };
        for host in called {
            let last = host.port().saturating_add(PORTS - 1);
            for port in host.port()..=last {
                let target = SocketAddr::new(host.ip(), port);
                let Err(error) = self.socket.send_to(&datagram, target).await else { continue };
                if self.said.is_new(format!("unsent {host}")) {
                    tracing::info!(to = %host.ip(), %error, "discovery: announcements cannot be sent there");
                }
                break;
            }
        }
    }

    fn receive(&mut self, datagram: &[u8], from: SocketAddr) {
        let announcement = match Announcement::decode(datagram, &self.key) {
            Ok(announcement) => announcement,
            Err(why) => return self.say(from, &Ignored::Unreadable(why)),
        };
        let now = Now { instant: Instant::now(), ms: self.clock.now_ms(), started_ms: self.started_ms };
        let me = self.presence.borrow().clone();
        let node_id = announcement.presence.node_id;
        let mut ignored = None;
        let mut twice = None;
        self.seen.send_if_modified(|seen| {
            twice = seen
                .nodes
                .get(&node_id)
                .filter(|known| known.is_twice(&announcement.presence))
                .map(|known| known.announcement.presence.raft_addr.clone());
            let had_double = seen.double.is_some();
            hear(seen, &me, announcement, from, now).unwrap_or_else(|why| {
                ignored = Some(why);
                seen.double.is_some() != had_double
            })
        });
        match (ignored, twice) {
            (Some(why), _) => self.say(from, &why),
            (None, Some(raft_addr)) if self.said.is_new(format!("twice {node_id}")) => {
                tracing::warn!(node_id, %from, raft_addr, "discovery: two processes announce one node id");
            }
            (None, _) => {}
        }
    }

    /// Says why a datagram is ignored: once for every sender and reason.
    fn say(&mut self, from: SocketAddr, why: &Ignored) {
        // What differs from one to the next is no other reason.
        let reason = match why {
            Ignored::Old => return,
            Ignored::Clock { node_id, .. } => format!("clock {node_id}"),
            why => why.to_string(),
        };
        let said = match why {
            Ignored::Unreadable(_) => &mut self.said_of_anybody,
            _ => &mut self.said,
        };
        if said.is_new(format!("{from} {reason}")) {
            tracing::warn!(%from, %why, "discovery: an announcement is ignored; this is said once");
        }
    }

    fn forget_the_silent(&self) {
        let me = self.presence.borrow();
        let silent_max = self.interval * SILENT_INTERVALS;
        self.seen.send_if_modified(|seen| forget(seen, &me, Instant::now(), silent_max));
    }
}

/// Returns when there is something new; never, when nothing can be new any more.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(secret: &str, addresses: &[&str]) -> Vec<String> {
        let settings = DiscoverySettings {
            port: 9_100,
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            interval: Duration::from_secs(1),
            secret: secret.into(),
        };
        settings.hosts().into_iter().map(|(host, port)| format!("{host}:{port}")).collect()
    }

    #[test]
    fn without_a_secret_only_this_machine_is_called() {
        assert_eq!(called("", &[]), ["127.0.0.1:9100"]);
        assert_eq!(called("s", &[]), ["127.0.0.1:9100", "255.255.255.255:9100"]);
        assert_eq!(called("s", &["10.0.0.255:9200", "b:1"]), ["10.0.0.255:9200", "b:1"]);
    }

    #[tokio::test]
    async fn names_that_lead_elsewhere_are_not_called_without_a_secret() {
        let hosts =
            || ["10.0.0.1", "127.0.0.2", "::1", "localhost"].map(|host| (host.to_owned(), 7)).to_vec();
        for (stays_here, expected) in [
            (true, &["127.0.0.1:7", "127.0.0.2:7"][..]),
            (false, &["10.0.0.1:7", "127.0.0.1:7", "127.0.0.2:7"]),
        ] {
            let (call, mut called) = watch::channel(BTreeSet::new());
            let task = tokio::spawn(look_up(hosts(), stays_here, call));
            let expected: BTreeSet<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            let all = called.wait_for(|called| *called == expected);
            timeout(Duration::from_secs(20), all).await.expect("the addresses are looked up").unwrap();
            task.abort();
        }
    }
}
