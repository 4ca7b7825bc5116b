//! Content codings: from received chunks to pieces of decoded body, a bounded piece at a time.
//!
//! Takes chunks, gives pieces of at most [`PIECE_BYTES`]: a bomb costs its maker's limit, never our
//! memory, and the caller can stop or yield between two pieces. Streams one behind the other (gzip
//! members, zstd and lz4 frames) are one body; anything else behind an end is an error. A body that decodes
//! to much less than was sent (empty members, frames that are to be skipped) is refused, or it could go on
//! for ever below any limit on decoded bytes. That limit it does not own.

use bytes::{Buf, Bytes};
use zstd::stream::raw::{DParameter, Decoder as Zstd, Operation};

use super::{gzip::Gzip, lz4::Lz4, malformed};
use crate::error::{Code, Error, Result};

/// Most decoded bytes given at once (an identity-coded chunk is given as it came).
pub const PIECE_BYTES: usize = 64 << 10;

/// Received bytes looked at before the caller is asked again.
const SLICE_BYTES: usize = 64 << 10;

/// By how much a body may be larger than what it decodes to: an lz4 block that is not whole yet (4 MiB), and
/// as much again for heads and for data that does not compress.
const EXCESS_BYTES_MAX: u64 = 8 << 20;

/// Streams that may stand one behind the other. Each costs its decoder a new start, and some take 15 bytes.
const STREAMS_MAX: u64 = 1 << 16;

/// Largest zstd window, 8 MiB: what RFC 9659 sets for HTTP, so that a head of a few bytes cannot make us
/// allocate 2 GiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A content coding that bulk bodies may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The lz4 frame format.
    Lz4,
}

impl Coding {
    /// The coding that `Content-Encoding` names; `None` for others, and for several at once.
    #[must_use]
    pub fn from_header(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
        match () {
            () if value.is_empty() || is("identity") => Some(Self::Identity),
            () if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            () if is("zstd") => Some(Self::Zstd),
            () if is("lz4") => Some(Self::Lz4),
            () => None,
        }
    }
}

enum Machine {
    Identity,
    Gzip(Box<Gzip>),
    Zstd { decoder: Box<Zstd<'static>>, in_frame: bool, frames: u64 },
    Lz4(Box<Lz4>),
}

/// A body being decoded.
pub struct Decoder {
    machine: Machine,
    input: Bytes,
    out: Vec<u8>,
    received: u64,
    decoded: u64,
}

impl Decoder {
    /// A decoder at the start of a body.
    ///
    /// # Errors
    /// `Internal` when zstd has no memory for a context.
    pub fn new(coding: Coding) -> Result<Self> {
        let machine = match coding {
            Coding::Identity => Machine::Identity,
            Coding::Gzip => Machine::Gzip(Box::new(Gzip::new())),
            Coding::Lz4 => Machine::Lz4(Box::new(Lz4::new())),
            Coding::Zstd => {
                let internal = |error| Error::new(Code::Internal, format!("starting zstd failed: {error}"));
                let mut decoder = Zstd::new().map_err(internal)?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(internal)?;
                Machine::Zstd { decoder: Box::new(decoder), in_frame: false, frames: 0 }
            }
        };
        let out = if coding == Coding::Identity { Vec::new() } else { vec![0; PIECE_BYTES] };
        Ok(Self { machine, input: Bytes::new(), out, received: 0, decoded: 0 })
    }

    /// Gives it the next chunk; the one before must have been used up.
    pub fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.input.is_empty());
        self.input = chunk;
    }

    /// The next piece of decoded body, or `None` when more has to be fed. A piece may be empty: some input was
    /// used up and the caller may want to let others run.
    ///
    /// # Errors
    /// `Malformed` when the data is not in the coding, `TooLarge` when it decodes to far less than was sent.
    pub fn next_piece(&mut self) -> Result<Option<Piece<'_>>> {
        let slice = &self.input[..self.input.len().min(SLICE_BYTES)];
        let mut rest = slice;
        let given = match &mut self.machine {
            Machine::Identity => {
                let chunk = std::mem::take(&mut self.input);
                return Ok((!chunk.is_empty()).then_some(Piece::Chunk(chunk)));
            }
            Machine::Gzip(gzip) => gzip.step(&mut rest, &mut self.out)?,
            Machine::Lz4(lz4) => lz4.step(&mut rest, &mut self.out)?,
            Machine::Zstd { decoder, in_frame, frames } => {
                zstd_step(decoder, in_frame, frames, &mut rest, &mut self.out)?
            }
        };
        let used = slice.len() - rest.len();
        self.input.advance(used);
        self.received += used as u64;
        self.decoded += given.unwrap_or(0) as u64;
        self.check_excess()?;
        Ok(match given {
            None if self.input.is_empty() => None,
            given => Some(Piece::Decoded(&self.out[..given.unwrap_or(0)])),
        })
    }

    fn check_excess(&self) -> Result<()> {
        let streams = match &self.machine {
            Machine::Identity => return Ok(()),
            Machine::Gzip(gzip) => gzip.members(),
            Machine::Lz4(lz4) => lz4.frames(),
            Machine::Zstd { frames, .. } => *frames,
        };
        if self.received > self.decoded + EXCESS_BYTES_MAX {
            let message = format!("{} compressed bytes have become only {}", self.received, self.decoded);
            return Err(Error::new(Code::TooLarge, message));
        }
        if streams > STREAMS_MAX {
            let message =
                format!("the body has more than {STREAMS_MAX} compressed streams, one behind the other");
            return Err(Error::new(Code::TooLarge, message));
        }
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// `Malformed` when the coded data is not at an end.
    pub fn finish(&self) -> Result<()> {
        let ended = match &self.machine {
            Machine::Identity => true,
            Machine::Gzip(gzip) => gzip.at_end(),
            Machine::Lz4(lz4) => lz4.at_end(),
            Machine::Zstd { in_frame, frames, .. } => !in_frame && *frames > 0,
        };
        if ended { Ok(()) } else { Err(malformed("the compressed body is cut short")) }
    }
}

