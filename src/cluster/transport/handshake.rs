//! The conversation that a connection begins with.
//!
//! ```text
//!  dialer                                   answerer
//!    │ hello ─────────────────────────────────► │   version, ids, cluster, wanted id
//!    │ ◄───────────────────────────────── hello │   the same, from the other end
//!    │ proof ─────────────────────────────────► │   the dialer is proven: then the hook is asked
//!    │ ◄───────────────────────────────── proof │   the answerer is proven: then the hook is asked
//!    │ go, and requests ──────────────────────► │
//! ```
//!
//! Either end may send a refusal in place of its next message. The answerer does not read a request before the go, so
//! a dialer that was refused knows that nothing it had to say was seen.
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
    Ok(peer)
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
    let peer = local.peer(&theirs);
    local.check(stream, them, (local.admission)(&peer)).await?;
    let proof = local.secret.prove(Side::Answerer, &their_message, &my_message);
    stream.write_all(&message(Kind::Proof, &proof)).await?;
    receive(stream, Kind::Go, them).await?;
    Ok((peer, theirs.lane, theirs.line))
}

impl Local<'_> {
    fn hello(&self, wanted: NodeId, lane: Lane, line: u32) -> Hello {
        let mut nonce = [0; 32];
        for word in nonce.chunks_exact_mut(8) {
            word.copy_from_slice(&self.rng.next_u64().to_le_bytes());
        }
        let Identity { node_id, incarnation, feature_level } = self.identity;
        let (has_secret, cluster_id) = (self.secret.is_some(), self.cluster_id.clone());
        Hello { nonce, node_id, wanted, incarnation, feature_level, lane, line, has_secret, cluster_id }
    }

    fn encode(&self, hello: &Hello) -> Result<Vec<u8>, Failure> {
        let why = || format!("{:?} is no cluster id", self.cluster_id);
        hello.encode().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, why()).into())
    }

    fn peer(&self, theirs: &Hello) -> PeerHello {
        PeerHello {
            node_id: theirs.node_id,
            incarnation: theirs.incarnation,
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
mod tests {
    use tokio::io::DuplexStream;

    use super::*;
    use crate::sim::SimRng;

    /// One end: its id, cluster, secret, and whom it admits.
    struct End {
        node_id: NodeId,
        cluster_id: &'static str,
        secret: Secret,
        rng: SimRng,
        admission: Admission,
    }

    fn end(node_id: NodeId) -> End {
        let (secret, rng) = (Secret::new(Some(b"secret")), SimRng::new(node_id));
        End { node_id, cluster_id: "c", secret, rng, admission: Arc::new(|_| Ok(())) }
    }

    impl End {
        fn local(&self) -> Local<'_> {
            Local {
                identity: Identity { node_id: self.node_id, incarnation: 10, feature_level: 3 },
                cluster_id: self.cluster_id.into(),
                secret: &self.secret,
                rng: &self.rng,
                admission: &self.admission,
                remote: ADDRESS,
            }
        }
    }

    const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9_001);
    const WISH: Wish<'_> = Wish { peer: 2, lane: Lane::Fetch, line: 4, address: "two:9001" };

    type Dialed = Result<PeerHello, Failure>;
    type Answered = Result<(PeerHello, Lane, u32), Failure>;

    async fn meet(dialer: &End, answerer: &End) -> (Dialed, Answered) {
        let (mut near, mut far) = tokio::io::duplex(256);
        let (dialer, answerer) = (dialer.local(), answerer.local());
        tokio::join!(dial(&mut near, &dialer, WISH), answer(&mut far, &answerer, ADDRESS))
    }

    /// Both ends know the same reason, and which of them has found it.
    async fn refused(dialer: &End, answerer: &End, by_dialer: bool) -> String {
        let (why, same) = match meet(dialer, answerer).await {
            (Err(Failure::Here(_, why)), Err(Failure::There(_, same))) if by_dialer => (why, same),
            (Err(Failure::There(_, why)), Err(Failure::Here(_, same))) if !by_dialer => (why, same),
            other => panic!("{other:?}"),
        };
        assert_eq!(why, same);
        why
    }

    #[tokio::test]
    async fn members_get_to_know_each_other() {
        let (dialed, answered) = meet(&end(1), &end(2)).await;
        let expected = |node_id| PeerHello {
            node_id,
            incarnation: 10,
            feature_level: 3,
            cluster_id: "c".into(),
            address: ADDRESS,
        };
        assert_eq!(dialed.unwrap(), expected(2));
        assert_eq!(answered.unwrap(), (expected(1), Lane::Fetch, 4));
    }

    #[tokio::test]
    async fn a_node_with_another_secret_is_refused_and_proves_nothing() {
        let stranger = End { secret: Secret::new(Some(b"guess")), ..end(1) };
        let why = refused(&stranger, &end(2), false).await;
        assert_eq!(why, "node 1 has another cluster secret, or is none of its members");
    }

    #[tokio::test]
    async fn an_answerer_that_takes_any_proof_is_found_out() {
        let (mut near, mut far) = tokio::io::duplex(1_024);
        let impostor = async {
            receive(&mut far, Kind::Hello, None).await.unwrap();
            let hello = end(2).local().hello(1, Lane::Fetch, 4).encode().unwrap();
            far.write_all(&hello).await.unwrap();
            let proof = receive(&mut far, Kind::Proof, None).await.unwrap();
            // It has no better proof than the one it was given.
            far.write_all(&message(Kind::Proof, &proof)).await.unwrap();
            receive(&mut far, Kind::Go, None).await
        };
        let dialer = end(1);
        let dialer = dialer.local();
        let (dialed, heard) = tokio::join!(dial(&mut near, &dialer, WISH), impostor);
        assert!(matches!(dialed, Err(Failure::Here(Some(2), _))), "{dialed:?}");
        assert!(matches!(heard, Err(Failure::There(..))), "{heard:?}");
    }

    #[tokio::test]
    async fn either_hook_can_refuse_and_is_asked_about_the_proven_only() {
        let refusing = |node_id, secret: &[u8]| End {
            admission: Arc::new(|peer| Err(format!("node {} was removed", peer.node_id))),
            secret: Secret::new(Some(secret)),
            ..end(node_id)
        };
        assert_eq!(refused(&end(1), &refusing(2, b"secret"), false).await, "node 1 was removed");
        assert_eq!(refused(&refusing(1, b"secret"), &end(2), true).await, "node 2 was removed");
        let why = refused(&end(1), &refusing(2, b"guess"), false).await;
        assert!(why.contains("another cluster secret"), "{why}");
    }

    async fn say(stream: &mut DuplexStream, bytes: &[u8]) {
        stream.write_all(bytes).await.unwrap();
    }

    #[tokio::test]
    async fn another_version_is_told_which_one_is_spoken_here() {
        let (mut near, mut far) = tokio::io::duplex(1_024);
        let mut hello = end(1).local().hello(2, Lane::Fetch, 4).encode().unwrap();
        hello[4] = 9;
        say(&mut near, &hello).await;
        let answerer = end(2);
        let Err(Failure::Here(_, why)) = answer(&mut far, &answerer.local(), ADDRESS).await else { panic!() };
        assert_eq!(why, "protocol version 1 is spoken here, version 9 there");
        let Err(Failure::There(_, told)) = receive(&mut near, Kind::Hello, None).await else { panic!() };
        assert_eq!(told, why);
    }

    #[tokio::test]
    async fn a_refusal_of_another_version_can_be_read() {
        let (mut near, mut far) = tokio::io::duplex(1_024);
        let mut refusal = refusal("version 9 is spoken here");
        refusal[4] = 9;
        say(&mut far, &refusal).await;
        let dialer = end(1);
        let Err(Failure::There(_, why)) = dial(&mut near, &dialer.local(), WISH).await else { panic!() };
        assert_eq!(why, "version 9 is spoken here");
    }

    #[tokio::test]
    async fn what_is_no_member_is_not_talked_to() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &message(Kind::Hello, b"short"), &message(Kind::Go, b"")]
        {
            let (mut near, mut far) = tokio::io::duplex(1_024);
            say(&mut near, bytes).await;
            let answerer = end(2);
            let Err(Failure::Broken(error)) = answer(&mut far, &answerer.local(), ADDRESS).await else {
                panic!()
            };
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            drop(far);
            assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "nothing was said");
        }
    }

    #[test]
    fn without_a_secret_only_this_machine_is_talked_to() {
        let (none, some) = (Secret::new(None), Secret::new(Some(b"s")));
        for here in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            may_talk(&none, here.parse().unwrap()).unwrap();
        }
        for there in ["10.0.0.1", "192.0.2.7", "::", "0.0.0.0", "2001:db8::1", "::ffff:10.0.0.1"] {
            let why = may_talk(&none, there.parse().unwrap()).unwrap_err();
            assert!(why.contains(there.trim_start_matches("::ffff:")) && why.contains("secret"), "{why}");
            may_talk(&some, there.parse().unwrap()).unwrap();
        }
    }
}
