//! Where in a file of fixed size copies of blocks lie. Pure: no I/O.
//!
//! ```text
//! 0                       next                                  bytes max
//! | newest … newest so far | oldest │ next oldest │ … │ newest    (unused) |
//!                            └ gives way to what is reserved next
//! ```
//!
//! Room is given one behind the other, and again from the beginning where the rest is too small: the oldest copies give
//! way, whatever they are. No counting of uses: memory in front of it has what is asked for again and again.

use std::collections::{BTreeMap, VecDeque};

use crate::types::ColdBlock;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Ring {
    bytes_max: u64,
    next: u64,
    /// How many rooms have been given.
    given: u64,
    /// Rooms that nothing newer overlaps, the oldest first.
    rooms: VecDeque<Room>,
    /// Those that are filled.
    filled: BTreeMap<ColdBlock, Room>,
    bytes: u64,
}

/// Room for one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    block: ColdBlock,
    number: u64,
    offset: u64,
    bytes: u32,
}

impl Room {
    /// Where it begins.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Where it ends.
    pub(super) fn end(&self) -> u64 {
        self.offset + u64::from(self.bytes)
    }
}

impl Ring {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, next: 0, given: 0, rooms: VecDeque::new(), filled: BTreeMap::new(), bytes: 0 }
    }

    /// Room for a block of so many bytes; the copies that lie there are gone. None where it is too large.
    pub(super) fn reserve(&mut self, block: ColdBlock, bytes: u32) -> Option<Room> {
        if bytes == 0 || u64::from(bytes) > self.bytes_max {
            return None;
        }
        if u64::from(bytes) > self.bytes_max - self.next {
            while self.rooms.front().is_some_and(|room| room.offset >= self.next) {
                self.drop_oldest();
            }
            self.next = 0;
        }
        let room = Room { block, number: self.given, offset: self.next, bytes };
        while self
            .rooms
            .front()
            .is_some_and(|oldest| oldest.offset < room.end() && oldest.end() > room.offset)
        {
            self.drop_oldest();
        }
        (self.given, self.next) = (self.given + 1, room.end());
        self.rooms.push_back(room);
        Some(room)
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.rooms.pop_front()
            && self.filled.get(&oldest.block) == Some(&oldest)
        {
            self.forget(oldest.block);
        }
    }

    /// A copy is in its room, unless that has been given away meanwhile.
    pub(super) fn fill(&mut self, room: &Room) {
        if self.rooms.front().is_some_and(|oldest| oldest.number <= room.number) {
            self.forget(room.block);
            self.filled.insert(room.block, *room);
            self.bytes += u64::from(room.bytes);
        }
    }

    /// The copy is of no worth.
    pub(super) fn forget(&mut self, block: ColdBlock) {
        if let Some(room) = self.filled.remove(&block) {
            self.bytes -= u64::from(room.bytes);
        }
    }

    /// Where a copy is and how many bytes it has.
    pub(super) fn place(&self, block: ColdBlock) -> Option<(u64, u32)> {
        self.filled.get(&block).map(|room| (room.offset, room.bytes))
    }

    /// Bytes of all copies.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::SegmentId;

    proptest! {
        /// Every copy that the ring knows is, byte for byte, what was written last.
        #[test]
        fn no_copy_overlaps_another(
            bytes_max in 0u64..300,
            steps in prop::collection::vec((0u32..40, 0u32..90, 0u8..10), 1..200),
        ) {
            let mut ring = Ring::new(bytes_max);
            let mut file = vec![None; bytes_max as usize];
            let mut late: Vec<Room> = Vec::new();
            for (number, bytes, what) in steps {
                let block = ColdBlock { segment: SegmentId(0), block: number };
                match what {
                    0 => ring.forget(block),
                    1 => late.drain(..).for_each(|room| ring.fill(&room)),
                    _ => {
                        let Some(room) = ring.reserve(block, bytes) else {
                            prop_assert!(bytes == 0 || u64::from(bytes) > bytes_max);
                            continue;
                        };
                        prop_assert!(room.end() <= bytes_max);
                        file[room.offset() as usize..room.end() as usize].fill(Some((number, room.number)));
                        if what == 2 { late.push(room) } else { ring.fill(&room) }
                    }
                }
                let mut sum = 0;
                for (block, room) in &ring.filled {
                    let there = &file[room.offset as usize..room.end() as usize];
                    prop_assert!(there.iter().all(|byte| *byte == Some((block.block, room.number))));
                    sum += u64::from(room.bytes);
                }
                prop_assert_eq!(sum, ring.bytes());
            }
        }
    }
}
