//! gzip (RFC 1952) as a machine that is fed: members one behind the other, nothing else.
//!
//! It finds the ends of members and checks their CRC and length; deflate itself is flate2's. It is written
//! by hand because the library's readers wait for a blocking `Read`, and a thread for each slow client is
//! what a server must not give away.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::malformed;
use crate::error::Result;

/// Flags of a member's head.
const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;

/// Longest member head that is gathered; names and comments beyond this are refused.
const HEAD_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
enum Stage {
    /// Gathering a member's head, or between members when nothing is gathered.
    Head,
    /// Inside deflate data.
    Body,
    /// Gathering CRC and length.
    Tail,
}

/// A gzip stream, fed in pieces.
#[derive(Debug)]
pub struct Gzip {
    stage: Stage,
    gathered: Vec<u8>,
    inflate: Decompress,
    crc: Crc,
    members: u64,
}

impl Gzip {
    pub fn new() -> Self {
        Self {
            stage: Stage::Head,
            gathered: Vec::new(),
            inflate: Decompress::new(false),
            crc: Crc::new(),
            members: 0,
        }
    }

    /// Takes from `input`, writes to `out`, returns how many bytes were written. Nothing written and
    /// nothing left in `input` means that more is needed.
    pub fn step(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<usize> {
        loop {
            match self.stage {
                Stage::Head => {
                    let Some((&byte, rest)) = input.split_first() else { return Ok(0) };
                    *input = rest;
                    self.gathered.push(byte);
                    if self.head_is_whole()? {
                        self.gathered.clear();
                        self.inflate.reset(false);
                        self.crc.reset();
                        self.stage = Stage::Body;
                    }
                }
                Stage::Body => {
                    let (taken, given) = (self.inflate.total_in(), self.inflate.total_out());
                    let status = self
                        .inflate
                        .decompress(input, out, FlushDecompress::None)
                        .map_err(|_| malformed("the gzip data is damaged"))?;
                    // Both are bounded by the slices they were given, so they fit.
                    let taken = usize::try_from(self.inflate.total_in() - taken).unwrap_or(usize::MAX);
                    let given = usize::try_from(self.inflate.total_out() - given).unwrap_or(usize::MAX);
                    *input = &input[taken..];
                    self.crc.update(&out[..given]);
                    if status == Status::StreamEnd {
                        self.stage = Stage::Tail;
                    }
                    if given > 0 || (input.is_empty() && status != Status::StreamEnd) {
                        return Ok(given);
                    }
                    if taken == 0 && status != Status::StreamEnd {
                        return Err(malformed("the gzip data is damaged"));
                    }
                }
                Stage::Tail => {
                    let missing = 8 - self.gathered.len();
                    let (taken, rest) = input.split_at(missing.min(input.len()));
                    self.gathered.extend_from_slice(taken);
                    *input = rest;
                    let Ok(tail) = <[u8; 8]>::try_from(&self.gathered[..]) else { return Ok(0) };
                    let [c0, c1, c2, c3, l0, l1, l2, l3] = tail;
                    if u32::from_le_bytes([c0, c1, c2, c3]) != self.crc.sum()
                        || u32::from_le_bytes([l0, l1, l2, l3]) != self.crc.amount()
                    {
                        return Err(malformed("the gzip checksum does not match"));
                    }
                    self.gathered.clear();
                    self.members += 1;
                    self.stage = Stage::Head;
                }
            }
        }
    }

    fn head_is_whole(&self) -> Result<bool> {
        let head = &self.gathered;
        let bad = |at: usize, good: &[u8]| head.get(at).is_some_and(|byte| !good.contains(byte));
        if bad(0, &[0x1f]) || bad(1, &[0x8b]) {
            return Err(malformed(if self.members == 0 {
                "the body is not gzip"
            } else {
                "there are bytes behind the end of the gzip data"
            }));
        }
        if bad(2, &[8]) || head.get(3).is_some_and(|flags| flags & 0xe0 != 0) {
            return Err(malformed("the gzip head asks for something unknown"));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(malformed("the gzip head is too long"));
        }
        let Some((fixed, mut rest)) = head.split_at_checked(10) else { return Ok(false) };
        let flags = fixed[3];
        if flags & FEXTRA != 0 {
            let Some((len, tail)) = rest.split_first_chunk::<2>() else { return Ok(false) };
            let Some(tail) = tail.get(usize::from(u16::from_le_bytes(*len))..) else { return Ok(false) };
            rest = tail;
        }
        for flag in [FNAME, FCOMMENT] {
            if flags & flag != 0 {
                let Some(end) = memchr::memchr(0, rest) else { return Ok(false) };
                rest = &rest[end + 1..];
            }
        }
        Ok(flags & FHCRC == 0 || rest.len() >= 2)
    }

    /// Whether the stream may end here.
    pub fn at_end(&self) -> bool {
        matches!(self.stage, Stage::Head) && self.gathered.is_empty() && self.members > 0
    }
}
