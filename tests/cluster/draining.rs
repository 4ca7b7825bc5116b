//! A member that is stopped while clients have connections open to it: nobody is left in doubt.

use std::{
    io::{self, Read},
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{
    client::{Answer, Client},
    process::{Node, ask, connect},
    trio::Trio,
    wait::{PATIENCE, wait_until},
};

/// Clients that write one request behind the other on a connection that they keep.
const WRITERS: usize = 8;

/// Whether the server has said the end on a connection that waits for no answer.
fn has_ended(client: &Client) -> bool {
    let stream = client.stream.get_ref();
    stream.set_nonblocking(true).unwrap();
    let ended = match stream.peek(&mut [0]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).unwrap();
    ended
}

fn says_close(answer: &Answer) -> bool {
    answer.header("connection") == Some("close")
}

/// Writes until the node has said that it takes no more; the keys, each of which was answered.
fn write_until_told_to_stop(name: &str, node: &Node, written: &AtomicUsize) -> Vec<String> {
    let mut client = connect(node.spec.http, PATIENCE).unwrap();
    let mut keys = Vec::new();
    for n in 0.. {
        if has_ended(&client) {
            break;
        }
        let key = format!("{name}-{n}");
        let answer = ask(&mut client, "PUT", &format!("/{key}"), &[], key.as_bytes());
        let answer = answer.unwrap_or_else(|error| panic!("{key}: the outcome is unknown: {error}")).is(201);
        keys.push(key);
        written.fetch_add(1, Ordering::Relaxed);
        if says_close(&answer) {
            break;
        }
    }
    keys
}

#[test]
fn requests_that_have_begun_are_answered_and_no_write_is_left_in_doubt() {
    for stops_leader in [true, false] {
        let trio = Trio::start(&[]);
        let place = if stops_leader { trio.leader() } else { trio.followers()[0] };
        let node = &trio.nodes[place];
        let open = || connect(node.spec.http, PATIENCE).unwrap();
        let (mut idle, mut in_head, mut in_body) = (open(), open(), open());
        ask(&mut idle, "GET", "/livez", &[], b"").unwrap().is(200);
        let mut silent = open();
        // A connection that was used before is closed most easily.
        ask(&mut in_head, "PUT", "/before", &[], b"value").unwrap().is(201);
        in_head.send(b"PUT /in-head HTTP/1.1\r\nHost: te").unwrap();
        in_body.send(b"PUT /in-body HTTP/1.1\r\nHost: test\r\nContent-Length: 7\r\n\r\nin-").unwrap();

        let written = AtomicUsize::new(0);
        let keys: Vec<String> = thread::scope(|threads| {
            let written = &written;
            let writers = (0..WRITERS).map(|n| {
                threads.spawn(move || write_until_told_to_stop(&format!("writer-{n}"), node, written))
            });
            let writers: Vec<_> = writers.collect();
            wait_until("the writers write", || written.load(Ordering::Relaxed) > 50 * WRITERS);
            node.terminate();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        assert!(keys.len() > 50 * WRITERS);
        // Closed in good order, not reset, though nothing else ends the node.
        for client in [&mut idle, &mut silent] {
            assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
        }
        let refused = TcpStream::connect(node.spec.http).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "nobody else is taken in");
        in_head.send(b"st\r\nContent-Length: 7\r\n\r\nin-head").unwrap();
        in_body.send(b"body").unwrap();
        for client in [&mut in_head, &mut in_body] {
            let answer = client.answer(false).unwrap().is(201);
            assert!(says_close(&answer), "{answer:?}");
        }
        assert_eq!(trio.nodes[place].wait_ended(), Some(0));

        let other = &trio.nodes[(place + 1) % 3];
        for key in keys.iter().map(String::as_str).chain(["in-head", "in-body"]) {
            assert_eq!(other.get(&format!("/{key}")).is(200).body, key.as_bytes());
        }
    }
}
