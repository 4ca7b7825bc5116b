//! One group as bytes, in pieces that memory can hold.
//!
//! Takes a header and records, fills whatever memory it is given with the next bytes of the group. The header
//! holds the sum of everything behind it, so it is known last:
//!
//! ```text
//! fill    head | piece 1 ……… | piece 2 ……… | piece 3 …… 0 0 0 |
//!            ▲                                                │
//!            └───────────── header(), with the sum ◄──────────┘
//! ```
//!
//! Pieces may reach the disk in any order, because a group whose sum does not fit is no group. It does not own
//! memory, nor files: those are the [`sink`](super::sink)'s.

use super::format::{GROUP_HEADER_BYTES, GroupHeader, RECORD_HEADER_BYTES, Record, Sum};

/// A group on its way to bytes.
pub(super) struct Group<'a> {
    header: GroupHeader,
    bytes: u64,
    records: Box<dyn Iterator<Item = Record<'a>> + 'a>,
    /// What is still to come of the record under way: its header from here on, then its payload.
    head: [u8; RECORD_HEADER_BYTES],
    head_given: usize,
    payload: &'a [u8],
    sum: Sum,
}

impl<'a> Group<'a> {
    /// The group of this header, whose sum is not known yet, and records, padded to `bytes`.
    pub(super) fn new(
        header: GroupHeader,
        bytes: u64,
        records: impl Iterator<Item = Record<'a>> + 'a,
    ) -> Self {
        Self {
            header,
            bytes,
            records: Box::new(records),
            head: [0; RECORD_HEADER_BYTES],
            head_given: RECORD_HEADER_BYTES,
            payload: &[],
            sum: Sum::of_header(&header),
        }
    }

    /// Its size with header and padding.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills memory with the next bytes behind the header; with zeros once the records are through.
    pub(super) fn fill(&mut self, memory: &mut [u8]) {
        let mut rest = &mut *memory;
        while !rest.is_empty() {
            if self.head_given < RECORD_HEADER_BYTES {
                let (now, behind) = split(rest, RECORD_HEADER_BYTES - self.head_given);
                now.copy_from_slice(&self.head[self.head_given..self.head_given + now.len()]);
                self.head_given += now.len();
                rest = behind;
            } else if !self.payload.is_empty() {
                let (now, behind) = split(rest, self.payload.len());
                let (given, left) = self.payload.split_at(now.len());
                now.copy_from_slice(given);
                self.payload = left;
                rest = behind;
            } else if let Some(record) = self.records.next() {
                self.head = record.header();
                self.head_given = 0;
                self.payload = record.payload;
            } else {
                rest.fill(0);
                break;
            }
        }
        self.sum.add(memory);
    }

    /// The header, when everything behind it has been filled in.
    pub(super) fn header(&self) -> [u8; GROUP_HEADER_BYTES] {
        GroupHeader { crc: self.sum.finish(), ..self.header }.encode()
    }
}

fn split(memory: &mut [u8], count: usize) -> (&mut [u8], &mut [u8]) {
    let count = count.min(memory.len());
    memory.split_at_mut(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            LogId,
            format::{FLAG_OPENING, Kind, VERSION, seal_group},
        },
        *,
    };
    use crate::types::LogIndex;

    proptest! {
        /// However it is cut, it is the group that the format describes.
        #[test]
        fn pieces_of_any_size_are_the_same_group(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9_000), 0..6),
            piece in 64usize..20_000,
        ) {
            let records: Vec<Record<'_>> = payloads
                .iter()
                .zip(5..)
                .map(|(payload, n)| {
                    Record { kind: Kind::Entry, id: Some(LogId { term: 2, index: LogIndex(n) }), payload }
                })
                .collect();
            let header = GroupHeader {
                version: VERSION,
                flags: FLAG_OPENING,
                crc: 0,
                generation: 0x1234_5678_9abc_def0,
                sequence: 7,
                body_bytes: records.iter().map(Record::bytes).sum(),
                records: records.len() as u32,
            };
            let bytes = header.group_bytes().unwrap();

            let mut expected = header.encode().to_vec();
            for record in &records {
                expected.extend_from_slice(&record.header());
                expected.extend_from_slice(record.payload);
            }
            expected.resize(bytes as usize, 0);
            seal_group(&mut expected);

            let mut group = Group::new(header, bytes, records.iter().copied());
            let mut seen = vec![0xee; bytes as usize];
            seen[GROUP_HEADER_BYTES..].chunks_mut(piece).for_each(|piece| group.fill(piece));
            seen[..GROUP_HEADER_BYTES].copy_from_slice(&group.header());
            prop_assert!(seen == expected);
        }
    }
}
