//! Rows in fjall's tables.
//!
//! ```text
//!  a run ─► table files, written and synced beside the others ─► one new list of tables names them ─► all visible
//!             └ L0: at most RUNS_MAX runs ─► merged in the background ─► L1 ─► L2 …
//! ```
//!
//! Takes runs, never single rows: nothing passes fjall's journal or its memtables, so there is nothing to
//! sync but the run itself, and a crash leaves either the list with the run or the one without it. It does
//! not own what a run may be; it trusts the order that it has been promised.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode, UserKey, UserValue,
    compaction::Leveled,
    config::{
        BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
        PartitioningPolicy, RestartIntervalPolicy,
    },
};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    error::{IndexError, Result},
    home::Home,
    range::KeyRange,
    row::{Newest, POSITION_KEY, Position, Row},
    rows::{CheckedRun, Rows, Scan},
    vet::{Depth, vet},
};

/// Runs that may wait to be merged. Each is one more table that a lookup may have to ask; and the list of
/// tables has a byte for their number.
const RUNS_MAX: usize = 12;

/// Runs that are merged at once. With 4, all merging of 20 million random keys in runs of a million took 0.81
/// µs a key, with 8 it took 0.59; a lookup of an absent key then took 3.4 µs rather than 2.4.
const RUNS_MERGED: u8 = 8;

/// How often a waiting run looks whether there is room.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Block size of the tables. Half and twice of it measured alike.
const BLOCK_BYTES: u32 = 4 << 10;

/// Every how many rows a block holds a whole key rather than what it does not share with the last whole one.
const RESTART_INTERVAL: u8 = 16;

/// One miss in a hundred asks a table in vain. Each bit more is an eighth of a byte a key, in cache and on
/// disk.
const FILTER_BITS_PER_KEY: f32 = 10.0;

/// Files that are kept open.
const OPEN_FILES_MAX: usize = 256;

/// Whether runs are still taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intake {
    Open,
    /// A run broke off. What it wrote so far lies beside the tables until the next start removes it.
    Broken,
    Closed,
}

/// The tables, open.
pub(super) struct OnDisk {
    home: Home,
    database: Database,
    rows: Keyspace,
    intake: Mutex<Intake>,
    closing: Condvar,
}

fn merging() -> Arc<Leveled> {
    Arc::new(Leveled::default().with_l0_threshold(RUNS_MERGED))
}

/// The layout of new tables. fjall keeps it with them: a change here is one for new indexes only.
fn layout() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .manual_journal_persist(true)
        .compaction_strategy(merging())
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .data_block_restart_interval_policy(RestartIntervalPolicy::all(RESTART_INTERVAL))
        // lz4 took 4% off tables of random keys, and 8% off the speed of scans.
        .data_block_compression_policy(CompressionPolicy::disabled())
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(
            FILTER_BITS_PER_KEY,
        ))))
        // In pieces: whole filters are of several MiB, and a small cache would read one for each lookup.
        .filter_block_partitioning_policy(PartitioningPolicy::all(true))
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
}

impl OnDisk {
    /// Opens the tables, or begins them.
    pub(super) fn open(home: Home, cache_bytes: u64) -> Result<Self> {
        home.enter()?;
        vet(home.path(), &home.tables(), Depth::Believed)?;
        let open = || {
            let database = Database::builder(home.tables())
                .cache_size(cache_bytes)
                .manual_journal_persist(true)
                .max_cached_files(Some(OPEN_FILES_MAX))
                .worker_threads(1)
                .open()?;
            let rows = database.keyspace("rows", layout)?;
            Ok((database, rows))
        };
        let (database, rows) = open().map_err(|error| IndexError::fjall(home.path(), "opening", &error))?;
        Ok(Self { home, database, rows, intake: Mutex::new(Intake::Open), closing: Condvar::new() })
    }

    /// The position of the last run.
    pub(super) fn position(&self) -> Result<Option<Position>> {
        match self.fjall("reading the position", self.rows.get(POSITION_KEY))? {
            Some(value) => {
                Position::decode(&value).map(Some).map_err(|why| IndexError::damaged(self.home.path(), why))
            }
            None if self.fjall("reading the position", self.rows.is_empty())? => Ok(None),
            None => Err(IndexError::damaged(self.home.path(), "it has rows and no position")),
        }
    }

