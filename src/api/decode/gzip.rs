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

/// Longest member head; names and comments beyond this are refused.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// A member's head up to its optional fields: magic, method, flags, time, extra flags, system.
const FIXED_BYTES: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Inside a member's head, or between members when none of it has come.
    Head(Field),
    /// Inside deflate data.
    Body,
    /// Gathering CRC and length.
    Tail,
}

/// What of a head comes next. Optional fields are skipped as they pass, so that every byte is looked at once
/// however the head is cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Fixed,
    ExtraLen,
    /// So many bytes of it are still to come.
    Extra(usize),
    Name,
    Comment,
    Checksum(usize),
}

/// A gzip stream, fed in pieces.
#[derive(Debug)]
pub struct Gzip {
    stage: Stage,
    /// The part of a field of fixed size that is here.
    gathered: Vec<u8>,
    flags: u8,
    head_bytes: usize,
    inflate: Decompress,
    crc: Crc,
    members: u64,
}

impl Gzip {
    pub fn new() -> Self {
        Self {
            stage: Stage::Head(Field::Fixed),
            gathered: Vec::new(),
            flags: 0,
            head_bytes: 0,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            members: 0,
        }
    }

    /// Takes from `input`, writes to `out`, returns how many bytes were written; `None` when nothing can be
    /// without more input. Comes back at the end of every member, so that many empty ones are many steps.
    pub fn step(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<Option<usize>> {
        loop {
            match self.stage {
                Stage::Head(field) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let before = input.len();
                    let next = self.read_head(field, input)?;
                    self.head_bytes += before - input.len();
                    if self.head_bytes > HEAD_BYTES_MAX {
                        return Err(malformed("the gzip head is too long"));
                    }
                    self.stage = next.map_or(Stage::Body, Stage::Head);
                    if self.stage == Stage::Body {
                        self.begin_member();
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
                    if given > 0 {
                        return Ok(Some(given));
                    }
                    if input.is_empty() && status != Status::StreamEnd {
                        return Ok(None);
                    }
                    if taken == 0 && status != Status::StreamEnd {
                        return Err(malformed("the gzip data is damaged"));
                    }
                }
                Stage::Tail => {
                    let Some(tail) = self.gather::<8>(input) else { return Ok(None) };
                    let [c0, c1, c2, c3, l0, l1, l2, l3] = tail;
                    if u32::from_le_bytes([c0, c1, c2, c3]) != self.crc.sum()
                        || u32::from_le_bytes([l0, l1, l2, l3]) != self.crc.amount()
                    {
                        return Err(malformed("the gzip checksum does not match"));
                    }
                    self.members += 1;
                    self.head_bytes = 0;
                    self.stage = Stage::Head(Field::Fixed);
                    return Ok(Some(0));
                }
            }
        }
    }

    /// How many members have ended.
    pub fn members(&self) -> u64 {
        self.members
    }

    fn begin_member(&mut self) {
        // The first one finds everything as it was made.
        if self.members > 0 {
            self.inflate.reset(false);
            self.crc.reset();
        }
    }

    /// Takes bytes of `input` until `N` are together.
    fn gather<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        let missing = N - self.gathered.len();
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.gathered.extend_from_slice(taken);
        *input = rest;
        let whole = <[u8; N]>::try_from(&self.gathered[..]).ok()?;
        self.gathered.clear();
        Some(whole)
    }

