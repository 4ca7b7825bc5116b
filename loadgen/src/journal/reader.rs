//! Takes a journal off the disk.
//!
//! A crash may have cut the last group short: that tail is left out, and the caller is told. Damage
//! anywhere else is an error, because what a damaged journal says about lost writes is worth nothing.

use std::{fs, path::Path};

use memchr::memmem;

use super::{Entry, GROUP_MAGIC, Spec, decode_group};

/// A journal's content.
#[derive(Clone, Debug)]
pub struct Journal {
    pub spec: Spec,
    pub entries: Vec<Entry>,
    /// Bytes at the end that are no whole group.
    pub torn_bytes: usize,
    /// It was closed by its run: what was counted is all here.
    pub closed: bool,
}

impl Journal {
    /// What a person should know who reads one that was not closed.
    pub fn warning(&self) -> Option<String> {
        if self.closed {
            return None;
        }
        let torn = match self.torn_bytes {
            0 => String::new(),
            bytes => format!(", its last {bytes} bytes are no whole group"),
        };
        Some(format!(
            "it was not closed{torn}: the run was killed, or the file was cut; what is not in it cannot be looked for"
        ))
    }
}

/// Reads a journal file.
///
/// # Errors
/// When it cannot be read, is no journal, or is damaged other than at its end.
pub fn open(path: &Path) -> Result<Journal, String> {
    let bytes = fs::read(path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    read(&bytes).map_err(|why| format!("{}: {why}", path.display()))
}

/// Reads a journal's bytes.
pub fn read(bytes: &[u8]) -> Result<Journal, String> {
    let (spec, mut at) = Spec::decode(bytes)?;
    let mut entries = Vec::new();
    let mut number = 0;
    let mut closed = false;
    while let Some((found, group, length)) = decode_group(&bytes[at..]) {
        if found != number {
            return Err(format!("group {number} is missing before byte {at}"));
        }
        if closed {
            return Err(format!("a group follows its end, at byte {at}"));
        }
        closed = group.is_empty();
        entries.extend(group);
        at += length;
        number += 1;
    }
    let tail = &bytes[at..];
    // Groups are written one after the other, each synced before the next: a whole one behind this place
    // means that the bytes here were once good.
    if let Some(whole) =
        memmem::find_iter(tail, GROUP_MAGIC).find(|&from| decode_group(&tail[from..]).is_some())
    {
        return Err(format!("it is damaged at byte {at}: a whole group follows at byte {}", at + whole));
    }
    if closed && !tail.is_empty() {
        return Err(format!("{} bytes follow its end", tail.len()));
    }
    Ok(Journal { spec, entries, torn_bytes: tail.len(), closed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        journal::encode_group,
        workload::{keys::Order, values::Sizes},
    };

    fn journal(groups: u32) -> (Vec<u8>, Vec<usize>) {
        let spec = Spec {
            url: "http://h:1".to_owned(),
            cluster_id: None,
            first_seq: 0,
            seed: 1,
            batch: 1,
            key_bytes: 16,
            key_space: 10,
            order: Order::Sequential,
            sizes: Sizes { min: 1, max: 1 },
            text: false,
            file: None,
        };
        let mut bytes = spec.encode().unwrap();
        let mut starts = Vec::new();
        for number in 0..groups {
            starts.push(bytes.len());
            let acked = |n: u32| Entry::Acked { first: u64::from(number * 10 + n), count: 1, seq: 5 };
            bytes.extend(encode_group(number, &[acked(0), acked(1)]));
        }
        (bytes, starts)
    }

    #[test]
    fn a_tail_that_a_crash_cut_short_is_left_out() {
        let (bytes, starts) = journal(3);
        for end in starts[2]..bytes.len() {
            let read = read(&bytes[..end]).unwrap();
            assert_eq!((read.entries.len(), read.torn_bytes), (4, end - starts[2]));
        }
        assert_eq!(read(&bytes).unwrap().entries.len(), 6);
        // A file system may have made room for the group and lost its bytes.
        let zeros = [&bytes[..starts[2]], &[0; 64]].concat();
        assert_eq!(read(&zeros).unwrap().torn_bytes, 64);
    }

    #[test]
    fn damage_before_the_end_is_an_error() {
        let (bytes, starts) = journal(3);
        for at in [starts[0], starts[0] + 20, starts[1] + 9, starts[1] + 40] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let why = read(&damaged).unwrap_err();
            assert!(why.contains("damaged at byte"), "{why}");
        }
        let without_one = [&bytes[..starts[1]], &bytes[starts[2]..]].concat();
        assert!(read(&without_one).unwrap_err().contains("group 1 is missing"));
        assert!(read(b"not a journal").unwrap_err().contains("does not begin"));
    }
}
