//! Memory that a disk can take directly: its address is a multiple of [`BLOCK_BYTES`].

use super::BLOCK_BYTES;

/// A buffer that is written and read as whole blocks.
#[derive(Debug, Default)]
pub struct AlignedBuffer {
    /// One block longer than asked for, so that an aligned start is always inside. Never resized in
    /// place: that could move it.
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    used: usize,
}

impl AlignedBuffer {
    /// This many zeros.
    #[must_use]
    pub fn zeros(bytes: usize) -> Self {
        let mut buffer = Self::default();
        buffer.space(bytes).fill(0);
        buffer
    }

    /// Makes it hold this many bytes, to be overwritten; keeps the memory it has when that is enough.
    pub fn space(&mut self, bytes: usize) -> &mut [u8] {
        if self.capacity < bytes {
            self.capacity = bytes.next_power_of_two().max(16 * BLOCK_BYTES);
            self.memory = vec![0; self.capacity + BLOCK_BYTES];
            self.start = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        }
        self.used = bytes;
        self.bytes_mut()
    }

    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.used]
    }

    /// What it holds, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.used]
    }

    /// Makes it empty; the memory stays.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_and_keeps_its_memory() {
        let mut buffer = AlignedBuffer::default();
        assert!(buffer.bytes().is_empty());
        for bytes in [1, 70_000, 4_096] {
            assert_eq!(buffer.space(bytes).len(), bytes);
            assert_eq!(buffer.bytes().as_ptr().align_offset(BLOCK_BYTES), 0);
        }
        assert_eq!(buffer.capacity, 1 << 17);
        buffer.bytes_mut().fill(7);
        assert_eq!(buffer.bytes(), [7; 4_096]);
        buffer.clear();
        assert!(buffer.bytes().is_empty());
        assert_eq!(AlignedBuffer::zeros(8).bytes(), [0; 8]);
    }
}
