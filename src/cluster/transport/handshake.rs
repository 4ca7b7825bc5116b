//! The conversation that a connection begins with.
//!
//! ```text
//!  dialer                                   answerer
//!    │ hello ─────────────────────────────────► │   version, ids, cluster, wanted id
//!    │ ◄───────────────────────────────── hello │   the same, from the other end
//!    │ proof ─────────────────────────────────► │   the dialer is proven
//!    │ ◄───────────────────────────────── proof │   the answerer is proven: then the dialer's hook is asked
//!    │ go ────────────────────────────────────► │   the answerer's hook is asked
//!    │ ◄──────────────────────────────────── go │
//!    │ requests ──────────────────────────────► │
//! ```
//!
//! Either end may send a refusal in place of its next message. Nothing is requested before the answerer's go, so a dialer
//! that was refused knows that nothing it had to say was seen; and one that was refused in place of that go knows that a
//! member has refused it.
//!
//! Takes a stream and who one is; gives who the other is, proven. It does not own deadlines, nor what becomes of
//! refusals.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    Identity,
    hello::{HEADER_BYTES, Header, Hello, Kind, VERSION, message, object, reason, refusal},
    secret::{Secret, Side},
};
use crate::{
    env::{Lane, Rng},
    types::NodeId,
};

/// Who is at the other end of a connection: what it said, and has proven to know the cluster's secret by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// Its id.
    pub node_id: NodeId,
    /// Which life of a node with this id it is.
    pub incarnation: u64,
    /// Which process it is, of those on the same directory or on copies of it.
    pub life: u64,
    /// Newest formats that it can read.
    pub feature_level: u32,
    /// The cluster it belongs to; empty if it belongs to none yet.
    pub cluster_id: String,
    /// The other end of the socket. A peer that has connected itself has a port of its system's choice here.
    pub address: SocketAddr,
}

/// Says of a proven peer whether this node will talk to it, and if not, why: the peer is told.
pub type Admission = Arc<dyn Fn(&PeerHello) -> Result<(), String> + Send + Sync>;

/// Who one is, at one end of one connection.
pub(super) struct Local<'a> {
    pub identity: Identity,
    pub life: u64,
    pub cluster_id: String,
    pub secret: &'a Secret,
    pub rng: &'a dyn Rng,
    pub admission: &'a Admission,
    /// The other end of the socket.
    pub remote: SocketAddr,
}

/// What a dialer wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub peer: NodeId,
    pub lane: Lane,
    pub line: u32,
    /// The address that was dialed, for messages.
    pub address: &'a str,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failure {
    /// Refused here, the peer was told. Who it said it was, if it came so far.
    Here(Option<NodeId>, String),
    /// Refused there.
    There(Option<NodeId>, String),
    /// Refused there by whoever has proven to know the cluster's secret: by a member.
    NotAdmitted(NodeId, String),
    /// The connection broke, or no member is at its other end.
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Whether a node talks to this address at all.
///
/// # Errors
/// The reason not to.
pub(super) fn may_talk(secret: &Secret, address: IpAddr) -> Result<(), String> {
    if secret.is_some() || address.to_canonical().is_loopback() {
        return Ok(());
    }
    Err(format!(
        "without a cluster secret only members on the same machine are talked to, and {address} is not"
    ))
}

/// Introduces this node to whom it has connected to.
pub(super) async fn dial<S>(stream: &mut S, local: &Local<'_>, wish: Wish<'_>) -> Result<PeerHello, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mine = local.hello(wish.peer, wish.lane, wish.line);
    let my_message = local.encode(&mine)?;
    stream.write_all(&my_message).await?;
    let body = receive(stream, Kind::Hello, None).await?;
    let theirs = decode(&body)?;
    let them = Some(theirs.node_id);
    local.check(stream, them, object(&mine, &theirs, wish.address)).await?;
    let their_message = message(Kind::Hello, &body);
    let proof = local.secret.prove(Side::Dialer, &my_message, &their_message);
    stream.write_all(&message(Kind::Proof, &proof)).await?;
    let proof = receive(stream, Kind::Proof, them).await?;
    let fits = local.secret.is_proof(&proof, Side::Answerer, &my_message, &their_message);
    local.check(stream, them, proven(fits, theirs.node_id)).await?;
    let peer = local.peer(&theirs);
    local.check(stream, them, (local.admission)(&peer)).await?;
    stream.write_all(&message(Kind::Go, &[])).await?;
    match receive(stream, Kind::Go, them).await {
        Ok(_) => Ok(peer),
        Err(Failure::There(_, why)) => Err(Failure::NotAdmitted(peer.node_id, why)),
        Err(failure) => Err(failure),
    }
}

