//! The index: key → position of its newest version, for everything that is sealed.
//!
//! ```text
//!  key tables of several segments                          newest(key)              scan(range)
//!      │ merge: each key once, newest wins                     │                        │
//!      ▼                                                       ▼                        │
//!  ingest: checked on its way ── takes its keys out ──► HotRows, ≤ ¼ of cache_bytes     │
//!      │                                                       │ else                   │
//!      ▼                                                       ▼                        ▼
//!  tables (fjall) │ position row, in the same step ◄── block cache, ≤ ¾ of cache_bytes ─┘
//! ```
//!
//! Takes sorted runs of rows, each covering the records from where the last one ended, and gives the newest
//! row of a key, rows in key order, and the position up to which it has come. Deleted keys stay, as
//! tombstones: the history of a key begins at its newest record, whatever that did. It knows nothing of
//! segments, and it does not own older versions, what is not sealed yet, or when a run is due.
//!
//! **It holds nothing that segments cannot give again.** So it is never repaired: when anything about it is
//! wrong, it says [`IndexError::Damaged`], and its owner calls [`Index::rebuild_from_scratch`] and feeds it
//! from the first segment on. The blocks of its files carry checksums, and what those do not cover is checked
//! at each start (`vet`), so that a flipped bit is an error and not an answer.
//!
//! **A run is there whole, with its position, or not at all**, also after a crash. What is already covered is
//! passed over ([`Ingested::AlreadyThere`]), so whoever feeds the index after a crash goes on at
//! [`Index::position`], or, not knowing better, begins earlier.
//!
//! **Reading beside it.** The rows of a run can be read before `ingest` returns and its segments' own key
//! tables are let go. A reader that notes which segments are not ingested yet *before* it asks the index will
//! find each key in at least one of the two.

use std::path::Path;

use parking_lot::{Mutex, RwLock};

use crate::{error::Error, types::Seq};

mod disk;
mod error;
mod home;
mod hot;
mod memory;
mod merge;
mod range;
mod row;
mod rows;
mod run;
mod vet;

pub use error::{IndexError, Result};
pub use merge::{Merge, merge};
pub use range::KeyRange;
pub use row::{Newest, Position, Row, SEQ_MAX};
pub use rows::Scan;

use disk::OnDisk;
use home::Home;
use hot::HotRows;
use memory::InMemory;
use rows::Rows;
use run::Checked;

/// The part of the cache that holds single rows; the rest holds blocks of tables. One row of a hot key takes
/// a thirtieth of the block it is in, but a block serves scans and neighbours too.
const HOT_PART: u64 = 4;

/// How an index is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexOptions {
    /// Memory for rows and blocks that have been read. Beside it the index takes about 15 MiB while it
    /// takes a run.
    pub cache_bytes: u64,
    /// Where cached rows lie depends on it, so that nobody can choose keys that collide; no answer does.
    pub hash_seed: u64,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingested {
    /// Its rows are in the index, on disk and to be read.
    Added,
    /// The index had come as far before; the run was not read.
    AlreadyThere,
}

/// An open index. Dropping it closes its files, once a merge on its way has stopped.
pub struct Index {
    rows: Box<dyn Rows>,
    hot: HotRows,
    position: RwLock<Option<Position>>,
    ingesting: Mutex<()>,
}

impl Index {
    /// Opens the index in a directory, beginning one if there is nothing.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] or [`IndexError::Refused`].
    pub fn open(path: &Path, options: IndexOptions) -> Result<Self> {
        let rows = OnDisk::open(Home::new(path), options.cache_bytes - options.cache_bytes / HOT_PART)?;
        let position = rows.position()?;
        Ok(Self::of(Box::new(rows), position, options))
    }

    /// An index in memory, empty, for simulations.
    #[must_use]
    pub fn in_memory(options: IndexOptions) -> Self {
        Self::of(Box::new(InMemory::default()), None, options)
    }

