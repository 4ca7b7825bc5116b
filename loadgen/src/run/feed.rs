//! Decides what is sent next, for the connections of one thread: limits, pace, keys and numbers.
//!
//! It does not send and does not wait; a connection that got nothing leaves a waker, and the thread's pacer
//! calls it when something is due.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc::error::TryRecvError};

use super::{
    Limit, Workload,
    pacing::{Due, Schedule},
    shared::{Phase, Piece, Shared},
};
use crate::workload::{random::Random, requests::Condition};

/// How long to wait for a file that is read more slowly than it is sent.
const FILE_PAUSE: Duration = Duration::from_millis(1);

/// What a request does.
#[derive(Clone, Debug)]
pub enum Work {
    Read {
        key: u64,
    },
    /// A read that a conditional write needs, to know what it may replace.
    Learn {
        key: u64,
    },
    Put {
        write: u64,
        key: u64,
        condition: Condition,
    },
    Bulk {
        first: u64,
        count: u64,
    },
    Piece(Piece),
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Turn {
    pub work: Work,
    /// In an open loop, when it should be sent.
    pub due: Option<Instant>,
}

/// What a connection may do.
pub enum Next {
    Turn(Turn),
    /// Nothing yet.
    Later,
    /// Nothing any more.
    Over,
}

/// A connection's place in the line of those who wait for something to send.
#[derive(Default)]
pub struct Place {
    in_line: Cell<bool>,
    called: Cell<bool>,
}

impl Place {
    /// Whether the connection has been called since it was last asked.
    pub fn called(&self) -> bool {
        self.called.take()
    }
}

pub struct Feed {
    shared: Arc<Shared>,
    inner: RefCell<Inner>,
    /// A connection has begun to wait.
    pub waits: Notify,
}

struct Inner {
    send_until: Option<Instant>,
    schedule: Option<Schedule>,
    /// Some have left the line without being called.
    line: VecDeque<(Rc<Place>, Waker)>,
    /// Those who have not.
    waiting: usize,
    /// The file's reader is behind.
    starved: bool,
    over: bool,
}

impl Feed {
    pub fn new(shared: Arc<Shared>) -> Self {
        let line = VecDeque::new();
        let inner = Inner { send_until: None, schedule: None, line, waiting: 0, starved: false, over: false };
        Self { shared, inner: RefCell::new(inner), waits: Notify::new() }
    }

    /// The clock has started.
    pub fn start(&self, send_until: Option<Instant>, schedule: Option<Schedule>) {
        let mut inner = self.inner.borrow_mut();
        inner.send_until = send_until;
        inner.schedule = schedule;
    }

    /// What to send next.
    pub fn next(&self, now: Instant, rng: &mut Random) -> Next {
        let inner = &mut *self.inner.borrow_mut();
        if inner.over || self.shared.phase() != Phase::Going {
            inner.over = true;
            return Next::Over;
        }
        let next = self.decide(inner, now, rng);
        if matches!(next, Next::Over) {
            // Those who wait have to hear it.
            inner.over = true;
            while inner.call_one() {}
        }
        next
    }

