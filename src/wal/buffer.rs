//! Memory that a disk can take directly: its address is a multiple of [`BLOCK_BYTES`].

use crate::env::BLOCK_BYTES;

/// A buffer that is filled from the front and written as whole blocks.
#[derive(Debug, Default)]
pub(super) struct AlignedBuffer {
    /// One block longer than asked for, so that an aligned start is always inside. Never resized in
    /// place: that could move it.
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    filled: usize,
}

impl AlignedBuffer {
    /// This many zeros.
    pub(super) fn zeros(bytes: usize) -> Self {
        let mut buffer = Self::default();
        buffer.reset(bytes);
        buffer.pad_to(bytes);
        buffer
    }

    /// Empties it and makes room for `bytes`, keeping the memory it has when that is enough.
    pub(super) fn reset(&mut self, bytes: usize) {
        self.filled = 0;
        if self.capacity < bytes {
            self.capacity = bytes.next_power_of_two().max(16 * BLOCK_BYTES);
            self.memory = vec![0; self.capacity + BLOCK_BYTES];
            self.start = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        }
    }

    /// Takes as many of `bytes` as fit and gives the rest back.
    pub(super) fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let count = bytes.len().min(self.capacity - self.filled);
        let (now, rest) = bytes.split_at(count);
        let at = self.start + self.filled;
        self.memory[at..at + count].copy_from_slice(now);
        self.filled += count;
        rest
    }

    /// Adds zeros up to this size.
    pub(super) fn pad_to(&mut self, bytes: usize) {
        let (from, to) = (self.start + self.filled, self.start + bytes.min(self.capacity));
        if from < to {
            self.memory[from..to].fill(0);
            self.filled = to - self.start;
        }
    }

    /// What was filled in.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    /// What was filled in, to be patched.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.filled]
    }

    /// Makes it hold this many bytes, to be overwritten by a read.
    pub(super) fn space(&mut self, bytes: usize) -> &mut [u8] {
        self.reset(bytes);
        self.filled = bytes;
        self.bytes_mut()
    }

    /// Whether no byte fits any more.
    pub(super) fn is_full(&self) -> bool {
        self.filled == self.capacity
    }

    /// Makes it empty; the memory stays.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_and_gives_back_what_does_not_fit() {
        let mut buffer = AlignedBuffer::default();
        for bytes in [1, 70_000, 4_096] {
            buffer.reset(bytes);
            assert_eq!(buffer.bytes().as_ptr().align_offset(BLOCK_BYTES), 0);
        }
        assert_eq!(buffer.fill(b"abc"), b"");
        buffer.pad_to(8);
        assert_eq!(buffer.bytes(), b"abc\0\0\0\0\0");
        let much = vec![1; buffer.capacity];
        assert_eq!(buffer.fill(&much).len(), 8);
        assert!(buffer.is_full());
    }
}
