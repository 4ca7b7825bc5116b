//! The journal of acknowledged writes: its bytes.
//!
//! Pure. [`writer`] puts groups on disk, [`reader`] takes them off again. A header says how every write's key
//! and value can be computed; after that come groups of entries, each group written by one write and made
//! durable by one sync. Integers are little-endian. Every part ends in, or begins with, a CRC-32C, so that
//! a journal whose last group was cut short by a crash can be told from one that is damaged.
//!
//! ```text
//! header   0 magic "scribelj"        8 version u16 = 2    10 source u8 (1 made, 2 file)
//!         11 order u8 (0 sequential, 1 uniform, 2 zipfian)
//!         12 text u8 (1: values are characters)            13 cluster_id_bytes u8      14 0 u8 × 2
//!         16 seed u64               24 key_space u64       32 zipf exponent f64
//!         40 key_bytes u32          44 records in a request u32
//!         48 value_bytes_min u32    52 value_bytes_max u32
//!         56 file_bytes u64         64 file_crc u32 (of its first MiB)
//!         68 url_bytes u16          70 path_bytes u16      72 first_seq u64    80 url, path, cluster_id
//!         …  crc u32 of all before
//! group    0 magic "SLJG"    4 number u32, from 0    8 entries u32    12 crc u32 of 0..12 and the entries
//!         16 entries, 24 bytes each
//! entry    0 kind u32    4 count u32    8 first u64    16 seq u64
//! ```
//!
//! Writes are numbered from 0 in the order in which they are begun. The kinds: 1, the `count` writes from
//! `first` on were acknowledged at the positions from `seq` on; 2, they were refused for certain; 3, writes
//! below `first` may have been begun. What was begun and is neither acknowledged nor refused is unknown. A group
//! without entries is the end: the run was over, and nothing is missing. Version 1 is the same without a
//! `cluster_id`, and is read, too.

pub mod reader;
pub mod writer;

use std::{fs::File, io::Read, path::Path};

use crate::workload::{
    Records,
    keys::{Keys, Order},
    values::{Sizes, Values},
};

const MAGIC: &[u8; 8] = b"scribelj";
const VERSION: u16 = 2;
const HEADER_BYTES: usize = 80;
const GROUP_MAGIC: &[u8; 4] = b"SLJG";
const GROUP_BYTES: usize = 16;
const ENTRY_BYTES: usize = 24;
/// How much of a file is looked at to know it again.
const FILE_HEAD_BYTES: u64 = 1 << 20;

/// What became of some writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// They are in the ledger, at consecutive positions.
    Acked { first: u64, count: u32, seq: u64 },
    /// They are not.
    Refused { first: u64, count: u32 },
    /// No write from this one on had been begun.
    Begun { end: u64 },
}

/// A file by which it can be known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFile {
    pub path: String,
    pub bytes: u64,
    pub crc: u32,
}

impl OwnFile {
    /// Looks at a file.
    pub fn of(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("reading {}: {error}", path.display());
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut head = Vec::new();
        file.take(FILE_HEAD_BYTES).read_to_end(&mut head).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        Ok(Self { path: path.to_string_lossy().into_owned(), bytes, crc: crc_fast::crc32_iscsi(&head) })
    }
}

/// How the writes of a run were made.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The first server that was written to.
    pub url: String,
    /// The ledger that it is of, if it said so.
    pub cluster_id: Option<String>,
    /// What is below this position is older than the run: another run with the same seed may have written the
    /// same.
    pub first_seq: u64,
    pub seed: u64,
    /// Records of a bulk request; 1 for single writes.
    pub batch: u32,
    pub key_bytes: u32,
    pub key_space: u64,
    pub order: Order,
    pub sizes: Sizes,
    pub text: bool,
    /// The records are this file's, again and again; then what is above is of no meaning.
    pub file: Option<OwnFile>,
}

impl Spec {
    /// Of generated writes that go to this server.
    pub fn of(records: &Records, seed: u64, url: String) -> Self {
        Self {
            url,
            cluster_id: None,
            first_seq: 0,
            seed,
            batch: 1,
            key_bytes: records.keys.key_bytes() as u32,
            key_space: records.keys.space(),
            order: records.keys.order(),
            sizes: records.values.sizes,
            text: records.values.text,
            file: None,
        }
    }

    /// The writes that this describes.
    pub fn records(&self) -> Result<Records, String> {
        Ok(Records {
            keys: Keys::new(self.key_bytes as usize, Some(self.key_space), self.order, self.seed)?,
            values: Values::new(self.seed, self.sizes, self.text),
        })
    }

