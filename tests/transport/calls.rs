//! What comes through, in which order, and what happens when something does not.

use std::{
    io::ErrorKind,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use scribe_ledger::{
    cluster::transport::Bounds,
    env::{ANYBODY, Lane, Network, PeerHandler},
};
use tokio::sync::Semaphore;

use crate::{Plan, node, plan, proxy::Proxy, until, within};

/// Answers nobody before the gate has a permit for it; counts those it has seen.
fn gated(gate: &Arc<Semaphore>, seen: &Arc<AtomicUsize>) -> PeerHandler {
    let (gate, seen) = (Arc::clone(gate), Arc::clone(seen));
    Arc::new(move |_, _| {
        seen.fetch_add(1, SeqCst);
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(Bytes::new())
        }
        .boxed()
    })
}

#[tokio::test]
async fn every_lane_has_its_own_way_there_and_back() {
    let (one, two) = (node(1).await, node(2).await);
    for lane in Lane::ALL {
        let reply = one.call(&two, lane, "hello").await.unwrap();
        assert_eq!(reply, format!("{lane:?} 1 hello"));
        assert_eq!(one.call_at(ANYBODY, &two.address, lane, "").await.unwrap(), format!("{lane:?} 1 "));
        assert_eq!(two.call(&one, lane, "back").await.unwrap(), format!("{lane:?} 2 back"));
    }
    let status = one.peer(2).unwrap();
    assert_eq!((status.address, status.seen, status.connections), (two.address.clone(), Some((3, 102)), 15));
    assert_eq!(one.traffic().connects, 15);
    assert!(one.traffic().frames_sent >= 15 && one.traffic().bytes_received > 200);
}

#[tokio::test]
async fn a_node_calls_itself_without_a_socket() {
    let one = node(1).await;
    assert_eq!(one.call_at(1, "nowhere:1", Lane::Propose, "x").await.unwrap(), "Propose 1 x");
    let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::default());
    one.transport.serve(Lane::Append, gated(&gate, &seen));
    let call = one.transport.call(1, "", Lane::Append, Bytes::new());
    assert_eq!(seen.load(SeqCst), 1, "it has begun before it is waited for");
    gate.add_permits(1);
    within(call).await.unwrap();
    assert_eq!(one.traffic().connects, 0);
}

#[tokio::test]
async fn errors_of_handlers_come_back_with_their_words() {
    let (one, two) = (node(1).await, node(2).await);
    for kind in [ErrorKind::NotConnected, ErrorKind::Other] {
        let handler: PeerHandler =
            Arc::new(move |_, _| async move { Err(std::io::Error::new(kind, "not today")) }.boxed());
        two.transport.serve(Lane::Control, handler);
        let error = one.call(&two, Lane::Control, "").await.unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (kind, "not today".into()));
    }
    assert_eq!(one.call(&two, Lane::Urgent, "still").await.unwrap(), "Urgent 1 still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_begin_in_the_order_they_were_called() {
    const CALLS: usize = 10_000;
    let (one, two) = (node(1).await, node(2).await);
    let (called, polled) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let handler: PeerHandler = {
        let (called, polled) = (Arc::clone(&called), Arc::clone(&polled));
        Arc::new(move |_, request: Bytes| {
            let number = usize::from_le_bytes(request[..].try_into().unwrap());
            called.lock().unwrap().push(number);
            let polled = Arc::clone(&polled);
            async move {
                polled.lock().unwrap().push(number);
                // Some are done at once, others are overtaken.
                for _ in 0..number % 4 {
                    tokio::task::yield_now().await;
                }
                Ok(request)
            }
            .boxed()
        })
    };
    two.transport.serve(Lane::Append, handler);
    let calls: FuturesUnordered<_> = (0..CALLS)
        .map(|number| {
            let request = Bytes::copy_from_slice(&number.to_le_bytes());
            let call = one.transport.call(2, &two.address, Lane::Append, request.clone());
            async move { assert_eq!(call.await.unwrap(), request) }
        })
        .collect();
    assert_eq!(within(calls.count()).await, CALLS);
    let expected: Vec<_> = (0..CALLS).collect();
    assert_eq!(*called.lock().unwrap(), expected);
    assert_eq!(*polled.lock().unwrap(), expected);
}

