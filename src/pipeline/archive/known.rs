//! Which store this node has archived into: a small file of its own, so that a place where nothing is mounted any more is
//! not taken for a new one.
//!
//! ```text
//! scribe-ledger archive known 1\n
//! place PATH-OR-URL\n
//! store 32 hex digits\n
//! BLAKE3 of the lines before, 64 hex digits\n
//! ```
//!
//! Takes what a probe has found, gives it to the next start. It is advice and no promise: a file that cannot be read, or
//! is of another place, is as none. It does not own what is made of it.

use std::{path::PathBuf, sync::Arc};

use crate::{
    archive::marker::StoreId,
    env::{Io, OpenMode},
    error::{Error, Result},
    segment::remove,
};

const HEADER: &str = "scribe-ledger archive known 1";

/// Most bytes that are read of it.
const FILE_BYTES_MAX: u64 = 8 << 10;

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) io: Arc<dyn Io>,
    pub(super) path: PathBuf,
}

impl Known {
    /// The store that was in this place.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io).
    pub(super) fn read(&self, place: &str) -> Result<Option<StoreId>> {
        let failed = |error| Error::io(format!("reading {}", self.path.display()), &error);
        let file = match self.io.open(&self.path, OpenMode::Read) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let mut bytes = vec![0; file.len().map_err(failed)?.min(FILE_BYTES_MAX) as usize];
        file.read_at(&mut bytes, 0).map_err(failed)?;
        Ok(decode(&bytes).filter(|(there, _)| there == place).map(|(_, store)| store))
    }

    /// Notes it.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io), [`Code::DiskFull`](crate::error::Code::DiskFull).
    pub(super) fn write(&self, place: &str, store: StoreId) -> Result<()> {
        if self.read(place)? == Some(store) {
            return Ok(());
        }
        let draft = self.path.with_extension("tmp");
        remove(&*self.io, &draft)?;
        let write = || {
            let file = self.io.open(&draft, OpenMode::Buffered)?;
            file.write_at(encode(place, store).as_bytes(), 0)?;
            file.sync()?;
            self.io.rename(&draft, &self.path)?;
            self.path.parent().map_or(Ok(()), |dir| self.io.sync_dir(dir))
        };
        write().map_err(|error| Error::io(format!("writing {}", self.path.display()), &error))
    }

    /// What to do where the place has no archive any more, and whether `has_left` for it what is nowhere else.
    pub(super) fn advise(&self, error: Error, has_left: bool) -> Error {
        let what = match has_left {
            true => {
                format!("{error} Records that have left this node are in that archive alone: bring it back")
            }
            false => format!(
                "{error} This node has archived there; to begin anew there, remove {}",
                self.path.display()
            ),
        };
        Error::new(error.code(), what)
    }
}

fn encode(place: &str, store: StoreId) -> String {
    let text = format!("{HEADER}\nplace {place}\nstore {:032x}\n", u128::from_be_bytes(store.0));
    format!("{text}{}\n", blake3::hash(text.as_bytes()).to_hex())
}

fn decode(bytes: &[u8]) -> Option<(String, StoreId)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let rest = text.strip_prefix(HEADER)?.strip_prefix("\nplace ")?;
    let (place, rest) = rest.split_once("\nstore ")?;
    let (store, _) = rest.split_once('\n')?;
    let store = StoreId(u128::from_str_radix(store, 16).ok()?.to_be_bytes());
    (encode(place, store) == text).then(|| (place.to_owned(), store))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sim::SimIo;

    #[test]
    fn it_reads_back_and_any_flip_is_as_none() {
        let text = encode("s3://a/b", StoreId([7; 16]));
        let golden =
            "scribe-ledger archive known 1\nplace s3://a/b\nstore 07070707070707070707070707070707\n";
        assert!(text.starts_with(golden), "{text}");
        assert_eq!(decode(text.as_bytes()), Some(("s3://a/b".to_owned(), StoreId([7; 16]))));
        for at in 0..text.len() {
            let mut flipped = text.clone().into_bytes();
            flipped[at] ^= 1;
            assert_eq!((decode(&flipped), decode(&text.as_bytes()[..at])), (None, None), "byte {at}");
        }
    }

    #[test]
    fn it_is_of_one_place() {
        let io: Arc<dyn Io> = Arc::new(SimIo::new(1));
        io.create_dir_all(Path::new("/data")).unwrap();
        let known = Known { io, path: "/data/archive.known".into() };
        assert_eq!(known.read("/a").unwrap(), None);
        known.write("/a", StoreId([1; 16])).unwrap();
        assert_eq!((known.read("/a").unwrap(), known.read("/b").unwrap()), (Some(StoreId([1; 16])), None));
        known.write("/b", StoreId([2; 16])).unwrap();
        assert_eq!((known.read("/a").unwrap(), known.read("/b").unwrap()), (None, Some(StoreId([2; 16]))));
    }
}
