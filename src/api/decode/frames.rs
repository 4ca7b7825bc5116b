//! `application/vnd.scribe.batch`: a run of binary frames.
//!
//! Takes pieces of a body in order, appends to a [`Draft`]. This is the bulk path at its fastest: a frame
//! that lies whole in its piece is read where it lies. Of one that does not, only head and key are put together
//! first; its value goes to the draft as it comes, so that it is held once. It does not own the frames'
//! layout ([`wire`](crate::wire)) nor the body's size limit: the caller counts.

use super::{at, malformed};
use crate::{
    error::{Code, Error, Result},
    state::batch::Draft,
    types::{KEY_BYTES_MAX, Op, VALUE_BYTES_MAX},
    wire::{FRAME_HEAD_BYTES, FrameHead},
};

/// Reads frames from a body that arrives in pieces.
#[derive(Debug, Default)]
pub struct Frames {
    /// Head and key of the frame that was cut by the end of the last piece, as far as they are here.
    carry: Vec<u8>,
    /// Bytes that are still missing of the value that the draft ends in.
    missing: usize,
    /// How many frames were read.
    index: u64,
}

/// A frame's fixed part, checked.
#[derive(Clone, Copy)]
struct Head {
    op: Op,
    key_len: usize,
    value_len: usize,
}

impl Head {
    #[inline]
    fn read(bytes: &[u8; FRAME_HEAD_BYTES]) -> Result<Self> {
        let sent = FrameHead::from_bytes(bytes);
        let head = Self {
            op: Op::from_byte(sent.op).ok_or_else(|| bad_op(sent.op))?,
            key_len: usize::from(sent.key_len),
            value_len: sent.value_len as usize,
        };
        if sent.reserved != 0 {
            return Err(malformed("the reserved byte is not 0"));
        }
        // Lengths are checked before the bytes they announce are waited for, so that a wrong one is named
        // as such and never makes us gather 4 GiB.
        if head.key_len == 0 || head.key_len > KEY_BYTES_MAX || head.value_len > VALUE_BYTES_MAX {
            return Err(bad_length(head));
        }
        if head.op == Op::Delete && head.value_len != 0 {
            return Err(malformed("a delete has no value, this one announces one"));
        }
        Ok(head)
    }

    /// Appends the operation; `body` is exactly key and value.
    #[inline]
    fn push(self, body: &[u8], draft: &mut Draft) -> Result<()> {
        let (key, value) = body.split_at(self.key_len);
        match self.op {
            Op::Put => draft.put(key, value),
            Op::Delete => draft.delete(key),
        }
    }
}

#[cold]
fn bad_op(op: u8) -> Error {
    malformed(format!("the operation is 1 (put) or 2 (delete), not {op}"))
}

#[cold]
fn bad_length(head: Head) -> Error {
    if head.value_len > VALUE_BYTES_MAX {
        let message = format!("a value has at most {VALUE_BYTES_MAX} bytes, this one has {}", head.value_len);
        return Error::new(Code::TooLarge, message);
    }
    let message = format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {}", head.key_len);
    Error::new(Code::InvalidKey, message)
}

impl Frames {
    /// Reads all frames that end in this piece.
    ///
    /// # Errors
    /// `Malformed`, `InvalidKey` or `TooLarge`, naming the record by its number from 0.
    pub fn push(&mut self, mut piece: &[u8], draft: &mut Draft) -> Result<()> {
        if self.missing > 0 {
            piece = self.extend(piece, draft)?;
        } else if !self.carry.is_empty() {
            piece = self.finish_carried(piece, draft)?;
        }
        while let Some((head, rest)) = piece.split_first_chunk::<FRAME_HEAD_BYTES>() {
            let head = Head::read(head).map_err(|error| self.here(&error))?;
            let body_len = head.key_len + head.value_len;
            if rest.len() < body_len {
                break;
            }
            let (body, rest) = rest.split_at(body_len);
            head.push(body, draft).map_err(|error| self.here(&error))?;
            self.index += 1;
            piece = rest;
        }
        if !piece.is_empty() {
            // Whatever is left is one frame that is cut.
            self.finish_carried(piece, draft)?;
        }
        Ok(())
    }

