//! The lz4 frame format as a machine that is fed: frames one behind the other, nothing else.
//!
//! lz4_flex decodes and checks; it reads from a blocking `Read`, so this file finds where heads, blocks and
//! ends lie and lets it see only whole ones. At most one block (4 MiB) is held back.
//!
//! ```text
//! frame = magic u32 | FLG u8 | BD u8 | [content size u64] | [dictionary id u32] | HC u8 | block* | 0 u32 | [checksum u32]
//! block = size u32 (top bit: stored as it is) | data | [checksum u32]                     little-endian
//! ```

use std::io::{self, Read};

use lz4_flex::frame::FrameDecoder;

use super::malformed;
use crate::error::Result;

const MAGIC: u32 = 0x184D_2204;
const FLAG_DICTIONARY: u8 = 1;
const FLAG_CONTENT_CHECKSUM: u8 = 4;
const FLAG_CONTENT_SIZE: u8 = 8;
const FLAG_BLOCK_CHECKSUM: u8 = 16;
/// Largest block the format knows.
const BLOCK_BYTES_MAX: usize = 4 << 20;

/// Received bytes; the decoder sees those before `whole`.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    read: usize,
    whole: usize,
}

impl Read for Held {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = out.len().min(self.whole - self.read);
        out[..len].copy_from_slice(&self.bytes[self.read..self.read + len]);
        self.read += len;
        Ok(len)
    }
}

/// An lz4 stream, fed in pieces.
#[derive(Debug)]
pub struct Lz4 {
    decoder: FrameDecoder<Held>,
    /// FLG of the frame we are in.
    flags: Option<u8>,
    /// The end of the decoder's frame has been found.
    ended: bool,
    frames: u64,
}

impl Lz4 {
    pub fn new() -> Self {
        Self { decoder: FrameDecoder::new(Held::default()), flags: None, ended: false, frames: 0 }
    }

    /// Takes all of `input`, writes to `out`, returns how many bytes were written; `None` when nothing can be
    /// without more input. Comes back at the end of every frame, so that many empty ones are many steps.
    pub fn step(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<Option<usize>> {
        if !input.is_empty() {
            let held = self.decoder.get_mut();
            held.bytes.drain(..held.read);
            held.whole -= held.read;
            held.read = 0;
            held.bytes.extend_from_slice(std::mem::take(input));
        }
        loop {
            while !self.ended
                && let Some(len) = self.next_unit()?
            {
                self.decoder.get_mut().whole += len;
            }
            let given = self
                .decoder
                .read(out)
                .map_err(|error| malformed(format!("the lz4 data is damaged: {error}")))?;
            if given > 0 {
                return Ok(Some(given));
            }
            // The decoder also answers 0 for an empty block.
            let held = self.decoder.get_mut();
            if held.read < held.whole {
                continue;
            }
            if !self.ended {
                return Ok(None);
            }
            // A fresh decoder for each frame: one that goes on to a frame with smaller blocks trips over
            // the size of its own buffer.
            let held = std::mem::take(held);
            self.decoder = FrameDecoder::new(held);
            self.ended = false;
            return Ok(Some(0));
        }
    }

    /// How many frames have ended.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Length of the head, block or end that begins at `whole`, if all of it is here.
    fn next_unit(&mut self) -> Result<Option<usize>> {
        let held = self.decoder.get_ref();
        let rest = &held.bytes[held.whole..];
        let Some((first, tail)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let first = u32::from_le_bytes(*first);
        let len = match self.flags {
            None => {
                if first != MAGIC {
                    return Err(malformed(if self.frames == 0 {
                        "the body is not in lz4's frame format"
                    } else {
                        "there are bytes behind the end of the lz4 data"
                    }));
                }
                let Some(&flags) = tail.first() else { return Ok(None) };
                let optional = |flag, len| if flags & flag == 0 { 0 } else { len };
                let len = 7 + optional(FLAG_CONTENT_SIZE, 8) + optional(FLAG_DICTIONARY, 4);
                if rest.len() < len {
                    return Ok(None);
                }
                self.flags = Some(flags);
                return Ok(Some(len));
            }
            Some(flags) if first == 0 => {
                let len = 4 + if flags & FLAG_CONTENT_CHECKSUM == 0 { 0 } else { 4 };
                if rest.len() < len {
                    return Ok(None);
                }
                self.flags = None;
                self.ended = true;
                self.frames += 1;
                return Ok(Some(len));
            }
            Some(flags) => {
                let data = (first & 0x7fff_ffff) as usize;
                if data > BLOCK_BYTES_MAX {
                    return Err(malformed("an lz4 block is larger than the format allows"));
                }
                4 + data + if flags & FLAG_BLOCK_CHECKSUM == 0 { 0 } else { 4 }
            }
        };
        Ok((rest.len() >= len).then_some(len))
    }

    /// Whether the stream may end here.
    pub fn at_end(&self) -> bool {
        let held = self.decoder.get_ref();
        self.flags.is_none() && self.frames > 0 && held.whole == held.bytes.len()
    }
}