#[tokio::test]
async fn what_is_urgent_does_not_wait_for_what_is_long() {
    let patient = || Plan { bounds: Bounds { queued_bytes_max: 1 << 30, ..Bounds::default() }, ..plan(1) };
    let (one, two) = (patient().start().await, node(2).await);
    let sum: PeerHandler = Arc::new(|_, request: Bytes| {
        async move { Ok(Bytes::copy_from_slice(blake3::hash(&request).as_bytes())) }.boxed()
    });
    two.transport.serve(Lane::Append, sum);
    // Both connections are there before, so that only the transfers compete.
    for lane in [Lane::Append, Lane::Urgent] {
        one.call(&two, lane, "").await.unwrap();
    }
    let long = Bytes::from(vec![7; 64 << 20]);
    let mut transfers: FuturesUnordered<_> =
        (0..3).map(|_| one.transport.call(2, &two.address, Lane::Append, long.clone())).collect();
    let urgent = one.call(&two, Lane::Urgent, "now");
    let last = async {
        while let Some(reply) = transfers.next().await {
            assert_eq!(reply.unwrap(), &blake3::hash(&long).as_bytes()[..]);
        }
    };
    tokio::pin!(urgent, last);
    tokio::select! {
        biased;
        () = &mut last => panic!("the urgent call came after 192 MiB"),
        reply = &mut urgent => assert_eq!(reply.unwrap(), "Urgent 1 now"),
    }
    within(last).await;
}

