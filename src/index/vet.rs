//! Checks what fjall believes without looking, before it opens a directory.
//!
//! ```text
//!  keyspaces/<n>/current      id u64 │ XXH3-128 of the file v<id> │ zero u8
//!  keyspaces/<n>/v<id>        an archive; its section "tables" lists the levels:
//!                             levels u8 × ( runs u8 × ( tables u32 × ( id u64 │ zero u8 │ XXH3-128 of the file │ u64 )))
//!  keyspaces/<n>/tables/<id>  an archive of blocks, which carry their own checksums
//!
//!  an archive                 sections │ directory │ "SFA!" │ 2 B │ XXH3-128 of the directory │ its place u64 │ its bytes u64 │
//! ```
//!
//! The tables' blocks are checked whenever they are loaded. Two things are not: the list of tables, where a
//! flipped bit could drop one or make an old row win over a new one, and the length of an archive's
//! directory, which is allocated before its checksum is looked at, and could be any number. Both carry
//! checksums, so this module reads them; and since the list has a checksum of each whole file, it can also
//! check everything ([`Depth::Whole`]).
//!
//! And fjall aborts the process over a directory whose name it cannot make out.
//!
//! A keyspace without `current` was never finished: fjall makes a new one of it, which is empty, and an empty
//! index is filled again.

use std::{
    fs::{self, File},
    io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom},
    path::Path,
};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use super::error::{IndexError, Result};

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// What is believed without a look: a few KiB of each file.
    Believed,
    /// Every byte of every table.
    Whole,
}

/// A list of tables larger than this is not one: it would be of half a million tables.
const LIST_BYTES_MAX: u64 = 16 << 20;

/// A table has half a dozen sections.
const DIRECTORY_BYTES_MAX: u64 = 4 << 10;

const CURRENT_BYTES: usize = 8 + 16 + 1;
const TRAILER_BYTES: u64 = 4 + 2 + 16 + 8 + 8;

/// Bytes that are hashed at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Checks a directory of fjall's.
///
/// # Errors
/// `Damaged`, naming the file, or `Refused` when the system does not let it read.
pub(super) fn vet(index: &Path, dir: &Path, depth: Depth) -> Result<()> {
    let keyspaces = dir.join("keyspaces");
    let entries = match fs::read_dir(&keyspaces) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(IndexError::io(index, &keyspaces.display().to_string(), &error)),
    };
    check_names(&keyspaces, |name| name.parse::<u64>().is_ok())
        .map_err(|error| named(index, &keyspaces, &error))?;
    for entry in entries {
        let keyspace = entry.map_err(|error| named(index, &keyspaces, &error))?.path();
        let tables = tables(&keyspace).map_err(|error| named(index, &keyspace, &error))?;
        for table in tables {
            let path = keyspace.join("tables").join(table.id.to_string());
            check_table(&path, table.sum, depth).map_err(|error| named(index, &path, &error))?;
        }
    }
    Ok(())
}

/// Whether the directories in this one, if it exists, all have names that belong there.
fn check_names(dir: &Path, belongs: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() && !name.to_str().is_some_and(&belongs) {
            return Err(damaged(&format!("{} does not belong there", name.display())));
        }
    }
    Ok(())
}

fn named(index: &Path, path: &Path, error: &io::Error) -> IndexError {
    IndexError::io(index, &path.strip_prefix(index).unwrap_or(path).display().to_string(), error)
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

struct Table {
    id: u64,
    sum: u128,
}

/// The tables of a keyspace, by a list that is what was written.
fn tables(keyspace: &Path) -> io::Result<Vec<Table>> {
    check_names(keyspace, |name| name == "tables")?;
    check_names(&keyspace.join("tables"), |_| false)?;
    let current = match read_at_most(&keyspace.join("current"), CURRENT_BYTES as u64) {
        Ok(current) => current,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let current: [u8; CURRENT_BYTES] = current.try_into().map_err(|_| damaged("current is too short"))?;
    let mut current = Fields(&current);
    let (id, sum) = (current.u64()?, current.u128()?);
    let list = read_at_most(&keyspace.join(format!("v{id}")), LIST_BYTES_MAX)?;
    if xxh3_128(&list) != sum || current.u8()? != 0 {
        return Err(damaged(&format!("v{id} does not fit the checksum in current")));
    }
    let archive =
        sfa::Reader::from_reader(&mut Cursor::new(&list)).map_err(|_| damaged("the list is no archive"))?;
    let section = archive.toc().section(b"tables").ok_or_else(|| damaged("the list has no tables"))?;
    let place = usize::try_from(section.pos()).ok().zip(usize::try_from(section.len()).ok());
    let bytes = place.and_then(|(at, len)| list.get(at..)?.get(..len));
    read_list(Fields(bytes.ok_or_else(|| damaged("the list ends early"))?))
}

fn read_list(mut list: Fields<'_>) -> io::Result<Vec<Table>> {
    let mut tables = Vec::new();
    for _level in 0..list.u8()? {
        for _run in 0..list.u8()? {
            for _table in 0..list.u32()? {
                let (id, _sum_kind, sum, _seqno) = (list.u64()?, list.u8()?, list.u128()?, list.u64()?);
                tables.push(Table { id, sum });
            }
        }
    }
    Ok(tables)
}

fn check_table(path: &Path, sum: u128, depth: Depth) -> io::Result<()> {
    let mut file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let trailer_at = file_bytes.checked_sub(TRAILER_BYTES).ok_or_else(|| damaged("it is cut off"))?;
    let trailer = read_part(&mut file, trailer_at, TRAILER_BYTES)?;
    let mut trailer = Fields(&trailer);
    trailer.take(4 + 2)?;
    let (directory_sum, directory_at) = (trailer.u128()?, trailer.u64()?);
    let directory_bytes = trailer_at.checked_sub(directory_at).filter(|&bytes| bytes <= DIRECTORY_BYTES_MAX);
    let directory_bytes = directory_bytes.ok_or_else(|| damaged("its directory cannot be where it says"))?;
    if xxh3_128(&read_part(&mut file, directory_at, directory_bytes)?) != directory_sum {
        return Err(damaged("its directory does not fit its checksum"));
    }
    if depth == Depth::Whole && sum_of(&mut file)? != sum {
        return Err(damaged("its bytes do not fit the checksum in the list of tables"));
    }
    Ok(())
}

fn sum_of(file: &mut File) -> io::Result<u128> {
    file.seek(SeekFrom::Start(0))?;
    let (mut sum, mut piece) = (Xxh3Default::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(sum.digest128()),
            bytes => sum.update(&piece[..bytes]),
        }
    }
}

fn read_at_most(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(damaged("it is too long"));
    }
    Ok(bytes)
}

fn read_part(file: &mut File, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut part = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.take(bytes).read_to_end(&mut part)?;
    if part.len() as u64 != bytes {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(part)
}

/// Little-endian numbers, one behind the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> io::Result<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(bytes).ok_or(ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn u128(&mut self) -> io::Result<u128> {
        Ok(u128::from_le_bytes(self.array()?))
    }
}
