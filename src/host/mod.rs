//! A node as a process runs it: its port for other nodes, who they are, and what it starts as.
//!
//! ```text
//!  open    the port is bound, the transport runs, the door answers "who are you?"
//!    │
//!  begin   listed peers are asked, announcements heard ─► form ─► Founding
//!    │       found: identity on disk, then told to others      join: asks any member to be added
//!    ▼
//!  Node::start, by whoever runs the host
//!    │
//!  attach  the door takes wishes to change the cluster; strangers with a member's id are turned away
//!    │     a lone ledger without records may be given up for another cluster: `adopted`
//!  detach, and once more from `begin`
//! ```
//!
//! Takes a configuration and the seams of the machine, gives a [`Founding`] and an [`Env`] whose network reaches the
//! members. It does not own the node, nor clients.

mod door;
mod gather;

use std::{future::Future, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::sleep};

use self::{door::Door, gather::Gather};
use crate::{
    cluster::{
        admin::{Admin, promote_who_caught_up, was_removed},
        announcement::Presence,
        control::{Ask, Told, Wish, ask},
        discovery::{Discovery, DiscoverySettings},
        form::{Addresses, Belonging, Decision, Held, Me, Report, Wishes},
        transport::{Bounds, Identity as Life, PeerHello, PeerStatus, Setup, Transport},
    },
    config::Config,
    env::{Env, Network},
    error::{Code, Error, Result},
    node::{Found, Founding, NodeInfo, StartNote, abandon, claim, look},
    raft::{Change, Consensus, Member},
    state::settings::FEATURE_LEVEL,
    types::{NodeId, Seq},
};

/// How long a question to another node may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries to be added, and two looks at what the node has become.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a member that was removed keeps its connections, so that it is told on them.
const FAREWELL: Duration = Duration::from_secs(2);

/// See the head of this file.
pub struct Host {
    env: Env,
    config: Config,
    transport: Transport,
    door: Door,
    cluster_id: watch::Sender<String>,
    presence: watch::Sender<Presence>,
    discovery: Option<Discovery>,
    /// What runs while a node is attached.
    attached: JoinSet<()>,
    /// What asks to be counted in.
    asking: JoinSet<()>,
    refused: watch::Sender<Option<Error>>,
}

impl Host {
    /// Binds the port for node traffic and answers there from now on. `env`'s network is not used; `http_addr` is
    /// what clients are told.
    ///
    /// # Errors
    /// [`Code::Io`] when the port cannot be bound; [`Code::Corrupt`] for a damaged identity.
    pub async fn open(env: &Env, config: &Config, http_addr: String) -> Result<Self> {
        let found = look_apart(env, &config.node.data_dir).await?;
        let incarnation =
            found.as_ref().map_or_else(|| env.rng.next_u64().max(1), |found| found.identity.incarnation);
        let listener = bind(config).await?;
        let bound = listener.local_addr().map_err(|e| Error::io("binding node traffic", &e))?;
        let raft_addr = config.network.raft_advertised(bound);
        let report = Report {
            id: config.node.id,
            incarnation,
            addresses: Addresses { raft_addr, http_addr },
            cluster: None,
            has_state: false,
        };
        let (cluster_id, cluster) = watch::channel(String::new());
        let (presence, announced) = watch::channel(presence_of(&report));
        let secret = config.cluster.secret.expose().as_bytes();
        let transport = Transport::start(
            listener,
            Setup {
                identity: Life { node_id: config.node.id, incarnation, feature_level: FEATURE_LEVEL },
                cluster_id: cluster,
                secret: (!secret.is_empty()).then(|| secret.to_vec()),
                bounds: Bounds::default(),
                rng: env.rng.clone(),
            },
        );
        let env = Env { network: Arc::new(transport.clone()), ..env.clone() };
        let door = Door::open(env.network.clone(), report);
        let discovery = match config.cluster.discovery.enabled {
            true => Some(Discovery::start(DiscoverySettings::of(&config.cluster), announced, &env).await?),
            false => None,
        };
        let config = config.clone();
        Ok(Self {
            env,
            config,
            transport,
            door,
            cluster_id,
            presence,
            discovery,
            attached: JoinSet::new(),
            asking: JoinSet::new(),
            refused: watch::Sender::new(None),
        })
    }

