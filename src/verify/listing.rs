//! Which files a directory has, and what they claim to be by their names.
//!
//! Takes a data directory, or a directory that holds segments and nothing else, as a copy does. Reads names and
//! sizes only, creates nothing, and is safe beside a node that runs: segments never change, what is being written has
//! another name, and a file that goes because the archive has it leaves a stub first.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    env::{Io, OpenMode},
    error::{Code, Error, Result},
    segment::{BlockCache, Segment, file_name, is_unfinished, parse_name, parse_stub_name, stub_name},
    types::SegmentId,
};

/// Names that only a data directory has.
const DATA_DIR_NAMES: [&str; 5] = ["identity.json", "LOCK", "wal", "segments", RESTORING_FILE];

/// A signed checkpoint beside the segments of a copy.
pub const CHECKPOINT_FILE: &str = "checkpoint";

/// Locked in a copy while it is brought up to date.
pub const COPY_LOCK_FILE: &str = "copy.lock";

/// What lies in a data directory for as long as a restore into it has not ended.
pub const RESTORING_FILE: &str = "restoring";

/// The write-ahead log of a data directory, from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalFiles {
    /// Its files, spares aside.
    pub files: u64,
    /// Their bytes, padding and what is sealed already included.
    pub bytes: u64,
}

/// What there is to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Where the segments are.
    pub segments_dir: PathBuf,
    /// How many there are: numbers 0 to before this, without a gap.
    pub segments: u64,
    /// Those of them whose records are in the archive alone.
    pub cold: BTreeSet<u64>,
    /// Segments that were being written, or that a crash left behind: no part of the ledger.
    pub unfinished: Vec<String>,
    /// Names that mean nothing here.
    pub stray: Vec<String>,
    /// A checkpoint that whoever made the copy has put beside them.
    pub checkpoint: Option<PathBuf>,
    /// The log beside the segments; none in a directory of segments alone.
    pub wal: Option<WalFiles>,
    /// Whether a restore into the directory has begun and not ended.
    pub is_restoring: bool,
}

impl Listing {
    /// Looks at a directory.
    ///
    /// # Errors
    /// [`Code::Malformed`] when it is neither a data directory nor one of segments; [`Code::Corrupt`] when a
    /// segment is missing before one that is there, [`Code::Unavailable`] where a restore may still bring it;
    /// [`Code::Io`].
    pub fn of(io: &dyn Io, dir: &Path) -> Result<Self> {
        let here = list(io, dir)?;
        let is_data_dir = here.iter().any(|name| DATA_DIR_NAMES.contains(&name.as_str()));
        if !is_data_dir && !here.iter().any(|name| parse_name(name).or(parse_stub_name(name)).is_some()) {
            return Err(Error::new(
                Code::Malformed,
                format!(
                    "{} holds no ledger: give the data directory of a node, or a directory of its segment-….seg files",
                    dir.display()
                ),
            ));
        }
        if !is_data_dir {
            return Self::sort_out(dir.to_path_buf(), here, None);
        }
        let segments_dir = dir.join("segments");
        let names = list(io, &segments_dir)?;
        let wal = wal_files(io, &dir.join("wal"))?;
        let is_restoring = here.iter().any(|name| name == RESTORING_FILE);
        match Self::sort_out(segments_dir, names, Some(wal)) {
            // They come in any order.
            Err(error) if is_restoring && error.code() == Code::Corrupt => {
                let what = format!(
                    "{} is being restored, and that has not ended: not all of its segments are there yet. Run `scribe \
                     restore` again, to its end",
                    dir.display()
                );
                Err(Error::new(Code::Unavailable, what))
            }
            sorted => Ok(Self { is_restoring, ..sorted? }),
        }
    }