    fn fjall<T>(&self, doing: &str, result: fjall::Result<T>) -> Result<T> {
        result.map_err(|error| IndexError::fjall(self.home.path(), doing, &error))
    }

    fn decode(&self, value: &[u8]) -> Result<Newest> {
        Newest::decode(value).ok_or_else(|| IndexError::damaged(self.home.path(), "a row has no position"))
    }

    fn check_open(&self, intake: Intake) -> Result<()> {
        match intake {
            Intake::Open => {}
            Intake::Broken => return Err(IndexError::refused(self.home.path(), "an earlier run broke off")),
            Intake::Closed => return Err(IndexError::refused(self.home.path(), "it is closed")),
        }
        // It writes nothing: the journal is empty. But it knows whether the merging has stopped.
        match self.database.persist(PersistMode::Buffer) {
            Err(fjall::Error::Poisoned) => {
                vet(self.home.path(), &self.home.tables(), Depth::Whole)?;
                Err(IndexError::refused(self.home.path(), "the merging of its tables has stopped"))
            }
            result => self.fjall("asking after the merging", result),
        }
    }

    fn write(&self, run: &mut CheckedRun<'_>, position: Position) -> Result<()> {
        let mut tables = self.fjall("beginning a run", self.rows.start_ingestion())?;
        for row in run {
            let row = row?;
            let written =
                tables.write(UserKey::from(&row.key[..]), UserValue::from(row.newest.encode().as_ref()));
            self.fjall("writing a run", written)?;
        }
        let written = tables.write(UserKey::from(&POSITION_KEY[..]), UserValue::from(&position.encode()[..]));
        self.fjall("writing a run", written)?;
        // From here on either the run and its position are there after a crash, or neither.
        self.fjall("finishing a run", tables.finish())
    }
}

impl Rows for OnDisk {
    fn wait_for_room(&self) -> Result<()> {
        let mut intake = self.intake.lock();
        loop {
            self.check_open(*intake)?;
            if self.rows.tree.l0_run_count() < RUNS_MAX {
                return Ok(());
            }
            // Merging is asked for once a run, which may not be enough to get the number down: a merge of
            // lower levels uses up a request too. It does nothing while another is at work.
            let merged = MutexGuard::unlocked(&mut intake, || self.rows.tree.compact(merging(), 0));
            self.fjall("merging", merged.map_err(fjall::Error::Storage))?;
            self.closing.wait_for(&mut intake, LOOK_EVERY);
        }
    }

    fn ingest(&self, run: &mut CheckedRun<'_>, position: Position) -> Result<()> {
        self.write(run, position).inspect_err(|_| {
            let mut intake = self.intake.lock();
            if *intake == Intake::Open {
                *intake = Intake::Broken;
            }
        })
    }

    fn newest(&self, key: &[u8]) -> Result<Option<Newest>> {
        if key.is_empty() || key.len() >= POSITION_KEY.len() {
            return Ok(None);
        }
        self.fjall("looking up a key", self.rows.get(key))?.map(|value| self.decode(&value)).transpose()
    }

    fn scan(&self, range: &KeyRange) -> Scan {
        let path = self.home.path().to_owned();
        let rows = self.rows.range::<&[u8], _>(range.bounds(&POSITION_KEY));
        Box::new(rows.map(move |row| {
            let (key, value) =
                row.into_inner().map_err(|error| IndexError::fjall(&path, "scanning", &error))?;
            let newest =
                Newest::decode(&value).ok_or_else(|| IndexError::damaged(&path, "a row has no position"))?;
            Ok(Row { key: Bytes::copy_from_slice(&key), newest })
        }))
    }

    fn len_estimate(&self) -> u64 {
        self.rows.approximate_len() as u64
    }

    fn disk_bytes(&self) -> u64 {
        self.rows.disk_space()
    }

    fn is_merging(&self) -> bool {
        self.database.active_compactions() > 0
    }

    fn close(&self) {
        *self.intake.lock() = Intake::Closed;
        self.closing.notify_all();
    }
}
