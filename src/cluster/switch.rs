//! The switch from the old log to segments that were fetched: a marker before, a restart after.
//!
//! ```text
//! data_dir/catching-up    "scribe catching up 1\n", then term and index of the boundary and BLAKE3 of the lines
//!                         before (hex), a line each
//!
//! fetched:  marker durable ─► segment named ─► … ─► the node stops
//! start:    segments open ─► log goes on behind the newest ─► consensus runs ─► marker removed
//! ```
//!
//! A log that ends before the newest segment has lost entries that this member has acknowledged, and the node does
//! not start; but for the marker, which says that the segments up to its boundary came from another member, who had
//! them from a quorum. Whatever step a crash undoes, the next start does again. It does not own the segments.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::{
    env::{Io, OpenMode},
    error::{Error, Result},
    segment::remove,
    types::{LogId, LogIndex},
    wal::Wal,
};

const FILE: &str = "catching-up";

const HEADER: &str = "scribe catching up 1\n";

/// Most bytes that are read of the file.
const FILE_BYTES_MAX: u64 = 1 << 10;

/// The switch of a data directory.
#[derive(Clone, Debug)]
pub struct Switch {
    io: Arc<dyn Io>,
    data_dir: PathBuf,
}

impl Switch {
    /// The switch of this data directory.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, data_dir: &Path) -> Self {
        Self { io, data_dir: data_dir.to_path_buf() }
    }

    /// Says, durably, that segments up to this boundary are about to be put in place.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io), [`Code::DiskFull`](crate::error::Code::DiskFull): none may be put in
    /// place then.
    pub fn announce(&self, boundary: LogId) -> Result<()> {
        let (path, draft) = (self.data_dir.join(FILE), self.data_dir.join("catching-up.tmp"));
        // What an earlier process left of it may look clean and not be on disk.
        remove(&*self.io, &draft)?;
        let write = || {
            let file = self.io.open(&draft, OpenMode::Buffered)?;
            self.io.sync_dir(&self.data_dir)?;
            file.write_at(&encode(boundary), 0)?;
            file.sync()?;
            self.io.rename(&draft, &path)?;
            self.io.sync_dir(&self.data_dir)
        };
        write().map_err(|e| Error::io(format!("writing {}", path.display()), &e))
    }

    /// Whether the newest segment came from another member, so that the log need not reach it.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io).
    pub fn has_announced(&self, newest: Option<LogId>) -> Result<bool> {
        let announced = self.announced()?;
        // Segments beyond the announced ones were sealed here, from a log that should still be there.
        Ok(announced.zip(newest).is_some_and(|(announced, newest)| newest.index <= announced.index))
    }

    /// At a start: lets the log go on behind the newest segment, if that was fetched and the log does not reach it.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io); a log that takes no changes.
    pub async fn finish(&self, wal: &Wal, segments_dir: &Path, newest: Option<LogId>) -> Result<()> {
        if !self.has_announced(newest)? {
            return Ok(());
        }
        let Some(newest) = newest.filter(|newest| !wal.has_reached(*newest)) else { return Ok(()) };
        tracing::info!(entry = newest.index.0, "the log goes on behind the segments that were fetched");
        let failed = |e| Error::io("setting the write-ahead log to go on behind fetched segments", &e);
        // They take the log's place: from now on their names have to last.
        self.io.sync_dir(segments_dir).map_err(failed)?;
        let (done, durable) = oneshot::channel();
        wal.restart_behind(newest, Box::new(move |result| drop(done.send(result)))).map_err(failed)?;
        durable
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the log's writer is gone")))
            .map_err(failed)
    }

    /// Ends it: the log is what it is without the marker.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io).
    pub fn end(&self) -> Result<()> {
        let path = self.data_dir.join(FILE);
        let names = self.io.list(&self.data_dir);
        let is_there = names.map(|names| names.iter().any(|name| name == FILE));
        if !is_there.map_err(|e| Error::io(format!("looking for {}", path.display()), &e))? {
            return Ok(());
        }
        remove(&*self.io, &path)?;
        self.io.sync_dir(&self.data_dir).map_err(|e| Error::io(format!("removing {}", path.display()), &e))
    }

    fn announced(&self) -> Result<Option<LogId>> {
        let path = self.data_dir.join(FILE);
        let reading = |e| Error::io(format!("reading {}", path.display()), &e);
        if !self.io.list(&self.data_dir).map_err(reading)?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let file = self.io.open(&path, OpenMode::Read).map_err(reading)?;
        let mut bytes = vec![0; file.len().map_err(reading)?.min(FILE_BYTES_MAX) as usize];
        file.read_at(&mut bytes, 0).map_err(reading)?;
        let announced = decode(&bytes);
        if announced.is_none() {
            tracing::warn!(path = %path.display(), "the file is damaged: it is taken for none");
        }
        Ok(announced)
    }
}