    fn sort_out(segments_dir: PathBuf, names: Vec<String>, wal: Option<WalFiles>) -> Result<Self> {
        let (mut segments, mut unfinished, mut stray) = (0, Vec::new(), Vec::new());
        let mut checkpoint = None;
        let mut cold = BTreeSet::new();
        for name in names {
            let stub = parse_stub_name(&name);
            match parse_name(&name).or(stub) {
                // The file counts, not the stub that a crash has left beside it.
                Some(id) if stub.is_some() && id.0 + 1 == segments => {}
                Some(id) if id.0 == segments => {
                    segments += 1;
                    cold.extend(stub.map(|id| id.0));
                }
                // Names come sorted, and numbers have one width.
                Some(_) => return Err(missing(&segments_dir, SegmentId(segments), &name)),
                None if is_unfinished(&name) => unfinished.push(name),
                None if name == COPY_LOCK_FILE => {}
                None if name == CHECKPOINT_FILE => checkpoint = Some(segments_dir.join(name)),
                None => stray.push(name),
            }
        }
        Ok(Self { segments_dir, segments, cold, unfinished, stray, checkpoint, wal, is_restoring: false })
    }

    /// The file of a segment, or its stub.
    #[must_use]
    pub fn path(&self, number: u64) -> PathBuf {
        let id = SegmentId(number);
        self.segments_dir.join(if self.cold.contains(&number) { stub_name(id) } else { file_name(id) })
    }

    /// Opens a segment: its file, or its stub.
    ///
    /// # Errors
    /// As [`Segment::open_in`].
    pub fn open(&self, io: &dyn Io, number: u64, cache: Arc<BlockCache>) -> Result<Segment> {
        // Whether it is still as it was listed is found out then.
        Segment::open_in(io, &self.segments_dir, SegmentId(number), cache)
    }
}

fn missing(dir: &Path, id: SegmentId, next: &str) -> Error {
    let missing = dir.join(file_name(id));
    let what = format!(
        "{} is missing, and {next} is there: the ledger cannot be verified across the gap; restore it from a \
         backup, another member or the archive",
        missing.display()
    );
    Error::new(Code::Corrupt, what)
}

fn wal_files(io: &dyn Io, dir: &Path) -> Result<WalFiles> {
    let mut wal = WalFiles::default();
    for name in list(io, dir)? {
        if !(name.starts_with("wal-") && name.ends_with(".log")) {
            continue;
        }
        let path = dir.join(&name);
        // A running node frees files that it needs no more.
        if let Ok(bytes) = io.open(&path, OpenMode::Read).and_then(|file| file.len()) {
            wal.files += 1;
            wal.bytes += bytes;
        }
    }
    Ok(wal)
}

fn list(io: &dyn Io, dir: &Path) -> Result<Vec<String>> {
    io.list(dir).map_err(|error| Error::io(format!("listing {}", dir.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimIo;

    fn disk(names: &[&str]) -> SimIo {
        let io = SimIo::new(1);
        for name in names {
            io.open(&Path::new("/d").join(name), OpenMode::Buffered).unwrap().write_at(b"bytes", 0).unwrap();
        }
        io
    }

    fn names(numbers: &[u64], others: &[&str]) -> Vec<String> {
        let segments = numbers.iter().map(|number| file_name(SegmentId(*number)));
        segments.chain(others.iter().map(|name| (*name).to_owned())).collect()
    }

    fn listed(names: &[String]) -> Result<Listing> {
        Listing::of(&disk(&names.iter().map(String::as_str).collect::<Vec<_>>()), Path::new("/d"))
    }

    #[test]
    fn a_copy_of_segments_is_sorted_out() {
        let unfinished = format!("{}.tmp", file_name(SegmentId(2)));
        let listing = listed(&names(&[0, 1], &[&unfinished, "notes.txt", "segment-7.seg"])).unwrap();
        assert_eq!((listing.segments, listing.wal), (2, None));
        assert_eq!(listing.unfinished, [unfinished]);
        assert_eq!(listing.stray, ["notes.txt", "segment-7.seg"]);
        assert_eq!(listing.path(1), Path::new("/d").join(file_name(SegmentId(1))));
    }

    #[test]
    fn a_gap_is_named() {
        for (numbers, gap) in [(&[1, 2][..], 0), (&[0, 2], 1), (&[0, 1, 4], 2)] {
            let error = listed(&names(numbers, &[])).unwrap_err();
            assert_eq!(error.code(), Code::Corrupt);
            assert!(
                error.message().contains(&format!("{} is missing", file_name(SegmentId(gap)))),
                "{error}"
            );
        }
    }

    #[test]
    fn what_holds_no_ledger_is_not_an_empty_one() {
        for others in [&[][..], &["notes.txt"]] {
            assert_eq!(listed(&names(&[], others)).unwrap_err().code(), Code::Malformed);
        }
    }
}
