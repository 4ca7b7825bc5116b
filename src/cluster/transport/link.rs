//! The calls of one connection: what waits to be sent, and what waits for a reply.
//!
//! Takes requests, gives each a number and its caller a receiver, and takes the replies as they come, in any order. When
//! the connection ends it knows of every call whether the peer can have seen it. It does not own the socket.

use std::io;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    frame::{Frame, Kind, decode_error, malformed},
    outbox::Outbox,
};

type Reply = io::Result<Bytes>;

/// One connection's calls, from before it is established until after it has ended.
#[derive(Debug)]
pub(super) struct Link {
    pub outbox: Outbox,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    /// The last number given; 0 is that of pings.
    last_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
    closed: bool,
}

impl Link {
    /// Without calls.
    pub fn new(queued_bytes_max: usize) -> Self {
        Self { outbox: Outbox::new(queued_bytes_max), calls: Mutex::default() }
    }

    /// Queues a request behind those before it.
    ///
    /// # Errors
    /// `WouldBlock` when too much is queued, `NotConnected` after the end.
    pub fn send(&self, payload: Bytes) -> io::Result<oneshot::Receiver<Reply>> {
        let mut calls = self.calls.lock();
        if calls.closed {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"));
        }
        let id = calls.last_id + 1;
        // Queued under the lock, so that the order of numbers is the order on the wire.
        if !self.outbox.try_push(Frame { id, kind: Kind::Request, payload }) {
            let why = "too much is waiting to be sent to it";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
        }
        let (reply, answer) = oneshot::channel();
        calls.last_id = id;
        calls.waiting.insert(id, reply);
        Ok(answer)
    }

    /// Gives a frame from the peer to whom it is for.
    ///
    /// # Errors
    /// `InvalidData` for what no peer sends.
    pub fn receive(&self, frame: Frame) -> io::Result<()> {
        let result = match frame.kind {
            Kind::Ping => return Ok(()),
            Kind::Reply => Ok(frame.payload),
            Kind::Error => Err(decode_error(&frame.payload)),
            Kind::Request => return Err(malformed("a request where only replies go")),
        };
        let Some(reply) = self.calls.lock().waiting.remove(&frame.id) else {
            return Err(malformed(format!("a reply to request {}, which does not wait", frame.id)));
        };
        // Whoever has given the reply up is not there any more.
        let _ = reply.send(result);
        Ok(())
    }

    /// Ends every call: with `NotConnected` if the peer cannot have seen it, and with `ConnectionAborted` if it may.
    pub fn close(&self, why: &str) {
        let mut calls = self.calls.lock();
        calls.closed = true;
        for frame in self.outbox.take_unwritten() {
            if let Some(reply) = calls.waiting.remove(&frame.id) {
                let _ = reply.send(Err(io::Error::new(io::ErrorKind::NotConnected, why)));
            }
        }
        for (_, reply) in calls.waiting.drain() {
            let why = format!("{why}; the request may have been seen");
            let _ = reply.send(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: u64, kind: Kind, payload: &'static [u8]) -> Frame {
        Frame { id, kind, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn replies_find_their_calls_in_any_order() {
        let link = Link::new(1_000);
        let (mut a, mut b) = (link.send("a".into()).unwrap(), link.send("b".into()).unwrap());
        link.receive(Frame::PING).unwrap();
        link.receive(reply(2, Kind::Reply, b"B")).unwrap();
        link.receive(reply(1, Kind::Error, b"\x01no")).unwrap();
        assert_eq!(b.try_recv().unwrap().unwrap(), "B");
        assert_eq!(a.try_recv().unwrap().unwrap_err().kind(), io::ErrorKind::NotConnected);
        for impossible in
            [reply(2, Kind::Reply, b"B"), reply(3, Kind::Error, b""), reply(1, Kind::Request, b"")]
        {
            assert_eq!(link.receive(impossible).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        // A caller that has gone is not a peer's mistake.
        drop(link.send("c".into()).unwrap());
        link.receive(reply(3, Kind::Reply, b"C")).unwrap();
    }

    #[tokio::test]
    async fn the_end_tells_what_was_seen_from_what_was_not() {
        let link = Link::new(1_000);
        let mut sent = link.send("sent".into()).unwrap();
        let (near, mut far) = tokio::io::duplex(1_000);
        let (every, counters) = (std::time::Duration::from_secs(60), Default::default());
        let read = async {
            let mut bytes = [0; 17];
            tokio::io::AsyncReadExt::read_exact(&mut far, &mut bytes).await.map(drop)
        };
        tokio::select! {
            _ = super::super::outbox::write_frames(&link.outbox, near, every, &counters) => unreachable!(),
            result = read => result.unwrap(),
        }
        let mut unsent = link.send("unsent".into()).unwrap();
        link.close("the cable was cut");
        let kinds = [&mut sent, &mut unsent].map(|call| call.try_recv().unwrap().unwrap_err().kind());
        assert_eq!(kinds, [io::ErrorKind::ConnectionAborted, io::ErrorKind::NotConnected]);
        assert_eq!(link.send("late".into()).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }
}
