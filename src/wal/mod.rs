//! Temporary stub while the real one is being built.
#![allow(missing_docs)]
use crate::{config::WalConfig, env::Env, error::Result, types::LogIndex};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{io, ops::Range, path::Path, sync::Arc};
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    pub term: u64,
    pub index: LogIndex,
}
#[derive(Clone, Debug)]
pub struct LogEntry {
    pub id: LogId,
    pub payload: Bytes,
}
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;
#[derive(Clone, Copy, Debug)]
pub enum Driver {
    Thread,
    Task,
}
pub struct WalOptions {
    pub config: WalConfig,
    pub driver: Driver,
}
#[derive(Clone, Debug, Default)]
pub struct WalState {
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub vote: Option<Bytes>,
    pub committed: Option<LogId>,
}
#[derive(Clone, Debug)]
pub enum WalHealth {
    Ok,
    DiskFull { free_bytes: u64, min_bytes: u64 },
    Poisoned { why: String },
}
#[derive(Clone, Debug, Default)]
pub struct WalMetrics {}
#[derive(Debug, Default)]
struct Inner {
    state: WalState,
    entries: Vec<LogEntry>,
}
#[derive(Clone, Debug, Default)]
pub struct Wal(Arc<Mutex<Inner>>);
impl Wal {
    pub fn open(_: &Env, _: &Path, _: WalOptions) -> Result<Self> {
        Ok(Self::default())
    }
    pub fn state(&self) -> WalState {
        self.0.lock().state.clone()
    }
    pub fn append(&self, entries: Vec<LogEntry>, done: Completion) -> io::Result<()> {
        {
            let mut s = self.0.lock();
            s.entries.extend(entries);
            s.state.last = s.entries.last().map(|e| e.id).or(s.state.purged);
        }
        done(Ok(()));
        Ok(())
    }
    pub fn save_vote(&self, vote: Bytes, done: Completion) -> io::Result<()> {
        self.0.lock().state.vote = Some(vote);
        done(Ok(()));
        Ok(())
    }
    pub fn truncate_after(&self, last: Option<LogId>, done: Completion) -> io::Result<()> {
        {
            let mut s = self.0.lock();
            s.entries.retain(|e| Some(e.id.index) <= last.map(|l| l.index));
            s.state.last = s.entries.last().map(|e| e.id).or(s.state.purged);
        }
        done(Ok(()));
        Ok(())
    }
    pub fn purge(&self, up_to: LogId, done: Completion) -> io::Result<()> {
        {
            let mut s = self.0.lock();
            s.entries.retain(|e| e.id.index > up_to.index);
            s.state.purged = Some(up_to);
            s.state.last = s.entries.last().map(|e| e.id).or(Some(up_to));
        }
        done(Ok(()));
        Ok(())
    }
    pub fn save_committed(&self, id: LogId) -> io::Result<()> {
        self.0.lock().state.committed = Some(id);
        Ok(())
    }
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let s = self.0.lock();
        let mut bytes = 0;
        Ok(s.entries
            .iter()
            .filter(|e| range.contains(&e.id.index.0))
            .take_while(|e| {
                let go = bytes < bytes_max;
                bytes += e.payload.len();
                go
            })
            .cloned()
            .collect())
    }
    pub fn health(&self) -> WalHealth {
        WalHealth::Ok
    }
    pub fn metrics(&self) -> WalMetrics {
        WalMetrics::default()
    }
    pub fn close(&self) -> io::Result<()> {
        Ok(())
    }
}
