//! What waits to be written to a connection, and the loop that writes it.
//!
//! Takes frames, writes them in order: short ones together, long payloads from where they lie, and a ping when there
//! has been nothing to say. Room is counted in bytes and given back when they are written, not when they are taken.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::{self, IoSlice},
    mem,
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    frame::{Frame, HEADER_BYTES},
    peers::Counters,
};

/// What a frame costs beside its payload: its header, and its place in the queue.
const FRAME_BYTES: usize = 64;

/// Bytes after which no further frame joins one write.
const BATCH_BYTES: usize = 256 << 10;

/// Payloads up to this are copied next to their header; a longer one is cheaper to point at.
const COPIED_BYTES_MAX: usize = 1 << 10;

/// The frames that wait.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    bytes_max: usize,
    filled: Notify,
    drained: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Of the frames here and those being written.
    bytes: usize,
}

impl Outbox {
    /// An empty one.
    pub fn new(bytes_max: usize) -> Self {
        Self { queue: Mutex::default(), bytes_max, filled: Notify::new(), drained: Notify::new() }
    }

    /// Puts a frame behind the others if there is room for it, and says whether there was. With nothing waiting there
    /// always is.
    #[must_use]
    pub fn try_push(&self, frame: Frame) -> bool {
        let mut queue = self.queue.lock();
        let bytes = queue.bytes.saturating_add(frame.payload.len() + FRAME_BYTES);
        if bytes > self.bytes_max && !queue.frames.is_empty() {
            return false;
        }
        queue.bytes = bytes;
        queue.frames.push_back(frame);
        drop(queue);
        self.filled.notify_one();
        true
    }

    /// Puts a frame behind the others; whoever does that asks [`Outbox::has_room`] before making more.
    pub fn push(&self, frame: Frame) {
        let mut queue = self.queue.lock();
        queue.bytes += frame.payload.len() + FRAME_BYTES;
        queue.frames.push_back(frame);
        drop(queue);
        self.filled.notify_one();
    }

    /// Whether less than the bound waits.
    pub fn has_room(&self) -> bool {
        self.queue.lock().bytes < self.bytes_max
    }

    /// Waits until something was written that made room.
    pub async fn drained(&self) {
        self.drained.notified().await;
    }

    /// Takes away what nobody has begun to write.
    pub fn take_unwritten(&self) -> VecDeque<Frame> {
        mem::take(&mut self.queue.lock().frames)
    }

    /// Waits for frames and takes as many as one write should have. Giving up the wait loses nothing.
    async fn gather(&self, batch: &mut Batch) {
        loop {
            {
                let mut queue = self.queue.lock();
                while batch.bytes < BATCH_BYTES
                    && let Some(frame) = queue.frames.pop_front()
                {
                    batch.add(frame);
                }
            }
            if batch.frames > 0 {
                return;
            }
            self.filled.notified().await;
        }
    }

    fn written(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        let was_full = queue.bytes >= self.bytes_max;
        queue.bytes = queue.bytes.saturating_sub(bytes);
        if was_full && queue.bytes < self.bytes_max {
            drop(queue);
            self.drained.notify_one();
        }
    }
}

/// Writes what comes into the outbox, and a ping after every `ping_every` of silence.
///
/// # Errors
/// The stream's; nothing else ends it.
pub(super) async fn write_frames<W: AsyncWrite + Unpin>(
    outbox: &Outbox,
    mut to: W,
    ping_every: Duration,
    counters: &Counters,
) -> io::Result<Infallible> {
    let mut ticks = interval_at(Instant::now() + ping_every, ping_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut batch, mut silent) = (Batch::default(), true);
    loop {
        tokio::select! {
            biased;
            () = outbox.gather(&mut batch) => {}
            _ = ticks.tick() => {
                if !mem::replace(&mut silent, true) {
                    continue;
                }
                batch.add(Frame::PING);
                // It came through no queue, so it gives no room back.
                batch.cost = 0;
            }
        }
        silent = false;
        batch.close();
        counters.sent(batch.frames, batch.bytes);
        to.write_all_buf(&mut batch).await?;
        outbox.written(batch.cost);
        batch.reset();
    }
}

/// Frames on their way into one write: runs of copied bytes, and long payloads between them.
#[derive(Debug, Default)]
struct Batch {
    parts: VecDeque<Bytes>,
    copied: BytesMut,
    frames: usize,
    /// Bytes of the frames, written or not.
    bytes: usize,
    /// Room they take in the outbox.
    cost: usize,
}