#[tokio::test]
async fn what_is_too_long_for_its_lane_is_not_sent() {
    let (one, two) = (node(1).await, node(2).await);
    let error = one.call(&two, Lane::Urgent, vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(one.call(&two, Lane::Control, vec![0; (1 << 20) - 20]).await.unwrap().len(), (1 << 20) - 10);
    // The echo is longer than what may come back.
    let error = one.call(&two, Lane::Control, vec![0; 1 << 20]).await.unwrap_err();
    assert!(error.to_string().contains("the lane takes 1048576"), "{error}");
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_made_all_the_same() {
    let (one, two) = (node(1).await, node(2).await);
    let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::default());
    two.transport.serve(Lane::Fetch, gated(&gate, &seen));
    drop(one.transport.call(2, &two.address, Lane::Fetch, Bytes::new()));
    until("the request came", || seen.load(SeqCst) == 1).await;
}

#[tokio::test]
async fn a_peer_that_comes_back_is_called_again() {
    let (one, two) = (node(1).await, node(2).await);
    one.call(&two, Lane::Append, "").await.unwrap();
    two.transport.stop().await;
    until("the loss is noticed", || one.peer(2).is_some_and(|peer| peer.connections == 0)).await;
    let error = one.call(&two, Lane::Append, "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert!(error.to_string().contains(&format!("node 2 at {}", two.address)), "{error}");

    let again = Plan { incarnation: 7, ..plan(2) }.start_at(&two.address).await;
    let reply = within(async {
        loop {
            match one.call(&again, Lane::Append, "you again").await {
                Ok(reply) => return reply,
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotConnected),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(reply.await, "Append 1 you again");
    assert_eq!(one.traffic().reconnects, 1);
    assert_eq!(one.peer(2).unwrap().seen, Some((3, 7)));
}

#[tokio::test]
async fn a_peer_that_is_not_there_costs_one_attempt_in_a_while() {
    let bounds = Bounds { backoff_min: Duration::from_secs(600), ..Bounds::default() };
    let one = Plan { bounds, ..plan(1) }.start().await;
    let two = node(2).await;
    two.transport.stop().await;
    // Queued while the attempt is made, they share its fate; later ones hear of it at once.
    let calls: Vec<_> =
        (0..3).map(|_| one.transport.call(2, &two.address, Lane::Urgent, Bytes::new())).collect();
    for call in calls {
        let error = within(call).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        assert!(error.to_string().contains("refused"), "{error}");
    }
    let late = one.transport.call(2, &two.address, Lane::Urgent, Bytes::new()).now_or_never();
    let error = late.expect("it is known").unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_a_bounded_queue_and_delays_nobody() {
    const MIB: usize = 1 << 20;
    let bounds = Bounds { queued_bytes_max: 2 * MIB, ..Bounds::default() };
    let (one, two, three) = (Plan { bounds, ..plan(1) }.start().await, node(2).await, node(3).await);
    let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default());
    two.transport.serve(Lane::Propose, gated(&gate, &seen));
    let request = Bytes::from(vec![1; 100_000]);
    let calls = FuturesUnordered::new();
    // What the sockets hold is the system's to say; beyond that and two queues nothing is taken.
    let refused = within(async {
        loop {
            let mut call = one.transport.call(2, &two.address, Lane::Propose, request.clone());
            if let Some(result) = (&mut call).now_or_never() {
                let full = one.traffic();
                tokio::time::sleep(Duration::from_millis(20)).await;
                // While the writer gets on, the queue was only full for the moment.
                if one.traffic() == full && seen.load(SeqCst) == 64 {
                    return result.unwrap_err();
                }
            } else {
                calls.push(call);
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    assert!(calls.len() * request.len() < 64 * MIB, "{} requests were taken", calls.len());
    assert_eq!(seen.load(SeqCst), 64, "no more are handled at a time");

    assert_eq!(one.call(&three, Lane::Propose, "you?").await.unwrap(), "Propose 1 you?");
    assert_eq!(one.call(&two, Lane::Urgent, "there?").await.unwrap(), "Urgent 1 there?");
    gate.add_permits(calls.len());
    let count = calls.len();
    let done = calls.filter(|result| std::future::ready(result.is_ok())).count();
    assert_eq!(within(done).await, count);
}

#[tokio::test]
async fn silence_ends_a_connection_and_pings_are_no_silence() {
    let bounds = Bounds { silence_max: Duration::from_millis(800), ..Bounds::default() };
    let (one, two) = (Plan { bounds, ..plan(1) }.start().await, Plan { bounds, ..plan(2) }.start().await);
    let proxy = Proxy::to(&two.address).await;
    one.call_at(2, &proxy.address, Lane::Urgent, "").await.unwrap();
    let before = one.traffic().frames_received;
    until("pings keep it", || one.traffic().frames_received >= before + 5).await;
    assert_eq!(one.call_at(2, &proxy.address, Lane::Urgent, "hi").await.unwrap(), "Urgent 1 hi");
    assert_eq!(one.traffic().connects, 1);

    proxy.silent.store(true, SeqCst);
    let error = one.call_at(2, &proxy.address, Lane::Urgent, "lost").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "it may have been seen");
    assert!(error.to_string().contains("nothing was heard for 800ms"), "{error}");
    until("the answerer gives it up, too", || two.peer(1).unwrap().connections == 0).await;
}

#[tokio::test]
async fn a_request_that_may_have_been_seen_is_told_from_one_that_was_not() {
    let (one, two) = (node(1).await, node(2).await);
    let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default());
    two.transport.serve(Lane::Propose, gated(&gate, &seen));
    let proxy = Proxy::to(&two.address).await;
    let call = one.transport.call(2, &proxy.address, Lane::Propose, Bytes::new());
    until("it was seen", || seen.load(SeqCst) == 1).await;
    proxy.cut();
    assert_eq!(within(call).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    let next = one.call_at(2, &proxy.address, Lane::Propose, "").await.unwrap_err();
    assert_eq!(next.kind(), ErrorKind::NotConnected);
    assert_eq!(seen.load(SeqCst), 1);
}

#[tokio::test]
async fn what_a_handler_has_begun_goes_on_without_its_caller() {
    let (one, two) = (node(1).await, node(2).await);
    let (gate, done) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler: PeerHandler = {
        let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
        Arc::new(move |_, _| {
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            async move {
                drop(gate.acquire().await);
                done.add_permits(1);
                Ok(Bytes::new())
            }
            .boxed()
        })
    };
    two.transport.serve(Lane::Propose, handler);
    let call = one.transport.call(2, &two.address, Lane::Propose, Bytes::new());
    until("it has come", || two.traffic().frames_received > 0).await;
    one.transport.stop().await;
    assert!(within(call).await.is_err());
    until("the connection has ended", || two.peer(1).unwrap().connections == 0).await;
    gate.add_permits(1);
    within(done.acquire()).await.unwrap().forget();
}

#[tokio::test]
async fn stopping_ends_every_task_and_every_call() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let (one, two) = (node(1).await, node(2).await);
    let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default());
    two.transport.serve(Lane::Fetch, gated(&gate, &seen));
    for lane in [Lane::Urgent, Lane::Append] {
        one.call(&two, lane, "").await.unwrap();
        two.call(&one, lane, "").await.unwrap();
    }
    let waiting = one.transport.call(2, &two.address, Lane::Fetch, Bytes::new());
    let own = two.transport.call(2, "", Lane::Fetch, Bytes::new());
    until("both have come", || seen.load(SeqCst) == 2).await;
    within(two.transport.stop()).await;
    assert!(within(waiting).await.is_err());
    assert!(within(own).await.is_err());
    within(one.transport.stop()).await;
    assert_eq!(metrics.num_alive_tasks(), before);
    let late = one.transport.call(2, &two.address, Lane::Urgent, Bytes::new()).now_or_never();
    assert_eq!(late.unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(tokio::net::TcpStream::connect(&two.address).await.is_err(), "the port is free");
    within(one.transport.stop()).await;
}
