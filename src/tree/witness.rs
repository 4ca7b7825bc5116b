//! How far the ledger had come, kept apart from the files that hold it.
//!
//! ```text
//! data_dir/proven     "scribe proven 1\n", then size, root (hex) and BLAKE3 of the lines before (hex), a line each
//! ```
//!
//! What is proven is durable, so a start that finds less has lost files: the end of a log, which no other file
//! names, or all of it. It is written now and then and at a stop, and it is only a lower bound: losing it loses
//! nothing else. It does not own what follows from it.

use std::{path::PathBuf, sync::Arc};

use crate::{
    env::{Io, OpenMode},
    error::{Error, Result},
    proof::Hash,
    types::Seq,
};

const FILE: &str = "proven";

const HEADER: &str = "scribe proven 1\n";

/// Most bytes that are read of the file.
const FILE_BYTES_MAX: u64 = 1 << 10;

/// The file.
#[derive(Clone, Debug)]
pub struct Witness {
    io: Arc<dyn Io>,
    data_dir: PathBuf,
}

impl Witness {
    /// The witness of a data directory.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, data_dir: PathBuf) -> Self {
        Self { io, data_dir }
    }

    /// Size and root of the tree when it was last written; none if it never was, or is damaged.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io).
    pub fn read(&self) -> Result<Option<(Seq, Hash)>> {
        let path = self.data_dir.join(FILE);
        let reading = |e| Error::io(format!("reading {}", path.display()), &e);
        if !self.io.list(&self.data_dir).map_err(reading)?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let file = self.io.open(&path, OpenMode::Read).map_err(reading)?;
        let mut bytes = vec![0; file.len().map_err(reading)?.min(FILE_BYTES_MAX) as usize];
        file.read_at(&mut bytes, 0).map_err(reading)?;
        let witnessed = decode(&bytes);
        if witnessed.is_none() {
            // A crash may leave it so where names and contents are not kept in order.
            tracing::warn!(path = %path.display(), "the file is damaged: that nothing is missing cannot be told this time");
        }
        Ok(witnessed)
    }

    /// Writes size and root of the tree.
    ///
    /// # Errors
    /// [`Code::Io`](crate::error::Code::Io), [`Code::DiskFull`](crate::error::Code::DiskFull): what was there before
    /// is still there.
    pub fn write(&self, size: Seq, root: &Hash) -> Result<()> {
        let (path, draft) = (self.data_dir.join(FILE), self.data_dir.join("proven.tmp"));
        let write = || {
            let file = self.io.open(&draft, OpenMode::Buffered)?;
            file.set_len(0)?;
            file.write_at(&encode(size, root), 0)?;
            file.sync()?;
            self.io.rename(&draft, &path)
        };
        // Its name need not be durable: an older one says less, and nothing wrong.
        write().map_err(|e| Error::io(format!("writing {}", path.display()), &e))
    }
}

fn encode(size: Seq, root: &Hash) -> Vec<u8> {
    let text = format!("{HEADER}{size}\n{root}\n");
    format!("{text}{}\n", blake3::hash(text.as_bytes()).to_hex()).into_bytes()
}

fn decode(bytes: &[u8]) -> Option<(Seq, Hash)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.strip_prefix(HEADER)?.lines();
    let (size, root) = (Seq(lines.next()?.parse().ok()?), lines.next()?.parse().ok()?);
    (encode(size, &root) == bytes).then_some((size, root))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sim::SimIo;

    #[test]
    fn it_reads_back_and_any_flip_is_damage() {
        let io = SimIo::new(1);
        let witness = Witness::new(Arc::new(io.clone()), "/data".into());
        io.create_dir_all(Path::new("/data")).unwrap();
        assert_eq!(witness.read().unwrap(), None);
        for size in [7, 1_000_000] {
            witness.write(Seq(size), &Hash([9; 32])).unwrap();
            assert_eq!(witness.read().unwrap(), Some((Seq(size), Hash([9; 32]))));
        }
        let bytes = encode(Seq(7), &Hash([9; 32]));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(&flipped), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None);
        }
    }
}
