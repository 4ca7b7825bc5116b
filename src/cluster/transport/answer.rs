//! The answering end: sockets in, strangers heard, requests handled, replies out.
//!
//! Takes a listener; gives every request of a proven peer to the handler of its lane, in the order they came, each polled
//! once before the next is looked at. Replies go out as they are done. It does not own what requests mean, nor who is
//! admitted.
//!
//! What is under way on a connection is bounded in number and bytes by not reading further: the peer's own queue then
//! fills, and its callers are told.

use std::{collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    io::AsyncRead,
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    Shared,
    bounds::{payload_bytes_max, running_max},
    frame::{Frame, FrameReader, HEADER_BYTES, Kind, malformed},
    handshake::{Failure, PeerHello, answer, may_talk, refuse},
    outbox::{Outbox, write_frames},
    silence::{Silence, ping_every},
};
use crate::{env::Lane, types::NodeId};

/// Pause after an accept that failed for want of descriptors or memory: others have to close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections for as long as it is polled.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut strangers: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a member's connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        strangers.retain(|stranger| !stranger.is_finished());
        if strangers.len() >= shared.bounds.strangers_max
            && let Some(oldest) = strangers.pop_front()
        {
            // A member is through in milliseconds: the one that has been here longest is the least likely to be one.
            oldest.abort();
            shared.peers.counters.pushed_out();
        }
        strangers.extend(shared.tasks.spawn(hear(Arc::clone(&shared), stream, remote)));
    }
}

/// Lets a stranger prove who it is, and answers it from then on in a task of its own.
async fn hear(shared: Arc<Shared>, mut stream: TcpStream, remote: SocketAddr) {
    let heard = match timeout(shared.bounds.handshake_max, introduce(&shared, &mut stream, remote)).await {
        Ok(heard) => heard,
        Err(_) => Err(Failure::Broken(io::ErrorKind::TimedOut.into())),
    };
    match heard {
        Ok((peer, lane, line)) => {
            let task = answer_peer(Arc::clone(&shared), stream, peer, lane, line);
            let _ = shared.tasks.spawn(task);
        }
        Err(Failure::Here(them, why)) => shared.peers.refused(them, remote.ip(), None, &why),
        Err(Failure::There(them, why)) => {
            shared.peers.refused(them, remote.ip(), None, &format!("it refuses: {why}"));
        }
        Err(Failure::NotAdmitted(them, why)) => {
            shared.peers.refused(Some(them), remote.ip(), None, &format!("it refuses: {why}"));
        }
        Err(Failure::Broken(error)) => tracing::debug!(%remote, %error, "a stranger did not become a peer"),
    }
}

async fn introduce(
    shared: &Shared,
    stream: &mut TcpStream,
    remote: SocketAddr,
) -> Result<(PeerHello, Lane, u32), Failure> {
    stream.set_nodelay(true)?;
    if let Err(why) = may_talk(&shared.secret, remote.ip()) {
        return Err(refuse(stream, None, why).await);
    }
    let here = stream.local_addr()?;
    let admission = shared.admission_of_dialers();
    answer(stream, &shared.local(&admission, remote), here).await
}

/// A connection of a proven peer, to its end.
async fn answer_peer(shared: Arc<Shared>, mut stream: TcpStream, peer: PeerHello, lane: Lane, line: u32) {
    let mut seat = shared.inbound.enter(&peer, line).await;
    let counted = shared.peers.connected(&peer, None);
    let outbox = Outbox::new(shared.bounds.queued_bytes_max);
    let mut requests = Requests {
        shared: &shared,
        outbox: &outbox,
        from: peer.node_id,
        lane,
        running: FuturesUnordered::new(),
        running_bytes: 0,
    };
    let (from, to) = stream.split();
    let reader = FrameReader::new(from, payload_bytes_max(lane));
    let pings = ping_every(shared.bounds.silence_max);
    // In no fixed order: either half may be busy for long without leaving the other out.
    let lost = tokio::select! {
        lost = requests.handle(reader) => lost,
        lost = write_frames(&outbox, to, pings, &shared.peers.counters) => lost,
        () = seat.told_to_leave() => {
            Err(io::Error::other("another connection takes its place, or its node has left the cluster"))
        }
    };
    let Err(error) = lost;
    tracing::debug!(peer = peer.node_id, ?lane, %error, "a peer's connection has ended");
    drop((stream, seat, counted));
    // What has begun goes on, though nobody will hear of it: handlers need not expect to be given up halfway.
    while requests.running.next().await.is_some() {}
}

/// A handled request: its number, the bytes it held, its result.
type Done = (u64, usize, io::Result<Bytes>);

/// The requests of one connection.
struct Requests<'a> {
    shared: &'a Shared,
    outbox: &'a Outbox,
    from: NodeId,
    lane: Lane,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    running_bytes: usize,
}

impl Requests<'_> {
    /// Reads and handles them until the connection is lost.
    async fn handle<R: AsyncRead + Unpin>(&mut self, mut reader: FrameReader<R>) -> io::Result<Infallible> {
        let mut silence = Silence::new(self.shared.bounds.silence_max);
        loop {
            let may_write = self.outbox.has_room();
            let may_read = may_write
                && self.running.len() < running_max(self.lane)
                && self.running_bytes < self.shared.bounds.queued_bytes_max;
            tokio::select! {
                biased;
                Some((id, bytes, result)) = self.running.next() => {
                    self.running_bytes -= bytes;
                    self.reply(id, result);
                }
                frame = reader.next(), if may_read => {
                    let Some(frame) = frame? else {
                        return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the peer has closed it"));
                    };
                    self.shared.peers.counters.received(HEADER_BYTES + frame.payload.len());
                    self.begin(frame)?;
                }
                () = self.outbox.drained(), if !may_write => {}
                () = silence.next_look() => silence.look(may_read.then_some(reader.bytes_read))?,
            }
        }
    }

    /// Gives a request to its handler, and polls what that gives back for the first time.
    fn begin(&mut self, frame: Frame) -> io::Result<()> {
        match frame.kind {
            Kind::Ping => return Ok(()),
            Kind::Request => {}
            Kind::Reply | Kind::Error => return Err(malformed("a reply where only requests go")),
        }
        let (id, bytes) = (frame.id, frame.payload.len());
        let mut answer = self.shared.handle(self.from, self.lane, frame.payload);
        match super::poll_once(&mut answer) {
            Some(result) => self.reply(id, result),
            None => {
                self.running_bytes += bytes;
                self.running.push(Box::pin(async move { (id, bytes, answer.await) }));
            }
        }
        Ok(())
    }

    fn reply(&self, id: u64, result: io::Result<Bytes>) {
        self.outbox.push(Frame::answer(id, result, payload_bytes_max(self.lane)));
    }
}