    fn of(rows: Box<dyn Rows>, position: Option<Position>, options: IndexOptions) -> Self {
        let hot = HotRows::new(options.cache_bytes / HOT_PART, options.hash_seed);
        Self { rows, hot, position: RwLock::new(position), ingesting: Mutex::new(()) }
    }

    /// Throws away what is in a directory, damaged or not, and begins an empty index there. Only what an
    /// index has put there is removed.
    ///
    /// # Errors
    /// [`IndexError::Refused`] when it is open elsewhere, or never was an index.
    pub fn rebuild_from_scratch(path: &Path, options: IndexOptions) -> Result<Self> {
        Home::new(path).give_up()?;
        Self::open(path, options)
    }

    /// Reads every byte of an index that is not open and checks it: a second for each GB or so.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] with the file, or [`IndexError::Refused`] when it is open.
    pub fn verify(path: &Path) -> Result<()> {
        let home = Home::new(path);
        home.check_not_in_use()?;
        vet::vet(path, &home.tables(), vet::Depth::Whole)
    }

    /// Adds the newest rows of the records from `from` to before `to.end_seq`: sorted by key, each key once,
    /// with the segment that the last of them is in. One at a time; others wait. It may wait for earlier runs
    /// to be merged, and so belongs on a thread of its own. The larger the runs, the less merging: one of two
    /// million rows costs a quarter less a row than one of a million.
    ///
    /// # Errors
    /// Whichever it is, nothing of the run is there. When some of it has been read, the index has to be
    /// opened again before it takes another, which also removes what this one has left.
    pub fn ingest(
        &self,
        from: Seq,
        to: Position,
        run: impl IntoIterator<Item = Result<Row, Error>>,
    ) -> Result<Ingested> {
        let _one_at_a_time = self.ingesting.lock();
        let here = self.position();
        if here.is_some_and(|here| to <= here) {
            return Ok(Ingested::AlreadyThere);
        }
        let end_seq = here.map_or(Seq(0), |here| here.end_seq);
        if from > end_seq {
            return Err(IndexError::bad_run(format!(
                "begins at {from}, and the index has come to {end_seq}"
            )));
        }
        self.rows.wait_for_room()?;
        let shut = self.hot.shut();
        let mut run = Checked::new(run.into_iter(), from..to.end_seq, |key: &[u8]| shut.take_out(key));
        self.rows.ingest(&mut run, to)?;
        // Before the gate opens: whoever looks a row up from now on finds the run's.
        *self.position.write() = Some(to);
        Ok(Ingested::Added)
    }

    /// The newest version of a key among those covered; none when there never was one.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] or [`IndexError::Refused`]; never an answer that is not the right one.
    pub fn newest(&self, key: &[u8]) -> Result<Option<Newest>> {
        self.hot.get_or(key, || self.rows.newest(key))
    }

    /// Rows in the order of their keys, as of now; runs that come meanwhile do not show. Keeps old files on
    /// disk as long as it lives. Taking no more than a page is the caller's matter: the rest is not read.
    pub fn scan(&self, range: &KeyRange) -> Scan {
        if range.is_empty() { Box::new(std::iter::empty()) } else { self.rows.scan(range) }
    }

    /// How far the index has come; nothing while it is empty. Rows may be ahead of it for a moment, never
    /// behind.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        *self.position.read()
    }

    /// About how many keys there are, tombstones included: a key counts again for each run that is not merged
    /// yet.
    #[must_use]
    pub fn len_estimate(&self) -> u64 {
        self.rows.len_estimate()
    }

    /// Bytes of the tables on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.rows.disk_bytes()
    }

    /// Whether earlier runs are being merged in the background, which takes a core and slows lookups down.
    #[must_use]
    pub fn is_merging(&self) -> bool {
        self.rows.is_merging()
    }

    /// Takes no more runs, and lets one that waits for earlier ones to be merged give up. Reading goes on.
    pub fn close(&self) {
        self.rows.close();
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("position", &self.position()).finish_non_exhaustive()
    }
}
