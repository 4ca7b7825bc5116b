//! What the handles of a log share with its writer: the map, what waits, and why it stopped.
//!
//! It does not own the queue itself, nor any decision: those who share it lock it for moments.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    time::Duration,
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{change::Work, index::LogMap, metrics::Counters, read::FileTable};
use crate::error::{Code, Error, Result};

/// What handles, writer and driver share.
pub(super) struct Shared {
    pub(super) log: Mutex<Log>,
    pub(super) files: FileTable,
    pub(super) counters: Counters,
    pub(super) sync_us: Mutex<Histogram<u64>>,
    /// Whether there was no room for the next file.
    pub(super) full: watch::Sender<bool>,
    /// Why nothing is written any more. Set under the lock of `log`, and never taken back.
    pub(super) poison: watch::Sender<Option<String>>,
}

/// The map, and what has changed it but is not written yet.
pub(super) struct Log {
    pub(super) map: LogMap,
    /// When each change that waits was queued.
    pub(super) queued: VecDeque<Instant>,
    pub(super) queued_bytes: u64,
    pub(super) closed: bool,
}

impl Shared {
    /// For a log of this map, whose older entries are in these files.
    pub(super) fn new(map: LogMap, files: FileTable) -> Result<Self> {
        // One microsecond to a minute, at two digits: 20 KiB.
        let sync_us = Histogram::new_with_max(60_000_000, 2);
        Ok(Self {
            log: Mutex::new(Log { map, queued: VecDeque::new(), queued_bytes: 0, closed: false }),
            files,
            counters: Counters::default(),
            sync_us: Mutex::new(sync_us.map_err(|e| Error::new(Code::Internal, e.to_string()))?),
            full: watch::Sender::new(false),
            poison: watch::Sender::new(None),
        })
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poison.borrow().is_some()
    }

    pub(super) fn poison(&self) -> Option<String> {
        self.poison.borrow().clone()
    }

    /// Refuses all later changes; the first reason stays.
    pub(super) fn poison_with(&self, why: &str) {
        // Whoever is queueing a change is before this, and answered by the writer, or after it and refused.
        let _log = self.log.lock();
        self.poison.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert_with(|| why.to_owned());
            first
        });
    }

    pub(super) fn check_open(&self, log: &Log) -> io::Result<()> {
        match &*self.poison.borrow() {
            Some(why) => Err(io::Error::other(why.clone())),
            None if log.closed => Err(io::Error::new(ErrorKind::BrokenPipe, "the log is closed")),
            None => Ok(()),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.log.lock().closed
    }

    pub(super) fn is_full(&self) -> bool {
        *self.full.borrow()
    }

    pub(super) fn set_full(&self, full: bool) {
        self.full.send_if_modified(|was| std::mem::replace(was, full) != full);
    }

    pub(super) fn unqueue(&self, work: &Work) {
        self.log.lock().unqueue(work);
    }

    pub(super) fn group_written(&self, took: Duration, group: &VecDeque<Work>) {
        let mut log = self.log.lock();
        group.iter().for_each(|work| log.unqueue(work));
        drop(log);
        self.sync_us.lock().saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

impl Log {
    pub(super) fn note_queued(&mut self, bytes: u64) {
        self.queued.push_back(Instant::now());
        self.queued_bytes += bytes;
    }

    fn unqueue(&mut self, work: &Work) {
        self.queued_bytes = self.queued_bytes.saturating_sub(work.change.bytes());
        if work.done.is_some() {
            self.queued.pop_front();
        }
    }
}
