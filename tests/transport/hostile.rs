//! What strangers can do: nothing but be turned away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use scribe_ledger::{
    cluster::transport::Bounds,
    env::{Lane, Network, PeerHandler},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Plan, node, plan, proxy::Proxy, until, within};

/// Everything that comes until the other end closes or resets.
async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = within(stream.read_to_end(&mut bytes)).await;
    bytes
}

#[tokio::test]
async fn a_handshake_that_was_overheard_opens_nothing() {
    let (one, two) = (node(1).await, node(2).await);
    let seen = Arc::<AtomicUsize>::default();
    let handler: PeerHandler = {
        let seen = Arc::clone(&seen);
        Arc::new(move |_, request| {
            seen.fetch_add(1, SeqCst);
            async move { Ok(request) }.boxed()
        })
    };
    two.transport.serve(Lane::Propose, handler);
    let proxy = Proxy::to(&two.address).await;
    one.call_at(2, &proxy.address, Lane::Propose, "pay").await.unwrap();
    let heard = proxy.heard.lock().unwrap().clone();
    assert!(heard.ends_with(b"pay"));

    let mut stream = TcpStream::connect(&two.address).await.unwrap();
    stream.write_all(&heard).await.unwrap();
    until("it was refused", || two.traffic().refused == 1).await;
    read_to_end(&mut stream).await;
    assert_eq!((seen.load(SeqCst), two.traffic().connects), (1, 1));
    assert_eq!(one.call_at(2, &proxy.address, Lane::Propose, "again").await.unwrap(), "again");
}

#[tokio::test]
async fn garbage_gets_no_answer() {
    let two = node(2).await;
    let lies: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: two\r\n\r\n",
        &[0xff; 4096],
        // A hello of 64 KiB, one that is cut, and one out of turn.
        b"SCRB\x01\x00\x01\xff\xff",
        b"SCRB\x01\x00\x01\x04\x00abcd",
        b"SCRB\x01\x00\x03\x00\x00",
    ];
    for lie in lies {
        let mut stream = TcpStream::connect(&two.address).await.unwrap();
        stream.write_all(lie).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, b"", "{lie:?}");
    }
    let mut stream = TcpStream::connect(&two.address).await.unwrap();
    stream.write_all(b"SCRB\x02\x00\x01\x00\x00").await.unwrap();
    let told = read_to_end(&mut stream).await;
    assert!(told.ends_with(b"protocol version 1 is spoken here, version 2 there"), "{told:?}");
    assert_eq!(node(1).await.call(&two, Lane::Urgent, "well?").await.unwrap(), "Urgent 1 well?");
}

#[tokio::test]
async fn garbage_in_a_proven_connection_ends_it_and_nothing_else() {
    let (one, two) = (node(1).await, node(2).await);
    // A length of 4 GiB; a kind that is none; a reply to nobody.
    for garbage in [[0xff; 13], [0; 13], [0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2]] {
        let proxy = Proxy::to(&two.address).await;
        one.call_at(2, &proxy.address, Lane::Append, "good").await.unwrap();
        let before = two.peer(1).unwrap().connections;
        proxy.say(&garbage);
        until("it was dropped", || two.peer(1).unwrap().connections < before).await;
    }
    assert_eq!(one.call(&two, Lane::Append, "fine").await.unwrap(), "Append 1 fine");
}

#[tokio::test]
async fn strangers_who_say_nothing_are_sent_away_in_time() {
    let bounds = Bounds { handshake_max: Duration::from_millis(100), ..Bounds::default() };
    let two = Plan { bounds, ..plan(2) }.start().await;
    let mut mute = TcpStream::connect(&two.address).await.unwrap();
    let mut slow = TcpStream::connect(&two.address).await.unwrap();
    slow.write_all(b"SCRB").await.unwrap();
    assert_eq!(read_to_end(&mut mute).await, b"");
    assert_eq!(read_to_end(&mut slow).await, b"");
}

#[tokio::test]
async fn strangers_push_out_strangers_and_not_members() {
    let bounds = Bounds { handshake_max: Duration::from_secs(3_600), strangers_max: 4, ..Bounds::default() };
    let (one, two) = (node(1).await, Plan { bounds, ..plan(2) }.start().await);
    one.call(&two, Lane::Urgent, "before").await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(TcpStream::connect(&two.address).await.unwrap());
    }
    // A member that comes in between is heard.
    assert_eq!(one.call(&two, Lane::Control, "new").await.unwrap(), "Control 1 new");
    for stranger in &mut strangers[..16] {
        assert_eq!(read_to_end(stranger).await, b"");
    }
    assert!(two.traffic().refused >= 16);
    assert_eq!(one.call(&two, Lane::Urgent, "after").await.unwrap(), "Urgent 1 after");
    assert_eq!(one.traffic().connects, 2);
}

#[tokio::test]
async fn a_member_that_is_mute_fails_calls_in_time() {
    let bounds = Bounds { handshake_max: Duration::from_millis(100), ..Bounds::default() };
    let one = Plan { bounds, ..plan(1) }.start().await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let call = one.transport.call(2, &address, Lane::Urgent, Bytes::new());
    let error = within(call).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
    assert!(error.to_string().contains("no handshake within 100ms"), "{error}");
}

#[tokio::test]
async fn a_member_that_takes_no_replies_is_not_answered_without_end() {
    const REPLY_BYTES: usize = 100_000;
    let bounds = Bounds { queued_bytes_max: 1 << 20, ..Bounds::default() };
    let (one, two) = (node(1).await, Plan { bounds, ..plan(2) }.start().await);
    let seen = Arc::<AtomicUsize>::default();
    let handler: PeerHandler = {
        let seen = Arc::clone(&seen);
        Arc::new(move |_, _| {
            seen.fetch_add(1, SeqCst);
            async { Ok(vec![5; REPLY_BYTES].into()) }.boxed()
        })
    };
    two.transport.serve(Lane::Control, handler);
    let proxy = Proxy::to(&two.address).await;
    one.call_at(2, &proxy.address, Lane::Control, "").await.unwrap();
    proxy.stalled.store(true, SeqCst);
    let calls: Vec<_> =
        (0..1_000).map(|_| one.transport.call(2, &proxy.address, Lane::Control, Bytes::new())).collect();
    let mut before = 0;
    until("it stops to answer", || {
        std::mem::replace(&mut before, seen.load(SeqCst)) == seen.load(SeqCst) && before > 10
    })
    .await;
    assert!(seen.load(SeqCst) < 500, "{} were answered: the sockets hold no 50 MB", seen.load(SeqCst));
    proxy.stalled.store(false, SeqCst);
    for call in calls {
        assert_eq!(within(call).await.unwrap().len(), REPLY_BYTES);
    }
}