/// Hears whoever has connected, and says which lane and line it wants. `here` is this end of the socket.
pub(super) async fn answer<S>(
    stream: &mut S,
    local: &Local<'_>,
    here: SocketAddr,
) -> Result<(PeerHello, Lane, u32), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let body = receive(stream, Kind::Hello, None).await?;
    let theirs = decode(&body)?;
    let them = Some(theirs.node_id);
    let mine = local.hello(theirs.node_id, theirs.lane, theirs.line);
    local.check(stream, them, object(&theirs, &mine, &here.to_string())).await?;
    let (my_message, their_message) = (local.encode(&mine)?, message(Kind::Hello, &body));
    stream.write_all(&my_message).await?;
    let proof = receive(stream, Kind::Proof, them).await?;
    let fits = local.secret.is_proof(&proof, Side::Dialer, &their_message, &my_message);
    local.check(stream, them, proven(fits, theirs.node_id)).await?;
    let proof = local.secret.prove(Side::Answerer, &their_message, &my_message);
    stream.write_all(&message(Kind::Proof, &proof)).await?;
    receive(stream, Kind::Go, them).await?;
    let peer = local.peer(&theirs);
    local.check(stream, them, (local.admission)(&peer)).await?;
    stream.write_all(&message(Kind::Go, &[])).await?;
    Ok((peer, theirs.lane, theirs.line))
}

impl Local<'_> {
    fn hello(&self, wanted: NodeId, lane: Lane, line: u32) -> Hello {
        let mut nonce = [0; 32];
        for word in nonce.chunks_exact_mut(8) {
            word.copy_from_slice(&self.rng.next_u64().to_le_bytes());
        }
        let Identity { node_id, incarnation, feature_level } = self.identity;
        let (has_secret, cluster_id, life) = (self.secret.is_some(), self.cluster_id.clone(), self.life);
        Hello { nonce, node_id, wanted, incarnation, life, feature_level, lane, line, has_secret, cluster_id }
    }

    fn encode(&self, hello: &Hello) -> Result<Vec<u8>, Failure> {
        let why = || format!("{:?} is no cluster id", self.cluster_id);
        hello.encode().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, why()).into())
    }

    fn peer(&self, theirs: &Hello) -> PeerHello {
        PeerHello {
            node_id: theirs.node_id,
            incarnation: theirs.incarnation,
            life: theirs.life,
            feature_level: theirs.feature_level,
            cluster_id: theirs.cluster_id.clone(),
            address: self.remote,
        }
    }

    /// Tells the peer if it is refused.
    async fn check<S>(
        &self,
        stream: &mut S,
        them: Option<NodeId>,
        judged: Result<(), String>,
    ) -> Result<(), Failure>
    where
        S: AsyncWrite + Unpin,
    {
        match judged {
            Ok(()) => Ok(()),
            Err(why) => Err(refuse(stream, them, why).await),
        }
    }
}

fn proven(fits: bool, node_id: NodeId) -> Result<(), String> {
    if fits {
        Ok(())
    } else {
        Err(format!("node {node_id} has another cluster secret, or is none of its members"))
    }
}

fn decode(body: &[u8]) -> Result<Hello, Failure> {
    Hello::decode(body).ok_or_else(|| no_member("its hello is malformed").into())
}

fn no_member(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no member of a ledger is there: {why}"))
}

/// Tells the peer why it is refused, if it still listens.
pub(super) async fn refuse<S>(stream: &mut S, them: Option<NodeId>, why: String) -> Failure
where
    S: AsyncWrite + Unpin,
{
    let _ = stream.write_all(&refusal(&why)).await;
    let _ = stream.shutdown().await;
    Failure::Here(them, why)
}

/// The body of the next message, which has to be of this kind.
async fn receive<S>(stream: &mut S, expected: Kind, them: Option<NodeId>) -> Result<Vec<u8>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut header = [0; HEADER_BYTES];
    read_exact(stream, &mut header).await?;
    let Some(header) = Header::decode(header) else {
        return Err(no_member("it speaks something else").into());
    };
    if header.version != VERSION && header.kind != Kind::Refusal as u8 {
        let why = format!("protocol version {VERSION} is spoken here, version {} there", header.version);
        return Err(refuse(stream, them, why).await);
    }
    let mut body = vec![0; header.length];
    read_exact(stream, &mut body).await?;
    if header.kind == Kind::Refusal as u8 {
        Err(Failure::There(them, reason(&body)))
    } else if header.kind == expected as u8 {
        Ok(body)
    } else {
        Err(no_member("it speaks out of turn").into())
    }
}

async fn read_exact<S>(stream: &mut S, to: &mut [u8]) -> io::Result<()>
where
    S: AsyncRead + Unpin,
{
    match stream.read_exact(to).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(io::Error::new(error.kind(), "the connection was closed during the handshake"))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
