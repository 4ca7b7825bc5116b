//! The way to one peer on one lane: connected when it is first used, and again, after a pause, when that was lost.
//!
//! ```text
//!             first call                       handshake done
//!     down ──────────────► open, connecting ─────────────────► open, connected
//!      ▲ ▲                       │                                   │
//!      │ └── failed: longer pause┘                     lost: pause ──┘
//!      └─────────────────────────────────────────────────────────────┘
//! ```
//!
//! Calls queue while it is open. In the pause they fail at once and say why the last attempt did; the first after it
//! makes the next attempt, so a peer that nobody calls costs nothing. It does not own whom to connect to.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::oneshot,
    time::{Duration, Instant, timeout},
};

use super::{
    Shared,
    bounds::{backoff, payload_bytes_max},
    frame::{FrameReader, HEADER_BYTES},
    handshake::{Failure, PeerHello, Wish, dial, may_talk},
    hello::is_double,
    link::Link,
    outbox::write_frames,
    silence::{Silence, ping_every},
};
use crate::{env::Lane, types::NodeId};

/// A line that has been down for this long beyond its pause is forgotten when another is made.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The way to a peer at an address, on a lane.
#[derive(Debug)]
pub(super) struct Line {
    peer: NodeId,
    pub address: Arc<str>,
    lane: Lane,
    /// Told to the peer: see [`super::hello::Hello::line`].
    number: u32,
    phase: Mutex<Phase>,
    was_connected: AtomicBool,
}

#[derive(Debug)]
enum Phase {
    /// No attempt before this time, after so many that failed, the last of them for this reason.
    Down { until: Instant, failures: u32, why: String },
    /// Connected or about to be.
    Open(Arc<Link>),
}

impl Line {
    /// A line that has not been used.
    pub fn new(peer: NodeId, address: &str, lane: Lane, number: u32) -> Arc<Self> {
        let phase = Phase::Down { until: Instant::now(), failures: 0, why: String::new() };
        Arc::new(Self {
            peer,
            address: address.into(),
            lane,
            number,
            phase: Mutex::new(phase),
            was_connected: AtomicBool::new(false),
        })
    }

    /// Whether nobody has used it for long.
    pub fn is_forgotten(&self) -> bool {
        matches!(&*self.phase.lock(), Phase::Down { until, .. } if until.elapsed() > FORGOTTEN_AFTER)
    }