fn encode(boundary: LogId) -> Vec<u8> {
    let text = format!("{HEADER}{}\n{}\n", boundary.term, boundary.index);
    format!("{text}{}\n", blake3::hash(text.as_bytes()).to_hex()).into_bytes()
}

fn decode(bytes: &[u8]) -> Option<LogId> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.strip_prefix(HEADER)?.lines();
    let mut number = || lines.next()?.parse().ok();
    let boundary = LogId { term: number()?, index: LogIndex(number()?) };
    (encode(boundary) == bytes).then_some(boundary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::WalConfig,
        sim::{Failure, Fault, Op, SimIo, runtime, sim_env},
        wal::{Driver, LogEntry, WalOptions},
    };

    const DATA: &str = "/data";

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index: LogIndex(index) }
    }

    fn open(io: &SimIo) -> Result<Wal> {
        let config = WalConfig { file_bytes: 64 << 10, disk_free_bytes_min: 0, ..WalConfig::default() };
        // Names of files are drawn anew by each process.
        Wal::open(&sim_env(io, io.ops()), Path::new("/data/wal"), WalOptions::new(config, Driver::Task))
    }

    /// A log of ten entries of term 1 and a vote, closed.
    async fn log(io: &SimIo) {
        let wal = open(io).unwrap();
        let entries = (0..10).map(|index| LogEntry { id: id(1, index), payload: "entry".into() }).collect();
        wal.append(entries, Box::new(drop)).unwrap();
        wal.save_vote("vote".into(), Box::new(drop)).unwrap();
        wal.close().unwrap();
    }

    async fn start(io: &SimIo, newest: LogId) -> Result<Wal> {
        let switch = Switch::new(Arc::new(io.clone()), Path::new(DATA));
        let wal = open(io)?;
        switch.finish(&wal, Path::new("/data/segments"), Some(newest)).await?;
        switch.end()?;
        Ok(wal)
    }

    #[test]
    fn a_marker_reads_back_and_any_flip_is_damage() {
        let bytes = encode(id(3, 70));
        assert_eq!(decode(&bytes), Some(id(3, 70)));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(&flipped), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None);
        }
    }

    #[test]
    fn only_an_announced_boundary_that_is_not_reached_moves_the_log() {
        // What was announced, the newest segment, and where the log begins and ends then.
        let cases = [
            (None, id(2, 20), 0, id(1, 9)),
            (Some(id(2, 20)), id(2, 20), 21, id(2, 20)),
            (Some(id(2, 30)), id(2, 20), 21, id(2, 20)),
            (Some(id(2, 10)), id(2, 20), 0, id(1, 9)),
            (Some(id(1, 5)), id(1, 5), 0, id(1, 9)),
            (Some(id(2, 5)), id(2, 5), 6, id(2, 5)),
        ];
        for (announced, newest, first, last) in cases {
            runtime(1).block_on(async {
                let io = SimIo::new(1);
                log(&io).await;
                let switch = Switch::new(Arc::new(io.clone()), Path::new(DATA));
                announced.iter().for_each(|announced| switch.announce(*announced).unwrap());
                let state = start(&io, newest).await.unwrap().state();
                assert_eq!((state.first.0, state.last), (first, Some(last)), "{announced:?} {newest:?}");
                assert_eq!(state.vote.as_deref(), Some(&b"vote"[..]));
                assert_eq!(switch.announced().unwrap(), None);
            });
        }
    }

    #[test]
    fn whatever_breaks_off_the_next_start_finishes_it() {
        for nth in 0..60 {
            for failure in [Failure::NotDone, Failure::Done, Failure::Crash] {
                let io = SimIo::new(nth);
                runtime(nth).block_on(log(&io));
                Switch::new(Arc::new(io.clone()), Path::new(DATA)).announce(id(2, 5)).unwrap();
                io.arm(Fault { op: Op::Any, nth, failure });
                // The first start may fail, at any step, and the second one must not.
                let _ = runtime(nth).block_on(start(&io, id(2, 5)));
                io.disarm();
                io.crash();
                io.restart();
                runtime(nth).block_on(async {
                    let state = start(&io, id(2, 5)).await.unwrap().state();
                    assert_eq!((state.first.0, state.last), (6, Some(id(2, 5))), "{failure:?} at {nth}");
                    assert_eq!(state.vote.as_deref(), Some(&b"vote"[..]));
                });
            }
        }
    }
}