/// Decoded bytes, or a chunk that needed no decoding.
#[derive(Debug)]
pub enum Piece<'a> {
    /// The chunk itself.
    Chunk(Bytes),
    /// Bytes of the decoder's buffer.
    Decoded(&'a [u8]),
}

impl std::ops::Deref for Piece<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Chunk(bytes) => bytes,
            Self::Decoded(bytes) => bytes,
        }
    }
}

/// As the other machines' steps: how many bytes were written, `None` when nothing can be without more input.
fn zstd_step(
    decoder: &mut Zstd<'static>,
    in_frame: &mut bool,
    frames: &mut u64,
    input: &mut &[u8],
    out: &mut [u8],
) -> Result<Option<usize>> {
    // Even without input the decoder may hold output that did not fit the last time.
    if input.is_empty() && !*in_frame {
        return Ok(None);
    }
    let status = decoder.run_on_buffers(input, out).map_err(|error| {
        malformed(if *frames > 0 && !*in_frame {
            "there are bytes behind the end of the zstd data".to_owned()
        } else {
            format!("the zstd data cannot be decoded: {error}")
        })
    })?;
    *input = &input[status.bytes_read..];
    *in_frame = status.remaining != 0;
    if !*in_frame {
        *frames += 1;
    }
    let stuck = status.bytes_written == 0 && status.bytes_read == 0 && *in_frame;
    Ok((!stuck).then_some(status.bytes_written))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::{prelude::*, sample::Index};

    use super::*;
    use crate::api::decode::testing::cut_into_pieces;

    const CODINGS: [Coding; 4] = [Coding::Identity, Coding::Gzip, Coding::Zstd, Coding::Lz4];

    fn encode(coding: Coding, plain: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Identity => plain.to_vec(),
            Coding::Gzip => {
                let mut encoder = flate2::GzBuilder::new()
                    .filename("a name")
                    .extra(vec![1, 2, 3])
                    .comment("words")
                    .write(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Zstd => zstd::encode_all(plain, 1).unwrap(),
            Coding::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Linked)
                    .block_checksums(true)
                    .content_checksum(true);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    fn decode(coding: Coding, pieces: &[&[u8]]) -> Result<Vec<u8>> {
        let mut decoder = Decoder::new(coding)?;
        let mut out = Vec::new();
        for piece in pieces {
            decoder.feed(Bytes::copy_from_slice(piece));
            while let Some(piece) = decoder.next_piece()? {
                out.extend_from_slice(&piece);
            }
            assert!(decoder.input.is_empty());
        }
        decoder.finish()?;
        Ok(out)
    }

    fn any_plain() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            (prop::collection::vec(any::<u8>(), 1..20), 1usize..20_000)
                .prop_map(|(unit, times)| unit.repeat(times)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_split_gives_the_same_bytes(plain in any_plain(), second in any_plain(), cuts in prop::collection::vec(any::<Index>(), 0..6)) {
            for coding in CODINGS {
                let mut coded = encode(coding, &plain);
                coded.extend(encode(coding, &second));
                let both = [&plain[..], &second[..]].concat();
                prop_assert_eq!(&decode(coding, &cut_into_pieces(&coded, &cuts)).unwrap(), &both, "{:?}", coding);
            }
        }

        #[test]
        fn byte_by_byte(plain in prop::collection::vec(any::<u8>(), 0..300)) {
            for coding in CODINGS {
                let coded = encode(coding, &plain);
                let bytes: Vec<&[u8]> = coded.chunks(1).collect();
                prop_assert_eq!(&decode(coding, &bytes).unwrap(), &plain, "{:?}", coding);
            }
        }

        #[test]
        fn damage_never_panics_and_cuts_are_found(plain in any_plain(), at in any::<Index>(), byte in any::<u8>(), cut in any::<Index>(), cuts in prop::collection::vec(any::<Index>(), 0..4)) {
            for coding in &CODINGS[1..] {
                let coded = encode(*coding, &plain);
                prop_assert!(decode(*coding, &[&coded[..cut.index(coded.len())]]).is_err(), "{coding:?}");
                let mut flipped = coded.clone();
                flipped[at.index(coded.len())] ^= byte;
                let _ = decode(*coding, &cut_into_pieces(&flipped, &cuts));
            }
        }
    }

    #[test]
    fn bytes_behind_the_end_are_refused() {
        for coding in &CODINGS[1..] {
            let mut coded = encode(*coding, b"hello");
            coded.extend_from_slice(b"garbage!");
            let error = decode(*coding, &[&coded]).unwrap_err();
            assert_eq!(error.code(), Code::Malformed);
            assert!(error.message().contains("behind the end"), "{coding:?}: {error}");
            assert!(decode(*coding, &[b"garbage, and more of it"]).is_err());
            assert!(decode(*coding, &[]).is_err(), "an empty body is in no coding");
        }
    }

    /// Found by the test above: a decoder that met large blocks panicked on a later frame with small ones.
    #[test]
    fn frames_may_differ_in_block_size() {
        let plain = vec![7; 300_000];
        let frame = |size| {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(size)
                .block_mode(lz4_flex::frame::BlockMode::Linked);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        };
        let coded =
            [frame(lz4_flex::frame::BlockSize::Max4MB), frame(lz4_flex::frame::BlockSize::Max64KB)].concat();
        assert_eq!(decode(Coding::Lz4, &[&coded]).unwrap().len(), 600_000);
    }

    #[test]
    fn a_bomb_comes_out_in_small_pieces() {
        let bomb = vec![0; 64 << 20];
        for coding in &CODINGS[1..] {
            let mut decoder = Decoder::new(*coding).unwrap();
            decoder.feed(encode(*coding, &bomb).into());
            let mut total = 0;
            while let Some(piece) = decoder.next_piece().unwrap() {
                assert!(piece.len() <= PIECE_BYTES);
                total += piece.len();
            }
            assert_eq!(total, bomb.len(), "{coding:?}");
        }
    }

    /// A body of nothing: members and frames that are whole and decode to no byte at all.
    fn nothing(coding: Coding) -> Vec<u8> {
        match coding {
            // A zstd frame that decoders skip, with 5 bytes in it.
            Coding::Zstd => b"\x50\x2a\x4d\x18\x05\0\0\0hello".to_vec(),
            coding => encode(coding, b""),
        }
    }

    #[test]
    fn what_decodes_to_nothing_ends() {
        for coding in &CODINGS[1..] {
            let chunk = Bytes::from(nothing(*coding).repeat(1_000));
            let mut decoder = Decoder::new(*coding).unwrap();
            let mut fed = 0_u64;
            let error = loop {
                decoder.feed(chunk.clone());
                fed += chunk.len() as u64;
                let mut steps = 0;
                match std::iter::repeat_with(|| {
                    decoder.next_piece().map(|piece| piece.map(|piece| piece.len()))
                })
                .inspect(|_| steps += 1)
                .find(|piece| !matches!(piece, Ok(Some(0))))
                {
                    Some(Err(error)) => break error,
                    piece => assert!(matches!(piece, Some(Ok(None))), "{coding:?}: {piece:?}"),
                }
                assert!(steps >= 1_000, "{coding:?}: others may run between two streams");
                assert!(fed < 2 * EXCESS_BYTES_MAX, "{coding:?} goes on for ever");
            };
            assert_eq!(error.code(), Code::TooLarge, "{coding:?}: {error}");
        }
        // One frame that is skipped and never ends.
        let mut decoder = Decoder::new(Coding::Zstd).unwrap();
        decoder.feed(Bytes::from_static(b"\x50\x2a\x4d\x18\xff\xff\xff\xff"));
        let zeros = Bytes::from(vec![0; 1 << 20]);
        let outcome = (0..20).try_for_each(|_| {
            while let Some(piece) = decoder.next_piece()? {
                assert_eq!(piece.len(), 0);
            }
            decoder.feed(zeros.clone());
            Ok::<_, Error>(())
        });
        assert_eq!(outcome.unwrap_err().code(), Code::TooLarge);
    }

    #[test]
    fn streams_that_hold_something_may_be_many_but_not_any_number() {
        for coding in &CODINGS[1..] {
            let one = encode(*coding, &[7; 200]);
            assert_eq!(decode(*coding, &[&one.repeat(5_000)]).unwrap().len(), 1_000_000, "{coding:?}");
            let error = decode(*coding, &[&one.repeat(STREAMS_MAX as usize + 1)]).unwrap_err();
            assert_eq!(error.code(), Code::TooLarge, "{coding:?}: {error}");
        }
    }

    #[test]
    fn a_huge_zstd_window_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&[1; 100]).unwrap();
        encoder.flush().unwrap();
        encoder.write_all(&[2; 100]).unwrap();
        let coded = encoder.finish().unwrap();
        assert!(decode(Coding::Zstd, &[&coded]).is_err());
    }

    #[test]
    fn names_of_codings() {
        assert_eq!(Coding::from_header(b" GZIP "), Some(Coding::Gzip));
        assert_eq!(Coding::from_header(b"identity"), Some(Coding::Identity));
        for other in ["br", "deflate", "gzip, zstd", "*"] {
            assert_eq!(Coding::from_header(other.as_bytes()), None, "{other}");
        }
    }
}