    /// Queues a request, and connects if it is time to.
    ///
    /// # Errors
    /// `NotConnected` in the pause after a failure, `WouldBlock` when too much is queued.
    pub fn send(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        request: Bytes,
    ) -> io::Result<oneshot::Receiver<io::Result<Bytes>>> {
        let mut phase = self.phase.lock();
        let link = match &*phase {
            Phase::Open(link) => Arc::clone(link),
            Phase::Down { until, why, .. } if Instant::now() < *until => return Err(not_connected(why)),
            Phase::Down { failures, .. } => {
                let (link, failures) = (Arc::new(Link::new(shared.bounds.queued_bytes_max)), *failures);
                let task = Arc::clone(self).run(Arc::clone(shared), Arc::clone(&link), failures);
                if shared.tasks.spawn(task).is_none() {
                    return Err(not_connected(super::STOPPED));
                }
                *phase = Phase::Open(Arc::clone(&link));
                link
            }
        };
        // Still under the lock, so that what is in the link when it is closed is all that will ever be in it.
        let sent = link.send(request);
        drop(phase);
        sent.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.name())))
    }

    /// One connection, from the attempt to its end.
    async fn run(self: Arc<Self>, shared: Arc<Shared>, link: Arc<Link>, failures: u32) {
        let (failures, why) = match self.connect(&shared).await {
            Err(why) => (failures.saturating_add(1), format!("{} is not connected: {why}", self.name())),
            Ok((stream, peer)) => {
                // Whoever was told that it is away is told that it is not.
                if self.lane == Lane::Urgent && failures > 0 {
                    let again = if self.was_connected.load(Relaxed) { " again" } else { "" };
                    tracing::info!("{} is connected{again}", self.name());
                }
                let lost = self.converse(&shared, &link, stream, &peer).await;
                (1, format!("{} was lost: {lost}", self.name()))
            }
        };
        match (self.lane, failures) {
            // Once for all lanes, and once for all tries.
            (Lane::Urgent, 1) => tracing::info!("{why}"),
            (lane, _) => tracing::debug!(?lane, "{why}"),
        }
        let until = Instant::now() + backoff(&shared.bounds, failures, shared.rng.next_u64());
        *self.phase.lock() = Phase::Down { until, failures, why: why.clone() };
        link.close(&why);
    }

    /// A socket with the proven peer at its other end, or why there is none.
    async fn connect(&self, shared: &Shared) -> Result<(TcpStream, PeerHello), String> {
        let bounds = &shared.bounds;
        let (mut stream, remote) = match timeout(bounds.connect_max, self.reach(shared)).await {
            Ok(reached) => reached?,
            Err(_) => return Err(format!("no answer within {:?}", bounds.connect_max)),
        };
        let wish = Wish { peer: self.peer, lane: self.lane, line: self.number, address: &self.address };
        let admission = shared.admission();
        let local = shared.local(&admission, remote);
        let failure = match timeout(bounds.handshake_max, dial(&mut stream, &local, wish)).await {
            Ok(Ok(peer)) => return Ok((stream, peer)),
            Ok(Err(failure)) => failure,
            Err(_) => return Err(format!("no handshake within {:?}", bounds.handshake_max)),
        };
        let dialed = Some((self.peer, &*self.address));
        match failure {
            Failure::Here(them, why) => {
                shared.peers.refused(them, remote.ip(), dialed, &why);
                Err(format!("{REFUSED_HERE}{why}"))
            }
            Failure::There(them, why) => {
                let why = format!("{REFUSED_THERE}{why}");
                shared.peers.refused(them, remote.ip(), dialed, &why);
                Err(why)
            }
            Failure::NotAdmitted(them, why) => {
                // What this node is to the cluster does not become better by asking again.
                if !is_double(&why) {
                    shared.not_admitted.send_replace(Some(why.clone()));
                }
                let why = format!("{REFUSED_THERE}{why}");
                shared.peers.refused(Some(them), remote.ip(), dialed, &why);
                Err(why)
            }
            Failure::Broken(error) => Err(error.to_string()),
        }
    }

    /// A socket to the first of the address's resolutions that answers.
    async fn reach(&self, shared: &Shared) -> Result<(TcpStream, SocketAddr), String> {
        let resolved = lookup_host(&*self.address).await.map_err(|error| error.to_string())?;
        let mut why = "the address means nothing".to_owned();
        for remote in resolved {
            if let Err(reason) = may_talk(&shared.secret, remote.ip()) {
                shared.peers.refused(None, remote.ip(), Some((self.peer, &self.address)), &reason);
                why = reason;
                continue;
            }
            match TcpStream::connect(remote).await {
                Ok(stream) => {
                    // Small frames must not wait for the acknowledgement of others.
                    stream.set_nodelay(true).map_err(|error| error.to_string())?;
                    return Ok((stream, remote));
                }
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    /// Sends what is queued and takes replies until the connection is lost; says how.
    async fn converse(
        &self,
        shared: &Shared,
        link: &Link,
        mut stream: TcpStream,
        peer: &PeerHello,
    ) -> io::Error {
        let _counted = shared.peers.connected(peer, Some(&self.address));
        if self.was_connected.swap(true, Relaxed) {
            shared.peers.counters.reconnected();
        }
        let (from, to) = stream.split();
        let reader = FrameReader::new(from, payload_bytes_max(self.lane));
        let pings = ping_every(shared.bounds.silence_max);
        // In no fixed order: either half may be busy for long without leaving the other out.
        let lost = tokio::select! {
            lost = take_replies(shared, link, reader) => lost,
            lost = write_frames(&link.outbox, to, pings, &shared.peers.counters) => lost,
        };
        let Err(error) = lost;
        error
    }

    /// For messages.
    fn name(&self) -> String {
        match self.peer {
            crate::env::ANYBODY => format!("the node at {}", self.address),
            peer => format!("node {peer} at {}", self.address),
        }
    }
}

/// Gives replies to their callers until the connection is lost.
async fn take_replies<R>(shared: &Shared, link: &Link, mut reader: FrameReader<R>) -> io::Result<Infallible>
where
    R: tokio::io::AsyncRead + Unpin,
{
    let mut silence = Silence::new(shared.bounds.silence_max);
    loop {
        tokio::select! {
            biased;
            frame = reader.next() => {
                let Some(frame) = frame? else {
                    return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the peer has closed it"));
                };
                shared.peers.counters.received(HEADER_BYTES + frame.payload.len());
                link.receive(frame)?;
            }
            () = silence.next_look() => silence.look(Some(reader.bytes_read))?,
        }
    }
}

/// What goes before the reason for which a peer was not talked with.
const REFUSED_HERE: &str = "it is refused: ";
/// As [`REFUSED_HERE`], where the peer has said no.
const REFUSED_THERE: &str = "it refuses: ";

/// Whether this is why a call has failed: somebody is there, and one of both says no.
pub fn is_refused(why: &str) -> bool {
    why.contains(REFUSED_HERE) || why.contains(REFUSED_THERE)
}

fn not_connected(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, why)
}