impl Batch {
    fn add(&mut self, frame: Frame) {
        self.frames += 1;
        self.bytes += HEADER_BYTES + frame.payload.len();
        self.cost += FRAME_BYTES + frame.payload.len();
        self.copied.put_slice(&frame.header());
        if frame.payload.len() <= COPIED_BYTES_MAX {
            self.copied.put_slice(&frame.payload);
        } else {
            self.close();
            self.parts.push_back(frame.payload);
        }
    }

    /// Ends the run of copied bytes.
    fn close(&mut self) {
        if !self.copied.is_empty() {
            self.parts.push_back(self.copied.split().freeze());
        }
    }

    /// Ready for the next write, with the memory of this one.
    fn reset(&mut self) {
        (self.frames, self.bytes, self.cost) = (0, 0, 0);
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    fn has_remaining(&self) -> bool {
        !self.parts.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [IoSlice<'a>]) -> usize {
        let pairs = to.iter_mut().zip(&self.parts);
        pairs.map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(part) = self.parts.front_mut() {
            if count < part.len() {
                part.advance(count);
                return;
            }
            count -= part.len();
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::{super::frame::Kind, *};

    fn frame(len: usize) -> Frame {
        Frame { id: 3, kind: Kind::Request, payload: vec![9; len].into() }
    }

    #[test]
    fn a_full_outbox_refuses_and_one_frame_always_fits() {
        let outbox = Outbox::new(1_000);
        assert!(outbox.try_push(frame(5_000)), "nothing waits");
        assert!(!outbox.has_room());
        assert!(!outbox.try_push(frame(1)));
        assert_eq!(outbox.take_unwritten().len(), 1);
        // Its bytes count until they are written, but what is being written does not keep the next one out.
        assert!(outbox.try_push(frame(1)));
        assert!(!outbox.try_push(frame(1)));
        outbox.written(5_000 + FRAME_BYTES);
        assert!(outbox.has_room() && outbox.try_push(frame(1)));
    }

    #[tokio::test]
    async fn whoever_waits_for_room_is_woken_by_what_is_written() {
        let outbox = Outbox::new(1_000);
        (0..3).for_each(|_| outbox.push(frame(900)));
        let mut drained = Box::pin(outbox.drained());
        outbox.written(900 + FRAME_BYTES);
        assert!(!outbox.has_room() && (&mut drained).now_or_never().is_none());
        outbox.written(900 + FRAME_BYTES);
        assert!(outbox.has_room() && (&mut drained).now_or_never().is_some());
    }

    #[test]
    fn frames_without_payload_take_room_too() {
        let outbox = Outbox::new(10 * FRAME_BYTES);
        assert_eq!((0..100).filter(|_| outbox.try_push(frame(0))).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_says_that_it_is_there() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let (outbox, counters) = (Outbox::new(1_000), Counters::default());
        let begun = Instant::now();
        let (every, mut read) = (Duration::from_secs(1), [0; HEADER_BYTES]);
        tokio::select! {
            _ = write_frames(&outbox, near, every, &counters) => unreachable!("the other end is open"),
            result = tokio::io::AsyncReadExt::read_exact(&mut far, &mut read) => result.map(drop).unwrap(),
        }
        assert_eq!(read, Frame::PING.header());
        assert_eq!(begun.elapsed(), every);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_batch_is_its_frames_however_it_is_taken(
            lens in prop::collection::vec(0..3 * COPIED_BYTES_MAX, 1..20),
            steps in prop::collection::vec(1..5_000usize, 1..5),
        ) {
            let frames: Vec<_> = lens.into_iter().map(frame).collect();
            let mut batch = Batch::default();
            frames.iter().cloned().for_each(|frame| batch.add(frame));
            batch.close();
            let expected: Vec<u8> =
                frames.iter().flat_map(|frame| [&frame.header()[..], &frame.payload].concat()).collect();
            prop_assert_eq!(batch.bytes, expected.len());
            let mut taken = Vec::new();
            for step in steps.into_iter().cycle() {
                if !batch.has_remaining() {
                    break;
                }
                let mut slices = [IoSlice::new(&[]); 4];
                let count = batch.chunks_vectored(&mut slices);
                let bytes = slices[..count].iter().flat_map(|slice| slice.to_vec());
                let before = taken.len();
                taken.extend(bytes.take(step));
                let step = taken.len() - before;
                batch.advance(step);
            }
            prop_assert_eq!(taken, expected);
        }
    }
}