    /// Gathers head and key of a frame that is cut, and begins its operation once they are here; gives what is
    /// left of the piece.
    fn finish_carried<'a>(&mut self, mut piece: &'a [u8], draft: &mut Draft) -> Result<&'a [u8]> {
        self.take_until(&mut piece, FRAME_HEAD_BYTES);
        let Some(head) = self.carry.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(piece) };
        let head = Head::read(head).map_err(|error| self.here(&error))?;
        self.take_until(&mut piece, FRAME_HEAD_BYTES + head.key_len);
        if self.carry.len() < FRAME_HEAD_BYTES + head.key_len {
            return Ok(piece);
        }
        head.push(&self.carry[FRAME_HEAD_BYTES..], draft).map_err(|error| self.here(&error))?;
        self.carry.clear();
        self.missing = head.value_len;
        self.extend(piece, draft)
    }

    /// Continues the value that the draft ends in; gives what is left of the piece.
    fn extend<'a>(&mut self, piece: &'a [u8], draft: &mut Draft) -> Result<&'a [u8]> {
        let (part, rest) = piece.split_at(self.missing.min(piece.len()));
        if !part.is_empty() {
            draft.extend_value(part).map_err(|error| self.here(&error))?;
        }
        self.missing -= part.len();
        if self.missing == 0 {
            self.index += 1;
        }
        Ok(rest)
    }

    fn take_until(&mut self, piece: &mut &[u8], len: usize) {
        let missing = len.saturating_sub(self.carry.len()).min(piece.len());
        let (taken, rest) = piece.split_at(missing);
        self.carry.extend_from_slice(taken);
        *piece = rest;
    }

    /// Ends the body.
    ///
    /// # Errors
    /// `Malformed` when it ends inside a frame.
    pub fn finish(self) -> Result<()> {
        if self.carry.is_empty() && self.missing == 0 {
            return Ok(());
        }
        Err(self.here(&malformed("the body ends inside this frame")))
    }

    fn here(&self, error: &Error) -> Error {
        at(format_args!("record {}", self.index), error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        api::decode::testing::{cut_into_pieces, same_outcome, seen},
        wire::push_frame,
    };

    fn decode(pieces: &[&[u8]]) -> Result<Draft> {
        let (mut frames, mut draft) = (Frames::default(), Draft::new());
        for piece in pieces {
            frames.push(piece, &mut draft)?;
        }
        frames.finish()?;
        Ok(draft)
    }

    fn body(ops: &[(Op, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut body = Vec::new();
        ops.iter().for_each(|(op, key, value)| push_frame(&mut body, *op, key, value).unwrap());
        body
    }

    fn any_ops() -> impl Strategy<Value = Vec<(Op, Vec<u8>, Vec<u8>)>> {
        let op = (
            any::<bool>(),
            prop::collection::vec(any::<u8>(), 1..20),
            prop::collection::vec(any::<u8>(), 0..40),
        );
        prop::collection::vec(op, 0..8).prop_map(|ops| {
            ops.into_iter()
                .map(|(put, key, value)| if put { (Op::Put, key, value) } else { (Op::Delete, key, vec![]) })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_operations(ops in any_ops(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let whole = body(&ops);
            let draft = decode(&cut_into_pieces(&whole, &cuts)).unwrap();
            prop_assert_eq!(seen(draft), ops);
            let bytes: Vec<&[u8]> = whole.chunks(1).collect();
            prop_assert_eq!(decode(&bytes).unwrap().len(), decode(&[&whole]).unwrap().len());
        }

        #[test]
        fn damage_never_panics_and_is_told_alike_however_split(ops in any_ops(), noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3), cut in any::<prop::sample::Index>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut whole = body(&ops);
            whole.push(1);
            for (at, byte) in noise {
                let at = at.index(whole.len());
                whole[at] = byte;
            }
            whole.truncate(cut.index(whole.len() + 1));
            same_outcome(decode(&[&whole]), decode(&cut_into_pieces(&whole, &cuts)));
        }
    }

    /// A frame used to be put together whole before its value was copied to the draft: 64 MiB held twice.
    #[test]
    fn a_value_in_pieces_is_held_once() {
        let whole =
            body(&[(Op::Put, b"k".to_vec(), vec![7; 1 << 20]), (Op::Put, b"l".to_vec(), b"v".to_vec())]);
        let (mut frames, mut draft) = (Frames::default(), Draft::new());
        for piece in whole.chunks(10_000) {
            frames.push(piece, &mut draft).unwrap();
            assert!(frames.carry.capacity() < 2_048);
        }
        frames.finish().unwrap();
        assert_eq!(seen(draft).iter().map(|(_, _, value)| value.len()).collect::<Vec<_>>(), [1 << 20, 1]);
    }

    #[test]
    fn each_rule_is_named_with_its_record() {
        let good = body(&[(Op::Put, b"k".to_vec(), b"v".to_vec())]);
        let with = |tail: &[u8]| {
            let mut whole = good.clone();
            whole.extend_from_slice(tail);
            decode(&[&whole]).unwrap_err()
        };
        for (tail, code, says) in [
            (&[3, 0, 1, 0, 0, 0, 0, 0, b'k'][..], Code::Malformed, "not 3"),
            (&[1, 9, 1, 0, 0, 0, 0, 0, b'k'], Code::Malformed, "reserved"),
            (&[1, 0, 0, 0, 0, 0, 0, 0], Code::InvalidKey, "1 to 1024"),
            (&[1, 0, 1, 4, 0, 0, 0, 0], Code::InvalidKey, "has 1025"),
            (&[1, 0, 1, 0, 1, 0, 0, 4], Code::TooLarge, "at most"),
            (&[2, 0, 1, 0, 1, 0, 0, 0, b'k', b'v'], Code::Malformed, "delete"),
            (&[1, 0, 1, 0, 2, 0, 0, 0, b'k', b'v'], Code::Malformed, "ends inside"),
            (&[1, 0, 1], Code::Malformed, "ends inside"),
        ] {
            let error = with(tail);
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().starts_with("record 1: ") && error.message().contains(says), "{error}");
        }
    }
}