    /// Where other nodes reach this one.
    #[must_use]
    pub fn raft_addr(&self) -> String {
        self.door.report().addresses.raft_addr
    }

    /// Whether another cluster has adopted the node and it has not begun to join.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.door.adoption().borrow().is_some()
    }

    /// The seams, with the way to the members.
    #[must_use]
    pub fn env(&self) -> Env {
        self.env.clone()
    }

    /// Finds out what the node starts as, however long that takes: others may have to come first; `note` says which.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when waiting would not help: an id that is taken, a directory of another cluster.
    pub async fn begin(&mut self, note: &StartNote) -> Result<Founding> {
        let data_dir = self.config.node.data_dir.clone();
        // What served the members before has stopped.
        self.door.shut();
        if let Some(cluster_id) = self.door.take_adoption() {
            return self.join(cluster_id, Vec::new(), note).await;
        }
        let mut found = look_apart(&self.env, &data_dir).await?;
        if let Some(old) = found
            .as_ref()
            .filter(|found| self.config.node.rejoin && found.identity.node_id != self.config.node.id)
        {
            self.leave_as(old.identity.node_id, note).await?;
            abandon(&self.env, &data_dir)?;
            found = None;
        }
        if let Some(found) = found.filter(|found| found.has_log || found.identity.joined) {
            let founding = match found.identity.joined {
                true => Founding::Join { cluster_id: found.identity.cluster_id.clone(), incarnation: None },
                false => self.alone(),
            };
            claim(&self.env, &self.config, &founding)?;
            if found.has_log {
                self.belongs(&found.identity.cluster_id, true);
                return Ok(founding);
            }
            return self.join(found.identity.cluster_id, Vec::new(), note).await;
        }
        let wishes = Wishes {
            bootstrap: self.config.node.bootstrap,
            rejoin: self.config.node.rejoin,
            expect: self.config.cluster.bootstrap_expect,
            finds_others: self.config.cluster.finds_others(),
        };
        let gather = Gather::new(self.env.clone(), &self.config, &self.raft_addr(), self.discovery.as_ref());
        let adoption = self.door.adoption();
        match gather.decide(&self.me(), wishes, adoption, note).await {
            Decision::Join { cluster_id, members } => {
                self.join(cluster_id, members.into_iter().collect(), note).await
            }
            Decision::FoundAlone | Decision::GoOn => {
                let founding = self.alone();
                claim(&self.env, &self.config, &founding)?;
                Ok(founding)
            }
            Decision::FoundWith(founders) => {
                let mut members = std::collections::BTreeMap::new();
                for (id, Addresses { raft_addr, http_addr }) in founders {
                    let incarnation = gather.incarnation(id).unwrap_or(self.door.report().incarnation);
                    members.insert(id, Member { raft_addr, http_addr, incarnation, is_replica: false });
                }
                let founding = Founding::Group(members);
                let identity = claim(&self.env, &self.config, &founding)?;
                self.belongs(&identity.cluster_id, true);
                Ok(founding)
            }
            Decision::Wait(why) | Decision::Refuse(why) => Err(Error::new(Code::InvalidConfig, why)),
        }
    }

    fn me(&self) -> Me {
        let Report { id, incarnation, addresses, .. } = self.door.report();
        Me { id, incarnation, addresses, ledger: None::<Held> }
    }

    fn alone(&self) -> Founding {
        let Report { id, incarnation, addresses, .. } = self.door.report();
        let Addresses { raft_addr, http_addr } = addresses;
        Founding::alone(id, Member { raft_addr, http_addr, incarnation, is_replica: false })
    }

    /// Tells others which cluster this node is of.
    fn belongs(&self, cluster_id: &str, is_member: bool) {
        let mut report = self.door.report();
        report.cluster =
            (!cluster_id.is_empty()).then(|| Belonging { cluster_id: cluster_id.into(), is_member });
        report.has_state = is_member && !cluster_id.is_empty();
        self.presence.send_replace(presence_of(&report));
        self.door.say(report);
        self.cluster_id.send_replace(cluster_id.into());
    }

    /// Makes the directory a joining node's and asks members to be added, where any are known; a leader that wanted
    /// the node adds it by itself.
    async fn join(
        &mut self,
        cluster_id: String,
        members: Vec<(NodeId, Addresses)>,
        note: &StartNote,
    ) -> Result<Founding> {
        let node = self.door.report();
        let founding = Founding::Join { cluster_id: cluster_id.clone(), incarnation: Some(node.incarnation) };
        claim(&self.env, &self.config, &founding)?;
        self.belongs(&cluster_id, false);
        tracing::info!(cluster_id, "joining a cluster");
        let members: Vec<(NodeId, String)> = match members.is_empty() {
            true => {
                self.config.cluster.peers.iter().map(|peer| (crate::env::ANYBODY, peer.clone())).collect()
            }
            false => members.into_iter().map(|(id, member)| (id, member.raft_addr)).collect(),
        };
        // Meanwhile the node starts: the cluster may need its vote to have a leader who can count it in.
        let wish = Wish::Add { node: self.door.report(), is_replica: false };
        let (asker, refused, note) = (self.asker(), self.refused.clone(), note.clone());
        self.asking.spawn(async move {
            if let Err(error) = asker.ask(&members, wish, &note).await {
                refused.send_replace(Some(error));
            }
        });
        Ok(founding)
    }

    fn asker(&self) -> Asker {
        Asker { network: self.env.network.clone(), me: self.door.report().addresses.raft_addr }
    }

    /// Waits until the cluster has refused this node, and says why: it was not counted in, or it was removed, or its id
    /// is another's. The future is good for as long as the host is.
    pub fn refused(&self) -> impl Future<Output = Error> + Send + use<> {
        let (mut refused, mut not_admitted) = (self.refused.subscribe(), self.transport.not_admitted());
        async move {
            loop {
                if let Some(error) = refused.borrow_and_update().clone() {
                    return error;
                }
                if let Some(why) = not_admitted.borrow_and_update().clone() {
                    return Error::new(Code::Conflict, format!("the cluster refuses this node: {why}"));
                }
                let changed = tokio::select! {
                    changed = refused.changed() => changed,
                    changed = not_admitted.changed() => changed,
                };
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Has the cluster take the member out that this directory was.
    async fn leave_as(&self, old: NodeId, note: &StartNote) -> Result<()> {
        tracing::info!(
            old,
            new = self.config.node.id,
            "coming back under a new id: the old one leaves first"
        );
        let peers: Vec<_> =
            self.config.cluster.peers.iter().map(|peer| (crate::env::ANYBODY, peer.clone())).collect();
        self.asker().ask(&peers, Wish::Remove(vec![old]), note).await
    }

    /// The started node takes part in the cluster from here on.
    pub fn attach(&mut self, info: &NodeInfo) -> Admin {
        let consensus = info.consensus().clone();
        let cluster_id = info.identity.cluster_id.clone();
        let patience = self.config.consensus.leader_patience;
        let (me, network) = (self.config.node.id, self.env.network.clone());
        let admin = Admin::new(consensus.clone(), network, &cluster_id, me, patience);
        self.transport.set_admission({
            let consensus = consensus.clone();
            Arc::new(move |hello| admit(&consensus, hello))
        });
        self.attached.spawn(promote_who_caught_up(consensus.clone()));
        let Addresses { raft_addr, http_addr } = self.door.report().addresses;
        self.attached.spawn(say_where_it_is(consensus.clone(), me, raft_addr, http_addr));
        self.attached.spawn(part_from_the_removed(
            consensus.clone(),
            self.transport.clone(),
            self.refused.clone(),
        ));
        self.attached.spawn(consensus.clone().tell_changes());
        // A ledger that nobody has asked for and nobody has used makes way for the one that adopts the node.
        let may_make_way = !self.config.node.bootstrap && !info.identity.joined;
        let is_droppable = {
            let info = info.clone();
            move || may_make_way && info.applied() == Seq(0) && info.positions().members.len() <= 1
        };
        self.door.attach(admin.clone(), Arc::new(is_droppable.clone()));
        match is_droppable() {
            false => self.belongs(&cluster_id, true),
            true => {
                // Whoever adopts it must be able to talk with it.
                self.belongs("", false);
                let (door, presence, told) =
                    (self.door.clone(), self.presence.clone(), self.cluster_id.clone());
                self.attached.spawn(async move {
                    while is_droppable() {
                        sleep(PAUSE).await;
                    }
                    let mut report = door.report();
                    report.cluster = Some(Belonging { cluster_id: cluster_id.clone(), is_member: true });
                    report.has_state = true;
                    presence.send_replace(presence_of(&report));
                    door.say(report);
                    told.send_replace(cluster_id);
                });
            }
        }
        admin
    }

    /// Waits until another cluster adopts the node, whose own ledger is given up by [`Host::make_way`].
    pub async fn adopted(&self) -> String {
        let mut adoption = self.door.adoption();
        loop {
            let adopted = adoption.borrow_and_update().clone();
            if let Some(cluster_id) = adopted {
                return cluster_id;
            }
            if adoption.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stays with the node's own ledger, which has got records meanwhile.
    pub fn decline_adoption(&self) {
        let _ = self.door.take_adoption();
    }

    /// Gives up the directory of the node that was attached and has stopped: it held nothing.
    ///
    /// # Errors
    /// [`Code::Io`] when the disk fails.
    pub fn make_way(&self) -> Result<()> {
        abandon(&self.env, &self.config.node.data_dir)
    }

    /// The node is about to stop.
    pub async fn detach(&mut self) {
        self.door.detach();
        self.attached.shutdown().await;
        self.asking.shutdown().await;
    }

    /// The nodes that have been talked with.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.transport.peers()
    }

    /// Ends connections and announcements.
    pub async fn stop(mut self) {
        self.detach().await;
        if let Some(discovery) = self.discovery.take() {
            discovery.stop().await;
        }
        self.transport.stop().await;
    }
}

/// Asks members for something.
struct Asker {
    network: Arc<dyn Network>,
    /// Where this node itself is reached.
    me: String,
}

impl Asker {
    /// Asks one member after the other until one has fulfilled the wish; done at once when none is known.
    async fn ask(&self, members: &[(NodeId, String)], wish: Wish, note: &StartNote) -> Result<()> {
        let others: Vec<_> = members.iter().filter(|(_, address)| *address != self.me).collect();
        let mut said = String::new();
        while !others.is_empty() {
            for (id, address) in &others {
                let question = Ask::Change(wish.clone());
                let why = match ask(&*self.network, *id, address, &question, ANSWER_PATIENCE).await {
                    Ok(Told::Done) => return Ok(()),
                    Ok(Told::Refused { retry: false, why }) => {
                        return Err(Error::new(Code::InvalidConfig, format!("the cluster refuses: {why}")));
                    }
                    Ok(Told::Refused { why, .. }) => why,
                    Ok(_) => format!("the node at {address} knows of no leader"),
                    Err(error) => error.message().to_owned(),
                };
                if why != said {
                    tracing::info!(why, "waiting for the cluster");
                    note.say(format!("it waits for the cluster: {why}"));
                    said = why;
                }
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// Writes the addresses of a member down that was named without any, when its directory was restored: others have to
/// find it.
async fn say_where_it_is(consensus: Consensus, me: NodeId, raft_addr: String, http_addr: String) {
    loop {
        match consensus.member(me) {
            Some(known) if known.raft_addr.is_empty() => {
                let here = Member { raft_addr: raft_addr.clone(), http_addr: http_addr.clone(), ..known };
                // Whatever refuses it passes: it is asked again.
                let _ = consensus.change(Change::Add(me, here)).await;
            }
            Some(_) => return,
            None => {}
        }
        sleep(PAUSE).await;
    }
}

/// Ends the connections of members that are removed, once they have had time to hear of it on them; and tells this one
/// when it is itself removed, which it may have seen in the log.
async fn part_from_the_removed(
    consensus: Consensus,
    transport: Transport,
    refused: watch::Sender<Option<Error>>,
) {
    let (me, mut removed) = (consensus.id(), consensus.removed());
    loop {
        removed.mark_unchanged();
        if consensus.was_removed(me) {
            refused.send_replace(Some(Error::new(Code::Conflict, was_removed(me))));
            return;
        }
        transport.ask_admission_again();
        if removed.changed().await.is_err() {
            return;
        }
        if !consensus.was_removed(me) {
            sleep(FAREWELL).await;
        }
    }
}

/// Whether a node that says this of itself may talk with this member.
fn admit(consensus: &Consensus, hello: &PeerHello) -> std::result::Result<(), String> {
    let id = hello.node_id;
    if consensus.was_removed(id) {
        return Err(was_removed(id));
    }
    match consensus.member(id) {
        Some(member) if member.incarnation != 0 && member.incarnation != hello.incarnation => Err(format!(
            "node id {id} belongs to another member, at {}: a data directory that was lost or copied needs --rejoin and \
             a new --node-id",
            member.raft_addr
        )),
        _ => Ok(()),
    }
}

fn presence_of(report: &Report) -> Presence {
    let Report { id, incarnation, addresses, cluster, has_state } = report;
    Presence {
        cluster_id: cluster.as_ref().map(|cluster| cluster.cluster_id.clone()).unwrap_or_default(),
        node_id: *id,
        incarnation: *incarnation,
        raft_addr: addresses.raft_addr.clone(),
        http_addr: addresses.http_addr.clone(),
        has_state: *has_state,
    }
}

/// As [`look`], where a disk that takes its time holds up nobody else.
async fn look_apart(env: &Env, data_dir: &Path) -> Result<Option<Found>> {
    let (env, data_dir) = (env.clone(), data_dir.to_path_buf());
    #[expect(clippy::disallowed_methods, reason = "only processes have a host, and simulations have none")]
    let looked = tokio::task::spawn_blocking(move || look(&env, &data_dir)).await;
    looked.unwrap_or_else(|_| Err(Error::new(Code::Internal, "looking at the data directory panicked")))
}

/// Binds the configured address. A node that nobody was told to look for takes another port where that one is taken,
/// so that several can be tried out on one machine.
async fn bind(config: &Config) -> Result<TcpListener> {
    let wanted = config.network.raft_bind();
    let failed = |e| {
        let what =
            format!("binding node traffic to {wanted} (network.raft_listen_addr, network.raft_tcp_port)");
        Error::io(what, &e)
    };
    match TcpListener::bind(&wanted).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && is_on_its_own(config) => {
            let listener = TcpListener::bind((config.network.raft_listen_addr.as_str(), 0)).await;
            let listener = listener.map_err(failed)?;
            let port = listener.local_addr().map_or(0, |bound: SocketAddr| bound.port());
            tracing::warn!(wanted, port, "the port for node traffic is taken, another one is used");
            Ok(listener)
        }
        result => result.map_err(failed),
    }
}

fn is_on_its_own(config: &Config) -> bool {
    let cluster = &config.cluster;
    !cluster.finds_others() && cluster.bootstrap_expect <= 1 && !config.node.bootstrap && !config.node.rejoin
}
