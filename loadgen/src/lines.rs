//! Reads an NDJSON file, plain or gzip, in the pieces it is sent in.
//!
//! Where a chunk begins and ends follows from the file and the chunk size alone, because the chunk's
//! number is part of its idempotency key: a rerun has to send the same bytes under the same key.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

/// The longest line: a 64 MiB value in base64 with its key, and room for escapes.
const LINE_BYTES_MAX: u64 = 128 << 20;
/// A chunk ends early once it has this many bytes, so that it stays under the server's request limit.
const CHUNK_BYTES: usize = 32 << 20;
const READ_BYTES: usize = 256 << 10;

/// Some lines of the file, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// From 0.
    pub number: u64,
    /// Line number of its first line, from 1, counting all lines of the file.
    pub first_line: u64,
    /// Line number of its last line.
    pub last_line: u64,
    /// Lines that are not blank.
    pub records: u64,
    /// Its lines as they stand in the file.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// Leaves out all but the first `records` lines.
    pub fn cut(&mut self, records: u64) {
        if records >= self.records {
            return;
        }
        let ends = memchr::memchr_iter(b'\n', &self.bytes);
        let end = if records == 0 { 0 } else { ends.take(records as usize).last().map_or(0, |at| at + 1) };
        self.bytes.truncate(end);
        self.records = records;
    }
}

/// The chunks of a file.
pub struct Chunks {
    source: Box<dyn BufRead + Send>,
    name: String,
    chunk_records: u64,
    number: u64,
    line: u64,
}

impl Chunks {
    /// Opens the file; gzip is recognised by its first bytes, whatever the name.
    pub fn open(path: &Path, chunk_records: u64) -> Result<Self, String> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| format!("opening {name}: {error}"))?;
        let mut file = BufReader::with_capacity(READ_BYTES, file);
        let gzip =
            file.fill_buf().map_err(|error| format!("reading {name}: {error}"))?.starts_with(&[0x1f, 0x8b]);
        let source: Box<dyn BufRead + Send> = if gzip {
            Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        Ok(Self { source, name, chunk_records, number: 0, line: 0 })
    }

    fn read(&mut self) -> Result<Option<Chunk>, String> {
        let mut chunk = Chunk {
            number: self.number,
            first_line: self.line + 1,
            last_line: self.line,
            records: 0,
            bytes: Vec::new(),
        };
        while chunk.records < self.chunk_records && chunk.bytes.len() < CHUNK_BYTES {
            let from = chunk.bytes.len();
            let read = (&mut self.source)
                .take(LINE_BYTES_MAX + 1)
                .read_until(b'\n', &mut chunk.bytes)
                .map_err(|error| format!("reading {}, line {}: {error}", self.name, self.line + 1))?;
            if read == 0 {
                break;
            }
            self.line += 1;
            if read as u64 > LINE_BYTES_MAX {
                return Err(format!("{}, line {}: longer than {LINE_BYTES_MAX} bytes", self.name, self.line));
            }
            chunk.last_line = self.line;
            if chunk.bytes[from..].trim_ascii().is_empty() {
                chunk.bytes.truncate(from);
                continue;
            }
            if chunk.bytes.last() != Some(&b'\n') {
                chunk.bytes.push(b'\n');
            }
            chunk.records += 1;
        }
        self.number += 1;
        Ok((chunk.records > 0).then_some(chunk))
    }
}

impl Iterator for Chunks {
    type Item = Result<Chunk, String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    #[test]
    fn chunks_are_whole_lines_plain_or_gzip() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"{1}\n\n{2}\r\n  \n{3}\n{4}\n{5}";
        let (plain, gzip) = (dir.path().join("plain.gz"), dir.path().join("packed"));
        fs::write(&plain, text).unwrap();
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&gzip).unwrap(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap();
        for path in [&plain, &gzip] {
            let chunks: Vec<Chunk> = Chunks::open(path, 2).unwrap().map(Result::unwrap).collect();
            let seen: Vec<_> =
                chunks.iter().map(|c| (c.number, c.first_line, c.last_line, c.records)).collect();
            assert_eq!(seen, [(0, 1, 3, 2), (1, 4, 6, 2), (2, 7, 7, 1)]);
            assert_eq!(chunks[0].bytes, b"{1}\n{2}\r\n");
            assert_eq!(chunks[2].bytes, b"{5}\n", "a last line without its end gets one");
        }
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("torn.gz");
        fs::write(&path, [0x1f, 0x8b, 8, 0, 0]).unwrap();
        let error = Chunks::open(&path, 2).unwrap().next().unwrap().unwrap_err();
        assert!(error.contains("torn.gz"), "{error}");
        assert!(Chunks::open(&dir.path().join("none"), 2).err().unwrap().contains("opening"));
        fs::write(&path, "\n \n").unwrap();
        assert!(Chunks::open(&path, 2).unwrap().next().is_none());
    }
}