    /// As bytes.
    ///
    /// # Errors
    /// A URL or a path of more than 64 KiB, or an id of more than 255 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let none = OwnFile { path: String::new(), bytes: 0, crc: 0 };
        let file = self.file.as_ref().unwrap_or(&none);
        let cluster_id = self.cluster_id.as_deref().unwrap_or_default();
        let too_long = || "a name is too long for a journal".to_owned();
        let length = |text: &str| u16::try_from(text.len()).map_err(|_| too_long());
        let id_bytes = u8::try_from(cluster_id.len()).map_err(|_| too_long())?;
        let (order, theta) = match self.order {
            Order::Sequential => (0, 0.0),
            Order::Uniform => (1, 0.0),
            Order::Zipfian(theta) => (2, theta),
        };
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[1 + u8::from(self.file.is_some()), order, self.text.into(), id_bytes, 0, 0]);
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.extend_from_slice(&self.key_space.to_le_bytes());
        out.extend_from_slice(&f64::to_le_bytes(theta));
        for number in [self.key_bytes, self.batch, self.sizes.min as u32, self.sizes.max as u32] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&file.bytes.to_le_bytes());
        out.extend_from_slice(&file.crc.to_le_bytes());
        out.extend_from_slice(&length(&self.url)?.to_le_bytes());
        out.extend_from_slice(&length(&file.path)?.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(self.url.as_bytes());
        out.extend_from_slice(file.path.as_bytes());
        out.extend_from_slice(cluster_id.as_bytes());
        let crc = crc_fast::crc32_iscsi(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(out)
    }

    /// Reads what [`Spec::encode`] gave, whatever follows it. Gives its length, too.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), String> {
        let head = bytes.get(..HEADER_BYTES).filter(|head| head.starts_with(MAGIC));
        let head = head.ok_or("it does not begin as a journal does")?;
        let version = u16::from_le_bytes([head[8], head[9]]);
        if !(1..=VERSION).contains(&version) {
            return Err(format!("it is of version {version}, this program reads versions 1 to {VERSION}"));
        }
        let (url_bytes, path_bytes) = (u16_at(head, 68) as usize, u16_at(head, 70) as usize);
        let path_at = HEADER_BYTES + url_bytes;
        let id_at = path_at + path_bytes;
        let end = id_at + usize::from(head[13]);
        let whole = bytes.get(..end + 4).ok_or("its header is cut short")?;
        if crc_fast::crc32_iscsi(&whole[..end]) != u32_at(whole, end) {
            return Err("its header is damaged".to_owned());
        }
        let text = |from: usize, to: usize| {
            String::from_utf8(whole[from..to].to_vec()).map_err(|_| "a name in its header is not text")
        };
        let order = match head[11] {
            0 => Order::Sequential,
            1 => Order::Uniform,
            2 => Order::Zipfian(f64::from_bits(u64_at(head, 32))),
            _ => return Err("its order of keys is not known".to_owned()),
        };
        let path = text(path_at, id_at)?;
        let spec = Self {
            url: text(HEADER_BYTES, path_at)?,
            cluster_id: Some(text(id_at, end)?).filter(|id| !id.is_empty()),
            first_seq: u64_at(head, 72),
            seed: u64_at(head, 16),
            key_space: u64_at(head, 24),
            order,
            key_bytes: u32_at(head, 40),
            batch: u32_at(head, 44).max(1),
            sizes: Sizes { min: u32_at(head, 48) as usize, max: u32_at(head, 52) as usize },
            text: head[12] != 0,
            file: (head[10] == 2).then(|| OwnFile { path, bytes: u64_at(head, 56), crc: u32_at(head, 64) }),
        };
        if spec.sizes.min > spec.sizes.max || spec.sizes.max > scribe_ledger::types::VALUE_BYTES_MAX {
            return Err("its sizes of values cannot be".to_owned());
        }
        Ok((spec, end + 4))
    }
}

/// Entries as one group.
pub fn encode_group(number: u32, entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(GROUP_BYTES + entries.len() * ENTRY_BYTES);
    out.extend_from_slice(GROUP_MAGIC);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for entry in entries {
        let (kind, count, first, seq) = match *entry {
            Entry::Acked { first, count, seq } => (1u32, count, first, seq),
            Entry::Refused { first, count } => (2, count, first, 0),
            Entry::Begun { end } => (3, 0, end, 0),
        };
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&seq.to_le_bytes());
    }
    let crc = group_crc(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// A group that begins at the start of these bytes: its number, its entries and its length. `None` when there
/// is no whole one.
pub fn decode_group(bytes: &[u8]) -> Option<(u32, Vec<Entry>, usize)> {
    let head = bytes.get(..GROUP_BYTES).filter(|head| head.starts_with(GROUP_MAGIC))?;
    let end = (u32_at(head, 8) as usize).checked_mul(ENTRY_BYTES)?.checked_add(GROUP_BYTES)?;
    let group = bytes.get(..end)?;
    if group_crc(group) != u32_at(head, 12) {
        return None;
    }
    let entries = group[GROUP_BYTES..].chunks_exact(ENTRY_BYTES).map(|entry| {
        let (count, first) = (u32_at(entry, 4), u64_at(entry, 8));
        // Sums of these are taken: what cannot be is no entry.
        first.checked_add(u64::from(count))?;
        match u32_at(entry, 0) {
            1 => {
                let seq = u64_at(entry, 16);
                seq.checked_add(u64::from(count))?;
                Some(Entry::Acked { first, count, seq })
            }
            2 => Some(Entry::Refused { first, count }),
            3 => Some(Entry::Begun { end: first }),
            _ => None,
        }
    });
    Some((u32_at(head, 4), entries.collect::<Option<Vec<_>>>()?, end))
}

/// Of everything but the sum's own four bytes.
fn group_crc(group: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&group[..12]);
    digest.update(&group[GROUP_BYTES..]);
    digest.finalize() as u32
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests;