    fn decide(&self, inner: &mut Inner, now: Instant, rng: &mut Random) -> Next {
        let plan = &self.shared.plan;
        if inner.is_too_late(now) {
            return Next::Over;
        }
        let due = match inner.schedule.as_ref().map(|schedule| schedule.look(now)) {
            None => None,
            Some(Due::At(due)) => Some(due),
            Some(Due::NotBefore(_)) => return Next::Later,
            Some(Due::Over) => return Next::Over,
        };
        let wanted = if let Workload::Bulk { records, .. } = plan.workload { records } else { 1 };
        let records = self.shared.take_budget(wanted, due.unwrap_or(now));
        if records == 0 {
            return Next::Over;
        }
        let single = |condition: fn(Option<u64>) -> Condition| {
            let write = self.shared.take_writes(1);
            let key = plan.records.keys.of_write(write);
            Work::Put { write, key, condition: condition(self.shared.seen(key)) }
        };
        let read =
            |rng: &mut Random| Work::Read { key: plan.records.keys.of_read(self.shared.take_read(), rng) };
        let work = match plan.workload {
            Workload::Get => read(rng),
            Workload::Mixed { read_ratio } if rng.unit() < read_ratio => read(rng),
            Workload::Put | Workload::Mixed { .. } => {
                let write = self.shared.take_writes(1);
                Work::Put { write, key: plan.records.keys.of_write(write), condition: Condition::None }
            }
            Workload::Cas { create_only: true } => single(|_| Condition::Absent),
            Workload::Cas { create_only: false } => {
                single(|seen| seen.map_or(Condition::Absent, Condition::At))
            }
            Workload::Bulk { .. } => Work::Bulk { first: self.shared.take_writes(records), count: records },
            Workload::File { .. } => match self.shared.take_piece() {
                Ok(piece) => Work::Piece(piece),
                Err(TryRecvError::Empty) => {
                    inner.starved = true;
                    return Next::Later;
                }
                Err(TryRecvError::Disconnected) => return Next::Over,
            },
        };
        if let Some(schedule) = &mut inner.schedule {
            schedule.advance();
        }
        Next::Turn(Turn { work, due })
    }

    /// Whether nothing will be sent any more: a connection that cannot be made need not be tried again.
    pub fn is_over(&self, now: Instant) -> bool {
        let inner = self.inner.borrow();
        inner.over || inner.is_too_late(now) || self.shared.phase() != Phase::Going || self.shared.is_spent()
    }

    /// A connection that got nothing wants to be called.
    pub fn wait(&self, place: &Rc<Place>, waker: &Waker) {
        if !place.in_line.replace(true) {
            let mut inner = self.inner.borrow_mut();
            inner.line.push_back((Rc::clone(place), waker.clone()));
            inner.waiting += 1;
            if inner.waiting == 1 {
                self.waits.notify_one();
            }
        }
    }

    /// It does not any more.
    pub fn leave(&self, place: &Place) {
        if place.in_line.replace(false) {
            self.inner.borrow_mut().waiting -= 1;
        }
    }

    /// Calls as many waiting connections as there are requests due, and says when to do so again.
    pub fn call(&self, now: Instant) -> Call {
        let inner = &mut *self.inner.borrow_mut();
        if inner.over || self.shared.phase() != Phase::Going {
            while inner.call_one() {}
            return Call::Over;
        }
        if std::mem::take(&mut inner.starved) {
            while inner.call_one() {}
            return Call::At(now + FILE_PAUSE);
        }
        let Some(mut ahead) = inner.schedule.clone() else {
            while inner.call_one() {}
            return Call::WhenSomeoneWaits;
        };
        while inner.waiting > 0 {
            match ahead.take(now) {
                Due::At(_) => _ = inner.call_one(),
                Due::NotBefore(next) => return Call::At(next),
                // Everyone has to hear that it is over.
                Due::Over => while inner.call_one() {},
            }
        }
        Call::WhenSomeoneWaits
    }

    /// What was due and has never been sent, unless the run was ended before its time.
    pub fn missed(&self, now: Instant) -> u64 {
        let inner = self.inner.borrow();
        if self.shared.phase() != Phase::Going && !inner.is_too_late(now) {
            return 0;
        }
        match (&inner.schedule, self.shared.plan.limit) {
            (Some(schedule), Limit::Time(_)) => schedule.clone().missed(now),
            _ => 0,
        }
    }
}

impl Inner {
    fn is_too_late(&self, now: Instant) -> bool {
        self.send_until.is_some_and(|until| now >= until)
    }

    /// Calls whoever waits longest. Gives whether there was anyone.
    fn call_one(&mut self) -> bool {
        while let Some((place, waker)) = self.line.pop_front() {
            if place.in_line.replace(false) {
                self.waiting -= 1;
                place.called.set(true);
                waker.wake();
                return true;
            }
        }
        false
    }
}

/// When the pacer has to look again.
pub enum Call {
    At(Instant),
    WhenSomeoneWaits,
    Over,
}
