//! The files of a segment directory.
//!
//! ```text
//! segment-00000000000000000007.seg        sealed: never changes
//! segment-00000000000000000008.seg.tmp    being written, or left behind by a crash
//! segment-00000000000000000005.stub       in place of the file: what stays here once the rest is in the archive alone
//! segment-00000000000000000006.stub.tmp   being written, or left behind by a crash
//! segment-00000000000000000009.seg.part   on its way here from another member, or left behind
//! ```

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::{
    env::Io,
    error::{Error, Result},
    types::SegmentId,
};

const UNFINISHED: &str = ".tmp";

const PARTIAL: &str = ".part";

/// The name of a sealed segment's file.
#[must_use]
pub fn file_name(id: SegmentId) -> String {
    format!("segment-{:020}.seg", id.0)
}

/// The name of the stub of a segment whose file is gone.
#[must_use]
pub fn stub_name(id: SegmentId) -> String {
    format!("segment-{:020}.stub", id.0)
}

/// The segment a stub's name stands for; `None` for any other name.
#[must_use]
pub fn parse_stub_name(name: &str) -> Option<SegmentId> {
    let id = SegmentId(name.strip_prefix("segment-")?.strip_suffix(".stub")?.parse().ok()?);
    (stub_name(id) == name).then_some(id)
}

/// The segment a file's name stands for; `None` for any other name.
#[must_use]
pub fn parse_name(name: &str) -> Option<SegmentId> {
    let id = SegmentId(name.strip_prefix("segment-")?.strip_suffix(".seg")?.parse().ok()?);
    // One spelling only: two names must not mean the same segment.
    (file_name(id) == name).then_some(id)
}

/// Whether a file's name is that of a segment that is not whole: being written, or left behind by a crash.
#[must_use]
pub fn is_unfinished(name: &str) -> bool {
    let is_segment = |name: &str| parse_name(name).or(parse_stub_name(name)).is_some();
    [UNFINISHED, PARTIAL].iter().any(|suffix| name.strip_suffix(suffix).is_some_and(is_segment))
}

/// The name that a segment has while it is fetched from another member. Not that of one being written here: the
/// same segment may be both.
#[must_use]
pub fn partial_name(id: SegmentId) -> String {
    file_name(id) + PARTIAL
}

/// The name a segment's file or stub has until it is whole.
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    PathBuf::from(name)
}

/// Removes what writers that never finished have left in a segment directory. Call it before the first writer
/// of a process.
///
/// # Errors
/// [`Code::Io`](crate::error::Code::Io) when the directory cannot be read or a file not be removed.
pub fn remove_unfinished(io: &dyn Io, dir: &Path) -> Result<()> {
    let names = io.list(dir).map_err(|error| Error::io(format!("listing {}", dir.display()), &error))?;
    for name in names {
        if is_unfinished(&name) {
            remove(io, &dir.join(name))?;
        }
    }
    Ok(())
}

/// Removes a file that may not be there.
///
/// # Errors
/// [`Code::Io`](crate::error::Code::Io).
pub fn remove(io: &dyn Io, path: &Path) -> Result<()> {
    match io.remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(removing(path, &error)),
        _ => Ok(()),
    }
}

fn removing(path: &Path, error: &io::Error) -> Error {
    Error::io(format!("removing {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{env::OpenMode, sim::SimIo};

    #[test]
    fn names_read_back_and_others_are_not_taken_for_ours() {
        let name = file_name(SegmentId(7));
        assert_eq!(name, "segment-00000000000000000007.seg");
        assert_eq!(parse_name(&name), Some(SegmentId(7)));
        let stub = stub_name(SegmentId(7));
        assert_eq!(stub, "segment-00000000000000000007.stub");
        assert_eq!((parse_stub_name(&stub), parse_name(&stub)), (Some(SegmentId(7)), None));
        for other in ["segment-7.seg", "segment-+0000000000000000007.seg", "segment-.seg", "LOCK"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn only_unfinished_segments_are_removed() {
        let io = SimIo::new(1);
        let dir = Path::new("/s");
        let sealed = file_name(SegmentId(1));
        let unfinished = format!("{}.tmp", file_name(SegmentId(2)));
        let partial = partial_name(SegmentId(3));
        let (stub, half) = (stub_name(SegmentId(4)), format!("{}.tmp", stub_name(SegmentId(5))));
        for name in [&sealed, &unfinished, &partial, &stub, &half, "other.tmp"] {
            io.open(&dir.join(name), OpenMode::Buffered).unwrap();
        }
        remove_unfinished(&io, dir).unwrap();
        assert_eq!(io.list(dir).unwrap(), ["other.tmp".to_owned(), sealed, stub]);
    }
}