    /// Reads what is here of one field; gives the field to go on with, `None` behind the head.
    fn read_head(&mut self, field: Field, input: &mut &[u8]) -> Result<Option<Field>> {
        let skip = |input: &mut &[u8], bytes: usize| {
            let here = bytes.min(input.len());
            *input = &input[here..];
            bytes - here
        };
        Ok(match field {
            Field::Fixed => {
                let fixed = self.gather::<FIXED_BYTES>(input);
                self.check_fixed(fixed.as_ref().map_or(&self.gathered[..], |fixed| fixed))?;
                match fixed {
                    None => Some(Field::Fixed),
                    Some(fixed) => {
                        self.flags = fixed[3];
                        self.next_field(FEXTRA)
                    }
                }
            }
            Field::ExtraLen => match self.gather::<2>(input) {
                None => Some(Field::ExtraLen),
                Some(len) => Some(Field::Extra(usize::from(u16::from_le_bytes(len)))),
            },
            Field::Extra(missing) => match skip(input, missing) {
                0 => self.next_field(FNAME),
                missing => Some(Field::Extra(missing)),
            },
            Field::Name | Field::Comment => {
                let end = memchr::memchr(0, input);
                *input = &input[end.map_or(input.len(), |end| end + 1)..];
                match (end, field) {
                    (None, field) => Some(field),
                    (Some(_), Field::Name) => self.next_field(FCOMMENT),
                    (Some(_), _) => self.next_field(FHCRC),
                }
            }
            Field::Checksum(missing) => match skip(input, missing) {
                0 => None,
                missing => Some(Field::Checksum(missing)),
            },
        })
    }

    /// The first optional field from `flag` on, in the order in which they stand, that this head has.
    fn next_field(&self, flag: u8) -> Option<Field> {
        let order = [
            (FEXTRA, Field::ExtraLen),
            (FNAME, Field::Name),
            (FCOMMENT, Field::Comment),
            (FHCRC, Field::Checksum(2)),
        ];
        let from = order.iter().position(|(other, _)| *other == flag)?;
        order[from..].iter().find(|(flag, _)| self.flags & flag != 0).map(|(_, field)| *field)
    }

    /// Refuses a wrong byte of a head's fixed part as soon as it is here.
    fn check_fixed(&self, head: &[u8]) -> Result<()> {
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
        Ok(())
    }

    /// Whether the stream may end here.
    pub fn at_end(&self) -> bool {
        self.stage == Stage::Head(Field::Fixed) && self.gathered.is_empty() && self.members > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(flags: u8, optional: &[u8]) -> Vec<u8> {
        let mut member = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 255];
        member.extend_from_slice(optional);
        // An empty final block, its CRC and its length.
        member.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        member
    }

    fn feed(gzip: &mut Gzip, pieces: &mut dyn Iterator<Item = &[u8]>) -> Result<()> {
        for mut piece in pieces {
            while !piece.is_empty() {
                gzip.step(&mut piece, &mut [0; 16])?;
            }
        }
        Ok(())
    }

    #[test]
    fn every_combination_of_optional_fields_is_skipped_however_it_is_cut() {
        let fields: [(u8, &[u8]); 4] =
            [(FEXTRA, b"\x03\0abc"), (FNAME, b"name\0"), (FCOMMENT, b"\0"), (FHCRC, b"\0\0")];
        for chosen in 0..16 {
            let (mut flags, mut optional) = (0, Vec::new());
            for (_, (flag, bytes)) in fields.iter().enumerate().filter(|(n, _)| chosen >> n & 1 == 1) {
                flags |= flag;
                optional.extend_from_slice(bytes);
            }
            let whole = [member(flags, &optional), member(0, b"")].concat();
            for size in 1..whole.len() {
                let mut gzip = Gzip::new();
                feed(&mut gzip, &mut whole.chunks(size)).unwrap();
                assert!(gzip.at_end(), "{chosen} in pieces of {size}");
            }
        }
    }

    /// The head used to be scanned from its beginning for every byte of it: 2 GiB of looking for 64 KiB.
    #[test]
    fn a_long_head_is_held_back_nowhere_and_bounded() {
        let mut gzip = Gzip::new();
        let name = vec![b'n'; HEAD_BYTES_MAX - FIXED_BYTES - 1];
        let long = member(FNAME, &[&name[..], b"\0"].concat());
        feed(&mut gzip, &mut long.chunks(1)).unwrap();
        assert!(gzip.at_end() && gzip.gathered.capacity() < 64, "nothing of the name is kept");
        let name = vec![b'n'; HEAD_BYTES_MAX];
        let error = feed(&mut Gzip::new(), &mut member(FNAME, &name).chunks(100)).unwrap_err();
        assert!(error.message().contains("too long"), "{error}");
    }
}
