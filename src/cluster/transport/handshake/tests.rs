//! Two ends that meet, one of them not what it says.

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
            life: 7,
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
        (Err(Failure::There(_, why) | Failure::NotAdmitted(_, why)), Err(Failure::Here(_, same)))
            if !by_dialer =>
        {
            (why, same)
        }
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
        life: 7,
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

#[tokio::test]
async fn a_member_s_refusal_is_told_from_a_stranger_s() {
    let refusing = End { admission: Arc::new(|_| Err("you left".into())), ..end(2) };
    let (dialed, _) = meet(&end(1), &refusing).await;
    assert!(matches!(&dialed, Err(Failure::NotAdmitted(2, why)) if why == "you left"), "{dialed:?}");
    // Who cannot prove to know the secret says the same in place of its proof.
    let (mut near, mut far) = tokio::io::duplex(1_024);
    let stranger = async {
        receive(&mut far, Kind::Hello, None).await.unwrap();
        let hello = end(2).local().hello(1, Lane::Fetch, 4).encode().unwrap();
        far.write_all(&hello).await.unwrap();
        receive(&mut far, Kind::Proof, None).await.unwrap();
        far.write_all(&refusal("you left")).await.unwrap();
    };
    let dialer = end(1);
    let dialer = dialer.local();
    let (dialed, ()) = tokio::join!(dial(&mut near, &dialer, WISH), stranger);
    assert!(matches!(&dialed, Err(Failure::There(Some(2), why)) if why == "you left"), "{dialed:?}");
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
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &message(Kind::Hello, b"short"), &message(Kind::Go, b"")] {
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
