//! One HTTP/1.1 connection, with one request in flight or, pipelined, several.
//!
//! A task of its own: it takes turns from the feed while there is room, writes what it has with as few system
//! calls as it can, and hands answers in at the desk. When the connection breaks, what was in flight is
//! handed in as lost and a new connection is made.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::TcpStream,
};

use super::{
    desk::{Asked, BACKOFF, Desk, Flight},
    feed::{Next, Place, Turn, Work},
};
use crate::{
    http::{Broken, Target, Unread},
    workload::{random::Random, requests},
};

/// Requests are gathered into one write up to this many bytes.
const GATHER_BYTES: usize = 64 << 10;
/// A buffer that held a larger request than this is given back.
const KEEP_BYTES: usize = 4 << 20;

/// What the thread's watch sees of a lane. One watch for all costs less than a timer for each request.
#[derive(Default)]
pub struct Watched {
    oldest: Cell<Option<Instant>>,
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Watched {
    /// Ends the connection if its oldest request is from before `limit`.
    pub fn expire_before(&self, limit: Instant) {
        if self.oldest.get().is_some_and(|oldest| oldest < limit) {
            self.expired.set(true);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    fn remember(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }
}

/// Which server a connection goes to: always the same, or whichever leads.
#[derive(Clone, Debug)]
pub struct Way {
    fixed: Target,
    generation: u64,
}

impl Way {
    pub fn new(fixed: Target) -> Self {
        Self { fixed, generation: 0 }
    }

    /// The target to connect to now.
    pub fn target(&mut self, desk: &Desk) -> Target {
        match &desk.shared.leader {
            None => self.fixed.clone(),
            Some(leader) => {
                let (target, generation) = leader.get();
                self.generation = generation;
                target
            }
        }
    }

    /// Whether the leader is another one since then.
    pub fn moved(&self, desk: &Desk) -> bool {
        desk.shared.leader.as_ref().is_some_and(|leader| leader.generation() != self.generation)
    }
}

/// A connection.
pub struct Wire {
    stream: TcpStream,
    authority: String,
}

/// Connects, within a bounded time.
async fn open(target: &Target, time: Duration) -> io::Result<Wire> {
    let stream = tokio::time::timeout(time, target.open())
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Wire { stream, authority: target.authority.clone() })
}

struct Sent {
    flight: Flight,
    /// Where it begins, counted in bytes of the connection.
    at: u64,
    since_sent: Instant,
}

pub struct Lane {
    desk: Rc<Desk>,
    way: Way,
    depth: usize,
    rng: Random,
    watched: Rc<Watched>,
    sent: VecDeque<Sent>,
    /// Requests that are built and not wholly written: `out[out_at..]`.
    out: Vec<u8>,
    out_at: usize,
    written: u64,
    write_error: Option<io::Error>,
    unread: Unread,
    closing: bool,
    learn: VecDeque<u64>,
    resume_at: Option<Instant>,
    place: Rc<Place>,
    waiting: bool,
    /// It waited and was called: how late it sends is nobody's fault but ours.
    was_called: bool,
    over: bool,
}

impl Lane {
    pub fn new(desk: Rc<Desk>, way: Way, depth: usize, rng: Random) -> Self {
        Self {
            desk,
            way,
            depth,
            rng,
            watched: Rc::default(),
            sent: VecDeque::with_capacity(depth),
            out: Vec::new(),
            out_at: 0,
            written: 0,
            write_error: None,
            unread: Unread::new(),
            closing: false,
            learn: VecDeque::new(),
            resume_at: None,
            place: Rc::default(),
            waiting: false,
            was_called: false,
            over: false,
        }
    }

    pub fn watched(&self) -> Rc<Watched> {
        Rc::clone(&self.watched)
    }

    /// Makes a first connection, so that the run does not begin with that.
    pub async fn connect(&mut self) -> Option<Wire> {
        let target = self.way.target(&self.desk);
        match open(&target, self.desk.shared.plan.connect_time()).await {
            Ok(wire) => Some(wire),
            Err(error) => {
                self.desk.unreachable(&error);
                None
            }
        }
    }

    /// Sends and receives until the run is over.
    pub async fn run(mut self, mut wire: Option<Wire>) {
        while !self.over {
            let Some(mut live) = wire.take() else {
                if self.desk.feed.is_over(Instant::now()) {
                    return;
                }
                wire = self.connect().await;
                if wire.is_none() {
                    tokio::time::sleep(BACKOFF).await;
                }
                continue;
            };
            let broken = self.talk(&mut live).await;
            self.hang_up(broken.as_ref());
            if let Some(resume_at) = self.resume_at.take() {
                tokio::time::sleep_until(resume_at.into()).await;
            }
        }
    }

    /// Uses one connection until it ends or the run does. Gives why it ended, if not as agreed.
    async fn talk(&mut self, wire: &mut Wire) -> Option<Broken> {
        loop {
            if let Some(resume_at) = self.resume_at
                && self.sent.is_empty()
            {
                self.resume_at = None;
                tokio::time::sleep_until(resume_at.into()).await;
            }
            if self.resume_at.is_none() && self.write_error.is_none() && !self.closing {
                self.take_turns(&wire.authority);
            }
            if self.closing || self.sent.is_empty() && (self.over || self.way.moved(&self.desk)) {
                return None;
            }
            if let Err(broken) = poll_fn(|cx| self.poll(wire, cx)).await {
                return Some(broken);
            }
        }
    }

    /// Fills the room there is.
    fn take_turns(&mut self, authority: &str) {
        if self.out_at == self.out.len() {
            if self.out.capacity() > KEEP_BYTES {
                self.out = Vec::new();
            }
            self.out.clear();
            self.out_at = 0;
        }
        self.desk.feed.leave(&self.place);
        self.waiting = false;
        let moved = self.way.moved(&self.desk);
        while self.sent.len() < self.depth && !self.over && !moved && self.out.len() < GATHER_BYTES {
            let now = Instant::now();
            let turn = match self.learn.pop_front() {
                Some(key) => Turn { work: Work::Learn { key }, due: None },
                None => match self.desk.feed.next(now, &mut self.rng) {
                    Next::Turn(turn) => turn,
                    Next::Later => {
                        self.waiting = true;
                        break;
                    }
                    Next::Over => {
                        self.over = true;
                        break;
                    }
                },
            };
            self.build(&turn, authority);
        }
    }

    fn build(&mut self, turn: &Turn, authority: &str) {
        let plan = &self.desk.shared.plan;
        let from = self.out.len();
        match &turn.work {
            Work::Read { key } => {
                requests::get(&plan.records, *key, &plan.read_query, authority, &mut self.out);
            }
            Work::Learn { key } => requests::get(&plan.records, *key, "", authority, &mut self.out),
            Work::Put { write, condition, .. } => {
                requests::put(&plan.records, *write, *condition, authority, &mut self.out);
            }
            Work::Bulk { first, count } => {
                let format = plan.workload.format();
                let bytes = requests::batch_bytes(&plan.records, format, *first, *count);
                requests::batch_head(format, bytes, authority, &mut self.out);
                self.out.reserve(bytes);
                requests::batch(&plan.records, format, *first, *count, &mut self.out);
            }
            Work::Piece(piece) => {
                let bytes = &piece.chunk.bytes;
                requests::batch_head(plan.workload.format(), bytes.len(), authority, &mut self.out);
                self.out.extend_from_slice(bytes);
            }
        }
        let since_sent = Instant::now();
        if let (Some(due), true) = (turn.due, std::mem::take(&mut self.was_called)) {
            self.desk.late(due, since_sent);
        }
        let flight = Flight {
            asked: Asked::of(&turn.work),
            since: turn.due.unwrap_or(since_sent),
            bytes: (self.out.len() - from) as u64,
        };
        let at = self.written + (from - self.out_at) as u64;
        self.sent.push_back(Sent { flight, at, since_sent });
        self.watched.oldest.set(self.sent.front().map(|sent| sent.since_sent));
    }

    /// Writes and reads what can be written and read; ready when something happened.
    fn poll(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut progress = false;
        while self.out_at < self.out.len() && self.write_error.is_none() {
            match Pin::new(&mut wire.stream).poll_write(cx, &self.out[self.out_at..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(bytes)) => {
                    self.out_at += bytes;
                    self.written += bytes as u64;
                    if self.out_at == self.out.len() {
                        // There may be room for the next one.
                        progress = self.sent.len() < self.depth && !self.waiting && !self.over;
                    }
                }
                // A server that refuses a large body answers and closes while we are still writing: what it
                // has said is read first.
                Poll::Ready(Err(error)) => self.write_error = Some(error),
            }
        }
        loop {
            let read = pin!(wire.stream.read_buf(self.unread.room())).poll(cx);
            match read {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => {
                    let error = self.write_error.take();
                    let error = error.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(Err(Broken::Io(error)));
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Broken::Io(self.write_error.take().unwrap_or(error))));
                }
                Poll::Ready(Ok(_)) => {
                    progress = true;
                    if let Err(broken) = self.take_answers() {
                        return Poll::Ready(Err(broken));
                    }
                    if self.closing {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
        if self.watched.expired.take() {
            return Poll::Ready(Err(Broken::Io(io::ErrorKind::TimedOut.into())));
        }
        if progress {
            return Poll::Ready(Ok(()));
        }
        if self.place.called() {
            self.was_called = true;
            return Poll::Ready(Ok(()));
        }
        if self.waiting {
            self.desk.feed.wait(&self.place, cx.waker());
        }
        self.watched.remember(cx.waker());
        Poll::Pending
    }

    /// Hands in all answers that are whole.
    fn take_answers(&mut self) -> Result<(), Broken> {
        let done = Instant::now();
        while let Some((head, body)) = self.unread.answer()? {
            let Some(sent) = self.sent.pop_front() else {
                return Err(Broken::BadAnswer("an answer that nobody asked for"));
            };
            let advice = self.desk.answered(&sent.flight, &head, body, done);
            self.unread.consume();
            self.learn.extend(advice.learn);
            // In an open loop requests come when they come.
            if let (Some(pause), None) = (advice.pause, self.desk.shared.plan.pace) {
                self.resume_at = Some(done + pause);
            }
            if head.close {
                self.closing = true;
                break;
            }
        }
        self.watched.oldest.set(self.sent.front().map(|sent| sent.since_sent));
        Ok(())
    }

    /// The connection is of no more use: hands in what was in flight as lost, and forgets it.
    fn hang_up(&mut self, broken: Option<&Broken>) {
        let closed = "connection: closed before an answer".to_owned();
        let kind = broken.map_or(closed, Broken::kind);
        for sent in self.sent.drain(..) {
            // Of a request that was sent in part, the server lacks the end, and cannot have acted on it; but
            // a byte that was given to the kernel is a byte that we stop vouching for.
            let never_begun = sent.at >= self.written;
            let advice = self.desk.lost(&sent.flight, kind.clone(), never_begun);
            self.learn.extend(advice.learn);
            self.resume_at = advice.pause.map(|pause| Instant::now() + pause);
        }
        self.desk.feed.leave(&self.place);
        self.watched.oldest.set(None);
        self.watched.expired.set(false);
        self.out.clear();
        self.out_at = 0;
        self.written = 0;
        self.write_error = None;
        self.unread = Unread::new();
        self.closing = false;
    }
}

impl Drop for Lane {
    /// A run that is given up does not wait: what is in flight then has an outcome that nobody knows.
    fn drop(&mut self) {
        for sent in self.sent.drain(..) {
            self.desk.lost(&sent.flight, "no answer before the end".to_owned(), sent.at >= self.written);
        }
    }
}
